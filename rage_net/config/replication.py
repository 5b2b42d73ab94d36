"""Every key of replication.yaml with its type, default, unit and meaning. Read only by verbs that place or audit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from rage_net.config.network import VERSION
from rage_net.config.section import Section
from rage_net.config.values import Between, Comparison, Name


class Selector(Section):
    """Which documents a policy is for: all bounds that are given must hold."""

    tags: tuple[str, ...] = ()
    """Any of these tags; none given means any document."""
    retention_days: Comparison | None = None
    """Bound on the days a document is kept, such as `< 7`."""
    query_count: Comparison | None = None
    """Bound on how often a document is asked for, such as `"> 1000/day"` (quoted) or `{gt: 1000/day}`."""


class Policy(Section):
    """How often the documents it selects are stored."""

    name: Name
    """Its name in commands, metrics and logs; unique."""
    factor: Annotated[int, Between(1, 32)]
    """Nodes that hold each chunk, 1 to 32."""
    selector: Selector = Selector()
    """Which documents it is for; where several policies match, the highest factor counts."""


class Placement(Section):
    """Which nodes hold the copies."""

    strategy: Literal["geographic_diversity"] = "geographic_diversity"
    """Distinct regions first, then distinct zones, then distinct nodes."""


class Replication(Section):
    """All of replication.yaml."""

    version: int = VERSION
    """Version of the file's keys."""
    enabled: bool = True
    """Take part in replication; `network.replication.enabled` must hold too."""
    default_factor: Annotated[int, Between(1, 32)] | None = None
    """Nodes that hold each chunk, 1 to 32; null takes network.yaml's. RAGE_REPLICATION_FACTOR wins over both."""
    policies: tuple[Policy, ...] = ()
    """Exceptions from the default."""
    placement: Placement = Placement()
    """Which nodes hold the copies."""


def check(replication: Replication) -> Iterator[tuple[str, str, str, bool]]:
    """What no single value tells: (key, message, mend, whether it is an error rather than a warning)."""
    names = [policy.name for policy in replication.policies]
    for at, name in enumerate(names):
        if name in names[:at]:
            yield f"replication.policies[{at}].name", f"two policies are named {name}", "rename one", True
