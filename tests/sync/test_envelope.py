"""Chains and signatures: the committed vectors, and what is refused before it costs anything."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from rage_net import keys
from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.envelope import (
    PAYLOAD_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENT_ENTRIES_MAX,
    ChainId,
    Entry,
    Head,
    Segment,
    SegmentError,
    chain_start,
    client_id,
    decode_segment,
    encode_segment,
    extend,
    fact_id,
    heads_from_wire,
    verify_segment,
)
from tests.sync.world import Forger, end_of

VECTORS = json.loads((Path(__file__).parents[2] / "contracts/vectors/log.json").read_text())


def test_the_vectors_hold_and_follow_from_the_contract_alone() -> None:
    """Recomputed from the words of rage.proto, without this module's own functions."""
    for one in VECTORS["chains"]:
        author, organization = bytes.fromhex(one["author"]), one["organization"].encode()
        incarnation = int(one["incarnation"], 16).to_bytes(8, "big")
        digest = blake3(b"rage:chain:1\0" + author + incarnation + organization).digest()
        assert digest.hex() == one["hash_0"]
        for sequence, entry in enumerate(one["entries"], 1):
            payload = bytes.fromhex(entry["payload"])
            digest = blake3(digest + sequence.to_bytes(8, "big") + blake3(payload).digest()).digest()
            assert digest.hex() == entry["hash"]
            assert blake3(b"rage:fact:1\0" + author + payload).digest()[:16].hex() == entry["fact_id"]
        signed = b"rage:head:1\0" + author + incarnation + sequence.to_bytes(8, "big") + digest
        assert signed.hex() == one["signed"]
        peer = PeerId(author)
        key = peer.public_key()
        key.verify(bytes.fromhex(one["signature"]), signed)  # type: ignore[union-attr, call-arg]
        client = int.from_bytes(blake3(b"rage:client:1\0" + author + incarnation).digest()[:4], "big") & 0x7FFFFFFF
        assert client == one["client_id"]


def test_this_module_agrees_with_the_vectors() -> None:
    for one in VECTORS["chains"]:
        chain = ChainId(PeerId(bytes.fromhex(one["author"])), int(one["incarnation"], 16))
        segment = decode_segment(bytes.fromhex(one["segment"]))
        assert chain_start(chain, one["organization"]).hex() == one["hash_0"]
        assert client_id(chain) == one["client_id"]
        verified = verify_segment(segment, one["organization"])
        assert verified.head == Head(chain, len(one["entries"]), bytes.fromhex(one["entries"][-1]["hash"]))
        assert [fact_id(chain.author, entry.payload or b"").hex() for entry in segment.entries] == [
            entry["fact_id"] for entry in one["entries"]
        ]


@pytest.fixture
def forger(rng: random.Random) -> Forger:
    return Forger(rng)


def test_a_segment_is_verified_behind_the_hash_before_it_and_nowhere_else(forger: Forger) -> None:
    first, second = forger.say(b"one", b"two"), forger.say(b"three")
    before = verify_segment(first, "acme").head
    assert verify_segment(second, "acme", before.hash).head == forger.head
    for previous in (None, bytes(32)):
        with pytest.raises(SegmentError):
            verify_segment(second, "acme", previous)


def test_payloads_that_are_hidden_leave_the_signature_good(forger: Forger) -> None:
    segment = forger.say(b"one", b"two", b"three")
    hashes = verify_segment(segment, "acme").payload_hashes
    hidden = replace(segment, entries=(segment.entries[0], Entry(None, hashes[1]), segment.entries[2]))
    assert verify_segment(decode_segment(encode_segment(hidden)), "acme").head == forger.head


def test_a_chain_of_another_organisation_is_refused(forger: Forger) -> None:
    with pytest.raises(SegmentError) as caught:
        verify_segment(forger.say(b"one"), "other")
    assert caught.value.reason == "bad-signature"


