"""Foreign peers as real processes: js-libp2p (`peer.mjs`) and py-libp2p (`peer.py`), led by JSON lines.

`peer.call("get", peer=..., size=...)` writes {"id", "op", ...} to the process and gives what it answers. The programs
are installed by scripts/foreign-peers.sh. They know four protocols, as rage's side does (rage_side.py): echo, sink
(answers with count and hash after the end), source (sends as many bytes of the pattern as asked), reset.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LEAD = HERE / "lead.mjs"
ROOT = HERE.parents[1]
INSTALLED = HERE / ".peers"
CALL_TIMEOUT_S = 30.0
START_TIMEOUT_S = 30.0

PROGRAMS = ("js-libp2p", "py-libp2p")
ECHO, SINK, SOURCE, RESET = (f"/foreign/{name}/1.0.0" for name in ("echo", "sink", "source", "reset"))
BLOCK = 65536
_PATTERN = bytes((i * 7 + 3) & 255 for i in range(256)) * (BLOCK // 256)


def pattern(size: int) -> Iterator[bytes]:
    """The bytes that every side can make: block k is its number in 8 bytes, then the same 65,528 bytes."""
    for k in range(-(-size // BLOCK)):
        yield (k.to_bytes(8, "big") + _PATTERN[8:])[: size - k * BLOCK]


def pattern_sha256(size: int) -> str:
    digest = hashlib.sha256()
    for block in pattern(size):
        digest.update(block)
    return digest.hexdigest()


def missing(program: str, where: Path = INSTALLED) -> str | None:
    """Why `program` cannot be started, with what mends it; None when it can."""
    is_installed = (where / ("js.wanted" if program == "js-libp2p" else "py.wanted")).exists()  # written last
    return None if is_installed else f"{program} is not installed: run `make deps` (or scripts/foreign-peers.sh)"


def command(
    program: str, source: Path, *arguments: str, where: Path = INSTALLED, more: str = ""
) -> tuple[list[str], Path]:
    """The command that runs `source` (a .mjs or .py) with the foreign libraries at hand, and its working directory.

    Args: more: text that follows a .mjs.
    """
    if program == "py-libp2p":
        return [str(where / "py/bin/python"), str(source), *arguments], where
    # Given as text, a module finds its packages from the working directory, and needs no copy beside them.
    return [str(where / "node"), "--input-type=module", "-e", source.read_text() + more, "--", *arguments], where / "js"


class ForeignError(Exception):
    """The foreign program answered a command with an error, or is gone."""


class Peer:
    """One foreign process. Any thread or task may call; answers come in any order."""

    def __init__(self, program: str, source: str = "peer") -> None:
        if program == "js-libp2p":
            argv, cwd = command(program, HERE / f"{source}.mjs", more=LEAD.read_text())
        else:
            argv, cwd = command(program, HERE / f"{source}.py")
        self.program = program
        self._process = subprocess.Popen(
            argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        self._waiting: dict[int, Future[dict[str, Any]]] = {0: Future()}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._ended = False
        started = self._waiting[0]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        about = started.result(START_TIMEOUT_S)
        self.peer_id: str = about["peer_id"]
        self.address: str = about["address"]

    async def call(self, op: str, timeout_s: float = CALL_TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        """Run a command there and give its answer. Raises ForeignError, TimeoutError."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._ended:
                raise ForeignError(f"{self.program} has ended")
            id = next(self._ids)
            self._waiting[id] = future
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": id, "op": op, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(future)

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does: no goodbye, the kernel closes its sockets."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            future = self._waiting.pop(answer["id"])
            if not future.set_running_or_notify_cancel():
                continue
            if "error" in answer:
                future.set_exception(ForeignError(f"{self.program}: {answer['error']}"))
            else:
                future.set_result(answer["ok"])
        with self._lock:
            self._ended = True
            left = list(self._waiting.values())
        for future in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(ForeignError(f"{self.program} ended"))


def _environment() -> dict[str, str]:
    """What the program needs of ours, and nothing that changes how it behaves."""
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
