"""What nodes of other organisations and lying holders can do to one node's view of replication."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest

from rage_net.acl import AccessList
from rage_net.chunk import replicas
from rage_net.chunk.store import memory_store
from rage_net.cid import RAW, Cid
from rage_net.errors import NotFoundError, UnavailableError
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import ChunkHeader, DocumentName
from rage_net.metrics import Metrics
from rage_net.online.placing import WORDS_MAX, _words
from rage_net.replication.inventory import Inventory, Item, Wanted
from rage_net.replication.place import CANDIDATES_MAX, Candidate
from rage_net.services.replicating.pulling import BATCH, DRIPPED_S, SLOW_S, Pulling
from rage_net.services.replicating.view import Node, View
from tests.replication.world import cid, node, peer
from tests.services.test_healing import Clock


def view_of(*candidates: Candidate, grace_s: float = 10.0) -> View:
    made = View(peer(0), "geographic_diversity", grace_s, 0.0)
    made.set_nodes([Node(one, "active") for one in candidates])
    return made


def foreign(number: int) -> Candidate:
    """Of another organisation, and each in a region of its own."""
    return replace(node(10_000 + number, f"made up {number}"), organization="globex")


def test_more_nodes_of_another_organisation_than_placement_takes_leave_our_own_in_it() -> None:
    ours = [node(number) for number in range(5)]
    view = view_of(*ours, *map(foreign, range(CANDIDATES_MAX + 50)))
    topology = view.topology("acme", "globex")
    assert len(topology.candidates) == CANDIDATES_MAX
    assert set(ours) <= set(topology.candidates)
    assert set(view.topology("acme", "").candidates) == set(ours)
    assert len(view.home(cid(1), "acme", "globex", 3)) == 3


def test_nodes_that_another_organisation_only_tells_of_do_not_keep_us_from_mending() -> None:
    view = view_of(*(node(number) for number in range(5)), *map(foreign, range(100)))
    alive = {peer(number) for number in range(4)}
    view.observe(lambda who: who in alive, 0.0)
    view.observe(lambda who: who in alive, 100.0)
    assert len(view.unavailable) == 101 and not view.is_cut_off
    view.observe(lambda who: False, 200.0)
    view.observe(lambda who: False, 300.0)
    assert view.is_cut_off


def test_a_right_to_replicate_that_has_run_out_places_nothing_and_a_denial_is_never_cut_off() -> None:
    access = AccessList(
        owner="me",
        organization="acme",
        grants={"replicate": {"org:globex": 100.0, "org:birch": 300.0}},
        denials={"replicate": {"peer:early": 100.0, "peer:late": 300.0}},
    )
    assert _words("acme", access, 50.0) == ["-early", "-late", "birch", "globex"]
    assert _words("acme", access, 200.0) == ["-late", "birch"]
    many = replace(access, grants={"replicate": {f"org:{at:03}": 300.0 for at in range(WORDS_MAX)}})
    assert "-late" in _words("acme", many, 200.0)[:WORDS_MAX]


# --- pulling from who lies, or lets wait ---


@dataclass
class Given:
    """A chunk as a node sent it."""

    header: ChunkHeader
    buffers: Sequence[bytes]


class Puller:
    """Pulling with a store in memory, and what the others do written down by hand."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.own = peer(0)
        self.store = memory_store(clock)  # type: ignore[arg-type]
        self.inventory = Inventory(None, self.own)
        self.view = view_of(*(node(number) for number in range(6)))
        self.fetches: dict[PeerId, Callable[[Cid], Given]] = {}
        self.asked: list[PeerId] = []
        self.chunks: dict[Cid, bytes] = {}
        self.pulling = Pulling(
            self.store,
            self.inventory,
            clock,  # type: ignore[arg-type]
            Metrics(),
            self.view,
            have=self.have,
            fetch=self.fetch,
            on_full=lambda: None,
            now=clock.monotonic,
        )

    async def have(self, who: PeerId, cids: Sequence[Cid], _durable: bool) -> list[bool]:
        return [who in self.fetches] * len(cids)

    async def fetch(self, who: PeerId, cid: Cid) -> Given:
        self.asked.append(who)
        return self.fetches[who](cid)

    def honest(self, cid: Cid) -> Given:
        return self.give(cid, self.chunks[cid])

    def give(self, cid: Cid, data: bytes, *documents: str) -> Given:
        named = tuple(DocumentName("acme", doc_id) for doc_id in documents or ("ours",))
        return Given(ChunkHeader(len(data), len(data), "raw", False, named), [data])

    def want(self, doc_id: str, count: int, *, factor: int = 6, real: bool = True) -> list[Cid]:
        """A document whose chunks all belong here."""
        some = [b"%s %d" % (doc_id.encode(), at) for at in range(count)]
        cids = [Cid.of(data, RAW) for data in some]
        if real:
            self.chunks.update(zip(cids, some, strict=True))
        now = self.clock.monotonic()
        root = cid(int.from_bytes(doc_id.encode()[:3], "big"))
        self.inventory.see([Wanted("acme", doc_id, root, peer(1), "some", factor, 1, "")], 0, now)
        for unread in self.inventory.unread(now, 100):
            self.inventory.read(unread.id, unread.root, [(one, 10) for one in cids], now)
        while items := self.inventory.unplaced():
            self.inventory.place([(item, self.view.homes(item.cid, item.demands), False) for item in items], now)
        return cids

    def is_here(self, cids: Sequence[Cid]) -> bool:
        return all(self.store.has(one) and replicas.is_held(self.store, one) for one in cids)

    async def rounds(self, count: int, each_s: float = 1.0) -> None:
        for _ in range(count):
            await self.pulling.round()
            self.clock.time += each_s


