"""What the doctor can look at without a node and without the network: home, machine, and who holds the ports.

Each check takes what it needs and returns one `Check`; a broken home is a finding, never a crash. `check_home` makes
them all and opens nothing: no lock, no store, no engine. What needs the network is the engine's business.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rage_net import config as configuration
from rage_net import home as homes
from rage_net.config import Config, audit
from rage_net.config.values import split_endpoint
from rage_net.durable import describe
from rage_net.errors import RageError
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.verbs.diagnose import Check

CLOCK_MIN = 1_767_225_600.0
"""2026-01-01: earlier than anything this program has seen."""
CLOCK_MAX = 4_102_444_800.0
"""2100-01-01."""
CLOCK_SLACK_S = 300.0
"""By which a file of the home may be younger than now: file servers have clocks of their own."""

FREE_BYTES_LOW = 1024 * 1024 * 1024
"""Besides the reserve: less is soon used up."""
FREE_FILES_LOW = 10_000
"""Inodes: each chunk is a file."""

FILES_BESIDES = 256
"""Descriptors beyond connections: files of the store, the index, listeners, libraries."""

ANSWER_S = 2.0
"""For a node on this machine to say how it is."""
ANSWER_BYTES_MAX = 1024 * 1024

_STATUS = b"POST /v1/node/status HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What asking the node's socket gave. `pid` is 0 where no node answers; `error` says why, where one should."""

    pid: int
    listen: tuple[str, ...] = ()
    http: tuple[str, ...] = ()
    error: str = ""


def check_home(home: Home, environ: Mapping[str, str], now: float, *, file: str | None = None) -> list[Check]:
    """All checks of a home and its machine, in the order of `DOCTOR_CHECKS`. Blocking, for ANSWER_S at most.

    Args: now: seconds since the epoch. file: the network.yaml that `--config` names.
    """
    named = Path(file) if file else None
    found = check_place(home)
    if found.level == "error":
        config = configuration.defaults(home.root)
        kept = [_skipped(name, "there is no home to look into") for name in ("permissions", "config")]
    else:
        config, check = check_config(home, environ, named)
        kept = [check_permissions(home), check]
    answer = ask_node(home)
    network = config.network
    return [
        found,
        *kept,
        check_clock(now, _ages(home)),
        check_disk(home, network.store.path, network.store.reserve),
        check_files(
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            network.limits.connections + network.limits.http_connections + network.limits.control_connections,
        ),
        check_node(home, answer, now),
        check_ports(config, answer),
    ]


# --- the home ---------------------------------------------------------------------------------------------------------


def check_place(home: Home) -> Check:
    """Whether there is a home, with a key that can be read, and we may write in it."""
    try:
        homes.require(home)
        homes.load_identity(home.identity)
    except RageError as error:
        return _failed("home", error)
    except OSError as error:
        return Check("home", "error", f"{home.root} cannot be looked into", describe(error), (f"ls -ld {home.root}",))
    if not os.access(home.root, os.W_OK | os.X_OK):
        return Check(
            "home",
            "error",
            f"{home.root} cannot be written to",
            "this user may not, or its file system is read-only",
            (f"ls -ld {home.root}", f"findmnt -T {home.root}"),
        )
    return _ok("home", str(home.root))


def check_permissions(home: Home) -> Check:
    """Whether others can read keys, or write where only the node should."""
    # A group that may operate the node passes through the home, and reads nothing in it.
    looked_at = [(home.root, 0o027), (home.identity, 0o077), (home.certs, 0o027), (home.config, 0o022)]
    looked_at += [(path, 0o077) for path in sorted(home.certs.glob("*.key"))]
    problems = [found for path, forbidden in looked_at if (found := _open_to_others(path, forbidden)) is not None]
    if not problems:
        return _ok("permissions", "keys and home are this user's alone")
    paths = [path for path, _ in problems]
    return Check(
        "permissions",
        "error",
        f"{len(problems)} of the home's files are open to others",
        "; ".join(why for _, why in problems),
        tuple(f"chmod {_CLOSING[dict(looked_at)[path]]} {path}" for path in paths),
    )


_CLOSING = {0o027: "g-w,o-rwx", 0o077: "go-rwx", 0o022: "go-w"}
"""Bits -> what chmod takes away."""


def _open_to_others(path: Path, forbidden: int) -> tuple[Path, str] | None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # what is not there is open to nobody
        return None
    return (path, f"{path} has mode {mode:04o}") if mode & forbidden else None


