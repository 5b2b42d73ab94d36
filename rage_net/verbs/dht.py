"""Verbs of the noun dht: the table, and look-ups hop by hop."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer of the DHT. `distance_bits` is 256 less the leading bits its key shares with the target (or with us)."""

    peer_id: str
    addresses: tuple[str, ...]
    distance_bits: int
    age_s: float | None = None
    """Since it last answered us; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Contacts whose distance from us has the same length in bits; `replacements` wait for a place."""

    distance_bits: int
    contacts: tuple[Contact, ...]
    replacements: int


@dataclass(frozen=True, slots=True)
class ShowTableResult:
    """The routing table, nearest bucket first, and what others have stored here."""

    peer_id: str
    mode: str
    """server, client or off."""
    contacts: int
    replacements: int
    provider_records: int
    value_records: int
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class ShowTable(Verb[ShowTableResult]):
    """The routing table of the running node."""

    route: ClassVar[str] = "dht/table"
    result: ClassVar[type] = ShowTableResult


@dataclass(frozen=True, slots=True)
class Hop:
    """One question of a look-up. `depth` counts from 1; `outcome` is answered, timeout or error; `error` says which."""

    number: int
    depth: int
    peer_id: str
    address: str
    distance_bits: int
    outcome: str
    error: str
    ms: float
    closer: int
    """Peers it named that we had not heard of."""
    providers: int


@dataclass(frozen=True, slots=True)
class LookUpResult:
    """What a look-up found. `target` is as the caller wrote it; `found` are the nearest peers, nearest first."""

    target: str
    kind: str
    """peer or cid."""
    found: tuple[Contact, ...]
    providers: tuple[Contact, ...]
    asked: int
    failed: int
    depth: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FindNearest(Verb[LookUpResult]):
    """The peers nearest to a peer id or CID, at most 20."""

    route: ClassVar[str] = "dht/find"
    result: ClassVar[type] = LookUpResult

    target: str


@dataclass(frozen=True, slots=True)
class FindProviders(Verb[LookUpResult]):
    """Peers that the DHT says provide a CID, at most `limit`."""

    route: ClassVar[str] = "dht/providers"
    result: ClassVar[type] = LookUpResult

    cid: str
    limit: int = 20


@dataclass(frozen=True, slots=True)
class TraceLookUp(Verb[LookUpResult]):
    """A look-up that tells each hop as it happens; for a CID it looks for providers, for a peer id for the peer."""

    route: ClassVar[str] = "dht/trace"
    result: ClassVar[type] = LookUpResult
    item: ClassVar[type] = Hop

    target: str
