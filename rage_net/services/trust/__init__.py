"""Trust: who shows which certificate over `/rage/trust/1.0.0`, and what that opens. One `Standing` a connected peer.

    dialler   Hello(chain) ->                    judges the answer, ends its half
    answerer               <- verdict, chain     judges the Hello; offers the peer once that half has ended
    both      nothing else is opened until then; who is not trusted is dropped after TRUST_S_MAX

    standing     values and rules: which scope opens what
    judge        chains against the anchors of now
    credentials  our own certificate and CAs, from files
    enrolment    renewal, both sides

A node without a CA is open, and none of this binds it: it shows what it has to who asks. What the log says (foreign
CAs, revocations, the last sync) is injected as a `TrustStore`; whoever changes it calls `reconsider`.

Source: design D7; contracts/rage.proto.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from rage_net import messages
from rage_net.acl import LEEWAY_S, Principal
from rage_net.env import Env
from rage_net.errors import ConfigError, RemoteProtocolError
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError, NegotiationError, StreamClosedError, StreamResetError
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.rates import Rates
from rage_net.messages import TRUST_PROTOCOL, Hello, Renew, TrustResponse
from rage_net.services.trust import standing as rules
from rage_net.services.trust.credentials import Credentials, Files
from rage_net.services.trust.judge import Judge
from rage_net.services.trust.standing import NoStore, Standing, TrustStore

if TYPE_CHECKING:
    from rage_net.libp2p.swarm import Connection, Stream, Swarm

__all__ = ["Files", "NoStore", "Standing", "Trust", "TrustStore"]

log = logging.getLogger("rage.trust")

Answer = Callable[[PeerId, Sequence[bytes], bytes], Awaitable[TrustResponse]]

TRUST_S_MAX = 10.0
"""From a connection to a trusted chain; then it is dropped."""
HEARD_S_MAX = 5.0
"""For a dialler to end its half once it has our answer."""
REQUESTS_BURST = 16
REQUEST_EVERY_S = 2.0
"""Requests of one peer. More cost it the connection: a chain of strangers takes a millisecond to judge."""
KNOWN_COST = 0.1
"""Of a request, for a chain that was judged before: commands of one home, one after another, are connections each."""
PEERS_MAX = 4096
"""Peers whose requests are counted."""
EXPIRY_NEAR = 0.2
"""Of a certificate's life: renewal is due at a third of it, and has failed for long."""
REFRESH_EVERY_S = 5.0
"""How often files and standings are looked at by themselves: an expired certificate is cut within this."""


