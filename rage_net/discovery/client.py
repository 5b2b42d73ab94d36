"""The client of discovery servers: asks all that are configured at once, and believes none of them more than it must.

A server can lie about who is where; it cannot pretend to be a peer, because Noise proves who answers a dial. So what it
can cost is time and dials, and both are bounded: peers of one answer and of all, addresses of a peer, bytes, seconds.
The answers are united in turns, so that one server with a long list pushes out no other's. An address is left out when
it is our own, or can only be meant for somebody nearer to the server than we are (a loopback address from afar).

The last good answer is kept in a file, so that a node whose servers are all down begins with whom it knew.

Not here: when to ask (`schedule` says when to register; the caller runs the jobs), dialling.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import msgspec

from rage_net import durable
from rage_net.discovery import api
from rage_net.discovery.found import (
    MEMORY_BYTES_MAX,
    PEERS_MAX,
    Found,
    FoundPeer,
    Outcome,
    decode_found,
    encode_found,
    unite,
)
from rage_net.discovery.proofs import SIGNATURE, audience_of, sign_query, sign_registration
from rage_net.discovery.records import (
    ADDRESSES_MAX,
    CAPABILITIES_MAX,
    HEARTBEATS_IN_TTL,
    MEMBERS_MAX,
    ListedPeer,
    Registration,
    clamp_ttl_s,
    decode_listed,
    visible_from,
)
from rage_net.discovery.schedule import Beat, next_due
from rage_net.env import Env
from rage_net.errors import (
    AccessDeniedError,
    ConflictError,
    IntegrityError,
    PeerProtocolError,
    RageError,
    UsageError,
)
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import Scope, parse_ip, scope_of_ip
from rage_net.web import Answer, RefusedError, Web

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger("rage.discovery")

SERVERS_MAX = 16
"""Servers asked; the configuration's further ones are left out, with a warning."""
TIMEOUT_S = 5.0
"""For one server's whole answer, a page of it where it has several."""
ANSWER_BYTES_MAX = 256 * 1024
"""Of one answer: a page of 100 peers with 8 addresses each has 130 KiB."""
PEERS_PER_ANSWER_MAX = 100
PAGES_MAX = 10
"""Of one server's list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the node says of itself to every server."""

    addresses: tuple[Multiaddr, ...]
    organization_id: str = ""
    region: str = ""
    zone: str = ""
    capabilities: tuple[str, ...] = ()
    private: bool = False
    members: tuple[PeerId, ...] = ()
    """Of a private node: who may see it, when not every member of its organisation may."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of the registration at one server."""

    url: str
    latency_s: float | None
    error: RageError | None = None
    expires_at: float | None = None
    """By this machine's wall clock; None without a registration that holds."""
    reachable: bool | None = None
    """What its dial-back found; None where it has not said."""
    observed: str = ""
    """The address it sees us at; empty where it does not say."""
    dropped: tuple[str, ...] = ()
    """Addresses it does not list, with the reason."""
    twin: str = ""
    """Where else a node with our key has registered since we last did; empty when none has. That must be mended."""


