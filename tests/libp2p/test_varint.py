import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p import varint
from rage_net.libp2p.errors import RemoteProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/varint.json").read_text())


@pytest.mark.parametrize(("number", "raw"), VECTORS["good"])
def test_the_published_vectors_hold_both_ways(number: int, raw: str) -> None:
    assert varint.encode(number).hex() == raw
    assert varint.decode(bytes.fromhex(raw)) == (number, len(raw) // 2)


@pytest.mark.parametrize("raw", VECTORS["bad"])
def test_a_padded_varint_is_refused(raw: str) -> None:
    with pytest.raises(RemoteProtocolError):
        varint.decode(bytes.fromhex(raw))


@given(st.integers(0, varint.VARINT_MAX), st.binary(max_size=3), st.binary(max_size=3))
def test_every_number_round_trips_wherever_it_stands(number: int, before: bytes, behind: bytes) -> None:
    raw = varint.encode(number)
    assert len(raw) <= varint.VARINT_BYTES_MAX
    assert varint.decode(memoryview(before + raw + behind), len(before)) == (number, len(before) + len(raw))


@given(st.integers(0, varint.VARINT_MAX))
def test_a_cut_varint_asks_for_more_and_is_not_guessed(number: int) -> None:
    raw = varint.encode(number)
    assert all(varint.decode(raw[:end]) is None for end in range(len(raw)))


@given(st.binary(max_size=12), st.integers(0, 70000))
def test_garbage_is_a_number_within_the_limit_or_a_protocol_error(raw: bytes, maximum: int) -> None:
    try:
        read = varint.decode(raw, maximum=maximum)
    except RemoteProtocolError:
        return
    if read is None:
        assert all(byte & 0x80 for byte in raw)
        assert len(raw) < len(varint.encode(maximum))
    else:
        assert read[0] <= maximum
        assert varint.encode(read[0]) == raw[: read[1]]


@pytest.mark.parametrize("maximum", [0, 1, 127, 128, 1024, 8192, varint.VARINT_MAX])
def test_the_limit_itself_passes_and_one_more_does_not(maximum: int) -> None:
    assert varint.decode(varint.encode(maximum), maximum=maximum) is not None
    if maximum < varint.VARINT_MAX:
        with pytest.raises(RemoteProtocolError):
            varint.decode(varint.encode(maximum + 1), maximum=maximum)


def test_ten_bytes_are_refused_at_the_ninth() -> None:
    with pytest.raises(RemoteProtocolError):
        varint.decode(b"\xff" * 9)


@pytest.mark.parametrize("number", [-1, varint.VARINT_MAX + 1])
def test_a_number_without_a_varint_is_our_own_fault(number: int) -> None:
    with pytest.raises(ValueError, match="a varint holds"):
        varint.encode(number)
