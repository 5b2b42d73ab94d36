"""HTTP as a client: one request, one bounded answer, one deadline. The only module that knows `httpx`.

What the other side sends is bounded while it arrives: no more than `bytes_max` of body, no compression (a small answer
could unpack into a large one), no other content type than was asked for, and all of it before the deadline, however
slowly it drips. Redirects are not followed: a server we were told to ask could send us to an address inside our own
network; the error names where it pointed. No cookies, no netrc, no proxy from the environment: it drives httpx's
transport, below all of these.

Not here: what a body means, retries. Source: design 4.8; RFC 9110.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rage_net.errors import (
    AccessDeniedError,
    CertificateError,
    ConfigError,
    PeerProtocolError,
    RageError,
    UnavailableError,
    UsageError,
    from_wire,
)

if TYPE_CHECKING:  # httpx costs 89 ms: it is imported when the first request is made
    import httpx

TIMEOUT_S = 10.0
"""For a whole exchange, from the name's resolution to the last byte, where the caller does not say."""

ANSWER_BYTES_MAX = 1024 * 1024
"""Of a body, where the caller does not say."""

ERROR_BYTES_MAX = 16 * 1024
"""Of the body of an answer that is an error."""

PARTS_MAX = 16 * 1024
"""Of a body, as it comes in: one in parts of two bytes costs 20 µs a part, in which nothing else runs."""
PARTS_AT_ONCE = 64
"""Parts after which others have their turn: those that lie in the socket's buffer are read without a wait."""

CONNECTIONS_MAX = 32
IDLE_CONNECTIONS_MAX = 8
IDLE_S = 20.0
"""How long an idle connection is kept for the next request to the same server."""

TOLD_CHARS_MAX = 200
"""Of what a server says of an error, as people see it."""

RETRY_AFTER_S_MAX = 3600.0
"""A server that asks for a longer pause is asked again after this all the same."""

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, its body within the limit; of `get` and `request` with a good status (2xx)."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    seconds: float
    """From the request's begin to the last byte."""
    remote: str | None
    """The IP address that answered; None where the transport does not say."""


class RefusedError(UnavailableError):
    """A server is there and asks us to come again later. `retry_after_s` is how much later, at most an hour."""

    id = "rate-limited"

    def __init__(self, message: str, *, retry_after_s: float, why: str = "") -> None:
        super().__init__(message, why=why)
        self.retry_after_s = retry_after_s


class Web:
    """A client for any number of servers; an async context manager, which closes its connections at the end.

    Args: agent: the name in `User-Agent`. ca_file: certificates to trust instead of the system's. transport: instead of
    the network, in tests.
    """

    def __init__(
        self,
        *,
        agent: str = "rage",
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent = agent
        self._ca_file = ca_file
        self._transport = transport
        self._clock = clock

    async def __aenter__(self) -> Web:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        bytes_max: int = ANSWER_BYTES_MAX,
        content_type: str | None = JSON,
    ) -> Answer:
        """GET; see `request`."""
        return await self.request(
            "GET", url, headers=headers, timeout_s=timeout_s, bytes_max=bytes_max, content_type=content_type
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        bytes_max: int = ANSWER_BYTES_MAX,
        content_type: str | None = JSON,
    ) -> Answer:
        """One exchange.

        Args: body: sent as it is; its type is the caller's header. content_type: what a good answer must be, its
        parameters aside; None takes any.
        Raises: UnavailableError when nobody answers in time, or the status says to come again; CertificateError when
        the server cannot prove its name; PeerProtocolError for an answer that is no HTTP, too large, compressed, of
        another type, or a redirect; else the class that the status stands for, with what the server said of it.
        """
        return await self._exchange(method, url, body, headers, timeout_s, bytes_max, content_type, judge=True)

    async def _exchange(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout_s: float,
        bytes_max: int,
        content_type: str | None,
        *,
        judge: bool,
        connect_s: float | None = None,
    ) -> Answer:
        import httpx

        sent = {
            "Accept": content_type or "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": self._agent,
            **(headers or {}),
        }
        timeouts = {"timeout": httpx.Timeout(timeout_s, connect=connect_s or timeout_s).as_dict()}
        host = url
        began = self._clock()
        try:
            request = httpx.Request(method, url, content=body, headers=sent, extensions=timeouts)
            host = request.url.netloc.decode("ascii")
            if request.url.scheme not in ("http", "https") or not request.url.host:
                raise UsageError(
                    f"{_address(url)} is no address of a web server", why="it begins with http:// or https://"
                )
            async with asyncio.timeout(timeout_s):
                response = await (await self._open()).handle_async_request(request)
                try:
                    return await self._read(response, host, bytes_max, content_type, began, judge=judge)
                finally:
                    with suppress(httpx.HTTPError):
                        await response.aclose()
        except httpx.ConnectTimeout as error:
            within_s = connect_s or timeout_s
            raise UnavailableError(f"{host} took no connection within {within_s:g} s", id="timeout") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise UnavailableError(f"{host} did not answer within {timeout_s:g} s", id="timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            raise _mapped(error, host, url) from error

    async def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        connect_s: float | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """One exchange whose status, type and redirects are the caller's to judge; else as `request`.

        connect_s: for a new connection alone, where it may take no longer than a part of the whole.
        """
        return await self._exchange(
            method, url, body, headers, timeout_s, bytes_max, None, judge=False, connect_s=connect_s
        )

    async def _open(self) -> httpx.AsyncBaseTransport:
        if self._transport is None:
            import httpx

            _settle_sniffio()
            limits = httpx.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=IDLE_CONNECTIONS_MAX,
                keepalive_expiry=IDLE_S,
            )
            self._transport = httpx.AsyncHTTPTransport(
                verify=_tls_context(self._ca_file), limits=limits, trust_env=False
            )
        return self._transport

    async def _read(
        self,
        response: httpx.Response,
        host: str,
        bytes_max: int,
        content_type: str | None,
        began: float,
        *,
        judge: bool,
    ) -> Answer:
        status = response.status_code
        headers = {name.lower(): text for name, text in response.headers.items()}
        if judge and 300 <= status < 400:
            raise PeerProtocolError(
                f"{host} sends us elsewhere: {_shown(headers.get('location', 'it does not say where'))}",
                why="redirects are not followed",
                mend=["rage config check", "give the address it names in the configuration, if that is right"],
                id="redirected",
            )
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise PeerProtocolError(f"{host} answers in a compressed form that was not asked for")
        if judge and not 200 <= status < 300:
            raise _refused(status, headers, await _body(response, host, ERROR_BYTES_MAX), host)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type is not None and kind != content_type:
            raise PeerProtocolError(
                f"{host} answers with {_shown(kind) or 'no content type'}, not {content_type}",
                why="another program listens there, or a portal stands between",
                id="answer-type",
            )
        body = await _body(response, host, bytes_max)
        return Answer(status, headers, body, self._clock() - began, _remote(response))


