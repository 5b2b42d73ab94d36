"""One look-up, driven: questions as tasks, each with its time-out, until the rules say that it is over.

Not here: the rules (`kad.lookup`), and how a question travels (`Asking`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.keys import distance_bits
from rage_net.libp2p.kad.lookup import Candidate, LookUp
from rage_net.libp2p.kad.messages import Message, PeerInfo
from rage_net.libp2p.multiaddr import Multiaddr


@dataclass(frozen=True, slots=True)
class Hop:
    """One question of a look-up, as `rage dht trace` tells it. `depth` counts from 1; `closer` were new to us."""

    number: int
    depth: int
    contact: Contact
    address: Multiaddr | None
    distance_bits: int
    outcome: str
    """answered, timeout or error."""
    error: str
    seconds: float
    closer: int
    providers: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer said, from where, and where it can be dialled, best first. Hints are what may be believed of it."""

    message: Message
    reached_at: Multiaddr
    addresses: tuple[Multiaddr, ...] = ()
    hints: tuple[PeerInfo, ...] = ()
    """Its closer peers, with the addresses that such a peer may tell of."""
    providers: tuple[PeerInfo, ...] = ()
    """Likewise."""


class Asking(Protocol):
    """How a question reaches a peer."""

    async def ask(self, contact: Contact, request: Message) -> Answer:
        """Ask. Raises Libp2pError; TimeoutError when there is no answer in time."""
        ...

    async def tell(self, contact: Contact, messages: list[Message]) -> None:
        """Send messages that have no answers. Returns when the peer has taken all of them; raises as `ask`."""
        ...


async def crawl(
    look_up: LookUp,
    request: Message,
    asking: Asking,
    *,
    clock: Callable[[], float],
    on_answer: Callable[[Candidate, Answer], None],
    on_failure: Callable[[Candidate], None],
    on_hop: Callable[[Hop], None] | None = None,
) -> None:
    """Ask `request` along `look_up` until it is done; what is still out then is given up.

    `on_answer` may call `look_up.stop()`. Its own exceptions end the crawl.
    """
    outcomes: asyncio.Queue[tuple[Candidate, float, Answer | Exception]] = asyncio.Queue()
    tasks: dict[asyncio.Task[None], None] = {}
    number = 0

    async def ask(candidate: Candidate) -> None:
        began = clock()
        outcome: Answer | Exception
        try:
            outcome = await asking.ask(candidate.contact, request)
        except (Libp2pError, TimeoutError) as error:
            outcome = error
        outcomes.put_nowait((candidate, began, outcome))

    try:
        while True:
            now = clock()
            for candidate in look_up.next_asks(now):
                task = asyncio.create_task(ask(candidate))
                tasks[task] = None
                task.add_done_callback(lambda task: tasks.pop(task, None))
            if look_up.is_done(now):
                return
            try:
                async with asyncio.timeout(max(0.0, look_up.next_timeout(now) - now) if tasks else 0.0):
                    arrived = [await outcomes.get()]
            except TimeoutError:
                continue
            while not outcomes.empty():
                arrived.append(outcomes.get_nowait())
            for candidate, began, outcome in arrived:
                number += 1
                hop = _hop(look_up, number, candidate, clock() - began)
                if isinstance(outcome, Answer):
                    peer_id = candidate.contact.peer_id
                    new = look_up.answered(peer_id, outcome.hints, outcome.reached_at, outcome.addresses)
                    hop = replace(hop, address=outcome.reached_at, closer=len(new), providers=len(outcome.providers))
                    on_answer(candidate, outcome)
                else:
                    look_up.failed_to_answer(candidate.contact.peer_id)
                    is_late = isinstance(outcome, TimeoutError)
                    hop = replace(
                        hop, outcome="timeout" if is_late else "error", error=str(outcome) or "no answer in time"
                    )
                    on_failure(candidate)
                if on_hop is not None:
                    on_hop(hop)
    finally:
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _hop(look_up: LookUp, number: int, candidate: Candidate, seconds: float) -> Hop:
    contact = candidate.contact
    address = contact.addresses[0] if contact.addresses else None
    bits = distance_bits(contact.place, look_up.target)
    return Hop(number, candidate.depth, contact, address, bits, "answered", "", seconds, 0, 0)
