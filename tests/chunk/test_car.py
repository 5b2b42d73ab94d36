from __future__ import annotations

import json
import random
import tracemalloc

import pytest
import split_reference as reference
from hypothesis import given
from hypothesis import strategies as st

from rage_net.chunk.car import (
    HEADER_BYTES_MAX,
    SECTION_BYTES_MAX,
    CarReader,
    encode_header,
    encode_section,
    export,
)
from rage_net.chunk.manifest import Block, ManifestBuilder
from rage_net.cid import BLOCK_BYTES_MAX, RAW, Cid
from rage_net.errors import IntegrityError, NotFoundError

VECTORS = json.loads((reference.VECTORS / "car.json").read_text())
ARCHIVES = [bytes.fromhex(vector["car"]) for vector in VECTORS]
PLAIN = ARCHIVES[0]


def read(data: bytes, *steps: int) -> tuple[CarReader, list[Block]]:
    reader, found, at = CarReader(), [], 0
    for step in steps:
        found += reader.receive(data[at : at + step])
        at += step
    found += reader.receive(data[at:])
    reader.finish()
    return reader, found


def section(address: bytes, data: bytes) -> bytes:
    return reference.varint(len(address) + len(data)) + address + data


def document(chunks: list[bytes]) -> tuple[Cid, dict[Cid, bytes]]:
    builder, store = ManifestBuilder("cdc-1"), {}
    for data in chunks:
        store[Cid.of(data)] = data
        builder.add(Cid.of(data), len(data))
    root, manifests = builder.finish()
    return root, store | {block.cid: block.data for block in manifests}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_archives_read_as_the_contract_says(vector: dict) -> None:
    reader, found = read(bytes.fromhex(vector["car"]))
    assert [str(root) for root in reader.roots] == vector["roots"]
    assert [str(block.cid) for block in found] == vector["kept"]
    assert all(block.cid.matches(block.data) for block in found)
    assert reader.skipped == vector["skipped"]


def test_an_archive_of_a_document_is_that_of_the_contract() -> None:
    root, store = document([b"first chunk", b"second"])
    assert b"".join(export(root, store.__getitem__)) == PLAIN


@given(st.sampled_from(range(len(ARCHIVES))), st.lists(st.integers(0, 100), max_size=40))
def test_an_archive_reads_alike_however_its_bytes_come(which: int, steps: list[int]) -> None:
    whole, blocks = read(ARCHIVES[which])
    reader, found = read(ARCHIVES[which], *steps)
    assert (reader.roots, reader.skipped, reader.foreign_roots, found) == (
        whole.roots,
        whole.skipped,
        whole.foreign_roots,
        blocks,
    )


def test_a_root_with_another_hash_is_counted() -> None:
    assert read(ARCHIVES[1])[0].foreign_roots == 1


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=12))
def test_what_is_exported_is_imported(chunks: list[bytes]) -> None:
    chunks = [chunk for chunk in chunks if chunk] or [b""]
    root, store = document(chunks)
    reader, found = read(b"".join(export(root, store.__getitem__)))
    assert reader.roots == (root,)
    assert {block.cid: block.data for block in found} == store
    assert len(found) == len(store)


def test_the_largest_chunk_goes_out_and_in(rng: random.Random) -> None:
    data = rng.randbytes(BLOCK_BYTES_MAX)
    cid = Cid.of(data)
    _, found = read(b"".join(export(cid, {cid: data}.__getitem__)), *[1 << 20] * 3)
    assert found == [Block(cid, data)]


def test_a_missing_block_ends_the_export_with_the_stores_error() -> None:
    root, store = document([b"one", b"two"])

    def load(cid: Cid) -> bytes:
        if cid == Cid.of(b"two"):
            raise NotFoundError("gone")
        return store[cid]

    with pytest.raises(NotFoundError, match="gone"):
        list(export(root, load))


