"""The failure detector: states, its doubt of itself, bounds."""

from __future__ import annotations

import random

import pytest

from rage_net import liveness
from rage_net.liveness import (
    GONE_S,
    HEALTH_MAX,
    HEARTBEAT_S,
    SUSPECT_S,
    TURN_S,
    Changed,
    Liveness,
    heartbeat_interval_s,
)

BEAT_S = 15.0


class World:
    """An observer that looks every second, and peers that beat."""

    def __init__(self, peers: int = 5) -> None:
        self.now = 100.0
        self.observer = Liveness(self.now)
        self.beating = {f"peer-{number}" for number in range(peers)}
        self.changes: list[Changed] = []
        self._next = dict.fromkeys(sorted(self.beating), self.now)

    def live(self, seconds: float, *, is_awake: bool = True) -> None:
        """Time passes; a stalled observer neither looks nor hears, and finds the beats that waited when it wakes."""
        until = self.now + seconds
        waiting = set()
        while self.now < until:
            self.now += TURN_S
            for peer in sorted(self.beating):
                if self._next[peer] <= self.now:
                    self._next[peer] = self.now + BEAT_S
                    if is_awake:
                        self.changes += self.observer.heard(peer, self.now)
                    else:
                        waiting.add(peer)
            if is_awake:
                self.changes += self.observer.turn(self.now)
        if not is_awake:
            self.changes += self.observer.turn(self.now)  # it looks before it reads: the worst order
            for peer in sorted(waiting):
                self.changes += self.observer.heard(peer, self.now)

    def states(self) -> dict[object, str]:
        return dict(self.observer)


def test_who_beats_is_alive() -> None:
    world = World()
    world.live(600)
    assert set(world.states().values()) == {"alive"} and not world.changes


def test_who_falls_silent_is_suspect_then_gone_and_comes_back() -> None:
    world = World()
    world.live(60)
    world.beating.discard("peer-0")
    world.live(SUSPECT_S + TURN_S)
    assert world.observer.state("peer-0") == "suspect"
    world.live(GONE_S - SUSPECT_S)
    assert world.observer.state("peer-0") == "gone"
    assert [state for peer, state in world.states().items() if peer != "peer-0"] == ["alive"] * 4
    world.beating.add("peer-0")
    world.live(BEAT_S)
    assert world.observer.state("peer-0") == "alive"
    assert [(change.before, change.after) for change in world.changes] == [
        ("alive", "suspect"),
        ("suspect", "gone"),
        ("gone", "alive"),
    ]


@pytest.mark.parametrize("stall_s", [5, 60, 300, 3600])
def test_an_observer_that_stalled_declares_nobody_dead(stall_s: float) -> None:
    world = World(50)
    world.live(60)
    world.live(stall_s, is_awake=False)
    world.live(120)
    assert not world.changes, "its own stall was nobody's silence"
    assert world.observer.health >= 1


def test_an_observer_that_stalls_again_and_again_declares_nobody_dead(rng: random.Random) -> None:
    world = World(20)
    for _ in range(200):
        world.live(rng.uniform(1, 20))
        world.live(rng.uniform(1, 40), is_awake=False)
    assert not [change for change in world.changes if change.after == "gone"]


def test_after_a_stall_the_dead_are_still_found() -> None:
    world = World()
    world.live(60)
    world.live(300, is_awake=False)
    world.beating.discard("peer-3")
    world.live(GONE_S * HEALTH_MAX + 10)
    assert world.observer.state("peer-3") == "gone"
    assert world.observer.health == 1, "it trusts itself again"


def test_an_observer_that_is_cut_off_waits_before_it_declares_the_world_dead() -> None:
    world = World(20)
    world.live(60)
    beating, world.beating = world.beating, set()
    world.live(GONE_S * 4)
    assert set(world.states().values()) == {"suspect"}
    world.beating = beating
    world.live(BEAT_S + TURN_S)
    assert set(world.states().values()) == {"alive"}
    world.beating = set()
    world.live(GONE_S * HEALTH_MAX + SUSPECT_S)
    assert set(world.states().values()) == {"gone"}, "in the end it must say something"


def test_a_broken_connection_is_a_doubt_and_never_a_death() -> None:
    world = World()
    world.live(30)
    assert world.observer.doubt("peer-1", world.now) == [Changed("peer-1", "alive", "suspect")]
    assert world.observer.doubt("peer-1", world.now) == []
    world.changes += world.observer.turn(world.now + 1)
    assert world.observer.state("peer-1") == "suspect"
    assert world.observer.probes(world.now + 1) == ["peer-1"]
    assert world.observer.probes(world.now + 2) == [], "one probe at a time"
    assert world.observer.heard("peer-1", world.now + 3) == [Changed("peer-1", "suspect", "alive")]
    assert world.observer.doubt("stranger", world.now) == [], "who was never heard is not known"


def test_failed_probes_of_one_who_hears_others_are_the_peers_fault_alone() -> None:
    world = World()
    world.live(60)
    for _ in range(10):
        world.observer.probe_failed("peer-2", world.now)
    assert world.observer.health == 1
    world.beating = set()
    world.live(SUSPECT_S)
    world.observer.probe_failed("peer-1", world.now)
    assert world.observer.health == 2, "who hears nobody doubts itself"


def test_probes_of_a_turn_and_peers_in_all_are_bounded() -> None:
    observer = Liveness(0.0, peers_max=100)
    for number in range(1000):
        observer.heard(number, 0.0)
    assert len(observer) == 100 and observer.state(999) == "alive" and observer.state(0) is None
    for number in range(900, 1000):
        observer.doubt(number, 1.0)
    assert len(observer.probes(1.0)) == liveness.PROBES_MAX
    observer.forget(999)
    assert observer.state(999) is None


def test_in_a_large_network_silence_means_less() -> None:
    assert heartbeat_interval_s(10) == HEARTBEAT_S and heartbeat_interval_s(3000) == 150.0
    world = World(5)
    world.observer.pace(heartbeat_interval_s(3000))
    world.live(30)
    world.beating.discard("peer-0")
    world.live(GONE_S * 3)
    assert world.observer.state("peer-0") == "alive", "it beats every 150 s"
    world.live(GONE_S * 8)
    assert world.observer.state("peer-0") == "gone"
    world.observer.pace(HEARTBEAT_S)
    assert world.observer.gone_s == GONE_S


def test_a_network_that_beats_seldom_is_not_gone_for_that() -> None:
    """Whoever makes up thousands of nodes slows every heartbeat down; he must not make the world look dead by it."""
    liveness, beat_s = Liveness(0.0), 200.0
    liveness.pace(beat_s)
    now = 0.0
    liveness.heard("near", now)
    for beat in range(5):
        liveness.heard("far", now)
        for _ in range(int(beat_s)):
            now += TURN_S
            liveness.heard("near", now)
            assert liveness.turn(now) == [], beat
    liveness.pace(1.0)
    assert (liveness.suspect_s, liveness.gone_s) == (SUSPECT_S, GONE_S)


def test_suspects_that_may_not_be_probed_take_nobodys_turn() -> None:
    liveness = Liveness(0.0)
    for number in range(1000):
        liveness.heard(number, 0.0)
        liveness.doubt(number, 0.0)
    liveness.heard("one", 0.0)
    liveness.doubt("one", 0.0)
    assert liveness.probes(1.0, lambda peer: peer == "one") == ["one"]
