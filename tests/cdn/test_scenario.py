"""The issue's scenario on real servers: a real node as the origin, two real Varnish edges, one of which dies."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cdn.servers import HOST, TOKEN, closing_all, need, start_varnish
from tests.node.conftest import Home

CDN = """\
cdn:
  providers:
    - name: "varnish-edge"
      type: "self-hosted"
      public_urls: ["http://{host}"]
      config:
        endpoints: ["{one}", "{two}"]
        auth_token: "{token}"
      routing: {{regions: [], priority: 0}}
"""


class World:
    """A node, and the edges before it."""

    def __init__(self, home: Home, edges: list[Any]) -> None:
        self.home = home
        self.edges = edges

    def get(self, edge: int, path: str) -> tuple[int, str, bytes]:
        """Status, the cache's own word, and the body."""
        answer = httpx.get(self.edges[edge].url + path, headers={"Host": HOST}, trust_env=False)
        return answer.status_code, answer.headers.get("x-cache", ""), answer.content

    def put(self, data: bytes, name: str, visibility: str = "public") -> dict[str, Any]:
        return self.home.ok("chunk", "put", "-", "--name", name, "--visibility", visibility, data=data)  # type: ignore[no-any-return]

    def purge(self, *words: str, code: int = 0) -> dict[str, Any]:
        done = self.home.run("cdn", "purge", *words, "--json")
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need("varnishd", os.environ.get("CI") == "true")
    where = tmp_path_factory.mktemp("s")
    home = Home(where / "home")
    home.init()
    status = home.start()
    with closing_all() as running:
        edges = [start_varnish(where / name, status["http"][0]) for name in ("a", "b")]
        running += edges
        assert home.stop() == 0
        text = CDN.format(host=HOST, one=edges[0].url, two=edges[1].url, token=TOKEN)
        (home.path / "config" / "cdn.yaml").write_text(text)
        home.start("--http", status["http"][0].removeprefix("http://"))
        try:
            yield World(home, edges)
        finally:
            if home.node is not None:
                home.stop()


def until(ready: Any, within_s: float = 20.0) -> Any:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        found = ready()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not become so")


def test_a_purge_by_tag_counts_one_on_each_edge_and_one_edge_that_was_away_is_told_later(world: World) -> None:
    put = world.put(b"what two edges keep", "kept.txt")
    path = f"/chunks/{put['root']}"
    for edge in (0, 1):
        assert world.get(edge, path) == (200, "MISS", b"what two edges keep")
        assert world.get(edge, path) == (200, "HIT", b"what two edges keep")
    purged = world.purge("--doc", put["doc_id"], "--wait", "20s")
    assert [(row["state"], row["objects"], row["calls"]) for row in purged["rows"]] == [("done", 2, 1)] or [
        (row["state"], row["objects"]) for row in purged["rows"]
    ] == [("done", 1), ("done", 1)]
    assert {proof["proof"] for proof in purged["proofs"]} == {"gone"} and len(purged["proofs"]) == 2

    assert world.get(0, path)[1] == "HIT"  # --wait asked for it
    world.edges[1].kill()
    purged = world.purge("--doc", put["doc_id"])
    states = {row["edge"]: row["state"] for row in purged["rows"]}
    assert states == {world.edges[0].url: "done", world.edges[1].url: "queued"}
    (away,) = [row for row in purged["rows"] if row["state"] == "queued"]
    assert away["code"] == "cdn-unreachable" and away["reason"]
    world.edges[1].start()
    journal = until(
        lambda: [
            row
            for row in world.home.ok("cdn", "journal", purged["purge_id"])["items"][0]["rows"]
            if row["edge"] == world.edges[1].url and row["state"] == "done"
        ],
        90,
    )
    assert journal[0]["tries"] > 1
    again = world.purge("--doc", put["doc_id"], "--wait", "20s")
    assert {proof["proof"] for proof in again["proofs"]} == {"gone"}


def test_what_is_narrowed_or_removed_is_purged_within_a_second_and_by_itself(world: World) -> None:
    put = world.put(b"public for a while", "narrowed.txt")
    path = f"/chunks/{put['root']}"
    for edge in (0, 1):
        until(lambda edge=edge: world.get(edge, path)[1] == "HIT")
    world.home.ok("chunk", "rm", put["doc_id"], "--yes")
    began = time.monotonic()
    for edge in (0, 1):
        until(lambda edge=edge: world.get(edge, path)[0] == 404, 5)
    assert time.monotonic() - began < 5
    causes = [item["cause"] for item in world.home.ok("cdn", "journal")["items"]]
    assert "removed" in causes


def test_check_finds_edges_right_and_a_token_that_is_wrong(world: World) -> None:
    found = world.home.ok("cdn", "check")
    assert all(row["ok"] for row in found["items"]), found
    rows = world.home.run("cdn", "test", "--json")
    steps = json.loads(rows.stdout)["items"]
    assert rows.returncode == 0, steps
    assert {step["step"] for step in steps} == {"get", "get again", "purge", "proof"}


def test_warm_fills_both_edges(world: World) -> None:
    put = world.put(os.urandom(3 << 20), "warm.bin")
    first = world.home.ok("cdn", "warm", "warm.bin")
    again = world.home.ok("cdn", "warm", "warm.bin")
    assert [(row["fills"], row["hits"], row["failed"]) for row in again["items"]] == [(0, first["objects"], 0)] * 2
    assert put["total_chunks"] + 1 == first["objects"]


def test_no_output_holds_the_token(world: World) -> None:
    for words in (["cdn", "status"], ["cdn", "journal"], ["config", "show", "cdn"], ["cdn", "check"]):
        done = world.home.run(*words, "--json")
        assert TOKEN.encode() not in done.stdout + done.stderr
    assert TOKEN not in (world.home.path / "node.err").read_text()
