"""The discovery server's routes at the HTTP door: a bounded body in, a `Request` over, an `Answer` out as JSON.

Errors here carry what the client did wrong, because a client that knows can mend it; what is wrong with this server it
is not told. Not here: what is answered (`discovery.server`), hosts and methods (`http`).
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
from aiohttp import hdrs, web

from rage_net.discovery import api
from rage_net.discovery.api import Discovery
from rage_net.errors import (
    AccessDeniedError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RageError,
    UsageError,
)
from rage_net.libp2p.scope import IpAddress, parse_ip
from rage_net.listener import HEADERS, error_response, respond

log = logging.getLogger("rage.http")

NAME = "api"
"""The first part of the routes' paths."""
BODY_TIMEOUT_S = 10.0
"""For a whole body to arrive: 16 KiB at 1.6 KiB/s."""


def methods(path: str) -> str:
    """What the route at `path` serves, as the header `Allow` has it."""
    return "POST" if api.METHODS.get(path) == hdrs.METH_POST else "GET, HEAD"


async def answer(discovery: Discovery, request: web.BaseRequest) -> web.Response:
    """The answer of `discovery`. Raises NotFoundError; whatever a client cannot mend passes."""
    if request.path not in api.METHODS:
        raise NotFoundError("no such route")
    try:
        body = await _read(request) if request.method == hdrs.METH_POST else b""
        found = await discovery.handle(
            api.Request(
                method=hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method,
                path=request.path,
                query=request.raw_path.partition("#")[0].partition("?")[2],
                headers={name.lower(): text for name, text in request.headers.items()},
                source=_address(request, "peername")[0],
                local=_address(request, "sockname"),
                body=body,
            )
        )
    except _BodyError as error:
        refused = error_response(UsageError(str(error)), status=error.status)
        refused.force_close()
        return refused
    except (IntegrityError, AccessDeniedError, ConflictError, UsageError) as error:
        return _refuse(error)
    data = msgspec.json.encode(found.plain) + b"\n"
    return respond(found.status, data, content_type="application/json", headers={**HEADERS, **found.headers})


def _refuse(error: RageError) -> web.Response:
    if error.id in ("registry-damaged", "registry-foreign"):
        raise error
    log.debug("refused: %s (%s)", error, error.why)
    refused = error_response(error)
    refused.headers[hdrs.CACHE_CONTROL] = "no-store"
    return refused


class _BodyError(Exception):
    """A body that is not taken, with the status that says so."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


async def _read(request: web.BaseRequest) -> bytes:
    """The whole body, checked against its limit before and while it comes."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise _BodyError("a body is sent as it is, without a content encoding", 415)
    if request.content_type != "application/json":
        raise _BodyError("the body is application/json", 415)
    if (request.content_length or 0) > api.BODY_BYTES_MAX:
        raise _BodyError(f"a registration has at most {api.BODY_BYTES_MAX} bytes", 413)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                body += part
                if len(body) > api.BODY_BYTES_MAX:
                    raise _BodyError(f"a registration has at most {api.BODY_BYTES_MAX} bytes", 413)
    except TimeoutError:
        raise _BodyError(f"the body did not arrive within {BODY_TIMEOUT_S:g} s", 408) from None
    except web.RequestPayloadError:
        raise _BodyError("the body ends before it should", 400) from None
    return bytes(body)


def _address(request: web.BaseRequest, which: str) -> tuple[IpAddress | None, int]:
    where = request.get_extra_info(which)
    return (parse_ip(str(where[0])), int(where[1])) if isinstance(where, tuple) and len(where) > 1 else (None, 0)
