import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.identify import (
    ADDRESSES_MAX,
    MESSAGE_BYTES_MAX,
    PROTOCOLS_MAX,
    TEXT_BYTES_MAX,
    Identify,
    apply_push,
    decode,
    encode,
)
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.pb.identify_pb2 import Identify as Wire

ADDRESS = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")
FULL = Identify(
    public_key=b"key",
    listen_addresses=(ADDRESS, Multiaddr.parse("/dns4/rage.example/tcp/443/wss")),
    protocols=("/ipfs/id/1.0.0", "/rage/chunk/1.0.0"),
    observed_address=Multiaddr.parse("/ip6/::1/tcp/1"),
    protocol_version="rage/1",
    agent_version="rage/0.1.0",
)


@pytest.mark.parametrize("message", [FULL, Identify()], ids=["full", "empty"])
def test_a_message_round_trips(message: Identify) -> None:
    assert decode(encode(message)) == message


def test_unknown_fields_and_addresses_of_unknown_protocols_are_passed_over() -> None:
    onion = bytes.fromhex("bc030010c0439831b48218480050")
    raw = Wire(listen_addrs=[onion, bytes(ADDRESS), b"", b"\xff"], observed_addr=onion).SerializeToString()
    signed_record = b"\x42\x03abc"
    assert decode(raw + signed_record) == Identify(listen_addresses=(ADDRESS,))


def test_a_message_longer_than_the_limit_is_refused_unread_and_never_sent() -> None:
    with pytest.raises(RemoteProtocolError, match="limit"):
        decode(bytes(MESSAGE_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="longer than peers accept"):
        encode(Identify(public_key=bytes(MESSAGE_BYTES_MAX)))


def test_what_is_over_the_limits_is_left_out() -> None:
    raw = Wire(listen_addrs=[bytes(ADDRESS)] * 100, protocols=[f"/p/{n}" for n in range(400)]).SerializeToString()
    message = decode(raw)
    assert len(message.listen_addresses) == ADDRESSES_MAX
    assert message.protocols == tuple(f"/p/{n}" for n in range(PROTOCOLS_MAX))


def test_a_name_that_would_move_the_cursor_is_defused_and_an_endless_one_refused() -> None:
    assert decode(Wire(agent_version="a\x1b[2J\nb").SerializeToString()).agent_version == "a\ufffd[2J\ufffdb"
    with pytest.raises(RemoteProtocolError, match="name"):
        decode(Wire(agent_version="a" * (TEXT_BYTES_MAX + 1)).SerializeToString())


@pytest.mark.parametrize("raw", [b"\x32\x02\xff\xfe", b"\x1a\x02\xff\xfe", b"\x32\x05abc", b"\x0a", b"\x07"])
def test_malformed_bytes_and_text_are_the_peers_fault(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        decode(raw)


@given(st.binary(max_size=300), st.integers(0, 120), st.integers(0, 255))
def test_garbage_is_a_message_or_a_protocol_error(garbage: bytes, position: int, value: int) -> None:
    garbled = bytearray(encode(FULL))
    garbled[position % len(garbled)] = value
    for raw in (garbage, bytes(garbled), bytes(garbled[:position])):
        try:
            message = decode(raw)
        except RemoteProtocolError:
            continue
        encode(message)


def test_a_push_changes_what_it_names_and_nothing_else() -> None:
    moved = Identify(listen_addresses=(ADDRESS,), agent_version="rage/0.2.0")
    known = apply_push(FULL, moved)
    assert known.listen_addresses == (ADDRESS,)
    assert known.agent_version == "rage/0.2.0"
    assert (known.public_key, known.protocols, known.observed_address, known.protocol_version) == (
        FULL.public_key,
        FULL.protocols,
        FULL.observed_address,
        FULL.protocol_version,
    )
