"""Where a download looks, in which order, and how long it waits: fake sources under a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from rage_lab.sim.env import SimulatedEnv
from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.chunk.manifest import Link, Manifest
from rage_net.chunk.store import memory_store
from rage_net.cid import DAG_CBOR, Cid
from rage_net.errors import NotFoundError, RageError, UnavailableError
from rage_net.messages import ChunkHeader, Traffic
from rage_net.metrics import Metrics
from rage_net.services.exchange import STALL_S_MAX
from rage_net.services.retrieval import Outcomes, Retrieval, Stage, Want, Way, known
from rage_net.services.retrieval.remote import PATIENCE_FIRST_S, PATIENCE_S, SOURCES_MAX
from tests.services.conftest import Collect

pytestmark = pytest.mark.anyio

DATA = b"what is wanted"
ROOT = Cid.of(DATA)


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio", {"loop_factory": VirtualLoop}


@dataclass(frozen=True)
class Got:
    header: ChunkHeader
    buffers: list[bytes | memoryview]


@dataclass
class Fake:
    """A source that answers after `delay_s`, with what it holds."""

    name: str
    blocks: dict[Cid, bytes] = field(default_factory=dict)
    delay_s: float = 0.05
    kind: Literal["cdn", "p2p"] = "p2p"
    asked_at: list[float] = field(default_factory=list)
    dropped: str = ""

    @property
    def key(self) -> str:
        return self.name

    async def have(self, cids: Sequence[Cid], traffic: Traffic) -> Sequence[bool]:
        await asyncio.sleep(self.delay_s)
        return [cid in self.blocks for cid in cids]

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic) -> Got:
        self.asked_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.delay_s)
        data = self.blocks.get(cid)
        if data is None:
            raise NotFoundError("not found")
        return Got(ChunkHeader(len(data), len(data), "raw"), [data])

    async def drop(self, reason: str) -> None:
        self.dropped = reason

    def way(self, reach_s: float = 0.0, error: RageError | None = None) -> Way:
        async def reach() -> Fake:
            await asyncio.sleep(reach_s)
            if error is not None:
                raise error
            return self

        return Way(self.name, reach)


def reader() -> Retrieval:
    env = SimulatedEnv("reader")
    return Retrieval(memory_store(env), env, Metrics())


async def fetch(stages: Sequence[Stage], service: Retrieval | None = None, root: Cid = ROOT) -> tuple[bytes, Outcomes]:
    sink = Collect()

    async def find() -> Sequence[Stage]:
        return stages

    async with asyncio.timeout(300):
        outcomes = await (service or reader()).fetch(Want(root), find, sink)
    return bytes(sink.data), outcomes


def slow_stage(name: str, find_s: float, *sources: Fake, error: RageError | None = None) -> Stage:
    """A stage that looks for `find_s` before it names each source."""

    async def ways() -> AsyncIterator[Way]:
        for source in sources:
            await asyncio.sleep(find_s)
            yield source.way()
        await asyncio.sleep(find_s)
        if error is not None:
            raise error

    return Stage(name, ways)


HOLDS = {ROOT: DATA}


async def test_the_next_stage_is_not_asked_while_the_first_is_quick() -> None:
    first, second = Fake("first", HOLDS), Fake("second", HOLDS)
    data, outcomes = await fetch([known("peers", [first.way()]), known("dht", [second.way()])])
    assert data == DATA and outcomes.gave == {"first": "p2p"}
    assert not second.asked_at


async def test_the_next_stage_begins_at_once_when_the_first_has_it_not() -> None:
    first, second = Fake("first"), Fake("second", HOLDS)
    data, _ = await fetch([known("peers", [first.way()]), known("dht", [second.way()])])
    assert data == DATA
    assert asyncio.get_running_loop().time() < PATIENCE_FIRST_S, "a no is no reason to wait"


@pytest.mark.parametrize("late", ["answer", "dial"])
async def test_the_next_stage_begins_when_the_first_is_slow_not_only_when_it_failed(late: str) -> None:
    first, second = Fake("first", HOLDS, delay_s=60 if late == "answer" else 0.05), Fake("second", HOLDS)
    stages = [known("peers", [first.way(reach_s=60 if late == "dial" else 0)]), known("dht", [second.way()])]
    data, outcomes = await fetch(stages)
    assert data == DATA and outcomes.gave == {"second": "p2p"}
    assert PATIENCE_FIRST_S <= second.asked_at[0] < PATIENCE_FIRST_S + 1.0


async def test_all_stages_are_under_way_when_all_are_slow_and_the_first_answer_wins() -> None:
    slow = [Fake(f"slow-{number}", HOLDS, delay_s=100) for number in range(3)]
    last = Fake("last", HOLDS)
    stages = [known(source.name, [source.way()]) for source in slow] + [slow_stage("dht", 0.5, last)]
    data, _ = await fetch(stages)
    assert data == DATA
    assert asyncio.get_running_loop().time() < 3.0


async def test_local_then_cdn_then_peers_and_each_is_labelled() -> None:
    cdn, peer = Fake("edge", kind="cdn"), Fake("peer", HOLDS)
    cdn_has = Fake("edge", HOLDS, kind="cdn")
    service = reader()
    _, outcomes = await fetch([known("cdn", [cdn.way()]), known("peers", [peer.way()])], service)
    assert outcomes.sources == {"local": 0, "cdn": 0, "p2p": 1}
    _, outcomes = await fetch([known("cdn", [cdn_has.way()]), known("peers", [peer.way()])])
    assert outcomes.sources == {"local": 0, "cdn": 1, "p2p": 0}
    _, outcomes = await fetch([], service)
    assert outcomes.sources == {"local": 1, "cdn": 0, "p2p": 0}
    kinds = service.metrics.retrieval.read()
    assert {labels for labels, cell in kinds.items() if sum(cell[1:])} == {("p2p",), ("local",)}


async def test_not_found_names_every_source_and_what_it_said() -> None:
    absent = [Fake(f"peer-{number}") for number in range(6)]
    dead = Fake("dead").way(error=UnavailableError("cannot be reached"))
    with pytest.raises(NotFoundError) as failed:
        await fetch(
            [
                known("peers", [source.way() for source in absent] + [dead]),
                known("cdn", [], "none is configured"),
                slow_stage("dht", 0.1, error=NotFoundError("no provider is known")),
            ]
        )
    why = failed.value.why
    for name in [source.name for source in absent]:
        assert name in why
    assert "dead: cannot be reached" in why and "cdn: none is configured" in why
    assert "dht: no provider is known" in why and "not found" in why


async def test_when_nobody_could_be_asked_it_is_worth_trying_again() -> None:
    dead = Fake("dead").way(error=UnavailableError("cannot be reached"))
    with pytest.raises(UnavailableError) as failed:
        await fetch([known("peers", [dead]), slow_stage("dht", 0.1, error=UnavailableError("no peer answers"))])
    assert failed.value.id == "sources-unreachable" and "no peer answers" in failed.value.why


async def test_a_source_named_by_two_stages_is_asked_once() -> None:
    source = Fake("peer")
    with pytest.raises(NotFoundError):
        await fetch([known("peers", [source.way()]), known("dht", [source.way()])])
    assert len(source.asked_at) == 1


async def test_the_next_stage_takes_over_when_all_sources_die_midway() -> None:
    blocks = [bytes([number]) * 5000 for number in range(40)]
    manifest = Manifest("cdc-1", 200_000, 1, tuple(Link(Cid.of(block), 5000) for block in blocks)).encode()
    root = Cid.of(manifest, DAG_CBOR)
    whole = {root: manifest, **{Cid.of(block): block for block in blocks}}

    class Dying(Fake):
        async def fetch(self, cid: Cid, size_max: int, traffic: Traffic) -> Got:
            if len(self.asked_at) > 10:
                raise UnavailableError("gone", id="peer-gone")
            return await super().fetch(cid, size_max, traffic)

    dying, second = Dying("dying", whole), Fake("second", whole)
    data, outcomes = await fetch([known("peers", [dying.way()]), known("dht", [second.way()])], root=root)
    assert data == b"".join(blocks)
    assert set(outcomes.gave) == {"dying", "second"}
    assert asyncio.get_running_loop().time() < PATIENCE_S + 1


async def test_holders_are_remembered_by_root() -> None:
    service = reader()
    assert service.holders(ROOT) == ()
    await fetch([known("peers", [Fake("peer", HOLDS).way()])], service)
    assert service.holders(ROOT) == ("peer",)


async def test_a_stage_that_names_a_million_sources_costs_a_few_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = 0

    def make(number: int) -> Callable[[], Way]:
        def way() -> Way:
            nonlocal reached
            reached += 1
            return Fake(f"peer-{number}", delay_s=0.001).way()

        return way

    async def ways() -> AsyncIterator[Way]:
        for number in range(1_000_000):
            yield make(number)()

    with pytest.raises(NotFoundError):
        await fetch([Stage("dht", ways)])
    assert reached < SOURCES_MAX + 40


@dataclass
class Silent(Fake):
    """A holder by its own word, which takes each question and never answers."""

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic) -> Got:
        self.asked_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(STALL_S_MAX)
        raise UnavailableError("sent nothing", id="stalled")


async def test_sixteen_holders_that_are_silent_do_not_hide_the_one_that_is_not() -> None:
    silent = [Silent(f"silent-{number}") for number in range(16)]
    honest = Fake("honest", HOLDS)
    holders = [replace(source.way(), is_holder=True) for source in (*silent, honest)]
    data, outcomes = await fetch([known("dht", holders)])
    assert data == DATA and outcomes.gave == {"honest": "p2p"}
    assert asyncio.get_running_loop().time() < 2.5 * STALL_S_MAX, "two at a time would take eight stalls"
