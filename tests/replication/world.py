"""Peers, chunks and nodes by number."""

from __future__ import annotations

from blake3 import blake3

from rage_net.cid import RAW, Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.place import Candidate


def peer(number: int) -> PeerId:
    return PeerId(bytes((0, 36, 8, 1, 18, 32)) + blake3(b"peer %d" % number).digest())


def cid(number: int) -> Cid:
    return Cid(RAW, blake3(b"chunk %d" % number).digest())


def node(number: int, region: str = "", zone: str = "", weight: int = 1) -> Candidate:
    return Candidate(peer(number), "acme", region, zone, weight)


def spread(count: int, regions: int = 1, zones: int = 1) -> list[Candidate]:
    """Like nodes, dealt out to regions, and within them to zones."""
    return [node(at, f"r{at % regions}", f"z{at // regions % zones}") for at in range(count)]
