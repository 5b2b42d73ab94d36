"""What a hostile client, CDN or organisation tries against edges, journal and origin; one test an attack."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rage_net import database, owing, sealed_cdns
from rage_net import home as homes
from rage_net.cdn import retry
from rage_net.cdn.holdings import Exposed, Owed
from rage_net.cdn.journal import Asked, Journal
from rage_net.cdn.plan import Planned, Target, Word
from rage_net.cdn.provider import Abilities, Item, Verdict
from rage_net.cdns import Cdns
from rage_net.cid import Cid
from rage_net.config import cdn as reading
from rage_net.config.cdn import Cdn, Provider
from rage_net.config.values import Name
from rage_net.engine import Engine
from rage_net.env import SystemEnv
from rage_net.home import Home
from rage_net.http import Http
from rage_net.metrics import Metrics
from rage_net.services.purging import Purging, Wish
from rage_net.web import Web
from tests.cdn import servers
from tests.cdn.scripted import Scripted
from tests.cdn.servers import NginxServer, Origin, VarnishServer
from tests.cdn.test_edges_real import EDGE, fetch
from tests.cdn.test_origin import CID, Chunks
from tests.cdn.test_purging import working

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def edges(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VarnishServer, NginxServer]]:
    """One of each, as rage renders them."""
    for name in ("varnishd", "nginx"):
        servers.need(name, os.environ.get("CI") == "true")
    where = tmp_path_factory.mktemp("a")
    with servers.closing_all() as running:
        varnish = servers.start_varnish(where / "v", origin.url)
        running.append(varnish)
        nginx = servers.start_nginx(where / "n", origin.url)
        running.append(nginx)
        yield varnish, nginx


def test_a_query_that_means_nothing_neither_busts_a_cache_nor_hides_a_copy_from_the_purge(
    origin: Origin, edges: tuple[VarnishServer, NginxServer]
) -> None:
    for edge, name in zip(edges, "vn", strict=True):
        path = origin.put(f"/chunks/busted{name}", b"x", **EDGE)
        assert fetch(edge, path).cache == "MISS"
        found = [fetch(edge, path + query) for query in ("?a=1", "?b", "?", "?format", "?a=1&b=2", "?%66ormat=raw")]
        assert {answer.cache for answer in found} == {"HIT"}
        assert origin.count(path) == 1


def test_a_path_that_is_never_kept_has_its_whole_query_at_the_origin(
    origin: Origin, edges: tuple[VarnishServer, NginxServer]
) -> None:
    for edge, name in zip(edges, "vn", strict=True):
        asked = origin.put(f"/api/{name}?format=raw&a=1&b=%2F", b"answer", **EDGE)
        assert [fetch(edge, asked).body for _ in range(2)] == [b"answer"] * 2
        assert origin.count(asked) == 2


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("HEAD", {}),
        ("GET", {"Range": "bytes=0-1"}),
        ("GET", {"If_None_Match": "*"}),
        ("GET", {"Authorization": "Bearer mine"}),
        ("GET", {"X_Forwarded_Host": "evil.example", "X_Original_URL": "/metrics"}),
        ("GET", {"xkey": "stolen", "X_Purge_Soft": "1", "X_Rage_Pass": "1", "X_Rage_Rule": "keep"}),
        ("GET", {"X_HTTP_Method_Override": "PURGE", "X_Ban_All": "1"}),
        ("PURGE", {}),
        ("BAN", {"X_Ban_All": "1"}),
        ("POST", {"xkey": "rage"}),
    ],
    ids=lambda it: it if isinstance(it, str) else "+".join(it) or "plain",
)
def test_an_odd_first_request_leaves_the_whole_object_for_the_next_and_purges_nothing(
    origin: Origin, edges: tuple[VarnishServer, NginxServer], method: str, more: dict[str, str]
) -> None:
    for edge, name in zip(edges, "vn", strict=True):
        kept = origin.put(f"/chunks/kept{name}", b"kept", **EDGE)
        path = origin.put(f"/chunks/odd{name}-{method}{len(more)}{'+'.join(more)}", b"whole", ETag='"1"', **EDGE)
        fetch(edge, kept)
        fetch(edge, path, method, **more)
        answers = [fetch(edge, path) for _ in range(2)]
        assert [(it.status, it.body) for it in answers] == [(200, b"whole")] * 2
        assert answers[1].cache == fetch(edge, kept).cache == "HIT"


@pytest.mark.parametrize("more", [{}, {"Connection": "X-Forwarded-For, Via"}, {"X_Forwarded_For": "127.0.0.1"}])
def test_a_client_behind_an_edge_is_not_taken_for_the_machine_of_the_edge(
    origin: Origin, edges: tuple[VarnishServer, NginxServer], more: dict[str, str]
) -> None:
    for edge, name in zip(edges, "vn", strict=True):
        path = origin.put(f"/api/who{name}", b"answer")
        fetch(edge, path, source="127.0.0.2", **more)
        assert origin.last(path)["x-forwarded-for"].endswith("127.0.0.2"), "the discovery server trusts a bare address"


@pytest.mark.parametrize(
    "more",
    [b"X: " + b"a" * 20_000, b"X: a\x01b", b"X y: a", b"\r\n".join([b"X: a"] * 3000), b"Host: a\r\nHost: b"],
    ids=["too long", "control character", "no name", "too many", "two hosts"],
)
async def test_a_head_that_only_the_origin_refuses_poisons_no_cache(more: bytes) -> None:
    async with Http(Chunks(), Metrics(), listen="127.0.0.1:0", ready=list) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.addresses[0].rpartition(":")[2]))
        writer.write(b"GET /chunks/%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % (str(CID).encode(), more))
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
    assert " 400 " in head.splitlines()[0]
    assert "\r\nCache-Control: no-store\r\n" in head and "\r\nCDN-Cache-Control: no-store\r\n" in head


# --- clocks -----------------------------------------------------------------------------------------------------------

DAY_S = 86_400.0


class SetBack(SystemEnv):
    """A machine whose wall clock somebody sets."""

    by_s = 0.0

    def now(self) -> float:
        return super().now() + self.by_s


@pytest.mark.parametrize(
    ("code", "retry_after_s"), [("cdn-unreachable", None), ("cdn-answer", None), ("cdn-answer", 300.0)]
)
async def test_a_clock_that_is_set_back_a_day_keeps_no_purge_waiting_for_a_day(
    code: str, retry_after_s: float | None
) -> None:
    answers = [Verdict("queued", reason="later", code=code, retry_after_s=retry_after_s)]
    provider = Scripted(answer=lambda call: answers.pop() if answers else Verdict("done", count=1))
    with closing(SetBack()) as env:
        purging = Purging(Journal(None), [provider], env)
        await purging.ask(Wish("1", (Target("a", ((Item("tag", "a"),),)),), "a test"))
        async with asyncio.timeout(20):
            async with working(purging):
                await purging.wait("1", 20, to_the_end=False)
            env.by_s = -DAY_S
            async with working(purging):
                (standing,) = await purging.wait("1", 20, to_the_end=True)
    assert standing.state == "done"


def test_a_clock_that_is_set_back_a_day_asks_for_the_end_of_a_purge_all_the_same() -> None:
    journal, able = Journal(None), Abilities({"tag": 1})
    plans = [(Planned("one", (Word("tag", "a"),), frozenset(), 1, 0.0), ("",))]
    journal.ask(Asked("1", DAY_S, "manual", ""), plans)
    call = journal.take("one", "", able, DAY_S).call
    assert call is not None
    journal.settle(call.reference, Verdict("pending", id="I1"), DAY_S, retry_in_s=300.0)
    assert not journal.pending("one", DAY_S)
    assert [it[2] for it in journal.pending("one", 0.0)] == ["I1"]


def test_a_cdn_that_asks_to_be_left_alone_for_a_week_is_asked_for_the_end_of_a_purge_in_minutes() -> None:
    week = Verdict("pending", id="I1", retry_after_s=7 * DAY_S)
    assert retry.look_in_s(week) == retry.ASKED_FOR_S_MAX


# --- organisations that have us purge ---------------------------------------------------------------------------------

SECTION = Provider(name=Name("one"), type="commercial", software="http", config=reading.Http())
SHOWN = Exposed("a" * 26, "globex", str(Cid.of(b"shown and hidden")))


def test_who_shows_and_hides_a_document_again_and_again_brings_about_one_purge() -> None:
    holdings = Journal(None).holdings
    for turn in range(100):
        holdings.expose([], [Owed(f"o{turn}", SHOWN, "narrowed", (f"{turn:02x}",), 30.0 + turn)], [SHOWN.doc_id])
        holdings.expose([SHOWN], [], [])
    (owed,) = holdings.owed()
    assert (owed.due_at, owed.events) == (30.0, ("63",)), "as soon as the first, for what the last one asked"


def test_a_purge_that_has_begun_does_not_swallow_what_is_hidden_after_it() -> None:
    holdings = Journal(None).holdings
    first = Owed("o1", SHOWN, "narrowed", (), 1.0)
    holdings.expose([], [first], [])
    holdings.turn([first], [replace(first, provider="one", step=1, due_at=2.0)])
    holdings.expose([], [Owed("o2", SHOWN, "narrowed", (), 3.0), Owed("o1", SHOWN, "narrowed", (), 9.0)], [])
    assert [(it.id, it.step, it.due_at) for it in holdings.owed()] == [("o1", 1, 2.0), ("o2", 0, 3.0)]


def test_a_document_that_moves_after_it_was_hidden_is_purged_where_moves_are_not() -> None:
    holdings = Journal(None).holdings
    holdings.expose([], [Owed("o1", SHOWN, "narrowed", (), 1.0)], [])
    holdings.expose([], [Owed("o2", SHOWN, "moved", (), 2.0)], [])
    assert [(it.id, it.cause, it.due_at) for it in holdings.owed()] == [("o2", "narrowed", 1.0)]


@asynccontextmanager
async def doing_what_is_owed(engine: Engine, cdns: Cdns) -> AsyncIterator[None]:
    job = asyncio.create_task(owing.work(engine, cdns))
    try:
        async with working(cdns.purging), asyncio.timeout(20):
            yield
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)


async def until(ready: Callable[[], bool]) -> None:
    while not ready():
        await asyncio.sleep(0.01)


async def test_one_document_whose_purge_fails_holds_up_no_other(tmp_path: Path) -> None:
    bad, good = (Exposed(name * 26, "globex", root) for name, root in (("a", "no CID"), ("b", SHOWN.root)))
    homes.init(Home(tmp_path))
    async with Engine.open(Home(tmp_path)) as engine:
        cdns = Cdns(Cdn(), {"one": SECTION}, {"one": Web()}, {}, Purging(Journal(None), [Scripted("one")], engine.env))
        cdns.holdings.expose([], [Owed("o1", bad, "removed", (), 1.0), Owed("o2", good, "removed", (), 2.0)], [])
        async with doing_what_is_owed(engine, cdns):
            await until(lambda: [it.step for it in cdns.holdings.owed() if it.id == "o2"] == [owing.TOLD])
        left = next(it for it in cdns.holdings.owed() if it.id == "o1")
        assert left.step == 0 and left.due_at > engine.env.now(), "it is tried again, later"


async def test_a_full_disk_costs_a_line_of_the_log_for_each_purge_that_waits_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    homes.init(Home(tmp_path))
    async with Engine.open(Home(tmp_path)) as engine:
        purging = Purging(Journal(None), [Scripted("one")], engine.env)
        cdns = Cdns(Cdn(), {"one": SECTION}, {"one": Web()}, {}, purging)

        def full(*_: object) -> None:
            raise database.full("cannot write the journal of purges: it is full", "no room")

        monkeypatch.setattr(purging.journal, "ask", full)
        cdns.holdings.expose([], [Owed("o1", SHOWN, "narrowed", (), 1.0)], [])
        async with doing_what_is_owed(engine, cdns):
            await until(lambda: cdns.holdings.owed()[0].due_at > 1.0)
    (line,) = [it for it in caplog.records if it.name == "rage.cdn"]
    assert line.exc_info is None and SHOWN.doc_id in line.getMessage() and "full" in line.getMessage()


async def test_a_cdn_that_has_left_the_configuration_holds_up_no_purge(tmp_path: Path) -> None:
    homes.init(Home(tmp_path))
    async with Engine.open(Home(tmp_path)) as engine:
        journal = Journal(None)
        journal.holdings.expose([], [Owed("o1", SHOWN, "removed", (), 1.0)], [])
        away = Scripted("left", answer=lambda call: Verdict("queued", code="cdn-unreachable", reason="away"))
        both = Purging(journal, [Scripted("one"), away], engine.env)
        async with doing_what_is_owed(engine, Cdns(Cdn(), {"one": SECTION, "left": SECTION}, {}, {}, both)):
            await until(lambda: {it.provider for it in journal.states("o1") if it.tries} == {"one", "left"})
            await until(lambda: {it.provider for it in journal.holdings.owed()} == {"one", "left"})
        cdns = Cdns(Cdn(), {"one": SECTION}, {"one": Web()}, {}, Purging(journal, [Scripted("one")], engine.env))
        async with doing_what_is_owed(engine, cdns):
            await until(lambda: [it.step for it in journal.holdings.owed()] == [owing.TOLD])


# --- CDNs that mean us harm -------------------------------------------------------------------------------------------


def test_a_cdn_that_asks_to_be_asked_again_at_once_is_left_alone_for_a_second() -> None:
    for tries in (1, 2, 100):
        assert retry.pause_s(tries, Verdict("queued", retry_after_s=0.0, code="cdn-busy"), 0.0) == 1.0


async def test_a_cdn_that_never_shows_a_purge_does_not_delay_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving = asyncio.Event()

    async def prove(*_: object, **__: object) -> tuple[object, ...]:
        proving.set()
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(owing, "prove", prove)
    homes.init(Home(tmp_path))
    async with Engine.open(Home(tmp_path)) as engine:
        cdns = Cdns(Cdn(), {"one": SECTION}, {}, {}, Purging(Journal(None), [Scripted("one")], engine.env))
        async with doing_what_is_owed(engine, cdns):
            cdns.holdings.expose([], [Owed("o1", SHOWN, "removed", (), 1.0)], [])
            cdns.wake.set()
            await proving.wait()
            cdns.holdings.expose([], [Owed("o2", SHOWN, "narrowed", (), 2.0)], [])
            cdns.wake.set()
            await until(lambda: cdns.journal.find("o2") is not None)


async def test_one_sealed_document_that_cannot_be_done_right_by_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def publish(engine: object, cdns: object, doc_id: str) -> None:
        tried.append(doc_id)
        raise ValueError("what nobody thought of")

    monkeypatch.setattr(sealed_cdns, "publish", publish)
    homes.init(Home(tmp_path))
    async with Engine.open(Home(tmp_path)) as engine:
        cdns = Cdns(Cdn(), {}, {}, {}, Purging(Journal(None), [], engine.env))
        for doc_id in ("a" * 26, "b" * 26):
            cdns.holdings.note_sealed(doc_id, doc_id, [str(CID)])
        member = SimpleNamespace(env=engine.env, metrics=engine.metrics, metadata=object())
        await sealed_cdns.settle(member, cdns)  # type: ignore[arg-type]
    assert tried == ["a" * 26, "b" * 26]


async def test_an_edge_that_is_away_holds_up_what_is_old_and_no_document_that_must_be_sealed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc_ids = [letter * 26 for letter in "abcd"]
    done: list[str] = []

    async def publish(engine: object, cdns: object, doc_id: str) -> None:
        done.append(f"publish {doc_id[0]}")

    async def clear(engine: object, cdns: object, doc_id: str, epoch: str) -> None:
        done.append(f"clear {doc_id[0]}")
        await until(lambda: len(done) == 8)  # as if each waited for the edge

    monkeypatch.setattr(sealed_cdns, "publish", publish)
    monkeypatch.setattr(sealed_cdns, "_clear", clear)
    monkeypatch.setattr(sealed_cdns, "_right", lambda engine, doc_id: set())
    homes.init(Home(tmp_path))
    async with Engine.open(Home(tmp_path)) as engine:
        cdns = Cdns(Cdn(), {}, {}, {}, Purging(Journal(None), [], engine.env))
        for doc_id in doc_ids:
            cdns.holdings.note_sealed(doc_id, doc_id, [str(CID)])
        member = SimpleNamespace(env=engine.env, metrics=engine.metrics, metadata=object())
        async with asyncio.timeout(10):
            await sealed_cdns.settle(member, cdns)  # type: ignore[arg-type]
    assert done[:4] == [f"publish {doc_id[0]}" for doc_id in doc_ids] and sorted(done[4:])[0] == "clear a"
