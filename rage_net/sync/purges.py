"""What an author says of purges of one document: kept within bounds, and compared with the CDNs of another node.

An *event* is what asked for a purge: the id of the fact that narrowed, removed or moved the document, or 16 bytes of a
purge by hand. An id holds 64 random bits of its author's, so nobody can say of an event that it was purged before the
event was known; whoever knows it has purged after it.

Pure. Source: issue 6, B; contracts/rage.proto, `PurgedFact`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rage_net.sync.facts import Fact, Purge, Purged, PurgedProvider
from rage_net.sync.payloads import EVENTS_MAX, HOSTS_MAX, PROVIDERS_MAX, PURGED_BYTES_MAX, PURGES_MAX

_PROVIDER_BYTES = 16
_PURGE_BYTES = 8
"""What the encoding adds, at most, to the texts of one; an event takes two more bytes, a host three."""


def add_purges(before: Sequence[Purged], events: Sequence[bytes], providers: Sequence[PurgedProvider]) -> Purged | None:
    """What its author said before, and one purge more: the oldest are left out where all is too much.

    Args: before: facts of this author that are in force. Returns: None where nothing new is said, or a purge alone is
    too large to be told: then others purge, too, which does no harm.
    """
    hosts = [tuple(sorted({host.lower() for host in one.hosts})) for one in providers]
    providers = tuple(dict.fromkeys(replace(one, hosts=sorted_) for one, sorted_ in zip(providers, hosts, strict=True)))
    events = tuple(dict.fromkeys(events))
    if not events or not 1 <= len(providers) <= PROVIDERS_MAX or any(len(one) > HOSTS_MAX for one in hosts):
        return None
    fresh = [Purge(events[at : at + EVENTS_MAX], providers) for at in range(0, len(events), EVENTS_MAX)]
    old = [purge for said in before for purge in said.purges]
    if all(purge in old for purge in fresh):
        return None
    kept: list[Purge] = []
    size = 0
    for purge in reversed([*(one for one in old if one not in fresh), *fresh]):
        size += _size(purge)
        if size > PURGED_BYTES_MAX or len(kept) == PURGES_MAX:
            break
        kept.append(purge)
    return Purged(tuple(reversed(kept))) if kept else None


def purged_by(in_force: Iterable[Fact], event: bytes) -> list[tuple[Fact, tuple[PurgedProvider, ...]]]:
    """Who says that it purged for this event, and from which CDNs. Give it facts that count and are in force."""
    found = []
    for fact in in_force:
        if isinstance(fact.body, Purged):
            providers = [one for purge in fact.body.purges if event in purge.events for one in purge.providers]
            if providers:
                found.append((fact, tuple(dict.fromkeys(providers))))
    return found


def covers(told: Iterable[PurgedProvider], mine: PurgedProvider) -> bool:
    """Whether a purge that was told of did all that a purge of `mine` would: same software, same place, all its hosts.

    A name says nothing: another node's `main` is another CDN.
    """
    return any(
        one.software == mine.software and one.place == mine.place and set(mine.hosts) <= set(one.hosts) for one in told
    )


def _size(purge: Purge) -> int:
    """No less than its encoding takes."""
    events = sum(len(event) + 2 for event in purge.events)
    providers = sum(
        _PROVIDER_BYTES
        + len(one.name.encode())
        + len(one.software)
        + len(one.place)
        + sum(len(host) + 3 for host in one.hosts)
        for one in purge.providers
    )
    return _PURGE_BYTES + events + providers
