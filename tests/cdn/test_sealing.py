"""Sealed documents: what opens what, and that nothing else does."""

from __future__ import annotations

import hmac
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cdn import sealing
from rage_net.cdn.sealing import Epoch, open_block, open_page, seal, seal_block, seal_page
from rage_net.cid import BLOCK_BYTES_MAX, DAG_CBOR, Cid
from rage_net.errors import IntegrityError, UsageError

VECTORS = Path(__file__).parents[2] / "contracts" / "vectors" / "sealed.json"
EPOCH = Epoch("acme", "a" * 26, bytes(range(16)), bytes(range(32)))


@given(st.binary(max_size=300), st.sampled_from([0x55, DAG_CBOR]))
def test_a_block_comes_through_and_is_longer_by_its_tag_alone(data: bytes, codec: int) -> None:
    cid = Cid.of(data, codec)
    block = seal_block(EPOCH, cid, data)
    assert block.cid == Cid.of(block.data) and str(block.cid).startswith("bafkr4i")
    assert len(block.data) == len(data) + 16
    assert open_block(EPOCH, cid, block.data) == data


@given(st.binary(min_size=1, max_size=100), st.data())
def test_any_bit_that_is_flipped_fails(data: bytes, draw: st.DataObject) -> None:
    cid = Cid.of(data)
    sealed = bytearray(seal_block(EPOCH, cid, data).data)
    bit = draw.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError, match="does not open"):
        open_block(EPOCH, cid, bytes(sealed))


@pytest.mark.parametrize("size", [0, 1, 15])
def test_bytes_too_few_to_be_a_ciphertext_fail(size: int) -> None:
    with pytest.raises(IntegrityError):
        open_block(EPOCH, Cid.of(b"x"), bytes(size))
    with pytest.raises(IntegrityError):
        open_page(EPOCH, bytes(size))


@pytest.mark.parametrize("cut", [1, 16, 17])
def test_a_truncated_ciphertext_fails(cut: int) -> None:
    cid = Cid.of(b"some bytes of a chunk")
    with pytest.raises(IntegrityError):
        open_block(EPOCH, cid, seal_block(EPOCH, cid, b"some bytes of a chunk").data[:-cut])


