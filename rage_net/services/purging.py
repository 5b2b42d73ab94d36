"""Purging: what was asked of CDNs is journalled, sent within each one's quota, and seen through to its end.

    ask     a purge: planned for each provider, durable when it returns
    plan    the same, and nothing asked
    wait    until it has ended, or been tried
    work    sends what is due and asks after what is pending, for as long as it runs

Each edge has senders of its own, so that one that is slow or dead holds up no other. A provider's answer is a verdict;
`cdn.retry` says when a call is made again, and the journal makes it, after a crash too.

Source: issue 6, B. Not here: what is purged and why (cdn_verbs, exposing, sealed_cdns), what a call looks like (cdn).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rage_net.cdn import retry
from rage_net.cdn.journal import Asked, Journal, Standing
from rage_net.cdn.plan import Planned, Target, Word, chosen, cost, plan
from rage_net.cdn.provider import Call, Provider, Verdict
from rage_net.env import Env
from rage_net.errors import UsageError

log = logging.getLogger("rage.cdn")

SENDERS = 4
"""Calls under way at one edge: enough that 50 ms of way to it leave 80 calls a second."""
LOOK_AT_LEAST_S = 0.02
LOOK_AT_MOST_S = 30.0
"""Between two looks at what is due."""
LOOK_EVERY_S = 0.5
"""Between two looks at how a purge stands, when nothing happens."""
LOOK_SHARE = 10
"""So many times as long as a look took nobody looks again: for a large purge it is slow, and must not slow the work."""
WISHES_MAX = 256
"""Purges that are remembered as they were asked, in case a CDN turns out not to purge so: it says that within seconds,
and each may name many blocks."""
OTHERWISE = "-otherwise"
"""After the id of a purge: the id of the same one by other words."""
CALL_S_MAX = 60.0
"""A call that takes longer is given up, and made again."""
FIRST_ANSWER_S = 30.0
"""How long one who does not wait for the end waits for the first answers."""
FORGET_EVERY_S = 3600.0
"""Between two looks at what ended long ago; the first is at once, so that a home of commands alone forgets, too."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall be purged, where, and why.

    `only`: names of providers, all by default. `soft` None leaves it to each provider's configuration.
    """

    id: str
    targets: tuple[Target, ...]
    label: str
    cause: str = "manual"
    doc_id: str = ""
    objects: tuple[str, ...] = ()
    soft: bool | None = None
    only: tuple[str, ...] = ()


class Purging:
    """The purges of one home. `soft_by_default` names providers that mark as stale where nobody says otherwise."""

    def __init__(
        self, journal: Journal, providers: Sequence[Provider], env: Env, soft_by_default: Iterable[str] = ()
    ) -> None:
        self.journal = journal
        self.providers = {provider.name: provider for provider in providers}
        self._env = env
        self._soft = frozenset(soft_by_default)
        self._wake: dict[tuple[str, str | None], asyncio.Event] = {
            (name, edge): asyncio.Event() for name, it in self.providers.items() for edge in (*it.edges, None)
        }
        """By provider and edge; the edge None is for what is pending."""
        self._settled = asyncio.Condition()
        self._pauses: dict[tuple[str, str], tuple[float, Verdict]] = {}
        """Edges that could not be reached: until when they are left alone, monotonic, and why."""
        self._wishes: dict[str, Wish] = {}
        """The last ones that were asked here."""
        self._is_working = False
        self._is_ending = False
        self._under_way = 0

    def edges(self) -> frozenset[tuple[str, str]]:
        """Provider and edge: all that are asked."""
        return frozenset((name, edge) for name, it in self.providers.items() for edge in it.edges)

    # --- what is asked ---

    def plan(self, wish: Wish) -> list[Planned]:
        """What each provider would be asked. Raises: NotFoundError for an unknown provider; ConfigError without any."""
        names, soft = chosen(self.providers, wish.only), self.soft(wish)
        try:
            return [plan(self.providers[name], wish.targets, soft=name in soft) for name in names]
        except ValueError as error:
            raise UsageError(str(error), mend=["purge by --tag or --prefix"]) from error

    def soft(self, wish: Wish) -> frozenset[str]:
        """Names of providers that are to mark as stale what they have of it."""
        if wish.soft is None:
            return self._soft
        return frozenset(self.providers) if wish.soft else frozenset()

    async def ask(self, wish: Wish) -> Asked:
        """Journal a purge; it is sent by whoever runs `work`, here or in the next process. Raises as `plan`."""
        plans = await self._env.blocking(self.plan, wish)
        self._wishes[wish.id] = wish
        while len(self._wishes) > WISHES_MAX:
            self._wishes.pop(next(iter(self._wishes)))
        impossible = tuple((it.provider, name) for it in plans for name in it.impossible[:100])
        asked = Asked(wish.id, self._env.now(), wish.cause, wish.label, wish.doc_id, wish.objects, impossible)
        wanted = [(it, self.providers[it.provider].edges) for it in plans]
        await self._env.blocking(self.journal.ask, asked, wanted)
        for event in self._wake.values():
            event.set()
        return asked

    def failed(self, only: Sequence[str] = ()) -> list[tuple[Planned, Sequence[str]]]:
        """What has failed and was not purged since, by provider and edge, as calls that would purge it. Blocking."""
        return [
            (Planned(name, words, frozenset(word.kind for word in words if soft), *self._cost(name, words)), (edge,))
            for name, edge, soft, words in self.journal.failed()
            if name in self.providers and edge in self.providers[name].edges and (not only or name in only)
        ]

    def _cost(self, name: str, words: Sequence[Word]) -> tuple[int, float]:
        able = self.providers[name].abilities
        return cost([word for word in words if word.kind in able.words_max], able)

    async def _ask_otherwise(self, provider: Provider) -> None:
        """A CDN turned out not to purge by something, such as tags: what was asked of it lately goes another way."""
        for wish in list(self._wishes.values()):
            if not wish.id.endswith(OTHERWISE) and (not wish.only or provider.name in wish.only):
                try:
                    await self.ask(replace(wish, id=wish.id + OTHERWISE, only=(provider.name,)))
                except UsageError as error:  # more URLs than one purge may name: it stays as failed
                    log.warning("%s: %s", wish.label, error)

    async def ask_again(self, id: str, label: str, only: Sequence[str] = ()) -> Asked | None:
        """Journal a purge of `failed`; None where there is nothing."""
        wanted = await self._env.blocking(self.failed, only)
        if not wanted:
            return None
        asked = Asked(id, self._env.now(), "manual", label)
        await self._env.blocking(self.journal.ask, asked, wanted)
        for event in self._wake.values():
            event.set()
        return asked

    async def wait(
        self,
        purge: str,
        timeout_s: float,
        *,
        to_the_end: bool,
        tell: Callable[[Sequence[Standing]], None] = lambda _: None,
    ) -> list[Standing]:
        """How a purge stands once it has ended everywhere, or the time is over.

        Not `to_the_end`: once each edge has answered, or is left alone because it did not of late.
        """
        ends = self._env.monotonic() + timeout_s
        while True:
            began = self._env.monotonic()
            states = await self._env.blocking(self.states, purge)
            tell(states)
            now = self._env.monotonic()
            left = ends - now
            open_ = [it for it in states if it.state in ("queued", "pending")]
            if not to_the_end:
                open_ = [it for it in open_ if it.untried and not it.reason]
            if not open_ or left <= 0:
                return states
            async with self._settled:
                try:
                    async with asyncio.timeout(min(left, LOOK_EVERY_S)):
                        await self._settled.wait()
                except TimeoutError:
                    continue
            await asyncio.sleep(min(left, max(LOOK_AT_LEAST_S, LOOK_SHARE * (now - began))))

    def states(self, purge: str) -> list[Standing]:
        """How a purge stands; what waits for an edge that is left alone says why. Blocking."""
        return [self._explained(it) for it in self.journal.states(purge)]

    def _explained(self, standing: Standing) -> Standing:
        until, why = self._pauses.get((standing.provider, standing.edge), (0.0, None))
        left = until - self._env.monotonic()
        if why is None or standing.state != "queued" or standing.reason or left <= 0:
            return standing
        return replace(standing, reason=why.reason, code=why.code, mend=why.mend, due_at=self._env.now() + left)

    # --- the work ---

    async def work(self) -> None:
        """Send what is due, for as long as this task lives. Once at a time."""
        if self._is_working:
            return
        self._is_working = True
        try:
            await self._env.blocking(self.journal.release)  # whoever worked before us may have failed between two steps
            async with asyncio.TaskGroup() as tasks:
                for provider in self.providers.values():
                    for edge in provider.edges:
                        for _ in range(SENDERS):  # each by itself: what comes in does not wait for a call under way
                            tasks.create_task(self._serve(provider, edge))
                    tasks.create_task(self._follow(provider))
                tasks.create_task(self._forget())
        finally:
            self._is_working = False

    async def finish(self, within_s: float) -> None:
        """Begin no more calls, and hear the answers to those under way: one whose answer is not heard is made again."""
        self._is_ending = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._settled:
                await self._settled.wait_for(lambda: not self._under_way)

    async def _serve(self, provider: Provider, edge: str) -> None:
        """Send what is due at one edge, for ever."""
        wake = self._wake[provider.name, edge]
        while True:
            wake.clear()
            if not await self._rest(wake, await self._send_all(provider, edge)):
                wake.set()  # its time has come: the others that serve this edge help

    async def _follow(self, provider: Provider) -> None:
        """Ask after what is pending at one provider, for ever."""
        wake = self._wake[provider.name, None]
        while True:
            wake.clear()
            await self._rest(wake, await self._ask_after(provider))

    async def _forget(self) -> None:
        """Keep the journal bounded, for ever."""
        while True:
            gone = await self._env.blocking(self.journal.prune, self._env.now())
            await asyncio.sleep(LOOK_AT_LEAST_S if gone else FORGET_EVERY_S)  # others write between two parts

    async def _rest(self, wake: asyncio.Event, due: float | None) -> bool:
        """Until something is due; whether somebody woke it before."""
        rest = LOOK_AT_MOST_S if due is None else due - self._env.now()
        try:
            async with asyncio.timeout(min(max(rest, LOOK_AT_LEAST_S), LOOK_AT_MOST_S)):
                return await wake.wait()
        except TimeoutError:
            return False

    async def _send_all(self, provider: Provider, edge: str) -> float | None:
        """Send all that is due at one edge; when more will be, None for nothing."""
        while not self._is_ending:
            now = self._env.now()
            until, _ = self._pauses.get((provider.name, edge), (0.0, None))
            if (left := until - self._env.monotonic()) > 0:
                return now + left
            self._under_way += 1
            try:
                taken = await self._env.blocking(self.journal.take, provider.name, edge, provider.abilities, now)
                if taken.call is not None:
                    await self._send(provider, taken.call, taken.tries)
            finally:
                self._under_way -= 1
            async with self._settled:
                self._settled.notify_all()
            if taken.call is None and (taken.due_at is None or taken.due_at > now):
                return taken.due_at  # else what the provider cannot do any more was put aside
        return None

    async def _send(self, provider: Provider, call: Call, tries: int) -> None:
        try:
            async with asyncio.timeout(CALL_S_MAX):
                verdict = await provider.purge(call)
        except TimeoutError:
            verdict = Verdict("queued", reason=f"no answer within {CALL_S_MAX:.0f} s", code="cdn-unreachable")
        except Exception:
            log.exception("purge on %s", provider.name)
            verdict = Verdict("queued", reason="rage failed; see the node's log", code="bug", tries_max=3)
        await self._settle(provider, call, verdict, tries)

    async def _settle(self, provider: Provider, call: Call, verdict: Verdict, tries: int) -> None:
        now = self._env.now()
        pause = 0.0
        if verdict.state == "queued" and not verdict.is_too_large:
            if retry.is_final(tries, verdict):
                verdict = replace(verdict, state="failed")
            else:
                pause = retry.pause_s(tries, verdict, self._env.random.random())
                if verdict.code in ("cdn-unreachable", "cdn-rate-limited", "cdn-busy"):
                    self._pauses[provider.name, call.edge] = self._env.monotonic() + pause, verdict
        elif verdict.state == "pending":
            pause = retry.look_in_s(verdict)
        elif verdict.is_too_large and len(call.words) == 1:
            verdict = replace(verdict, state="failed", is_too_large=False)
        if verdict.state == "failed":
            log.warning("purge on %s %s failed: %s", provider.name, call.edge, verdict.reason)
            if call.kind not in provider.abilities.words_max:
                await self._ask_otherwise(provider)
        await self._env.blocking(self._record, call.reference, verdict, now, pause)
        if verdict.state == "pending":
            self._wake[provider.name, None].set()

    def _record(self, reference: str, verdict: Verdict, now: float, pause_s: float) -> None:
        self.journal.settle(reference, verdict, now, retry_in_s=pause_s)

    async def _ask_after(self, provider: Provider) -> float | None:
        """Ask for the ends of pending purges; when to ask again."""
        now = self._env.now()
        for reference, edge, vendor_id, tries in await self._env.blocking(self.journal.pending, provider.name, now):
            try:
                async with asyncio.timeout(CALL_S_MAX):
                    verdict = await provider.ask(edge, vendor_id)
            except TimeoutError:
                verdict = Verdict("pending", id=vendor_id, reason="its end could not be asked for")
            except Exception:  # what fails here must not end the senders of all CDNs
                log.exception("the end of a purge on %s", provider.name)
                verdict = Verdict("pending", id=vendor_id, reason="rage failed; see the node's log", code="bug")
            is_forgotten = verdict.state == "queued"  # by its vendor
            if is_forgotten and retry.is_final(tries, verdict):
                verdict = replace(verdict, state="failed")
            pause = retry.look_in_s(verdict)
            await self._env.blocking(self._record, reference, verdict, self._env.now(), pause)
            if is_forgotten:  # not before it is written, or the sender would find nothing, and rest
                self._wake[provider.name, edge].set()
            async with self._settled:
                self._settled.notify_all()
        return await self._env.blocking(self.journal.next_pending, provider.name)
