"""AWS's library at one door: clients with deadlines, bounded answers, and what their failures mean.

Importing boto3 costs 400 ms: it is done when the first call is made.

Retries are counted by the callers: botocore makes one attempt. A failure is sorted by what the caller does next. What
it says is one printable line from which keys are removed, whoever sent them back to us. Credentials are read anew after
they were refused, so that those which are rotated need no restart.

Not here: what an operation means (cdn.cloudfront, cdn.buckets, chunk.bucket). Source: design D9, D10; issue 6, A;
cdn-apis 5; the S3 API reference, "Error responses".
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")

CONNECT_S = 10.0
"""For a connection, and for sending a body over a new one: 4 MiB at 400 kB/s."""
READ_S = 15.0
"""For the next bytes of an answer."""
CALL_S = 60.0
"""For a whole call: a server that drips must not hold who waits for it."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""Of an answer that is kept whole: a page of 1,000 keys of 1,024 bytes, each escaped, is under it."""
CONNECTIONS = 16
"""Kept open by one client."""
SAID_CHARS_MAX = 200
"""Of a server's own words, in an error."""

BUSY = frozenset(
    {
        *("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "ThrottlingException"),
        *("TooManyRequests", "RequestLimitExceeded", "OperationAborted", "ConditionalRequestConflict"),
        *("ThrottledException", "RequestThrottled", "RequestThrottledException", "TooManyRequestsException"),
    }
)
"""Codes that pass by themselves, whatever their status."""
REFUSED = frozenset(
    {
        *("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId"),
        *("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "401", "403"),
        *("IncompleteSignature", "RequestExpired", "MissingAuthenticationToken", "UnrecognizedClientException"),
    }
)
"""Codes about who asks."""
FULL = frozenset(["XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "507"])

Outcome = Literal["missing", "there", "busy", "broken", "refused", "unsupported", "full", "setup"]

HIDDEN = "<set>"
"""What stands in a server's words instead of a secret."""
NO_ANSWER = "NoAnswer"
"""The code of an answer that cannot be read as one."""
_KEYS_LOOK_LIKE = r"\b(?:AKIA|ASIA)[A-Z0-9]{12,124}\b|(?<=Signature=)[0-9a-fA-F]{16,}|(?<=Security-Token[=:])[^&\s]+"

log = logging.getLogger(__name__)


class Blocking(Protocol):
    """Runs `fn(*args)` off the event loop, as `Env.waiting` does: a call may hold its thread for a minute."""

    async def __call__(self, fn: Callable[..., T], *args: object) -> T:
        """Give its result."""
        ...


class BrokenOff(Exception):
    """Fewer bytes came than were announced, or not in time."""


class Failure(Exception):
    """A call that came to nothing. It carries no request, no credentials and no cause: it may be logged."""

    def __init__(
        self, outcome: Outcome, code: str, said: str, status: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(said)
        self.outcome = outcome
        self.code = code
        """The vendor's, such as `NoSuchDistribution`; else the name of the library's exception."""
        self.said = said
        self.status = status
        """Of HTTP; 0 when there was no answer."""
        self.headers = headers or {}
        """By lower-case name."""


class Account:
    """One service, asked with one set of credentials. Its client is made by the first call. For any number of tasks.

    Args: keys: access key id and secret; None leaves them to AWS's chain (environment, profile, role). endpoint: a URL
    instead of AWS's. blocking: where calls run.
    """

    def __init__(
        self,
        service: str,
        *,
        blocking: Blocking,
        keys: tuple[str, str] | None = None,
        endpoint: str | None = None,
        region: str | None = None,
        call_s: float = CALL_S,
    ) -> None:
        self.endpoint = endpoint
        self._service = service
        self._blocking = blocking
        self._keys = keys
        self._region = region
        self._call_s = call_s
        self._lock = threading.Lock()
        self._client: Any = None
        self._secrets: tuple[str, ...] = keys or ()

    async def ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """The answer to one call, as boto3 gives it. `operation` is a client's method, such as `put_object`.

        Raises: Failure, and nothing else but cancellation. A call that is cancelled goes on in its thread to its end.
        """
        try:
            async with asyncio.timeout(self._call_s):
                return await self._blocking(self._call, operation, arguments)
        except TimeoutError:
            raise Failure("busy", "Deadline", f"no whole answer within {self._call_s:g} s") from None

    def hide(self, text: str) -> str:
        """The text without our keys, and without what looks like one."""
        return hide(text, self._secrets)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _call(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        client = None
        try:
            client = self._open()
            answer: Mapping[str, Any] = getattr(client, operation)(**arguments)
        except Exception as error:
            failure = self._explain(error, is_sent=client is not None)
            if failure.outcome == "refused" and self._keys is None and client is not None:
                self._forget(client)
        else:
            log.debug("%s %s is done", self._service, operation)
            return answer
        log.debug("%s %s: %s", self._service, operation, failure.said)
        raise failure  # outside of `except`: an exception of the library would hang on it, with the request in it

    def _explain(self, error: Exception, *, is_sent: bool) -> Failure:
        """What an exception means. What botocore throws at an answer that is no answer can be of any class."""
        from botocore.parsers import ResponseParserError

        try:
            outcome, code = classify(error)
        except ValueError:
            outcome, code = ("broken", NO_ANSWER) if is_sent else ("setup", "ValueError")
        except Exception:
            if not is_sent:
                raise
            outcome, code = "broken", NO_ANSWER
        if isinstance(error, ResponseParserError):  # it quotes what came
            outcome, code = "broken", NO_ANSWER
        said = "what answers there speaks another language than AWS's API" if code == NO_ANSWER else said_by(error)
        response = getattr(error, "response", {})
        meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        headers = {str(name).lower(): str(text) for name, text in meta.get("HTTPHeaders", {}).items()}
        return Failure(outcome, code, self.hide(said), int(meta.get("HTTPStatusCode", 0)), headers)

    def _open(self) -> Any:
        with self._lock:
            if self._client is None:
                keys = None if self._keys is None else {"access_key": self._keys[0], "secret_key": self._keys[1]}
                self._client, found = connect(
                    self._service, endpoint=self.endpoint, region=self._region, keys=keys, is_bounded=True
                )
                self._secrets = (*(self._keys or ()), *found)
            return self._client

    def _forget(self, client: Any) -> None:
        """The next call reads the credentials again. The old client is left to the threads that are using it."""
        with self._lock:
            if self._client is client:
                self._client = None


def connect(
    service: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    keys: Mapping[str, str | None] | None = None,
    is_bounded: bool = False,
) -> tuple[Any, tuple[str, ...]]:
    """A client of boto3 that tries once, and the secrets it found by itself; nothing is sent to the service.

    Args: keys: access_key, secret_key and perhaps token; None leaves them to AWS's chain. is_bounded: answers longer
    than ANSWER_BYTES_MAX, or slower than CALL_S, break off; for clients that stream no bodies.
    Raises: what botocore raises; ValueError for an endpoint that is no URL.
    """
    import boto3
    import botocore.credentials
    import botocore.session
    from botocore.config import Config

    for name in ("boto3", "botocore", "urllib3"):  # at their lower levels they write requests, signatures and all
        logging.getLogger(name).setLevel(logging.WARNING)
    core = botocore.session.get_session()
    core.register_component("data_loader", _loader())
    if keys is not None:
        core.set_credentials(**keys)
    extra: dict[str, Any] = {}
    if service == "s3":
        extra = {
            # Servers that are not AWS know no trailing checksums; a signed payload is checked by all of them.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"addressing_style": "path" if endpoint else "auto", "payload_signing_enabled": True},
        }
    client = boto3.session.Session(botocore_session=core).client(
        service,
        endpoint_url=endpoint,
        region_name=region or core.get_config_variable("region") or "us-east-1",
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": 1},
            max_pool_connections=CONNECTIONS,
            **extra,
        ),
    )
    if service == "s3" and endpoint:
        client.meta.events.register("before-call.s3", _plain_s3)
    if is_bounded:
        _bound(client, core.get_config_variable("ca_bundle"))
    found = core.get_credentials()
    if type(found) is not botocore.credentials.Credentials:  # those that refresh themselves would do so when looked at
        return client, ()
    return client, tuple(text for text in (found.access_key, found.secret_key, found.token) if text)


@functools.cache
def _loader() -> Any:
    """What reads botocore's descriptions of services, which takes longer than all else of making a client: once."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def _plain_s3(model: Any, params: dict[str, Any], **_: Any) -> None:
    """What servers that are not AWS want otherwise: MD5 where a sum is demanded, and no following of their 301.

    botocore follows it by asking the same server for its region, for ever.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True
    if model.name == "DeleteObjects":
        digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(digest).decode("ascii")
        params["context"].pop("checksum", None)


def _bound(client: Any, ca_file: str | None) -> None:
    """Read answers in pieces, counted: botocore by itself reads whatever comes."""
    from botocore.httpsession import URLLib3Session
    from botocore.parsers import ResponseParserError
    from botocore.utils import get_environ_proxies

    session = URLLib3Session(
        verify=ca_file or True,
        proxies=get_environ_proxies(client.meta.endpoint_url),
        timeout=(CONNECT_S, READ_S),
        max_pool_connections=CONNECTIONS,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # else a body waits 40 ms for its head's receipt
    )

    sockets: dict[int, socket.socket] = {}
    session._pool_classes_by_scheme.update(_pools(sockets))

    def send(request: Any, **_: Any) -> Any:
        request.stream_output = True
        with _cut_after(CALL_S, sockets):
            answer = session.send(request)
            try:
                answer._content = read_whole(answer.raw, ANSWER_BYTES_MAX, CALL_S)
            finally:
                answer.raw.close() if answer._content is None else answer.raw.release_conn()
        if b"<!ENTITY" in answer._content.replace(b"\0", b""):  # in UTF-16, too
            raise ResponseParserError("it declares entities: 4 MB of them unpack into 400")
        return answer

    client.meta.events.register(f"before-send.{client.meta.service_model.service_id.hyphenize()}", send)
    close = client.close

    def close_both() -> None:
        close()
        session.close()

    client.close = close_both


def _pools(sockets: dict[int, socket.socket]) -> dict[str, Any]:
    """Classes of urllib3's pools: who sends by one of their connections leaves its socket by the number of its thread.

    The socket, for a connection that will close has none any more when its answer is read.
    """
    from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool

    def noting(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]  # botocore has no types
            def connect(self) -> None:
                super().connect()
                sockets[threading.get_ident()] = self.sock

            def request(self, *args: Any, **kwargs: Any) -> Any:
                if self.sock is not None:
                    sockets[threading.get_ident()] = self.sock
                return super().request(*args, **kwargs)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    return {"http": noting(AWSHTTPConnectionPool), "https": noting(AWSHTTPSConnectionPool)}


@contextlib.contextmanager
def _cut_after(seconds: float, sockets: dict[int, socket.socket]) -> Iterator[None]:
    """End what this thread's socket does when the time is over: an answer that drips has no other end.

    Who asked has been told long before; but the thread would stay, and there are only so many.
    """
    own = threading.get_ident()
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        used = sockets.get(own)
        if used is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(used, socket.SHUT_RDWR)  # TLS's own forgets what the reader needs

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    broken = BrokenOff(f"no whole answer came in {seconds:.0f} s")
    try:
        yield
        if is_over.is_set():  # a head that ends in the middle passes for a whole one
            raise broken
    except Exception as error:
        if is_over.is_set():
            raise broken from error
        raise
    finally:
        timer.cancel()
        sockets.pop(own, None)


def read_whole(raw: Any, bytes_max: int, seconds_max: float, clock: Callable[[], float] = time.monotonic) -> bytes:
    """All that urllib3's answer holds. Raises BrokenOff beyond either bound."""
    began = clock()
    parts, size = [], 0
    for part in raw.stream(64 * 1024):
        size += len(part)
        if size > bytes_max:
            raise BrokenOff(f"more than {bytes_max} bytes came")
        if clock() - began > seconds_max:
            raise BrokenOff(f"{size} bytes came in {seconds_max:.0f} s")
        parts.append(part)
    return b"".join(parts)


def classify(error: Exception) -> tuple[Outcome, str]:
    """What a failure means for the caller, and its code. What is none of the library's passes through as it is."""
    from botocore import exceptions as core
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, core.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return _sort(code, status, error.operation_name), code
    broken = (
        BrokenOff,
        core.IncompleteReadError,
        core.ResponseStreamingError,
        HTTPError,
        ConnectionError,
        TimeoutError,
    )
    if isinstance(error, broken):
        return "broken", "BrokenOff"
    transient = (core.HTTPClientError, core.ConnectionError, core.CredentialRetrievalError, core.MetadataRetrievalError)
    if isinstance(error, (*transient, ResponseParserError)):
        return "busy", type(error).__name__
    if isinstance(error, core.NoCredentialsError | core.PartialCredentialsError | core.ProfileNotFound):
        return "refused", type(error).__name__
    if isinstance(error, core.BotoCoreError | OSError):  # an OSError is no answer: least of all that a file is missing
        return "setup", type(error).__name__
    raise error


def _sort(code: str, status: int, operation: str) -> Outcome:
    if code == "NoSuchKey" or (code == "404" and operation == "HeadObject"):
        return "missing"
    if status == 412:
        return "there"
    if code in FULL or status == 507:
        return "full"
    if code in BUSY or status == 429:
        return "busy"
    if code in REFUSED or status in (401, 403):
        return "refused"
    if status == 501 and operation == "PutObject":
        return "unsupported"
    return "busy" if status >= 500 else "setup"


def said_by(error: Exception) -> str:
    """A failure in the words of the server or of the library: one line, printable, not long."""
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        found = response["Error"]
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
        text = f"{status} {found.get('Code', '')}: {found.get('Message', '')}"
    else:
        text = str(error) or type(error).__name__
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= SAID_CHARS_MAX else f"{line[:SAID_CHARS_MAX]}…"


def hide(text: str, secrets: Iterable[str]) -> str:
    """The text with `<set>` instead of each secret, and of what looks like an access key or a signature."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return re.sub(_KEYS_LOOK_LIKE, HIDDEN, text)
