"""The HTTP door behind real caches: how long they keep what, what they pass on, what a purge meets.

First with the plainest of configurations, then with those that `rage cdn render` writes. Of the plain ones,
varnishd with its built-in VCL stands for all that read `Cache-Control` alone. Both listen on Unix sockets, so that no
port is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rage_net.acl import Principal
from rage_net.cdn.nginx import Nginx
from rage_net.cdn.policy import paths_of, tag_for_cid
from rage_net.cdn.provider import Call, Item
from rage_net.cdn.varnish import Varnish
from rage_net.cid import Cid
from rage_net.config.cdn import Cdn, Edge, Provider
from rage_net.config.values import Name, Url
from rage_net.gate import Served
from rage_net.http import Http
from rage_net.metrics import Metrics
from rage_net.web import Web

from . import servers

pytestmark = [pytest.mark.anyio, pytest.mark.foreign("varnishd", "nginx")]

DATA = b"for everybody"
CID = Cid.of(DATA)
DEADLINE_S = 30.0
POLL_S = 0.05


class Chunks:
    """One block, of so many public documents that its headers are as long as they get."""

    def __init__(self) -> None:
        self.reads = 0
        self.is_here = True
        self.is_public = True

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        if cid != CID or not self.is_here:
            return None
        return Served(len(DATA), self.is_public, tuple(f"{number:026}" for number in range(32)), ("news",), True)

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        return [len(DATA) for _ in cids]

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        self.reads += 1
        return DATA


@pytest.fixture
def needed(request: pytest.FixtureRequest, in_ci: bool) -> str:
    """The program under test."""
    servers.need(request.param, in_ci)
    return str(servers.program(request.param))


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def nginx(program: str, place: Path, origin: str) -> tuple[list[str], Path]:
    temporary = "\n".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {place}/pid; error_log stderr;
        events {{ worker_connections 64; }}
        http {{
          access_log off; {temporary}
          proxy_cache_path {place}/cache keys_zone=z:1m;
          server {{
            listen unix:{place}/s;
            location / {{
              proxy_pass {origin}; proxy_cache z; proxy_cache_key $request_uri;
              add_header X-Cache $upstream_cache_status always;
            }}
          }}
        }}""")
    return [program, "-p", str(place), "-e", "stderr", "-c", str(place / "nginx.conf")], place / "s"


def varnish(program: str, place: Path, origin: str) -> tuple[list[str], Path]:
    words = [program, "-F", "-j", "none", "-n", str(place / "work"), "-a", str(place / "s"), "-s", "malloc,16m"]
    return [*words, "-b", origin.removeprefix("http://")], place / "s"


class Cache:
    def __init__(self, session: aiohttp.ClientSession, chunks: Chunks) -> None:
        self.session, self.chunks = session, chunks

    async def ask(self, path: str) -> tuple[int, dict[str, str], bytes]:
        async with self.session.get(f"http://localhost{path}") as answer:
            return answer.status, {name.lower(): text for name, text in answer.headers.items()}, await answer.read()


@contextlib.asynccontextmanager
async def edge(program: str, place: Path) -> AsyncIterator[Cache]:
    name = "nginx" if program.endswith("nginx") else "varnish"
    provider = Provider(
        name=Name(name),
        type="self-hosted",
        software=name,  # type: ignore[arg-type]
        config=Edge(endpoints=(Url("http://edge"),)),
    )
    chunks = Chunks()
    async with Http(chunks, Metrics(), listen="127.0.0.1:0", ready=list, cdn=Cdn(providers=(provider,))) as http:
        command, path = (nginx if name == "nginx" else varnish)(program, place, http.addresses[0])
        with running(command, place / "log"):
            async with (
                aiohttp.UnixConnector(str(path)) as connector,
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(DEADLINE_S)) as session,
            ):
                until = time.monotonic() + DEADLINE_S
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get("http://localhost/healthz") as answer:
                            if answer.status == 200:
                                break
                    assert time.monotonic() < until, (place / "log").read_text()
                    await asyncio.sleep(POLL_S)
                yield Cache(session, chunks)


def is_hit(headers: dict[str, str]) -> bool:
    """nginx says so; Varnish names two transactions in X-Varnish."""
    return headers.get("x-cache") == "HIT" or len(headers.get("x-varnish", "").split()) == 2


BOTH = pytest.mark.parametrize("needed", ["nginx", "varnishd"], indirect=True)


