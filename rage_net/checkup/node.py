"""Whether the node of a home runs and answers, and who holds the ports that it is configured to listen at."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rage_net import home as homes
from rage_net.checkup.outcomes import ok
from rage_net.config import Config
from rage_net.config.values import split_endpoint
from rage_net.durable import describe
from rage_net.errors import RageError
from rage_net.home import Home
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError
from rage_net.verbs.diagnose import Check

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
        return ok("node", f"runs (pid {answer.pid})")
    holder = homes.read_holder(home)
    is_held = holder is not None and holder.kind == "node" and _is_alive(holder.pid)
    if answer.error or is_held:
        who = f"process {holder.pid}, for {max(0, round(now - holder.since))} s" if holder is not None else "unknown"
        mend = ["rage node stop", f"tail {home.logs / 'node.log'}"]
        if holder is not None and is_held:
            mend.append(f"kill -9 {holder.pid}")
        return Check("node", "error", "a node runs and does not answer", f"{answer.error or who}", tuple(mend))
    return ok("node", "none runs: commands work by themselves")


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
        return ok("ports", ", ".join(text for text, *_ in [*peers, *http]) + ": free")
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
    return ok("ports", f"held by the node: {where}")


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
