"""The quota of a store: it refuses early, by its own size and by the space it leaves to others.

Not here: what to delete (gc), the ballast, and what a failing disk says (`rage_net.database`). Source: design 5; issue
2 "A full disk".
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a store may take."""

    bytes_max: int | None = None
    """Bytes at rest of all chunks; None sets no limit."""
    free_bytes_min: int = 64 * MIB
    """Bytes that stay free on the file system: a put that would leave less is refused."""
    free_inodes_min: int = 1000
    """Inodes that stay free, where the file system counts them."""