@BOTH
async def test_a_plain_cache_keeps_a_public_block_for_the_rules_time_and_tells_browsers_a_minute(
    needed: str, tmp_path: Path
) -> None:
    async with edge(needed, tmp_path) as found:
        for path in (f"/chunks/{CID}", f"/ipfs/{CID}?format=raw", f"/ipfs/{CID}?format=car"):
            answers = [await found.ask(path) for _ in range(3)]
            assert [status for status, _, _ in answers] == [200] * 3, "headers of full length pass a plain nginx"
            assert [is_hit(headers) for _, headers, _ in answers] == [False, True, True]
            assert len({body for _, _, body in answers}) == 1
            headers = answers[2][1]
            assert re.match(r"public, max-age=60(,|$)", headers["cache-control"])
            assert "x-accel-expires" not in headers or "x-varnish" in headers, "nginx passes its own header to nobody"
        if needed.endswith("varnishd"):
            words = ["varnishlog", "-n", str(tmp_path / "work"), "-d", "-g", "raw", "-i", "TTL"]
            log = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=DEADLINE_S)
            assert len(re.findall(r"TTL +b? *RFC (?:86400|3600) ", log.stdout)) == 3, log.stdout
        else:
            kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
            ages = [int.from_bytes(path.read_bytes()[8:16], "little") - time.time() for path in kept]
            assert len(ages) == 3 and all(3500 < age < 86_500 for age in ages), ages


@BOTH
async def test_a_plain_cache_keeps_neither_what_is_absent_nor_private_nor_under_another_name(
    needed: str, tmp_path: Path
) -> None:
    async with edge(needed, tmp_path) as found:
        found.chunks.is_here = False
        assert [(await found.ask(f"/chunks/{CID}"))[0] for _ in range(2)] == [404, 404]
        found.chunks.is_here = True
        status, headers, _ = await found.ask(f"/chunks/{CID}?x=1")
        assert status == 200
        status, headers, _ = await found.ask(f"/chunks/{CID}?x=1")
        assert (status, is_hit(headers)) == (200, False)
        found.chunks.is_public = False
        for _ in range(2):
            status, headers, _ = await found.ask(f"/ipfs/{CID}?format=raw")
            assert (status, is_hit(headers), headers["cache-control"]) == (200, False, "private, no-store")
        found.chunks.is_public = True
        assert (await found.ask(f"/chunks/{CID}"))[0] == 200, "the 404 did not outlive its cause"


# --- as `rage cdn render` writes them ---


@pytest.mark.parametrize("software", ["varnish", "nginx"])
async def test_a_rendered_edge_keeps_what_the_door_allows_and_a_purge_meets_all_of_it(
    software: str, tmp_path: Path, in_ci: bool
) -> None:
    servers.need("varnishd" if software == "varnish" else software, in_ci)
    chunks = Chunks()
    cdn = Cdn(providers=(servers.settings(software, ["http://127.0.0.1:1"]),))
    async with (
        Http(chunks, Metrics(), listen="127.0.0.1:0", ready=list, cdn=cdn, hosts=[servers.HOST]) as http,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE_S)) as session,
        Web() as web,
    ):
        start: Any = servers.start_varnish if software == "varnish" else servers.start_nginx
        server = await asyncio.to_thread(start, tmp_path / "e", http.addresses[0], cdn=cdn)
        try:

            async def ask(path: str) -> tuple[int, str, dict[str, str]]:
                async with session.get(f"{server.url}{path}", headers={"Host": servers.HOST}) as answer:
                    headers = {name.lower(): text for name, text in answer.headers.items()}
                    body = await answer.read()
                    assert answer.status != 200 or DATA in body
                    return answer.status, headers.get("x-cache", headers.get("x-cache-status", "")), headers

            chunks.is_here = False
            assert (await ask(paths_of(CID)[0]))[0] == 404
            chunks.is_here = True
            for path in paths_of(CID):
                assert [(await ask(path))[:2] for _ in range(2)] == [(200, "MISS"), (200, "HIT")], path
                headers = (await ask(path))[2]
                assert re.match(r"public, max-age=60(,|$)", headers["cache-control"]), headers
                assert not {"cache-tag", "xkey", "surrogate-key", "x-accel-expires"} & set(headers)
            provider: Any = (Varnish if software == "varnish" else Nginx)(
                servers.settings(software, [server.url]), web, lambda: 0.0
            )
            kind, items = ("tag", [tag_for_cid(CID)]) if software == "varnish" else ("url", list(paths_of(CID)))
            words = tuple(dict.fromkeys(word for item in items for word in provider.words(Item(kind, item))))
            chunks.is_here = False
            gone = 0
            for at in range(0, len(words), provider.abilities.words_max[kind]):
                part = words[at : at + provider.abilities.words_max[kind]]
                verdict = await provider.purge(Call(provider.edges[0], kind, part, False, reference="r"))
                assert verdict.state == "done", verdict
                gone += verdict.count or 0
            assert gone == 3
            assert [(await ask(path))[0] for path in paths_of(CID)] == [404] * 3
        finally:
            await asyncio.to_thread(server.close)
