"""Real `rage` processes on hosts of a lab: a home for each, its commands, its node."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rage_lab.net.lab import Host
from rage_lab.net.namespaces import urgent

READY_S = 30.0


class RageHost:
    """A host with a home of its own.

    Args: config: YAML below `network:`, indented by two. nice: the priority of its processes, for a test with a time
    limit: what else the machine does is not what is measured.
    """

    def __init__(self, host: Host, home: Path, config: str = "", *, nice: int = 0) -> None:
        self.host = host
        self.home = home
        self._rage = urgent([sys.executable, "-m", "rage_cli", "--home", str(home)], nice)
        self._node: subprocess.Popen[bytes] | None = None
        self._environ = {name: text for name, text in os.environ.items() if not name.startswith("RAGE_")}
        self.ok("init")
        yaml = "network:\n  version: 1\n  http: {listen: null, metrics_listen: null}\n" + config
        (home / "config" / "network.yaml").write_text(yaml)

    def run(self, *words: str, timeout_s: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command to its end, whatever its exit code."""
        argv = [*self._rage, *words]
        return self.host.run(
            argv, timeout_s=timeout_s, check=False, env=self._environ, start_new_session=True, **options
        )

    def ok(self, *words: str, **options: Any) -> Any:
        """The JSON answer of a command that must succeed."""
        done = self.run(*words, "--json", **options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str, listen: str = "") -> dict[str, Any]:
        """Start the node at the host's address, and wait for its line: its status. The lab's end ends it."""
        listen = listen or f"/ip4/{self.host.address}/tcp/0"
        argv = [*self._rage, "--json", "node", "start", "--listen", listen, *words]
        with (self.home / "node.err").open("ab") as log:
            process = self.host.spawn(
                argv, stdout=subprocess.PIPE, stderr=log, env=self._environ, start_new_session=True
            )
        self._node = process
        assert process.stdout is not None
        line = b""
        deadline = time.monotonic() + READY_S
        while not line.endswith(b"\n"):
            ready = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]
            data = os.read(process.stdout.fileno(), 65536) if ready else b""
            assert data, (self.home / "node.err").read_text() or f"not ready in {READY_S} s"
            line += data
        status: dict[str, Any] = json.loads(line)
        return status

    def stop(self) -> int:
        """End the node as an operator would; its exit code."""
        assert self._node is not None
        self._node.terminate()
        return self._node.wait(READY_S)

    def log(self) -> str:
        """What the node has said on its standard error."""
        return (self.home / "node.err").read_text()
