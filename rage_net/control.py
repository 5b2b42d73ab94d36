"""The door for operators: every verb over a Unix socket, as HTTP.

    POST /v1/<noun>/<verb>    the verb's dataclass as JSON; or, where octets go in, the octets themselves, with the
                              dataclass as base64url JSON in `X-Rage-Verb`
    answer                    application/x-ndjson: {"type":"progress",..} lines now and then, {"type":"item","item":..}
                              lines as they come, {"type":"dropped","count":..} where a reader was too slow for some,
                              then one {"type":"result","result":..} or {"type":"error",..}; where octets come out,
                              application/octet-stream with its length
    GET /v1/op/<id>           what became of an operation; every answer names its own in `X-Rage-Op`

An error before the first byte has the error's status and is one line of JSON. An error amid octets ends the connection
before their announced length, and is told at /v1/op/<id>. A client that leaves cancels what only reads; what changes
something runs on, except that a put whose octets stop coming fails and records nothing.

Not here: the socket itself (`local_socket`), HTTP's limits (`listener`), the bridge to blocking code (`octets`).
Source: design D8.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import random as random_module
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec
from aiohttp import hdrs, web

from rage_net import local_socket
from rage_net.errors import AccessDeniedError, DeadlineError, NotFoundError, RageError, UnavailableError, UsageError
from rage_net.listener import HEADERS, Listener, bug, error_response, respond
from rage_net.metrics import Metrics
from rage_net.octets import STALL_S, ClientLeftError, RequestSource, ResponseSink
from rage_net.operations import Operation, Operations
from rage_net.verbs import DecodeError, Progress, Sink, Source, Verb, decode

log = logging.getLogger("rage.control")

JSON_BYTES_MAX = 1024 * 1024
"""For a verb as JSON; aiohttp refuses more while it reads."""

HEAD_BYTES_MAX = 64 * 1024
"""For one header field: `X-Rage-Verb` carries a verb with all its tags."""

READ_BYTES = 1024 * 1024
"""Of a body held while the engine is busy; the connection's reading pauses at twice that."""

CONNECTIONS_MAX = 256
OPERATIONS_MAX = 64
"""At once. Further ones are told to come again: scripts that run twenty puts at once are common."""

BODY_TIMEOUT_S = 30.0
"""For the whole of a verb as JSON to arrive."""

PROGRESS_EVERY_S = 0.2
ITEMS_BYTES = 256 * 1024
"""Of items handed to a connection at a time; what it does not take holds up the next, not the verb."""

OP_WAIT_S = 10.0
"""How long `GET /v1/op/<id>` waits for an operation that still runs before it says so."""

DRAIN_S = 6.0
"""For running operations to end when the node stops; SIGTERM promises 10 s in all, doors and swarm included."""


