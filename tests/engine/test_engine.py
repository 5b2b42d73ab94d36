"""The engine on a real home: composition, and what happens when it is closed or a verb is given up."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from pathlib import Path

import pytest

from rage_net import home as homes
from rage_net.engine import VERBS, Engine
from rage_net.errors import ConflictError
from rage_net.home import Home
from rage_net.verbs import chunk, registry
from rage_net.verbs.chunk import GetChunk, ListChunks, PutChunk, VerifyChunks

pytestmark = pytest.mark.anyio


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    homes.init(made)
    return made


class Quiet:
    """A source that gives something, and then nothing until it is let go."""

    def __init__(self, data: bytes) -> None:
        self.reached = threading.Event()
        self.let_go = threading.Event()
        self._rest = data

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        if self._rest:
            size = len(self._rest)
            buffer[:size] = self._rest
            self._rest = b""
            return size
        self.reached.set()
        self.let_go.wait()
        return 0


def test_every_verb_has_its_method() -> None:
    assert set(VERBS) == set(registry().values())


async def test_chunks_lie_where_the_configuration_says(home: Home, tmp_path: Path, rng: random.Random) -> None:
    elsewhere = tmp_path / "elsewhere"
    home.network_yaml.write_text(f"network:\n  version: 1\n  store: {{path: {elsewhere}}}\n")
    async with Engine.open(home) as engine:
        found = await engine.run(PutChunk(), source=io.BytesIO(rng.randbytes(100_000)))
    assert [path.name for path in elsewhere.rglob("bafk*")] == [found.root]
    assert not list(home.store.rglob("bafk*"))


async def test_a_put_names_so_many_chunks_and_counts_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk, "CHUNKS_LISTED_MAX", 3)
    home.network_yaml.write_text(
        "network:\n  version: 1\n  store: {split: {min_size: 1KiB, target_size: 1KiB, max_size: 2KiB}}\n"
    )
    async with Engine.open(home) as engine:
        found = await engine.run(PutChunk(), source=io.BytesIO(bytes(20_000)))
        rows = (await engine.run(ListChunks())).documents
    assert len(found.chunks) == 3 < found.total_chunks == rows[0].chunks


async def test_a_put_that_is_given_up_while_its_source_is_silent_leaves_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    monkeypatch.setattr("rage_net.engine.LET_GO_S", 0.01)
    source = Quiet(rng.randbytes(100_000))
    try:
        async with Engine.open(home) as engine:
            put = asyncio.create_task(engine.run(PutChunk(name="n"), source=source))
            await engine.env.waiting(source.reached.wait)
            put.cancel()
            with pytest.raises(asyncio.CancelledError):
                await put
        async with Engine.open(home, lock_timeout_s=0) as engine:  # the home is free again
            source.let_go.set()  # and what is left of the put finds its store closed
            assert (await engine.run(ListChunks())).documents == ()
            assert (await engine.run(VerifyChunks())).bad == ()
    finally:
        source.let_go.set()


async def test_an_engine_closed_amid_a_download_ends_its_threads_before_its_store(
    home: Home, rng: random.Random
) -> None:
    async with Engine.open(home) as engine:
        found = await engine.run(PutChunk(), source=io.BytesIO(rng.randbytes(6_000_000)))

    class Leaves:
        def begin(self, size: int, /) -> None: ...

        def write(self, data: bytes | bytearray | memoryview, /) -> None:
            raise ConflictError("the reader left")

    async with Engine.open(home) as engine:
        with pytest.raises(ConflictError, match="left"):
            await engine.run(GetChunk(found.root), sink=Leaves())
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("rage-blocking")]


async def test_the_wait_for_the_lock_can_be_given_up(home: Home) -> None:
    async with Engine.open(home):

        async def wait() -> None:
            async with Engine.open(home, lock_timeout_s=60):
                raise AssertionError("two engines on one home")

        waiting = asyncio.create_task(wait())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.shield(waiting)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await waiting
    async with Engine.open(home, lock_timeout_s=0):
        pass
