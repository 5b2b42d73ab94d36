import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.pb.keys_pb2 import PublicKey as WirePublicKey
from rage_net.libp2p.peer_id import (
    PUBLIC_KEY_BYTES_MAX,
    PeerId,
    PeerIdError,
    decode_public_key,
    encode_public_key,
    verify,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/peer_ids.json").read_text())
KINDS = sorted(VECTORS["keys"])


def published(kind: str) -> bytes:
    return bytes.fromhex(VECTORS["keys"][kind]["public"])


def private_key(kind: str):
    raw = WirePublicKey.FromString(bytes.fromhex(VECTORS["keys"][kind]["private"])).Data  # the same layout
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(raw[:32])
    if kind == "secp256k1":
        return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP256K1())
    return load_der_private_key(raw, None)


def sign(key, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), SHA256())
    return key.sign(message, ec.ECDSA(SHA256()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_private_key_gives_the_published_public_key(kind: str) -> None:
    assert encode_public_key(private_key(kind).public_key()) == published(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_public_key_reads_back_and_is_what_protobuf_would_write(kind: str) -> None:
    raw = published(kind)
    assert encode_public_key(decode_public_key(raw)) == raw
    assert WirePublicKey.FromString(raw).SerializeToString(deterministic=True) == raw


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_holds_for_its_message_and_key_alone(kind: str) -> None:
    key = private_key(kind)
    signature = sign(key, b"message")
    verify(decode_public_key(published(kind)), b"message", signature)
    for message, forged in ((b"massage", signature), (b"message", signature[:-1]), (b"message", b"")):
        with pytest.raises(RemoteProtocolError, match="signature"):
            verify(decode_public_key(published(kind)), message, forged)


@pytest.mark.parametrize("kind", KINDS)
def test_short_keys_are_inlined_in_the_peer_id_and_long_ones_hashed(kind: str) -> None:
    key = decode_public_key(published(kind))
    peer = PeerId.from_public_key(key)
    inlined = peer.public_key()
    if kind in ("ed25519", "secp256k1"):
        assert inlined is not None
        assert encode_public_key(inlined) == published(kind)
    else:
        assert inlined is None
        assert str(peer).startswith("Qm")
    assert PeerId.from_encoded_key(published(kind)) == peer


@pytest.mark.parametrize("vector", VECTORS["peer_ids"], ids=lambda vector: vector["text"][:12])
def test_published_peer_ids_read_and_print_in_both_forms(vector: dict) -> None:
    peer = PeerId.parse(vector["text"])
    assert str(peer) == vector["text"]
    assert PeerId.parse(peer.cid_text()) == peer
    assert (peer.public_key() is not None) == vector["inlined"]
    if vector["cid"]:
        assert peer.cid_text() == vector["cid"]


@given(st.binary(min_size=32, max_size=32))
def test_every_ed25519_id_round_trips_and_begins_as_people_know_it(raw: bytes) -> None:
    peer = PeerId.from_encoded_key(b"\x08\x01\x12\x20" + raw)
    assert str(peer).startswith("12D3KooW")
    assert PeerId.parse(str(peer)) == PeerId.parse(peer.cid_text()) == PeerId.from_bytes(bytes(peer)) == peer


@given(st.text(max_size=140) | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=70))
def test_any_text_is_a_peer_id_or_a_peer_id_error(text: str) -> None:
    for prefix in ("", "12D3KooW", "Qm", "bafz", "k51q", "z"):
        try:
            peer = PeerId.parse(prefix + text)
        except PeerIdError:
            continue
        assert PeerId.parse(str(peer)) == peer


@given(st.binary(max_size=50))
def test_any_bytes_are_a_peer_id_or_a_peer_id_error(raw: bytes) -> None:
    for prefix in (b"", b"\x00\x24\x08\x01\x12\x20", b"\x12\x20"):
        try:
            peer = PeerId.from_bytes(prefix + raw)
        except PeerIdError:
            continue
        assert bytes(peer) == prefix + raw
        assert PeerId.parse(str(peer)) == peer


@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"\0\0", b"\0\x04\x08\x01\x12\x00", b"\x12\x1f" + bytes(31), b"\x1e\x20" + bytes(32)]
)
def test_a_multihash_that_can_be_no_peer_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerIdError):
        PeerId.from_bytes(raw)


def test_a_long_text_is_refused_before_it_costs_anything() -> None:
    with pytest.raises(PeerIdError, match="at most 128"):
        PeerId.parse("1" * 10_000_000)


def test_a_cid_of_content_is_no_peer_id_and_the_error_shows_what_is() -> None:
    with pytest.raises(PeerIdError, match="12D3KooW"):
        PeerId.parse("bafkr4ih5hzrd2v2bcjfs6rvtvvbynndpntefpvjm7vjlu6vnqvh3gzczri")


def test_a_base32_id_in_another_spelling_is_refused_so_that_one_peer_has_one_name() -> None:
    text = VECTORS["peer_ids"][0]["cid"]
    assert PeerId.parse(text)
    unused_bits_set = text[:-1] + "f"
    for other in (text.upper(), text[0] + text[1:].upper(), text + "=", unused_bits_set):
        with pytest.raises(PeerIdError):
            PeerId.parse(other)


def test_one_key_has_one_encoding() -> None:
    raw = published("ed25519")
    swapped = raw[2:] + raw[:2]
    padded_type = b"\x08\x81\x00" + raw[2:]
    padded_length = raw[:3] + b"\xa0\x00" + raw[4:]
    for other in (swapped, padded_type, padded_length, raw + b"\x18\x01", raw[:-1], raw + b"\0", b"", b"\x08\x01"):
        with pytest.raises(RemoteProtocolError):
            decode_public_key(other)


def test_a_key_that_lies_about_its_type_is_refused() -> None:
    rsa_raw, ecdsa_raw = published("rsa"), published("ecdsa")
    for other in (b"\x08\x03" + rsa_raw[2:], b"\x08\x00" + ecdsa_raw[2:], b"\x08\x04" + ecdsa_raw[2:]):
        with pytest.raises(RemoteProtocolError):
            decode_public_key(other)


def test_a_short_rsa_key_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key()
    with pytest.raises(RemoteProtocolError, match="weak"):
        decode_public_key(encode_public_key(weak))


def test_a_secp256k1_key_off_its_curve_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_public_key(b"\x08\x02\x12\x21\x02" + b"\xff" * 32)


def test_a_key_longer_than_the_limit_is_refused_unread() -> None:
    data = bytes(PUBLIC_KEY_BYTES_MAX)
    with pytest.raises(RemoteProtocolError, match="limit"):
        decode_public_key(b"\x08\x00\x12" + varint.encode(len(data)) + data)


def test_a_key_that_libp2p_does_not_know_cannot_be_encoded() -> None:
    with pytest.raises(TypeError, match="no encoding"):
        encode_public_key(ed448.Ed448PrivateKey.generate().public_key())  # type: ignore[arg-type]


@given(st.binary(max_size=120), st.sampled_from(KINDS), st.data())
def test_a_garbled_key_is_a_key_or_a_protocol_error(garbage: bytes, kind: str, data: st.DataObject) -> None:
    raw = bytearray(published(kind))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    for candidate in (garbage, bytes(raw)):
        try:
            key = decode_public_key(candidate)
        except RemoteProtocolError:
            continue
        PeerId.from_public_key(key)
