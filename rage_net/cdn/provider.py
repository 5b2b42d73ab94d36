"""The words of CDNs, and the Protocol that each CDN's module has. Pure values: no clock, no socket.

What is purged is an *item*: a path, a tag, a prefix, a host, or everything. A provider has one or more *edges* on
which a purge is done by itself: a cloud has one, named "", self-hosted caches one for each endpoint. A provider says in
which *words* its calls name an item (one path is as many URLs as there are public hosts), how many words a call takes,
and how many calls in which time. What became of a call is a *verdict*, never an exception: one CDN's failure stops no
other.

Source: issue 6, A and B; cdn-apis 1, 2, 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

Kind = Literal["url", "prefix", "tag", "host", "all"]
KINDS: tuple[Kind, ...] = get_args(Kind)
State = Literal["queued", "accepted", "done", "pending", "failed"]
"""queued: to be sent (again). accepted: taken, and the vendor tells no more. pending: taken, and its end can be asked
for by the id. done: gone from that edge's cache. failed: it will not be sent again."""

TAG_BYTES_MAX = 256
TAGS_MAX = 50
"""Of one object: what every CDN keeps."""
PREFIX_BYTES_MAX = 1024


class ItemError(ValueError):
    """A text that cannot be purged by; the message ends the sentence "wrong tag: ..."."""


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """What is purged.

    `value`: of a url, its path with the query (`/chunks/bafk...`); of a prefix, the path's begin (`/chunks/`); a tag or
    a host name as it is; of all, empty.
    """

    kind: Kind
    value: str = ""


@dataclass(frozen=True, slots=True)
class Quota:
    """A token bucket: `per_s` of what `counts` says come in each second, and at most `burst` are kept."""

    per_s: float
    burst: float
    counts: Literal["calls", "words"] = "calls"


UNLIMITED = Quota(float("inf"), float("inf"))


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a CDN can do. Each mapping has a row for every kind that it can purge by; a kind without one it cannot."""

    words_max: Mapping[Kind, int]
    """Words in one call, at most."""
    soft: frozenset[Kind] = frozenset()
    """Kinds that can be marked as stale instead of deleted."""
    answer: Literal["accepted", "pending", "done"] = "accepted"
    """What a good answer means."""
    bytes_max: int | None = None
    """Bytes of all words of one call, each with its separator; None for no bound."""
    mixed: frozenset[Kind] = frozenset()
    """Kinds that may stand in one call together."""
    quotas: Mapping[Kind, tuple[str, Quota]] = field(default_factory=dict)
    """By kind, the bucket's name and its quota: kinds that share a name share the bucket."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call to one edge: words of one kind (of several where the provider mixes them), in order, no word twice."""

    edge: str
    kind: Kind
    words: tuple[str, ...]
    soft: bool
    reference: str
    """The idempotency key: the same for each try of this call, and of no other."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a call, or of a question for its end.

    `queued` means: to be made again, not before `retry_after_s` where that is known. `is_too_large`: in halves.
    """

    state: State
    id: str = ""
    """The vendor's, of the purge; of CloudFront and Azure it can be asked for."""
    count: int | None = None
    """Objects that went, where the cache says."""
    reason: str = ""
    """Why it failed or waits: one line without secrets, the vendor's own words within it."""
    code: str = ""
    """The id of the error: cdn-credentials, cdn-forbidden, cdn-not-found, cdn-config, cdn-rejected, cdn-rate-limited,
    cdn-busy, cdn-unreachable, cdn-answer."""
    mend: tuple[str, ...] = ()
    retry_after_s: float | None = None
    is_too_large: bool = False
    tries_max: int | None = None
    """So many tries in all, where another answer than the usual ones decides (Cloudflare's sporadic 401: 3)."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a provider tells of itself: its hit ratio by region, 0 to 1, and calls left in its quota."""

    hit_ratio: Mapping[str, float] = field(default_factory=dict)
    """By region as the vendor names it; "all" where it tells of none."""
    overall: float | None = None
    """Of all regions together, by what each was asked; None where it is the one ratio."""
    basis: Literal["requests", "bytes"] = "requests"
    quota_left: str = ""
    """As the vendor says it, for people; empty where it does not."""
    reason: str = ""
    """Why there is no hit ratio."""
    is_fault: bool = True
    """Of the reason: something is wrong. False where nobody asked, or nothing is configured that counts."""


class Provider(Protocol):
    """One CDN as configured. Its methods raise nothing but cancellation: failures are verdicts."""

    @property
    def name(self) -> str:
        """As in cdn.yaml."""
        ...

    @property
    def edges(self) -> Sequence[str]:
        """Where a purge is done by itself: endpoints of self-hosted caches; `[""]` of a cloud."""
        ...

    @property
    def abilities(self) -> Abilities:
        """What it can do."""
        ...

    def words(self, item: Item) -> Sequence[str]:
        """How its calls name an item: nothing when no public host is configured and it needs one."""
        ...

    async def purge(self, call: Call) -> Verdict:
        """Make the call once, within its deadline. Never retries by itself."""
        ...

    async def ask(self, edge: str, id: str) -> Verdict:
        """What became of a pending purge. A question that fails leaves it pending: unknown is not failed."""
        ...

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        """Whether credentials, ids and edges are right, without a change: by edge. `done` means so."""
        ...

    async def level(self, since: float, until: float) -> Level:
        """Its own figures from one time to another, seconds since the epoch."""
        ...


def check_tag(text: str) -> str:
    """A tag that every CDN takes: ASCII 33 to 126, lower case, none of `,`, `#`, `*`, quotes, at most 256 bytes.

    Raises: ItemError. Source: cdn-apis 1, "Portable tag alphabet".
    """
    if not text or len(text.encode("utf-8", "surrogatepass")) > TAG_BYTES_MAX:
        raise ItemError(f"a tag has 1 to {TAG_BYTES_MAX} bytes")
    bad = next((char for char in text if not "!" <= char <= "~" or char in ",#*\"'&\\" or char.isupper()), None)
    if bad is not None:
        raise ItemError(f"{bad!r} cannot stand in a tag: lower-case ASCII without space , # * & \\ and quotes can")
    return text


def check_prefix(text: str) -> str:
    """A path's begin: `/` first, printable ASCII without blanks, quotes, `*`, `?`, `#`, `&`. Raises: ItemError."""
    if not text.startswith("/") or len(text) > PREFIX_BYTES_MAX:
        raise ItemError(f"it begins with / and has at most {PREFIX_BYTES_MAX} bytes")
    bad = next((char for char in text if not "!" <= char <= "~" or char in "*?#&\"'\\<>`{}|^"), None)
    if bad is not None:
        raise ItemError(f"{bad!r} cannot stand in a path's begin")
    return text
