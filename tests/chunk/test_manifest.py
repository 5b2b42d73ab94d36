from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable

import libipld
import pytest
import split_reference as reference
from hypothesis import given
from hypothesis import strategies as st

from rage_net.chunk.manifest import (
    CHUNKS_MAX,
    DOCUMENT_BYTES_MAX,
    LINKS_MAX,
    Link,
    Manifest,
    ManifestBuilder,
    Piece,
    Walk,
    blocks,
    decode,
    pieces,
)
from rage_net.cid import BLOCK_BYTES_MAX, DAG_CBOR, RAW, Cid
from rage_net.errors import IntegrityError, UsageError

VECTORS = json.loads((reference.VECTORS / "manifest.json").read_text())
GOOD = [bytes.fromhex(vector["block"]) for vector in VECTORS["valid"]]


def chunk(k: int) -> Cid:
    return Cid(RAW, reference.link(k))


def build(sizes: list[int], split: str = "text-1") -> tuple[Cid, dict[Cid, bytes]]:
    builder, stored = ManifestBuilder(split), {}
    for k, size in enumerate(sizes):
        if block := builder.add(chunk(k), size):
            stored[block.cid] = block.data
    root, last = builder.finish()
    stored.update((block.cid, block.data) for block in last)
    assert all(cid.matches(data) for cid, data in stored.items())
    return root, stored


def put(store: dict[Cid, bytes], manifest: Manifest) -> Cid:
    data = manifest.encode()
    cid = Cid.of(data, DAG_CBOR)
    store[cid] = data
    return cid


@pytest.fixture(scope="module")
def deep() -> tuple[Cid, dict[Cid, bytes]]:
    """A document of two levels, 131,082 chunks of 1 to 7 bytes."""
    return build([k % 7 + 1 for k in range(2 * LINKS_MAX + 10)])


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["cid"][-6:])
def test_blocks_are_those_of_the_contract(vector: dict) -> None:
    data = bytes.fromhex(vector["block"])
    manifest = decode(data)
    assert manifest.encode() == data
    assert str(Cid.of(data, DAG_CBOR)) == vector["cid"]
    assert manifest.level == vector["level"]
    assert [(link.cid.digest.hex(), link.size) for link in manifest.links] == [
        (link["digest"], link["size"]) for link in vector["links"]
    ]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["why"])
def test_a_block_wrong_in_one_thing_is_refused(vector: dict) -> None:
    with pytest.raises(IntegrityError, match="manifest is broken"):
        decode(bytes.fromhex(vector["block"]))


@pytest.mark.parametrize("vector", VECTORS["large"], ids=lambda vector: str(vector["chunks"]))
def test_large_documents_have_the_roots_of_the_contract(vector: dict) -> None:
    root, stored = build([vector["size"]] * vector["chunks"], vector["split"])
    assert (str(root), len(stored)) == (vector["root"], vector["manifests"])


def test_one_chunk_is_its_own_root() -> None:
    assert build([5]) == (chunk(0), {})
    assert build([0]) == (chunk(0), {})
    with pytest.raises(ValueError, match="at least one chunk"):
        ManifestBuilder("text-1").finish()


def test_a_chunk_that_no_manifest_may_link_is_refused() -> None:
    for sizes in ([1, 0], [1, BLOCK_BYTES_MAX + 1]):
        with pytest.raises(IntegrityError, match="broken"):
            build(sizes)
    builder = ManifestBuilder("cdc-1")
    builder.add(chunk(0), 1)
    builder.add(Cid.of(b"", DAG_CBOR), 1)
    with pytest.raises(IntegrityError, match="broken"):
        builder.finish()


def test_a_document_of_too_many_chunks_is_refused() -> None:
    builder = ManifestBuilder("cdc-1")
    builder.chunks = CHUNKS_MAX
    with pytest.raises(UsageError, match=str(CHUNKS_MAX)):
        builder.add(chunk(0), 1)


def test_the_largest_manifests_fit_into_a_block() -> None:
    links = tuple(Link(Cid(RAW, bytes(32)), BLOCK_BYTES_MAX) for _ in range(LINKS_MAX))
    assert len(Manifest("a" * 8 + "-123/99999999/99999999", LINKS_MAX * BLOCK_BYTES_MAX, 1, links).encode()) < (
        BLOCK_BYTES_MAX
    )


