"""Real edges for tests: varnishd and nginx as an operator would run them, unprivileged, with what rage renders.

Every process listens on loopback, on ports that were free a moment before (a start is tried again when one is taken),
works in a directory of its own, and is ended by its id. `Origin` is the node's stand-in: it answers as it is told, and
remembers who asked for what.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web as aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rage_net.cdn.render import (
    NginxOptions,
    Tls,
    VarnishOptions,
    render_nginx,
    render_tls_front,
    render_token_map,
    render_varnish,
)
from rage_net.config.cdn import Cdn, Edge, Provider
from rage_net.config.values import Secret, Url

TOKEN = "edge-token.that+is/secret=7"
HOST = "cdn.example.org"
OTHER_HOST = "b.example.org"
START_S = 20.0
TRIES = 4
MODULE = "ngx_http_cache_purge_module.so"
MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"), Path("/usr/share/nginx/modules"))


def program(name: str) -> str | None:
    """Where a program is; Debian keeps servers out of the PATH of ordinary users."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _purge_module() -> Path | None:
    return next((place / MODULE for place in MODULES if (place / MODULE).exists()), None)


def need(name: str, in_ci: bool) -> None:
    """Fail in CI, skip elsewhere, when a server of these tests is not installed."""
    has_xkey = any(Path("/usr").glob("lib*/**/varnish/vmods/libvmod_xkey.so")) if name == "varnishd" else True
    is_there = program(name) is not None and has_xkey and (name != "nginx" or _purge_module() is not None)
    if not is_there:
        why = f"{name} with its module is not installed: as root, `make deps` (or scripts/test-deps.sh) installs it"
        (pytest.fail if in_ci else pytest.skip)(why)


def free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return int(plug.getsockname()[1])


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> bool:
    """True when it is; False when the process ended before (a port was taken). Fails after START_S."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if ready():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    end(process)
    pytest.fail(f"{process.args!r} is not ready after {START_S:g} s:\n{log.read_text()[-4000:]}")


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def end(process: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> None:
    """End one process that we started, and wait; by force when it does not hear."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


# --- The origin ---------------------------------------------------------------------------------------------------


