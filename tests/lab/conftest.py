"""A lab for each test that asks for one. Without root or its tools the test is skipped; in CI it fails."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from rage_lab.net.lab import Lab
from rage_lab.net.namespaces import missing


@pytest.fixture
def lab(in_ci: bool, rng: random.Random) -> Iterator[Lab]:
    """An empty lab, whose losses follow the run's seed."""
    if why := missing():
        (pytest.fail if in_ci else pytest.skip)(why)
    with Lab(seed=rng.getrandbits(32)) as made:
        yield made
