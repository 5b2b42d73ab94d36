"""Proof of possession between nodes: who is proved what, and what liars, strangers, late and lazy ones come to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from rage_net.acl import Principal, Rules
from rage_net.chunk.shelf import attest
from rage_net.cid import Cid
from rage_net.errors import AccessDeniedError, NotFoundError, RemoteProtocolError, UnavailableError
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Stream
from rage_net.replication import audit
from rage_net.replication.audit import Answer, AuditResponse, Challenge, Challenges, Hold, Proof, Proofs, Relay
from rage_net.services import auditing as service
from rage_net.services.auditing import Auditing
from tests.services.conftest import Peer, World
from tests.services.test_access import ACME, certify

pytestmark = pytest.mark.anyio

OPEN = Rules()
STORES = frozenset({"storage"})


class Node:
    """A peer of an organisation that audits and is audited."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.id = peer.swarm.peer_id
        self.known: dict[PeerId, Node] = {}
        self.kept = True
        self.asked_to_hold: list[tuple[PeerId, str, tuple[Cid, ...]]] = []
        self.auditing = Auditing(
            peer.store,
            peer.env,
            peer.metrics,
            peer.exchange.gate,
            self.id,
            principal_of=lambda who: peer.principals.get(who) or Principal("peer", str(who)),
            connect=self.connect,
            sign=peer.swarm.sign,
            kept=lambda cids: [self.kept] * len(cids),
            on_hold=self.hold,
            is_node=lambda who: who in self.known,
        )
        peer.swarm.handle(audit.PROTOCOL, self.auditing.serve)

    async def connect(self, who: PeerId) -> Connection:
        return await self.peer.connect(self.known[who].peer)

    async def hold(self, who: PeerId, organization: str, cids: Sequence[Cid]) -> tuple[int, bool]:
        self.asked_to_hold.append((who, organization, tuple(cids)))
        return len(cids), True

    async def ask(self, other: Node, request: Challenges | Relay | Hold | bytes) -> AuditResponse:
        """A raw request, and its raw answer."""
        data = request if isinstance(request, bytes) else audit.encode_request(request)
        async with asyncio.timeout(10):
            stream = await (await self.peer.connect(other.peer)).open_stream((audit.PROTOCOL,), timeout_s=5)
            await stream.write(varint.encode(len(data)) + data)
            await stream.close_write()
            return audit.decode_response(await stream.read_message(audit.RESPONSE_BYTES_MAX))

    def answers(self, make: Callable[[Challenges, PeerId], AuditResponse]) -> None:
        """Put a liar in its place."""

        async def serve(stream: Stream) -> None:
            request = audit.decode_request(await stream.read_message(audit.REQUEST_BYTES_MAX))
            assert isinstance(request, Challenges)
            data = audit.encode_response(make(request, stream.remote_peer))
            await stream.write(varint.encode(len(data)) + data)
            await stream.close_write()

        self.peer.swarm.handle(audit.PROTOCOL, serve)

    def store(self, data: bytes) -> Cid:
        return self.peer.put(data, "org", organization="acme").root

    def challenge(self, *cids: Cid) -> Challenges:
        return Challenges(
            self.peer.env.random.randbytes(audit.NONCE_BYTES), tuple(Challenge(cid, 0, 0) for cid in cids)
        )

    def prove(
        self, request: Challenges, auditor: PeerId, data: bytes, *, holder: PeerId | None = None
    ) -> AuditResponse:
        """Right digests of `data`, for a holder."""
        key = audit.key_of(request.nonce, auditor, holder or self.id)
        items = tuple(
            Proof(one.cid, one.offset, one.length, audit.digest(key, data, one.offset, one.length), True)
            for one in request.items
        )
        return audit.seal_proofs(Proofs(request.nonce, auditor, self.id, 1, items), self.peer.swarm.sign)