def test_ten_million_chunks_are_refused_before_they_are_decoded() -> None:
    link = GOOD[0][GOOD[0].index(b"\x82\xd8") :][:47]
    head = b"\xa5\x61v\x01\x64size\x1a\x7f\xff\xff\xff\x65level\x01\x65links\x9a" + (10_000_000).to_bytes(4, "big")
    in_one_block = head + link * 89_000 + b"\x65split\x66text-1"
    assert len(in_one_block) < BLOCK_BYTES_MAX
    children = tuple(Link(Cid(DAG_CBOR, reference.link(k)), LINKS_MAX << 20) for k in range(153))
    with pytest.raises(IntegrityError):
        Manifest("text-1", 153 * LINKS_MAX << 20, 2, children).encode()
    in_two_levels = reference.manifest("text-1", [(link.cid.digest, link.size) for link in children], level=2)
    one_too_many = reference.manifest("text-1", [(reference.link(0), 1)] * (LINKS_MAX + 1))
    for data in (in_one_block, in_two_levels, one_too_many, bytes(BLOCK_BYTES_MAX + 1)):
        with pytest.raises(IntegrityError) as caught:
            decode(data)
        assert caught.value.why


def test_nested_lists_cost_no_more_memory_than_the_block() -> None:
    head = GOOD[0][: GOOD[0].index(b"\x82\xd8")]
    for filling in (b"\x80", b"\x81", b"\xa0", b"\x60", b"\x82\xd8\x2a\x58\x25\x00\x01\x55\x1e\x20"):
        data = (head + filling * BLOCK_BYTES_MAX)[:BLOCK_BYTES_MAX]
        tracemalloc.start()
        try:
            with pytest.raises(IntegrityError):
                decode(data)
            assert tracemalloc.get_traced_memory()[1] < 2 * BLOCK_BYTES_MAX
        finally:
            tracemalloc.stop()


def test_libipld_would_take_a_byte_string_for_a_link() -> None:
    """Why the shape is checked first: without it only the second encoding would tell them apart."""
    cid = bytes(chunk(0))
    assert libipld.decode_dag_cbor(b"\x58\x24" + cid) == libipld.decode_dag_cbor(libipld.encode_dag_cbor(cid)) == cid


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(data)


@given(st.sampled_from(GOOD), st.data())
def test_a_block_with_a_few_bytes_changed_is_refused_or_another_valid_block(good: bytes, draw: st.DataObject) -> None:
    data = bytearray(good)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, len(data) - 1))
        match draw.draw(st.integers(0, 2)):
            case 0:
                data[at] = draw.draw(st.integers(0, 255))
            case 1:
                data.insert(at, draw.draw(st.integers(0, 255)))
            case _:
                del data[at]
    try:
        manifest = decode(bytes(data))
    except IntegrityError:
        return
    assert manifest.encode() == data
    assert manifest.size == sum(link.size for link in manifest.links)


LEAVES = st.integers(-5, 2**63) | st.binary(max_size=40) | st.text(max_size=8) | st.none() | st.booleans()


@given(
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=8),
    st.sampled_from(["v", "size", "level", "links", "split", "more"]),
)
def test_other_types_are_refused(value: object, key: str) -> None:
    plain = libipld.decode_dag_cbor(GOOD[0]) | {key: value}
    if plain == libipld.decode_dag_cbor(GOOD[0]):
        return
    data = libipld.encode_dag_cbor(plain)
    try:
        manifest = decode(data)
    except IntegrityError:
        return
    assert key == "split" and manifest.split == value


@given(st.lists(st.integers(1, 50), min_size=2, max_size=30), st.integers(0, 1600), st.integers(0, 1600))
def test_a_range_is_covered_by_just_the_chunks_that_hold_it(sizes: list[int], start: int, end: int) -> None:
    root, stored = build(sizes)
    expected, at = [], 0
    for k, size in enumerate(sizes):
        if start < end and at < end and at + size > start:
            expected.append(Piece(at, chunk(k), size))
        at += size
    assert list(pieces(root, stored.__getitem__, start, end)) == expected


def test_a_walk_gives_all_chunks_and_holds_one_manifest_at_a_time(deep: tuple[Cid, dict[Cid, bytes]]) -> None:
    root, stored = deep
    walk, found, asked = Walk(root), [], []
    while wanted := walk.wanted:
        asked.append(wanted)
        upcoming = [link.cid for link in walk.upcoming()]
        assert not upcoming or upcoming[0] == wanted
        found += walk.receive(stored[wanted])
    assert [piece.cid for piece in found] == [chunk(k) for k in range(2 * LINKS_MAX + 10)]
    assert walk.root is not None and walk.root.level == 2
    assert found[-1].offset + found[-1].size == walk.root.size
    assert asked[0] == root and set(asked) == set(stored) and len(asked) == 4
    with pytest.raises(ValueError, match="no manifest"):
        walk.receive(b"")


