"""The HTTP door: public chunks for browsers and CDNs, health for supervisors, metrics for Prometheus.

    GET, HEAD /chunks/<cid>   a public chunk or manifest, as it is; conditional requests and one range (RFC 9110)
    GET /healthz              200 while the process lives
    GET /readyz               200 when it can do its work, else 503 with the reasons
    GET /metrics              on `metrics_listen`, which may be the same address
    /api/v1/network/...       the discovery server's, where there is one (`network_api`)

Whoever asks here is `anyone`, or the user whom a bearer token proves: what they may not have is answered like what is
absent, before anything else about it can be learnt. What a token was shown for is theirs alone, and no cache's. Errors
name no path and no cause. A `Host` that is neither an address nor a known name is refused, because a page of another
site could have had its own name resolve to us (DNS rebinding).

Not here: operators' verbs (`control`), what HTTP itself limits (`listener`).

Source: design D7, D8; RFC 9110, 9111, 8246 (immutable).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec
from aiohttp import hdrs, web

from rage_net import network_api
from rage_net.acl import ANYONE, Principal
from rage_net.bearer import Bearer
from rage_net.cid import Cid, CidError
from rage_net.denials import Denials
from rage_net.discovery.api import Discovery
from rage_net.errors import (
    AccessDeniedError,
    ConfigError,
    DeadlineError,
    NotFoundError,
    RageError,
    UnavailableError,
    UsageError,
)
from rage_net.listener import HEADERS, Listener, error_response, respond
from rage_net.metrics import Metrics
from rage_net.tokens import TokenError

log = logging.getLogger("rage.http")

CONNECTIONS_MAX = 256
BACKLOG = 128

ANSWER_TIMEOUT_S = 60.0
"""For one whole answer to leave: 4 MiB at 70 KiB/s."""

BODIES_BYTES_MAX = 32 * 1024 * 1024
"""Of chunks in memory for clients at once; others wait."""

BODIES_WAIT_S = 5.0
"""How long they wait before they are told to come again."""

MAX_AGE_S = 365 * 24 * 3600
"""How long caches may keep a public chunk: its bytes can never change. What stops being public is purged."""

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII | re.IGNORECASE)
_TYPES = {False: "application/vnd.ipld.raw", True: "application/vnd.ipld.dag-cbor"}
_PRIVATE = "private, no-store"
_NO_STORE = {**HEADERS, hdrs.CACHE_CONTROL: "no-store"}


class ChunkSource(Protocol):
    """Where chunks come from; it asks `authorize` before each answer."""

    async def stat_served(self, cid: Cid, principal: Principal) -> int | None:
        """The plain size in bytes; None when absent or not for the principal."""
        ...

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        """The plain bytes, verified; None when absent or not for the principal."""
        ...


class Http:
    """The HTTP door; an async context manager: entered it answers, left it has closed.

    Args: listen, metrics_listen: HOST:PORT, port 0 for any; None opens none; the same for both is one listener. ready:
    why the node cannot do its work, best first; empty when it can. hosts: names that requests may carry, besides IP
    addresses and `localhost`. tls_cert, tls_key: PEM files; they make `listen` speak TLS, `metrics_listen` when it is
    the same. discovery: answers on the discovery server's routes, which else do not exist. bearer: proves tokens;
    without one all are refused. denials: where refused tokens are noted.
    """

    def __init__(
        self,
        chunks: ChunkSource,
        metrics: Metrics,
        *,
        listen: str | None,
        metrics_listen: str | None = None,
        ready: Callable[[], Sequence[str]],
        hosts: Collection[str] = (),
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        connections_max: int = CONNECTIONS_MAX,
        max_age_s: int = MAX_AGE_S,
        discovery: Discovery | None = None,
        bearer: Bearer | None = None,
        denials: Denials | None = None,
    ) -> None:
        self._chunks = chunks
        self._discovery = discovery
        self._bearer = bearer
        self._denials = denials
        self._metrics = metrics
        self._ready = ready
        self._hosts = {"localhost", *(host.lower().rstrip(".") for host in hosts)}
        self._tls = (tls_cert, tls_key) if tls_cert is not None else None
        self._cache_control = f"public, max-age={max_age_s}, immutable"
        self._connections_max = connections_max
        self._bodies_bytes = 0
        self._bodies = asyncio.Condition()
        self._doors: list[tuple[str, frozenset[str], Listener]] = []
        health = {"healthz", "readyz"}
        if listen is not None:
            shared = metrics_listen == listen
            routes = {"chunks", *health, *({"metrics"} if shared else ())}
            self._add_door(listen, routes | ({network_api.NAME} if discovery is not None else set()))
        if metrics_listen is not None and metrics_listen != listen:
            self._add_door(metrics_listen, {"metrics", *health})
        self.addresses: list[str] = []
        """What is listened on, as URLs with the real ports, in the order listen, metrics_listen."""

    def _add_door(self, address: str, routes: set[str]) -> None:
        served = frozenset(routes)
        listener = Listener(
            functools.partial(self._handle, served),
            connections_max=self._connections_max,
            count=lambda event: self._metrics.shed.add(1, f"http-{event}"),
        )
        self._doors.append((address, served, listener))

    async def __aenter__(self) -> Http:
        try:
            for address, routes, listener in self._doors:
                tls = _tls_context(*self._tls) if self._tls and "chunks" in routes else None
                bound = await _bind(address)
                host, port = bound.getsockname()[:2]
                await listener.start(bound, tls)
                self.addresses.append(f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}")
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(listener.stop() for _, _, listener in self._doors))

    async def _handle(self, routes: frozenset[str], request: web.BaseRequest) -> web.StreamResponse:
        name, _, rest = request.path.removeprefix("/").partition("/")
        route = name if name in routes else "none"
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                try:
                    async with self._answer(request, route, rest) as answer:
                        return await self._send(request, answer, route)
                except ConnectionError:
                    raise  # the client left
                except Exception as error:  # a bug among them: the node lives
                    return await self._send(request, self._refusal(request, error), route)
        except TimeoutError:
            self._metrics.shed.add(1, "http-slow")
            if request.writer.output_size and isinstance(request.transport, asyncio.WriteTransport):
                request.transport.abort()
            return _refuse(DeadlineError("the node did not answer in time"))

    def _refusal(self, request: web.BaseRequest, error: Exception) -> web.Response:
        """What `anyone` is told of an error: its kind, and of our own failures no more than that."""
        match error:
            case NotFoundError():
                return _refuse(NotFoundError("not found"))
            case TokenError():
                if self._denials is not None:
                    self._denials.note("http-token", "anyone", f"{request.method} {request.path}", error.message)
                answer = _refuse(error, 401)
                answer.headers[hdrs.WWW_AUTHENTICATE] = (
                    f'Bearer error="invalid_token", error_description="{error.message}"'
                )
                return answer
            case UsageError():
                return _refuse(error)
            case RageError():
                log.warning("%s %s: %s", request.method, request.path, error)
                return _refuse(UnavailableError("the node cannot answer this now", id=error.id), error.wire_code)
            case _:
                log.error("%s %s failed", request.method, request.path, exc_info=error)
                self._metrics.failures.add(1, "http")
                return _refuse(RageError("the node failed", id="bug"))

    @asynccontextmanager
    async def _answer(self, request: web.BaseRequest, route: str, rest: str) -> AsyncIterator[web.StreamResponse]:
        """The answer, unsent; what it holds of memory is ours until the block ends."""
        is_discovery = route == network_api.NAME and self._discovery is not None
        refused = self._check(request, network_api.methods(request.path) if is_discovery else "GET, HEAD")
        if refused is not None:
            yield refused
        elif is_discovery and self._discovery is not None:
            yield await network_api.answer(self._discovery, request)
        elif route == "chunks":
            async with self._chunk(request, rest) as answer:
                yield answer
        elif route == "none" or rest:
            raise NotFoundError("no such route")
        elif route == "healthz":
            yield respond(200, b"ok\n", content_type="text/plain", headers=_NO_STORE)
        elif route == "readyz":
            reasons = list(self._ready())
            body = msgspec.json.encode({"ready": not reasons, "reasons": reasons}) + b"\n"
            yield respond(503 if reasons else 200, body, content_type="application/json", headers=_NO_STORE)
        else:
            text, content_type = self._metrics.render(request.headers.get(hdrs.ACCEPT, ""))
            yield web.Response(body=text, headers={**_NO_STORE, hdrs.CONTENT_TYPE: content_type})

    def _check(self, request: web.BaseRequest, methods: str) -> web.Response | None:
        """The refusal of what no route may answer, or None. `methods` are those of the route, as `Allow` has them."""
        host = request.headers.get(hdrs.HOST)
        if not request.raw_path.startswith("/") or (host is None and request.version >= (1, 1)):
            raise UsageError("the request needs a Host header and a path")
        if host is not None and not is_known_host(host, self._hosts):
            self._metrics.denied.add(1, "http-host")
            why = "add the name to network.http.hosts if it is this node's"
            return _refuse(AccessDeniedError("this node does not answer for that host name", why=why), 421)
        if request.method not in methods.split(", "):
            answer = _refuse(UsageError(f"{methods.replace(', ', ' and ')} alone is served here"), 405)
            answer.headers[hdrs.ALLOW] = methods
            return answer
        return None

    @asynccontextmanager
    async def _chunk(self, request: web.BaseRequest, text: str) -> AsyncIterator[web.StreamResponse]:
        """The answer, as long as its bytes may be in memory."""
        try:
            cid = Cid.parse(text)
        except CidError as error:
            raise UsageError("the path holds no CID") from error
        authorization = request.headers.getall(hdrs.AUTHORIZATION, [])
        principal = await self._principal(authorization) if authorization else ANYONE
        size = await self._chunks.stat_served(cid, principal)
        if size is None:
            raise NotFoundError("absent or not public")
        etag = f'"{cid}"'
        headers = {
            **HEADERS,
            hdrs.ETAG: etag,
            hdrs.CACHE_CONTROL: _PRIVATE if authorization else self._cache_control,
            hdrs.ACCEPT_RANGES: "bytes",
        }
        if is_match(request.headers.get(hdrs.IF_NONE_MATCH, ""), etag):
            yield web.Response(status=304, headers=headers)
            return
        headers[hdrs.CONTENT_TYPE] = _TYPES[cid.is_manifest()]
        if request.method == hdrs.METH_HEAD:
            yield web.StreamResponse(headers={**headers, hdrs.CONTENT_LENGTH: str(size)})
            return
        wanted = request.headers.get(hdrs.RANGE, "")
        part: range | None = None
        if wanted and request.headers.get(hdrs.IF_RANGE, etag) == etag:
            part = parse_range(wanted, size)
            if part is not None and not part:
                answer = _refuse(UsageError("the range begins past the end"), 416)
                answer.headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
                yield answer
                return
        async with self._room_for(size):
            data = await self._chunks.read_served(cid, principal)
            if data is None:
                raise NotFoundError("gone since")
            if part is None:
                yield web.Response(body=data, headers=headers)
            else:
                headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.stop - 1}/{size}"
                yield web.Response(status=206, body=data[part.start : part.stop], headers=headers)

    async def _principal(self, headers: Sequence[str]) -> Principal:
        if self._bearer is None or len(headers) != 1:
            raise TokenError("no tokens are taken here" if self._bearer is None else "more than one token")
        return await self._bearer.principal(headers[0])

    @asynccontextmanager
    async def _room_for(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` more bytes may be held; one answer always may."""
        try:
            async with asyncio.timeout(BODIES_WAIT_S), self._bodies:
                await self._bodies.wait_for(
                    lambda: self._bodies_bytes == 0 or self._bodies_bytes + size <= BODIES_BYTES_MAX
                )
                self._bodies_bytes += size
        except TimeoutError as error:
            self._metrics.shed.add(1, "http-bodies")
            raise UnavailableError("too many chunks under way", id="busy") from error
        try:
            yield
        finally:
            self._bodies_bytes -= size
            async with self._bodies:
                self._bodies.notify_all()

    async def _send(self, request: web.BaseRequest, answer: web.StreamResponse, route: str) -> web.StreamResponse:
        """Send all of it here, within the request's deadline; what the server does after us finds it done."""
        self._metrics.http_requests.add(1, route, str(answer.status))
        await answer.prepare(request)
        await answer.write_eof()
        if route == "chunks" and answer.status in (200, 206) and request.method == hdrs.METH_GET:
            self._metrics.http_bytes.add(answer.content_length or 0)
        return answer


