"""A cluster in one process: three engines, one network in memory, virtual time, one seed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from tests.sim.cluster import play

ROOT = Path(__file__).parents[2]


def test_a_download_outlives_a_holder_and_repeats_exactly_from_its_seed(rng: random.Random, tmp_path: Path) -> None:
    seed = rng.getrandbits(32)
    first = play(seed, tmp_path / "first")
    assert first.is_whole, f"seed {seed}"
    assert first.sources["local"] == 0 and first.sources["p2p"] > 20
    assert min(first.gave.values()) > 50_000, "both holders gave a part"
    assert play(seed, tmp_path / "second") == first, f"seed {seed} did not repeat"
    assert play(seed + 1, tmp_path / "other").digest != first.digest, "the seed decides nothing"
    again = subprocess.run(
        [sys.executable, "-m", "tests.sim.cluster", str(seed), str(tmp_path / "third")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(seed % 1000 + 1)},
    )
    assert again.stdout.strip() == first.digest, f"seed {seed} did not repeat in a process with other hashes"
