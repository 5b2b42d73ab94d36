"""Verbs of the noun discovery: servers, and what they know. Serving is a process of its own, not a verb."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One configured discovery server as it answered just now. `expires_in_s` is what is left of our registration."""

    url: str
    ok: bool
    latency_ms: float | None
    peers: int
    """Peers its bootstrap answer named."""
    registered: bool
    expires_in_s: float | None
    reachable: bool | None
    """Whether its dial-back reached us; None where it has not said."""
    error: str
    code: str = ""
    """The error's id, such as server-unreachable or wrong-audience."""


@dataclass(frozen=True, slots=True)
class ListServersResult:
    """The servers, in the order of the configuration."""

    items: tuple[ServerRow, ...]


@dataclass(frozen=True, slots=True)
class ListServers(Verb[ListServersResult]):
    """The configured discovery servers, asked now."""

    route: ClassVar[str] = "discovery/list"
    result: ClassVar[type] = ListServersResult


@dataclass(frozen=True, slots=True)
class RegisteredPeer:
    """A peer as discovery servers list it. `organization` is a claim unless `is_proven`."""

    peer_id: str
    addresses: tuple[str, ...]
    organization: str
    is_proven: bool
    region: str
    capabilities: tuple[str, ...]
    reachable: bool | None
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListRegisteredResult:
    """What the servers together know; `errors` holds `url: why` of those that did not answer."""

    items: tuple[RegisteredPeer, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListRegistered(Verb[ListRegisteredResult]):
    """Peers that the servers list, filtered; empty words do not filter."""

    route: ClassVar[str] = "discovery/peers"
    result: ClassVar[type] = ListRegisteredResult

    organization: str = ""
    region: str = ""
    capability: str = ""


@dataclass(frozen=True, slots=True)
class RegisterResult:
    """One row a server; those that refused or did not answer have an `error`."""

    items: tuple[ServerRow, ...]


@dataclass(frozen=True, slots=True)
class Register(Verb[RegisterResult]):
    """Register the running node at every server now."""

    route: ClassVar[str] = "discovery/register"
    result: ClassVar[type] = RegisterResult
    mutates: ClassVar[bool] = True