def is_known_host(header: str, names: Collection[str]) -> bool:
    """Whether a `Host` header carries an IP address, which no name can be rebound to, or one of `names`; any port."""
    host, _, port = header.rpartition(":") if not header.endswith("]") and ":" in header else (header, "", "")
    if port and not (port.isascii() and port.isdigit()):
        return False
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        names = ()
    host = host.lower().rstrip(".")
    if host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_match(if_none_match: str, etag: str) -> bool:
    """Whether the header lists `etag`, weakly compared (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


def parse_range(header: str, size: int) -> range | None:
    """The bytes that a `Range` header wants of `size`: empty when there are none such; None when it is to be ignored.

    One range is understood; several, other units and nonsense are ignored, as RFC 9110, 14.2 allows.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _refuse(error: RageError, status: int | None = None) -> web.Response:
    answer = error_response(error, status=status)
    answer.headers[hdrs.CACHE_CONTROL] = "no-store"
    if answer.status == 503:
        answer.headers[hdrs.RETRY_AFTER] = "1"
    return answer


async def _bind(address: str) -> socket.socket:
    """A socket bound to the first address that HOST:PORT means, with the errors that people make."""
    host, _, port = address.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigError(f"{address} is no address to listen on", why=str(error)) from error
    family, kind, protocol, _, where = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setblocking(False)
        bound.bind(where)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        kinds: dict[int | None, type[RageError]] = {
            errno.EADDRINUSE: UnavailableError,
            errno.EACCES: AccessDeniedError,
            errno.EPERM: AccessDeniedError,
        }
        raise kinds.get(error.errno, ConfigError)(
            f"the HTTP door cannot listen on {address}",
            why=(error.strerror or str(error)).lower(),
            mend=["rage node start --http 127.0.0.1:0", "rage node start --http off", f"ss -ltnp | grep {port}"],
            id="listen-failed",
        ) from error
    return bound


def _tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")  # an encrypted key fails, it never prompts
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"the TLS certificate {certificate} or its key {key} cannot be used",
            why=str(error),
            mend=["check network.http.tls_cert and network.http.tls_key"],
        ) from error
    return context