def test_an_archive_that_ends_in_the_middle_is_refused_at_every_byte() -> None:
    root, store = document([b"first chunk", b"second"])
    boundaries = {len(encode_header([root]))}
    for cid in (root, Cid.of(b"first chunk")):
        boundaries.add(max(boundaries) + sum(map(len, encode_section(cid, store[cid]))))
    for end in range(len(PLAIN)):
        if end in boundaries:  # a shorter archive, but an archive
            read(PLAIN[:end])
            continue
        with pytest.raises(IntegrityError, match="broken"):
            read(PLAIN[:end])
    inner = len(ARCHIVES[2]) - len(b"index")
    for end in range(inner):
        with pytest.raises(IntegrityError, match="broken"):
            read(ARCHIVES[2][:end])
    assert len(read(ARCHIVES[2][:inner])[1]) == 3


def test_what_follows_the_inner_archive_of_version_2_is_not_kept() -> None:
    reader = CarReader()
    reader.receive(ARCHIVES[2])
    for _ in range(4):
        assert reader.receive(bytes(1 << 20)) == []
    assert len(reader._buffer) == 0
    reader.finish()


HEAD = encode_header([])
BLAKE = bytes(Cid(RAW, bytes(32)))
BROKEN = {
    "nothing": b"",
    "text": b"rage is no archive",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "a header too long": reference.varint(HEADER_BYTES_MAX + 1) + bytes(100),
    "a header that is no map": b"\x01\x80",
    "a header without roots": b"\x0a\xa1\x67version\x01",
    "a header of version 3": b"\x0a\xa1\x67version\x03",
    "a root that is no CID": bytes.fromhex("18a265726f6f747381450001020304") + b"\x67version\x01",
    "a header nested too deep": reference.varint(20000) + b"\x81" * 20000,
    "a version 2 inside a version 2": (ARCHIVES[2][:64] + ARCHIVES[2])[: len(ARCHIVES[2])],
    "a version 2 that points into itself": ARCHIVES[2][:27] + b"\x05" + ARCHIVES[2][28:],
    "a version 2 that says too little": ARCHIVES[2][:35] + b"\x40" + ARCHIVES[2][36:],
    "a section of no bytes": HEAD + b"\0",
    "a section of a CID's beginning": HEAD + section(BLAKE[:20], b""),
    "a section too long": HEAD + reference.varint(SECTION_BYTES_MAX + 1) + BLAKE,
    "a section of 2^62 bytes": HEAD + reference.varint(1 << 62) + BLAKE,
    "a chunk over 4 MiB": HEAD + reference.varint(36 + BLOCK_BYTES_MAX + 1) + BLAKE,
    "a length in ten bytes": HEAD + b"\x80" * 9 + b"\x01",
    "a length longer than needed": HEAD + b"\xa4\x80\x00" + BLAKE,
    "a CID of version 2": HEAD + section(b"\x02" + BLAKE[1:], b"x"),
    "a CID with a hash of 200 bytes": HEAD + section(b"\x01\x55\x13\xc8\x01" + bytes(200), b"x"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bytes_that_are_no_archive_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="archive is broken") as caught:
        read(BROKEN[name])
    assert caught.value.why


@given(st.binary(max_size=200), st.sampled_from([b"", HEAD, ARCHIVES[2][:64], PLAIN]))
def test_garbage_is_refused_or_read_as_an_archive(data: bytes, head: bytes) -> None:
    try:
        read(head + data)
    except IntegrityError as error:
        assert error.why


@given(st.sampled_from(ARCHIVES), st.data())
def test_an_archive_with_bytes_changed_raises_nothing_else(archive: bytes, draw: st.DataObject) -> None:
    data = bytearray(archive)
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        _, found = read(bytes(data))
    except IntegrityError:
        return
    assert all(len(block.data) <= BLOCK_BYTES_MAX for block in found)


def test_a_length_that_is_only_claimed_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        reader = CarReader()
        reader.receive(HEAD + reference.varint(36 + BLOCK_BYTES_MAX) + BLAKE)
        with pytest.raises(IntegrityError):
            reader.finish()
        skipping = CarReader()
        skipping.receive(ARCHIVES[2][:27] + (1 << 60).to_bytes(8, "little") + ARCHIVES[2][35:51])
        for _ in range(50):
            skipping.receive(bytes(1 << 20))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_many_roots_fit_into_a_header() -> None:
    roots = [Cid(RAW, k.to_bytes(32, "big")) for k in range(700)]
    assert read(encode_header(roots))[0].roots == tuple(roots)
