"""The rules of a link, without a device: when each packet comes out, and which never does."""

from __future__ import annotations

import random

import pytest

from rage_lab.net.link import QUEUE_BYTES_MAX, REORDER_S, Conditions, Pipe


def test_a_packet_comes_out_after_the_delay_and_not_before() -> None:
    pipe = Pipe(Conditions(delay_s=0.05), 0)
    pipe.put(b"a", 1.0)
    pipe.put(b"b", 1.01)
    assert pipe.next_due() == pytest.approx(1.05)
    assert pipe.take(1.049) == []
    assert pipe.take(1.0501) == [b"a"]
    assert pipe.take(2.0) == [b"b"]
    assert pipe.next_due() is None
    assert pipe.counts == {"carried": 2}


def test_a_rate_spaces_packets_and_a_pause_is_not_saved_up() -> None:
    pipe = Pipe(Conditions(delay_s=0.5, rate_bytes_s=1000), 0)
    for _ in range(3):
        pipe.put(bytes(100), 0.0)
    assert [len(pipe.take(now)) for now in (0.59, 0.601, 0.69, 0.701, 0.801)] == [0, 1, 0, 1, 1]
    pipe.put(bytes(100), 10.0)
    assert pipe.next_due() == pytest.approx(10.6)


def test_packets_beyond_the_queue_are_dropped_at_its_tail() -> None:
    pipe = Pipe(Conditions(delay_s=1.0), 0)
    packet = bytes(1 << 16)
    for _ in range(QUEUE_BYTES_MAX // len(packet) + 5):
        pipe.put(packet, 0.0)
    assert pipe.counts["overflowed"] == 5
    assert len(pipe.take(2.0)) == QUEUE_BYTES_MAX // len(packet)
    pipe.put(packet, 3.0)
    assert pipe.take(4.0) == [packet]


def survivors(seed: int, direction: int) -> list[bytes]:
    pipe = Pipe(Conditions(loss=0.3, seed=seed), direction)
    for number in range(1000):
        pipe.put(b"%d" % number, 0.0)
    got = pipe.take(0.0)
    assert len(got) + pipe.counts["lost"] == 1000
    return got


def test_losses_follow_the_seed_and_differ_by_direction(rng: random.Random) -> None:
    seed = rng.getrandbits(32)
    first = survivors(seed, 0)
    assert 550 < len(first) < 850
    assert survivors(seed, 0) == first
    assert survivors(seed, 1) != first
    assert survivors(seed + 1, 0) != first


def test_a_share_of_packets_comes_behind_others(rng: random.Random) -> None:
    pipe = Pipe(Conditions(delay_s=0.01, reorder=0.2, seed=rng.getrandbits(32)), 0)
    for number in range(100):
        pipe.put(bytes((number,)), 0.0)
    on_time = pipe.take(0.01)
    late = pipe.take(0.01 + REORDER_S)
    assert 0 < len(late) == pipe.counts["reordered"]
    assert sorted(on_time + late) == [bytes((number,)) for number in range(100)]
    assert on_time == sorted(on_time)


def test_a_shorter_delay_lets_nothing_overtake() -> None:
    pipe = Pipe(Conditions(delay_s=1.0), 0)
    pipe.put(b"a", 0.0)
    pipe.change(Conditions(delay_s=0.1))
    pipe.put(b"b", 0.5)
    assert pipe.take(0.9) == []
    assert pipe.take(1.0) == [b"a", b"b"]
