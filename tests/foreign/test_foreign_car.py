"""rage's CAR archives in the hands of @ipld/car, and its archives in rage's."""

from __future__ import annotations

import base64
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from foreign_peers import INSTALLED, command

from rage_net.chunk.car import CarReader, export
from rage_net.chunk.manifest import ManifestBuilder
from rage_net.cid import Cid

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
