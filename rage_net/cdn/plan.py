"""Which calls purge what was asked: for each CDN the best it can do, and the fewest calls. Pure.

What an operator names is a *target*: a CID, a document, a tag. It offers *choices*, best first, each a set of items
that purges all of it: one tag; else the URLs of every chunk. Of the choices that a CDN can carry out, the first of all
targets or the last of all is taken: the one with fewer calls, unless its quota makes them take a minute longer: what
nobody may read any more must go soon, and a free Cloudflare zone takes five calls by tag a minute, but 800 URLs a
second. What purges much more than was asked (a prefix, everything) is never taken to save calls.

Source: issue 6, B; cdn-apis 2, 11. Not here: what a document's URLs are (cdn_verbs.targets), sending.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from rage_net.cdn.provider import KINDS, UNLIMITED, Abilities, Item, Kind, Provider
from rage_net.errors import ConfigError, NotFoundError

LATE_S = 60.0
"""What a choice with fewer calls may take longer."""
BREADTHS: dict[Kind, int] = {"url": 0, "tag": 0, "prefix": 1, "host": 1, "all": 2}
"""How much of what was not asked for goes, too."""
REFERENCE_CHARS = 40
WORDS_MAX = 1_000_000
"""Of one purge on one provider; more is refused."""


def chosen(known: Collection[str], named: Sequence[str]) -> list[str]:
    """Of the providers that there are those that are named, or all, in their order.

    Raises: ConfigError `cdn-none` where there are none; NotFoundError `cdn-unknown` for a name that none has.
    """
    if not known:
        raise ConfigError(
            "no CDN is configured",
            why="cdn.yaml names no provider, or CDNs are switched off",
            mend=["rage config show cdn", "rage config check"],
            id="cdn-none",
        )
    for name in named:
        if name not in known:
            like = difflib.get_close_matches(name, known, 1) or list(known)[:1]
            raise NotFoundError(
                f"no CDN provider {name!r}",
                why=f"there are {', '.join(known)}",
                mend=[f"--provider {like[0]}", "rage cdn status"],
                id="cdn-unknown",
            )
    return [name for name in known if not named or name in named]


@dataclass(frozen=True, slots=True)
class Target:
    """What is to go. `choices` are sets of items, best first; each of them purges all of the target."""

    name: str
    choices: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True, slots=True, order=True)
class Word:
    """One thing that a call names, with how: a URL, a key, a path."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What one provider will be asked on each of its edges. `impossible` are targets that it has no way to purge."""

    provider: str
    words: tuple[Word, ...]
    soft: frozenset[Kind]
    """Kinds of words that are marked as stale; the others are deleted."""
    calls: int
    """On each edge."""
    seconds: float
    """Until the last is sent, by its quota, when nothing else is."""
    impossible: tuple[str, ...] = ()


def plan(provider: Provider, targets: Sequence[Target], *, soft: bool) -> Planned:
    """What `provider` is asked so that all targets go. Raises: ValueError beyond WORDS_MAX words."""
    abilities = provider.abilities
    impossible: list[str] = []
    possible: list[list[tuple[Word, ...]]] = []
    for target in targets:
        ways = [way for choice in target.choices if (way := _words(provider, abilities, choice)) is not None]
        if ways:
            possible.append(ways)
        else:
            impossible.append(target.name)
    words = _choose(possible, abilities)
    if len(words) > WORDS_MAX:
        raise ValueError(f"{provider.name} would be asked for {len(words)} URLs and tags; {WORDS_MAX} are the most")
    marked = abilities.soft if soft else frozenset()
    calls, seconds = cost(words, abilities)
    return Planned(provider.name, words, marked, calls, seconds, tuple(impossible))


def groups(abilities: Abilities) -> list[tuple[Kind, ...]]:
    """Kinds whose words may stand in one call, in order; those that it cannot purge by are among them, too."""
    alone: list[tuple[Kind, ...]] = [(kind,) for kind in KINDS if kind not in abilities.mixed]
    return sorted([*alone, *([tuple(sorted(abilities.mixed))] if abilities.mixed else [])])


def batches(words: Iterable[Word], abilities: Abilities) -> Iterator[tuple[Word, ...]]:
    """Words in as few calls as the provider takes, in order; of one kind each, but for those that it mixes."""
    by_group: dict[frozenset[Kind], list[Word]] = {}
    for word in words:
        group = abilities.mixed if word.kind in abilities.mixed else frozenset((word.kind,))
        by_group.setdefault(group, []).append(word)
    for group, those in by_group.items():
        most = min(abilities.words_max[kind] for kind in group if kind in abilities.words_max)
        batch: list[Word] = []
        size = 0
        for word in those:
            length = len(word.text.encode()) + 1
            if batch and (
                len(batch) >= most or (abilities.bytes_max is not None and size + length > abilities.bytes_max)
            ):
                yield tuple(batch)
                batch, size = [], 0
            batch.append(word)
            size += length
        if batch:
            yield tuple(batch)


def cost(words: Sequence[Word], abilities: Abilities) -> tuple[int, float]:
    """Calls, and seconds until the last is sent by the quotas, the buckets full at the beginning."""
    calls = 0
    spent: dict[str, float] = {}
    for batch in batches(words, abilities):
        calls += 1
        name, quota = abilities.quotas.get(batch[0].kind, ("", UNLIMITED))
        spent[name] = spent.get(name, 0.0) + (1 if quota.counts == "calls" else len(batch))
    quotas = dict(abilities.quotas.values())
    waits = (max(0.0, spent[name] - quotas[name].burst) / quotas[name].per_s for name in spent if name in quotas)
    return calls, max(waits, default=0.0)


def reference(purge: str, provider: str, edge: str, words: Sequence[Word]) -> str:
    """The idempotency key of one call: the same for each try of it, after a crash too."""
    digest = sha256("\n".join([purge, provider, edge, *(f"{word.kind} {word.text}" for word in words)]).encode())
    return digest.hexdigest()[:REFERENCE_CHARS]


def _words(provider: Provider, abilities: Abilities, choice: Sequence[Item]) -> tuple[Word, ...] | None:
    """The words of one choice; None when the provider cannot carry it out."""
    found: dict[Word, None] = {}
    for item in choice:
        if item.kind not in abilities.words_max:
            return None
        texts = provider.words(item)
        if not texts:
            return None
        found.update(dict.fromkeys(Word(item.kind, text) for text in texts))
    return tuple(found)


def _choose(possible: Sequence[Sequence[tuple[Word, ...]]], abilities: Abilities) -> tuple[Word, ...]:
    """For all targets their first ways, or their last ones: tags or URLs alike, as calls and quota make it better."""
    first = _united(ways[0] for ways in possible)
    last = _united(ways[-1] for ways in possible)
    if first == last or _breadth(last) > _breadth(first):
        return first  # where they need not, a few calls less would cost the origin all that is cached
    (few, early), (many, late) = cost(first, abilities), cost(last, abilities)
    if early > late + LATE_S:
        return last
    if many < few and late <= early + LATE_S:
        return last
    return first


def _breadth(words: Sequence[Word]) -> int:
    return max((BREADTHS[word.kind] for word in words), default=0)


def _united(parts: Iterable[Sequence[Word]]) -> tuple[Word, ...]:
    return tuple(dict.fromkeys(word for part in parts for word in part))


def share(total: float, seconds: float, per_s: float, burst: float) -> float:
    """Tokens in a bucket that had `total` so many seconds ago."""
    return min(burst, total + max(0.0, seconds) * per_s) if math.isfinite(per_s) else burst