def test_a_range_asks_only_for_the_manifests_it_needs(deep: tuple[Cid, dict[Cid, bytes]]) -> None:
    root, stored = deep
    loaded = []

    def load(cid: Cid) -> bytes:
        loaded.append(cid)
        return stored[cid]

    children = decode(stored[root]).links
    first = children[0].size
    assert [piece.cid for piece in pieces(root, load, first, first + 1)] == [chunk(LINKS_MAX)]
    assert loaded == [root, children[1].cid]
    assert list(pieces(root, load, DOCUMENT_BYTES_MAX - 1, DOCUMENT_BYTES_MAX)) == []


def test_blocks_lists_manifests_before_their_chunks_and_repeats_once() -> None:
    builder = ManifestBuilder("cdc-1")
    for _ in range(1000):
        builder.add(chunk(1), 4)
    builder.add(chunk(2), 4)
    root, stored = builder.finish()
    store = {block.cid: block.data for block in stored}
    assert list(blocks(root, store.__getitem__)) == [root, chunk(1), chunk(2)]
    assert list(blocks(chunk(1), store.__getitem__)) == [chunk(1)]


def test_blocks_of_a_deep_document_are_depth_first(deep: tuple[Cid, dict[Cid, bytes]]) -> None:
    root, stored = deep
    found = list(blocks(root, stored.__getitem__))
    children = [link.cid for link in decode(stored[root]).links]
    assert found[:3] == [root, children[0], chunk(0)]
    assert found[LINKS_MAX + 2] == children[1]
    assert len(found) == 4 + 2 * LINKS_MAX + 10


def test_a_chunk_cannot_be_walked() -> None:
    with pytest.raises(ValueError, match="is a chunk"):
        Walk(chunk(0))


def test_a_walk_refuses_other_bytes_than_it_asked_for() -> None:
    root, stored = build([1, 2, 3])
    for data in (b"", GOOD[0], stored[root] + b"\0"):
        with pytest.raises(IntegrityError, match=str(root)):
            Walk(root).receive(data)


def full(split: str = "text-1", count: int = LINKS_MAX, size: int = 1) -> Manifest:
    return Manifest(split, count * size, 1, tuple(Link(chunk(0), size) for _ in range(count)))


LIES: dict[str, Callable[[dict[Cid, bytes]], Cid]] = {
    "a root of one link": lambda store: put(store, full(count=1)),
    "a child of another size": lambda store: pair(store, full(), full(count=2), claimed=LINKS_MAX + 1),
    "a child that is not full": lambda store: pair(store, full(count=LINKS_MAX - 1), full(count=2)),
    "a child cut in another way": lambda store: pair(store, full("cdc-1"), full(count=2)),
}


def pair(store: dict[Cid, bytes], first: Manifest, last: Manifest, claimed: int | None = None) -> Cid:
    links = (Link(put(store, first), claimed or first.size), Link(put(store, last), last.size))
    return put(store, Manifest("text-1", sum(link.size for link in links), 2, links))


@pytest.mark.parametrize("lie", LIES)
def test_a_walk_refuses_manifests_that_lie_about_each_other(lie: str) -> None:
    store: dict[Cid, bytes] = {}
    root = LIES[lie](store)
    with pytest.raises(IntegrityError, match="broken"):
        list(pieces(root, store.__getitem__))


def test_a_walk_refuses_a_third_level() -> None:
    store: dict[Cid, bytes] = {}
    middle = pair(store, full(), full(count=2))
    size = decode(store[middle]).size
    root = put(store, Manifest("text-1", 2 * size, 2, (Link(middle, size), Link(middle, size))))
    with pytest.raises(IntegrityError, match="broken"):
        list(pieces(root, store.__getitem__))


def test_a_root_cannot_hold_itself_and_depth_ends_the_attempt() -> None:
    """A loop would need a hash that names itself; children at level 2 are refused whatever they link."""
    loop = Cid(DAG_CBOR, bytes(32))
    data = Manifest("text-1", 2, 2, (Link(loop, 1), Link(loop, 1))).encode()
    with pytest.raises(IntegrityError, match="not those"):
        Walk(loop).receive(data)


def test_equal_chunks_give_equal_roots_and_any_difference_another(rng: random.Random) -> None:
    sizes = [rng.randint(1, 1000) for _ in range(50)]
    assert build(sizes) == build(sizes)
    assert build(sizes)[0] != build(sizes[:-1])[0] != build([*sizes[:-1], sizes[-1] + 1])[0]
