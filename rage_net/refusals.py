"""What a node says when it will not or cannot do what a verb of the network wants: the words, once for all.

Engine, services and commands raise the same refusals; their ids are a contract (`rage help error`). Pure: an error
comes back, the caller raises it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rage_net.errors import (
    AccessDeniedError,
    ConfigError,
    FindingsError,
    NotFoundError,
    RageError,
    UnavailableError,
    UsageError,
)


def no_node() -> RageError:
    """The verb is for a running node, and this is the engine of one command."""
    return UnavailableError("no node runs here", mend=["rage node start"], id="node-unreachable")


def banned(peer_id: str, until: float | None, reason: str) -> RageError:
    """The peer is banned here. `until` is seconds since the epoch, None for good."""
    end = "for good" if until is None else time.strftime("until %Y-%m-%d %H:%M UTC", time.gmtime(until))
    return AccessDeniedError(
        f"{peer_id} is banned here {end}",
        why=reason,
        mend=[f"rage peer unban {peer_id}"],
        id="peer-banned",
    )


def not_banned(peer_id: str) -> RageError:
    """There is no ban to lift."""
    return NotFoundError(f"{peer_id} is not banned", mend=["rage peer list --state banned"], id="peer-not-banned")


def not_trusted(peer_id: str, reason: str) -> RageError:
    """One of the two ends does not trust the other's certificate. `reason` is the stable word of which and why."""
    return AccessDeniedError(
        f"{peer_id} is not trusted, or does not trust this node",
        why=reason,
        mend=[f"rage why {peer_id}", f"rage trust test {peer_id}"],
        id="peer-not-trusted",
    )


def peer_id_needed(text: str) -> RageError:
    """A part of an id that matches nobody known cannot be looked up."""
    return UsageError(
        f"{text!r} is no whole peer id, and nobody known has an id like it",
        why="discovery servers and the DHT look up whole ids alone",
        mend=["rage peer list --known"],
        id="peer-id-needed",
    )


def dht_off() -> RageError:
    """The configuration takes no part in the DHT."""
    return UnavailableError(
        "this node takes no part in the DHT",
        why="network.libp2p.dht.enabled is false",
        mend=["set network.libp2p.dht.enabled to true", "rage config show network.libp2p.dht --origin"],
        id="dht-off",
    )


def dht_empty() -> RageError:
    """The routing table holds nobody who could be asked."""
    return UnavailableError(
        "the DHT knows nobody to ask",
        why="no peer of the DHT has answered yet",
        mend=["rage peer discover --connect", "rage doctor --only bootstrap --only dht"],
        id="dht-empty",
    )


def discovery_off() -> RageError:
    """The configuration asks no discovery servers."""
    return UnavailableError(
        "discovery servers are switched off",
        why="network.discovery.enabled is false",
        mend=["set network.discovery.enabled to true", "rage config show network.discovery --origin"],
        id="discovery-off",
    )


def no_servers() -> RageError:
    """The configuration names no discovery server."""
    return NotFoundError(
        "no discovery server is configured",
        why="network.discovery.servers is empty",
        mend=["set network.discovery.servers", "rage discovery serve", "rage peer discover --via dht,mdns"],
        id="no-servers",
    )


def mdns_off(why: str) -> RageError:
    """The local network cannot be asked: `why` is the configuration, or a network without multicast."""
    return UnavailableError(
        "the local network cannot be asked by mDNS",
        why=why,
        mend=["rage config show network.libp2p.mdns --origin", "rage doctor --only mdns"],
        id="mdns-off",
    )


def no_peers_found(ways: str) -> RageError:
    """All ways were asked, and none named anybody."""
    return FindingsError(
        "no peers were found",
        why=ways,
        mend=["rage peer discover --for 1m", "rage doctor"],
        id="no-peers-found",
    )


def no_providers(ref: str, asked: str) -> RageError:
    """Nobody that was asked has it, or says who has."""
    return NotFoundError(
        f"nobody is known to have {ref}",
        why=asked,
        mend=[f"rage why {ref}"],
        id="no-providers",
    )


def topic_invalid(topic: str, why: str) -> RageError:
    """It cannot be a topic's name."""
    return UsageError(f"{topic[:80]!r} is no topic", why=why, mend=["rage topic list"], id="topic-invalid")


def topic_not_joined(topic: str) -> RageError:
    """The topic is not joined here, and will not be for the asking."""
    return AccessDeniedError(
        f"this node has not joined the topic {topic}",
        why="it joins the topics of network.libp2p.gossipsub.topics",
        mend=["rage topic list", "rage config show network.libp2p.gossipsub"],
        id="topic-not-joined",
    )


def message_too_large(size: int, limit: int) -> RageError:
    """More than one message of a topic carries."""
    return UsageError(
        f"a message has at most {limit} bytes, this has {size} or more",
        why="a topic's messages go to everyone",
        mend=["rage chunk put FILE, and publish the CID"],
        id="message-too-large",
    )


def no_ca() -> RageError:
    """The node is open: it has no certificate, keeps no log, and what it said of rights would bind nobody."""
    error = ConfigError(
        "this needs a CA, and this node has none",
        why="network.security.ca_cert is not set: an open node keeps no log, and shares no metadata",
        mend=["rage cert ca init --org ORG", "rage cert request | rage cert sign - --yes | rage cert install -"],
        id="no-ca",
    )
    error.wire_code = 409  # the node is sound: it is only not what was asked of it
    return error


def not_an_admin() -> RageError:
    """Only an admin's facts would count."""
    return AccessDeniedError(
        "this node's certificate lacks the capability admin",
        why="others would not count what it writes about what is not its own",
        mend=["rage cert show", "rage cert sign node.csr --capability storage --capability admin"],
        id="not-admin",
    )


def no_sync_peers(connected: Sequence[str]) -> RageError:
    """Nobody is connected who gives us a log."""
    why = f"{len(connected)} peers are connected, none of which trust lets us exchange with" if connected else ""
    return UnavailableError(
        "nobody to exchange metadata with",
        why=why or "no peer is connected",
        mend=["rage peer list", "rage trust list", "rage doctor"],
        id="no-sync-peers",
    )


def untrusted_log(organization: str) -> RageError:
    """A log of an organisation that we have no business with."""
    return AccessDeniedError(
        f"{organization[:80]!r} is no organisation whose log this node takes",
        why="trust in it does not open sync",
        mend=[f"rage trust add {organization[:80]} --ca FILE --scope sync", "rage trust list"],
        id="untrusted-log",
    )
