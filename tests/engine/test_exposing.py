"""What purges by itself, in simulated organisations: whatever is public no more is purged, in time, and once."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.virtual_loop import NODE
from rage_lab.sim.world import World, play
from rage_net import cdns, exposing, owing
from rage_net.cdn.holdings import Exposed, Owed
from rage_net.cdn.journal import Journal
from rage_net.cdn.provider import Abilities, Call, Verdict
from rage_net.cdn_verbs import targets
from rage_net.cid import Cid
from rage_net.config import cdn as sections
from rage_net.env import SystemEnv
from rage_net.errors import IntegrityError
from rage_net.metrics import Metrics
from rage_net.verbs.acl import RevokeAcl, SetAcl
from rage_net.verbs.cert import RevokeCertificate
from rage_net.verbs.chunk import RemoveChunk
from tests.cdn.scripted import Scripted

SETTLE_S = 20.0
SOON_S = 1.0
"""The author's purge is sent so soon after the change is effective there."""
LATER_S = 400.0
"""After this every rank has had its turn."""


@dataclass
class Timed(Scripted):
    """Remembers when it was told."""

    times: list[float] = field(default_factory=list)

    async def purge(self, call: Call) -> Verdict:
        self.times.append(asyncio.get_running_loop().time())
        return await super().purge(call)

    @property
    def told(self) -> set[str]:
        return {word for call in self.calls for word in call.words}