class Trust:
    """One node's trust. All methods belong to one event loop."""

    def __init__(
        self,
        swarm: Swarm,
        env: Env,
        files: Files,
        store: TrustStore | None = None,
        *,
        public_access: bool = False,
        path_max: int = 0,
        staleness_s_max: float = 86_400.0,
    ) -> None:
        """Trust at the gate of `swarm`, once it has begun.

        Args: public_access: strangers may open the chunk exchange. path_max: see `cert.verify_chain`.
        staleness_s_max: with no sync for so long, certificates open no more than what is public.
        """
        self.counts: Counter[str] = Counter()
        """What happened, by name: trusted, refused, cut, dropped, floods, ... Only ever grow."""
        self.credentials = Credentials(files.organization)
        self.is_open = files.ca_cert is None
        self.public_access = public_access
        self.renew: Answer | None = None
        """Given by the enrolment: answers the CSR of a peer that has shown a chain. None where nobody is enrolled."""
        self.store = store or NoStore()
        self._swarm = swarm
        self._env = env
        self._files = files
        self._path_max = path_max
        self._staleness_s_max = staleness_s_max
        self._judge = Judge(files.organization, self.store, path_max=path_max)
        self._stamp: object = None
        self._standings: dict[PeerId, Standing] = {}
        self._answered: dict[PeerId, asyncio.Event] = {}
        self._refused_us: dict[PeerId, str] = {}  # connected peers that do not trust us, and why
        self._callbacks: list[Callable[[PeerId], None]] = []
        self._rates = Rates(burst=REQUESTS_BURST, rate_s=1 / REQUEST_EVERY_S, names_max=PEERS_MAX)
        self._file_problem = ""

    async def begin(self) -> None:
        """Read the files, and stand at the swarm's gate. Raises ConfigError."""
        self._stamp = await self._env.blocking(self._files.stamp)
        self._take(await self._env.blocking(self._files.load))
        self._swarm.handle(TRUST_PROTOCOL, self.serve)
        self._swarm.part = self._part
        if not self.is_open:
            self._swarm.may_open = self.may_open
            self._swarm.introduce = self.introduce

    # -- what others ask

    @property
    def organization(self) -> str:
        """Our own."""
        return self.credentials.organization

    def standing(self, peer: PeerId) -> Standing | None:
        """What a connected peer is to us; None until it has shown anything."""
        return self._standings.get(peer)

    def standings(self) -> list[Standing]:
        """Of all connected peers that have shown something."""
        return list(self._standings.values())

    def refused_by(self, peer: PeerId) -> str:
        """Why a connected peer does not trust us, as it said; empty where it said nothing of the kind."""
        return self._refused_us.get(peer, "")

    def is_trusted(self, peer: PeerId) -> bool:
        """Whether a peer is here with a certificate that we trust."""
        standing = self._standings.get(peer)
        return standing is not None and standing.is_trusted

    def principal_of(self, peer: PeerId) -> Principal:
        """The peer as access control knows it; with a stale log it is nobody's: what is public is all that it reads."""
        standing = self._standings.get(peer)
        if self.is_open or standing is None or not standing.is_trusted:
            return Principal("peer", str(peer))
        if self.is_stale():
            return Principal("peer", str(peer), scopes=standing.scopes)
        return standing.principal

    def certified(self, peer: PeerId) -> Principal:
        """As `principal_of`, but that a stale log does not matter: for the exchange that makes it fresh."""
        standing = self._standings.get(peer)
        if self.is_open or standing is None or not standing.is_trusted:
            return Principal("peer", str(peer))
        return standing.principal

    def is_stale(self) -> bool:
        """Whether a revocation may have passed us by: our log was compared with no other node's for too long."""
        if self.is_open:
            return False
        at = self.store.synced_at()
        if at is None:
            return False
        since_s = self._env.now() - at
        return since_s > self._staleness_s_max or since_s < -LEEWAY_S  # a clock was wrong then, or is now

    def may_open(self, connection: Connection, protocol: str) -> bool:
        """Whether this peer may open a stream of `protocol`."""
        if self.is_open:
            return True
        standing = self._standings.get(connection.peer_id)
        return rules.may_open(standing, protocol, own=self.organization, public_access=self.public_access)

    def may_join(self, peer: PeerId, topic: str) -> bool:
        """Whether a peer may know of a topic. On an open node nobody may of those that need a certificate."""
        if self.is_open:
            return not topic.startswith((rules.ORGANIZATION_TOPICS, rules.RIGHTS_TOPICS))
        return rules.may_join(self._standings.get(peer), topic, own=self.organization)

    def may_join_ourselves(self, topic: str) -> bool:
        """Whether this node may join a topic: with a CA, that of its own organisation too."""
        if self.is_open:
            return not topic.startswith((rules.ORGANIZATION_TOPICS, rules.RIGHTS_TOPICS))
        return not topic.startswith(rules.ORGANIZATION_TOPICS) or topic == f"rage.org.{self.organization}"

    def proof_of(self, peer: PeerId) -> tuple[str, str, tuple[str, ...], str] | None:
        """Organisation, region and capabilities that are proven of a peer, and how it is trusted."""
        standing = self._standings.get(peer)
        if standing is None or standing.certificate is None:
            return None
        region, capabilities = standing.certificate.region, tuple(sorted(standing.capabilities))
        return standing.organization, region, capabilities, standing.reason

    def count_peers(self) -> Counter[tuple[str, str]]:
        """Offered peers by proven organisation and region; both empty where nothing is proven."""
        found: Counter[tuple[str, str]] = Counter()
        for connection in self._swarm.connections():
            standing = self._standings.get(connection.peer_id)
            certificate = standing.certificate if standing is not None else None
            found[(certificate.organization, certificate.region) if certificate is not None else ("", "")] += 1
        return found

    def judge(self, peer: PeerId, chain: Sequence[bytes]) -> Standing:
        """What a peer with this chain would be to us now."""
        return self._judge.judge(peer, chain, self._env.now())

    def on_change(self, callback: Callable[[PeerId], None]) -> None:
        """Call `callback` with each peer whose standing has changed, and is not gone."""
        self._callbacks.append(callback)

    # -- what changes

    def reconsider(self) -> list[PeerId]:
        """Judge every standing anew; who is trusted no longer, or for less, is cut at once. Gives those.

        Who is trusted now and was not is greeted again: it was told that we refuse it.
        """
        before = {peer for peer, standing in self._standings.items() if standing.is_trusted}
        for standing in list(self._standings.values()):
            new = self._note(self.judge(standing.peer_id, standing.chain))
            connection = self._swarm.connection_unoffered(standing.peer_id)
            if new.is_trusted and not standing.is_trusted and connection is not None:
                self._swarm.spawn(self.meet_again, connection)
        return [peer for peer in before if not self.is_trusted(peer)]

    async def refresh(self) -> None:
        """One round: files that have changed, then `reconsider`; a new certificate of ours is shown to all."""
        stamp = await self._env.blocking(self._files.stamp)
        if stamp != self._stamp:
            shown = self.credentials.chain
            try:
                self._take(await self._env.blocking(self._files.load))
                self._stamp, self._file_problem = stamp, ""
            except ConfigError as error:  # the last that could be read counts: it never opens the node
                self._file_problem = f"{error.message}: {error.why}"
                log.error("%s", self._file_problem)
            if self.credentials.chain != shown:
                await self.greet_all()
        if not self.is_open:
            self.reconsider()

    async def greet_all(self) -> None:
        """Show our certificate to every connected peer anew."""
        async with asyncio.TaskGroup() as tasks:
            for connection in self._swarm.connections_unoffered():
                tasks.create_task(self.meet_again(connection))

    def problems(self) -> list[str]:
        """What an operator has to mend, for people."""
        if self.is_open:
            return []
        found = [self._file_problem, self._certificate_problem()]
        if self.is_stale():
            found.append("no other node of the organisation was heard for too long: what is public is served alone")
        return [problem for problem in found if problem]

    def _certificate_problem(self) -> str:
        if self.credentials.problem:
            return f"{self.credentials.problem}: no peer will trust it (rage cert request)"
        own = self.judge(self._swarm.peer_id, self.credentials.chain)
        if own.certificate is None:
            return f"no peer will trust this node: {own.message} (rage cert show)"
        left_s = own.certificate.not_after - self._env.now()
        if left_s >= EXPIRY_NEAR * (own.certificate.not_after - own.certificate.not_before):
            return ""
        return f"this node's certificate expires in {left_s / 3600:.0f} h, and was not renewed (rage cert renew)"

    def _take(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._judge.organization = credentials.organization
        self._judge.own = credentials.anchors

    # -- the exchange

    async def introduce(self, connection: Connection) -> str:
        """The swarm's hook: why the peer is not offered, empty when it is."""
        peer = connection.peer_id
        if not self.public_access:
            asyncio.get_running_loop().call_later(TRUST_S_MAX, self._drop_stranger, connection)
        with suppress(TimeoutError):
            async with asyncio.timeout(TRUST_S_MAX):
                if connection.inbound:
                    await self._answered.setdefault(peer, asyncio.Event()).wait()
                else:
                    await self.greet(connection)
        standing = self._standings.get(peer)
        if standing is None or not standing.is_trusted:
            return "" if self.public_access else standing.reason if standing is not None else "trust-timeout"
        return self._refused_us.get(peer, "") if not self.public_access else ""

    async def greet(self, connection: Connection) -> Standing:
        """Show our certificate, and judge what comes back.

        Raises: TimeoutError; Libp2pError when the connection is lost or the peer breaks the protocol.
        """
        peer = connection.peer_id
        data = messages.encode_trust_request(Hello(self.credentials.chain))
        initial = varint.encode(len(data)) + data
        self._refused_us.pop(peer, None)
        try:
            async with await connection.open_stream([TRUST_PROTOCOL], timeout_s=TRUST_S_MAX, initial=initial) as stream:
                raw = await stream.read_message(messages.TRUST_BYTES_MAX)
                response = messages.decode_trust_response(raw)
                if connection.is_lost:
                    raise StreamClosedError("the connection was lost")
                if response.status != messages.OK:
                    self._refused_us[peer] = response.reason or f"status-{response.status}"
                standing = self._note(self.judge(peer, response.certificates))
                if not standing.is_trusted:  # an end that is no end tells the answerer that it is not trusted
                    await stream.reset()
                return standing
        except (NegotiationError, StreamResetError):  # it knows nothing of trust
            if connection.is_lost:
                raise
            return self._note(self.judge(peer, ()))

    async def serve(self, stream: Stream) -> None:
        """The handler of `/rage/trust`. Raises Libp2pError, TimeoutError."""
        peer = stream.remote_peer
        if not self._afford(peer, KNOWN_COST):
            return
        async with asyncio.timeout(TRUST_S_MAX):
            raw = await stream.read_message(messages.TRUST_BYTES_MAX)
            try:
                request = messages.decode_trust_request(raw)
            except RemoteProtocolError as error:
                self.counts["malformed"] += 1
                await self._send(stream, TrustResponse(messages.BAD_REQUEST, reason="malformed", message=str(error)))
                return
            is_known = isinstance(request, Hello) and self._judge.remembers(peer, request.certificates)
            if not is_known and not self._afford(peer, 1.0 - KNOWN_COST):
                return
            if isinstance(request, Renew):
                await self._send(stream, await self._answer_renewal(peer, request.csr))
            elif not stream.connection.is_lost:
                await self._answer_hello(stream, request)

    def _afford(self, peer: PeerId, cost: float) -> bool:
        """Whether the peer may ask so much; one that asks too much is cut."""
        if self._rates.take(peer, self._env.monotonic(), cost) == 0:
            return True
        self.counts["floods"] += 1
        self._swarm.cut(peer, "too many trust requests")
        return False

    async def _answer_hello(self, stream: Stream, hello: Hello) -> None:
        peer, chain = stream.remote_peer, self.credentials.chain
        self.counts["hellos"] += 1
        if self.is_open:
            await self._send(stream, TrustResponse(messages.OK, chain, "open"))
            return
        standing = self._note(self.judge(peer, hello.certificates))
        status = messages.OK if standing.is_trusted else messages.DENIED
        await self._send(stream, TrustResponse(status, chain, standing.reason, standing.message))
        self._refused_us.pop(peer, None)
        try:
            async with asyncio.timeout(HEARD_S_MAX):
                await stream.read_some(1)  # its half ends when it has judged us: what we open then, it lets us open
        except TimeoutError:
            pass
        except StreamResetError:
            self._refused_us[peer] = "refused"
        if peer in self._standings:
            self._answered.setdefault(peer, asyncio.Event()).set()
        if self.is_trusted(peer) and not self.refused_by(peer):
            self._swarm.offer(peer)

    async def _answer_renewal(self, peer: PeerId, csr: bytes) -> TrustResponse:
        if self.renew is None:
            return TrustResponse(messages.NOT_FOUND, reason="no-enrolment", message="this node enrols nobody")
        standing = self._standings.get(peer)
        response = await self.renew(peer, standing.chain if standing is not None else (), csr)
        self.counts["renewed" if response.status == messages.OK else "renewals_refused"] += 1
        return response

    async def _send(self, stream: Stream, response: TrustResponse) -> None:
        data = messages.encode_trust_response(response)
        await stream.write(varint.encode(len(data)) + data)
        await stream.close_write()

    async def meet_again(self, connection: Connection) -> None:
        """Show our certificate to a connected peer anew, and offer the peer when each trusts the other."""
        try:
            standing = await self.greet(connection)
        except (Libp2pError, TimeoutError) as error:
            log.debug("%s was not greeted: %s", connection.peer_id, error)
            return
        if standing.is_trusted and not self.refused_by(connection.peer_id):
            self._swarm.offer(connection.peer_id)

    # -- standings

    def _note(self, new: Standing) -> Standing:
        """Remember a judgement, and do what follows from it. Gives the one that stands."""
        peer, old = new.peer_id, self._standings.get(new.peer_id)
        if old is not None and replace(new, since=old.since, message=old.message) == old:
            return old
        self._standings[peer] = new
        self.counts["trusted" if new.is_trusted else "refused"] += 1
        log.info("%s: %s%s", peer, new.reason, f" ({new.message})" if new.message else f", {new.organization}")
        if self.is_open:
            return new
        if old is not None and old.is_trusted and not _is_at_least(new, old):
            self.counts["cut"] += 1
            self._swarm.cut(peer, new.reason if not new.is_trusted else "trusted for less than before")
            return new
        if not new.is_trusted:
            return new
        self._swarm.describe_anew(peer)
        for callback in self._callbacks:
            callback(peer)
        return new

    def _part(self, connection: Connection) -> None:
        """The swarm's hook: standings are for connected peers."""
        peer = connection.peer_id
        if not self._swarm.is_linked(peer):
            self._standings.pop(peer, None)
            self._answered.pop(peer, None)
            self._refused_us.pop(peer, None)

    def _drop_stranger(self, connection: Connection) -> None:
        if not connection.is_lost and not self.is_trusted(connection.peer_id):
            self.counts["dropped"] += 1
            standing = self._standings.get(connection.peer_id)
            connection.abort(standing.reason if standing is not None else "it showed no certificate in time")


def _is_at_least(new: Standing, old: Standing) -> bool:
    """Whether a peer may open all that it could before, as the same."""
    return new.is_trusted and new.organization == old.organization and new.scopes >= old.scopes
