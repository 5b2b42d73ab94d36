"""RPCs and messages of gossipsub: bytes to values and back, signatures, caches."""

from __future__ import annotations

import contextlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.gossipsub import Frames, Message, Rpc, Verdict, decode, encode
from rage_net.libp2p.gossipsub.cache import History, Seen
from rage_net.libp2p.gossipsub.message import check_signature, make_message
from rage_net.libp2p.gossipsub.rpc import BACKOFF_S_MAX, Have, Prune, check_topic
from rage_net.libp2p.peer_id import PeerId, encode_public_key

topics = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
ids = st.binary(max_size=60)
rpcs = st.builds(
    Rpc,
    subscriptions=st.lists(st.tuples(topics, st.booleans()), max_size=3).map(tuple),
    messages=st.lists(
        st.builds(Message, topics, st.binary(max_size=50), ids, st.binary(max_size=9), st.binary(max_size=64), ids),
        max_size=3,
    ).map(tuple),
    have=st.lists(st.builds(Have, topics, st.lists(ids, max_size=3).map(tuple)), max_size=3).map(tuple),
    want=st.lists(ids, max_size=3).map(tuple),
    graft=st.lists(topics, max_size=3).map(tuple),
    prune=st.lists(
        st.builds(Prune, topics, st.lists(ids, max_size=3).map(tuple), st.none() | st.integers(0, BACKOFF_S_MAX)),
        max_size=3,
    ).map(tuple),
    unwanted=st.lists(ids, max_size=3).map(tuple),
)


@given(rpcs, st.data())
def test_rpcs_come_back_as_they_were_however_the_bytes_are_cut(rpc: Rpc, data: st.DataObject) -> None:
    raw = encode(rpc) * 2
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    frames, out = Frames(), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        out += frames.receive([raw[start:end]])
    assert [decode(one) for one in out] == [rpc, rpc]
    assert frames.held == 0


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_read_and_nothing_else(raw: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(raw)


@given(rpcs, st.integers(1, 3))
def test_slices_hold_the_same_in_the_same_order(rpc: Rpc, size: int) -> None:
    parts = list(rpc.slices(size))
    assert tuple(message for part in parts for message in part.messages) == rpc.messages
    assert all(len(part.messages) <= size for part in parts)
    assert tuple(topic for part in parts for topic in part.graft) == rpc.graft
    assert tuple(one for part in parts for one in part.subscriptions) == rpc.subscriptions


def test_a_back_off_of_ages_is_an_hour() -> None:
    assert decode(encode(Rpc(prune=(Prune("t", (), (1 << 64) - 1),)))[1:]).prune[0].backoff_s == BACKOFF_S_MAX


def test_a_length_that_is_too_large_is_refused_before_the_bytes_come() -> None:
    with pytest.raises(RemoteProtocolError):
        Frames(1000).receive([b"\xe9\x07"])  # 1001


@pytest.mark.parametrize("topic", ["", "x" * 257, "ä" * 129, "a\nb", "\x1b[1m"])
def test_names_that_are_no_topics(topic: str) -> None:
    with pytest.raises(ValueError, match="1 to 256 bytes"):
        check_topic(topic)


# -- signatures -------------------------------------------------------------------------------------------------------

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AUTHOR = PeerId.from_public_key(KEY.public_key())


def test_what_is_signed_are_the_fields_of_the_specification_after_its_prefix() -> None:
    signed: list[bytes] = []
    message = make_message("t", b"data", AUTHOR, 7, lambda raw: signed.append(raw) or KEY.sign(raw))  # type: ignore[func-returns-value]
    source = AUTHOR.multihash
    assert signed == [
        b"libp2p-pubsub:\x0a"
        + bytes((len(source),))
        + source
        + b"\x12\x04data\x1a\x08"
        + (7).to_bytes(8)
        + b"\x22\x01t"
    ]
    check_signature(message)
    assert message.author == AUTHOR and message.sequence == 7 and message.id == source + (7).to_bytes(8)


@pytest.mark.parametrize("field", ["topic", "data", "source", "seqno", "signature", "key"])
def test_a_message_with_any_field_changed_is_refused(field: str) -> None:
    message = make_message("topic", b"data", AUTHOR, 7, KEY.sign)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    changed = {
        "topic": "other",
        "data": b"date",
        "source": PeerId.from_public_key(other).multihash,
        "seqno": (8).to_bytes(8),
        "signature": bytes(64),
        "key": encode_public_key(other),
    }
    fields = {name: getattr(message, name) for name in Message.__slots__} | {field: changed[field]}
    with pytest.raises(RemoteProtocolError):
        check_signature(Message(**fields))


def test_an_author_whose_id_does_not_hold_the_key_sends_it_along() -> None:
    key = rsa.generate_private_key(65537, 2048)
    author = PeerId.from_public_key(key.public_key())
    encoded = encode_public_key(key.public_key())
    check_signature(make_message("t", b"", author, 1, lambda raw: key.sign(raw, PKCS1v15(), SHA256()), encoded))
    with pytest.raises(RemoteProtocolError, match="lacks the key"):
        check_signature(make_message("t", b"", author, 1, lambda raw: key.sign(raw, PKCS1v15(), SHA256())))


# -- caches -----------------------------------------------------------------------------------------------------------


def message(sequence: int, *, source: bytes = AUTHOR.multihash, size: int = 0, topic: str = "t") -> Message:
    return Message(topic, bytes(size), source, sequence.to_bytes(8), b"s")


def test_what_the_seen_cache_forgets_raises_the_floor_of_its_author_only() -> None:
    seen = Seen(ttl_s=10)
    seen.add(message(5).id, 0, Verdict.ACCEPT)
    seen.add(message(9).id, 5, Verdict.ACCEPT)
    assert not seen.is_stale(message(4)), "disorder within the time is no replay"
    seen.expire(10)
    assert [seen.get(message(n).id) for n in (5, 9)] == [None, Verdict.ACCEPT]
    assert seen.is_stale(message(5)) and seen.is_stale(message(3)) and not seen.is_stale(message(6))
    assert not seen.is_stale(message(5, source=b"another"))


def test_the_seen_cache_and_its_floors_are_bounded(rng: random.Random) -> None:
    seen = Seen(ttl_s=10, size=100, floors=20)
    for n in range(1000):
        seen.add(message(n, source=rng.randbytes(8)).id, 0, Verdict.ACCEPT)
    assert len(seen) == 100 and len(seen._floors) == 20


def test_history_gossips_of_three_heartbeats_and_keeps_five() -> None:
    history = History(length=5, gossip=3)
    history.put(message(1))
    history.put(message(2, topic="other"))
    for beat in range(5):
        assert history.get(message(1).id) is not None
        assert history.ids("t") == ([message(1).id] if beat < 3 else [])
        history.shift()
    assert history.get(message(1).id) is None and history.bytes == 0


def test_history_is_bounded_by_bytes_and_the_oldest_goes_first() -> None:
    history = History(length=5, gossip=3, bytes_max=1000)
    for n in range(10):
        history.put(message(n, size=200))
    assert history.bytes <= 1000
    assert history.get(message(9).id) is not None and history.get(message(0).id) is None
    assert history.ids("t") == [message(n).id for n in range(10) if history.get(message(n).id)]
