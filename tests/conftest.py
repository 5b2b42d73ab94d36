"""Fixtures every test may use, and the rules of the suite: seeded, no sleep, no fixed port, no outside network."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import aws_server

settings.register_profile("quick", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("RAGE_TEST_PROFILE", "quick"))

# Run in the background of a script, the suite inherits an ignored SIGINT, and so would every `rage` it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.pop("PYTHONUNBUFFERED", None)
"""It would hide an answer that a command never flushes: no operator's shell sets it."""

SEED = int(os.environ.get("RAGE_TEST_SEED", "0")) or random.SystemRandom().getrandbits(32)


def pytest_report_header() -> str:
    return f"rage seed: {SEED} (repeat with RAGE_TEST_SEED={SEED})"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """A generator seeded from the run's seed and the test's name; a failure prints how to repeat it."""
    yield random.Random(f"{SEED}:{request.node.name}")


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    """moto's server."""
    with aws_server.serving() as url:
        yield url


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections.append(("seed", f"repeat with RAGE_TEST_SEED={SEED}"))


class Clock:
    """A clock that moves only when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_ci() -> bool:
    return os.environ.get("CI") == "true"