async def nodes(world: World, count: int, rules: Rules = ACME) -> list[Node]:
    """Nodes that store, and know each other's certificates."""
    made = [Node(await world.peer(rules=rules)) for _ in range(count)]
    for one in made:
        for other in made:
            if other is not one:
                one.known[other.id] = other
                certify(one.peer, other.peer)
                one.peer.principals[other.id] = replace(one.peer.principals[other.id], capabilities=STORES)
    return made


async def outcome(auditor: Node, holder: Node, cid: Cid) -> Answer:
    async with asyncio.timeout(20):
        return (await auditor.auditing.prove({holder.id: [cid]}))[holder.id, cid]


DATA = bytes(range(256)) * 40


async def test_who_holds_proves_and_who_only_means_to_is_told_apart(world: World) -> None:
    auditor, holder, empty = await nodes(world, 3)
    cid = auditor.store(DATA)
    assert holder.store(DATA) == cid
    assert await outcome(auditor, holder, cid) == Answer("proved", is_kept=True)
    holder.kept = False
    assert await outcome(auditor, holder, cid) == Answer("proved", is_kept=False)
    assert await outcome(auditor, empty, cid) == Answer("absent")
    other = empty.store(DATA[::-1])
    assert await outcome(auditor, empty, other) == audit.UNKNOWN, "who lacks the bytes proves nothing of others"


async def test_cache_is_no_copy(world: World) -> None:
    auditor, holder = await nodes(world, 2)
    cid = auditor.store(DATA)
    received = await holder.peer.exchange.fetch(await holder.connect(auditor.id), cid, traffic="replication")
    from rage_net.chunk.store import admit

    header = received.header
    admitted, _ = admit(cid, header.encoding, b"".join(received.buffers), header.size)
    holder.peer.store.keep([admitted])
    attest(holder.peer.store, [(cid, False, [(one.organization, one.doc_id) for one in header.documents])])
    assert holder.peer.store.stat(cid).cached
    assert await outcome(auditor, holder, cid) == Answer("absent")


async def test_a_wrong_digest_is_evidence_that_anybody_with_the_bytes_can_check_later(world: World) -> None:
    auditor, liar = await nodes(world, 2)
    cid = auditor.store(DATA)
    liar.answers(partial(liar.prove, data=DATA[:-1] + b"!"))
    found = await outcome(auditor, liar, cid)
    assert found.outcome == "lied" and found.evidence is not None
    proofs = audit.read_proofs(*found.evidence)
    assert proofs.holder == liar.id and proofs.auditor == auditor.id
    (said,) = proofs.items
    key = audit.key_of(proofs.nonce, proofs.auditor, proofs.holder)
    assert said.digest != audit.digest(key, DATA, said.offset, said.length)
    statement, signature = found.evidence
    with pytest.raises((RemoteProtocolError, ValueError)):
        audit.read_proofs(statement + b"\x20\x01", signature)


async def test_a_proof_made_by_another_holder_in_flight_is_a_lie(world: World) -> None:
    """The liar passes the challenge on to one who has the bytes: the key names both ends."""
    auditor, liar, holder = await nodes(world, 3)
    cid = auditor.store(DATA)
    liar.answers(partial(liar.prove, data=DATA, holder=holder.id))
    assert (await outcome(auditor, liar, cid)).outcome == "lied"

    def relayed(request: Challenges, who: PeerId) -> AuditResponse:
        return holder.prove(request, who, DATA)

    liar.answers(relayed)
    assert (await outcome(auditor, liar, cid)).outcome == "unreachable", "another's signature is no answer"


async def test_yesterdays_proof_is_none(world: World) -> None:
    auditor, liar = await nodes(world, 2)
    cid = auditor.store(DATA)
    kept: list[AuditResponse] = []

    def replay(request: Challenges, who: PeerId) -> AuditResponse:
        kept.append(liar.prove(request, who, DATA))
        return kept[0]

    liar.answers(replay)
    assert (await outcome(auditor, liar, cid)).outcome == "proved"
    assert (await outcome(auditor, liar, cid)).outcome == "unreachable"


