"""The router, one rule after another: meshes, back-off, gossip, fan-out, scores. No network; time is a number."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from rage_net.libp2p.errors import LimitError
from rage_net.libp2p.gossipsub import (
    Delivered,
    Exchanged,
    Message,
    Params,
    Router,
    Rpc,
    ScoreParams,
    TopicScore,
    Verdict,
)
from rage_net.libp2p.gossipsub.outbox import OUTBOX_BYTES_MAX
from rage_net.libp2p.gossipsub.router import PROTOCOL_1_1, PROTOCOL_1_2, TOPICS_JOINED_MAX
from rage_net.libp2p.gossipsub.rpc import Have, Prune
from rage_net.libp2p.gossipsub.score import RETAINED_MAX, Scores
from rage_net.libp2p.peer_id import PeerId

TOPIC = "rage.global"
EPOCH_S = 1_800_000_000.0


def make_id(n: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + n.to_bytes(32))


class Bench:
    """A router, its clock, and peers that are numbers."""

    def __init__(self, rng: random.Random, params: Params | None = None, **more: Any) -> None:
        self.now = 0.0
        self.sequence = 0
        more.setdefault("check", lambda message: None)
        self.router = Router(make_id(0), params or Params(), random=rng, sign=lambda raw: b"signed", **more)

    def add(self, *numbers: int, outbound: bool = True, joins: bool = True, protocol: str = PROTOCOL_1_2) -> None:
        for n in numbers:
            self.router.add_peer(make_id(n), f"host{n}", is_outbound=outbound, protocol=protocol)
            if joins:
                self.say(n, subscriptions=((TOPIC, True),))

    def say(self, n: int, **parts: Any) -> list[Any]:
        return self.router.receive(make_id(n), Rpc(**parts), self.now, EPOCH_S + self.now)

    def told(self, n: int) -> Rpc:
        """All that was said to a peer since the last time, as one."""
        parts: dict[str, tuple[Any, ...]] = {}
        while (rpc := self.router.take(make_id(n))) is not None:
            for field in dataclasses.fields(Rpc):
                parts[field.name] = parts.get(field.name, ()) + getattr(rpc, field.name)
        return Rpc(**parts)

    def beat(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 1
            self.router.heartbeat(self.now)

    def message(self, author: int, data: bytes = b"data", topic: str = TOPIC) -> Message:
        self.sequence += 1
        sequence = int((EPOCH_S + self.now) * 1e9) + self.sequence
        return Message(topic, data, make_id(author).multihash, sequence.to_bytes(8), b"signed")

    def mesh(self) -> list[PeerId]:
        return [peer.id for peer in self.router.mesh.members(TOPIC)]

    def score(self, n: int) -> float:
        return self.router.scores.score(make_id(n))


@pytest.fixture
def bench(rng: random.Random) -> Bench:
    return Bench(rng)


# -- meshes -----------------------------------------------------------------------------------------------------------


def test_a_new_peer_is_told_our_topics_and_a_join_and_a_leave_are_told_to_all(bench: Bench) -> None:
    bench.router.join("first", 0)
    bench.add(1)
    assert bench.told(1).subscriptions == (("first", True),)
    bench.router.join(TOPIC, 0)
    told = bench.told(1)
    assert told.subscriptions == ((TOPIC, True),) and told.graft == (TOPIC,)
    bench.router.leave(TOPIC, 0)
    told = bench.told(1)
    assert told.subscriptions == ((TOPIC, False),) and told.prune == (Prune(TOPIC, (), 10),)
    assert bench.router.topics() == ["first"]


def test_a_join_grafts_d_peers_and_a_heartbeat_fills_what_is_missing(bench: Bench) -> None:
    bench.add(*range(1, 21))
    bench.router.join(TOPIC, 0)
    assert len(bench.mesh()) == 6
    assert all(bench.told(n).graft == ((TOPIC,) if make_id(n) in bench.mesh() else ()) for n in range(1, 21))
    for id in bench.mesh()[:3]:
        bench.router.remove_peer(id, bench.now)
    bench.beat()
    assert len(bench.mesh()) == 6


def test_a_mesh_that_is_too_large_keeps_the_best_and_enough_that_we_dialled(rng: random.Random) -> None:
    loved = {make_id(n): 10.0 for n in (3, 5, 7, 9)}
    bench = Bench(rng, app_score=lambda peer: loved.get(peer, 0.0))
    bench.router.join(TOPIC, 0)
    bench.add(*range(1, 13), outbound=False)
    bench.add(13, 14)
    for n in range(1, 15):
        bench.say(n, graft=(TOPIC,))
    assert len(bench.mesh()) == 14  # the last two are outbound and taken in beyond d_high
    bench.beat()
    mesh = bench.mesh()
    assert len(mesh) == 6 and set(loved) <= set(mesh) and {make_id(13), make_id(14)} <= set(mesh)
    (prune,) = bench.told(next(n for n in range(1, 13) if make_id(n) not in mesh)).prune
    assert prune.backoff_s == 60 and 0 < len(prune.peers) <= 13


def test_a_full_mesh_takes_no_more_of_those_who_dialled_us_and_names_others(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(*range(1, 14), outbound=False)
    for n in range(1, 14):
        bench.say(n, graft=(TOPIC,))
    assert len(bench.mesh()) == 12
    (prune,) = bench.told(13).prune
    assert len(prune.peers) == 12 and make_id(13).multihash not in prune.peers


def test_a_mesh_without_peers_that_we_dialled_gets_some(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(*range(1, 7), outbound=False)
    for n in range(1, 7):
        bench.say(n, graft=(TOPIC,))
    bench.add(7, 8, 9)
    bench.beat()
    assert len(set(bench.mesh()) & {make_id(n) for n in (7, 8, 9)}) == 2


def test_nobody_grafts_during_back_off_and_everyone_may_after_it(bench: Bench) -> None:
    bench.add(1)
    bench.router.join(TOPIC, 0)
    bench.say(1, prune=(Prune(TOPIC, (), 20),))
    bench.beat(21)
    assert bench.mesh() == []
    bench.beat(2)  # 20 s, and our slack
    assert bench.mesh() == [make_id(1)]


def test_a_graft_in_back_off_is_pruned_and_counts_twice_soon_after_the_prune(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1)
    bench.say(1, graft=(TOPIC,))
    bench.say(1, prune=(Prune(TOPIC),))
    bench.told(1)
    bench.now += 30
    bench.say(1, graft=(TOPIC,))  # late: one; the back-off begins anew
    assert bench.told(1).prune == (Prune(TOPIC, (), 60),)
    bench.now += 1
    bench.say(1, graft=(TOPIC,))  # soon: two
    record = bench.router.scores._records[make_id(1)]
    assert record.behaviour == 3 and bench.mesh() == []
    bench.now += 61
    bench.say(1, graft=(TOPIC,))
    assert bench.mesh() == [make_id(1)]


def test_a_peer_of_negative_score_leaves_the_mesh_and_is_named_nobody(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1, 2, 3)
    bench.beat()
    assert make_id(1) in bench.mesh()
    bench.told(1)
    bench.router.penalise(make_id(1), 10)
    bench.beat()
    assert make_id(1) not in bench.mesh()
    assert bench.told(1).prune == (Prune(TOPIC, (), 60),)


def test_peers_of_a_prune_are_told_to_the_host_when_the_pruner_is_trusted(rng: random.Random) -> None:
    bench = Bench(rng, app_score=lambda peer: 10.0)
    bench.router.join(TOPIC, 0)
    bench.add(1, 2)
    named = tuple(make_id(n).multihash for n in (2, 3, 3))
    events = bench.say(1, prune=(Prune(TOPIC, named, 60),))
    assert events == [Exchanged(TOPIC, (make_id(3),), make_id(1))], "one of them is connected, one is named twice"


def test_a_poor_mesh_takes_in_better_peers_once_a_minute(rng: random.Random) -> None:
    good = {make_id(n) for n in (20, 21, 22)}
    bench = Bench(rng, app_score=lambda peer: 5.0 if peer in good else 0.0)
    bench.router.join(TOPIC, 0)
    bench.add(*range(1, 7))
    bench.beat()
    bench.add(20, 21, 22)
    bench.beat(58)
    assert not good & set(bench.mesh())
    bench.beat(3)
    assert len(good & set(bench.mesh())) == 2


# -- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_is_delivered_once_and_passed_on_to_the_mesh_but_not_back(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1, 2, 3, 4)
    bench.beat()
    message = bench.message(4)
    assert bench.say(1, messages=(message,)) == [Delivered(message, make_id(1))]
    assert bench.say(2, messages=(message,)) == []
    assert [bench.told(n).messages for n in (1, 2, 3, 4)] == [(), (message,), (message,), ()]
    assert bench.router.topic_counts[TOPIC] == {"received": 1, "duplicates": 1}


@pytest.mark.parametrize("verdict", [Verdict.IGNORE, Verdict.REJECT])
def test_what_the_host_does_not_accept_is_not_passed_on_and_a_reject_is_remembered(
    rng: random.Random, verdict: Verdict
) -> None:
    bench = Bench(rng, judge=lambda peer, message: verdict)
    bench.router.join(TOPIC, 0)
    bench.add(1, 2)
    bench.beat()
    message = bench.message(3)
    assert bench.say(1, messages=(message,)) == bench.say(2, messages=(message,)) == []
    assert not bench.told(1).messages and not bench.told(2).messages
    assert (bench.score(1) < 0) == (bench.score(2) < 0) == (verdict is Verdict.REJECT)


def test_our_own_go_to_all_of_the_topic_with_flood_publishing_and_to_the_mesh_without(rng: random.Random) -> None:
    for flood, count in ((True, 20), (False, 6)):
        bench = Bench(rng, Params(flood_publish=flood))
        bench.router.join(TOPIC, 0)
        bench.add(*range(1, 21))
        bench.beat()
        message, sent = bench.router.publish(TOPIC, b"ours", bench.now, EPOCH_S)
        assert sent == count == sum(message in bench.told(n).messages for n in range(1, 21))


def test_own_sequence_numbers_grow_though_the_wall_clock_stands_still_or_goes_back(bench: Bench) -> None:
    numbers = [bench.router.publish(TOPIC, b"", 0, EPOCH_S - n)[0].sequence for n in range(3)]
    assert numbers == sorted(set(numbers))


def test_a_topic_that_we_have_not_joined_is_published_to_the_same_peers_for_a_minute(rng: random.Random) -> None:
    bench = Bench(rng, Params(flood_publish=False))
    bench.add(*range(1, 21))
    groups = []
    for _ in range(2):
        message, sent = bench.router.publish(TOPIC, b"ours", bench.now, EPOCH_S + bench.now)
        assert sent == 6
        groups.append([n for n in range(1, 21) if message in bench.told(n).messages])
        bench.beat(10)
    assert groups[0] == groups[1]
    bench.router.join(TOPIC, bench.now)
    assert {make_id(n) for n in groups[0]} == set(bench.mesh())
    bench.router.leave(TOPIC, bench.now)
    bench.router.publish(TOPIC, b"ours", bench.now, EPOCH_S + bench.now)
    bench.beat(61)
    assert bench.router._fanout == {}


def test_a_publisher_below_the_threshold_is_not_published_to_and_the_graylisted_is_not_heard(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1)
    bench.router.penalise(make_id(1), 8.5)
    assert -80 < bench.score(1) < -50
    assert bench.router.publish(TOPIC, b"ours", 0, EPOCH_S)[1] == 0
    assert bench.say(1, messages=(bench.message(2),)) != []
    bench.router.penalise(make_id(1), 2)
    assert bench.say(1, messages=(bench.message(2),)) == []


def test_topics_that_we_join_are_limited(bench: Bench) -> None:
    for n in range(TOPICS_JOINED_MAX):
        bench.router.join(f"topic{n}", 0)
    with pytest.raises(LimitError):
        bench.router.join("one more", 0)
    with pytest.raises(ValueError, match="name"):
        bench.router.join("", 0)


# -- whom a topic is for ----------------------------------------------------------------------------------------------


def test_a_peer_that_may_not_join_is_told_nothing_of_a_topic_and_not_heard_on_it(rng: random.Random) -> None:
    members = {make_id(1)}
    bench = Bench(rng, Params(flood_publish=True), may_join=lambda peer, topic: peer in members or topic == "open")
    bench.router.join(TOPIC, 0)
    bench.router.join("open", 0)
    bench.add(1, 2)
    bench.beat()
    message, sent = bench.router.publish(TOPIC, b"secret", bench.now, EPOCH_S)
    assert sent == 1
    bench.beat(3)
    bench.say(2, graft=(TOPIC,), want=(message.id,), have=(Have(TOPIC, (b"x" * 44,)),), messages=(bench.message(2),))
    told = bench.told(2)
    assert told == Rpc(subscriptions=(("open", True),)), told
    assert bench.mesh() == [make_id(1)]
    members.add(make_id(2))
    bench.router.reconsider(make_id(2), bench.now)
    assert bench.told(2).subscriptions == ((TOPIC, True),)
    bench.say(2, graft=(TOPIC,))
    assert make_id(2) in bench.mesh()
    members.remove(make_id(2))
    bench.router.reconsider(make_id(2), bench.now)
    assert bench.told(2).subscriptions == ((TOPIC, False),) and bench.mesh() == [make_id(1)]


# -- gossip -----------------------------------------------------------------------------------------------------------


def test_peers_outside_the_mesh_hear_of_messages_and_get_what_they_ask_for(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(*range(1, 31))
    bench.beat()
    message = bench.message(31)
    bench.say(1, messages=(message,))
    for n in range(1, 31):
        bench.told(n)
    bench.beat()
    outside = [n for n in range(1, 31) if make_id(n) not in bench.mesh()]
    heard = [n for n in outside if bench.told(n).have == (Have(TOPIC, (message.id,)),)]
    assert len(heard) == 6 and all(not bench.told(n).have for n in range(1, 31))
    for times in range(4):
        bench.say(heard[0], want=(message.id,))
        assert bench.told(heard[0]).messages == ((message,) if times < 3 else ())
    bench.beat(5)
    bench.say(heard[1], want=(message.id,))
    assert bench.told(heard[1]).messages == (), "it is gone after five heartbeats"


def test_what_we_lack_is_asked_for_once_and_a_promise_that_is_not_kept_is_penalised(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1, 2)
    bench.beat()
    kept, broken = bench.message(3), bench.message(3)
    bench.told(1)
    bench.say(1, have=(Have(TOPIC, (kept.id,)), Have(TOPIC, (broken.id,)), Have("unknown", (b"x",))))
    assert bench.told(1).want == (kept.id, broken.id)
    bench.say(2, messages=(kept,))
    bench.beat(4)
    assert bench.router.counts["promises_broken"] == 1
    bench.say(1, have=(Have(TOPIC, (kept.id,)),))
    assert bench.told(1).want == (), "we have it"


def test_a_large_message_is_not_sent_to_who_says_it_has_it(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1, 2, 3)
    bench.add(4, protocol=PROTOCOL_1_1)
    bench.beat()
    large, small = bench.message(5, bytes(2000)), bench.message(5)
    bench.say(2, unwanted=(large.id,))
    for n in range(1, 5):
        bench.told(n)
    bench.say(1, messages=(large, small))
    assert [bench.told(n).unwanted for n in (1, 4)] == [(), ()]
    told = bench.told(3)
    assert told.unwanted == (large.id,) and told.messages == (large, small)
    assert bench.told(2).messages == (small,)
    queued = bench.message(5, bytes(2000))
    bench.say(1, messages=(queued,))
    bench.say(3, unwanted=(queued.id,))
    assert bench.told(3).messages == (), "it was still waiting, and is taken back"


def test_a_slow_peer_loses_gossip_first_then_what_was_passed_on_then_our_own(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1, 2)
    bench.beat()
    outbox = bench.router.peers.get(make_id(1)).outbox  # type: ignore[union-attr]
    bench.told(1)
    outbox.have(TOPIC, [n.to_bytes(8) for n in range(100)])
    own = [bench.router.publish(TOPIC, bytes(60_000), bench.now, EPOCH_S)[0] for _ in range(4)]
    passed = [bench.message(3, bytes(60_000)) for _ in range(20)]
    for message in passed:
        bench.say(2, messages=(message,))
    assert outbox.bytes <= OUTBOX_BYTES_MAX
    assert bench.router.counts["dropped_gossip"] >= 100
    outbox.graft(TOPIC)
    told = bench.told(1)
    assert told.have == () and told.graft == (TOPIC,)
    assert set(own) < set(told.messages), "ours are all there, and so are the last that were passed on"
    assert passed[-1] in told.messages and passed[0] not in told.messages


def test_a_new_stream_is_told_everything_again(bench: Bench) -> None:
    bench.router.join(TOPIC, 0)
    bench.add(1)
    bench.beat()
    bench.told(1)
    bench.router.renew_peer(make_id(1), bench.now)
    told = bench.told(1)
    assert told.subscriptions == ((TOPIC, True),) and told.graft == (TOPIC,)


# -- scores -----------------------------------------------------------------------------------------------------------


class Scored:
    def __init__(self, **params: Any) -> None:
        self.scores = Scores(ScoreParams(**params))
        self.now = 0.0
        self.peer = make_id(1)
        self.scores.add(self.peer, "host")

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.scores.decay(self.now)

    def __call__(self) -> float:
        return self.scores.score(self.peer)


def test_time_in_the_mesh_and_first_deliveries_are_worth_something_up_to_a_cap() -> None:
    score = Scored(topic=TopicScore(mesh_time_weight=0.1, mesh_time_cap=20, first_weight=1, first_cap=5))
    score.scores.graft(score.peer, TOPIC, 0)
    score.wait(10)
    assert score() == pytest.approx(1.0)
    score.wait(90)
    assert score() == pytest.approx(2.0)
    for _ in range(50):
        score.scores.deliver(score.peer, TOPIC, is_first=True)
    assert score() == pytest.approx(7.0)
    score.scores.prune(score.peer, TOPIC)
    assert score() == pytest.approx(5.0)
    score.wait(2000)
    assert score() == 0


def test_a_mesh_peer_that_delivers_too_little_pays_for_it_and_longer_after_a_prune() -> None:
    topic = TopicScore(
        mesh_time_weight=0, rate_weight=-1, rate_threshold=4, rate_activation_s=5, failure_weight=-1, failure_decay=0.5
    )
    score = Scored(topic=topic)
    score.scores.graft(score.peer, TOPIC, 0)
    score.wait(5)
    assert score() == 0
    score.wait(1)
    assert score() == -16
    for _ in range(2):
        score.scores.deliver(score.peer, TOPIC, is_first=False)
    assert score() == -4
    score.scores.prune(score.peer, TOPIC)
    assert score() == -4
    score.wait(1)
    assert score() == -2


def test_invalid_messages_count_by_the_square() -> None:
    score = Scored()
    marks = []
    for _ in range(3):
        score.scores.reject(score.peer, TOPIC)
        marks.append(score())
    assert marks == [-20, -80, -180]


def test_the_hosts_opinion_and_good_deeds_add_up_to_a_cap() -> None:
    scores = Scores(ScoreParams(topics_cap=3, app_weight=2, topic=TopicScore(first_weight=1)), lambda peer: -4.0)
    scores.add(make_id(1), "host")
    for _ in range(30):
        scores.deliver(make_id(1), TOPIC, is_first=True)
    assert scores.score(make_id(1)) == 3 - 8


def test_a_crowd_at_one_address_pays_by_the_square_but_not_at_home() -> None:
    for host, expected in (("203.0.113.7", -0.4), ("127.0.0.1", 0.0)):
        scores = Scores(ScoreParams())
        for n in range(18):
            scores.add(make_id(n), host)
        assert scores.score(make_id(5)) == pytest.approx(expected)
        for n in range(2):
            scores.remove(make_id(n), 0)
        assert scores.score(make_id(5)) == 0


def test_misbehaviour_is_borne_a_little_then_counts_by_the_square_and_fades() -> None:
    score = Scored()
    score.scores.penalise(score.peer, 6)
    assert score() == 0
    score.scores.penalise(score.peer, 2)
    assert score() == -40
    score.wait(60)
    assert score() == 0


def test_who_hangs_up_finds_the_score_as_it_was_until_it_is_forgotten() -> None:
    score = Scored()
    score.scores.penalise(score.peer, 8)
    score.scores.remove(score.peer, score.now)
    score.wait(300)
    score.scores.add(score.peer, "host")
    assert score() == -40
    score.scores.remove(score.peer, score.now)
    score.wait(601)
    score.scores.add(score.peer, "host")
    assert score() == 0


def test_scores_of_those_who_left_are_bounded() -> None:
    scores = Scores(ScoreParams())
    for n in range(RETAINED_MAX + 100):
        scores.add(make_id(n), "host")
        scores.remove(make_id(n), 0)
    assert len(scores) == RETAINED_MAX and scores._hosts == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"gossip_threshold": 1.0},
        {"graylist_threshold": -1.0},
        {"behaviour_weight": 1.0},
        {"topic": TopicScore(invalid_weight=1)},
    ],
)
def test_parameters_that_would_reward_harm_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"thresholds|weights"):
        ScoreParams(**wrong)
