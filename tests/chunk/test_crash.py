"""kill -9 at random points of puts, moves and gc: everything acknowledged is there, nothing is corrupt."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from rage_net.chunk.bucket import Place
from rage_net.chunk.store import Cid, open_store

KILLS = 100
"""In each of two homes, beside each other where tests run in parallel."""
OBJECT_KILLS = 12
"""Each life of a process there begins with a client, which takes a tenth of a second."""


@pytest.mark.parametrize("half", [1, 2])
def test_kills_at_random_points_lose_nothing_that_was_acknowledged(
    half: int, tmp_path: Path, rng: random.Random
) -> None:
    (tmp_path / "home").mkdir()
    seed = rng.getrandbits(32)
    script = Path(__file__).with_name("crash_rounds.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "home"), str(seed), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
    assert json.loads(done.stdout)["killed"] == KILLS


def test_kills_lose_nothing_that_lies_in_an_object_store(
    tmp_path: Path, rng: random.Random, object_place: Place
) -> None:
    (tmp_path / "home").mkdir()
    seed = rng.getrandbits(32)
    script = Path(__file__).with_name("crash_rounds.py")
    where = [str(object_place.endpoint), object_place.bucket]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "home"), str(seed), str(OBJECT_KILLS), *where],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-4000:]}"
    assert json.loads(done.stdout)["killed"] == OBJECT_KILLS


def test_a_put_that_fails_at_any_step_leaves_no_file_and_no_row(
    tmp_path: Path, world: object, rng: random.Random
) -> None:
    """The same points, failing instead of dying: each is undone at once, and the next put works."""
    left = 0

    def failpoint(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise InterruptedError(step)

    store = open_store(tmp_path, world, failpoint=failpoint)  # type: ignore[arg-type]
    blocks = [rng.randbytes(30_000) for _ in range(3)]
    try:
        for fails_at in range(1, 15):
            left = fails_at
            with pytest.raises(Exception, match=r"created|written|synced|renamed|commit"), store.batch() as batch:
                for block in blocks:
                    batch.add_data(block)
                batch.commit()
            assert left <= 0
            if store.totals().chunks:
                assert fails_at == 14  # "committed": the batch had succeeded
                break
            files = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.name != "ballast"]
            assert not files, (fails_at, files)
        left = 1 << 30
        for block in blocks:
            store.put(Cid.of(block), block)
            assert store.get(Cid.of(block)) == block
    finally:
        store.close()
