"""yamux: pairs in memory over every split, each rule of the package's tables, floods, and garbage."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.libp2p import yamux
from rage_net.libp2p.errors import LimitError, RemoteProtocolError, StreamClosedError
from rage_net.libp2p.yamux import Budget, Changed, Flag, GoneAway, Opened, Pong, Reason, Session, Stream, Type

KIB, MIB = 1024, 1024 * 1024


def no_eviction() -> None:
    raise AssertionError("nobody should be evicted here")


def session(*, is_dialer: bool = False, budget: Budget | None = None, now: float = 0.0, **more: int) -> Session:
    account = (budget or Budget()).account(no_eviction)
    return Session(is_dialer=is_dialer, account=account, now=now, **more)


def frame(kind: int, flags: int, stream_id: int, length: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream_id, length) + payload


def data(stream_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return frame(Type.DATA, flags, stream_id, len(payload), payload)


def wire(one: Session, limit: int = 1 << 30) -> bytes:
    return b"".join(bytes(part) for part in one.data_to_send(limit))


def headers(raw: bytes) -> list[tuple[int, int, int, int]]:
    """(type, flags, stream id, length) of each frame."""
    out, at = [], 0
    while at < len(raw):
        _, kind, flags, stream_id, length = struct.unpack_from(">BBHII", raw, at)
        out.append((kind, flags, stream_id, length))
        at += 12 + (length if kind == Type.DATA else 0)
    return out


class Pair:
    """A dialer and a listener, joined by hand."""

    def __init__(self, cut: Callable[[bytes], list[bytes]] = lambda raw: [raw], now: float = 0.0) -> None:
        self.a = session(is_dialer=True)
        self.b = session()
        self.cut = cut
        self.now = now
        self.events: dict[Session, list[yamux.Event]] = {self.a: [], self.b: []}

    def pump(self) -> None:
        """Until both have nothing to say."""
        while self.a.has_data_to_send or self.b.has_data_to_send:
            for one, other in ((self.a, self.b), (self.b, self.a)):
                self.events[other] += other.receive(self.cut(wire(one)), self.now)

    def opened(self) -> Stream:
        return next(event.stream for event in self.events[self.b] if isinstance(event, Opened))

    def stream(self, first: bytes = b"x") -> tuple[Stream, Stream]:
        ours = self.a.open(self.now)
        self.a.send(ours, [first])
        self.pump()
        return ours, self.b.streams[ours.id]


def read(one: Session, stream: Stream, now: float = 0.0) -> bytes:
    return b"".join(bytes(buffer) for buffer in one.read(stream, now))


# -- streams ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_what_is_written_is_read_on_many_streams_over_every_split(seed: int) -> None:
    rng = random.Random(seed)

    def cut(raw: bytes) -> list[bytes]:
        pieces = []
        while raw:
            size = rng.choice([1, 5, 11, 12, 13, 100, 65_519, 200_000])
            pieces.append(raw[:size])
            raw = raw[size:]
        return pieces

    pair = Pair(cut)
    written: dict[int, bytes] = {}
    got: dict[int, bytes] = {}
    for _ in range(rng.randint(1, 4)):
        stream = pair.a.open(0)
        written[stream.id] = b""
        for _ in range(rng.randint(0, 3)):
            payload = rng.randbytes(rng.choice([0, 1, 100, 70_000, 300_000]))
            written[stream.id] += payload
            pair.a.send(stream, [payload])
        pair.a.close_write(stream)
    for _ in range(200):
        pair.pump()
        for event in pair.events[pair.b]:
            if isinstance(event, Opened):
                got[event.stream.id] = b""
        waiting = [
            event.stream for event in pair.events[pair.b] if isinstance(event, Changed) and event.stream.id in got
        ]
        pair.events[pair.b] = []
        for stream in dict.fromkeys(waiting):
            got[stream.id] += read(pair.b, stream)
            if stream.is_at_end:
                pair.b.close_write(stream)
        if not pair.a.streams:
            break
    assert got == written
    assert not pair.a.streams and not pair.b.streams and pair.b.inbound == 0
    assert pair.b._account.unread == pair.b._account.promised == 0


def test_names_bytes_and_the_end_of_a_small_stream_leave_together() -> None:
    a = session(is_dialer=True)
    stream = a.open(0)
    a.send(stream, [b"names", b"request"])
    a.close_write(stream)
    assert headers(wire(a, 1)) == [(Type.DATA, Flag.SYN, 1, 12), (Type.WINDOW_UPDATE, Flag.FIN, 1, 0)]


def test_a_stream_that_ends_before_it_begins_is_one_header() -> None:
    a = session(is_dialer=True)
    a.close_write(a.open(0))
    assert headers(wire(a)) == [(Type.WINDOW_UPDATE, Flag.SYN | Flag.FIN, 1, 0)]


def test_the_answer_accepts_the_stream_and_its_end_leaves_with_it() -> None:
    pair = Pair()
    ours, theirs = pair.stream()
    pair.b.send(theirs, [b"answer"])
    pair.b.close_write(theirs)
    raw = wire(pair.b)
    assert headers(raw) == [(Type.DATA, Flag.ACK, 1, 6), (Type.WINDOW_UPDATE, Flag.FIN, 1, 0)]
    pair.a.receive([raw], 0)
    assert ours.is_acked and ours.is_read_closed and read(pair.a, ours) == b"answer" and ours.is_at_end


def test_half_a_stream_may_end_while_the_other_goes_on() -> None:
    pair = Pair()
    ours, theirs = pair.stream(b"question")
    pair.a.close_write(ours)
    pair.pump()
    assert read(pair.b, theirs) == b"question" and theirs.is_at_end and not theirs.is_forgotten
    with pytest.raises(StreamClosedError):
        pair.a.send(ours, [b"more"])
    for word in (b"a ", b"long ", b"answer"):
        pair.b.send(theirs, [word])
        pair.pump()
    pair.b.close_write(theirs)
    pair.pump()
    assert read(pair.a, ours) == b"a long answer" and ours.is_at_end
    assert not pair.a.streams and not pair.b.streams


def test_the_end_comes_after_the_payload_it_came_with_however_that_is_cut() -> None:
    b = session()
    raw = data(1, b"payload", Flag.SYN | Flag.FIN)
    for at in range(len(raw)):
        b.receive([raw[at : at + 1]], 0)
        stream = b.streams.get(1)
        assert stream is None or stream.is_read_closed == (at == len(raw) - 1)
    assert read(b, b.streams[1]) == b"payload" and b.streams[1].is_at_end


def test_a_reset_drops_what_waits_on_both_sides() -> None:
    pair = Pair()
    ours, theirs = pair.stream(b"unread")
    pair.a.send(ours, [b"unsent"])
    pair.a.reset(ours)
    pair.pump()
    assert ours.is_reset and theirs.is_reset and not ours.queue
    assert read(pair.b, theirs) == b"" and Changed(theirs) in pair.events[pair.b]
    assert not pair.a.streams and not pair.b.streams and pair.b._account.unread == 0


def test_a_stream_reset_before_it_was_announced_is_never_announced() -> None:
    a = session(is_dialer=True)
    stream = a.open(0)
    a.send(stream, [b"x"])
    a.reset(stream)
    assert wire(a) == b""


def test_bytes_for_a_stream_we_have_reset_are_dropped() -> None:
    pair = Pair()
    ours, theirs = pair.stream()
    pair.b.reset(theirs)
    pair.a.send(ours, [b"on its way"])
    raw = wire(pair.a)
    assert pair.b.receive([raw], 0) == [Changed(theirs)]
    assert not pair.b.streams and not theirs.buffers


def test_a_stream_that_nobody_reads_may_end_in_order_and_is_reset_when_much_comes() -> None:
    for more, is_reset in ((1000, False), (64 * KIB, True)):
        pair = Pair()
        ours, theirs = pair.stream()
        pair.b.discard_read(theirs)
        pair.b.close_write(theirs)
        pair.a.send(ours, [bytes(more), b"x"])
        pair.a.close_write(ours)
        pair.pump()
        assert ours.is_reset == is_reset and not pair.a.streams and not pair.b.streams
        assert not theirs.buffers and pair.b._account.unread == 0


def test_reading_with_a_limit_leaves_the_rest_where_it_is_counted() -> None:
    b = session()
    b.receive([data(1, b"a" * 100, Flag.SYN), data(1, b"b" * 100), data(1, b"c" * 100)], 0)
    stream = b.streams[1]
    assert b"".join(b.read(stream, 0, 101)) == b"a" * 100 + b"b" * 100
    assert stream.unread == 100 and b._account.unread == stream.cost > 100
    assert read(b, stream) == b"c" * 100 and b._account.unread == 0


# -- windows and fairness ---------------------------------------------------------------------------------------------


def test_a_sender_stops_at_the_window_and_goes_on_after_an_update() -> None:
    pair = Pair()
    ours = pair.a.open(0)
    pair.a.send(ours, [bytes(MIB)])
    pair.pump()
    theirs = pair.opened()
    assert theirs.unread == 256 * KIB and ours.queued == MIB - 256 * KIB and not pair.a.has_data_to_send
    read(pair.b, theirs)
    pair.pump()
    assert theirs.unread > 256 * KIB


def test_a_drained_queue_is_told_though_the_update_itself_empties_it() -> None:
    pair = Pair()
    ours = pair.a.open(0)
    pair.a.send(ours, [bytes(256 * KIB + 1)])
    pair.pump()
    assert pair.a.take_drained() == []
    read(pair.b, pair.opened())
    pair.pump()
    assert pair.a.take_drained() == [ours] and ours.queued == 0
    assert pair.a.take_drained() == []


def test_a_fast_reader_gets_a_wider_window_and_a_slow_one_does_not() -> None:
    sixteen = bytes(16 * MIB)
    for pause, expected in ((0.001, 16 * MIB), (10.0, 256 * KIB)):
        pair = Pair()
        ours, theirs = pair.stream()
        for _ in range(40):
            pair.now += pause
            if ours.queued < 16 * MIB:
                pair.a.send(ours, [sixteen])
            pair.pump()
            read(pair.b, theirs, pair.now)
        assert theirs.window == expected


def test_windows_of_one_connection_leave_room_for_those_of_another() -> None:
    budget = Budget(24 * MIB)
    accounts = [budget.account(no_eviction) for _ in range(3)]
    for account in accounts[:2]:
        while account.promise(256 * KIB):
            pass
    assert 14 * MIB < accounts[0].promised <= 16 * MIB
    assert accounts[1].promised > 4 * MIB and accounts[2].promise(256 * KIB)
    accounts[0].close()
    assert budget.promised == accounts[1].promised + accounts[2].promised


def test_more_than_the_window_ends_the_session() -> None:
    b = session()
    b.receive([data(1, bytes(256 * KIB), Flag.SYN)], 0)
    with pytest.raises(RemoteProtocolError, match="window"):
        b.receive([data(1, b"x")], 0)


def test_streams_take_turns_one_frame_each() -> None:
    a = session(is_dialer=True)
    for _ in range(3):
        stream = a.open(0)
        a.receive([frame(Type.WINDOW_UPDATE, Flag.ACK, stream.id, 4 * MIB)], 0)
        a.send(stream, [bytes(MIB)])
    ids = []
    while part := a.data_to_send(1):
        ids += [stream_id for _, _, stream_id, _ in headers(b"".join(bytes(buffer) for buffer in part))]
    assert ids[:9] == [1, 3, 5] * 3
    assert len(ids) == 15


def test_a_large_frame_fills_four_noise_frames_and_its_payload_is_not_copied() -> None:
    a = session(is_dialer=True)
    stream = a.open(0)
    payload = bytes(MIB)
    a.send(stream, [payload])
    header, body = a.data_to_send(1)
    assert len(header) == 12 and len(body) == yamux.FRAME_BYTES_MAX == 4 * 65_519
    assert isinstance(body, memoryview) and body.obj is payload


# -- limits -----------------------------------------------------------------------------------------------------------


def test_no_stream_is_opened_while_too_many_wait_for_the_peer() -> None:
    pair = Pair()
    streams = [pair.a.open(0) for _ in range(yamux.ACK_BACKLOG_MAX)]
    with pytest.raises(LimitError):
        pair.a.open(0)
    pair.pump()
    theirs = pair.b.streams[streams[0].id]
    pair.b.send(theirs, [b"answer"])
    pair.pump()
    assert not pair.a.has_backlog
    pair.a.open(0)


def test_a_peer_that_opens_100_000_streams_costs_256_and_its_connection() -> None:
    b = session()
    opened = 0
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="were refused"):
        for stream_id in range(1, 200_001, 2):
            opened += sum(isinstance(event, Opened) for event in b.receive([data(stream_id, flags=Flag.SYN)], 0))
            b.data_to_send(1 << 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened == len(b.streams) == yamux.ACK_BACKLOG_MAX
    assert peak < 2 * MIB


def test_streams_over_the_limit_are_reset_and_make_room_when_others_end() -> None:
    b = session(streams_max=2)
    b.receive([data(stream_id, flags=Flag.SYN) for stream_id in (1, 3, 5)], 0)
    assert headers(wire(b)) == [(Type.WINDOW_UPDATE, Flag.RST, 5, 0)] and b.refused == 1
    b.receive([data(1, flags=Flag.RST), data(7, flags=Flag.SYN)], 0)
    assert set(b.streams) == {3, 7}


def test_a_peer_that_pings_and_never_reads_costs_a_bounded_queue() -> None:
    b = session()
    with pytest.raises(RemoteProtocolError, match="does not read"):
        for value in range(100_000):
            b.receive([frame(Type.PING, Flag.SYN, 0, value)], 0)
    assert len(b._control) == yamux.CONTROL_FRAMES_MAX + 1


def test_the_budget_is_never_passed_and_the_connection_with_the_most_unread_is_evicted() -> None:
    budget = Budget(MIB)
    sessions: list[Session] = []
    evicted: list[int] = []

    def evictor(index: int) -> Callable[[], None]:
        def evict() -> None:
            evicted.append(index)
            sessions[index].abandon()

        return evict

    for index in range(6):
        sessions.append(Session(is_dialer=False, account=budget.account(evictor(index)), now=0))
    for index, one in enumerate(sessions):
        size = (200 if index == 3 else 150) * KIB
        for at in range(0, size, 50 * KIB):
            if index in evicted:
                break
            one.receive([data(1, bytes(50 * KIB), Flag.SYN if at == 0 else 0)], 0)
            assert budget.unread <= budget.size
    sessions[0].receive([data(3, bytes(256 * KIB), Flag.SYN)], 0)
    sessions[1].receive([data(3, bytes(256 * KIB), Flag.SYN)], 0)
    assert evicted[0] == 3 and sessions[3].streams == {} and budget.evictions == len(evicted)
    assert budget.unread == sum(one._account.unread for one in sessions if one._account.is_open) <= budget.size


def test_a_connection_that_uses_up_the_budget_alone_is_evicted_itself() -> None:
    budget = Budget(100 * KIB)
    evicted: list[Session] = []
    one = Session(is_dialer=False, account=budget.account(lambda: evicted.append(one) or one.abandon()), now=0)  # type: ignore[arg-type,return-value]
    with pytest.raises(LimitError):
        one.receive([data(1, bytes(101 * KIB), Flag.SYN)], 0)
    assert evicted == [one] and budget.unread == 0


def test_one_byte_frames_are_charged_for_what_they_cost() -> None:
    budget = Budget(MIB)
    one = session(budget=budget)
    one.receive([data(1, b"", Flag.SYN)] + [data(1, b"x")] * 1000, 0)
    assert budget.unread == 1000 * (1 + 96)


def test_a_few_unread_bytes_do_not_keep_the_frame_they_came_in() -> None:
    one = session()
    one.receive([data(1, b"few", Flag.SYN) + data(3, bytes(60 * KIB), Flag.SYN)], 0)
    assert one.streams[1].buffers == [b"few"] and isinstance(one.streams[1].buffers[0], bytes)
    assert isinstance(one.streams[3].buffers[0], memoryview)


# -- the session ------------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_and_timed() -> None:
    pair = Pair()
    pair.a.ping(0.0)
    pair.a.ping(0.1)
    raw = wire(pair.a)
    assert headers(raw) == [(Type.PING, Flag.SYN, 0, 1)]
    pair.b.receive([raw], 0.02)
    assert pair.a.receive([wire(pair.b)], 0.05) == [Pong(0.05)]
    assert pair.a.rtt_s == 0.05 and pair.a.ping_sent_at is None


def test_a_silent_peer_is_pinged_and_then_given_up() -> None:
    a = session(is_dialer=True)
    a.on_timeout(29.0)
    assert not a.has_data_to_send
    a.on_timeout(a.next_timeout())
    assert headers(wire(a)) == [(Type.PING, Flag.SYN, 0, 1)]
    a.on_timeout(30.0 + yamux.PING_TIMEOUT_S - 1)
    with pytest.raises(RemoteProtocolError, match="silent"):
        a.on_timeout(30.0 + yamux.PING_TIMEOUT_S)


def test_a_peer_that_sends_anything_is_not_given_up() -> None:
    a = session(is_dialer=True)
    a.on_timeout(30.0)
    a.receive([frame(Type.PING, Flag.SYN, 0, 7)], 45.0)
    a.on_timeout(60.0)


def test_after_go_away_open_streams_go_on_and_no_new_ones_begin() -> None:
    pair = Pair()
    ours, theirs = pair.stream()
    pair.b.go_away(Reason.NORMAL)
    pair.b.send(theirs, [b"still here"])
    pair.pump()
    assert GoneAway(Reason.NORMAL) in pair.events[pair.a]
    assert read(pair.a, ours) == b"still here"
    with pytest.raises(StreamClosedError):
        pair.a.open(0)
    pair.b.receive([data(99, flags=Flag.SYN)], 0)
    assert headers(wire(pair.b)) == [(Type.WINDOW_UPDATE, Flag.RST, 99, 0)]


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([b"\x01" + data(1, flags=Flag.SYN)[1:]], "version 1"),
        ([frame(4, 0, 0, 0)], "type 4"),
        ([frame(Type.DATA, 16, 1, 0)], "flags 0x10"),
        ([frame(Type.DATA, Flag.SYN, 0, 0)], "not the peer's to open"),
        ([data(2, flags=Flag.SYN)], "not the peer's to open"),
        ([data(3, flags=Flag.SYN), data(1, flags=Flag.SYN)], "not the peer's to open"),
        ([data(1, flags=Flag.SYN), data(1, flags=Flag.SYN)], "not the peer's to open"),
        ([data(5)], "never opened"),
        ([data(2)], "never opened"),
        ([data(0)], "never opened"),
        ([data(1, flags=Flag.SYN | Flag.FIN), data(1, b"x")], "after the end"),
        ([data(1, flags=Flag.SYN | Flag.FIN), data(1, flags=Flag.FIN)], "ended twice"),
        ([data(1, b"x", Flag.SYN | Flag.RST)], "flags 0x9"),
        ([frame(Type.DATA, Flag.SYN, 1, 2**32 - 1)], "4294967295"),
        ([data(1, flags=Flag.SYN | Flag.RST), frame(Type.DATA, 0, 1, 2**32 - 1)], "4294967295"),
        ([frame(Type.WINDOW_UPDATE, Flag.SYN, 1, 2**32 - 1)], "4 GiB"),
        ([frame(Type.PING, Flag.SYN, 1, 0)], "names a stream"),
        ([frame(Type.GO_AWAY, 0, 1, 0)], "names a stream"),
    ],
)
def test_a_broken_rule_ends_the_session(frames: list[bytes], why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        session().receive(frames, 0)


def test_a_truncated_frame_is_waited_for_and_nothing_is_kept_for_its_length() -> None:
    b = session()
    raw = data(1, bytes(200 * KIB), Flag.SYN)
    tracemalloc.start()
    assert b.receive([raw[:12]], 0) == [Opened(b.streams[1])]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * KIB and b.streams[1].unread == 0


def test_abandoning_gives_everything_back() -> None:
    budget = Budget()
    one = session(budget=budget)
    one.receive([data(1, bytes(100), Flag.SYN)], 0)
    stream = one.streams[1]
    assert one.abandon() == [stream] and stream.is_reset
    assert budget.unread == 0 and not one.has_data_to_send
    assert one.read(stream, 0) == []


FRAMES = st.builds(
    lambda version, kind, flags, stream_id, length, body: (
        struct.pack(">BBHII", version, kind, flags, stream_id, length) + body
    ),
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1]),
    st.integers(0, 4),
    st.integers(0, 16),
    st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7]),
    st.sampled_from([0, 1, 5, 5, 100, 262_144, 262_145, 2**32 - 1]),
    st.binary(max_size=120),
)


@given(st.lists(st.one_of(FRAMES, st.binary(max_size=60)), max_size=40), st.booleans())
def test_garbage_gives_nothing_but_remote_protocol_errors_and_keeps_no_more_than_came(
    pieces: list[bytes], is_dialer: bool
) -> None:
    budget = Budget()
    one = session(is_dialer=is_dialer, budget=budget)
    if is_dialer:
        one.send(one.open(0), [bytes(1000)])
        wire(one)
    try:
        for piece in pieces:
            for event in one.receive([piece], 0):
                if isinstance(event, Changed) and event.stream.unread > 50:
                    one.read(event.stream, 0)
                if isinstance(event, Opened) and not event.stream.is_reset:
                    one.send(event.stream, [b"hello"])
            wire(one)
    except RemoteProtocolError:
        pass
    kept = sum(stream.unread for stream in one.streams.values())
    assert kept <= sum(map(len, pieces))
    assert budget.unread >= kept
    one.abandon()
    assert budget.unread == 0 and budget.promised == 0
