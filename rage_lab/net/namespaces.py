"""Named network namespaces of labs: made, removed, and found again when their process died. What tools are needed."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PREFIX = "rage-lab"
RUN_TIMEOUT_S = 30.0


class LabError(Exception):
    """A tool that the lab needs said no; with what it said."""


@functools.cache
def missing() -> str | None:
    """Why there can be no lab here; None when there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tools = [tool for tool in ("ip", "tc", "nft", "ping") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} not installed: apt-get install iproute2 nftables iputils-ping"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    name = own_prefix() + "-try"
    try:  # root in a container may lack the right
        run("ip", "netns", "add", name)
        remove(name)
    except LabError as error:
        return str(error)
    return None


def urgent(argv: Sequence[str], nice: int) -> list[str]:
    """The command that runs `argv` before others; to be started in a session of its own.

    Linux weighs sessions against each other first, and a process's own priority counts within its session alone.
    """
    program = '{ echo "$0" >/proc/self/autogroup; } 2>/dev/null; exec nice -n "$0" "$@"'
    return ["sh", "-c", program, str(nice), *argv]


def own_prefix() -> str:
    """What the names of this process's namespaces begin with; nobody else's do, before or after it."""
    return f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}"


def stale() -> list[str]:
    """Namespaces of labs whose process is gone."""
    names = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line]
    found = []
    for name in names:
        words = name.removeprefix(PREFIX + "-").split("-")
        if name.startswith(PREFIX + "-") and len(words) >= 3 and words[1] != _started(words[0]):
            found.append(name)
    return found


def sweep() -> list[str]:
    """Remove what labs have left whose process is gone, programs that run there included; their names."""
    found = stale()
    for namespace in found:
        with contextlib.suppress(LabError):  # another process does the same
            remove(namespace)
    return found


@functools.cache
def has_netem() -> bool:
    """Whether this kernel can delay packets itself."""
    name = own_prefix() + "-netem"
    run("ip", "netns", "add", name)
    try:
        asked = ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    finally:
        remove(name)


def remove(namespace: str) -> None:
    """End what runs in a namespace that is ours, and remove it."""
    for pid in run("ip", "netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "delete", namespace)


def run(*argv: str, told: str | None = None) -> str:
    """Run a tool, give it `told`, and return what it says. Raises LabError."""
    done = subprocess.run(argv, input=told, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode:
        raise LabError(
            f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}{f' in {told!r}' if told else ''}"
        )
    return done.stdout


def _started(pid: int | str) -> str:
    """When a process began, in the kernel's ticks; with its number, that names it for good. Empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
