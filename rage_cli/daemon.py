"""The node's process as the command line sees it: in front, detached, waited for, or under systemd.

Not here: the node (`rage_net.node`). A second start is refused by the home's lock (exit 9), not by a PID file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rage_cli import client, session
from rage_cli.options import options
from rage_net import home as homes
from rage_net.errors import DeadlineError, RageError, UnavailableError, UsageError, from_plain
from rage_net.home import Home

if TYPE_CHECKING:
    from rage_net.discoverer import DiscoveryStatus
    from rage_net.verbs.node import NodeStatus

READY_S = 30.0
"""For a detached node to be ready, where `--timeout` does not say otherwise."""

POLL_S = 0.02
SLACK_S = 5.0
"""Beyond the time in which a node promises to end: the kernel's part of a process's end."""

LAST_BREATH_S = 1.0
"""From letting the home go to the process's end."""

LAST_WORDS_BYTES = 64 * 1024
"""Read at most of what a node that failed to start had to say."""


def run_here(
    listen: Sequence[str], bootstrap: Sequence[str], http: str | None, ready: Callable[[NodeStatus], None]
) -> None:
    """Run the node in this process until SIGTERM or SIGINT, which the node handles."""
    from rage_net import node

    _serve(
        node.run,
        listen=tuple(listen),
        bootstrap=tuple(bootstrap),
        http=http,
        ready=ready,
    )


def discover_here(listen: str, ready: Callable[[DiscoveryStatus], None]) -> None:
    """Run a discovery server in this process until SIGTERM or SIGINT, which it handles."""
    from rage_net import discoverer

    _serve(discoverer.run, listen=listen or None, ready=ready)


