from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from rage_net.discovery.server import Server

from .world import Dials, Env, Net, make_server


@pytest.fixture
def env(rng: random.Random) -> Env:
    return Env(rng)


@pytest.fixture
def dials() -> Dials:
    return Dials()


@pytest.fixture
async def server(env: Env, dials: Dials) -> AsyncIterator[Server]:
    async with make_server(env, dials=dials) as server:
        yield server


@pytest.fixture
def net(env: Env) -> Net:
    return Net(env)
