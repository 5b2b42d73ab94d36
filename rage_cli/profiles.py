"""The topologies of the specification as first configurations: what `rage init --profile` writes into network.yaml.

Each is a handful of keys that an operator could set by hand; none is a mode of its own. Who may write is said by a
node's certificate, whom it trusts by `rage trust`: a profile gives neither. Source: specification, "Network Topology".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rage_net.errors import UsageError


@dataclass(frozen=True, slots=True)
class Profile:
    """One topology's role: its line of help, what it sets, what it needs to be told."""

    text: str
    settings: dict[str, object]
    needs_hub: bool = False
    needs_tags: bool = False


_SPOKE: dict[str, object] = {"libp2p.dht.mode": "client", "sync.interval": "1m"}

PROFILES: dict[str, Profile] = {
    "single-org": Profile(
        "one organisation in several regions: all its nodes are equal, strangers get nothing",
        {"discovery.registration.private": True, "sync.interval": "1m"},
    ),
    "federation": Profile(
        "one of several organisations: each has its own CA, and trusts others by `rage trust add`",
        {"security.trust_model": "explicit", "discovery.registration.private": False},
    ),
    "hub": Profile(
        "the data centre that spokes exchange everything with",
        {"libp2p.dht.mode": "server", "limits.connections": 2048, "sync.interval": "1m"},
    ),
    "spoke": Profile("an office: exchanges all metadata with the hub alone", _SPOKE, needs_hub=True),
    "spoke-selective": Profile(
        "a remote site: takes what carries one of its tags", _SPOKE, needs_hub=True, needs_tags=True
    ),
    "spoke-read-only": Profile(
        "an office that reads and writes nothing", {**_SPOKE, "sync.read_only": True}, needs_hub=True
    ),
}


def settings_of(name: str, hub: str, tags: Sequence[str]) -> dict[str, object]:
    """Keys and values of a profile. Raises UsageError for what does not fit it."""
    from rage_cli.command import not_one_of
    from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError

    if name not in PROFILES:
        raise not_one_of("--profile", name, list(PROFILES))
    profile = PROFILES[name]
    if bool(hub) != profile.needs_hub:
        said = "needs --hub, the hub's multiaddr" if profile.needs_hub else "takes no --hub"
        raise UsageError(f"the profile {name} {said}", mend=["--hub /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."])
    if bool(tags) != profile.needs_tags:
        said = "needs --tag" if profile.needs_tags else "takes no --tag"
        raise UsageError(f"the profile {name} {said}", mend=["--profile spoke-selective --tag office-4"])
    found = dict(profile.settings)
    if hub:
        try:
            address = Multiaddr.parse(hub)
        except MultiaddrError as error:
            raise UsageError(f"--hub: {hub!r} is no multiaddr", why=str(error)) from None
        if address.peer_id is None:
            raise UsageError(f"--hub: {hub} does not say which peer is wanted", mend=[f"--hub {hub}/p2p/12D3KooW..."])
        found |= {"libp2p.bootstrap_peers": [hub], "sync.peers": [str(address.peer_id)]}
    if tags:
        found["sync.tags"] = list(tags)
    return found