class Client:
    """One node's view of its discovery servers.

    Args: servers: URLs. own: where the node can be reached, as far as it knows. memory: the file of the last good
    answer; None keeps none.
    """

    def __init__(
        self,
        servers: Sequence[str],
        key: Ed25519PrivateKey,
        web: Web,
        env: Env,
        *,
        own: Callable[[], Iterable[Multiaddr]] = tuple,
        memory: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if len(servers) > SERVERS_MAX:
            log.warning("only the first %d of %d discovery servers are used", SERVERS_MAX, len(servers))
        self.servers = tuple(dict.fromkeys(url.rstrip("/") for url in servers))[:SERVERS_MAX]
        self.peer_id = PeerId.from_public_key(key.public_key())
        self.instance = f"{env.random.getrandbits(64):016x}"
        self._key = key
        self._web = web
        self._env = env
        self._own = own
        self._memory = memory
        self._timeout_s = timeout_s
        self._sequence = 0
        self._beats: dict[str, Beat] = {}
        self._last: dict[str, Registered] = {}

    # --- asking ---

    async def bootstrap(self) -> Found:
        """A few good peers from each server; those of the file when no server answered."""
        found = await self._ask(api.BOOTSTRAP, {}, pages=1)
        if any(outcome.ok and outcome.peers for outcome in found.outcomes):
            await self._remember(found)
        elif self._memory is not None:
            remembered = await self._env.blocking(self._recall)
            found = Found(remembered, found.outcomes, is_remembered=True)
        return found

    async def peers(self, *, organization: str = "", region: str = "", capability: str = "") -> Found:
        """All peers that the servers list, filtered by them; up to `PAGES_MAX` pages of each."""
        words = {"organization": organization, "region": region, "capability": capability}
        wanted = {name: text for name, text in words.items() if text} | {"limit": str(api.LIMIT_MAX)}
        return await self._ask(api.PEERS, wanted, pages=PAGES_MAX)

    async def _ask(self, path: str, words: Mapping[str, str], *, pages: int) -> Found:
        asked = [asyncio.ensure_future(self._ask_one(url, path, words, pages)) for url in self.servers]
        answers = await _gathered(asked)
        united = unite([(outcome.url, peers) for outcome, peers in answers])
        return Found(tuple(united), tuple(outcome for outcome, _ in answers))

    async def _ask_one(
        self, url: str, path: str, words: Mapping[str, str], pages: int
    ) -> tuple[Outcome, list[ListedPeer]]:
        """One server's peers, checked; an error is part of the outcome, and so are the peers that came before it."""
        peers: dict[PeerId, ListedPeer] = {}
        latency_s: float | None = None
        try:
            cursor = ""
            for _ in range(pages):
                query = urlencode({**words, **({"cursor": cursor} if cursor else {})})
                answer = await self._get(url, path, query)
                latency_s = latency_s if latency_s is not None else answer.seconds
                plain = _decode(answer)
                peers |= {peer.peer_id: peer for peer in self._checked(url, answer, plain)}
                cursor = str(plain.get("next") or "")
                if not cursor or len(cursor) > api.CURSOR_CHARS_MAX or len(peers) >= PEERS_MAX:
                    break
        except RageError as error:
            return Outcome(url, latency_s, len(peers), error), list(peers.values())
        return Outcome(url, latency_s, len(peers)), list(peers.values())

    async def _get(self, url: str, path: str, query: str) -> Answer:
        """One page, asked as who we are; and as nobody, when the server cannot be convinced (our clock may be off)."""
        whole = f"{url}{path}" + (f"?{query}" if query else "")
        signed = sign_query(
            self._key,
            self.peer_id,
            method="GET",
            audience=_audience(url),
            path=path,
            query=query,
            now=self._env.now(),
        )
        get = functools.partial(self._web.get, whole, timeout_s=self._timeout_s, bytes_max=ANSWER_BYTES_MAX)
        try:
            return await get(headers=signed)
        except (AccessDeniedError, ConflictError, IntegrityError) as error:
            log.debug("%s does not believe who we are: %s", url, error)
            return await get()

    def _checked(self, url: str, answer: Answer, plain: Mapping[str, Any]) -> list[ListedPeer]:
        listed = plain.get("peers")
        if not isinstance(listed, list):
            raise PeerProtocolError(f"{url} answers without a list of peers", id="answer-type")
        scope, own = _distance(url, answer.remote), frozenset(self._own())
        found = []
        for one in listed[:PEERS_PER_ANSWER_MAX]:
            peer = decode_listed(one) if isinstance(one, dict) else None
            if peer is None or peer.peer_id == self.peer_id:
                continue
            kept = tuple(address for address in visible_from(peer.addresses, scope) if address not in own)
            if kept:
                found.append(dataclasses.replace(peer, addresses=kept))
        return found

    # --- registering ---

    async def register(
        self, about: About, *, heartbeat_interval_s: float, retry_interval_s: float = 60.0, only_due: bool = False
    ) -> tuple[Registered, ...]:
        """Register at every server, or with `only_due` at those whose time has come; one row for each that was asked.

        A registration holds for `HEARTBEATS_IN_TTL` heartbeats, within what servers grant.
        """
        now = self._env.monotonic()
        due = [
            url
            for url in self.servers
            if not only_due or self._due(url, heartbeat_interval_s, retry_interval_s, 1.0) <= now
        ]
        ttl_s = clamp_ttl_s(HEARTBEATS_IN_TTL * heartbeat_interval_s)
        return tuple(await _gathered([asyncio.ensure_future(self._register_at(url, about, ttl_s)) for url in due]))

    async def leave(self, about: About) -> tuple[Registered, ...]:
        """Take the registration back where it holds: the node ends."""
        now = self._env.now()
        held = [url for url, last in self._last.items() if (last.expires_at or 0) > now]
        return tuple(await _gathered([asyncio.ensure_future(self._register_at(url, about, 0.0)) for url in held]))

    def wait_s(self, *, heartbeat_interval_s: float, retry_interval_s: float) -> float:
        """Seconds until `register(only_due=True)` has something to do; infinite without servers."""
        draw, now = self._env.random.random(), self._env.monotonic()
        dues = [self._due(url, heartbeat_interval_s, retry_interval_s, draw) for url in self.servers]
        return max(0.0, min(dues, default=math.inf) - now)

    def registrations(self) -> tuple[Registered, ...]:
        """What each server last said, of those that were asked."""
        return tuple(self._last[url] for url in self.servers if url in self._last)

    def _due(self, url: str, heartbeat_interval_s: float, retry_interval_s: float, draw: float) -> float:
        return next_due(
            self._beats.get(url, Beat()),
            heartbeat_interval_s=heartbeat_interval_s,
            retry_interval_s=retry_interval_s,
            draw=draw,
        )

    async def _register_at(self, url: str, about: About, ttl_s: float) -> Registered:
        beat, last = self._beats.get(url, Beat()), self._last.get(url)
        try:
            body, signature = sign_registration(self._key, self._registration(_audience(url), about, ttl_s))
            answer = await self._web.request(
                "POST",
                f"{url}{api.REGISTER}",
                body=body,
                headers={SIGNATURE: signature, "Content-Type": "application/json"},
                timeout_s=self._timeout_s,
                bytes_max=ANSWER_BYTES_MAX,
            )
            found = self._read_registered(url, answer, has_registered=last is not None and last.error is None)
        except RageError as error:
            pause_s = error.retry_after_s if isinstance(error, RefusedError) else 0.0
            self._beats[url] = beat.failed(self._env.monotonic(), pause_s)
            found = Registered(url, None, error, last.expires_at if last is not None else None)
        else:
            granted_s = max(0.0, (found.expires_at or 0.0) - self._env.now())
            self._beats[url] = beat.ok(self._env.monotonic(), granted_s)
        self._last[url] = found
        return found

    def _registration(self, audience: str, about: About, ttl_s: float) -> Registration:
        self._sequence = max(self._sequence + 1, int(self._env.now() * 1000))
        return Registration(
            peer_id=self.peer_id,
            addresses=about.addresses[:ADDRESSES_MAX],
            organization_id=about.organization_id,
            region=about.region,
            zone=about.zone,
            capabilities=about.capabilities[:CAPABILITIES_MAX],
            private=about.private,
            members=about.members[:MEMBERS_MAX],
            audience=audience,
            instance=self.instance,
            sequence=self._sequence,
            ttl_s=ttl_s,
        )

    def _read_registered(self, url: str, answer: Answer, *, has_registered: bool) -> Registered:
        plain = _decode(answer)
        ttl_s, reachable, previous = plain.get("ttl_s"), plain.get("reachable"), plain.get("previous")
        if not isinstance(ttl_s, (int, float)) or isinstance(ttl_s, bool) or not 0 <= ttl_s < 1e9:
            raise PeerProtocolError(f"{url} does not say how long the registration holds", id="answer-type")
        twin = ""
        # After a restart the previous instance may be this node's own, a moment ago; after a heartbeat it cannot be.
        if isinstance(previous, dict) and has_registered and previous.get("instance") != self.instance:
            source, addresses = str(previous.get("source", ""))[:64], previous.get("addresses")
            shown = [str(text)[:200] for text in addresses[:3]] if isinstance(addresses, list) else []
            twin = f"{source} ({', '.join(shown)})"
            log.warning("another node registered with this node's key at %s, from %s", url, twin)
        dropped = plain.get("dropped")
        return Registered(
            url,
            answer.seconds,
            expires_at=self._env.now() + float(ttl_s) if ttl_s else None,
            reachable=reachable if isinstance(reachable, bool) else None,
            observed=str(plain.get("observed") or "")[:64],
            dropped=tuple(
                f"{str(one.get('address'))[:200]}: {str(one.get('why'))[:200]}"
                for one in (dropped[:ADDRESSES_MAX] if isinstance(dropped, list) else [])
                if isinstance(one, dict)
            ),
            twin=twin,
        )

    # --- the last good answer ---

    async def _remember(self, found: Found) -> None:
        if self._memory is None:
            return
        try:
            await self._env.blocking(_write, self._memory, encode_found(found, self._env.now()))
        except RageError as error:  # a memory aid: a full disk must not keep a node from its peers
            log.warning("what the discovery servers said cannot be kept: %s", error)

    def _recall(self) -> tuple[FoundPeer, ...]:
        """The peers of the file, none when it cannot be read. Blocking."""
        assert self._memory is not None
        try:
            with self._memory.open("rb") as file:
                peers = decode_found(file.read(MEMORY_BYTES_MAX))
        except OSError:
            return ()
        return tuple(peer for peer in peers if peer.listed.peer_id != self.peer_id)


async def _gathered(tasks: Sequence[asyncio.Future[Any]]) -> list[Any]:
    """The results in order; whoever gives up waiting takes the tasks along."""
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _decode(answer: Answer) -> dict[str, Any]:
    try:
        plain = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError("the answer is no JSON", why=str(error), id="answer-type") from None
    if not isinstance(plain, dict):
        raise PeerProtocolError("the answer is no JSON object", id="answer-type")
    return plain


def _distance(url: str, remote: str | None) -> Scope:
    """How far away a server is: by the address that answered, else by the one in its URL; a name alone is far."""
    ip = parse_ip(remote or urlsplit(url).hostname or "")
    return (scope_of_ip(ip) if ip is not None else Scope.NOWHERE) or Scope.WORLD


def _audience(url: str) -> str:
    try:
        return audience_of(url)
    except ValueError as error:
        raise UsageError(f"{url} is no address of a discovery server", why=str(error)) from None


def _write(path: Path, data: bytes) -> None:
    with durable.file_errors(path):
        durable.write_replacing(path, data)
