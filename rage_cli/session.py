"""run(verb): in the node when its Unix socket answers, else in an engine opened here. No command knows which.

The way to a node imports the standard library alone; `asyncio` and the engine are loaded when there is none.
Not here: the protocol (`client`), what a result looks like (`output`). Source: design D8.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rage_cli import client
from rage_cli.options import options
from rage_cli.progress import Display
from rage_net import home as homes
from rage_net.errors import ConflictError, DeadlineError, UnavailableError, UsageError
from rage_net.home import Home
from rage_net.verbs import Progress, Verb

if TYPE_CHECKING:
    from rage_net.verbs import Sink, Source

R = TypeVar("R")

LOCK_WAIT_S = 30.0
"""For another process to let the home go, where `--timeout` does not say otherwise."""


def home() -> Home:
    """The home this invocation works in."""
    return homes.locate(options.home or None, os.environ)


def run(verb: Verb[R], *, source: Source | None = None, sink: Sink | None = None, label: str = "") -> R:
    """Carry out `verb` and give its result; progress is shown with `label`.

    Raises: RageError of any class, as the engine or the node had it.
    """
    _check_dry_run(verb)
    place = home()
    with Display(label) as progress:
        node = client.connect(homes.socket_path(place), options.timeout_s)
        if node is None:
            homes.require(place)
            try:
                return _run_here(place, verb, source, sink, progress)
            except ConflictError as conflict:
                # A node may have begun while we waited for the lock it took.
                node = client.connect(homes.socket_path(place), options.timeout_s)
                if node is None or conflict.id != "home-locked":
                    raise
        with node, options.timed():
            return node.run(verb, source=source, sink=sink, progress=progress)


def run_in_node(verb: Verb[R]) -> R:
    """Carry out `verb` in the running node. Raises UnavailableError `node-unreachable` when there is none."""
    _check_dry_run(verb)
    place = home()
    node = client.connect(homes.socket_path(place), options.timeout_s)
    if node is None:
        holder = homes.read_holder(place)
        why = f"nothing listens at {place.socket}"
        if holder is not None and holder.kind == "node":
            why += f"; process {holder.pid} said it was the node"
        raise UnavailableError(
            f"no node runs for {place.root}", why=why, mend=["rage node start --detach"], id="node-unreachable"
        )
    with node:
        return node.run(verb)


def _check_dry_run(verb: Verb[Any]) -> None:
    if options.dry_run and verb.mutates and not getattr(verb, "dry_run", False):
        raise UsageError(
            f"{verb.route.replace('/', ' ')} has no --dry-run", why="nothing was changed", mend=["leave --dry-run out"]
        )


def _run_here(
    place: Home, verb: Verb[R], source: Source | None, sink: Sink | None, progress: Callable[[Progress], None]
) -> R:
    """In this process, under the home's lock. The clean-up that a signal starts is awaited before it is told."""
    import asyncio
    import gc

    from rage_cli.app import TerminatedError

    gc.enable()

    terminated = False
    if source is not None:  # what is read says more than what is stored, which comes in large steps
        source, progress = _Counted(source, getattr(verb, "size", None), progress), lambda _: None

    async def work() -> R:
        from rage_net import config
        from rage_net.engine import Engine

        nonlocal terminated
        task = asyncio.current_task()
        assert task is not None

        def end() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        settings = config.load(place.root, environ=os.environ, file=Path(options.config) if options.config else None)
        # The wait for the lock has the same time and an error of its own, which says who holds it.
        deadline = None if options.timeout_s is None else asyncio.get_running_loop().time() + options.timeout_s
        async with Engine.open(place, config=settings, lock_timeout_s=_lock_wait_s()) as engine:
            async with asyncio.timeout_at(deadline):
                return await engine.run(verb, source=source, sink=sink, progress=progress)

    try:
        return asyncio.run(work())
    except asyncio.CancelledError:
        if terminated:
            raise TerminatedError from None
        raise
    except TimeoutError as error:
        if options.timeout_s is None:
            raise
        raise DeadlineError(
            f"{verb.route.replace('/', ' ')} did not finish within {options.timeout_s:g} s",
            mend=[options.longer_timeout()],
        ) from error


class _Counted:
    """A source that reports what is read from it."""

    def __init__(self, source: Source, total: int | None, progress: Callable[[Progress], None]) -> None:
        self._source, self._total, self._progress, self._done = source, total, progress, 0

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """As the source has it."""
        size = self._source.readinto(buffer) or 0
        self._done += size
        self._progress(Progress(self._done, self._total))
        return size


def _lock_wait_s() -> float:
    return LOCK_WAIT_S if options.timeout_s is None else options.timeout_s