def _serve(run: Callable[..., Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run what serves this home, and handles the signals itself."""
    import asyncio
    import gc

    gc.enable()

    place = session.home()
    homes.require(place)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    common = {"config_path": options.config or None, "log_format": options.log_format, "verbose": options.verbose}
    asyncio.run(run(place, **common, **settings))


def start_detached(listen: Sequence[str], bootstrap: Sequence[str], http: str | None) -> None:
    """Start a node in a session of its own and wait until it is ready; its log goes to `logs/node.log` of the home.

    Raises: the node's own error when it ends before it is ready; DeadlineError when it is not ready in time: then it is
        ended.
    """
    place = session.home()
    homes.require(place)
    place.logs.mkdir(mode=0o700, exist_ok=True)
    log = place.logs / "node.log"
    command = [sys.executable, "-m", "rage_cli", "--home", str(place.root), "--json", "node", "start"]
    command += [word for address in listen for word in ("--listen", address)]
    command += [word for address in bootstrap for word in ("--bootstrap", address)]
    command += [] if http is None else ["--http", http or "off"]
    command += ["--config", options.config] if options.config else []
    deadline = time.monotonic() + (options.timeout_s or READY_S)
    with log.open("ab") as out:
        begin = out.tell()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out, start_new_session=True, cwd="/"
        )
    try:
        _wait_until_ready(child, deadline, log, begin)
    except BaseException:
        child.terminate()
        raise
    finally:
        if child.stdout is not None:
            child.stdout.close()


def check_addresses(listen: Sequence[str], bootstrap: Sequence[str], http: str) -> str | None:
    """HTTP's address as the node takes it: None is the configuration's, empty none.

    Raises: UsageError for what is no address: a flag is the caller's, not the configuration's.
    """
    from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError

    for address in listen:
        try:
            Multiaddr.parse(address)
        except MultiaddrError as error:
            raise UsageError(
                f"--listen: {address!r} is no multiaddr", why=str(error), mend=["--listen /ip4/0.0.0.0/tcp/4001"]
            ) from None
    check_peers("--bootstrap", bootstrap)
    return check_door("--http", http, "127.0.0.1:4080")


def check_door(option: str, text: str, example: str) -> str | None:
    """HOST:PORT as it is, empty for `off`, None where the option was not given. Raises UsageError for anything else."""
    if text == "off":
        return ""
    return check_endpoint(option, text, example) or None


def check_endpoint(option: str, text: str, example: str) -> str:
    """HOST:PORT as it is, or empty. Raises UsageError for anything else."""
    from rage_net.config.values import Endpoint, split_endpoint

    try:
        if text:
            split_endpoint(Endpoint(text))
    except ValueError as error:
        raise UsageError(f"{option}: {error}", mend=[f"{option} {example}"]) from None
    return text


def check_peers(option: str, addresses: Sequence[str]) -> None:
    """Raises UsageError for what cannot be dialled: no multiaddr, or one that does not say which peer is wanted."""
    from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError

    for address in addresses:
        try:
            parsed = Multiaddr.parse(address)
        except MultiaddrError as error:
            raise UsageError(
                f"{option}: {address!r} is no multiaddr",
                why=str(error),
                mend=[f"{option} /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."],
            ) from None
        if parsed.peer_id is None:
            raise UsageError(
                f"{option}: {address} does not say which peer is wanted",
                why="an address without /p2p/ could be answered by anyone",
                mend=[f"{option} {address}/p2p/12D3KooW..."],
            )


def _wait_until_ready(child: subprocess.Popen[bytes], deadline: float, log: Path, begin: int) -> None:
    """Until the node's line on stdout, which is what `ready` prints."""
    import select

    assert child.stdout is not None
    while not select.select([child.stdout], [], [], POLL_S)[0]:
        if time.monotonic() > deadline:
            raise DeadlineError("the node was not ready in time", mend=[f"tail {log}", options.longer_timeout()])
    if not child.stdout.readline():
        child.wait()
        raise _last_error(child.returncode, log, begin)


def _last_error(code: int, log: Path, begin: int) -> RageError:
    """The error that the node left as the last line of its log; else what can be said from outside."""
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            plain = json.loads(line)
        except ValueError:
            continue
        if isinstance(plain, dict) and plain.get("type") == "error":
            return from_plain(plain)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    why = lines[-1].decode("utf-8", "replace") if lines else "it left no word"
    return UnavailableError(
        f"the node ended before it was ready, by {how}", why=why, mend=[f"tail {log}", "rage node start"]
    )


def wait_until_gone(place: Home, pid: int, timeout_s: float) -> float:
    """Wait until the node has let its home go and its process has ended; seconds it took.

    Raises: DeadlineError, naming the process, when it keeps the home.
    """
    started = time.monotonic()
    while True:
        holder = homes.read_holder(place)
        if (holder is None or holder.pid != pid) and client.connect(homes.socket_path(place)) is None:
            end = time.monotonic() + LAST_BREATH_S
            while _is_running(pid) and time.monotonic() < end:
                time.sleep(POLL_S)
            return time.monotonic() - started
        if time.monotonic() - started > timeout_s:
            raise DeadlineError(f"the node (pid {pid}) still runs after {timeout_s:g} s", mend=[f"kill -9 {pid}"])
        time.sleep(POLL_S)


def _is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that its parent has not waited for is none."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def unit(program: Path, home: Path, config: str) -> str:
    """A systemd unit for `program` and `home`, run as the home's owner, with nothing else of the system open."""
    try:
        user = home.owner()
    except (OSError, KeyError):
        user = "rage"
    private = any(path.is_relative_to(place) for path in (program, home) for place in _PRIVATE)
    return UNIT.format(
        user=user,
        program=_quote(str(program)),
        home=_quote(str(home)),
        config=f" --config {_quote(config)}" if config else "",
        protect_home="read-only" if private else "yes",
    )


_PRIVATE = (Path("/home"), Path("/root"), Path("/run/user"))
"""What ProtectHome=yes would hide."""


def _quote(word: str) -> str:
    """A word of ExecStart: systemd's own quoting, with `%` and `$` taken literally."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or " " in word else word


UNIT = """\
# systemd unit of a rage node, from `rage node service print`.
[Unit]
Description=rage node
Documentation=https://github.com/rage-network/rage
After=network-online.target
Wants=network-online.target

[Service]
Type=simple
User={user}
ExecStart={program} --home {home}{config} node start
Restart=on-failure
RestartSec=2
# 9, 10: another node holds the home, the configuration is invalid: a restart mends neither.
RestartPreventExitStatus=2 4 5 9 10
TimeoutStopSec=15
KillSignal=SIGTERM
LimitNOFILE=65536
UMask=0077

ReadWritePaths={home}
ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
ProcSubset=pid
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
RemoveIPC=yes

[Install]
WantedBy=multi-user.target
"""
