"""Reaching a peer: its addresses in a staggered race, names resolved, each link upgraded. Keeps no state."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from rage_net.libp2p.errors import DialError, PeerIdMismatchError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm.limits import Limits
from rage_net.libp2p.swarm.upgrade import Upgraded
from rage_net.libp2p.transport import Link, Transport

T = TypeVar("T")
Reached: TypeAlias = tuple[Link, Upgraded]


class Upgrader(Protocol):
    """How a link becomes secure; aborts it on failure."""

    async def __call__(self, link: Link, *, is_dialer: bool, remote: PeerId | None) -> Upgraded:
        """See `upgrade.upgrade`."""
        ...


async def race(
    attempts: Sequence[Callable[[], Awaitable[T]]],
    *,
    stagger_s: float,
    parallel: int,
    discard: Callable[[T], None],
    failures: list[Exception | None],
) -> T | None:
    """The result of the first attempt that succeeds, None when none does.

    The next attempt begins when one fails or after `stagger_s`, at most `parallel` at a time; the rest are cancelled
    once one succeeds. Args: discard: takes results that came too late. failures: filled in, one for each attempt.
    """
    failures[:] = [None] * len(attempts)
    waiting = deque(range(len(attempts)))
    running: dict[asyncio.Future[T], int] = {}
    try:
        while waiting or running:
            if waiting and len(running) < parallel:
                index = waiting.popleft()
                running[asyncio.ensure_future(attempts[index]())] = index
            timeout = stagger_s if waiting and len(running) < parallel else None
            done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            winners = []
            for task in [task for task in running if task in done]:  # in the order they began
                index = running.pop(task)
                error = task.exception()
                if error is None:
                    winners.append(task.result())
                elif isinstance(error, Exception):
                    failures[index] = error
                else:
                    raise error
            for late in winners[1:]:
                discard(late)
            if winners:
                return winners[0]
        return None
    finally:
        for task in running:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(result, BaseException):
                discard(result)


class Dialer:
    """Addresses in, a secure link out."""

    def __init__(self, transports: Sequence[Transport], limits: Limits, upgrade: Upgrader) -> None:
        self._transports = transports
        self._limits = limits
        self._upgrade = upgrade

    async def reach(self, peer_id: PeerId | None, addresses: Sequence[Multiaddr], timeout_s: float) -> Reached:
        """The first of `addresses` that leads to `peer_id`, or to anyone when it is None.

        Raises: PeerIdMismatchError when someone else answered; DialError with a reason for each address.
        """
        tried = list(dict.fromkeys(addresses))[: self._limits.dial_addresses]
        failures: list[Exception | None] = []
        try:
            async with asyncio.timeout(timeout_s):
                reached = await self._race([self._attempt(address, peer_id) for address in tried], failures)
        except TimeoutError:
            reached = None
        if reached is not None:
            return reached
        failures += [None] * (len(tried) - len(failures))
        reasons = tuple((str(address), _reason(error)) for address, error in zip(tried, failures, strict=True))
        told = "; ".join(f"{address}: {reason}" for address, reason in reasons) or "no address is known"
        kind = PeerIdMismatchError if any(isinstance(error, PeerIdMismatchError) for error in failures) else DialError
        raise kind(f"cannot reach {peer_id or 'the peer'}: {told}", reasons)

    async def _race(
        self, attempts: Sequence[Callable[[], Awaitable[Reached]]], failures: list[Exception | None]
    ) -> Reached | None:
        return await race(
            attempts,
            stagger_s=self._limits.dial_stagger_s,
            parallel=self._limits.dial_parallel,
            discard=lambda late: late[0].abort(),
            failures=failures,
        )

    def _attempt(self, address: Multiaddr, peer_id: PeerId | None) -> Callable[[], Awaitable[Reached]]:
        """One address: resolve it, connect to what it stands for, and prove who is there."""

        async def attempt() -> Reached:
            named = address.peer_id
            if peer_id is not None and named is not None and named != peer_id:
                raise DialError("the address names another peer")
            transport = next((transport for transport in self._transports if transport.can_dial(address)), None)
            if transport is None:
                raise DialError("no transport for this address")
            resolved = (await transport.resolve(address))[: self._limits.dial_parallel]
            failures: list[Exception | None] = []
            reached = await self._race([self._connect(transport, to, peer_id or named) for to in resolved], failures)
            if reached is None:
                raise next((error for error in failures if error is not None), DialError("the name has no address"))
            return reached

        return attempt

    def _connect(
        self, transport: Transport, address: Multiaddr, remote: PeerId | None
    ) -> Callable[[], Awaitable[Reached]]:
        async def connect() -> Reached:
            link = await transport.dial(address)
            return link, await self._upgrade(link, is_dialer=True, remote=remote)

        return connect


def _reason(error: Exception | None) -> str:
    if error is None or isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror or str(error)
    return str(error)
