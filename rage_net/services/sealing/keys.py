"""Keys of sealed documents, `/rage/key/1.0.0`, both ends.

    find    the key, from here or from a node that has it
    serve   the other end

A key is as good as the plain bytes, so it is given to whom these would be given: `authorize(read)`, strictly, whatever
the node's enforcement is, at the moment of asking. A right to replicate is none. To all others the answer is the same,
whether the key is here, the document exists, or neither. The answer travels over the connection that Noise encrypts to
the peer that asks; nothing else ever holds a key: no log, no record, no error.

Source: issue 6, C; contracts/rage.proto; design D7, D9; ADR 24.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from rage_net import messages
from rage_net.acl import AccessList, DocumentResource, Principal, Rules, authorize
from rage_net.cdn.keyfile import KeyFile
from rage_net.cdn.sealing import EPOCH_BYTES, KEY_BYTES, Epoch, Sealed
from rage_net.denials import Denials
from rage_net.env import Env
from rage_net.errors import (
    NotFoundError,
    PeerProtocolError,
    RageError,
    RemoteProtocolError,
    UnavailableError,
    from_wire,
)
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.rates import Rates
from rage_net.messages import KeyRequest, KeyResponse
from rage_net.metrics import Metrics

if TYPE_CHECKING:
    from rage_net.libp2p.peer_id import PeerId
    from rage_net.libp2p.swarm import Connection, Stream

REQUEST_S_MAX = 10.0
ASK_S_MAX = 5.0
"""One node is waited for so long."""
ASKED_MAX = 8
"""Nodes that are asked for one key, one after the other."""
FIND_S_MAX = 15.0
REQUESTS_PER_S, REQUESTS_BURST = 8.0, 128.0
"""Of one peer: it reads sealed documents one by one, and keeps their keys."""
PEERS_MAX = 1024
SERVED_MAX = 16
"""Requests under way; more are told to come back."""

_ABSENT = KeyResponse(messages.NOT_FOUND)
_BUSY = KeyResponse(messages.BUSY)


def draw_epoch(random: Random, organization: str, doc_id: str) -> Epoch:
    """A new epoch, by the chance of the operating system (`env.random`): keep it before anything is sealed with it."""
    return Epoch(organization, doc_id, random.randbytes(EPOCH_BYTES), random.randbytes(KEY_BYTES))


class Keys:
    """Both ends of the key protocol.

    Args: file: the keys that are here. rules: of this node; an open one gives no keys. principal_of: who a connected
    peer is, by its certificate. connect: a connection to a node, dialled if need be; raises RageError. access_of: a
    document's rights as the log has them; None where it has none, or where the document was removed; blocking.
    """

    def __init__(
        self,
        file: KeyFile,
        env: Env,
        metrics: Metrics,
        rules: Rules,
        *,
        principal_of: Callable[[PeerId], Principal],
        connect: Callable[[PeerId], Awaitable[Connection]],
        access_of: Callable[[str, str], AccessList | None],
        denials: Denials | None = None,
    ) -> None:
        self._file = file
        self._env = env
        self._metrics = metrics
        self._rules = replace(rules, enforcement="strict")
        self._principal_of = principal_of
        self._connect = connect
        self._access_of = access_of
        self._denials = denials or Denials(None, env, metrics)
        self._rates = Rates(burst=REQUESTS_BURST, rate_s=REQUESTS_PER_S, names_max=PEERS_MAX)
        self._serving = 0
        self._finding: dict[tuple[str, str, bytes], asyncio.Lock] = {}

    # --- who has keys ---

    async def serve(self, stream: Stream) -> None:
        """Answer one request: the handler of KEY_PROTOCOL."""
        async with asyncio.timeout(REQUEST_S_MAX):
            data = await stream.read_message(messages.KEY_MESSAGE_BYTES_MAX)
        peer = stream.remote_peer
        try:
            request = messages.decode_key_request(data)
        except RemoteProtocolError:
            await self._answer(stream, KeyResponse(messages.BAD_REQUEST))
            raise
        if self._serving >= SERVED_MAX or self._rates.take(peer, self._env.monotonic()):
            self._metrics.shed.add(1, "key")
            await self._answer(stream, _BUSY)
            return
        principal = self._principal_of(peer)
        self._serving += 1
        try:
            epoch, why = await self._env.blocking(self._look, request, principal)
        finally:
            self._serving -= 1
        is_given = epoch is not None and not why
        await self._answer(stream, KeyResponse(messages.OK, epoch.key) if epoch is not None and is_given else _ABSENT)
        if epoch is not None and why:  # after the answer: its time tells nothing
            self._denials.note("key", str(principal), f"doc:{request.doc_id}", why)

    def _look(self, request: KeyRequest, principal: Principal) -> tuple[Epoch | None, str]:
        """The key if it is here, and why the principal may not have it, "" if it may. Blocking.

        Both are always looked up: an answer about what is absent takes as long as a refusal.
        """
        epoch = self._file.get(request.organization, request.doc_id, request.epoch)
        access = self._access_of(request.organization, request.doc_id)
        if self._rules.is_open or access is None:
            return epoch, "nothing is known of the document"
        resource = DocumentResource(request.doc_id, access)
        decision = authorize(resource, principal, "read", self._rules, self._env.now())
        return epoch, "" if decision.allowed else decision.reason

    async def _answer(self, stream: Stream, response: KeyResponse) -> None:
        data = messages.encode_key_response(response)
        async with asyncio.timeout(REQUEST_S_MAX):
            await stream.write(varint.encode(len(data)) + data)
            await stream.close_write()

    # --- who needs one ---

    async def find(self, sealed: Sealed, holders: Sequence[PeerId]) -> Epoch:
        """The epoch with its key: from here, else from the first of these nodes that gives it. It is kept.

        Whether it is the right one says the log (`Sealed.check`), so nobody can have a wrong one kept here.
        Args: holders: nodes that may have it, the likeliest first; at most ASKED_MAX are asked, for FIND_S_MAX.
        Raises: NotFoundError `key-not-found` when none gave it: none has it, or none may give it to this node.
        """
        name = sealed.organization, sealed.doc_id, sealed.epoch
        lock = self._finding.setdefault(name, asyncio.Lock())
        try:
            async with lock:  # chunks of one document ask together, and one question is enough
                found = await self._env.blocking(self._file.get, *name)
                if found is not None:
                    return found
                return await self._fetch(KeyRequest(*name), sealed.check, holders[:ASKED_MAX])
        finally:
            if not lock.locked():
                self._finding.pop(name, None)

    async def _fetch(self, request: KeyRequest, check: bytes, holders: Sequence[PeerId]) -> Epoch:
        said: list[str] = []
        try:
            async with asyncio.timeout(FIND_S_MAX):
                for peer in holders:
                    try:
                        key = await self._ask(peer, request)
                    except RageError as error:
                        said.append(error.message)
                        continue
                    epoch = Epoch(request.organization, request.doc_id, request.epoch, key)
                    if epoch.check != check:
                        self._metrics.failures.add(1, "wrong_key")
                        said.append(f"{peer} gave a wrong key")
                        continue
                    await self._env.blocking(self._file.receive, epoch)
                    return epoch
        except TimeoutError:
            said.append(f"no answer within {FIND_S_MAX:.0f} s")
        raise NotFoundError(
            f"no node gave the key of document {request.doc_id}, which CDNs have encrypted",
            why="; ".join(said) or "no other node of its organisation is known",
            mend=["rage peer list", f"there: rage acl check {request.doc_id} peer:THIS read"],
            id="key-not-found",
        )

    async def _ask(self, peer: PeerId, request: KeyRequest) -> bytes:
        """One node's answer. Raises RageError."""
        data = messages.encode_key_request(request)
        try:
            async with asyncio.timeout(ASK_S_MAX):
                connection = await self._connect(peer)
                stream = await connection.open_stream(
                    (messages.KEY_PROTOCOL,), timeout_s=ASK_S_MAX, initial=varint.encode(len(data)) + data
                )
                try:
                    await stream.close_write()
                    answer = await stream.read_message(messages.KEY_MESSAGE_BYTES_MAX)
                except BaseException:
                    await stream.reset()
                    raise
                await stream.close()
            response = messages.decode_key_response(answer)
        except TimeoutError:
            raise UnavailableError(f"{peer} did not answer within {ASK_S_MAX:.0f} s", id="stalled") from None
        except RemoteProtocolError as error:
            raise PeerProtocolError(f"{peer}: {error}") from error
        except Libp2pError as error:
            raise UnavailableError(f"{peer}: {error}", id="peer-gone") from error
        if response.status != messages.OK:
            raise from_wire(response.status, f"{peer} has no key for this node")
        return response.key