@pytest.mark.parametrize("change", ["payload", "order", "signature", "incarnation", "author", "dropped"])
def test_a_segment_that_was_changed_is_refused(forger: Forger, rng: random.Random, change: str) -> None:
    good = forger.say(b"one", b"two", b"three")
    other = Forger(rng)
    bad = {
        "payload": replace(good, entries=(Entry(b"ONE"), *good.entries[1:])),
        "order": replace(good, entries=(good.entries[1], good.entries[0], good.entries[2])),
        "signature": replace(good, signature=bytes(64)),
        "incarnation": replace(good, chain=ChainId(forger.id, forger.chain.incarnation ^ 1)),
        "author": replace(good, chain=ChainId(other.id, forger.chain.incarnation)),
        "dropped": replace(good, entries=good.entries[:2]),
    }[change]
    with pytest.raises(SegmentError) as caught:
        verify_segment(bad, "acme")
    assert caught.value.reason == "bad-signature"


def test_what_is_too_large_is_refused_before_anything_is_hashed(forger: Forger) -> None:
    good = forger.say(b"one")
    many = tuple(Entry(None, bytes(32)) for _ in range(SEGMENT_ENTRIES_MAX + 1))
    large = tuple(Entry(bytes(PAYLOAD_BYTES_MAX)) for _ in range(SEGMENT_BYTES_MAX // PAYLOAD_BYTES_MAX + 1))
    for entries in (many, large, (Entry(bytes(PAYLOAD_BYTES_MAX + 1)),)):
        with pytest.raises(SegmentError) as caught:
            verify_segment(replace(good, entries=entries), "acme")
        assert caught.value.reason == "too-large"
    with pytest.raises(SegmentError):
        decode_segment(bytes(100 << 20))


@pytest.mark.parametrize(
    "bad",
    [
        {"first": 0},
        {"first": 1 << 63},
        {"signature": bytes(63)},
        {"entries": ()},
        {"entries": (Entry(None, bytes(31)),)},
    ],
)
def test_numbers_and_lengths_out_of_range_are_malformed(forger: Forger, bad: dict[str, object]) -> None:
    with pytest.raises(SegmentError) as caught:
        decode_segment(encode_segment(replace(forger.say(b"one"), **bad)))  # type: ignore[arg-type]
    assert caught.value.reason == "malformed"


def test_an_author_whose_id_is_no_ed25519_key_is_refused(forger: Forger) -> None:
    from rage_net.pb import rage_pb2 as pb

    wire = pb.Segment.FromString(encode_segment(forger.say(b"one")))
    for author in (b"", bytes((0x12, 32)) + bytes(32), bytes((0, 37, 8, 2, 18, 33)) + bytes(33), b"x" * 1000):
        wire.author = author
        with pytest.raises(SegmentError) as caught:
            decode_segment(wire.SerializeToString())
        assert caught.value.reason == "malformed"


def test_two_heads_of_one_chain_are_refused() -> None:
    from rage_net.pb import rage_pb2 as pb

    author = PeerId.from_public_key(keys.generate(random.Random(1)).public_key())
    head = pb.Head(author=bytes(author), incarnation=5, sequence=1, hash=bytes(32))
    assert len(heads_from_wire([head])) == 1
    with pytest.raises(SegmentError):
        heads_from_wire([head, head])


@given(st.binary(max_size=300))
def test_garbage_is_no_segment_and_no_crash(data: bytes) -> None:
    try:
        segment = decode_segment(data)
    except SegmentError:
        return
    with pytest.raises(SegmentError):
        verify_segment(segment, "acme")


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), st.integers(0, 2**64 - 1), st.data())
def test_any_split_of_a_chain_ends_in_the_same_head(
    payloads: list[bytes], incarnation: int, data: st.DataObject
) -> None:
    key = keys.generate(random.Random(7))
    chain = ChainId(PeerId.from_public_key(key.public_key()), incarnation)
    whole = verify_segment(extend(key, "acme", None, chain, payloads), "acme").head
    cut = data.draw(st.integers(0, len(payloads)))
    head: Head | None = None
    for part in (payloads[:cut], payloads[cut:]):
        if part:
            segment: Segment = extend(key, "acme", head, chain, part)
            head = end_of(segment, head)
    assert head == whole
