"""moto's server, once for all tests of CDNs, and no credentials but those that a test gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cdn import aws_server


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    with aws_server.serving() as url:
        yield url


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    aws_server.forget_credentials(monkeypatch)


@pytest.fixture
def recorder(aws_url: str) -> Iterator[aws_server.Recorder]:
    made = aws_server.Recorder(aws_url)
    yield made
    made.close()