class Engine(Protocol):
    """What carries out verbs.

    `source` and `sink` block, so they are used in threads that the engine can spare: a client may stall for `STALL_S`.
    `progress` and `tell` may be called from any thread, as often as they like. `tell` comes with verbs that have items.
    """

    async def run(
        self,
        verb: Verb[Any],
        *,
        source: Source | None = None,
        sink: Sink | None = None,
        progress: Callable[[Progress], None] | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> Any:
        """Carry out `verb` and give its result. Raises RageError."""
        ...


class Control:
    """The control API on the socket at `path`; an async context manager: entered it answers, left it has drained.

    Args: gid: a group whose members may operate the node too. credentials: who is at the other end of a connection.
    """

    def __init__(
        self,
        engine: Engine,
        verbs: Mapping[str, type[Verb[Any]]],
        path: Path,
        *,
        random: random_module.Random,
        metrics: Metrics,
        gid: int | None = None,
        credentials: Callable[[socket.socket], local_socket.Credentials] = local_socket.peer_credentials,
        connections_max: int = CONNECTIONS_MAX,
        stall_s: float = STALL_S,
        drain_s: float = DRAIN_S,
    ) -> None:
        self.path = path
        self._engine = engine
        self._verbs = verbs
        self._gid = gid
        self._uid = os.geteuid()
        self._random = random
        self._credentials = credentials
        self._metrics = metrics
        self._stall_s = stall_s
        self._drain_s = drain_s
        self._operations = Operations()
        self._tasks = asyncio.TaskGroup()
        self._stopping = False
        self._identity = (0, 0)
        self._listener = Listener(
            self._handle,
            connections_max=connections_max,
            head_bytes_max=HEAD_BYTES_MAX,
            read_bytes=READ_BYTES,
            count=lambda event: metrics.shed.add(1, f"control-{event}"),
        )

    async def __aenter__(self) -> Control:
        bound = local_socket.bind(self.path, gid=self._gid)
        self._identity = local_socket.file_identity(self.path)
        await self._tasks.__aenter__()
        await self._listener.start(bound)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._drain()
        await self._listener.stop()  # also frees threads that wait for octets, which a cancelled verb may wait for
        await self._tasks.__aexit__(None, None, None)

    async def _drain(self) -> None:
        """Take no new verbs, and wait for those that run."""
        self._stopping = True
        local_socket.unlink(self.path, self._identity)  # first, so that no new client finds a node that goes
        tasks = {operation.task for operation in self._operations.running() if operation.task is not None}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._drain_s)
        for task in late:
            log.warning("%s did not end in %g s and is cancelled", task.get_name(), self._drain_s)
            task.cancel()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._check_peer(request)
            parts = request.path.split("/")
            if len(parts) != 4 or parts[1] != "v1":
                raise NotFoundError(f"the control API has no {request.path[:80]!r}", id="no-such-route")
            if parts[2] == "op":
                return await self._show_operation(request, parts[3])
            return await self._run(request, f"{parts[2]}/{parts[3]}")
        except RageError as error:
            return error_response(error)
        except _MethodError as error:
            answer = error_response(UsageError(str(error)), status=405)
            answer.headers[hdrs.ALLOW] = error.allowed
            return answer

    def _check_peer(self, request: web.BaseRequest) -> None:
        connection = request.get_extra_info("socket")
        if connection is None:
            raise ClientLeftError
        who = self._credentials(connection)
        if not local_socket.is_allowed(who, uid=self._uid, gid=self._gid):
            self._metrics.denied.add(1, "control")
            log.warning("user %d was refused at the control socket", who.uid)
            raise AccessDeniedError(
                f"user {who.uid} may not operate this node",
                why=f"it belongs to user {self._uid}",
                mend=["set network.control.group to a group of yours", f"sudo -u '#{self._uid}' rage ..."],
            )

    async def _show_operation(self, request: web.BaseRequest, op_id: str) -> web.StreamResponse:
        if request.method != hdrs.METH_GET:
            raise _MethodError(request.method, "GET")
        operation = self._operations.get(op_id)
        if operation is None:
            raise NotFoundError(f"no operation {op_id[:80]!r}", why="it is long over, or of an earlier node")
        if operation.task is not None:
            await asyncio.wait([operation.task], timeout=OP_WAIT_S)
        if operation.outcome is None:
            return respond(202, _line("progress", operation.progress), content_type="application/json")
        return respond(200, operation.outcome, content_type="application/json")

    async def _run(self, request: web.BaseRequest, route: str) -> web.StreamResponse:
        kind = self._verbs.get(route)
        if kind is None:
            raise NotFoundError(
                f"this node knows no verb {route[:80]!r}",
                why="the node and the command are of different versions",
                mend=["rage node stop", "rage node start"],
                id="no-such-verb",
            )
        if request.method != hdrs.METH_POST:
            raise _MethodError(request.method, "POST")
        verb = _decode_verb(kind, await self._read_verb(request, kind))
        if self._stopping:
            raise UnavailableError("the node is stopping", id="stopping")
        if len(self._operations.running()) >= OPERATIONS_MAX:
            self._metrics.shed.add(1, "control-busy")
            raise UnavailableError(f"the node is busy with {OPERATIONS_MAX} operations", id="busy")
        source = RequestSource(request, self._stall_s) if kind.octets_in else None
        operation = Operation(f"{self._random.getrandbits(64):016x}", route)
        headers = {"X-Rage-Op": operation.id}
        sink = ResponseSink(request, headers, self._stall_s) if kind.octets_out else None
        operation.task = self._tasks.create_task(
            self._carry_out(operation, verb, source, sink), name=f"{route} {operation.id}"
        )
        operation.task.add_done_callback(lambda task: self._settle(operation, sink))
        self._operations.add(operation)
        try:
            if sink is not None:
                return await self._stream_octets(request, operation, sink)
            return await self._stream_lines(request, operation, headers)
        except BaseException:  # cancelled or a failed write: the client left, or the node stops
            if not kind.mutates:
                operation.task.cancel()
            raise
        finally:
            operation.items.close()  # the table of operations outlives the answer
            if sink is not None:
                sink.close()

    async def _read_verb(self, request: web.BaseRequest, kind: type[Verb[Any]]) -> bytes:
        if kind.octets_in:
            text = request.headers.get("X-Rage-Verb", "")
            try:
                return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            except (binascii.Error, ValueError) as error:
                raise UsageError("the header X-Rage-Verb is no base64url") from error
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise UsageError(f"the verb is larger than {JSON_BYTES_MAX} bytes") from error
        except TimeoutError as error:
            raise DeadlineError(f"the verb did not arrive within {BODY_TIMEOUT_S:g} s") from error
        except (ConnectionError, web.RequestPayloadError) as error:
            raise ClientLeftError from error

    async def _carry_out(self, operation: Operation, verb: Verb[Any], source: Source | None, sink: Sink | None) -> None:
        """Run the verb and keep what came of it; nothing escapes, so that one operation never ends another."""
        try:
            tell = None if verb.item is None else operation.tell
            result = await self._engine.run(verb, source=source, sink=sink, progress=operation.set_progress, tell=tell)
            operation.finish(_line("result", _with_dropped(result, operation.items.dropped_total)))
        except RageError as error:
            operation.fail(error)
        except Exception as error:  # a bug in a verb: the node lives, the client is told where to look
            self._metrics.failures.add(1, "control")
            log.exception("%s failed", operation.route)
            operation.fail(bug(error, operation.route))

    def _settle(self, operation: Operation, sink: ResponseSink | None) -> None:
        """Once the task is over, cancelled before its first step included, the table knows what came of it."""
        if operation.outcome is None:
            operation.fail(UnavailableError(f"{operation.route} was cancelled", id="cancelled"))
        elif operation.error is None and sink is not None and not sink.is_complete():
            log.error("%s gave a result but not all its octets", operation.route)
            operation.fail(bug(None, operation.route))
        self._operations.finished(operation)

    async def _stream_lines(
        self, request: web.BaseRequest, operation: Operation, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        assert operation.task is not None
        response = web.StreamResponse(headers={**HEADERS, **headers})
        response.content_type = "application/x-ndjson"
        told: Progress | None = None
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        operation.items.on_first = lambda: _wake(loop, changed)
        operation.task.add_done_callback(lambda _: changed.set())
        next_progress = loop.time() + PROGRESS_EVERY_S
        while not operation.task.done():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_progress):
                    await changed.wait()
            changed.clear()
            await self._send_items(request, response, operation)
            if loop.time() < next_progress:
                continue
            next_progress = loop.time() + PROGRESS_EVERY_S
            progress = operation.progress
            if operation.task.done() or progress is None or progress is told:
                continue
            if not response.prepared:
                await response.prepare(request)
            # A client that still sends its octets may not read yet: progress never waits for it, and may be left out.
            if not _unsent_bytes(request):
                told = progress
                await response.write(_line("progress", progress))
        await self._send_items(request, response, operation)
        assert operation.outcome is not None
        if not response.prepared and operation.error is not None:
            answer = error_response(operation.error)
            answer.headers.update(headers)
            return answer
        await self._write(request, response, operation.outcome)
        return response

    async def _send_items(self, request: web.BaseRequest, response: web.StreamResponse, operation: Operation) -> None:
        """Send what the verb has told so far; while the client does not take it, more is told and the oldest goes."""
        while True:
            dropped, lines = operation.items.take(ITEMS_BYTES)
            if dropped:
                lines.insert(0, msgspec.json.encode({"type": "dropped", "count": dropped}) + b"\n")
            if not lines:
                return
            await self._write(request, response, b"".join(lines))

    async def _stream_octets(
        self, request: web.BaseRequest, operation: Operation, sink: ResponseSink
    ) -> web.StreamResponse:
        assert operation.task is not None
        await asyncio.wait([operation.task])
        if sink.response is not None:
            if not sink.is_complete():
                _abort(request)
            return sink.response
        answer = error_response(operation.error or bug(None, operation.route))
        answer.headers["X-Rage-Op"] = operation.id
        return answer

    async def _write(self, request: web.BaseRequest, response: web.StreamResponse, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await response.prepare(request)
                await response.write(data)
        except TimeoutError:
            _abort(request)


class _MethodError(Exception):
    """Another HTTP method than the route's."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not {allowed}")
        self.allowed = allowed


def _decode_verb(kind: type[Verb[Any]], body: bytes) -> Verb[Any]:
    try:
        return decode(kind, msgspec.json.decode(body or b"{}"))
    except (DecodeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{kind.route}: {error}") from error


def _line(kind: str, value: Any) -> bytes:
    if kind == "progress":
        return msgspec.json.encode({"type": kind, **(msgspec.to_builtins(value) if value is not None else {})}) + b"\n"
    return msgspec.json.encode({"type": kind, kind: value}) + b"\n"


def _wake(loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
    """From any thread. Where the loop is closed a thread has outlived the node, and nobody waits."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(changed.set)


def _with_dropped(result: Any, dropped: int) -> Any:
    """The result, which counts what did not reach its reader: those that the engine dropped, and those dropped here."""
    return replace(result, dropped=result.dropped + dropped) if dropped and hasattr(result, "dropped") else result


def _unsent_bytes(request: web.BaseRequest) -> int:
    transport = request.transport
    return transport.get_write_buffer_size() if isinstance(transport, asyncio.WriteTransport) else 0


def _abort(request: web.BaseRequest) -> None:
    """Close at once: the client sees fewer octets than were announced."""
    if isinstance(request.transport, asyncio.WriteTransport):
        request.transport.abort()
