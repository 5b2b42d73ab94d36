"""The foreign programs as fixtures: one process of each for a whole run, and one that a test may kill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from foreign_peers import PROGRAMS, Peer, missing


@pytest.fixture(scope="session")
def running() -> Iterator[dict[str, Peer]]:
    """The foreign processes of this run, by program."""
    peers: dict[str, Peer] = {}
    yield peers
    for peer in peers.values():
        peer.close()


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, in_ci: bool) -> str:
    """Each foreign program in turn: fails in CI when it is not installed, skips elsewhere and says what installs it."""
    name: str = request.param
    if why := missing(name):
        (pytest.fail if in_ci else pytest.skip)(why)
    return name


@pytest.fixture
def foreign(program: str, running: dict[str, Peer]) -> Peer:
    """A foreign process that all tests share; each meets it with a swarm of its own."""
    if program not in running:
        running[program] = Peer(program)
    return running[program]


@pytest.fixture
def mortal(program: str) -> Iterator[Peer]:
    """A foreign process for one test, which may kill it."""
    peer = Peer(program)
    yield peer
    peer.close()