def check_config(home: Home, environ: Mapping[str, str], file: Path | None) -> tuple[Config, Check]:
    """Whether all three files are valid; and the configuration that holds, or the defaults where it is invalid."""
    result = audit.check(home.root, environ=environ, file=file)
    try:
        config = configuration.load(home.root, environ=environ, file=file)
    except RageError:
        config = configuration.defaults(home.root)
    errors = [problem for problem in result.problems if problem.is_error]
    if not result.problems:
        return config, _ok("config", f"{sum(one.exists for one in result.files)} files, all valid")
    worst = errors or list(result.problems)
    mends = tuple(dict.fromkeys([*(one.mend for one in worst if one.mend), "rage config check"]))
    what = "errors" if errors else "warnings"
    level = "error" if errors else "warning"
    return config, Check(
        "config", level, f"the configuration has {len(worst)} {what}", "; ".join(map(str, worst)), mends
    )


# --- the machine ------------------------------------------------------------------------------------------------------


def check_clock(now: float, written: Sequence[tuple[str, float]]) -> Check:
    """Whether the clock can be right. `written` are files of the home and when they were last written to.

    Whether it is right to the second is for the network to say.
    """
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(0.0, min(now, 2 * CLOCK_MAX))))
    mend = ("timedatectl status", "timedatectl set-ntp true")
    if not CLOCK_MIN <= now <= CLOCK_MAX:
        return Check("clock", "error", f"the clock says {shown}", "signatures and expiry go by it", mend)
    name, latest = max(written, key=lambda one: one[1], default=("", 0.0))
    if latest > now + CLOCK_SLACK_S:
        why = f"{name} was written {round(latest - now)} s later than that; the clock was ahead then, or is behind now"
        return Check("clock", "warning", f"the clock says {shown}", why, mend)
    return _ok("clock", shown)


def check_disk(home: Home, store: Path, reserve: int) -> Check:
    """Whether there is room to put something, in bytes and in files."""
    place = _nearest(store if store.exists() else home.root)
    try:
        status = os.statvfs(place)
    except OSError as error:
        return Check("disk", "error", f"{place} cannot be looked at", describe(error), (f"df -h {place}",))
    free, files = status.f_bavail * status.f_frsize, status.f_favail
    # Some file systems count no inodes: they give 0 of 0.
    message = f"{free / 2**30:.1f} GiB free" + (f", {files} files" if status.f_files else "")
    mend = ("rage chunk gc", f"df -h {place}")
    if status.f_flag & os.ST_RDONLY:
        return Check("disk", "error", "the file system is read-only", f"it holds {place}", (f"findmnt -T {place}",))
    if free <= reserve:
        why = f"network.store.reserve keeps {reserve / 2**20:.0f} MiB free: nothing can be put"
        return Check("disk", "error", message, why, mend)
    if status.f_files and not files:
        return Check("disk", "error", message, "there is no inode left for another chunk", (f"df -i {place}",))
    if free < reserve + FREE_BYTES_LOW or (status.f_files and files < FREE_FILES_LOW):
        return Check("disk", "warning", message, "that is little", mend)
    return _ok("disk", message)


def check_files(limit: int, connections: int) -> Check:
    """Whether a process may open as many files as the configured connections need."""
    needed = connections + FILES_BESIDES
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return _ok("files", "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} may be open")
    return Check(
        "files",
        "warning",
        f"{limit} files may be open",
        f"{connections} connections are allowed by network.limits, which needs {needed}",
        (f"ulimit -n {needed}", "set LimitNOFILE in the service", "set network.limits.connections lower"),
    )


# --- the node ---------------------------------------------------------------------------------------------------------


def ask_node(home: Home) -> Answer:
    """How the node of this home is, by its socket, within ANSWER_S."""
    try:
        path = homes.socket_path(home)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(ANSWER_S)
            door.connect(os.fspath(path))
            door.sendall(_STATUS)
            return _read_answer(_read(door, time.monotonic() + ANSWER_S))
    except RageError as error:
        return Answer(0, error=error.message)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return Answer(0)
    except TimeoutError:
        return Answer(0, error=f"its socket does not answer within {ANSWER_S:g} s")
    except OSError as error:  # another user's socket, or a home whose path is too long to have one
        return Answer(0) if "too long" in str(error) else Answer(0, error=f"its socket: {describe(error)}")
    except ValueError as error:
        return Answer(0, error=f"what answers at its socket is no node: {error}")


def _read(door: socket.socket, deadline: float) -> bytes:
    """All that comes until the other end closes."""
    answer = bytearray()
    while True:
        door.settimeout(max(deadline - time.monotonic(), 0.001))
        data = door.recv(65_536)
        if not data:
            return bytes(answer)
        answer += data
        if len(answer) > ANSWER_BYTES_MAX:
            raise ValueError("it does not end")


