"""Every key of replication.yaml with its type, default, unit and meaning. For what places, moves or audits chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Literal

from rage_net.config.network import VERSION
from rage_net.config.section import Section
from rage_net.config.values import Between, Comparison, Name, Seconds

DEFAULT = "default"
"""What stands for "no policy" in commands and metrics; no policy is called so."""
MINIMUM = 2
"""Copies below which a chunk is at risk, where nothing else is said and its factor is not 1."""


class Selector(Section):
    """Which documents a policy is for: all bounds that are given must hold."""

    tags: tuple[str, ...] = ()
    """Any of these tags; none given means any document."""
    retention_days: Comparison | None = None
    """Bound on the days from a document's creation to its end, such as `< 7`; one without an end is kept for ever."""
    query_count: Comparison | None = None
    """Bound on how often a document is asked for, such as `"> 1000/day"` (quoted) or `{gt: 1000/day}`. It comes under
    the policy at twice that rate, and leaves it at half of it (the other way round for `<`), at most once a day."""


class Policy(Section):
    """How often the documents it selects are stored."""

    name: Name
    """Its name in commands, metrics and logs; unique."""
    factor: Annotated[int, Between(1, 32)]
    """Nodes that hold each chunk, 1 to 32."""
    min: Annotated[int, Between(1, 32)] | None = None
    """Copies below which a chunk is at risk, at most `factor`; null takes `default_min`."""
    selector: Selector = Selector()
    """Which documents it is for, beside those whose record names it; without a bound only those. Where several policies
    match, the highest factor counts, then the first in the file."""


class Placement(Section):
    """Which nodes hold the copies."""

    strategy: Literal["geographic_diversity", "zone_diversity", "capacity", "none"] = "geographic_diversity"
    """`geographic_diversity`: distinct regions first, then distinct zones, then distinct nodes. `zone_diversity`:
    distinct zones. `capacity`: by nodes' weights. `none`: all nodes alike. Equal on all nodes of an organisation."""


class Replication(Section):
    """All of replication.yaml."""

    version: int = VERSION
    """Version of the file's keys."""
    enabled: bool = True
    """Take part in replication; `network.replication.enabled` must hold too."""
    default_factor: Annotated[int, Between(1, 32)] | None = None
    """Nodes that hold each chunk, 1 to 32; null takes network.yaml's. RAGE_REPLICATION_FACTOR wins over both."""
    default_min: Annotated[int, Between(1, 32)] | None = None
    """Copies below which a chunk is at risk, where its policy does not say; null is 2. Never above the factor."""
    grace: Seconds = Seconds(30)
    """How long a node must be out of reach before others hold copies in its stead: a restart is no loss."""
    audit_period: Seconds = Seconds(7 * 86_400)
    """How often every copy is asked for proof; 0 for never."""
    policies: tuple[Policy, ...] = ()
    """Exceptions from the default."""
    placement: Placement = Placement()
    """Which nodes hold the copies."""


def minimum(replication: Replication, policy: Policy | None, factor: int) -> int:
    """Copies below which a chunk of this policy (None: of no policy) is at risk."""
    found = policy.min if policy is not None else None
    return min(factor, found or replication.default_min or MINIMUM)


def check(replication: Replication) -> Iterator[tuple[str, str, str, bool]]:
    """What no single value tells: (key, message, mend, whether it is an error rather than a warning)."""
    least, factor = replication.default_min, replication.default_factor
    if least is not None and factor is not None and least > factor:
        message = f"{least} copies are wanted at least, and {factor} are made"
        yield "replication.default_min", message, f"default_min: {factor}, or a higher default_factor", True
    names = [policy.name for policy in replication.policies]
    for at, policy in enumerate(replication.policies):
        key = f"replication.policies[{at}]"
        if policy.name in names[:at]:
            yield f"{key}.name", f"two policies are named {policy.name}", "rename one", True
        if policy.name == DEFAULT:
            yield (
                f"{key}.name",
                "`default` stands for documents under no policy",
                "rename it, or set default_factor",
                True,
            )
        if policy.min is not None and policy.min > policy.factor:
            message = f"{policy.min} copies are wanted at least, and {policy.factor} are made"
            yield f"{key}.min", message, f"min: {policy.factor}, or a higher factor", True
        yield from _check_selector(policy.selector, f"{key}.selector", policy.name)
    yield from _overlaps(replication.policies)


