"""A real node before a real nginx that files are put into: published, purged with proof, refused, mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rage_net.cdn.render import NginxOptions, render_nginx, render_token_map
from rage_net.config.cdn import Cdn
from tests.cdn.servers import HOST, TOKEN, NginxServer, closing_all, free_port, need, settings
from tests.cdn.test_scenario import until
from tests.node.conftest import Home

CDN = """\
cdn:
  providers:
    - name: "nginx-edge"
      type: "self-hosted"
      public_urls: ["http://{host}"]
      config:
        endpoints: ["{edge}"]
        auth_token: "{token}"
        dav_path: "/dav"
"""


class World:
    """A node, and the edge before it."""

    def __init__(self, home: Home, edge: NginxServer, http: str) -> None:
        self.home = home
        self.edge = edge
        self._http = http

    def start(self, token: str = TOKEN) -> None:
        if self.home.node is not None:
            assert self.home.stop() == 0
        text = CDN.format(host=HOST, edge=self.edge.url, token=token)
        (self.home.path / "config" / "cdn.yaml").write_text(text)
        self.home.start("--http", self._http)

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        done = self.home.run(*words, "--json")
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def get(self, path: str) -> tuple[int, str]:
        answer = httpx.get(self.edge.url + path, headers={"Host": HOST}, trust_env=False)
        return answer.status_code, answer.headers.get("x-cache-status", "")

    def files(self) -> list[str]:
        return sorted(file.name for file in (self.edge.where / "dav").rglob("*") if file.is_file())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    need("nginx", os.environ.get("CI") == "true")
    where = tmp_path / "edge"
    (where / "dav").mkdir(parents=True)
    (where / "token.map").write_text(render_token_map(TOKEN))
    home = Home(tmp_path / "home")
    home.init()
    http = f"127.0.0.1:{free_port()}"

    def configure(port: int, inner: int) -> str:
        provider = settings("nginx", [f"http://127.0.0.1:{port}"], dav_path="/dav")
        options = NginxOptions(
            token_map=where / "token.map",
            listen=f"127.0.0.1:{port}",
            inner=f"127.0.0.1:{inner}",
            cache_dir=where / "cache",
            dav_dir=where / "dav",
            access_log=None,
        )
        return render_nginx(Cdn(), provider, f"http://{http}", options)

    with closing_all() as running:
        edge = NginxServer(where, configure)
        running.append(edge)
        made = World(home, edge, http)
        made.start()
        try:
            yield made
        finally:
            if home.node is not None:
                home.stop()


def test_what_is_published_is_served_and_a_purge_with_proof_takes_it_out_of_files_and_cache(world: World) -> None:
    put = world.home.ok("chunk", "put", "-", "--name", "a.txt", "--visibility", "public", data=b"in files and caches")
    path = f"/chunks/{put['root']}"
    assert [world.get(path) for _ in range(2)] == [(200, "MISS"), (200, "HIT")]
    published = [world.run("cdn", "publish", "a.txt")["items"][0] for _ in range(2)]
    assert [(row["put"], row["existed"]) for row in published] == [(1, 0), (0, 1)]
    assert world.files() == [put["root"]]
    purged = world.run("cdn", "purge", "--doc", "a.txt", "--wait", "20s")
    assert {(row["provider"], row["state"]) for row in purged["rows"]} == {
        ("nginx-edge", "done"),
        ("nginx-edge-bucket", "done"),
    }
    assert [proof["proof"] for proof in purged["proofs"]] == ["gone"]
    assert world.files() == []
    world.run("cdn", "publish", "a.txt")
    world.home.ok("chunk", "rm", "a.txt", "--yes")
    until(lambda: world.get(path)[0] == 404)
    assert world.files() == []


def test_what_a_wrong_token_let_fail_goes_after_the_token_is_right(world: World) -> None:
    put = world.home.ok("chunk", "put", "-", "--name", "b.txt", "--visibility", "public", data=b"kept too long")
    path = f"/chunks/{put['root']}"
    assert [world.get(path) for _ in range(2)] == [(200, "MISS"), (200, "HIT")]
    world.start(token="another-token")
    world.home.ok("chunk", "rm", "b.txt", "--yes")
    until(lambda: "failed" in {row["state"] for it in world.run("cdn", "journal")["items"] for row in it["rows"]})
    assert world.get(path) == (200, "HIT")
    assert not all(row["ok"] for row in world.run("cdn", "check", code=6)["items"])
    world.start()
    assert all(row["ok"] for row in world.run("cdn", "check")["items"])
    planned = world.run("cdn", "purge", "--failed", "--dry-run")
    assert all(row["state"] == "planned" and row["calls"] for row in planned["rows"])
    purged = world.run("cdn", "purge", "--failed", "--wait", "20s")
    assert {row["state"] for row in purged["rows"]} == {"done"}
    assert world.get(path)[0] == 404
    assert world.run("cdn", "purge", "--failed")["rows"] == []


def test_an_edge_whose_origin_is_not_this_node_is_told_by_test(world: World) -> None:
    assert world.home.stop() == 0
    world.home.start("--http", "127.0.0.1:0")
    steps = world.run("cdn", "test", code=6)["items"]
    (first,) = [step for step in steps if step["step"] == "get"]
    assert not first["ok"] and "answers 502" in first["reason"] and "HTTP door" in first["reason"]