@dataclass
class Page:
    """What the origin answers at one path."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


class Origin:
    """A node's HTTP door: `pages` by path and query. A thread of its own runs it."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        """(method, path and query, headers by lower-case name), in order."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="origin", daemon=True)
        self._thread.start()
        assert self._started.wait(START_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Answer so; underscores in names stand for hyphens."""
        self.pages[path] = Page(body, {name.replace("_", "-"): text for name, text in headers.items()}, status)
        return path

    def count(self, path: str, method: str = "GET") -> int:
        return sum(1 for asked in self.asked if asked[:2] == (method, path))

    def last(self, path: str) -> Mapping[str, str]:
        return next(headers for _, asked, headers in reversed(self.asked) if asked == path)

    async def _answer(self, request: aio.Request) -> aio.StreamResponse:
        self.asked.append(
            (request.method, request.path_qs, {name.lower(): text for name, text in request.headers.items()})
        )
        await request.read()
        page = self.pages.get(request.path_qs) or self.pages.get(request.path) or Page(b"not here", {}, 404)
        return aio.Response(body=page.body, status=page.status, headers=page.headers)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> aio.AppRunner:
            app = aio.Application(client_max_size=1 << 27)
            app.router.add_route("*", "/{rest:.*}", self._answer)
            runner = aio.AppRunner(app, access_log=None)
            await runner.setup()
            site = aio.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            return runner

        runner = self._loop.run_until_complete(start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()


# --- A certificate authority ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """Files of a CA, and of a certificate that it issued for loopback and the public hosts."""

    ca_file: Path
    tls: Tls


def make_authority(where: Path, port: int = 0) -> Authority:
    now = datetime.datetime.now(datetime.UTC)

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    def builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("edges' test CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = builder("edges' test CA", ca_key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca_cert = ca.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in ("localhost", HOST, OTHER_HOST)]
    names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    cert = (
        builder("edge", key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = {"ca.pem": ca_cert.public_bytes(pem), "edge.pem": cert.public_bytes(pem)}
    plain = serialization.NoEncryption()
    files["edge.key"] = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    for name, data in files.items():
        (where / name).write_bytes(data)
    return Authority(where / "ca.pem", Tls(str(where / "edge.pem"), str(where / "edge.key"), f"127.0.0.1:{port}"))


# --- Settings -------------------------------------------------------------------------------------------------------


def settings(software: str, endpoints: list[str], *, hosts: tuple[str, ...] = (HOST,), **config: object) -> Provider:
    """A provider of cdn.yaml."""
    keys = {"auth_token": Secret(TOKEN), **config}
    edge = Edge(endpoints=tuple(Url(url) for url in endpoints), **keys)  # type: ignore[arg-type]
    urls = tuple(Url(f"https://{host}") for host in hosts)
    name = f"{software}-edge"
    return Provider(name=name, type="self-hosted", software=software, config=edge, public_urls=urls)  # type: ignore[arg-type]


# --- Varnish --------------------------------------------------------------------------------------------------------


class VarnishServer:
    """One varnishd with the rendered VCL, in `where` (short: its sockets' names are in there)."""

    def __init__(self, where: Path, vcl: str, *, port: int | None = None) -> None:
        self.where = where
        where.mkdir(parents=True, exist_ok=True)
        (where / "edge.vcl").write_text(vcl)
        self._log = where / "varnishd.log"
        self.port = port or 0
        self.start(fixed=port is not None)

    @property
    def name(self) -> str:
        """For -n of varnishstat."""
        return str(self.where / "n")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, fixed: bool = True) -> None:
        """Start it, empty; at its old port when it had one."""
        found = program("varnishd")
        assert found is not None
        for _ in range(TRIES):
            self.port = self.port if fixed else free_port()
            command = [
                *(found, "-F", "-n", self.name, "-f", str(self.where / "edge.vcl"), "-a", f"127.0.0.1:{self.port}"),
                *("-j", "none", "-s", "malloc,64m", "-T", "none", "-i", "edge"),
                *("-p", "thread_pool_min=10", "-p", "thread_pools=1", "-p", "ban_lurker_age=0.1"),
                *("-p", "workspace_client=128k", "-p", "vsl_space=1m", "-p", "cc_command=" + CC),
            ]
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            if wait_for(lambda: listens(self.port), self.process, self._log):
                return
        pytest.fail(f"varnishd does not start:\n{self._log.read_text()[-4000:]}")

    def lookups(self) -> int:
        """Hits and misses as varnishstat has them: workers tell of theirs a little later."""
        found = program("varnishstat")
        assert found is not None
        told = subprocess.run([found, "-n", self.name, "-1", "-j"], capture_output=True, check=True, timeout=10)
        counters = json.loads(told.stdout)["counters"]
        return int(counters["MAIN.cache_hit"]["value"] + counters["MAIN.cache_miss"]["value"])

    def kill(self) -> None:
        """As when the machine loses power: parent and child at once, by the group that we made for them."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def close(self) -> None:
        end(self.process)


CC = "exec gcc -O0 -fpic -shared -Wl,-x -o %o %s"
"""Faster than Debian's own flags by half, for a file that is compiled once a start."""


# --- nginx ----------------------------------------------------------------------------------------------------------


class NginxServer:
    """One nginx with `configure(listen port, inner port)` as the rest of its http context."""

    def __init__(self, where: Path, configure: Callable[[int, int], str], *, ca: Authority | None = None) -> None:
        self.where = where
        where.mkdir(parents=True, exist_ok=True)
        (where / "tmp").mkdir(exist_ok=True)
        self._scheme = "http" if ca is None else "https"
        self._log = where / "nginx.log"
        found, module = program("nginx"), _purge_module()
        assert found is not None
        load = "" if module is None else f"load_module {module};\n"
        temps = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        for _ in range(TRIES):
            self.port, inner = free_port(), free_port()
            user = "user root;\n" if os.geteuid() == 0 else ""
            (where / "nginx.conf").write_text(
                f"{load}{user}daemon off;\nworker_processes 1;\npid {where}/nginx.pid;\n"
                f"error_log {where}/nginx.log notice;\nevents {{ worker_connections 128; }}\nhttp {{\n"
                + "".join(f"  {name}_temp_path {where}/tmp/{name};\n" for name in temps)
                + configure(self.port, inner)
                + "\n}\n"
            )
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [found, "-p", str(where), "-c", str(where / "nginx.conf"), "-e", str(self._log)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            if wait_for(lambda: listens(self.port), self.process, self._log):
                return
        pytest.fail(f"nginx does not start:\n{self._log.read_text()[-4000:]}")

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def faults(self) -> list[str]:
        """Workers that ended with a fault, as its log tells."""
        return [line for line in self._log.read_text().splitlines() if "exited on signal" in line]

    def close(self) -> None:
        end(self.process)


# --- The whole set --------------------------------------------------------------------------------------------------


def start_varnish(
    where: Path, origin: str, *, cdn: Cdn | None = None, token: str = TOKEN, **options: object
) -> VarnishServer:
    """An edge with what `rage cdn render varnish` writes for the public hosts."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "token").write_text(token + "\n")
    provider = settings("varnish", ["http://127.0.0.1:1"], hosts=(HOST, OTHER_HOST))
    chosen = VarnishOptions(token_file=where / "token", **options)  # type: ignore[arg-type]
    return VarnishServer(where, render_varnish(cdn or Cdn(), provider, origin, chosen))


def start_nginx(
    where: Path,
    origin: str,
    *,
    ca: Authority | None = None,
    cdn: Cdn | None = None,
    token: str = TOKEN,
    **options: object,
) -> NginxServer:
    """An edge with what `rage cdn render nginx` writes: purge location `/purge`, DAV at `/dav`."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "dav").mkdir(exist_ok=True)
    (where / "token.map").write_text(render_token_map(token))
    provider = settings("nginx", ["http://127.0.0.1:1"], hosts=(HOST, OTHER_HOST), dav_path="/dav")

    def configure(port: int, inner: int) -> str:
        chosen = {
            "token_map": where / "token.map",
            "listen": f"127.0.0.1:{port}",
            "inner": f"127.0.0.1:{inner}",
            "cache_dir": where / "cache",
            "dav_dir": where / "dav",
            "access_log": where / "access.log",
            "tls": None if ca is None else Tls(ca.tls.cert_file, ca.tls.key_file, f"127.0.0.1:{port}"),
            **options,
        }
        return render_nginx(cdn or Cdn(), provider, origin, NginxOptions(**chosen))  # type: ignore[arg-type]

    return NginxServer(where, configure, ca=ca)


def start_tls_front(where: Path, behind: VarnishServer, ca: Authority, callers: tuple[str, ...]) -> NginxServer:
    """nginx with TLS before a Varnish."""
    where.mkdir(parents=True, exist_ok=True)
    provider = settings("varnish", ["https://127.0.0.1:1"])

    def configure(port: int, inner: int) -> str:
        tls = Tls(ca.tls.cert_file, ca.tls.key_file, f"127.0.0.1:{port}")
        return "access_log off;\n" + render_tls_front(provider, f"127.0.0.1:{behind.port}", callers, tls)

    return NginxServer(where, configure, ca=ca)


@contextlib.contextmanager
def closing_all() -> Iterator[list[object]]:
    """A list whose servers are closed at the end, the last one first, whatever happened."""
    running: list[object] = []
    try:
        yield running
    finally:
        for one in reversed(running):
            one.close()  # type: ignore[attr-defined]