def _read_answer(answer: bytes) -> Answer:
    lines = answer.partition(b"\r\n\r\n")[2].splitlines()
    try:
        plain: Any = json.loads(lines[-1]) if lines else None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(plain, dict):
        raise ValueError("it is no JSON")
    if plain.get("type") == "error":
        return Answer(0, error=str(plain.get("message", "")))
    status = plain.get("result")
    if not isinstance(status, dict) or not isinstance(status.get("pid"), int):
        raise ValueError("it says nothing of a node")
    listen, http = (tuple(map(str, status.get(name) or ())) for name in ("listen", "http"))
    return Answer(status["pid"], listen, http)


def check_node(home: Home, answer: Answer, now: float) -> Check:
    """Whether a node that runs answers. None at all is well: commands do without."""
    if answer.pid:
        return _ok("node", f"runs (pid {answer.pid})")
    holder = homes.read_holder(home)
    is_held = holder is not None and holder.kind == "node" and _is_alive(holder.pid)
    if answer.error or is_held:
        who = f"process {holder.pid}, for {max(0, round(now - holder.since))} s" if holder is not None else "unknown"
        mend = ["rage node stop", f"tail {home.logs / 'node.log'}"]
        if holder is not None and is_held:
            mend.append(f"kill -9 {holder.pid}")
        return Check("node", "error", "a node runs and does not answer", f"{answer.error or who}", tuple(mend))
    return _ok("node", "none runs: commands work by themselves")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def check_ports(config: Config, answer: Answer, bind: Callable[[str, int], OSError | None] | None = None) -> Check:
    """Whether the node can listen where it is configured to; or, where it runs, does."""
    network = config.network
    doors = {door for door in (network.http.listen, network.http.metrics_listen) if door is not None}
    wanted = [(str(address), *place) for address in network.libp2p.listen_addresses if (place := _place(address))]
    peers, http = wanted, [(str(door), *split_endpoint(door)) for door in sorted(doors)]
    if answer.pid:
        return _check_held(peers, answer)
    try_bind = bind or _try_bind
    failed = [(text, port, error) for text, host, port in peers if (error := try_bind(host, port)) is not None]
    doors_failed = [(text, port, error) for text, host, port in http if (error := try_bind(host, port)) is not None]
    if not failed and not doors_failed:
        return _ok("ports", ", ".join(text for text, *_ in [*peers, *http]) + ": free")
    all_failed = [*failed, *doors_failed]
    # One listener that cannot be opened is a problem to a node, none at all or no HTTP door its end.
    level = "error" if doors_failed or len(failed) == len(peers) else "warning"
    mend = ["rage node start --listen /ip4/0.0.0.0/tcp/0"] if failed else []
    mend += ["rage node start --http off"] if doors_failed else []
    mend += [f"ss -ltnp 'sport = :{port}'" for _, port, error in all_failed if error.errno == errno.EADDRINUSE][:1]
    return Check(
        "ports",
        level,
        "cannot listen at " + ", ".join(text for text, *_ in all_failed),
        "; ".join(f"{text}: {describe(error)}" for text, _, error in all_failed),
        tuple(mend),
    )


def _check_held(peers: Sequence[tuple[str, str, int]], answer: Answer) -> Check:
    held = {place[1] for text in answer.listen if (place := _place(text))}
    missing = [text for text, _, port in peers if port and port not in held]
    where = ", ".join((*answer.listen, *answer.http)) or "nothing"
    if not answer.listen:
        return Check("ports", "error", "the node listens nowhere", "no peer can reach it", ("rage node status",))
    if missing:
        why = "the node runs, and has no listener there; it may have been started with --listen"
        return Check("ports", "warning", f"nothing listens at {', '.join(missing)}", why, ("rage node status",))
    return _ok("ports", f"held by the node: {where}")


def _place(address: str) -> tuple[str, int] | None:
    """Host and port of a multiaddr over TCP and IP; None for what needs no port of this machine."""
    try:
        parts = dict(Multiaddr.parse(address).parts)
    except MultiaddrError:
        return None
    host = parts.get("ip4") or parts.get("ip6")
    return (host, int(parts["tcp"])) if host and "tcp" in parts else None


def _try_bind(host: str, port: int) -> OSError | None:
    """The error that a listener would meet; it is open for a moment alone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None


# --- parts ------------------------------------------------------------------------------------------------------------


def _ages(home: Home) -> list[tuple[str, float]]:
    """Files that a home writes to, and when it last did."""
    found = []
    for path in (home.identity, home.network_yaml, home.index, home.peers, home.lock_file):
        try:
            found.append((str(path), path.stat().st_mtime))
        except OSError:
            continue
    return found


def _nearest(path: Path) -> Path:
    """The path, or what exists of its parents."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _ok(name: str, message: str) -> Check:
    return Check(name, "ok", message, "", ())


def _skipped(name: str, message: str) -> Check:
    return Check(name, "skipped", message, "", ())


def _failed(name: str, error: RageError) -> Check:
    return Check(name, "error", error.message, error.why, error.mend)
