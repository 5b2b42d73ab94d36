"""Noise: the published vectors, every split, forged and garbled bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p import noise
from rage_net.libp2p.errors import LocalProtocolError, PeerIdMismatchError, RemoteProtocolError
from rage_net.libp2p.noise import CipherState, NoiseHandshake, NoiseTransport, NoiseXX
from rage_net.libp2p.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from rage_net.libp2p.peer_id import PeerId, encode_public_key

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "noise.json").read_text())["vectors"]


def x25519(seed: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(random.Random(seed).randbytes(32))


def ed25519(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.Random(seed).randbytes(32))


DIALER, LISTENER = ed25519(1), ed25519(2)
LISTENER_ID = PeerId.from_public_key(LISTENER.public_key())


def dialer(**more: object) -> NoiseHandshake:
    given_ = {"initiator": True, "static": x25519(3), "ephemeral": x25519(4), "muxers": ("/yamux/1.0.0",), **more}
    return NoiseHandshake(DIALER, **given_)  # type: ignore[arg-type]


def listener(key: Ed25519PrivateKey = LISTENER, **more: object) -> NoiseHandshake:
    given_ = {"initiator": False, "static": x25519(5), "ephemeral": x25519(6), "muxers": ("/yamux/1.0.0",), **more}
    return NoiseHandshake(key, **given_)  # type: ignore[arg-type]


def join(a: NoiseHandshake, b: NoiseHandshake) -> None:
    for _ in range(3):
        for one, other in ((a, b), (b, a)):
            data = one.data_to_send()
            assert other.receive(data) == len(data)


def transports() -> tuple[NoiseTransport, NoiseTransport]:
    a, b = dialer(), listener()
    join(a, b)
    assert a.secured is not None and b.secured is not None
    return a.secured.transport, b.secured.transport


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["init_prologue"][:8])
def test_the_published_vectors_hold(vector: dict[str, object]) -> None:
    assert vector["protocol_name"] == noise.PROTOCOL_NAME.decode()

    def side(name: str) -> NoiseXX:
        return NoiseXX(
            initiator=name == "init",
            static=X25519PrivateKey.from_private_bytes(bytes.fromhex(str(vector[f"{name}_static"]))),
            ephemeral=X25519PrivateKey.from_private_bytes(bytes.fromhex(str(vector[f"{name}_ephemeral"]))),
            prologue=bytes.fromhex(str(vector[f"{name}_prologue"])),
        )

    sides = [side("init"), side("resp")]
    ciphers: list[NoiseTransport] = []
    for turn, message in enumerate(vector["messages"]):  # type: ignore[arg-type,var-annotated]
        payload, ciphertext = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
        writer, reader = (0, 1) if turn % 2 == 0 else (1, 0)
        if turn < 3:
            assert sides[writer].write(payload) == ciphertext
            assert sides[reader].read(ciphertext) == payload
            continue
        if not ciphers:
            ciphers = [one.split() for one in sides]
            if "handshake_hash" in vector:
                assert {one.handshake_hash.hex() for one in sides} == {vector["handshake_hash"]}
        frame = len(ciphertext).to_bytes(2, "big") + ciphertext
        assert b"".join(ciphers[writer].encrypt([payload])) == frame
        assert ciphers[reader].decrypt(memoryview(frame)) == ([payload], len(frame))


def test_both_sides_learn_who_the_other_is_and_which_muxers_it_has() -> None:
    a, b = dialer(remote=LISTENER_ID), listener()
    join(a, b)
    assert a.secured is not None and b.secured is not None
    assert a.secured.peer_id == LISTENER_ID
    assert b.secured.peer_id == PeerId.from_public_key(DIALER.public_key())
    assert a.secured.muxers == b.secured.muxers == ("/yamux/1.0.0",)


def test_a_handshake_may_be_cut_at_every_byte() -> None:
    a, b = dialer(), listener()
    for one, other in ((a, b), (b, a), (a, b)):
        data, arrived = one.data_to_send(), b""
        for byte in data:
            arrived += bytes([byte])
            arrived = arrived[other.receive(arrived) :]
        assert arrived == b""
    assert a.secured is not None and b.secured is not None


def test_what_follows_the_handshake_is_left_alone() -> None:
    a, b = dialer(), listener()
    b.receive(a.data_to_send())
    a.receive(b.data_to_send())
    last = a.data_to_send()
    assert a.secured is not None
    frame = b"".join(a.secured.transport.encrypt([b"early"]))
    assert b.receive(last + frame) == len(last)
    assert b.secured is not None
    assert b.secured.transport.decrypt(memoryview(frame))[0] == [b"early"]


class Forged(NoiseHandshake):
    """Says another payload than its own."""

    def say(self, payload: NoiseHandshakePayload | bytes) -> Forged:
        self._payload = payload if isinstance(payload, bytes) else payload.SerializeToString()
        return self


def forged(payload: NoiseHandshakePayload | bytes) -> Forged:
    one = Forged(LISTENER, initiator=False, static=x25519(5), ephemeral=x25519(6))
    return one.say(payload)


STATIC = x25519(5).public_key().public_bytes_raw()
MALLORY = ed25519(9)


@pytest.mark.parametrize(
    "payload",
    [
        NoiseHandshakePayload(  # Mallory signs, and claims to be the listener
            identity_key=encode_public_key(LISTENER.public_key()),
            identity_sig=MALLORY.sign(noise.SIGNATURE_PREFIX + STATIC),
        ),
        NoiseHandshakePayload(  # the listener's signature, of another handshake
            identity_key=encode_public_key(LISTENER.public_key()),
            identity_sig=LISTENER.sign(noise.SIGNATURE_PREFIX + x25519(7).public_key().public_bytes_raw()),
        ),
        NoiseHandshakePayload(  # without the prefix that sets it apart from other signatures
            identity_key=encode_public_key(LISTENER.public_key()), identity_sig=LISTENER.sign(STATIC)
        ),
        NoiseHandshakePayload(identity_key=encode_public_key(LISTENER.public_key())),
        NoiseHandshakePayload(identity_sig=LISTENER.sign(noise.SIGNATURE_PREFIX + STATIC)),
        NoiseHandshakePayload(identity_key=b"\x08\x01\x12\x05short", identity_sig=b"x" * 64),
        NoiseHandshakePayload(
            identity_key=encode_public_key(LISTENER.public_key()),
            identity_sig=LISTENER.sign(noise.SIGNATURE_PREFIX + STATIC),
            extensions=NoiseExtensions(stream_muxers=["/m"] * (noise.MUXERS_MAX + 1)),
        ),
        b"\xff\xff\xff",
    ],
    ids=["another key", "another handshake", "no prefix", "no signature", "no key", "bad key", "muxers", "no protobuf"],
)
def test_a_payload_that_proves_nothing_ends_the_handshake(payload: NoiseHandshakePayload | bytes) -> None:
    a, b = dialer(), forged(payload)
    b.receive(a.data_to_send())
    with pytest.raises(RemoteProtocolError):
        a.receive(b.data_to_send())
    assert a.secured is None


def test_another_peer_than_the_one_dialled_is_refused() -> None:
    a, b = dialer(remote=LISTENER_ID), listener(key=MALLORY)
    b.receive(a.data_to_send())
    with pytest.raises(PeerIdMismatchError, match=str(PeerId.from_public_key(MALLORY.public_key()))):
        a.receive(b.data_to_send())


def test_a_handshake_message_over_its_limit_is_refused_from_its_length_alone() -> None:
    with pytest.raises(RemoteProtocolError, match="8193"):
        listener().receive((noise.HANDSHAKE_BYTES_MAX + 1).to_bytes(2, "big"))


@pytest.mark.parametrize("size", [0, 31])
def test_a_handshake_message_without_a_whole_key_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="truncated"):
        listener().receive(size.to_bytes(2, "big") + bytes(size))


def test_a_key_of_low_order_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="low order"):
        listener().receive(b"\x00\x20" + bytes(32))


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_one_wrong_bit_in_the_second_message_ends_the_handshake(at: int, bit: int) -> None:
    a, b = dialer(), listener()
    b.receive(a.data_to_send())
    data = bytearray(b.data_to_send())
    data[2 + at % (len(data) - 2)] ^= 1 << bit
    with pytest.raises(RemoteProtocolError):
        a.receive(data)


@given(st.binary(max_size=400))
def test_garbage_gives_nothing_but_remote_protocol_errors(data: bytes) -> None:
    for one in (dialer(), listener()):
        try:
            one.receive(data)
        except RemoteProtocolError:
            continue
        assert one.secured is None


def test_out_of_turn_is_our_own_fault() -> None:
    a = NoiseXX(initiator=True, static=x25519(1), ephemeral=x25519(2))
    with pytest.raises(LocalProtocolError):
        a.read(bytes(32))
    with pytest.raises(LocalProtocolError):
        a.split()
    a.write(b"")
    with pytest.raises(LocalProtocolError):
        a.write(b"")


@given(
    sizes=st.lists(st.sampled_from([0, 1, 12, 4096, 4097, 65_519, 65_520, 131_039]), max_size=8),
    cut=st.integers(0, 2**32),
)
def test_frames_carry_any_buffers_and_may_be_cut_anywhere(sizes: list[int], cut: int) -> None:
    a, b = transports()
    rng = random.Random(cut)
    buffers = [rng.randbytes(size) for size in sizes]
    wire = b"".join(a.encrypt([memoryview(buffer) for buffer in buffers]))
    arrived, got = b"", []
    while wire:
        size = rng.randint(1, 100_000)
        arrived, wire = arrived + wire[:size], wire[size:]
        plaintexts, used = b.decrypt(memoryview(arrived))
        arrived = arrived[used:]
        got += plaintexts
    assert b"".join(got) == b"".join(buffers) and not arrived
    assert all(len(plaintext) <= noise.PLAINTEXT_BYTES_MAX for plaintext in got)


def test_small_neighbours_share_a_frame_and_large_buffers_fill_theirs() -> None:
    a, _ = transports()
    frames = a.encrypt([b"h" * 12, b"p" * 40, b"h" * 12, bytes(4 * noise.PLAINTEXT_BYTES_MAX)])
    sizes = [len(frame) - noise.TAG_BYTES for frame in frames[1::2]]
    assert sizes == [64, *[noise.PLAINTEXT_BYTES_MAX] * 4]


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_one_wrong_bit_in_a_frame_is_noticed(at: int, bit: int) -> None:
    a, b = transports()
    data = bytearray(b"".join(a.encrypt([b"some bytes"])))
    data[2 + at % (len(data) - 2)] ^= 1 << bit
    with pytest.raises(RemoteProtocolError):
        b.decrypt(memoryview(data))


def test_a_repeated_frame_is_noticed() -> None:
    a, b = transports()
    frame = b"".join(a.encrypt([b"once"]))
    b.decrypt(memoryview(frame))
    with pytest.raises(RemoteProtocolError):
        b.decrypt(memoryview(frame))


@given(st.binary(max_size=400))
def test_garbage_frames_give_nothing_but_remote_protocol_errors(data: bytes) -> None:
    _, b = transports()
    try:
        plaintexts, used = b.decrypt(memoryview(data))
    except RemoteProtocolError:
        return
    assert plaintexts == [] and used == 0


def test_a_connection_ends_before_its_nonces_repeat() -> None:
    key = bytes(32)
    one = NoiseTransport(CipherState(key, noise.NONCE_MAX - 1), CipherState(key, noise.NONCE_MAX - 1))
    frame = b"".join(one.encrypt([b"last"]))
    assert one.decrypt(memoryview(frame)) == ([b"last"], len(frame))
    with pytest.raises(LocalProtocolError, match="used up"):
        one.encrypt([b"one too many"])
    with pytest.raises(RemoteProtocolError, match="used up"):
        one.decrypt(memoryview(frame))