async def test_proofs_of_other_chunks_or_fewer_or_unsigned_are_none(world: World) -> None:
    auditor, liar = await nodes(world, 2)
    cid, other = auditor.store(DATA), auditor.store(DATA[::-1])

    def fewer(request: Challenges, who: PeerId) -> AuditResponse:
        return liar.prove(Challenges(request.nonce, request.items[:1] * 2), who, DATA)

    def unsigned(request: Challenges, who: PeerId) -> AuditResponse:
        return replace(liar.prove(request, who, DATA), signature=bytes(64))

    for make in (fewer, unsigned):
        liar.answers(make)
        found = await auditor.auditing.prove({liar.id: [cid, other]})
        assert {answer.outcome for answer in found.values()} == {"unreachable"}, make


async def test_who_answers_too_late_proves_nothing_and_is_not_waited_for_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AUDIT_S_MAX", 0.3)
    auditor, lazy, good = await nodes(world, 3)
    cid = auditor.store(DATA)
    good.store(DATA)
    asked = 0

    async def never(stream: Stream) -> None:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    lazy.peer.swarm.handle(audit.PROTOCOL, never)
    for _ in range(5):
        assert (await outcome(auditor, lazy, cid)).outcome == "late"
    assert asked == 1, "each time would hold up the whole round"
    assert (await outcome(auditor, good, cid)).outcome == "proved"


