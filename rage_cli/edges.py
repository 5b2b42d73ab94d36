"""Two real Varnish edges for the demonstration, with the configuration that `rage cdn render varnish` writes.

They listen on loopback, unprivileged, and work in directories of the demonstration's own. A port is held until its edge
starts, so that nobody else takes it meanwhile. Each edge is ended by its process group, which is ours.

Not here: what is done with them (`demonstration`).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rage_net.config.cdn import Cdn, Edge, Provider
from rage_net.config.values import Name, Secret, Url
from rage_net.errors import DeadlineError, UnavailableError

HOST = "cdn.acme.example"
"""The public name under which the edges serve; nobody resolves it."""
NAME = Name("varnish-edge")

READY_S = 10.0
"""For both to listen; the compiler takes most of the second that it takes."""
ANSWER_S = 5.0
STOP_S = 3.0
"""For an edge to end after SIGTERM, before it is killed."""
POLL_S = 0.02
LOG_CHARS = 300

SYSTEM_PLACES = "/usr/sbin:/usr/local/sbin:/sbin"
"""Debian keeps servers out of the PATH of ordinary users."""

COMPILE = "exec gcc -O0 -fpic -shared -Wl,-x -o %o %s"
"""Faster than Debian's own flags by half, for a file that is compiled once."""

CDN_YAML = """\
cdn:
  version: 1
  providers:
    - name: {name}
      type: self-hosted
      public_urls: ["http://{host}"]
      config: {{endpoints: [{endpoints}], auth_token: "{token}"}}
"""


def missing() -> str:
    """What these edges need and is not installed; empty when all is there."""
    if _varnishd() is None:
        return "varnishd"
    if not any(Path("/usr").glob("lib*/**/varnish/vmods/libvmod_xkey.so")):
        return "varnish's xkey"
    return "" if shutil.which("gcc") else "gcc"


def _varnishd() -> str | None:
    return shutil.which("varnishd") or shutil.which("varnishd", path=SYSTEM_PLACES)


@dataclass(slots=True, eq=False)
class VarnishEdge:
    """One edge: its directory, its port, and its process while it has one."""

    name: str
    place: Path
    port: int
    plug: socket.socket | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is asked and purged."""
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start it, empty; `wait_ready` tells when it listens."""
        program = _varnishd()
        assert program is not None
        if self.plug is not None:
            self.plug.close()
            self.plug = None
        command = [
            *(program, "-F", "-n", str(self.place / "n"), "-f", str(self.place / "edge.vcl")),
            *("-a", f"127.0.0.1:{self.port}", "-j", "none", "-s", "malloc,16m", "-T", "none", "-i", self.name),
            *("-p", "thread_pools=1", "-p", "thread_pool_min=10", "-p", "vsl_space=1m"),
            *("-p", f"cc_command={COMPILE}"),
        ]
        with (self.place / "varnishd.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.place, start_new_session=True
            )

    def kill(self) -> None:
        """End it at once, as when its machine loses power: parent and worker."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def get(self, path: str) -> tuple[int, str, bytes]:
        """Status, the cache's own word (MISS, HIT), and the body. Raises UnavailableError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            connection.request("GET", path, headers={"Host": HOST})
            answer = connection.getresponse()
            return answer.status, answer.getheader("X-Cache", ""), answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"the demonstration's {self.name} does not answer", why=str(error)) from error
        finally:
            connection.close()


@contextmanager
def edges(place: Path, names: Sequence[str]) -> Iterator[tuple[VarnishEdge, ...]]:
    """An edge each, not started yet; what was started is gone at the end, the impatient Ctrl-C included."""
    made: list[VarnishEdge] = []
    try:
        for name in names:
            plug = socket.socket()
            made.append(VarnishEdge(name, place / name, 0, plug))
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plug.bind(("127.0.0.1", 0))
            made[-1].port = plug.getsockname()[1]
            made[-1].place.mkdir()
        yield tuple(made)
    finally:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        _stop(made)
        signal.signal(signal.SIGINT, previous)


def configure(some: Sequence[VarnishEdge], cdn_yaml: Path) -> str:
    """Write the cdn.yaml of the node behind them; the token that it and the edges share."""
    token = secrets.token_urlsafe(24)
    endpoints = ", ".join(f'"{edge.url}"' for edge in some)
    cdn_yaml.touch(mode=0o600)
    cdn_yaml.write_text(CDN_YAML.format(name=NAME, host=HOST, endpoints=endpoints, token=token), "utf-8")
    return token


def launch(some: Sequence[VarnishEdge], origin: str, token: str) -> None:
    """Write what is rendered for the origin, and start them all."""
    from rage_net.cdn.render import VarnishOptions, render_varnish

    config = Edge(endpoints=tuple(Url(edge.url) for edge in some), auth_token=Secret(token))
    section = Provider(
        name=NAME, type="self-hosted", software="varnish", config=config, public_urls=(Url(f"http://{HOST}"),)
    )
    for edge in some:
        token_file = edge.place / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token + "\n", "utf-8")
        text = render_varnish(Cdn(), section, origin, VarnishOptions(token_file))
        (edge.place / "edge.vcl").write_text(text, "utf-8")
        edge.launch()


def wait_ready(some: Sequence[VarnishEdge]) -> None:
    """Wait until each listens. Raises: DeadlineError, UnavailableError."""
    deadline = time.monotonic() + READY_S
    for edge in some:
        while not _listens(edge.port):
            assert edge.process is not None
            if edge.process.poll() is not None:
                why = (edge.place / "varnishd.log").read_text("utf-8", "replace").strip()[-LOG_CHARS:]
                raise UnavailableError(f"the demonstration's {edge.name} ended", why=why)
            if time.monotonic() > deadline:
                raise DeadlineError(f"the demonstration's {edge.name} was not ready within {READY_S:g} s")
            time.sleep(POLL_S)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _stop(some: Sequence[VarnishEdge]) -> None:
    for edge in some:
        if edge.plug is not None:
            edge.plug.close()
        if edge.process is not None and edge.process.poll() is None:
            edge.process.terminate()
    deadline = time.monotonic() + STOP_S
    for edge in some:
        if edge.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                edge.process.wait(max(0.0, deadline - time.monotonic()))
            edge.kill()
