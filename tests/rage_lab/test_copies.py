"""Replication alone in virtual time: seeds keep every promise, repeat, and what is broken on purpose is found."""

from __future__ import annotations

import random

from rage_lab.scenarios import SCENARIOS, Options
from rage_lab.sim.copies import play_copies
from rage_net.services.replicating import dropping

SEEDS = 6


def test_what_was_acknowledged_is_never_lost_and_all_comes_to_rest(rng: random.Random) -> None:
    first = rng.getrandbits(24)
    acknowledged = 0
    for seed in range(first, first + SEEDS):
        run = play_copies(seed)
        assert not run.broken, (seed, run.broken, run.notes)
        acknowledged += run.acknowledged
    assert acknowledged


def test_a_seed_repeats_its_run() -> None:
    one, other = play_copies(7), play_copies(7)
    assert (one.notes, one.settled_s, one.acknowledged) == (other.notes, other.settled_s, other.acknowledged)


def test_dropping_without_asking_for_proof_is_found(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    async def all_safe(self: object, items: list[object]) -> set[int]:
        return {item.id for item in items}  # type: ignore[attr-defined]

    monkeypatch.setattr(dropping.Dropping, "_find_safe", all_safe)
    assert any(play_copies(seed).broken for seed in range(60))


def test_the_scenario_counts_what_ran() -> None:
    *_, (row, found) = SCENARIOS["copies"].run(
        "copies", Options(seed=1, seeds=2, jobs=1), lambda words: None, lambda done, total: None
    )
    assert row.runs == 2 and not row.violations and not found