class Store:
    """A bucket in memory: its keys, and when they went."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.is_away = False

    def __str__(self) -> str:
        return "bucket"

    async def delete(self, keys: Sequence[str]) -> dict[str, None]:
        if self.is_away:
            raise cdns_error()
        self.deleted += keys
        return dict.fromkeys(keys)

    def close(self) -> None:
        pass


def cdns_error() -> Exception:
    from rage_net.errors import UnavailableError

    return UnavailableError("the bucket does not answer")


class Clouds:
    """The scripted CDNs and buckets of a world, by node and name."""

    def __init__(self) -> None:
        self.providers: dict[tuple[str, str], Timed] = {}
        self.stores: dict[str, Store] = {}

    def of(self, node: Node, name: str = "fastly") -> Timed:
        return self.providers.setdefault((node.name, name), Timed(name))

    def make(self, section: sections.Provider, web: object, env: object, closing: object) -> Timed:
        return self.providers.setdefault((NODE.get(), section.name), Timed(section.name))

    def open_buckets(self, section: sections.Provider, **_: object) -> list[Store]:
        if section.bucket is None:
            return []
        return [self.stores.setdefault(NODE.get(), Store())]


@pytest.fixture
def clouds(monkeypatch: pytest.MonkeyPatch) -> Clouds:
    made = Clouds()
    monkeypatch.setattr(cdns, "make", made.make)
    monkeypatch.setattr(cdns, "open_buckets", made.open_buckets)
    return made


Play = Callable[[Callable[[World], Awaitable[Any]]], Any]


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


def row(name: str = "fastly", service: str = "one", *, updates: bool = True, bucket: bool = False) -> str:
    keys = f"service_id: {service}, api_key: k, purge_on_update: {'true' if updates else 'false'}"
    store = ", bucket: {uri: 's3://b/p'}" if bucket else ""
    return f"  - {{name: {name}, type: commercial, software: fastly, config: {{{keys}}}{store}}}\n"


async def start(world: World, acme: Organization, name: str, *rows: str, near: Sequence[Node] = ()) -> Node:
    text = "cdn:\n  version: 1\n  providers:\n" + "".join(rows) if rows else "cdn: {}\n"
    files = {"cdn.yaml": text}
    node = await world.node(name, organization=acme, capabilities=("storage", "admin"), files=files, bootstrap=near)
    if rows:
        await open_cdns(node)
    return node


async def open_cdns(node: Node) -> None:
    """As `rage node start` does."""
    await node.do(node.engine.cdns())


async def pair(world: World, first: Sequence[str] = (row(),), second: Sequence[str] = (row(),)) -> tuple[Node, Node]:
    acme = Organization("acme", world.seed)
    author = await start(world, acme, "author", *first)
    other = await start(world, acme, "other", *second, near=[author])
    await asyncio.sleep(SETTLE_S)
    return author, other


async def put(world: World, node: Node, name: str = "plan.md", size: int = 1000) -> tuple[str, str]:
    root = await node.put(world.random.randbytes(size), name, "public")
    (document,) = node.engine.documents.resolve(name)
    await asyncio.sleep(5)
    return document.doc_id, root


async def narrow(node: Node) -> None:
    await node.run(SetAcl("plan.md", visibility="org"))


async def deny(node: Node) -> None:
    await node.run(RevokeAcl("plan.md", "anyone", "read"))


async def remove(node: Node) -> None:
    await node.run(RemoveChunk("plan.md", everywhere=True))


@pytest.mark.parametrize("change", [narrow, deny, remove])
def test_what_is_public_no_more_is_purged_by_its_author_within_a_second_and_by_nobody_else(
    run: Play, clouds: Clouds, change: Callable[[Node], Awaitable[None]]
) -> None:
    async def scenario(world: World) -> None:
        author, other = await pair(world)
        doc_id, _ = await put(world, author)
        began = world.now
        await change(author)
        await asyncio.sleep(SOON_S)
        told = clouds.of(author)
        assert f"doc:{doc_id}" in told.told and told.times[0] - began <= SOON_S
        assert not any(call.soft for call in told.calls), "hard, whatever cdn.yaml says"
        await asyncio.sleep(LATER_S)
        assert not clouds.of(other).calls, "a signed fact says that it was purged"
        first, last = told.calls
        assert first.words == last.words and told.times[1] - told.times[0] > 60, "and once more, for what was in flight"

    run(scenario)


@pytest.mark.parametrize("first", [(), (row(service="two"),)])
def test_another_node_purges_after_half_a_minute_where_the_author_could_not_purge_its_cdn(
    run: Play, clouds: Clouds, first: Sequence[str]
) -> None:
    async def scenario(world: World) -> None:
        author, other = await pair(world, first)
        doc_id, _ = await put(world, author)
        began = world.now
        await narrow(author)
        await asyncio.sleep(exposing.OTHERS_WAIT_S - 1)
        assert not clouds.of(other).calls
        await asyncio.sleep(LATER_S)
        assert clouds.of(other).told >= {f"doc:{doc_id}"}
        assert clouds.of(other).times[0] - began >= exposing.OTHERS_WAIT_S
        assert bool(clouds.of(author).calls) == bool(first)

    run(scenario)


def test_another_node_purges_where_the_authors_purge_failed(run: Play, clouds: Clouds) -> None:
    async def scenario(world: World) -> None:
        author, other = await pair(world)
        clouds.of(author).answer = lambda call: Verdict("failed", reason="no rights", code="cdn-forbidden")
        doc_id, _ = await put(world, author)
        await narrow(author)
        await asyncio.sleep(LATER_S)
        assert clouds.of(other).told >= {f"doc:{doc_id}"}

    run(scenario)


def test_a_revocation_after_which_the_owners_word_counts_no_more_purges_what_it_made_public(
    run: Play, clouds: Clouds
) -> None:
    """What the revoking node knew of the revoked one goes on to count: what it did not know, no more."""

    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        admin = await start(world, acme, "admin")
        owner = await start(world, acme, "owner", near=[admin])
        reader = await start(world, acme, "reader", row(), near=[admin])
        await asyncio.sleep(SETTLE_S)
        world.partition([admin])
        doc_id, _ = await put(world, owner)
        holdings = (await reader.engine.cdns()).holdings
        await world.until(lambda: bool(holdings.exposed([doc_id])), within_s=120, what="the reader may have it at CDNs")
        await admin.run(RevokeCertificate(peer_id=owner.peer_id))
        world.heal()
        await world.until(lambda: bool(clouds.of(reader).calls), within_s=LATER_S, what="it is purged")
        assert clouds.of(reader).told >= {f"doc:{doc_id}"} and not holdings.exposed([doc_id])

    run(scenario)


def test_a_name_that_moves_purges_only_where_cdn_yaml_says_so(run: Play, clouds: Clouds) -> None:
    async def scenario(world: World) -> None:
        rows = (row("eager", "one"), row("lazy", "two", updates=False))
        author, _ = await pair(world, rows, ())
        doc_id, root = await put(world, author)
        again, moved = await put(world, author)
        assert again == doc_id and moved != root
        await asyncio.sleep(SOON_S)
        assert clouds.of(author, "eager").told >= {f"doc:{doc_id}"} and not clouds.of(author, "lazy").calls
        await narrow(author)
        await asyncio.sleep(SOON_S)
        assert clouds.of(author, "lazy").told >= {f"doc:{doc_id}"}

    run(scenario)


def test_a_restart_in_the_middle_goes_on(run: Play, clouds: Clouds) -> None:
    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        told = clouds.of(author)
        told.answer = lambda call: Verdict("queued", reason="away", code="cdn-unreachable", retry_after_s=5)
        await put(world, author)
        await narrow(author)
        await asyncio.sleep(SOON_S)
        first = list(told.calls)
        assert first
        await world.leave(author)
        told.answer = lambda call: Verdict("accepted")
        await world.join(author)
        await open_cdns(author)
        await asyncio.sleep(30)
        assert told.calls[-1].reference == first[0].reference and told.calls[-1].words == first[0].words
        journal = (await author.engine.cdns()).journal
        assert [it.step for it in journal.holdings.owed()] == [owing.TOLD] and {
            it.state for it in journal.states(journal.newest(1)[0].id)
        } == {"accepted"}

    run(scenario)


def test_what_changed_while_its_author_was_down_is_purged_when_it_is_back(run: Play, clouds: Clouds) -> None:
    async def scenario(world: World) -> None:
        author, other = await pair(world, second=())
        doc_id, _ = await put(world, author)
        await world.leave(author)
        await other.run(SetAcl(doc_id, visibility="org"))
        await world.join(author)
        await open_cdns(author)
        await asyncio.sleep(LATER_S)
        assert clouds.of(author).told >= {f"doc:{doc_id}"}

    run(scenario)


def test_a_bucket_is_emptied_and_its_edges_purged_again_and_what_others_have_stays(run: Play, clouds: Clouds) -> None:
    async def scenario(world: World) -> None:
        author, _ = await pair(world, (row(bucket=True),), ())
        shared = world.random.randbytes(100_000)
        kept_root = await author.put(shared, "kept.bin", "public")
        root = await author.put(shared + world.random.randbytes(100_000), "plan.md", "public")
        await asyncio.sleep(5)
        kept = set(blocks(author, kept_root))
        mine = set(blocks(author, root))
        assert kept & mine, "they share chunks"
        store = clouds.stores["author"]
        store.is_away = True
        await narrow(author)
        await asyncio.sleep(SOON_S)
        told = clouds.of(author)
        assert len(told.calls) == 1 and not store.deleted, "edges do not wait for a bucket that is away"
        store.is_away = False
        await asyncio.sleep(120)
        gone = {key.rpartition("/")[2] for key in store.deleted}
        assert gone == {str(cid) for cid in mine - kept}
        assert len(told.calls) == 3 and len({call.words for call in told.calls}) == 1
        assert len({call.reference for call in told.calls}) == 3

    run(scenario)


def test_a_bucket_of_ones_own_is_emptied_although_another_node_says_that_it_purged_the_edges(
    run: Play, clouds: Clouds
) -> None:
    async def scenario(world: World) -> None:
        author, other = await pair(world, (row(),), (row(bucket=True),))
        _, root = await put(world, author)
        await other.get(root)
        wanted = {str(cid) for cid in blocks(author, root)}
        await narrow(author)
        await asyncio.sleep(LATER_S)
        assert {key.rpartition("/")[2] for key in clouds.stores["other"].deleted} == wanted
        assert clouds.of(other).calls, "edges may have been filled from there since"

    run(scenario)


def test_who_could_not_empty_the_bucket_does_not_say_that_it_purged(
    run: Play, clouds: Clouds, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = targets.blocks_of
    monkeypatch.setattr(targets, "blocks_of", lambda *args: None if NODE.get() == "other" else listed(*args))

    async def scenario(world: World) -> None:
        author, other = await pair(world, (row(bucket=True),), (row(bucket=True),))
        doc_id, root = await put(world, author, size=3_000_000)
        wanted = {str(cid) for cid in blocks(author, root)}
        await other.run(SetAcl(doc_id, visibility="org"))
        await asyncio.sleep(LATER_S)
        assert not clouds.stores["other"].deleted and clouds.of(other).calls
        assert {key.rpartition("/")[2] for key in clouds.stores["author"].deleted} == wanted

    run(scenario)


def blocks(node: Node, root: str) -> tuple[Cid, ...]:
    from rage_net.cdn_verbs.targets import blocks_of

    found = blocks_of(node.engine, Cid.parse(root))
    assert found is not None
    return found


def test_a_proof_that_takes_long_holds_up_no_other_purge(
    run: Play, clouds: Clouds, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: object) -> set[str]:
        await asyncio.sleep(owing.PROVE_S)
        return set()

    monkeypatch.setattr(owing, "_prove", slow)

    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        told = clouds.of(author)
        for at in range(4):
            root = await author.put(world.random.randbytes(1000), f"{at}.md", "public")
            assert root
        await asyncio.sleep(5)
        for at in range(4):
            await author.run(SetAcl(f"{at}.md", visibility="org"))
            began = world.now
            await asyncio.sleep(SOON_S * 2)
            assert len(told.times) == at + 1 and told.times[at] - began <= SOON_S

    run(scenario)


def test_what_becomes_public_again_is_purged_again(run: Play, clouds: Clouds) -> None:
    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        await put(world, author)
        for at in range(3):
            await narrow(author)
            await asyncio.sleep(SOON_S)
            assert len(clouds.of(author).calls) == at + 1
            await author.run(SetAcl("plan.md", visibility="public"))
            await asyncio.sleep(5)

    run(scenario)


def test_a_cdn_that_can_purge_nothing_of_it_is_said_and_owed_no_more(
    run: Play, clouds: Clouds, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        clouds.of(author).abilities = Abilities({"host": 1})
        await put(world, author)
        await narrow(author)
        await asyncio.sleep(10)
        assert (await author.engine.cdns()).journal.holdings.owed() == []
        assert "has no way to purge" in caplog.text

    run(scenario)


def away(call: Call) -> Verdict:
    return Verdict("queued", reason="away", code="cdn-unreachable")


def test_a_cdn_that_is_dead_holds_up_neither_the_last_purge_of_others_nor_the_word_that_they_are_purged(
    run: Play, clouds: Clouds
) -> None:
    async def scenario(world: World) -> None:
        rows = (row("dead", "one"), row("well", "two"))
        author, other = await pair(world, rows, rows)
        clouds.of(author, "dead").answer = away
        await put(world, author)
        await narrow(author)
        await asyncio.sleep(LATER_S)
        assert len(clouds.of(author, "well").calls) == 2, "at once, and a last time"
        assert not clouds.of(other, "well").calls, "it was told that this one is purged"
        assert clouds.of(other, "dead").calls, "and that one not"
        holdings = (await author.engine.cdns()).holdings
        assert [(it.provider, it.step) for it in holdings.owed()] == [("dead", owing.LAST)]
        clouds.of(author, "dead").answer = lambda call: Verdict("accepted")
        await asyncio.sleep(LATER_S)
        assert holdings.owed() == []

    run(scenario)


def test_an_edge_that_is_dead_holds_up_no_last_purge_of_its_neighbours(run: Play, clouds: Clouds) -> None:
    def answer(call: Call) -> Verdict:
        return Verdict("done") if call.edge == "a" else away(call)

    told = clouds.providers["author", "fastly"] = Timed("fastly", edges=("a", "b"), answer=answer)

    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        await put(world, author)
        await narrow(author)
        await asyncio.sleep(owing.IN_FLIGHT_S + 10)
        assert [call.edge for call in told.calls].count("a") == 2
        assert [it.step for it in (await author.engine.cdns()).holdings.owed()] == [owing.LAST]

    run(scenario)


OWED = Owed("o", Exposed("d", "acme", "r"), "narrowed", (), 0.0, provider="one", since=100.0)


@pytest.mark.parametrize(
    ("step", "cause", "is_emptied", "has_answered", "now", "next_"),
    [
        (owing.EMPTYING, "removed", False, True, 1e9, "wait"),
        (owing.EMPTYING, "removed", True, False, 100, "again"),
        (owing.SENT, "removed", True, False, 101, "wait"),
        (owing.SENT, "removed", True, True, 101, "prove"),
        (owing.SENT, "removed", True, False, 100 + owing.IN_FLIGHT_S, "last"),
        (owing.SENT, "moved", True, False, 1e9, "wait"),
        (owing.LAST, "removed", True, False, 1e9, "wait"),
        (owing.LAST, "removed", True, True, 1e9, "prove"),
        (owing.TOLD, "removed", True, True, 101, "last"),
    ],
)
def test_what_is_next_at_one_cdn(
    step: int, cause: str, is_emptied: bool, has_answered: bool, now: float, next_: str
) -> None:
    owed = replace(OWED, step=step, cause=cause)
    assert owing.next_at(owed, is_emptied=is_emptied, has_answered=has_answered, now=now) == next_


def test_what_waits_is_looked_at_rarer_the_longer_it_waits_and_when_a_last_purge_is_due() -> None:
    sent, last = replace(OWED, step=owing.SENT), replace(OWED, step=owing.LAST)
    assert owing.look_in(sent, 100.0) == owing.LOOK_S_MIN
    assert owing.look_in(sent, 60.0) == owing.LOOK_S_MIN, "the clock was set back"
    assert owing.look_in(sent, 100 + owing.IN_FLIGHT_S - 2) == 2
    assert owing.look_in(last, 200.0) == 25 and owing.look_in(last, 1e6) == owing.LOOK_S_MAX


def test_an_edge_that_left_cdn_yaml_before_it_answered_holds_up_no_purge(run: Play, clouds: Clouds) -> None:
    def answer(call: Call) -> Verdict:
        return Verdict("done") if call.edge == "a" else Verdict("queued", code="cdn-unreachable")

    told = clouds.providers["author", "fastly"] = Timed("fastly", edges=("a", "b"), answer=answer)

    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        await put(world, author)
        await narrow(author)
        await asyncio.sleep(30)
        journal = (await author.engine.cdns()).journal
        assert [it.step for it in journal.holdings.owed()] == [owing.SENT]
        told.edges = ("a",)
        await asyncio.sleep(120)
        assert journal.holdings.owed() == []
        assert [call.edge for call in told.calls].count("a") == 2, "at once, and a last time"

    run(scenario)


def test_a_document_of_more_urls_than_one_purge_may_name_is_purged_by_something_wider(
    run: Play, clouds: Clouds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rage_net.cdn.plan.WORDS_MAX", 2)

    async def scenario(world: World) -> None:
        author, _ = await pair(world, second=())
        clouds.of(author).abilities = Abilities({"url": 100, "all": 1})
        await put(world, author)
        await narrow(author)
        await asyncio.sleep(SOON_S)
        assert clouds.of(author).told == {"*"} and "is purged instead" in caplog.text

    run(scenario)


def test_a_node_whose_cdn_yaml_is_wrong_takes_in_what_others_write_and_says_that_it_purges_nothing(
    run: Play, clouds: Clouds, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        author, other = await pair(world, second=())
        home = other.engine.home
        home.purges.touch()  # it has had CDNs
        (home.config / "cdn.yaml").write_text("cdn: {providers: 7}\n")
        doc_id, _ = await put(world, author)
        assert other.engine.metadata is not None
        assert other.engine.metadata.records.row("acme", doc_id) is not None
        await other.do(other.engine.reconsider_cdns([doc_id], is_ours=False))
        assert "no CDN is purged until cdn.yaml is right" in caplog.text

    run(scenario)


class Listing:
    """Of an engine and its CDNs, what a look needs whose comparison is scripted."""

    def __init__(self, documents: int = 0) -> None:
        self.env = SystemEnv()
        self.looking, self.wake, self.wake_sealed = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self.held = Journal(None)
        self.holdings = self.held.holdings
        self.documents = self
        self.names = [f"d{at}" for at in range(documents)]

    def list(self, *, after: str, limit: int) -> tuple[list[Any], str]:
        return [SimpleNamespace(doc_id=name, visibility="public") for name in self.names], ""


@pytest.mark.anyio
async def test_what_a_look_has_noted_is_purged_though_its_caller_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    world: Any = Listing()
    begun, go_on = asyncio.Event(), threading.Event()
    loop, noted = asyncio.get_running_loop(), []

    def compare(*_: object) -> int:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        noted.append(1)
        return 1

    monkeypatch.setattr(exposing, "_compare", compare)
    looking = asyncio.create_task(exposing.look(world, world, ["d"], is_ours=True))
    await begun.wait()
    looking.cancel()
    await asyncio.sleep(0)
    assert world.looking.locked(), "nobody else compares meanwhile"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert noted and world.wake.is_set() and world.wake_sealed.is_set() and not world.looking.locked()
    world.env.close()


@pytest.mark.anyio
async def test_whoever_narrows_one_document_does_not_wait_until_all_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world: Any = Listing(documents=3 * exposing.PART)
    begun, loop, compared = asyncio.Event(), asyncio.get_running_loop(), []
    go_on = threading.Event()

    def compare(engine: object, cdns: object, doc_ids: Sequence[str], is_ours: bool) -> int:
        compared.append((len(doc_ids), is_ours))
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return 0

    monkeypatch.setattr(exposing, "_compare", compare)
    everything = asyncio.create_task(exposing.look(world, world, None, is_ours=False))
    await begun.wait()
    one = asyncio.create_task(exposing.look(world, world, ["d"], is_ours=True))
    for _ in range(20):  # it waits for its turn
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(everything, one)
    assert compared == [(exposing.PART, False), (1, True), (exposing.PART, False), (exposing.PART, False)]
    world.env.close()


@pytest.mark.anyio
async def test_a_document_that_cannot_be_looked_at_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world: Any = Listing()
    world.metadata, world.journal, world.metrics = None, world.held, Metrics()
    world.holdings.expose([Exposed(name, "acme", "r") for name in ("damaged", "narrowed")], [], [])

    def look(engine: object, doc_id: str, was: object) -> None:
        if doc_id == "damaged":
            raise IntegrityError("its row is damaged")

    monkeypatch.setattr(exposing, "_exposed", look)
    assert await exposing.look(world, world, None, is_ours=True) == 1
    assert [owed.document.doc_id for owed in world.holdings.owed()] == ["narrowed"]
    assert [it.doc_id for it in world.holdings.exposed()] == ["damaged"] and "document damaged" in caplog.text
    world.env.close()


def test_what_is_owed_is_due_at_its_time_and_at_once_when_the_clock_was_set_back() -> None:
    owed = Owed("o", Exposed("d", "acme", "r"), "narrowed", (), 1_000_000.0)
    journal = Journal(None)
    journal.holdings.expose([], [owed], [])
    for now, is_due in ((1_000_000.0, True), (1_000_000.0 - exposing.OTHERS_WAIT_S, False), (996_400.0, True)):
        assert journal.holdings.due(now, now + owing.WAIT_S_MAX) == ([owed] if is_due else [])
    assert (journal.holdings.next_owed(999_999.0), journal.holdings.next_owed(1_000_000.0)) == (1_000_000.0, None)
    journal.close()
