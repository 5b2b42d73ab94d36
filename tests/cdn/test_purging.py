from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from rage_net.cdn.holdings import Exposed, Owed
from rage_net.cdn.journal import LEASE_S, Asked, Journal
from rage_net.cdn.plan import Planned, Target, Word
from rage_net.cdn.provider import Abilities, Item, Kind, Quota, Verdict
from rage_net.env import SystemEnv
from rage_net.errors import ConfigError, NotFoundError, StorageFullError
from rage_net.services.purging import SENDERS, Purging, Wish
from tests.cdn.scripted import ACCEPTED, Scripted

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def env():
    env = SystemEnv()
    yield env
    env.close()


def tags(*names: str) -> tuple[Target, ...]:
    return tuple(Target(name, ((Item("tag", name),),)) for name in names)


def wish(id: str, *names: str, **more) -> Wish:
    return Wish(id, tags(*names), "a test", **more)


@asynccontextmanager
async def working(purging: Purging):
    task = asyncio.create_task(purging.work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def by_state(states):
    return {(it.provider, it.edge, it.state): it.words for it in states}


async def test_a_purge_goes_out_in_the_fewest_calls(env):
    provider = Scripted()
    purging = Purging(Journal(None), [provider], env)
    await purging.ask(wish("1", *(f"t{n}" for n in range(65))))
    async with working(purging):
        states = await purging.wait("1", 10, to_the_end=True)
    assert by_state(states) == {("scripted", "", "accepted"): 65}
    assert [len(call.words) for call in sorted(provider.calls, key=lambda call: -len(call.words))] == [30, 30, 5]
    assert len({call.reference for call in provider.calls}) == 3


async def test_what_two_ask_at_once_is_sent_once(env):
    provider = Scripted()
    purging = Purging(Journal(None), [provider], env)
    await purging.ask(wish("1", "a", "b"))
    await purging.ask(wish("2", "b", "c"))
    assert not purging.journal.ask(Asked("2", 0.0, "manual", ""), [])
    async with working(purging):
        await purging.wait("1", 10, to_the_end=True)
        states = await purging.wait("2", 10, to_the_end=True)
    assert sorted(word for call in provider.calls for word in call.words) == ["a", "b", "c"]
    assert by_state(states) == {("scripted", "", "accepted"): 2}


async def test_what_was_sent_before_is_sent_again_for_who_asks_later(env):
    provider = Scripted()
    purging = Purging(Journal(None), [provider], env)
    async with working(purging):
        for id in "12":
            await purging.ask(wish(id, "a"))
            await purging.wait(id, 10, to_the_end=True)
    assert [call.words for call in provider.calls] == [("a",), ("a",)]


async def test_one_that_fails_stops_no_other_and_one_that_is_away_is_told_later(env):
    bad = Scripted("bad", answer=lambda call: Verdict("failed", reason="no rights", code="cdn-forbidden"))
    edges = Scripted("edges", edges=("one", "two"))
    edges.answer = lambda call: (
        Verdict("queued", reason="refused", code="cdn-unreachable", retry_after_s=60)
        if call.edge == "two"
        else Verdict("done", count=1)
    )
    purging = Purging(Journal(None), [bad, edges, Scripted("good")], env)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        states = await purging.wait("1", 10, to_the_end=False)
    assert by_state(states) == {
        ("bad", "", "failed"): 1,
        ("edges", "one", "done"): 1,
        ("edges", "two", "queued"): 1,
        ("good", "", "accepted"): 1,
    }
    assert next(it for it in states if it.edge == "one").objects == 1


async def test_who_waits_for_the_first_answers_does_not_take_a_call_under_way_for_one(env):
    under_way, answer = asyncio.Event(), asyncio.Event()

    class Slow(Scripted):
        async def purge(self, call):
            under_way.set()
            await answer.wait()
            return await super().purge(call)

    purging = Purging(Journal(None), [Slow()], env)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        await under_way.wait()
        waiting = asyncio.create_task(purging.wait("1", 10, to_the_end=False))
        assert (await purging.wait("1", 0.01, to_the_end=False))[0].tries == 1
        await asyncio.sleep(0)
        assert not waiting.done()
        answer.set()
        assert by_state(await waiting) == {("scripted", "", "accepted"): 1}


async def test_what_is_asked_while_a_call_is_under_way_at_the_same_edge_does_not_wait_for_its_answer(env):
    under_way = asyncio.Event()

    class Slow(Scripted):
        async def purge(self, call):
            if "slow" in call.words:
                under_way.set()
                await asyncio.Event().wait()
            return await super().purge(call)

    class Counting(Journal):
        looks = 0

        def take(self, *args):
            try:
                return super().take(*args)
            finally:
                self.looks += 1

    journal = Counting(None)
    purging = Purging(journal, [Slow()], env)
    await purging.ask(wish("1", "slow"))
    async with working(purging):
        await under_way.wait()
        while journal.looks < SENDERS:  # the others found nothing
            await asyncio.sleep(0)
        await purging.ask(wish("2", "a"))
        assert by_state(await purging.wait("2", 10, to_the_end=True)) == {("scripted", "", "accepted"): 1}


async def test_a_process_that_dies_before_the_answer_sends_the_same_call_again(env, tmp_path):
    journal = Journal(tmp_path / "purges.db")
    provider = Scripted()
    purging = Purging(journal, [provider], env)
    await purging.ask(wish("1", "a", "b"))
    taken = journal.take("scripted", "", provider.abilities, time.time())
    assert taken.call is not None
    journal.close()  # as kill -9 leaves it: sent, and nothing heard
    again = Purging(Journal(tmp_path / "purges.db"), [provider], env)
    async with working(again):
        states = await again.wait("1", 10, to_the_end=True)
    assert [replace(call) for call in provider.calls] == [taken.call]
    assert states[0].tries == 2 and states[0].state == "accepted"
    again.journal.close()


async def test_pending_is_asked_after_until_it_is_done(env):
    answers = [Verdict("pending", id="I1", retry_after_s=0), Verdict("done", id="I1")]
    provider = Scripted(
        answer=lambda call: Verdict("pending", id="I1", retry_after_s=0), later=lambda id: answers.pop(0)
    )
    purging = Purging(Journal(None), [provider], env)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        states = await purging.wait("1", 10, to_the_end=True)
    assert not answers and states[0].state == "done" and states[0].vendor_id == "I1"


async def test_a_call_that_is_too_large_goes_in_halves(env):
    provider = Scripted()
    provider.answer = lambda call: (
        ACCEPTED if len(call.words) <= 3 else Verdict("queued", is_too_large=True, code="cdn-rejected")
    )
    purging = Purging(Journal(None), [provider], env)
    await purging.ask(wish("1", *(f"t{n}" for n in range(10))))
    async with working(purging):
        states = await purging.wait("1", 10, to_the_end=True)
    assert by_state(states) == {("scripted", "", "accepted"): 10}
    assert sorted(len(call.words) for call in provider.calls if len(call.words) <= 3) == [2, 2, 3, 3]


async def test_tries_end_where_the_verdict_says_so(env):
    provider = Scripted(
        answer=lambda call: Verdict("queued", retry_after_s=0, tries_max=3, code="cdn-credentials", reason="401")
    )
    purging = Purging(Journal(None), [provider], env)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        states = await purging.wait("1", 10, to_the_end=True)
    assert len(provider.calls) == 3 and states[0].state == "failed" and states[0].reason == "401"


def test_a_quota_holds_over_processes(tmp_path):
    abilities = Abilities({"tag": 1}, quotas={"tag": ("tags", Quota(1, 2))})
    taken = []
    for step in range(8):
        journal = Journal(tmp_path / "purges.db")
        if not step:
            from rage_net.cdn.plan import plan

            provider = Scripted(abilities=abilities)
            journal.ask(Asked("1", 0.0, "manual", ""), [(plan(provider, tags(*"abcdefgh"), soft=False), ("",))])
        now = 1000 + step * 0.5
        found = journal.take("scripted", "", abilities, now)
        if found.call is None:
            assert found.due_at is not None and now < found.due_at <= now + 1
        else:
            taken.append(step)
            journal.settle(found.call.reference, ACCEPTED, now)
        journal.close()
    assert taken == [0, 1, 3, 5, 7]  # of two at once half is kept for jitter, then one a second


def planned(*words: Word) -> list[tuple[Planned, Sequence[str]]]:
    return [(Planned("scripted", words, frozenset(), 1, 0.0), ("",))]


def test_what_waits_for_tokens_holds_up_nothing_that_spends_others_but_whatever_spends_the_same():
    tags_, urls, empty = Quota(0.01, 1), Quota(1000, 1000, "words"), Verdict("queued", code="cdn-busy")
    abilities = Abilities({"tag": 1, "prefix": 1, "url": 9}, quotas={"tag": ("t", tags_), "url": ("u", urls)})
    journal = Journal(None)
    journal.ask(Asked("1", 0.0, "manual", ""), planned(Word("tag", "a"), Word("tag", "b")))
    first = journal.take("scripted", "", abilities, 100.0)
    assert first.call is not None and journal.take("scripted", "", abilities, 100.0).due_at == 200.0
    journal.ask(Asked("2", 0.0, "manual", ""), planned(Word("url", "https://cdn.example.org/chunks/a")))
    by_url = journal.take("scripted", "", abilities, 100.0)
    assert by_url.call is not None and by_url.call.kind == "url"
    journal.settle(by_url.call.reference, ACCEPTED, 100.0)
    journal.settle(first.call.reference, empty, 100.0)
    journal.ask(Asked("3", 0.0, "manual", ""), planned(Word("prefix", "/chunks/")))
    by_prefix = journal.take("scripted", "", abilities, 100.0)
    assert by_prefix.call is not None and by_prefix.call.kind == "prefix", "what is sent again waits, too"
    journal.settle(by_prefix.call.reference, ACCEPTED, 100.0)
    assert journal.take("scripted", "", abilities, 200.0).call == first.call
    assert journal.take("scripted", "", abilities, 200.0).due_at == 300.0


def test_a_large_call_that_waits_for_tokens_is_overtaken_by_no_small_one():
    abilities = Abilities({"tag": 4, "host": 1}, quotas=dict.fromkeys(("tag", "host"), ("all", Quota(1, 4.5, "words"))))
    journal = Journal(None)
    journal.ask(Asked("1", 0.0, "manual", ""), planned(*(Word("tag", f"t{at}") for at in range(4))))
    large = journal.take("scripted", "", abilities, 100.0)
    assert large.call is not None
    journal.settle(large.call.reference, Verdict("queued", code="cdn-busy"), 100.0)
    journal.ask(Asked("2", 0.0, "manual", ""), planned(*(Word("host", f"h{at}") for at in range(9))))
    for at in range(101, 104):
        assert journal.take("scripted", "", abilities, float(at)).due_at == 104.0
    assert journal.take("scripted", "", abilities, 104.0).call == large.call


def test_a_clock_that_was_set_back_holds_up_neither_a_call_nor_the_question_for_its_end():
    abilities, journal = Abilities({"tag": 1}), Journal(None)
    journal.ask(Asked("1", 0.0, "manual", ""), planned(Word("tag", "a"), Word("tag", "b")))
    for verdict in (Verdict("queued", code="cdn-busy"), Verdict("pending", id="I1")):
        taken = journal.take("scripted", "", abilities, 10_000.0)
        assert taken.call is not None
        journal.settle(taken.call.reference, verdict, 10_000.0, retry_in_s=300)
    assert journal.take("scripted", "", abilities, 10_000.0).call is None
    assert not journal.pending("scripted", 10_000.0)
    assert journal.take("scripted", "", abilities, 6400.0).call is not None
    assert [vendor_id for *_, vendor_id, _ in journal.pending("scripted", 6400.0)] == ["I1"]


def test_a_lease_that_is_over_frees_the_call():
    journal, abilities = Journal(None), Abilities({"tag": 10})
    from rage_net.cdn.plan import plan

    journal.ask(Asked("1", 0.0, "manual", ""), [(plan(Scripted(), tags("a"), soft=False), ("",))])
    first = journal.take("scripted", "", abilities, 100.0)
    assert journal.take("scripted", "", abilities, 101.0).due_at == 100.0 + LEASE_S
    again = journal.take("scripted", "", abilities, 101.0 + LEASE_S)
    assert again.call == first.call and again.tries == 2


def test_the_same_purge_has_another_reference_after_its_first_was_forgotten_and_in_another_home():
    from rage_net.cdn.plan import plan

    abilities, planned = Abilities({"tag": 10}), plan(Scripted(), tags("a"), soft=False)

    def call(journal: Journal, id: str, now: float):
        journal.ask(Asked(id, now, "narrowed", ""), [(planned, ("",))])
        taken = journal.take("scripted", "", abilities, now)
        assert taken.call is not None
        journal.settle(taken.call.reference, ACCEPTED, now)
        return taken.call

    journal, month = Journal(None), 40 * 86_400.0
    first = call(journal, "1", 1.0)
    assert journal.prune(month) == 1
    later, elsewhere = call(journal, "2", month), call(Journal(None), "1", month + 1)
    assert first.words == later.words == elsewhere.words
    assert len({it.reference for it in (first, later, elsewhere)}) == 3, "or a vendor takes them for a repetition"


async def test_a_provider_that_lost_an_ability_fails_what_it_cannot_do(env, tmp_path):
    journal = Journal(tmp_path / "purges.db")
    await Purging(journal, [Scripted()], env).ask(wish("1", "a"))
    changed = Purging(journal, [Scripted(abilities=Abilities({"url": 1}))], env)
    async with working(changed):
        states = await changed.wait("1", 10, to_the_end=True)
    assert states[0].state == "failed" and states[0].code == "cdn-config"
    journal.close()


async def test_no_provider_and_an_unknown_one_are_errors(env):
    with pytest.raises(ConfigError):
        await Purging(Journal(None), [], env).ask(wish("1", "a"))
    with pytest.raises(NotFoundError, match="nowhere"):
        await Purging(Journal(None), [Scripted()], env).ask(wish("1", "a", only=("nowhere",)))


def test_what_ended_long_ago_is_forgotten_and_what_is_open_is_not():
    from rage_net.cdn.plan import plan

    journal, abilities = Journal(None), Abilities({"tag": 10})
    for id in "12":
        journal.ask(Asked(id, float(id), "manual", ""), [(plan(Scripted(), tags(id), soft=False), ("",))])
        if id == "1":
            taken = journal.take("scripted", "", abilities, 1.0)
            assert taken.call is not None
            journal.settle(taken.call.reference, ACCEPTED, 1.0)
    assert journal.prune(40 * 86_400.0) == 1
    assert [it.id for it in journal.newest(10)] == ["2"] and journal.states("1") == []
    assert journal.open_words("scripted", "") == 1


def test_a_purge_that_took_minutes_is_as_old_as_its_call():
    """Or what readers fetched before its end was heard of would be taken for what it had left."""
    journal, able = Journal(None), Abilities({"tag": 1}, answer="pending")
    journal.ask(Asked("1", 1.0, "manual", ""), [(Planned("one", (Word("tag", "a"),), frozenset(), 1, 0.0), ("",))])
    call = journal.take("one", "", able, 10.0).call
    journal.settle(call.reference, Verdict("pending", id="I1"), 11.0, retry_in_s=2.0)
    journal.settle(call.reference, Verdict("done", id="I1"), 600.0)
    (standing,) = journal.states("1")
    assert (standing.state, standing.sent_at) == ("done", 10.0)


def test_what_settles_something_that_is_owed_is_not_forgotten():
    journal = Journal(None)
    for id in ("o1", "o1-buckets", "o1-again", "o2"):
        journal.ask(Asked(id, 0.0, "narrowed", ""), [])
    owed = Owed("o1", Exposed("d", "acme", "r"), "narrowed", (), 0.0, provider="one", step=2, purge="o1-again")
    journal.holdings.turn([], [owed])
    assert journal.prune(40 * 86_400.0) == 1
    assert [journal.find(id) is not None for id in ("o1", "o1-buckets", "o1-again", "o2")] == [True, True, True, False]


async def test_what_is_open_on_an_edge_that_left_cdn_yaml_ends_as_failed_and_is_purged_when_it_is_back(env):
    both = Scripted(edges=("a", "b"), answer=lambda call: Verdict("queued", code="cdn-unreachable", reason="away"))
    purging = Purging(Journal(None), [both], env)
    await purging.ask(wish("1", "sent"))
    async with working(purging):
        await purging.wait("1", 10, to_the_end=False)
    await purging.ask(wish("2", "unsent"))
    journal = purging.journal
    assert journal.leave({("scripted", "a"), ("other", "b")}, env.now()) == 2
    for id in ("1", "2"):
        states = {it.edge: it for it in journal.states(id)}
        assert (states["a"].state, states["b"].state) == ("queued", "failed")
        assert (states["b"].code, states["b"].reason) == ("cdn-config", "scripted b is in cdn.yaml no more")
    assert journal.leave(purging.edges(), env.now()) == 0, "those that are there go on"

    back = Scripted(edges=("a", "b"))
    purging = Purging(journal, [back], env)
    assert await purging.ask_again("3", "again")
    async with working(purging):
        await purging.wait("3", 10, to_the_end=True)
    assert {word for call in back.calls if call.edge == "b" for word in call.words} == {"sent", "unsent"}
    assert journal.newest(10, is_open=True) == [] or {
        it.edge for asked in journal.newest(10, is_open=True) for it in journal.states(asked.id) if it.state == "queued"
    } == {"a"}


def test_what_is_open_is_found_behind_newer_purges_that_have_ended():
    from rage_net.cdn.plan import plan

    journal, abilities = Journal(None), Abilities({"tag": 10})
    for id in ("waits", "pending", "ended"):
        journal.ask(Asked(id, float(len(id)), "manual", ""), [(plan(Scripted(), tags(id), soft=False), (id,))])
    for id, verdict in (("pending", Verdict("pending", id="1")), ("ended", ACCEPTED)):
        taken = journal.take("scripted", id, abilities, 1.0)
        assert taken.call is not None
        journal.settle(taken.call.reference, verdict, 1.0)
    assert {it.id for it in journal.newest(10, is_open=True)} == {"waits", "pending"}
    assert [it.id for it in journal.newest(1, is_open=True)] == ["pending"]


async def test_whoever_works_forgets_what_ended_long_ago(env):
    from rage_net.cdn.plan import plan

    journal = Journal(None)
    for n in range(120):
        journal.ask(Asked(str(n), 1.0, "manual", ""), [(plan(Scripted(), (), soft=False), ("",))])
    async with working(Purging(journal, [Scripted()], env)), asyncio.timeout(10):
        while journal.newest(1):
            await asyncio.sleep(0)


async def test_a_question_for_an_end_that_breaks_ends_no_senders(env, caplog):
    def broken(id: str) -> Verdict:
        raise KeyError("a bug")

    slow = Scripted("slow", answer=lambda call: Verdict("pending", id="I1", retry_after_s=0), later=broken)
    purging = Purging(Journal(None), [slow, Scripted("other")], env)
    async with working(purging):
        await purging.ask(wish("1", "a", only=("slow",)))
        while "the end of a purge on slow" not in caplog.text:
            await asyncio.sleep(0.01)
        await purging.ask(wish("2", "b", only=("other",)))
        assert by_state(await purging.wait("2", 10, to_the_end=True))
        (left,) = purging.states("1")
    assert (left.state, left.code) == ("pending", "bug")


async def test_what_failed_at_an_edge_that_left_cdn_yaml_is_not_asked_of_it_again(env):
    journal = Journal(None)
    refused = Scripted(edges=("a", "b"), answer=lambda call: Verdict("failed", code="cdn-forbidden"))
    purging = Purging(journal, [refused], env)
    async with working(purging):
        await purging.ask(wish("1", "x"))
        await purging.wait("1", 10, to_the_end=True)
    later = Purging(journal, [Scripted(edges=("b",))], env)
    assert [edges for _, edges in later.failed()] == [("b",)]


async def test_a_purge_that_its_vendor_forgets_again_and_again_fails_in_the_end(env):
    provider = Scripted(
        answer=lambda call: Verdict("pending", id="I1", retry_after_s=0),
        later=lambda id: Verdict("queued", code="cdn-not-found", reason="no such purge", retry_after_s=0, tries_max=3),
    )
    purging = Purging(Journal(None), [provider], env)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        states = await purging.wait("1", 10, to_the_end=True)
    assert states[0].state == "failed" and len(provider.calls) == 3


async def test_the_end_of_a_pending_purge_is_asked_for_within_minutes_whatever_its_vendor_says(env):
    purging = Purging(
        Journal(None), [Scripted(answer=lambda call: Verdict("pending", id="I1", retry_after_s=1e6))], env
    )
    await purging.ask(wish("1", "a"))
    async with working(purging), asyncio.timeout(10):
        while (state := purging.states("1")[0]).state != "pending":
            await asyncio.sleep(0)
    assert state.due_at <= env.now() + 300


async def test_an_edge_that_is_left_alone_is_asked_again_in_time_though_the_clock_is_set_back(env):
    class Clock(SystemEnv):
        back = 0.0

        def now(self):
            return time.time() - self.back

    clock, answers = Clock(), [Verdict("queued", code="cdn-unreachable", retry_after_s=0, tries_max=9), ACCEPTED]
    purging = Purging(Journal(None), [Scripted(answer=lambda call: answers.pop(0))], clock)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        while len(answers) > 1:
            await asyncio.sleep(0)
        clock.back = 3600.0
        await purging.ask(wish("2", "a"))
        states = await purging.wait("1", 10, to_the_end=True)
    assert states[0].state == "accepted"
    clock.close()


AWAY = Verdict("queued", reason="nobody answers", code="cdn-unreachable", mend=("look",), retry_after_s=60)


async def test_who_does_not_wait_for_the_end_hears_the_first_answer_and_not_that_a_call_is_under_way(env):
    answers = asyncio.Event()

    class Slow(Scripted):
        async def purge(self, call):
            await answers.wait()
            return await super().purge(call)

    purging = Purging(Journal(None), [Slow(answer=lambda call: AWAY)], env)
    await purging.ask(wish("1", "a"))
    async with working(purging):
        waiting = asyncio.create_task(purging.wait("1", 10, to_the_end=False))
        while not purging.journal.states("1")[0].tries:
            await asyncio.sleep(0)
        assert not waiting.done()
        answers.set()
        (state,) = await waiting
    assert (state.state, state.reason) == ("queued", "nobody answers")


async def test_what_waits_for_an_edge_that_is_left_alone_says_why_at_once(env):
    purging = Purging(Journal(None), [Scripted(answer=lambda call: AWAY)], env)
    async with working(purging):
        await purging.ask(wish("1", "a"))
        await purging.wait("1", 10, to_the_end=False)
        await purging.ask(wish("2", "b"))
        began = time.monotonic()
        (state,) = await purging.wait("2", 20, to_the_end=False)
        assert time.monotonic() - began < 10
    assert (state.state, state.tries, state.reason, state.code, state.mend) == (
        *("queued", 0, "nobody answers", "cdn-unreachable"),
        ("look",),
    )
    assert state.due_at > time.time()


async def test_what_has_failed_is_purged_again_once_and_nothing_else_is(env):
    is_revoked = True

    def answer(call):
        return Verdict("failed", reason="no token", code="cdn-credentials") if is_revoked else ACCEPTED

    provider, other = Scripted("a", answer=answer), Scripted("b", answer=answer)
    purging = Purging(Journal(None), [provider, other], env)
    async with working(purging):
        await purging.ask(wish("1", "x", "y"))
        await purging.ask(wish("2", "y", "z", only=("a",)))
        for id in "12":
            await purging.wait(id, 10, to_the_end=True)
        is_revoked = False
        await purging.ask(wish("3", "x", only=("a",)))
        await purging.wait("3", 10, to_the_end=True)
        provider.calls.clear()
        assert [(it.calls, len(it.words)) for it, _ in purging.failed(["a"])] == [(1, 2)]
        assert await purging.ask_again("4", "again", ("a",)) is not None
        states = await purging.wait("4", 10, to_the_end=True)
        assert by_state(states) == {("a", "", "accepted"): 2}
        assert sorted(word for call in provider.calls for word in call.words) == ["y", "z"]
        assert await purging.ask_again("5", "again", ("a",)) is None
        assert await purging.ask_again("6", "again") is not None
        assert by_state(await purging.wait("6", 10, to_the_end=True)) == {("b", "", "accepted"): 2}
        assert await purging.ask_again("7", "again") is None


def ask(journal: Journal, id: str, names: Sequence[str], verdict: Verdict, *, soft: bool = False) -> None:
    """A purge by tags of one edge, and the answer to each of its calls."""
    kinds: frozenset[Kind] = frozenset({"tag"}) if soft else frozenset()
    words = tuple(Word("tag", name) for name in names)
    journal.ask(Asked(id, 1.0, "manual", ""), [(Planned("scripted", words, kinds, 1, 0.0), ("",))])
    while (taken := journal.take("scripted", "", Abilities({"tag": 30}), 1.0)).call is not None:
        journal.settle(taken.call.reference, verdict, 1.0)


def test_what_was_deleted_since_has_not_failed_to_be_marked_but_what_was_marked_has_failed_to_be_deleted():
    journal, refused = Journal(None), Verdict("failed", code="cdn-forbidden")
    ask(journal, "1", ["a", "b", "c"], refused, soft=True)
    ask(journal, "2", ["c", "d"], refused)
    ask(journal, "3", ["b", "d"], ACCEPTED, soft=True)
    ask(journal, "4", ["a"], ACCEPTED)
    assert journal.failed() == [
        ("scripted", "", False, (Word("tag", "c"), Word("tag", "d"))),
        ("scripted", "", True, (Word("tag", "c"),)),
    ]


def test_what_has_failed_is_found_among_very_many_in_one_pass():
    journal = Journal(None)
    ask(journal, "1", [f"t{at}" for at in range(3000)], Verdict("failed", code="cdn-credentials"))
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return steps > 3000  # thousand operations: as many for each word; a pass takes a tenth

    with journal._db.read() as db:
        db.set_progress_handler(count, 1000)
    ((*_, words),) = journal.failed()
    assert len(words) == 3000


async def test_what_a_cdn_cannot_purge_by_tag_after_all_goes_by_url(env):
    provider = Scripted()

    def answer(call):
        if call.kind == "tag":
            provider.abilities = Abilities({"url": 100})
            return Verdict("failed", code="cdn-config", reason="1107: the plan has no tags")
        return ACCEPTED

    provider.answer = answer
    purging = Purging(Journal(None), [provider], env)
    target = Target("a", ((Item("tag", "doc:a"),), (Item("url", "/chunks/a"),)))
    await purging.ask(Wish("1", (target,), "a test"))
    async with working(purging):
        await purging.wait("1", 10, to_the_end=True)
        async with asyncio.timeout(10):
            while not (states := purging.journal.states("1-otherwise")) or states[0].state != "accepted":
                await asyncio.sleep(0.01)
    assert [call.words for call in provider.calls] == [("doc:a",), ("https://cdn.example.org/chunks/a",)]


async def test_what_a_cdn_cannot_purge_by_tag_and_has_too_many_urls_fails_and_ends_no_senders(env, monkeypatch, caplog):
    provider = Scripted()

    def answer(call):
        provider.abilities = Abilities({"url": 100})
        return Verdict("failed", code="cdn-config", reason="1107: the plan has no tags")

    provider.answer = answer
    monkeypatch.setattr("rage_net.cdn.plan.WORDS_MAX", 1)
    purging = Purging(Journal(None), [provider], env)
    urls = tuple(Item("url", f"/chunks/{at}") for at in range(2))
    await purging.ask(Wish("1", (Target("a", ((Item("tag", "doc:a"),), urls)),), "a test"))
    async with working(purging):
        (state,) = await purging.wait("1", 5, to_the_end=True)
    assert state.state == "failed" and "1 are the most" in caplog.text


async def test_a_call_whose_answer_could_not_be_written_is_made_again_as_soon_as_the_work_goes_on(env):
    class Full(Journal):
        is_full = True

        def settle(self, *args, **more):
            if self.is_full:
                raise StorageFullError("no room")
            super().settle(*args, **more)

    journal, provider = Full(None), Scripted()
    purging = Purging(journal, [provider], env)
    await purging.ask(wish("1", "a"))
    with pytest.raises(ExceptionGroup):
        await purging.work()
    journal.is_full = False
    async with working(purging):
        (state,) = await purging.wait("1", 5, to_the_end=True)
    assert state.state == "accepted" and len({call.reference for call in provider.calls}) == 1
