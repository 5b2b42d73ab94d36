"""The simulator itself: a seed is a run, whatever process plays it."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from rage_lab.sim import churn
from rage_lab.sim.scenarios import SCENARIOS, a_holder_leaves, a_rough_day
from rage_lab.sim.virtual_loop import NODE, VirtualLoop
from rage_lab.sim.world import Scenario, World, play

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", [a_holder_leaves, a_rough_day])
def test_a_play_repeats_exactly_from_its_seed_and_in_another_process_too(
    scenario: Scenario, rng: random.Random, tmp_path: Path
) -> None:
    seed = rng.getrandbits(32)
    first = play(scenario, seed, tmp_path / "first")
    if scenario is a_holder_leaves:  # the other takes too long for a third time
        assert play(scenario, seed, tmp_path / "second") == first, f"seed {seed} did not repeat"
    again = subprocess.run(
        [sys.executable, "-m", "rage_lab.sim", scenario.__name__, str(seed), str(tmp_path / "third")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(seed % 1000 + 1)},
    )
    assert again.stdout.split()[0] == first.digest, f"seed {seed} did not repeat in a process with other hashes"
    assert SCENARIOS[scenario.__name__] is scenario


def test_another_seed_is_another_run(rng: random.Random, tmp_path: Path) -> None:
    seed = rng.getrandbits(32)

    async def meet(world: World) -> None:
        alpha, beta = await world.node("alpha"), await world.node("beta")
        await alpha.connect(beta)

    digests = {play(meet, seed + number, tmp_path / str(number)).digest for number in range(3)}
    assert len(digests) == 3


def test_a_failure_says_its_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(world: World) -> None:
        await world.until(lambda: False, within_s=3, what="the moon turns blue")

    with pytest.raises(AssertionError, match="not within 3 s: the moon turns blue") as caught:
        play(fail, 4711, tmp_path)
    assert "the seed was 4711" in caught.value.__notes__[0]
    assert "the seed was 4711" in capsys.readouterr().err


def test_what_a_scenario_leaves_behind_fails_it_too(tmp_path: Path) -> None:
    async def later() -> None:
        await asyncio.sleep(1)
        raise ValueError("too late")

    async def careless(world: World) -> None:
        world.spawn(later())
        await asyncio.sleep(2)

    with pytest.raises(ValueError, match="too late"):
        play(careless, 1, tmp_path)


def test_a_schedule_is_drawn_from_its_seed(rng: random.Random) -> None:
    names = [f"n{number}" for number in range(100)]
    seed = rng.getrandbits(32)

    def draw() -> list[churn.Change]:
        return churn.departures(
            random.Random(seed), names, share=0.3, begin_s=5, over_s=60, with_notice=0.5, back_after_s=(10, 20)
        )

    changes = draw()
    assert changes == draw() == sorted(changes)
    gone = [change for change in changes if change.kind in ("leave", "vanish")]
    assert len(gone) == 30 and len({change.names for change in gone}) == 30
    assert {change.kind for change in gone} == {"leave", "vanish"}
    assert all(5 <= change.at_s <= 65 for change in gone)
    back = {change.names: change.at_s for change in changes if change.kind == "join"}
    assert all(10 <= back[change.names] - change.at_s <= 20 for change in gone)


# -- the loop ---------------------------------------------------------------------------------------------------------


def run(work: object) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(work)  # type: ignore[arg-type]


def test_timers_of_one_moment_run_in_the_order_in_which_they_were_set() -> None:
    async def look() -> None:
        order: list[int] = []
        for number in range(100):
            asyncio.get_running_loop().call_at(5.0, order.append, number)
        await asyncio.sleep(6)
        assert order == list(range(100))

    run(look())


def test_sets_of_tasks_and_futures_iterate_in_one_order_in_every_run() -> None:
    async def look() -> tuple[list[int], list[int]]:
        tasks = [asyncio.create_task(asyncio.sleep(number)) for number in range(50)]
        futures = [asyncio.get_running_loop().create_future() for _ in range(50)]
        order = [tasks.index(task) for task in set(tasks)], [futures.index(future) for future in set(futures)]
        await asyncio.wait(tasks)
        return order

    orders = []
    for _ in range(3):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            orders.append(runner.run(look()))
    assert orders[0] == orders[1] == orders[2]


def test_a_stalled_node_runs_nothing_and_then_all_that_became_due() -> None:
    async def tick(log: list[tuple[str, float]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            log.append((NODE.get(), loop.time()))

    async def look() -> None:
        loop = asyncio.get_running_loop()
        log: list[tuple[str, float]] = []
        tasks = []
        for name in ("still", "busy"):
            NODE.set(name)
            tasks.append(asyncio.create_task(tick(log)))
        NODE.set("")
        await asyncio.sleep(2.5)
        loop.stall("still")
        await asyncio.sleep(4)
        loop.resume("still")
        await asyncio.sleep(2)
        for task in tasks:
            task.cancel()
        assert [at for name, at in log if name == "busy"] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [at for name, at in log if name == "still"] == [1, 2, 6.5, 7.5]

    run(look())


def test_a_world_without_a_timer_is_a_deadlock_and_says_so() -> None:
    with pytest.raises(RuntimeError, match="deadlock"):
        run(asyncio.Event().wait())