async def _body(response: httpx.Response, host: str, bytes_max: int) -> bytes:
    """All of it, counted while it comes."""
    announced = response.headers.get("content-length", "")
    parts, size = [], 0
    too_large = announced.isascii() and announced.isdigit() and (len(announced) > 15 or int(announced) > bytes_max)
    if not too_large:
        async for part in response.stream:  # type: ignore[union-attr]  # async transports give async streams
            size += len(part)
            too_large = size > bytes_max
            if too_large:
                break
            parts.append(part)
            if len(parts) > PARTS_MAX:
                raise PeerProtocolError(f"{host} gives its answer in crumbs", why=f"more than {PARTS_MAX} parts came")
            if len(parts) % PARTS_AT_ONCE == 0:
                await asyncio.sleep(0)
    if too_large:
        raise PeerProtocolError(f"{host} answers with more than {bytes_max} bytes", id="answer-too-large")
    return b"".join(parts)


def _remote(response: httpx.Response) -> str | None:
    stream = response.extensions.get("network_stream")
    where = stream.get_extra_info("server_addr") if stream is not None else None
    return str(where[0]) if isinstance(where, tuple) and where else None


def _refused(status: int, headers: Mapping[str, str], body: bytes, host: str) -> RageError:
    """The error that a status stands for, with the server's own words: shown, never followed."""
    told = ""
    with suppress(ValueError, RecursionError):
        plain = json.loads(body)
        if isinstance(plain, dict):
            told = ": ".join(str(plain[key]) for key in ("message", "why") if plain.get(key))
    message = f"{host} answers {status}"
    why = _shown(told)
    if status == 429 or (status == 503 and "retry-after" in headers):
        text = headers.get("retry-after", "").strip()
        seconds = float(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1.0
        return RefusedError(message, why=why, retry_after_s=min(seconds, RETRY_AFTER_S_MAX))
    error = AccessDeniedError(message) if status == 401 else from_wire(status, message)
    if 400 <= status < 500 and isinstance(error, UnavailableError):
        error = PeerProtocolError(message)
    error.why = why
    return error


def _shown(text: str) -> str:
    """A stranger's text as one short printable line."""
    return "".join(char if char.isprintable() else " " for char in text[:TOLD_CHARS_MAX]).strip()


def _address(url: str) -> str:
    """A URL as errors show it: without its query, where a signature may stand."""
    return _shown(url.partition("?")[0])


def _mapped(error: Exception, host: str, url: str) -> RageError:
    import httpx

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateError(
                f"{host} cannot prove that it is {host}",
                why=cause.verify_message or str(cause),
                mend=["check its certificate, and the clock of this machine: date -u"],
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError)):
        return UsageError(f"{_address(url)} is no address of a web server", why=_shown(str(error)))
    if isinstance(error, (httpx.ProtocolError, httpx.DecodingError, httpx.StreamError)):
        is_cut = isinstance(error, httpx.RemoteProtocolError) and "complete message body" in str(error)
        said = "ended before its answer did" if is_cut else "does not speak HTTP as it should"
        return PeerProtocolError(f"{host} {said}", why=_shown(str(error)), id="answer-truncated" if is_cut else None)
    why = _shown(str(error)) or type(error).__name__
    return UnavailableError(f"{host} cannot be reached", why=why, id="server-unreachable")


def _settle_sniffio() -> None:
    """Tell Python once that sniffio is not there, where it is not.

    In each request httpcore tries four times to import it, and each try searches the whole path: 0.1 ms together.
    """
    if "sniffio" not in sys.modules and importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # the language's word for "not to be had"


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verification as the system does it: its certificates, or those that OpenSSL's SSL_CERT_FILE names."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the certificates in {ca_file} cannot be used", why=str(error)) from error