async def test_a_busy_holder_is_asked_again_before_it_counts_as_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever floods a holder has others make copies of all that it holds."""
    monkeypatch.setattr(service, "BUSY_AGAIN_S", (0.01, 0.02))
    monkeypatch.setattr(service, "BUSY_S_MAX", 0.5)
    auditor, holder = await nodes(world, 2)
    cid = auditor.store(DATA)
    asked = 0

    def answer(request: Challenges, who: PeerId) -> AuditResponse:
        nonlocal asked
        asked += 1
        return holder.prove(request, who, DATA) if asked > 3 else AuditResponse(audit.BUSY)

    holder.answers(answer)
    assert (await outcome(auditor, holder, cid)).outcome == "proved"
    holder.answers(lambda request, who: AuditResponse(audit.BUSY))
    assert (await outcome(auditor, holder, cid)).outcome == "unreachable", "and in the end it has failed"


async def test_a_stranger_and_an_open_node_get_nothing_and_no_look_is_taken_for_them(world: World) -> None:
    auditor, holder = await nodes(world, 2)
    cid = holder.store(DATA)
    holder.auditing._kept = lambda cids: pytest.fail("the inventory was asked for a stranger")
    del holder.peer.principals[auditor.id]
    for request in (auditor.challenge(cid), Relay(auditor.id, bytes(32), (cid,)), Hold("acme", (cid,))):
        assert (await auditor.ask(holder, request)).status == audit.DENIED
    assert not holder.asked_to_hold
    certify(holder.peer, auditor.peer)
    holder.peer.exchange.gate.rules = OPEN
    assert (await auditor.ask(holder, auditor.challenge(cid))).status == audit.DENIED


async def test_what_an_auditor_may_not_replicate_looks_as_what_is_absent(world: World) -> None:
    auditor, holder = await nodes(world, 2)
    cid, absent = holder.store(DATA), auditor.store(DATA[::-1])
    member = replace(holder.peer.principals[auditor.id], capabilities=frozenset({"search"}))
    for principal in (member, replace(member, organization="globex", capabilities=STORES)):
        holder.peer.principals[auditor.id] = principal
        request = auditor.challenge(cid, absent)
        proofs = audit.open_proofs(await auditor.ask(holder, request), request, auditor=auditor.id, holder=holder.id)
        assert [(item.digest, item.is_kept) for item in proofs.items] == [(b"", False)] * 2


async def test_a_relay_is_no_oracle_for_who_may_not_replicate_the_chunk(world: World) -> None:
    asker, relay, holder = await nodes(world, 3)
    cid = relay.store(DATA)
    holder.store(DATA)
    assert (await asker.auditing.relay(relay.id, holder.id, [cid]))[cid] == Answer("proved", is_kept=True)
    member = relay.peer.principals[asker.id]
    relay.peer.principals[asker.id] = replace(member, capabilities=frozenset({"search"}))
    assert (await asker.auditing.relay(relay.id, holder.id, [cid]))[cid] == audit.UNKNOWN
    relay.peer.principals[asker.id] = replace(member, organization="globex")
    assert (await asker.ask(relay, Relay(holder.id, bytes(32), (cid,)))).status == audit.DENIED


async def test_a_relay_dials_nobody_that_is_no_node_and_no_two_for_one_asker(world: World) -> None:
    asker, relay, holder = await nodes(world, 3)
    cid = relay.store(DATA)
    del relay.known[holder.id]
    assert (await asker.ask(relay, Relay(holder.id, bytes(32), (cid,)))).status == audit.NOT_FOUND
    for itself in (asker.id, relay.id):
        assert (await asker.ask(relay, Relay(itself, bytes(32), (cid,)))).status == audit.BAD_REQUEST
    relay.known[holder.id] = holder
    asked, done = asyncio.Event(), asyncio.Event()

    async def slow(stream: Stream) -> None:
        asked.set()
        await done.wait()

    holder.peer.swarm.handle(audit.PROTOCOL, slow)
    first = asyncio.create_task(asker.ask(relay, Relay(holder.id, bytes(32), (cid,))))
    await asked.wait()
    assert (await asker.ask(relay, Relay(holder.id, bytes(32), (cid,)))).status == audit.BUSY
    request = asker.challenge(cid)
    assert (await asker.ask(relay, request)).status == audit.OK, "and the relay proves meanwhile"
    done.set()
    assert (await first).status == audit.OK


async def test_only_nodes_that_store_ask_to_hold(world: World) -> None:
    asker, holder = await nodes(world, 2)
    cid = asker.store(DATA)
    assert await asker.auditing.hold(holder.id, "acme", [cid]) == 1
    assert holder.asked_to_hold == [(asker.id, "acme", (cid,))]
    holder.peer.principals[asker.id] = replace(holder.peer.principals[asker.id], capabilities=frozenset())
    with pytest.raises(AccessDeniedError):
        await asker.auditing.hold(holder.id, "acme", [cid])


async def test_a_flood_of_challenges_costs_its_sender_its_answers_and_others_none(world: World) -> None:
    flooder, holder, other = await nodes(world, 3)
    cid = holder.store(b"x")
    other.store(b"x")
    request = flooder.challenge(*[cid] * audit.CHALLENGES_MAX)
    statuses = [(await flooder.ask(holder, request)).status for _ in range(30)]
    assert statuses[0] == audit.OK and audit.BUSY in statuses
    assert statuses.count(audit.OK) <= 2 + service.CHALLENGES_BURST / audit.CHALLENGES_MAX + 4
    assert (await outcome(other, holder, cid)).outcome == "proved"
    assert holder.peer.metrics.shed.read()[("audit",)][0] > 0


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff" * 40, b"\x0a\x02\x0a\x00", bytes(audit.REQUEST_BYTES_MAX + 1)],
    ids=["empty", "noise", "short", "long"],
)
async def test_bytes_that_are_no_request_end_their_stream_and_nothing_else(world: World, data: bytes) -> None:
    asker, holder = await nodes(world, 2)
    cid = asker.store(DATA)
    holder.store(DATA)
    with pytest.raises(Libp2pError):
        await asker.ask(holder, data)
    assert (await outcome(asker, holder, cid)).outcome == "proved"


async def test_refusals_are_what_they_are(world: World) -> None:
    asker, holder = await nodes(world, 2)
    cid = asker.store(DATA)
    for status, error in ((audit.NOT_FOUND, NotFoundError), (audit.BUSY, UnavailableError)):
        holder.answers(lambda request, who, status=status: AuditResponse(status))  # type: ignore[misc]
        with pytest.raises(error):
            await asker.auditing._ask(holder.id, asker.challenge(cid), 5.0)
