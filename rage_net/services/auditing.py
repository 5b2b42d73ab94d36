"""Proof of possession, `/rage/audit/1.0.0`, both ends.

    prove   ask nodes to prove that they hold chunks whose bytes are here
    relay   have one holder challenge another, where the bytes are not here
    hold    ask a node to hold chunks that are placed elsewhere
    serve   the other end of all three

A challenge names a random range and a nonce; the answer is a keyed hash that is bound to nonce, auditor and holder, and
signed, so that an answer of another holder or of yesterday is none, and a wrong one is evidence. It proves that the
bytes can be had within AUDIT_S_MAX, not that copies are separate. Only chunks that the auditor may replicate are
proved, and only durable ones: cache counts for nothing. A relay tells no more than its asker could find out itself: of
chunks that it may replicate, and of nodes that store.

Not here: the messages (replication.audit), who is asked and what follows (replicating). Source: design D5, D9.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rage_net.acl import Principal
from rage_net.chunk.shelf import Seen
from rage_net.chunk.store import ChunkStore
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import RageError, RemoteProtocolError, UnavailableError
from rage_net.gate import Gate
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.rates import Rates
from rage_net.metrics import Metrics
from rage_net.replication import audit
from rage_net.replication.audit import (
    UNKNOWN,
    Answer,
    AuditResponse,
    Challenge,
    Challenges,
    Hold,
    Outcome,
    Proof,
    Proofs,
    Relay,
    Verdict,
    Verdicts,
)

if TYPE_CHECKING:
    from rage_net.libp2p.swarm import Connection, Stream

log = logging.getLogger("rage.audit")

AUDIT_S_MAX = 30.0
"""An answer that comes later proves nothing: the bytes could have been fetched meanwhile. A full request of large
chunks takes a slow disk ten seconds."""
RELAY_S_MAX = 75.0
REQUEST_S_MAX = 10.0
RANGE_BYTES = 64 << 10
"""Of a chunk that is hashed; which, the auditor draws. The holder reads all of it to get there."""
CHALLENGES_PER_S, CHALLENGES_BURST = 256.0, 4096.0
"""Of one peer that are answered: a coordinator's share of a node that was just filled, then a disk's worth."""
PEERS_MAX = 1024
SERVED_MAX = 8
"""Requests under way; more are told to come back."""
SERVED_OF_ONE_MAX = 4
RELAYS_MAX = 4
"""Of these, for others about others, one for each asker: who is challenged decides how long it takes."""
ASKED_AT_ONCE = 8
"""Holders that are challenged at a time."""
BUSY_S_MAX = 15.0
BUSY_AGAIN_S = 0.5, 3.0
"""Who is asked for too much at once is asked again for so long, at such intervals: it has not failed yet."""
LATE_AGAIN_S = 30.0
"""Who was late is not waited for again before then: each time costs AUDIT_S_MAX, and others wait for the round."""


_BY_VERDICT: dict[str, Outcome] = {
    "unknown": "unknown",
    "proved": "proved",
    "absent": "absent",
    "wrong": "lied",
    "unreachable": "unreachable",
}
_TO_VERDICT: dict[Outcome, audit.VerdictWord] = {
    "unknown": "unknown",
    "claims": "unknown",
    "proved": "proved",
    "absent": "absent",
    "lied": "wrong",
    "late": "unreachable",
    "unreachable": "unreachable",
}

OnHold = Callable[[PeerId, str, Sequence[Cid]], Awaitable[tuple[int, bool]]]
"""Who asks, organisation and chunks -> how many will be held, and whether there is room."""


class Auditing:
    """Both ends of the audit protocol.

    Args: connect: a connection to a node, dialled if need be; raises RageError. sign: signs for this node. kept: which
    of some chunks this node means to hold; blocking. on_hold: a coordinator asks to hold chunks. is_node: whether a
    peer is one that stores; others are challenged for nobody. on_lacking: somebody asked for proof of what is not
    here: it may know of documents that we do not.
    """

    def __init__(
        self,
        store: ChunkStore,
        env: Env,
        metrics: Metrics,
        gate: Gate,
        own: PeerId,
        *,
        principal_of: Callable[[PeerId], Principal],
        connect: Callable[[PeerId], Awaitable[Connection]],
        sign: Callable[[bytes], bytes],
        kept: Callable[[Sequence[Cid]], Sequence[bool]],
        on_hold: OnHold,
        is_node: Callable[[PeerId], bool],
        on_lacking: Callable[[PeerId], None] = lambda peer: None,
    ) -> None:
        self._store = store
        self._env = env
        self._metrics = metrics
        self._gate = gate
        self._own = own
        self._principal_of = principal_of
        self._connect = connect
        self._sign = sign
        self._kept = kept
        self._on_hold = on_hold
        self._is_node = is_node
        self._on_lacking = on_lacking
        self._relaying: set[PeerId] = set()
        self._late: dict[PeerId, float] = {}  # until when they are not asked again
        self._rates = Rates(burst=CHALLENGES_BURST, rate_s=CHALLENGES_PER_S, names_max=PEERS_MAX)
        self._serving: Counter[PeerId] = Counter()
        self._reading = asyncio.Lock()

    # --- the auditor ---

    async def prove(self, asks: Mapping[PeerId, Sequence[Cid]]) -> dict[tuple[PeerId, Cid], Answer]:
        """Ask nodes for proof. What is not here cannot be checked, and is `unknown`.

        Each chunk is read once here, whoever is asked for it. Requests go to ASKED_AT_ONCE nodes at a time.
        """
        answers: dict[tuple[PeerId, Cid], Answer] = {}
        places = asyncio.Semaphore(ASKED_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            for peer, cids in asks.items():
                unique = list(dict.fromkeys(cids))
                for at in range(0, len(unique), audit.CHALLENGES_MAX):
                    tasks.create_task(self._prove(peer, unique[at : at + audit.CHALLENGES_MAX], places, answers))
        return answers

    async def _prove(
        self, peer: PeerId, cids: Sequence[Cid], places: asyncio.Semaphore, answers: dict[tuple[PeerId, Cid], Answer]
    ) -> None:
        async with places:
            challenges, digests = await self._env.blocking(self._draw, peer, cids)
            for cid in cids:
                answers[peer, cid] = UNKNOWN
            if not challenges.items:
                return
            outcome: Outcome = "unreachable"
            try:
                response = await self._ask_patiently(peer, challenges)
                proofs = audit.open_proofs(response, challenges, auditor=self._own, holder=peer)
            except TimeoutError:
                outcome = "late"
                self._note_late(peer)
            except RemoteProtocolError as error:
                log.warning("%s answered an audit with what is no proof: %s", peer, error)
                self._metrics.audits.add(len(challenges.items), "malformed")
            except (RageError, Libp2pError) as error:
                log.debug("%s proves nothing: %s", peer, error)
            else:
                for proof in proofs.items:
                    answers[peer, proof.cid] = _judge(proof, digests[proof.cid], response)
                    self._metrics.audits.add(1, answers[peer, proof.cid].outcome)
                return
            for challenge in challenges.items:
                answers[peer, challenge.cid] = Answer(outcome)
            self._metrics.audits.add(len(challenges.items), outcome)

    async def _ask_patiently(self, peer: PeerId, challenges: Challenges) -> AuditResponse:
        """As `_ask`, again while the holder is busy. Raises TimeoutError at once for who was late just now."""
        now = self._env.monotonic
        if now() < self._late.get(peer, 0.0):
            raise TimeoutError
        ends = now() + BUSY_S_MAX
        while True:
            try:
                return await self._ask(peer, challenges, AUDIT_S_MAX)
            except UnavailableError as error:
                if error.id != "busy" or now() >= ends:
                    raise
            await asyncio.sleep(self._env.random.uniform(*BUSY_AGAIN_S))

    def _note_late(self, peer: PeerId) -> None:
        now = self._env.monotonic()
        if self._late.get(peer, 0.0) <= now:
            self._late = {each: until for each, until in self._late.items() if until > now}
            self._late[peer] = now + LATE_AGAIN_S

    def _draw(self, peer: PeerId, cids: Sequence[Cid]) -> tuple[Challenges, dict[Cid, bytes]]:
        """Challenges for the chunks that can be read here, and the digests that prove them. Blocking."""
        nonce = self._env.random.randbytes(audit.NONCE_BYTES)
        key = audit.key_of(nonce, self._own, peer)
        items, digests = [], {}
        for cid in cids:
            try:
                data = self._store.get(cid)
            except RageError:
                continue
            offset, length = audit.draw_range(len(data), RANGE_BYTES, self._env.random)
            items.append(Challenge(cid, offset, length))
            digests[cid] = audit.digest(key, data, offset, length)
        return Challenges(nonce, tuple(items)), digests

    async def relay(self, relay: PeerId, holder: PeerId, cids: Sequence[Cid]) -> dict[Cid, Answer]:
        """What `relay`, which has the bytes, finds of `holder`, at most CHALLENGES_MAX chunks: by its signed word."""
        request = Relay(holder, self._env.random.randbytes(audit.NONCE_BYTES), tuple(cids))
        try:
            response = await self._ask(relay, request, RELAY_S_MAX)
            verdicts = audit.open_verdicts(response, request, auditor=self._own, relay=relay)
        except (RageError, Libp2pError, TimeoutError) as error:
            log.debug("%s relays nothing about %s: %s", relay, holder, error)
            return dict.fromkeys(cids, UNKNOWN)
        return {each.cid: Answer(_BY_VERDICT[each.outcome], each.is_kept) for each in verdicts.items}

    async def hold(self, peer: PeerId, organization: str, cids: Sequence[Cid]) -> int:
        """Ask a node to hold chunks, at most CHALLENGES_MAX. Returns: how many it will. Raises RageError."""
        try:
            response = await self._ask(peer, Hold(organization, tuple(cids)), AUDIT_S_MAX)
        except TimeoutError:
            return 0
        return response.taken

    async def _ask(self, peer: PeerId, request: Challenges | Relay | Hold, within_s: float) -> AuditResponse:
        """One request and its answer. Raises TimeoutError, RageError, Libp2pError."""
        async with asyncio.timeout(within_s):
            connection = await self._connect(peer)
            data = audit.encode_request(request)
            stream = await connection.open_stream(
                (audit.PROTOCOL,), timeout_s=within_s, initial=varint.encode(len(data)) + data
            )
            try:
                await stream.close_write()
                answer = await stream.read_message(audit.RESPONSE_BYTES_MAX)
            except BaseException:
                await stream.reset()
                raise
            await stream.close()
        response = audit.decode_response(answer)
        if response.status == audit.BUSY:
            raise UnavailableError(f"{peer} has too much to answer", id="busy")
        audit.raise_for_status(response, str(peer))
        return response

    # --- the holder, the relay, the stand-in ---

    async def serve(self, stream: Stream) -> None:
        """Answer one request: the handler of PROTOCOL."""
        async with asyncio.timeout(REQUEST_S_MAX):
            data = await stream.read_message(audit.REQUEST_BYTES_MAX)
        peer = stream.remote_peer
        try:
            request = audit.decode_request(data)
        except RemoteProtocolError as error:
            await self._answer(stream, AuditResponse(audit.BAD_REQUEST, message=str(error)))
            raise
        if self._serving.total() >= SERVED_MAX or self._serving[peer] >= SERVED_OF_ONE_MAX:
            self._metrics.shed.add(1, "audit")
            await self._answer(stream, AuditResponse(audit.BUSY))
            return
        self._serving[peer] += 1
        try:
            response = await self._respond(peer, request)
        finally:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]
        async with asyncio.timeout(REQUEST_S_MAX):
            await self._answer(stream, response)

    async def _respond(self, peer: PeerId, request: Challenges | Relay | Hold) -> AuditResponse:
        principal = self._principal_of(peer)
        if self._gate.rules.is_open or not principal.organization:
            return AuditResponse(audit.DENIED)  # a stranger replicates nothing: no look is taken for it
        amount = len(request.items) if isinstance(request, Challenges) else len(request.cids)
        if self._rates.take(peer, self._env.monotonic(), amount):
            self._metrics.shed.add(1, "audit")
            return AuditResponse(audit.BUSY)
        match request:
            case Challenges():
                async with self._reading:  # audits read one chunk at a time: readers come first
                    proofs = await self._env.blocking(self._answer_challenges, peer, principal, request)
                if not all(proof.digest for proof in proofs.items):
                    self._on_lacking(peer)
                return audit.seal_proofs(proofs, self._sign)
            case Relay():
                if not self._is_member(principal):
                    return AuditResponse(audit.DENIED)
                return await self._answer_relay(peer, principal, request)
            case Hold():
                if not self._is_member(principal) or "storage" not in principal.capabilities:
                    return AuditResponse(audit.DENIED)
                taken, has_room = await self._on_hold(peer, request.organization, request.cids)
                return AuditResponse(audit.OK if has_room else audit.FULL, taken=taken)

    def _is_member(self, principal: Principal) -> bool:
        rules = self._gate.rules
        return not rules.is_open and bool(rules.organization) and principal.organization == rules.organization

    def _answer_challenges(self, peer: PeerId, principal: Principal, request: Challenges) -> Proofs:
        """Digests of what is held durably and may be replicated by the auditor. Blocking."""
        key = audit.key_of(request.nonce, peer, self._own)
        kept = self._kept([challenge.cid for challenge in request.items])
        items = []
        for challenge, is_kept in zip(request.items, kept, strict=True):
            found = b""
            seen = self._gate.look(challenge.cid, principal, "replicate").found
            if isinstance(seen, Seen) and not seen.stat.cached:
                try:
                    found = audit.digest(key, self._store.get(challenge.cid), challenge.offset, challenge.length)
                except RageError:  # gone, or rotten: it is noted where it is found
                    found = b""
            items.append(Proof(challenge.cid, challenge.offset, challenge.length, found, bool(found) and is_kept))
        return Proofs(request.nonce, peer, self._own, int(self._env.now()), tuple(items))

    async def _answer_relay(self, peer: PeerId, principal: Principal, request: Relay) -> AuditResponse:
        if request.holder in (self._own, peer):
            return AuditResponse(audit.BAD_REQUEST, message="a relay challenges a third node")
        if not self._is_node(request.holder):
            return AuditResponse(audit.NOT_FOUND)

        def may() -> list[Cid]:
            found = [(cid, self._gate.look(cid, principal, "replicate").found) for cid in dict.fromkeys(request.cids)]
            return [cid for cid, seen in found if isinstance(seen, Seen)]

        if peer in self._relaying or len(self._relaying) >= RELAYS_MAX:
            self._metrics.shed.add(1, "audit")
            return AuditResponse(audit.BUSY)
        self._relaying.add(peer)
        try:
            asked = await self._env.blocking(may)
            answers = await self.prove({request.holder: asked}) if asked else {}
        finally:
            self._relaying.discard(peer)
        items = []
        for cid in request.cids:
            answer = answers.get((request.holder, cid), UNKNOWN)
            items.append(Verdict(cid, _TO_VERDICT[answer.outcome], answer.is_kept))
        verdicts = Verdicts(request.nonce, peer, self._own, request.holder, int(self._env.now()), tuple(items))
        return audit.seal_verdicts(verdicts, self._sign)

    async def _answer(self, stream: Stream, response: AuditResponse) -> None:
        data = audit.encode_response(response)
        await stream.write(varint.encode(len(data)) + data)
        await stream.close_write()


def _judge(proof: Proof, digest: bytes, response: AuditResponse) -> Answer:
    if not proof.digest:
        return Answer("absent")
    if proof.digest != digest:
        return Answer("lied", evidence=(response.statement, response.signature))
    return Answer("proved", proof.is_kept)