def _check_selector(selector: Selector, key: str, name: str) -> Iterator[tuple[str, str, str, bool]]:
    days, uses = selector.retention_days, selector.query_count
    if days is not None and days.per_s is not None:
        mend = f'retention_days: "{days._replace(per_s=None)}"'
        yield f"{key}.retention_days", "a number of days is wanted, not a rate", mend, True
    elif days is not None and _days(days)[1] <= 0:
        message = f"it can never match: no document is kept {days} days, as every retention is longer than 0"
        yield f"{key}.retention_days", message, "mend the bound, or remove the policy", False
    if uses is not None and uses.per_s is None:
        yield f"{key}.query_count", "a rate is wanted: so many in what time?", f'query_count: "{uses}/day"', True
    elif uses is not None and (uses.operator == "eq" or (uses.value == 0 and uses.operator in ("lt", "le"))):
        message = f"it can never match: no measured rate is {uses} with a margin of a factor of 2"
        yield f"{key}.query_count", message, 'use <, <=, > or >=, such as "> 1000/day"', False
    if not all(tag.strip() for tag in selector.tags):
        yield f"{key}.tags", "a tag without a letter can never match", "remove it", False
    if selector == Selector():
        message = "without a bound it is for no document but those whose record names it"
        yield key, message, f"give it a bound, or name it: rage chunk put --policy {name}", False


def _overlaps(policies: tuple[Policy, ...]) -> Iterator[tuple[str, str, str, bool]]:
    """Policies that another one always outdoes, and those of one factor that may both match."""
    for (first, one), (second, other) in itertools.combinations(enumerate(policies), 2):
        strong, weak = (other, one) if other.factor > one.factor else (one, other)
        key = f"replication.policies[{second if weak is other else first}]"
        if _is_within(weak.selector, strong.selector):
            message = (
                f"the selector of {weak.name} can never count: what it matches, {strong.name} matches too, "
                f"with {'a higher' if strong.factor > weak.factor else 'the same'} factor"
                f"{'' if strong.factor > weak.factor else ', and stands first'}"
            )
            yield f"{key}.selector", message, f"narrow {strong.name}, or remove {weak.name}", False
        elif one.factor == other.factor and _may_meet(one.selector, other.selector):
            message = (
                f"{one.name} and {other.name} may both match, with the same factor: {one.name} wins, as it stands first"
            )
            yield f"{key}.factor", message, "give them different factors, or leave it so", False


def _days(bound: Comparison | None) -> tuple[float, float]:
    """The least and the greatest number of days that a bound allows; open ends by the next number."""
    if bound is None:
        return math.nextafter(0, 1), math.inf
    value = bound.value
    low = {"gt": math.nextafter(value, math.inf), "ge": value, "eq": value}.get(bound.operator, 0.0)
    high = {"lt": math.nextafter(value, -math.inf), "le": value, "eq": value}.get(bound.operator, math.inf)
    return max(low, math.nextafter(0, 1)), high


def _is_within(narrow: Selector, wide: Selector) -> bool:
    """Whether all that one selector matches by itself, the other does too."""
    if wide.query_count is not None or wide == Selector() or narrow.query_count is not None or narrow == Selector():
        return False
    if wide.tags and not (narrow.tags and set(narrow.tags) <= set(wide.tags)):
        return False
    low, high = _days(narrow.retention_days)
    least, most = _days(wide.retention_days)
    return least <= low and high <= most


def _may_meet(one: Selector, other: Selector) -> bool:
    """Whether a document may fit both; one whose record names a policy is under no other by name."""
    by_name = [selector == Selector() or selector.query_count is not None for selector in (one, other)]
    if all(by_name):
        return False
    low, high = _days(one.retention_days)
    least, most = _days(other.retention_days)
    return max(low, least) <= min(high, most)
