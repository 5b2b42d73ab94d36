"""rage's CAR archives in the hands of @ipld/car, and its archives in rage's."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from foreign_peers import INSTALLED, command

from rage_net.acl import Principal
from rage_net.chunk.car import CarReader, export
from rage_net.chunk.manifest import ManifestBuilder
from rage_net.cid import Cid
from rage_net.gate import Served
from rage_net.http import Http
from rage_net.metrics import Metrics

CHECK = Path(__file__).with_name("car_check.mjs")
DEADLINE_S = 60.0

pytestmark = pytest.mark.foreign("@ipld/car")


@pytest.fixture(autouse=True)
def installed(in_ci: bool) -> None:
    """Fails in CI when the package is missing, skips elsewhere."""
    if not (INSTALLED / "js/node_modules/@ipld/car").exists():
        (pytest.fail if in_ci else pytest.skip)("@ipld/car is not installed: run `make deps`")


def run(what: str, data: bytes) -> bytes:
    words, where = command("js-libp2p", CHECK, what)
    done = subprocess.run(words, cwd=where, input=data, capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def document(chunks: list[bytes]) -> tuple[Cid, dict[Cid, bytes]]:
    builder, store = ManifestBuilder("cdc-1"), {}
    for data in chunks:
        store[Cid.of(data)] = data
        builder.add(Cid.of(data), len(data))
    root, manifests = builder.finish()
    return root, store | {block.cid: block.data for block in manifests}


class Given:
    """Public blocks, for the HTTP door."""

    def __init__(self, blocks: dict[Cid, bytes]) -> None:
        self.blocks = blocks

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        return Served(len(self.blocks[cid]), is_public=True) if cid in self.blocks else None

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        return [len(self.blocks[cid]) for cid in cids]

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        return self.blocks.get(cid)


def test_it_reads_a_document_of_many_chunks(rng: random.Random) -> None:
    chunks = [rng.randbytes(rng.choice((1, 100, 50_000))) for _ in range(200)]
    root, store = document(chunks)
    seen: dict[str, Any] = json.loads(run("read", b"".join(export(root, store.__getitem__))))
    assert (seen["version"], seen["roots"]) == (1, [str(root)])
    assert {block["cid"]: block["size"] for block in seen["blocks"]} == {str(c): len(d) for c, d in store.items()}
    assert all(block["matches"] for block in seen["blocks"])
    assert seen["root"] == {
        "v": 1,
        "split": "cdc-1",
        "size": sum(map(len, chunks)),
        "level": 1,
        "links": [[str(Cid.of(chunk)), len(chunk)] for chunk in chunks],
    }


@pytest.mark.parametrize("size", [0, 1, 4 << 20])
def test_it_reads_a_document_of_one_chunk(size: int, rng: random.Random) -> None:
    data = rng.randbytes(size)
    seen = json.loads(run("read", b"".join(export(Cid.of(data), {Cid.of(data): data}.__getitem__))))
    assert seen["roots"] == [str(Cid.of(data))]
    assert seen["blocks"] == [{"cid": str(Cid.of(data)), "size": size, "matches": True}]


@pytest.mark.anyio
async def test_it_reads_what_the_gateway_sends_and_its_probe(rng: random.Random) -> None:
    root, store = document([rng.randbytes(50_000), b"one", b"one", rng.randbytes(4 << 20)])
    async with (
        Http(Given(store), Metrics(), listen="127.0.0.1:0", ready=list) as http,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session,
    ):
        seen = []
        for cid in (str(root), "bafkqaaa"):
            async with session.get(f"{http.addresses[0]}/ipfs/{cid}?format=car") as answer:
                assert answer.headers["Content-Type"] == "application/vnd.ipld.car;version=1;order=dfs;dups=n"
                archive = await answer.read()
            seen.append(json.loads(await asyncio.to_thread(run, "read", archive)))
    whole, probe = seen
    assert (whole["version"], whole["roots"], whole["blocks"][0]["cid"]) == (1, [str(root)], str(root))
    assert [block["cid"] for block in whole["blocks"]] == list(dict.fromkeys([str(root), *map(str, store)]))
    assert all(block["matches"] for block in whole["blocks"])
    assert (probe["version"], probe["roots"], probe["blocks"]) == (1, ["bafkqaaa"], [])


def test_its_archives_are_read_and_foreign_blocks_passed_over(rng: random.Random) -> None:
    ours, theirs = rng.randbytes(70_000), rng.randbytes(300)
    wanted = [(0x55, 0x12, theirs), (0x70, 0x1E, b"dag-pb"), (0x55, 0x1E, ours)]
    blocks = [{"codec": c, "hash": h, "data": base64.b64encode(d).decode()} for c, h, d in wanted]
    reader = CarReader()
    found = reader.receive(run("write", json.dumps(blocks).encode()))
    reader.finish()
    assert reader.roots == (Cid.of(ours),)
    assert [(block.cid, block.data) for block in found] == [(Cid.of(ours), ours)]
    assert reader.skipped == 2
