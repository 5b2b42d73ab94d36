"""What tests of CDNs stand on: a clock, a client, an origin, a recorder of calls, and no credentials but a test's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from rage_net.web import Web
from tests import aws_server
from tests.cdn.clouds import NOW
from tests.cdn.servers import Origin
from tests.conftest import Clock


@pytest.fixture
def now() -> Clock:
    return Clock(NOW)


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with Web() as web:
        yield web


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    one = Origin()
    yield one
    one.close()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    aws_server.forget_credentials(monkeypatch)


@pytest.fixture
def recorder(aws_url: str) -> Iterator[aws_server.Recorder]:
    made = aws_server.Recorder(aws_url)
    yield made
    made.close()