@pytest.fixture
def puller(rng: Random) -> Iterator[Puller]:
    made = Puller(Clock(rng))
    yield made
    made.inventory.close()
    made.store.close()


@pytest.mark.anyio
async def test_two_that_only_say_so_do_not_keep_a_chunk_from_the_third_that_has_it(puller: Puller) -> None:
    def absent(cid: Cid) -> Given:
        raise NotFoundError("not any more")

    cids = puller.want("ours", 5)
    puller.fetches = {peer(1): absent, peer(2): absent, peer(3): absent, peer(4): puller.honest}
    await puller.rounds(10)
    assert puller.is_here(cids)


@pytest.mark.anyio
async def test_wrong_bytes_are_never_kept_and_their_sender_is_let_be(puller: Puller) -> None:
    cids = puller.want("ours", 40)
    puller.fetches = {peer(1): lambda cid: puller.give(cid, b"wrong"), peer(2): puller.honest}
    await puller.rounds(4)
    assert puller.is_here(cids)
    assert puller.asked.count(peer(1)) <= 6, "those that were under way together"
    for one in cids:
        assert puller.store.get(one) == puller.chunks[one]


@pytest.mark.anyio
async def test_right_bytes_for_no_document_that_they_are_for_are_not_kept(puller: Puller) -> None:
    """Nobody could have them of us: the copy would count, and be given to nobody."""
    cids = puller.want("ours", 5)
    puller.fetches = {peer(1): lambda cid: puller.give(cid, puller.chunks[cid], "somebody", "elses")}
    await puller.rounds(5)
    assert not any(puller.store.has(one) for one in cids)
    puller.fetches[peer(2)] = puller.honest
    await puller.rounds(20)
    assert puller.is_here(cids)


@pytest.mark.anyio
@pytest.mark.parametrize("ends_well", [False, True])
async def test_who_lets_wait_is_let_be_for_ever_longer(puller: Puller, *, ends_well: bool) -> None:
    def slow(cid: Cid) -> Given:
        puller.clock.time += DRIPPED_S if ends_well else SLOW_S
        if ends_well:
            return puller.honest(cid)
        raise UnavailableError("nothing came", id="stalled")

    cids = puller.want("ours", 200)
    puller.fetches = {peer(1): slow, peer(2): puller.honest}
    began = puller.clock.monotonic()
    await puller.rounds(8)
    assert puller.is_here(cids)
    assert puller.asked.count(peer(1)) <= 2 and puller.clock.monotonic() - began < 100
    assert not puller.pulling.is_shunned(peer(2))


@pytest.mark.anyio
async def test_a_manifest_of_chunks_that_never_were_does_not_keep_others_waiting(puller: Puller) -> None:
    """The newest come first, and those that fail are due again and again: half of a round is for who waits longest."""
    before = puller.want("before", 10)
    puller.clock.time += 1
    puller.want("zzz", 20 * BATCH, real=False)
    puller.clock.time += 1
    after = puller.want("after", 10)

    def honest(cid: Cid) -> Given:
        if cid not in puller.chunks:
            raise NotFoundError("never was")
        return puller.give(cid, puller.chunks[cid], "before", "after")

    puller.fetches = {peer(1): honest}
    await puller.rounds(2)
    assert puller.is_here(after) and puller.is_here(before)
    late = puller.want("late", 10)
    puller.fetches = {peer(1): lambda cid: replace_documents(honest(cid), "late")}
    await puller.rounds(1)
    assert puller.is_here(late)


def replace_documents(given: Given, doc_id: str) -> Given:
    return Given(replace(given.header, documents=(DocumentName("acme", doc_id),)), given.buffers)


@pytest.mark.anyio
async def test_what_was_removed_while_it_came_is_not_kept(puller: Puller) -> None:
    cids = puller.want("ours", 3)

    def removed(cid: Cid) -> Given:
        puller.inventory.forget("acme", "ours", 1.0, is_told=True)
        return puller.give(cid, puller.chunks[cid])

    puller.fetches = {peer(1): removed}
    puller.inventory.documents_of = lambda chunk: [("acme", "ours")]  # type: ignore[method-assign]  # as it was
    await puller.rounds(1)
    assert not any(puller.store.has(one) or replicas.is_held(puller.store, one) for one in cids)


def test_the_item_says_what_all_want_of_it(puller: Puller) -> None:
    (one,) = puller.want("ours", 1)
    found: Item | None = puller.inventory.find(one)
    assert found is not None and found.copies == 6 and len(found.demands) == 1
