"""Policies: how often a document is stored, and why.

A policy matches a document when the document's record names it, or when all keys of its selector do: any of the tags,
and the bound of days. Of those that match the highest factor wins, then the first in the file; where none does, the
default factor holds. A selector without a bound matches nothing by itself. One with `query_count` does not either, as
rates are measured and differ from node to node: whoever measures writes the policy's name into the record (usage), and
every node chooses alike.

Pure. Source: specification, "Replication Policies"; design D5. Not here: where copies go (place).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from rage_net.config.replication import DEFAULT, minimum

if TYPE_CHECKING:
    from rage_net.config import replication as config
    from rage_net.config.values import Comparison

_PREFIX = b"rage:policies:1\0"


@dataclass(frozen=True, slots=True)
class Subject:
    """What policies look at. `retention_days`: from creation to end, None for ever; `policy`: the record's word."""

    tags: tuple[str, ...] = ()
    retention_days: float | None = None
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Considered:
    """One policy, whether it matches, and the words of why."""

    name: str
    factor: int
    matches: bool
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The policy that counts, `default` where none matches; `rule` says why this one. Below `minimum` is at risk."""

    policy: str
    factor: int
    minimum: int
    rule: str
    considered: tuple[Considered, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A policy that a document comes under and leaves by how often it is asked for."""

    name: str
    factor: int
    bound: Comparison


class Policies:
    """All policies of replication.yaml. `factor` is the default with flags and environment applied.

    `digest`, 16 bytes, is of them and of the strategy: equal where nodes place alike.
    """

    def __init__(self, replication: config.Replication, factor: int) -> None:
        self._policies = replication.policies
        self._minima = tuple(minimum(replication, policy, policy.factor) for policy in replication.policies)
        self._names = {policy.name for policy in replication.policies}
        self._default = Choice(DEFAULT, factor, minimum(replication, None, factor), "", ())
        self.digest = _digest(self._policies, self._minima, self._default, replication.placement.strategy)

    def choose(self, subject: Subject) -> Choice:
        """The policy of a document, with what was thought of each."""
        considered = tuple(_consider(policy, subject) for policy in self._policies)
        matching = [at for at, one in enumerate(considered) if one.matches]
        if not matching:
            rule = f"the default factor: no policy of {len(considered)} matches" if considered else "the default factor"
            if subject.policy and subject.policy not in self._names and subject.policy != DEFAULT:
                rule += f"; the record names {subject.policy}, and there is no such policy here"
            return Choice(DEFAULT, self._default.factor, self._default.minimum, rule, considered)
        best = max(matching, key=lambda at: (considered[at].factor, -at))
        found = considered[best]
        equals = sum(considered[at].factor == found.factor for at in matching)
        if len(matching) == 1:
            rule = "the only policy that matches"
        elif equals == 1:
            rule = f"the highest factor of {len(matching)} policies that match"
        else:
            rule = f"the first in the file of {equals} policies that match with factor {found.factor}"
        return Choice(found.name, found.factor, self._minima[best], rule, considered)

    @property
    def names(self) -> tuple[str, ...]:
        """All policies in file order, the default last."""
        return (*(policy.name for policy in self._policies), DEFAULT)

    def rows(self) -> list[tuple[str, int, int, str]]:
        """Name, factor, minimum and selector of each, in the same order."""
        found = [
            (policy.name, policy.factor, least, _selector(policy))
            for policy, least in zip(self._policies, self._minima, strict=True)
        ]
        return [*found, (DEFAULT, self._default.factor, self._default.minimum, "what no policy matches")]

    def measured(self, subject: Subject) -> tuple[Measured, ...]:
        """The policies with a `query_count` whose other keys match: the best first."""
        found = [
            Measured(policy.name, policy.factor, policy.selector.query_count)
            for policy in self._policies
            if policy.selector.query_count is not None and all(fits for fits, _ in _bounds(policy.selector, subject))
        ]
        return tuple(sorted(found, key=lambda one: -one.factor))

    def is_measured(self, name: str) -> bool:
        """Whether a policy of this name is entered and left by rates."""
        return any(policy.name == name and policy.selector.query_count is not None for policy in self._policies)

    def beyond(self, nodes: int) -> tuple[str, ...]:
        """A sentence for each factor that so many nodes cannot reach, the default's first."""
        wanted = [(DEFAULT, self._default.factor), *((policy.name, policy.factor) for policy in self._policies)]
        are = "1 node that stores" if nodes == 1 else f"{nodes} nodes that store"
        return tuple(
            f"{name} wants {factor} copies of each chunk, and there {'is' if nodes == 1 else 'are'} {are}"
            for name, factor in wanted
            if factor > nodes
        )


def _consider(policy: config.Policy, subject: Subject) -> Considered:
    selector = policy.selector
    if subject.policy == policy.name:
        return Considered(policy.name, policy.factor, True, "the record names it")
    found = list(_bounds(selector, subject))
    if selector.query_count is not None:
        found.append((False, f"query_count: the record does not say that it was measured {selector.query_count}"))
    if not found:
        return Considered(
            policy.name, policy.factor, False, "its selector has no bound, and the record does not name it"
        )
    matches = all(fits for fits, _ in found)
    return Considered(policy.name, policy.factor, matches, "; ".join(words for fits, words in found if fits == matches))


def _bounds(selector: config.Selector, subject: Subject) -> Iterator[tuple[bool, str]]:
    """Each bound that can be judged here, whether it holds, and the words."""
    if selector.tags:
        has = [tag for tag in selector.tags if tag in subject.tags]
        if not has:
            yield False, f"tags: none of {', '.join(selector.tags)} is one of its tags"
        elif len(has) == 1:
            yield True, f"tags: {has[0]} is one of its tags"
        else:
            yield True, f"tags: {', '.join(has)} are among its tags"
    bound = selector.retention_days
    if bound is not None:
        days = subject.retention_days
        holds = bound.holds(math.inf if days is None else days)
        kept = "for ever is" if days is None else f"{days:g} {'day is' if days == 1 else 'days are'}"
        yield holds, f"retention_days: {kept} {'' if holds else 'not '}{bound}"


def _selector(policy: config.Policy) -> str:
    selector = policy.selector
    words = [f"tags: any of {', '.join(selector.tags)}"] if selector.tags else []
    words += [f"retention_days: {selector.retention_days}"] if selector.retention_days is not None else []
    words += [f"query_count: {selector.query_count}"] if selector.query_count is not None else []
    return "; ".join(words) or "documents whose record names it"


def _digest(policies: tuple[config.Policy, ...], minima: tuple[int, ...], default: Choice, strategy: str) -> bytes:
    rows: list[object] = [strategy, [default.factor, default.minimum]]
    for policy, least in zip(policies, minima, strict=True):
        selector = policy.selector
        bounds = [None if bound is None else list(bound) for bound in (selector.retention_days, selector.query_count)]
        rows.append([policy.name, policy.factor, least, sorted(set(selector.tags)), *bounds])
    return blake3(_PREFIX + json.dumps(rows, separators=(",", ":")).encode()).digest(16)
