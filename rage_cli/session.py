"""run(verb): in the node when its Unix socket answers, else in an engine opened here. No command knows which.

The way to a node imports the standard library alone; `asyncio` and the engine are loaded when there is none. What a
verb tells while it runs goes to `on_item` from either, one at a time; where the command is too slow for it (it writes
to a pager, say) the oldest are dropped, and that is said on stderr.
Not here: the protocol (`client`), what a result looks like (`output`). Source: design D8.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
LOOK_AGAIN_S = 1.0
"""Who holds the home may be a node that is starting: so often its socket is looked for meanwhile."""


def home() -> Home:
    """The home this invocation works in."""
    return homes.locate(options.home or None, os.environ)


OnItem = Callable[[Any], None]


def run(
    verb: Verb[R],
    *,
    source: Source | None = None,
    sink: Sink | None = None,
    label: str = "",
    on_item: OnItem | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> R:
    """Carry out `verb` and give its result; `on_item` takes each item it tells, else progress is shown with `label`.

    `watch` is told all progress, too, shown or not.

    Raises: RageError of any class, as the engine or the node had it; what source, sink and `on_item` raise.
    """
    _check_dry_run(verb)
    place = home()
    with _display(label, on_item) as shown:
        progress = shown if watch is None else _both(watch, shown)
        node = client.connect(homes.socket_path(place), options.timeout_s)
        give_up_at = time.monotonic() + _lock_wait_s()
        while node is None:
            homes.require(place)
            left_s = give_up_at - time.monotonic()
            try:
                return _run_here(place, verb, source, sink, progress, on_item, min(left_s, LOOK_AGAIN_S))
            except ConflictError as conflict:
                # A node may have begun while we waited for the lock it took.
                node = client.connect(homes.socket_path(place), options.timeout_s)
                if conflict.id != "home-locked" or (node is None and left_s <= LOOK_AGAIN_S):
                    raise
        with node, options.timed():
            return node.run(
                verb, source=source, sink=sink, progress=progress, on_item=on_item or _nothing, on_dropped=_say_dropped
            )


def run_in_node(verb: Verb[R], *, source: Source | None = None, label: str = "", on_item: OnItem | None = None) -> R:
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
    with _display(label, on_item) as progress, node, options.timed():
        return node.run(verb, source=source, progress=progress, on_item=on_item or _nothing, on_dropped=_say_dropped)


def _display(label: str, on_item: OnItem | None) -> AbstractContextManager[Callable[[Progress], None]]:
    """Progress on stderr; none beside items, which show by themselves that something happens."""
    return Display(label) if on_item is None else nullcontext(_nothing)


def _both(one: Callable[[Progress], None], other: Callable[[Progress], None]) -> Callable[[Progress], None]:
    def tell(progress: Progress) -> None:
        one(progress)
        other(progress)

    return tell


def _nothing(_: Any) -> None:
    pass


def _say_dropped(count: int) -> None:
    """That a gap lies before the next item. It is told on stderr, since stdout holds items alone."""
    if options.format in ("json", "ndjson"):
        line = json.dumps({"type": "dropped", "count": count})
    else:
        line = f"... {count} dropped here: the reader is too slow"
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _check_dry_run(verb: Verb[Any]) -> None:
    if options.dry_run and verb.mutates and not getattr(verb, "dry_run", False):
        raise UsageError(
            f"{verb.route.replace('/', ' ')} has no --dry-run", why="nothing was changed", mend=["leave --dry-run out"]
        )


def _run_here(
    place: Home,
    verb: Verb[R],
    source: Source | None,
    sink: Sink | None,
    progress: Callable[[Progress], None],
    on_item: OnItem | None,
    lock_wait_s: float,
) -> R:
    """In this process, under the home's lock. The clean-up that a signal starts is awaited before it is told."""
    import asyncio
    import gc

    from rage_cli.app import TerminatedError
    from rage_cli.telling import run_telling

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
        async with Engine.open(place, config=settings, lock_timeout_s=max(0.0, lock_wait_s)) as engine:
            async with asyncio.timeout_at(deadline):
                if verb.item is None:
                    return await engine.run(verb, source=source, sink=sink, progress=progress)
                return await run_telling(
                    lambda tell: engine.run(verb, progress=progress, tell=tell), on_item or _nothing, _say_dropped
                )

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
