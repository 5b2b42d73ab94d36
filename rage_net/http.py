"""The HTTP door: public chunks for browsers and CDNs, health for supervisors, metrics for Prometheus.

    GET, HEAD /chunks/<cid>, /ipfs/<cid>   public chunks, manifests and archives (`gateway`)
    GET /healthz              200 while the process lives
    GET /readyz               200 when it can do its work, else 503 with the reasons
    GET /metrics              on `metrics_listen`, which may be the same address
    /api/v1/network/...       the discovery server's, where there is one (`network_api`)

Whoever asks here is `anyone`, or the user whom a bearer token proves: what they may not have is answered like what is
absent, before anything else about it can be learnt. What a token was shown for is theirs alone, and no cache's. Errors
name no path and no cause. A `Host` that is neither an address nor a known name is refused, because a page of another
site could have had its own name resolve to us (DNS rebinding).

Not here: operators' verbs (`control`), what HTTP itself limits (`listener`), what is answered of chunks (`gateway`).

Source: design D7, D8; RFC 9110.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

import msgspec
from aiohttp import hdrs, web

from rage_net import gateway, network_api
from rage_net.bearer import Bearer
from rage_net.cdn.policy import NO_STORE
from rage_net.config.cdn import Cdn
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
from rage_net.gateway import ChunkSource, Gateway
from rage_net.listener import HEADERS, Listener, error_response, respond
from rage_net.metrics import Metrics
from rage_net.tokens import TokenError

log = logging.getLogger("rage.http")

CONNECTIONS_MAX = 256
BACKLOG = 128

NO_CDN = Cdn(enabled=False)

_NO_STORE = {**HEADERS, hdrs.CACHE_CONTROL: "no-store"}


class Http:
    """The HTTP door; an async context manager: entered it answers, left it has closed.

    Args: listen, metrics_listen: HOST:PORT, port 0 for any; None opens none; the same for both is one listener. ready:
    why the node cannot do its work, best first; empty when it can. hosts: names that requests may carry, besides IP
    addresses and `localhost`. tls_cert, tls_key: PEM files; they make `listen` speak TLS, `metrics_listen` when it is
    the same. discovery: answers on the discovery server's routes, which else do not exist. bearer: proves tokens;
    without one all are refused. denials: where refused tokens are noted. cdn: what caches are told; by default that
    nobody purges them.
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
        discovery: Discovery | None = None,
        bearer: Bearer | None = None,
        denials: Denials | None = None,
        cdn: Cdn = NO_CDN,
    ) -> None:
        self.gateway = Gateway(chunks, metrics, bearer, cdn)
        self._discovery = discovery
        self._denials = denials
        self._metrics = metrics
        self._ready = ready
        self._hosts = {"localhost", *(host.lower().rstrip(".") for host in hosts)}
        self._tls = (tls_cert, tls_key) if tls_cert is not None else None
        self._connections_max = connections_max
        self._doors: list[tuple[str, frozenset[str], Listener]] = []
        health = {"healthz", "readyz"}
        if listen is not None:
            shared = metrics_listen == listen
            routes = {*gateway.ROUTES, *health, *({"metrics"} if shared else ())}
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
            async with asyncio.timeout(gateway.ANSWER_TIMEOUT_S) as deadline:
                try:
                    async with self._answer(request, route, rest, deadline) as answer:
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
    async def _answer(
        self, request: web.BaseRequest, route: str, rest: str, deadline: asyncio.Timeout
    ) -> AsyncIterator[web.StreamResponse]:
        """The answer, unsent; what it holds of memory is ours until the block ends."""
        is_discovery = route == network_api.NAME and self._discovery is not None
        refused = self._check(request, network_api.methods(request.path) if is_discovery else "GET, HEAD")
        if refused is not None:
            yield refused
        elif is_discovery and self._discovery is not None:
            yield await network_api.answer(self._discovery, request)
        elif route in gateway.ROUTES:
            async with self.gateway.answer(request, route, rest, deadline) as answer:
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

    async def _send(self, request: web.BaseRequest, answer: web.StreamResponse, route: str) -> web.StreamResponse:
        """Send all of it here, within the request's deadline; what the server does after us finds it done."""
        self._metrics.http_requests.add(1, route, str(answer.status))
        await answer.prepare(request)
        try:
            await answer.write_eof()
        except ConnectionError:
            raise
        except Exception as error:
            log.warning("%s %s ended early: %s", request.method, request.path, error)
            if isinstance(request.transport, asyncio.WriteTransport):
                request.transport.abort()
            raise ConnectionError("the answer has begun; only closing the connection can tell the client") from error
        if route in gateway.ROUTES and answer.status in (200, 206) and request.method == hdrs.METH_GET:
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


def _refuse(error: RageError, status: int | None = None) -> web.Response:
    answer = error_response(error, status=status)
    answer.headers.update(NO_STORE)
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
