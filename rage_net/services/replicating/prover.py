"""Finding out who holds what: claims, and proof of them whatever is here.

Where the bytes are here, holders are challenged. Where they are not, holders challenge each other, and their signed
verdicts count; a lone holder is checked by fetching. Source: design D5; issue 5, D.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from rage_net.chunk.source import Received
from rage_net.chunk.store import ChunkStore, admit
from rage_net.cid import Cid
from rage_net.env import Env
from rage_net.errors import IntegrityError, NotFoundError, RageError
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import HAVE_MAX
from rage_net.replication.audit import CHALLENGES_MAX, UNKNOWN, Answer

FETCHES_AT_ONCE = 8
ASKED_AT_ONCE = 8


class Auditing(Protocol):
    """The audit protocol's asking end: see services.auditing."""

    async def prove(self, asks: Mapping[PeerId, Sequence[Cid]]) -> dict[tuple[PeerId, Cid], Answer]:
        """Ask nodes for proof of chunks that are here."""
        ...

    async def relay(self, relay: PeerId, holder: PeerId, cids: Sequence[Cid]) -> dict[Cid, Answer]:
        """Have one holder challenge another."""
        ...

    async def hold(self, peer: PeerId, organization: str, cids: Sequence[Cid]) -> int:
        """Ask a node to hold chunks; how many it will."""
        ...


Answers = dict[tuple[PeerId, Cid], Answer]
Have = Callable[[PeerId, Sequence[Cid], bool], Awaitable[Sequence[bool]]]
"""Asks a node which chunks it has; with True, which of them are more than cache. Raises as `Exchange.have` does."""
Fetch = Callable[[PeerId, Cid], Awaitable[Received]]


class Prover:
    """Asks nodes about chunks. Args: have, fetch: of the chunk exchange, for replication; raise RageError."""

    def __init__(self, store: ChunkStore, env: Env, own: PeerId, auditing: Auditing, have: Have, fetch: Fetch) -> None:
        self._store = store
        self._env = env
        self._own = own
        self._auditing = auditing
        self._have = have
        self._fetch = fetch

    async def ask(self, asks: Mapping[PeerId, Sequence[Cid]]) -> Answers:
        """Claims only: which nodes say that they have which chunks. What one has as cache is no copy."""
        answers: Answers = {}
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(peer: PeerId, cids: Sequence[Cid]) -> None:
            async with places:
                try:
                    said = await self._have(peer, cids, True)
                except (RageError, Libp2pError, TimeoutError):
                    answers.update({(peer, cid): Answer("unreachable") for cid in cids})
                else:
                    words = zip(cids, said, strict=True)
                    answers.update({(peer, cid): Answer("claims" if has else "absent") for cid, has in words})

        async with asyncio.TaskGroup() as tasks:
            for peer, cids in asks.items():
                if peer == self._own:
                    here = await self._env.blocking(self._are_durable, cids)
                    answers.update(
                        {
                            (peer, cid): Answer("claims" if has else "absent")
                            for cid, has in zip(cids, here, strict=True)
                        }
                    )
                    continue
                for at in range(0, len(cids), HAVE_MAX):
                    tasks.create_task(ask(peer, cids[at : at + HAVE_MAX]))
        return answers

    async def prove(self, asks: Mapping[PeerId, Sequence[Cid]]) -> Answers:
        """Proof from each node of each chunk, as far as it can be had."""
        asked = list(dict.fromkeys(cid for cids in asks.values() for cid in cids))
        here = dict(zip(asked, await self._env.blocking(self._are_here, asked), strict=True))
        answers: Answers = {}
        if self._own in asks:
            answers.update(await self._env.blocking(self._prove_ourselves, asks[self._own]))
        others = {peer: cids for peer, cids in asks.items() if peer != self._own}
        direct = {peer: [cid for cid in cids if here[cid]] for peer, cids in others.items()}
        answers.update(await self._auditing.prove({peer: cids for peer, cids in direct.items() if cids}))
        far = {peer: [cid for cid in cids if not here[cid]] for peer, cids in others.items()}
        far = {peer: cids for peer, cids in far.items() if cids}
        if far:
            answers.update(await self._prove_far(far))
        return answers

    async def _prove_far(self, asks: Mapping[PeerId, Sequence[Cid]]) -> Answers:
        """Chunks that are not here: holders challenge each other in a ring, a lone one is checked by fetching."""
        answers = await self.ask(asks)
        holders: dict[Cid, list[PeerId]] = {}
        for (peer, cid), answer in answers.items():
            if answer.outcome == "claims":
                holders.setdefault(cid, []).append(peer)
        rings: dict[tuple[PeerId, PeerId], list[Cid]] = {}
        alone: dict[tuple[PeerId, Cid], None] = {}
        for cid, peers in holders.items():
            if len(peers) == 1:
                alone[peers[0], cid] = None
                continue
            self._env.random.shuffle(peers)  # who vouches for whom is not for them to know beforehand
            for at, peer in enumerate(peers):
                rings.setdefault((peers[at - 1], peer), []).append(cid)
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def relay(by: PeerId, holder: PeerId, cids: Sequence[Cid]) -> None:
            async with places:
                found = await self._auditing.relay(by, holder, cids)
            for cid, answer in found.items():
                if answer.outcome != "unknown":
                    answers[holder, cid] = answer

        async with asyncio.TaskGroup() as tasks:
            for (by, holder), cids in rings.items():
                for at in range(0, len(cids), CHALLENGES_MAX):
                    tasks.create_task(relay(by, holder, cids[at : at + CHALLENGES_MAX]))
        alone.update((key, None) for key, answer in answers.items() if answer.outcome == "claims")
        async with asyncio.TaskGroup() as tasks:
            for peer, cid in alone:
                tasks.create_task(self._check_by_fetching(peer, cid, places, answers))
        return answers

    async def _check_by_fetching(self, peer: PeerId, cid: Cid, places: asyncio.Semaphore, answers: Answers) -> None:
        async with places:
            try:
                received = await self._fetch(peer, cid)
                await self._env.blocking(_check, cid, received)
            except IntegrityError:
                answers[peer, cid] = Answer("lied")
            except NotFoundError:
                answers[peer, cid] = Answer("absent")
            except (RageError, Libp2pError, TimeoutError):
                answers[peer, cid] = Answer("unreachable")
            else:
                answers[peer, cid] = Answer("proved")

    def _are_here(self, cids: Sequence[Cid]) -> list[bool]:
        return [self._store.has(cid) for cid in cids]

    def _are_durable(self, cids: Sequence[Cid]) -> list[bool]:
        durable = self._store.durable(cids)
        return [cid in durable for cid in cids]

    def _prove_ourselves(self, cids: Sequence[Cid]) -> Answers:
        answers: Answers = {(self._own, cid): Answer("absent") for cid in cids}
        for cid in self._store.durable(cids):
            with suppress(RageError):
                self._store.get(cid)
                answers[self._own, cid] = Answer("proved", is_kept=True)
        return answers


def _check(cid: Cid, received: Received) -> None:
    header = received.header
    admit(cid, header.encoding, b"".join(received.buffers), header.size)


__all__ = ["UNKNOWN", "Answer", "Answers", "Auditing", "Fetch", "Have", "Prover"]