OTHERS = {
    "organization": replace(EPOCH, organization="acma"),
    "document": replace(EPOCH, doc_id="b" * 26),
    "epoch": replace(EPOCH, id=bytes(16)),
    "key": replace(EPOCH, key=bytes(32)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_was_sealed_for_something_else_fails(other: Epoch) -> None:
    cid = Cid.of(b"chunk")
    sealed = seal_block(EPOCH, cid, b"chunk").data
    with pytest.raises(IntegrityError):
        open_block(other, cid, sealed)
    *_, page = seal(EPOCH, [cid], {cid: b"chunk"}.__getitem__)
    with pytest.raises(IntegrityError):
        open_page(other, page.data)


def test_a_chunk_in_the_place_of_another_fails_be_it_of_the_same_document() -> None:
    one, other = Cid.of(b"one"), Cid.of(b"two")
    with pytest.raises(IntegrityError):
        open_block(EPOCH, other, seal_block(EPOCH, one, b"one").data)
    with pytest.raises(IntegrityError, match="does not open"):  # nor as the manifest of the same bytes
        open_block(EPOCH, Cid.of(b"one", DAG_CBOR), seal_block(EPOCH, one, b"one").data)


def test_a_page_is_no_block_and_a_block_no_page() -> None:
    cid = Cid.of(b"chunk")
    block, page = seal(EPOCH, [cid], {cid: b"chunk"}.__getitem__)
    plain = Cid(0x55, page.data[:32])
    with pytest.raises(IntegrityError):
        open_block(EPOCH, plain, page.data[32:])
    with pytest.raises(IntegrityError):
        open_page(EPOCH, cid.digest + block.data)


@given(st.binary(max_size=200), st.data())
def test_no_page_opens_but_the_one_that_was_sealed(data: bytes, draw: st.DataObject) -> None:
    with pytest.raises(IntegrityError):
        open_page(EPOCH, data)
    page = bytearray(seal_page(EPOCH, 0, [bytes(Cid.of(data)) + bytes(32)]).data)
    bit = draw.draw(st.integers(0, 8 * len(page) - 1))
    page[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        open_page(EPOCH, bytes(page))


def entry(data: bytes) -> bytes:
    return bytes(Cid.of(data)) + bytes(32)


@pytest.mark.parametrize(
    ("level", "rows"),
    [
        (2, [entry(b"a")]),
        (0, []),
        (0, [entry(b"a")[:-1]]),
        (0, [b"\2" + entry(b"a")[1:]]),
        (0, sorted([entry(b"a"), entry(b"b")], reverse=True)),
        (0, [entry(b"a")] * 2),
    ],
    ids=["level", "empty", "short", "no cid", "out of order", "twice"],
)
def test_whoever_has_the_key_and_lists_nonsense_is_not_believed(level: int, rows: list[bytes]) -> None:
    with pytest.raises(IntegrityError):
        open_page(EPOCH, seal_page(EPOCH, level, rows).data)


def test_the_largest_chunk_fits_and_one_byte_more_does_not() -> None:
    data = bytes(BLOCK_BYTES_MAX)
    block = seal_block(EPOCH, Cid.of(data), data)
    assert len(block.data) == sealing.SEALED_BYTES_MAX
    assert open_block(EPOCH, Cid.of(data), block.data) == data
    with pytest.raises(IntegrityError):
        seal_block(EPOCH, Cid.of(data + b"x"), data + b"x")
    with pytest.raises(IntegrityError):
        open_block(EPOCH, Cid.of(data), bytes(sealing.SEALED_BYTES_MAX + 1))


def test_bytes_that_are_not_the_blocks_are_not_sealed_under_its_key() -> None:
    """Else one key and one nonce would meet two plaintexts."""
    with pytest.raises(IntegrityError):
        seal_block(EPOCH, Cid.of(b"one"), b"two")


def test_the_same_document_sealed_again_in_its_epoch_is_the_same_and_in_another_all_is_new() -> None:
    blocks = {Cid.of(bytes([at])): bytes([at]) for at in range(9)}
    first, again = (list(seal(EPOCH, blocks, blocks.__getitem__)) for _ in range(2))
    assert first == again
    anew = list(seal(replace(EPOCH, id=bytes(16), key=bytes(32)), blocks, blocks.__getitem__))
    assert not {block.cid for block in first} & {block.cid for block in anew}


def document(rng: random.Random, count: int) -> dict[Cid, bytes]:
    return {Cid.of(data): data for data in (rng.randbytes(rng.randrange(1, 50)) for _ in range(count))}


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 40])
def test_every_block_is_found_by_the_root_page_alone(
    rng: random.Random, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(sealing, "PAGE_ENTRIES", 8)
    blocks = document(rng, count)
    out = list(seal(EPOCH, blocks, blocks.__getitem__))
    held = {block.cid: block.data for block in out}
    root = open_page(EPOCH, out[-1].data)
    assert root.is_leaf == (count <= 8)

    def find(cid: Cid) -> Cid | None:
        found = root.find(cid)
        return found if found is None or root.is_leaf else open_page(EPOCH, held[found]).find(cid)

    for cid, data in blocks.items():
        found = find(cid)
        assert found is not None and open_block(EPOCH, cid, held[found]) == data
    assert all(find(cid) is None for cid in document(rng, 20))


def test_a_chunk_that_repeats_is_sealed_once() -> None:
    cid, other = Cid.of(b"x"), Cid.of(b"y")
    loaded: list[Cid] = []

    def load(wanted: Cid) -> bytes:
        loaded.append(wanted)
        return {cid: b"x", other: b"y"}[wanted]

    assert len(list(seal(EPOCH, [cid, other, cid, cid], load))) == 3
    assert loaded == [cid, other]


def test_a_document_is_sealed_as_it_is_read_and_one_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "BLOCKS_MAX", 5)
    read: list[int] = []

    def blocks() -> Iterator[Cid]:
        for at in range(100):
            read.append(at)
            yield Cid.of(bytes([at]))

    by_cid = {Cid.of(bytes([at])): bytes([at]) for at in range(100)}
    out = seal(EPOCH, blocks(), by_cid.__getitem__)
    next(out)
    assert read == [0]
    with pytest.raises(UsageError, match="too many") as caught:
        list(out)
    assert caught.value.id == "cdn-too-large" and len(read) == 6


def test_a_key_stands_in_no_repr() -> None:
    assert "sentinel" not in repr(replace(EPOCH, key=b"sentinel" * 4))


def test_the_contract_suffices_to_open_a_block_without_this_module() -> None:
    """HKDF by hand, as contracts/sealed.md describes it."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    for one in json.loads(VECTORS.read_text()):
        for block in one["blocks"]:
            cid = Cid.parse(block["cid"])
            binding = b"rage:sealed:1\0" + b"\0" + one["doc_id"].encode() + bytes(cid) + one["organization"].encode()
            extracted = hmac.digest(bytes.fromhex(one["epoch"]), bytes.fromhex(one["key"]), "sha256")
            key = hmac.digest(extracted, binding + b"\1", "sha256")
            plain = AESGCM(key).decrypt(bytes(12), bytes.fromhex(block["sealed"]), binding)
            assert plain.hex() == block["plain"] and cid.matches(plain)


def test_a_key_is_known_by_its_check_and_by_that_of_no_other_epoch() -> None:
    assert len({EPOCH.check, *(other.check for name, other in OTHERS.items() if name in ("epoch", "key"))}) == 3
    for one in json.loads(VECTORS.read_text()):
        epoch = Epoch(one["organization"], one["doc_id"], bytes.fromhex(one["epoch"]), bytes.fromhex(one["key"]))
        assert epoch.check.hex() == one["check"]


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_the_vectors_that_other_implementations_go_by_hold() -> None:
    for one in json.loads(VECTORS.read_text()):
        epoch = Epoch(one["organization"], one["doc_id"], bytes.fromhex(one["epoch"]), bytes.fromhex(one["key"]))
        blocks = {Cid.parse(each["cid"]): bytes.fromhex(each["plain"]) for each in one["blocks"]}
        out = list(seal(epoch, blocks, blocks.__getitem__))
        assert [(str(block.cid), block.data.hex()) for block in out[: len(blocks)]] == [
            (each["sealed_cid"], each["sealed"]) for each in one["blocks"]
        ]
        assert [(str(block.cid), block.data.hex()) for block in out[len(blocks) :]] == [
            (each["cid"], each["bytes"]) for each in one["pages"]
        ]
