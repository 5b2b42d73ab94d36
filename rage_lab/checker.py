"""The checker: what was done to nodes, what they answered, and whether that is what rage promises.

A `History` is told each operation with its outcome, each harm, and what was found once all faults were over; `judge`
then names every promise that is broken. Pure: no clock, no nodes. Both halves of the lab, virtual and real, use it.

The promises (issue 5, section H):

    lost          what was acknowledged with `--wait N` can be read while fewer than N of its holders were harmed
    unreadable    and from every node, once the faults are over
    wrong-bytes   whoever gets something gets what was put, at any time
    unauthorised  an outsider gets nothing, at any time
    resurrected   what was acknowledged as removed is not read again
    apart         once the faults are over, all nodes hold the same log
    short         and every chunk has its copies, with proof, within the bound
    down          no node ends by itself, and each starts again from the disk it has

An operation whose outcome nobody knows (the node was killed under it) binds nothing but its bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

Outcome = Literal["acknowledged", "refused", "unknown"]
Broken = Literal["lost", "unreadable", "wrong-bytes", "unauthorised", "resurrected", "apart", "short", "down"]


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """How a history names bytes: not rage's own hash, which is what is tested."""
    return blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Put:
    """A document was written. `wait` copies were asked for; `refused` and `unknown` promise nothing."""

    key: str
    node: str
    digest: str
    wait: int
    outcome: Outcome
    began_at: float
    ended_at: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Get:
    """A document was asked for: `digest` is of what came, empty where nothing did. Amid faults nothing has to."""

    key: str
    node: str
    digest: str
    began_at: float
    ended_at: float
    is_final: bool = False
    """After all faults, and after the nodes had their time to repair."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """A document was removed everywhere."""

    key: str
    outcome: Outcome
    began_at: float


@dataclass(frozen=True, slots=True)
class Harm:
    """A node lost its copy of `key` for good, or, where that is empty, of all it had. A pause or a kill is no harm."""

    node: str
    at: float
    key: str = ""


@dataclass(frozen=True, slots=True)
class Peek:
    """Somebody without a right asked for something, and got so many bytes."""

    who: str
    key: str
    bytes: int
    at: float


@dataclass(frozen=True, slots=True)
class Down:
    """A node ended though nobody ended it, or did not start again; with its last words."""

    node: str
    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Settled:
    """How the nodes were when the faults were over and their time was up, or earlier where all was well.

    `epochs` are those of the logs, by node; empty for a node that did not answer. `short` are chunks that an audit with
    proof still found wanting, with its reason.
    """

    seconds: float
    within_s: float
    epochs: Mapping[str, str] = field(default_factory=dict)
    short: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, about what, and how one sees it."""

    broken: Broken
    about: str
    words: str

    def __str__(self) -> str:
        return f"{self.broken}: {self.about}: {self.words}"


Event = Put | Get | Remove | Harm | Peek | Down | Settled


