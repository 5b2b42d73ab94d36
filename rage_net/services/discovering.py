"""Discovering peers for an operator: servers, DHT and mDNS at once, each answer told as it comes.

What is found is a hint until a dial has proved it. Each way ends by itself with what it found, or with its error; one
that fails keeps no other from its answers. Source: issue 3, G; design D1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rage_net import refusals
from rage_net.env import Env
from rage_net.errors import NotFoundError, RageError
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.verbs.peer import DiscoverPeers, DiscoverPeersResult, FindPeerResult, FoundPeer, ViaOutcome

if TYPE_CHECKING:
    from rage_net.discovery.client import Client
    from rage_net.libp2p.dht import Dht
    from rage_net.libp2p.mdns import Mdns

WALKS = 4
"""Look-ups for places drawn at random: each brings some 20 peers of another part of the DHT."""
PEERS_MAX = 1000
"""Peers of one discovery."""
CONNECTING_MAX = 8
CONNECT_S_MAX = 10.0
CONNECTING_S_MAX = 30.0
"""For the dials that are left when the looking is over: nobody waits for a thousand that are not answered."""
MDNS_POLL_S = 0.1

Reach = Callable[[PeerId, Sequence[Multiaddr], str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Hint:
    """A peer that some way named."""

    peer_id: PeerId
    addresses: tuple[Multiaddr, ...]
    organization: str = ""
    region: str = ""
    capabilities: tuple[str, ...] = ()


class Discovering:
    """The ways to find peers.

    Args: servers, dht: None where the configuration switches them off. listen: an mDNS listener that calls back with
    what it hears, not started; None when it is switched off. reach: a connection to a peer, or RageError. claims: what
    a peer said of itself over gossip: organisation, region, capabilities.
    """

    def __init__(
        self,
        env: Env,
        own: PeerId,
        *,
        servers: Client | None,
        dht: Dht | None,
        ready: Callable[[], Awaitable[None]],
        listen: Callable[[Callable[[PeerId, tuple[Multiaddr, ...]], None]], Mdns] | None,
        reach: Reach,
        claims: Callable[[PeerId], tuple[str, str, tuple[str, ...]]],
    ) -> None:
        self._env = env
        self._own = own
        self._servers = servers
        self._dht = dht
        self._ready = ready
        self._listen = listen
        self._reach = reach
        self._claims = claims

    async def discover(self, verb: DiscoverPeers, tell: Callable[[FoundPeer], None]) -> DiscoverPeersResult:
        """All ways of the verb at once, for at most `for_s`.

        Each peer is told when it is new; where it is to be dialled, once that is done.
        """
        ways = {"server": self.from_servers, "dht": self.from_dht, "mdns": self.from_mdns}
        found: dict[PeerId, FoundPeer] = {}
        outcomes: dict[str, ViaOutcome] = {}
        dials = asyncio.Semaphore(CONNECTING_MAX)

        async def note(via: str, hint: Hint, tasks: asyncio.TaskGroup) -> None:
            if hint.peer_id == self._own or not _fits(hint, verb):
                return
            old = found.get(hint.peer_id)
            if old is None and len(found) >= PEERS_MAX:
                return
            row = _merge(old, hint, via)
            found[hint.peer_id] = row
            if old is None and verb.connect:
                tasks.create_task(connect(hint, via))
            elif old is None:
                tell(row)

        async def connect(hint: Hint, via: str) -> None:
            error = ""
            async with dials:
                try:
                    async with asyncio.timeout(CONNECT_S_MAX):
                        await self._reach(hint.peer_id, hint.addresses, via)
                except RageError as failure:
                    error = failure.why or failure.message
                except TimeoutError:
                    error = f"no connection within {CONNECT_S_MAX:.0f} s"
            row = found[hint.peer_id] = replace(found[hint.peer_id], is_connected=not error, error=error)
            tell(row)

        async def look(via: str, tasks: asyncio.TaskGroup) -> None:
            began = self._env.monotonic()
            count, code, words = 0, "", ""
            try:
                async with asyncio.timeout(verb.for_s):
                    async for hint in ways[via](verb):
                        count += 1
                        await note(via, hint, tasks)
            except RageError as failure:
                code, words = failure.id, failure.message
            except TimeoutError:
                pass  # the time that was given is over
            seconds = round(self._env.monotonic() - began, 3)
            outcomes[via] = ViaOutcome(via, count, seconds, code, words)

        try:
            async with asyncio.timeout(verb.for_s + CONNECTING_S_MAX), asyncio.TaskGroup() as tasks:
                for via in verb.via:
                    tasks.create_task(look(via, tasks))
        except TimeoutError:
            for peer, row in found.items():
                if not row.is_connected and not row.error:
                    found[peer] = replace(row, error="not dialled: too many others were not to be reached")
                    tell(found[peer])
        return DiscoverPeersResult(tuple(found.values()), tuple(outcomes[via] for via in verb.via))

    # --- the ways ---

    async def from_servers(self, verb: DiscoverPeers) -> AsyncIterator[Hint]:
        """What the discovery servers list. Raises RageError when none answered."""
        if self._servers is None:
            raise refusals.discovery_off()
        if not self._servers.servers:
            raise refusals.no_servers()
        answer = await self._servers.peers(organization=verb.organization, region=verb.region)
        for peer in answer.peers:
            it = peer.listed
            yield Hint(it.peer_id, it.addresses, it.organization_id, it.region, it.capabilities)
        errors = [outcome.error for outcome in answer.outcomes if outcome.error is not None]
        if len(errors) == len(answer.outcomes):
            raise errors[0]

    async def from_dht(self, verb: DiscoverPeers) -> AsyncIterator[Hint]:
        """The routing table, and what look-ups for random places bring. Raises RageError with nobody to ask."""
        if self._dht is None:
            raise refusals.dht_off()
        await self._ready()
        told: set[PeerId] = set()

        def fresh(contacts: Iterable[tuple[PeerId, tuple[Multiaddr, ...]]]) -> list[Hint]:
            hints = [Hint(peer, addresses, *self._claims(peer)) for peer, addresses in contacts if peer not in told]
            told.update(hint.peer_id for hint in hints)
            return hints

        for hint in fresh((contact.peer_id, contact.addresses) for contact in self._dht.table):
            yield hint
        for _ in range(WALKS):
            key = self._env.random.randbytes(32)
            try:
                found = await self._dht.find_nearest(key)
            except Libp2pError:
                continue
            for hint in fresh((contact.peer_id, contact.addresses) for contact in found.nearest):
                yield hint

    async def from_mdns(self, verb: DiscoverPeers) -> AsyncIterator[Hint]:
        """Who answers on the local links, until the caller stops. Raises RageError where multicast is impossible."""
        if self._listen is None:
            raise refusals.mdns_off("network.libp2p.mdns.enabled is false")
        heard: asyncio.Queue[Hint] = asyncio.Queue(PEERS_MAX)

        def note(peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
            if not heard.full():
                bare = tuple(address.without_peer_id() for address in addresses)
                heard.put_nowait(Hint(peer, bare, *self._claims(peer)))

        async with self._listen(note) as mdns:
            while True:
                try:
                    async with asyncio.timeout(MDNS_POLL_S):
                        yield await heard.get()
                except TimeoutError:
                    if mdns.state == "unavailable":
                        raise refusals.mdns_off(mdns.reason) from None

    # --- one peer ---

    async def find(self, peer: PeerId, known: Sequence[Multiaddr], *, is_connected: bool) -> FindPeerResult:
        """Where a peer may be dialled: from here, else from servers and the DHT at once, the first that knows.

        Raises: NotFoundError with what each said.
        """
        began = self._env.monotonic()
        asked: list[str] = []

        def result(addresses: Iterable[Multiaddr], source: str) -> FindPeerResult:
            shown = tuple(str(address.with_peer_id(peer)) for address in addresses)
            seconds = round(self._env.monotonic() - began, 3)
            return FindPeerResult(str(peer), shown, source, is_connected, seconds, tuple(asked))

        if known:
            return result(known, "connected" if is_connected else "known")

        async def from_servers() -> tuple[Multiaddr, ...]:
            assert self._servers is not None
            found = await self._servers.peers()
            at = next((one.listed.addresses for one in found.peers if one.listed.peer_id == peer), ())
            answered = sum(outcome.ok for outcome in found.outcomes)
            asked.append(f"server: {'listed' if at else 'not listed'} ({answered} of {len(found.outcomes)} answered)")
            return at

        async def from_dht() -> tuple[Multiaddr, ...]:
            assert self._dht is not None
            try:
                await self._ready()
                contact, found = await self._dht.find_peer(peer)
            except (Libp2pError, RageError) as error:
                asked.append(f"dht: {error}")
                return ()
            asked.append(f"dht: {'found' if contact else 'not found'} ({found.asked} peers asked)")
            return contact.addresses if contact is not None else ()

        ways = {}
        if self._servers is not None and self._servers.servers:
            ways["server"] = from_servers
        if self._dht is not None:
            ways["dht"] = from_dht
        tasks = {asyncio.ensure_future(way()): name for name, way in ways.items()}
        try:
            for done in asyncio.as_completed(list(tasks)):
                addresses = await done
                if addresses:
                    name = next(name for task, name in tasks.items() if task.done() and task.result() == addresses)
                    return result(addresses, name)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise NotFoundError(
            f"no address of {peer} is known",
            why="; ".join(asked) or "discovery and the DHT are switched off",
            mend=["rage peer discover", f"rage peer connect /ip4/HOST/tcp/4001/p2p/{peer}"],
            id="peer-not-found",
        )


def _fits(hint: Hint, verb: DiscoverPeers) -> bool:
    is_org = not verb.organization or hint.organization == verb.organization
    return is_org and (not verb.region or hint.region == verb.region)


def _merge(old: FoundPeer | None, hint: Hint, via: str) -> FoundPeer:
    addresses = tuple(str(address.with_peer_id(hint.peer_id)) for address in hint.addresses)
    if old is None:
        words = (hint.organization, hint.region, hint.capabilities)
        return FoundPeer(str(hint.peer_id), addresses, (via,), *words)
    return replace(
        old,
        addresses=tuple(dict.fromkeys([*old.addresses, *addresses])),
        via=tuple(dict.fromkeys([*old.via, via])),
        organization=old.organization or hint.organization,
        region=old.region or hint.region,
        capabilities=old.capabilities or hint.capabilities,
    )
