import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p.errors import LocalProtocolError, NegotiationError, RemoteProtocolError
from rage_net.libp2p.multistream import (
    MESSAGE_BYTES_MAX,
    MULTISTREAM,
    PROPOSALS_MAX,
    Initiator,
    Responder,
    Selected,
    encode_message,
)

names = st.text("abcdefghijklmnopqrstuvwxyz/.0123456789", min_size=1, max_size=40).filter(
    lambda name: name not in ("na", "ls")
)  # words of the protocol itself
HEADER = encode_message(MULTISTREAM)


def settle(initiator: Initiator, responder: Responder) -> tuple[Selected | None, Selected | None]:
    """Carry bytes between the two until both have their answer."""
    left = right = None
    for _ in range(2 * PROPOSALS_MAX):
        if right is None and (data := initiator.data_to_send()):
            right = responder.receive(data)
        if left is None and (data := responder.data_to_send()):
            left = initiator.receive(data)
        if left and right:
            break
    return left, right


def test_the_bytes_are_those_of_the_specification() -> None:
    assert encode_message("na") == bytes.fromhex("036e610a")
    assert encode_message("ls") == bytes.fromhex("036c730a")
    assert Initiator(["/ipfs/kad/1.0.0"]).data_to_send() == b"\x13/multistream/1.0.0\n\x10/ipfs/kad/1.0.0\n"


def test_an_agreement_takes_one_packet_each_way() -> None:
    initiator, responder = Initiator(["/a"]), Responder({"/a", "/b"})
    assert responder.receive(initiator.data_to_send()) == Selected("/a", b"")
    answer = responder.data_to_send()
    assert answer == HEADER + encode_message("/a")
    assert initiator.receive(answer) == Selected("/a", b"")
    assert initiator.data_to_send() == responder.data_to_send() == b""


def test_proposals_are_tried_in_order_until_one_is_taken() -> None:
    left, right = settle(Initiator(["/x", "/y", "/b"]), Responder({"/a", "/b"}))
    assert left == right == Selected("/b", b"")


def test_when_nothing_is_left_the_error_names_what_was_refused() -> None:
    initiator, responder = Initiator(["/x"]), Responder({"/a"})
    responder.receive(initiator.data_to_send())
    with pytest.raises(NegotiationError, match="/x"):
        initiator.receive(responder.data_to_send())


def test_a_responder_may_decide_by_a_function() -> None:
    _, right = settle(Initiator(["/rage/2", "/rage/1"]), Responder(lambda name: name.endswith("/1")))
    assert right == Selected("/rage/1", b"")


@given(st.binary(max_size=200), st.binary(max_size=200), st.data())
def test_early_bytes_and_answers_come_through_untouched_whatever_the_split(
    early: bytes, answer: bytes, data: st.DataObject
) -> None:
    responder = Responder({"/a"})
    sent = Initiator(["/a"], early).data_to_send()
    cut = data.draw(st.integers(0, len(sent)))
    got = responder.receive(sent[:cut])
    rest = sent[cut:]
    if got is None:
        got, rest = responder.receive(rest), b""
    assert got is not None
    assert (got.protocol, got.rest + rest) == ("/a", early)

    initiator = Initiator(["/a"])
    reply = responder.data_to_send() + answer
    cut = data.draw(st.integers(0, len(reply)))
    back = initiator.receive(reply[:cut])
    rest = reply[cut:]
    if back is None:
        back, rest = initiator.receive(rest), b""
    assert back is not None
    assert (back.protocol, back.rest + rest) == ("/a", answer)


@given(st.lists(names, min_size=1, max_size=5, unique=True), names)
def test_byte_by_byte_both_ends_reach_the_same_end(proposals: list[str], known: str) -> None:
    initiator, responder = Initiator(proposals), Responder({known})
    left = right = None
    try:
        while left is None or right is None:
            for byte in initiator.data_to_send():
                right = responder.receive(bytes((byte,))) or right
            for byte in responder.data_to_send():
                left = initiator.receive(bytes((byte,))) or left
        assert known in proposals
        assert left == right == Selected(known, b"")
    except NegotiationError:
        assert known not in proposals


def test_a_list_is_politely_refused_and_the_negotiation_goes_on() -> None:
    responder = Responder(lambda name: True)
    assert responder.receive(HEADER + encode_message("ls")) is None
    assert responder.data_to_send() == HEADER + encode_message("na")
    assert responder.receive(encode_message("/a")) == Selected("/a", b"")


def test_a_responder_tires_of_proposals() -> None:
    responder = Responder(())
    responder.receive(HEADER + encode_message("/x") * PROPOSALS_MAX)
    with pytest.raises(RemoteProtocolError, match="more than 64"):
        responder.receive(encode_message("/x"))


@pytest.mark.parametrize("end", [Initiator(["/a"]), Responder({"/a"})], ids=["initiator", "responder"])
def test_after_the_agreement_it_takes_no_more(end: Initiator | Responder) -> None:
    assert end.receive(HEADER + encode_message("/a")) is not None
    with pytest.raises(LocalProtocolError):
        end.receive(b"x")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encode_message("/other/1.0.0"), "opens with"),
        (encode_message("/a"), "opens with"),
        (b"\x81\x08", "limit"),
        (b"\xff\xff", "limit"),
        (b"\x00", "line feed"),
        (b"\x02ab", "line feed"),
        (b"\x83\x00na\n", "shortest"),
        (b"\x03\xff\xfe\n", "UTF-8"),
        (HEADER + encode_message("/b"), "answers"),
        (HEADER + encode_message("ls"), "answers"),
    ],
)
def test_an_answer_out_of_place_is_the_peers_fault(data: bytes, says: str) -> None:
    initiator = Initiator(["/a"])
    with pytest.raises(RemoteProtocolError, match=says):
        initiator.receive(data)
    with pytest.raises(LocalProtocolError):
        initiator.receive(HEADER)


def test_a_message_of_the_limit_passes_and_one_byte_more_is_refused_before_it_comes() -> None:
    longest = "/" + "a" * (MESSAGE_BYTES_MAX - 2)
    assert Responder({longest}).receive(HEADER + encode_message(longest)) == Selected(longest, b"")
    with pytest.raises(ValueError, match="no protocol id"):
        encode_message(longest + "a")
    with pytest.raises(RemoteProtocolError):
        Responder({longest}).receive(HEADER + b"\x81\x08")


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_a_name_that_cannot_be_sent_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no protocol id"):
        Initiator([name])


def test_early_bytes_need_exactly_one_proposal() -> None:
    for proposals in ([], ["/a", "/b"]):
        with pytest.raises(LocalProtocolError):
            Initiator(proposals, b"early")


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_garbage_gives_nothing_but_protocol_errors(chunks: list[bytes], greeted: bool) -> None:
    for end in (Initiator(["/a", "/b"]), Responder({"/a"})):
        try:
            if greeted:
                end.receive(HEADER)
            for chunk in chunks:
                if end.receive(chunk) is not None:
                    break
        except (RemoteProtocolError, NegotiationError):
            continue