class History:
    """What happened, in the order in which it was told."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = list(events)

    def add(self, event: Event) -> None:
        """Something happened. Safe from several threads."""
        self.events.append(event)

    def of(self, *kinds: type[Event]) -> list[Event]:
        """Events of these kinds."""
        return [event for event in self.events if isinstance(event, kinds)]

    def standing(self) -> dict[str, str]:
        """What must be readable at the end, unless too much was harmed: key -> digest."""
        removed = {event.key for event in self.events if isinstance(event, Remove) and event.outcome != "refused"}
        return {
            event.key: event.digest
            for event in self.events
            if isinstance(event, Put) and event.outcome == "acknowledged" and event.key not in removed
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """All violations, and how much was looked at."""

    violations: tuple[Violation, ...]
    operations: int
    acknowledged: int
    """Puts that were."""
    refused: int
    """Puts and gets that a node refused or could not answer: availability is not promised amid faults."""
    unknown: int
    excused: int
    """Acknowledged documents of which so many copies were harmed that nothing is promised any more."""
    peeks: int
    seconds: float
    """Until all was well again."""


def judge(history: History) -> Judgement:
    """Hold what happened against the promises."""
    excused = excused_keys(history)
    violations = [
        *_wrong(history),
        *_peeked(history),
        *_lost(history, excused),
        *_resurrected(history),
        *_unsettled(history, excused),
        *(Violation("down", event.node, event.why) for event in history.events if isinstance(event, Down)),
    ]
    puts = [event for event in history.events if isinstance(event, Put)]
    gets = [event for event in history.events if isinstance(event, Get)]
    removals = [event for event in history.events if isinstance(event, Remove)]
    outcomes = Counter([put.outcome for put in puts] + [removal.outcome for removal in removals])
    settled = [event for event in history.events if isinstance(event, Settled)]
    return Judgement(
        violations=tuple(violations),
        operations=len(puts) + len(gets) + len(removals),
        acknowledged=sum(put.outcome == "acknowledged" for put in puts),
        refused=outcomes["refused"] + sum(not get.digest for get in gets if not get.is_final),
        unknown=outcomes["unknown"],
        excused=len(excused),
        peeks=len(history.of(Peek)),
        seconds=max((event.seconds for event in settled), default=0.0),
    )


def excused_keys(history: History) -> set[str]:
    """Acknowledged keys of which as many holders were harmed as were waited for."""
    harms = [event for event in history.events if isinstance(event, Harm)]
    keys = set()
    for event in history.events:
        if isinstance(event, Put) and event.outcome == "acknowledged":
            nodes = {harm.node for harm in harms if harm.at >= event.began_at and harm.key in ("", event.key)}
            if len(nodes) >= event.wait:
                keys.add(event.key)
    return keys


def _wrong(history: History) -> Iterable[Violation]:
    put: dict[str, set[str]] = {}
    for event in history.events:
        if isinstance(event, Put):
            put.setdefault(event.key, set()).add(event.digest)
    for event in history.events:
        if isinstance(event, Get) and event.digest and event.digest not in put.get(event.key, ()):
            yield Violation("wrong-bytes", event.key, f"{event.node} got {event.digest}, which nobody put")


def _peeked(history: History) -> Iterable[Violation]:
    for event in history.events:
        if isinstance(event, Peek) and event.bytes:
            yield Violation("unauthorised", event.key, f"{event.who} got {event.bytes} bytes")


def _lost(history: History, excused: set[str]) -> Iterable[Violation]:
    finals: dict[str, list[Get]] = {}
    for event in history.events:
        if isinstance(event, Get) and event.is_final:
            finals.setdefault(event.key, []).append(event)
    for key in history.standing():
        if key in excused:
            continue
        reads = finals.get(key, [])
        failed = [read for read in reads if not read.digest]
        if len(failed) == len(reads):
            why = f": {failed[0].why}" if failed else ": nobody was asked for it"
            yield Violation("lost", key, f"no node gives it{why}")
        else:
            for read in failed:
                yield Violation("unreadable", key, f"{read.node} does not get it: {read.why}")


def _resurrected(history: History) -> Iterable[Violation]:
    removed = {event.key for event in history.events if isinstance(event, Remove) and event.outcome == "acknowledged"}
    for event in history.events:
        if isinstance(event, Get) and event.is_final and event.digest and event.key in removed:
            yield Violation("resurrected", event.key, f"{event.node} has it again")


def _unsettled(history: History, excused: set[str]) -> Iterable[Violation]:
    for event in history.events:
        if not isinstance(event, Settled):
            continue
        if len(set(event.epochs.values())) > 1 or "" in event.epochs.values():
            shown = ", ".join(f"{node} {epoch[:12] or 'silent'}" for node, epoch in sorted(event.epochs.items()))
            yield Violation("apart", "log", f"after {event.within_s:g} s: {shown}")
        for key, reason in sorted(event.short.items()):
            if key not in excused:
                yield Violation("short", key, f"after {event.within_s:g} s: {reason}")
