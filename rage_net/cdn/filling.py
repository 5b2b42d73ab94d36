"""What became of a publication at one bucket, counted as it goes. Source: issue 6, C."""

from __future__ import annotations

from dataclasses import dataclass, field

from rage_net.cdn.buckets import Bucket
from rage_net.errors import RageError

FAILURES_MAX = 20
"""A bucket that failed so often and took nothing is given up: each try may last as long as its deadline."""


@dataclass(slots=True)
class Filling:
    """Objects that were put, that were there, that could not be put; `bytes` of those that were put."""

    provider: str
    bucket: Bucket
    put: int = 0
    existed: int = 0
    failed: int = 0
    bytes: int = 0
    errors: list[RageError] = field(default_factory=list)

    @property
    def is_given_up(self) -> bool:
        """Whether nothing more is to be put: it is away, or its keys are wrong."""
        return self.failed >= FAILURES_MAX and not (self.put or self.existed)
