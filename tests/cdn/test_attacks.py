"""What a hostile client, CDN or organisation tries against edges, journal and origin; one test an attack."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cdn import servers
from tests.cdn.servers import NginxServer, Origin, VarnishServer
from tests.cdn.test_edges_real import EDGE, fetch


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    one = Origin()
    yield one
    one.close()


@pytest.fixture(scope="module")
def edges(
    origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VarnishServer, NginxServer]]:
    """One of each, as rage renders them."""
    for name in ("varnishd", "nginx"):
        servers.need(name, os.environ.get("CI") == "true")
    where = tmp_path_factory.mktemp("a")
    with servers.closing_all() as running:
        varnish = servers.start_varnish(where / "v", origin.url)
        running.append(varnish)
        nginx = servers.start_nginx(where / "n", origin.url)
        running.append(nginx)
        yield varnish, nginx


def test_a_query_that_means_nothing_neither_busts_a_cache_nor_hides_a_copy_from_the_purge(
    origin: Origin, edges: tuple[VarnishServer, NginxServer]
) -> None:
    for edge, name in zip(edges, "vn", strict=True):
        path = origin.put(f"/chunks/busted{name}", b"x", **EDGE)
        assert fetch(edge, path).cache == "MISS"
        found = [fetch(edge, path + query) for query in ("?a=1", "?b", "?", "?format", "?a=1&b=2", "?%66ormat=raw")]
        assert {answer.cache for answer in found} == {"HIT"}
        assert origin.count(path) == 1


def test_a_path_that_is_never_kept_has_its_whole_query_at_the_origin(
    origin: Origin, edges: tuple[VarnishServer, NginxServer]
) -> None:
    for edge, name in zip(edges, "vn", strict=True):
        asked = origin.put(f"/api/{name}?format=raw&a=1&b=%2F", b"answer", **EDGE)
        assert [fetch(edge, asked).body for _ in range(2)] == [b"answer"] * 2
        assert origin.count(asked) == 2
