"""Requests to a discovery server and its answers, as values: what the HTTP door hands over and gets back.

    GET  /api/v1/network/bootstrap   a few good peers for a node that knows nobody
    POST /api/v1/network/register    a signed registration (`proofs`)
    GET  /api/v1/network/peers       ?organization= &region= &capability= &limit= &cursor=

Source: specification, "Discovery Server API".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rage_net.discovery.records import BODY_BYTES_MAX
from rage_net.libp2p.scope import IpAddress

ROOT = "/api/v1/network"
BOOTSTRAP, REGISTER, PEERS = f"{ROOT}/bootstrap", f"{ROOT}/register", f"{ROOT}/peers"
METHODS = {BOOTSTRAP: "GET", REGISTER: "POST", PEERS: "GET"}

LIMIT_DEFAULT, LIMIT_MAX = 50, 100
"""Peers in one page."""
SAMPLE_DEFAULT, SAMPLE_MAX = 20, 50
"""Peers in a bootstrap answer."""
CURSOR_CHARS_MAX = 100
QUERY_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its method and route already known to be served."""

    method: str
    path: str
    query: str
    """What stands behind the `?`, as it was sent."""
    headers: Mapping[str, str]
    """By lower-case name."""
    source: IpAddress | None
    """The address at the other end of the connection; None when there is none, as on a Unix socket."""
    local: tuple[IpAddress | None, int]
    """The address and port it came in at."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: a status, JSON values, and further headers."""

    status: int
    plain: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Discovery(Protocol):
    """What answers on these routes."""

    async def handle(self, request: Request) -> Answer:
        """The answer. Raises RageError, whose message the client may see."""
        ...


__all__ = [
    "BODY_BYTES_MAX",
    "BOOTSTRAP",
    "CURSOR_CHARS_MAX",
    "LIMIT_DEFAULT",
    "LIMIT_MAX",
    "METHODS",
    "PEERS",
    "QUERY_CHARS_MAX",
    "REGISTER",
    "ROOT",
    "SAMPLE_DEFAULT",
    "SAMPLE_MAX",
    "Answer",
    "Discovery",
    "Request",
]
