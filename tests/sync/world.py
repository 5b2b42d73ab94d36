"""Organisations of logs in one process: made, brought together, and looked at as what they come to."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net import keys
from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import (
    ChainId,
    Head,
    Segment,
    chain_hash,
    chain_start,
    decode_segment,
    encode_segment,
    extend,
    payload_hash,
)
from rage_net.sync.facts import Access, Body, Certificate, Document, Fact, New
from rage_net.sync.log import Log, Taken, open_log
from rage_net.sync.payloads import Content, encode_payload
from rage_net.sync.vocabulary import document_id

ORGANIZATION = "acme"
WHOLE = 1 << 40
NOW = 1_800_000_000.0


class World:
    """An `Env` for blocking code."""

    def __init__(self, seed: random.Random) -> None:
        self.random = seed
        self.time = NOW

    def now(self) -> float:
        return self.time


def judge(author: PeerId, certificates: tuple[bytes, ...]) -> frozenset[str] | None:
    """A certificate of these tests says its capabilities, and whose it is; `bad` ones do not hold."""
    words = certificates[0].decode().split()
    return None if "bad" in words or str(author) not in words else frozenset(words[1:])


def certificate(author: PeerId, *capabilities: str) -> Certificate:
    return Certificate((" ".join((str(author), *capabilities)).encode(),))


def grant(whom: PeerId | str, action: str = "read", allowed: bool = True, expires_at: int = 0) -> Access:
    return Access(whom if isinstance(whom, str) else f"peer:{whom}", action, allowed, expires_at)


def document(content: bytes = b"content", created_at: int = 5) -> Document:
    return Document(Cid.of(content), len(content), 1, created_at)


class Forger:
    """An author whose chains are written by hand: everything that `Log` would not write."""

    def __init__(self, seed: random.Random, *capabilities: str, organization: str = ORGANIZATION) -> None:
        self.random = seed
        self.key: Ed25519PrivateKey = keys.generate(seed)
        self.id = PeerId.from_public_key(self.key.public_key())
        self.organization = organization
        self.chain = ChainId(self.id, seed.getrandbits(64))
        self.head: Head | None = None
        self.capabilities = capabilities or ("storage",)
        self.segments: list[Segment] = []

    def payload(self, resource: str, body: Body, lamport: int = 1, over: Sequence[bytes] = ()) -> bytes:
        return encode_payload(Content(lamport, self.random.getrandbits(64), resource, tuple(over), body))

    def certify(self) -> Segment:
        return self.say(self.payload(f"peer:{self.id}", certificate(self.id, *self.capabilities)))

    def say(self, *payloads: bytes) -> Segment:
        """A segment behind the last one."""
        segment = extend(self.key, self.organization, self.head, self.chain, payloads)
        self.head = end_of(segment, self.head, self.organization)
        self.segments.append(segment)
        return segment

    def branch(self, after: Head, *payloads: bytes) -> Segment:
        """A segment behind an earlier head: a fork."""
        return extend(self.key, self.organization, after, self.chain, payloads)


def end_of(segment: Segment, before: Head | None, organization: str = ORGANIZATION) -> Head:
    previous = before.hash if before else chain_start(segment.chain, organization)
    hashes = [given if payload is None else payload_hash(payload) for payload, given in segment.entries]
    return Head(segment.chain, segment.last, chain_hash(previous, segment.first, hashes))


def make_log(
    rng: random.Random,
    *capabilities: str,
    path: Path | None = None,
    key: Ed25519PrivateKey | None = None,
    world: World | None = None,
) -> Log:
    """A log whose author has a certificate, unless no capability is given."""
    log = open_log(path, key=key or keys.generate(rng), env=world or World(rng))
    if capabilities:
        log.append(ORGANIZATION, [New(f"peer:{log.author}", certificate(log.author, *capabilities))], judge=judge)
    return log


def put_document(log: Log, rng: random.Random, content: bytes = b"content") -> str:
    """A document of this author. Returns: its resource."""
    resource = f"doc:{document_id(log.author, rng.getrandbits(64))}"
    log.append(ORGANIZATION, [New(resource, document(content))])
    return resource


def give(log: Log, *segments: Segment) -> Taken:
    return log.take(ORGANIZATION, segments, authority=judge)


def pull(to: Log, source: Log, known: Iterable[Head] | None = None, bytes_max: int = WHOLE) -> Taken:
    """One answer of `source` to `to`, as on the wire."""
    heads = to.heads(ORGANIZATION) if known is None else tuple(known)
    sent = source.missing(ORGANIZATION, heads, is_complete=True, bytes_max=bytes_max)
    return give(to, *[decode_segment(encode_segment(segment)) for segment in list(sent)])


def meet(*logs: Log) -> None:
    """All hear of all."""
    for _ in range(2):
        for to in logs:
            for source in logs:
                if to is not source:
                    pull(to, source)


def state(log: Log) -> dict[str, object]:
    """What a log comes to: equal on nodes that agree."""
    found: dict[str, object] = {"documents": log.documents(ORGANIZATION), "epoch": log.epoch(ORGANIZATION)}
    for resource in log.resources(ORGANIZATION, limit=10_000):
        counted = log.counting(ORGANIZATION, resource)
        if counted.facts:
            found[resource] = (counted.owner, tuple(fact.id for fact in counted.facts), ids(counted.current))
    return found


def ids(facts: Iterable[Fact]) -> tuple[bytes, ...]:
    return tuple(fact.id for fact in facts)
