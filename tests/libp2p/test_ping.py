import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.errors import LocalProtocolError, RemoteProtocolError
from rage_net.libp2p.ping import PING_BYTES, Echo, Pinger

PAYLOAD = bytes(range(32))


def test_a_round_trip_is_timed_from_the_send_to_the_last_byte() -> None:
    pinger, echo = Pinger(), Echo()
    back = echo.receive(pinger.send(PAYLOAD, now=10.0))
    assert pinger.receive(back[:31], now=10.2) is None
    assert pinger.receive(back[31:], now=10.5) == pytest.approx(0.5)
    assert pinger.send(PAYLOAD[::-1], now=11.0) == PAYLOAD[::-1]


@given(st.lists(st.binary(min_size=PING_BYTES, max_size=PING_BYTES), max_size=4), st.data())
def test_an_echo_gives_back_whole_blocks_whatever_the_split(blocks: list[bytes], data: st.DataObject) -> None:
    sent, echo, back = b"".join(blocks), Echo(), b""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        piece = echo.receive(sent[start:end])
        assert len(piece) % PING_BYTES == 0
        back += piece
    echo.end()
    assert back == sent


@pytest.mark.parametrize("answer", [b"x", PAYLOAD[:31] + b"x", PAYLOAD + b"x", PAYLOAD * 2])
def test_other_bytes_or_too_many_are_the_peers_fault(answer: bytes) -> None:
    pinger = Pinger()
    pinger.send(PAYLOAD, now=0)
    with pytest.raises(RemoteProtocolError, match="other bytes"):
        pinger.receive(answer, now=1)


def test_an_answer_without_a_question_is_the_peers_fault() -> None:
    with pytest.raises(RemoteProtocolError):
        Pinger().receive(PAYLOAD, now=0)


def test_a_second_ping_waits_for_the_first_and_carries_32_bytes() -> None:
    pinger = Pinger()
    with pytest.raises(LocalProtocolError):
        pinger.send(b"short", now=0)
    pinger.send(PAYLOAD, now=0)
    with pytest.raises(LocalProtocolError):
        pinger.send(PAYLOAD, now=0)


def test_a_stream_that_ends_within_a_ping_is_the_peers_fault() -> None:
    echo = Echo()
    echo.receive(b"half")
    with pytest.raises(RemoteProtocolError, match="4 of 32"):
        echo.end()
