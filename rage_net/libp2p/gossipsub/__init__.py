"""Gossipsub 1.1 and 1.2: messages of a topic reach all who joined it, each once, over links that are kept few.

    params   every number that a host may choose
    router   the state machine: read it first
    mesh     grafts, prunes, back-off, upkeep
    gossip   IHAVE, IWANT, IDONTWANT, promises
    peers    who is there, what each has joined and was told
    score    what we think of each
    outbox   what waits for each
    cache    what was seen, what others may want
    message  names and signatures
    rpc      bytes to values and back

Sans-I/O: `rage_net.libp2p.pubsub` is the host. Source: libp2p/specs, pubsub.
"""

from __future__ import annotations

from rage_net.libp2p.gossipsub.message import Message, Verdict
from rage_net.libp2p.gossipsub.params import Params, ScoreParams, TopicScore
from rage_net.libp2p.gossipsub.router import PROTOCOLS, Delivered, Event, Exchanged, Router
from rage_net.libp2p.gossipsub.rpc import Frames, Rpc, decode, encode

__all__ = [
    "PROTOCOLS",
    "Delivered",
    "Event",
    "Exchanged",
    "Frames",
    "Message",
    "Params",
    "Router",
    "Rpc",
    "ScoreParams",
    "TopicScore",
    "Verdict",
    "decode",
    "encode",
]
