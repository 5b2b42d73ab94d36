"""What the contract fakes share: a real HTTP server on loopback, a token bucket, calls counted, answers scripted.

A contract fake is no vendor: it shows that the client sends what the published contract says, and survives what the
vendor may answer; never that the vendor behaves so. It checks every request, and answers a wrong one in the vendor's
form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jsonschema_rs
from aiohttp import web

CONTRACTS = Path(__file__).parent.parent / "contracts"
BODY_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True)
class Seen:
    """One request, as it came. `path` is decoded no further than the server must; `headers` by lower-case name."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body; None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True)
class Reply:
    """One answer. `body` is sent as JSON, unless it is bytes already."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Purged:
    """One thing that was purged, in the vendor's words: `kind` is the key of the body, or the operation."""

    kind: str
    word: str
    soft: bool = False


class Bucket:
    """A token bucket by a clock of the test: `take` gives the seconds until there are enough tokens, 0 when taken."""

    def __init__(self, per_s: float, burst: float, now: Callable[[], float]) -> None:
        self.per_s, self.burst, self.now = per_s, burst, now
        self.left, self._at = burst, now()

    def take(self, tokens: float) -> float:
        now = self.now()
        self.left, self._at = min(self.burst, self.left + (now - self._at) * self.per_s), now
        if tokens <= self.left + 1e-9:
            self.left -= tokens
            return 0.0
        return (tokens - self.left) / self.per_s


def contract(vendor: str, name: str) -> jsonschema_rs.Validator:
    """What checks a body against one schema of a vendor's contract."""
    whole = json.loads((CONTRACTS / f"{vendor}.json").read_text())
    return jsonschema_rs.validator_for({"$ref": f"#/$defs/{name}", "$defs": whole["$defs"]}, validate_formats=True)


def why_not(validator: jsonschema_rs.Validator, body: object) -> str:
    """The first reason why a body breaks a contract; empty where it does not."""
    return next((error.message for error in validator.iter_errors(body)), "")


class ContractFake:
    """Serves while it is entered: `url` is where. A subclass's `answer` is the vendor's contract."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.calls: list[Seen] = []
        """Every request, also those that were refused."""
        self.purged: list[Purged] = []
        """What good purges named, in order."""
        self.broken: list[str] = []
        """What broke the contract: a test of a good client ends with `assert not fake.broken`."""
        self.scripted: list[Reply] = []
        """Answers to the next purges, before the contract is looked at."""
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        seen = Seen(
            request.method,
            request.rel_url.raw_path,
            dict(request.rel_url.query),
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
        )
        self.calls.append(seen)
        reply = self.scripted.pop(0) if self.scripted and self.is_purge(seen) else self.answer(seen)
        raw = (
            reply.body
            if isinstance(reply.body, bytes)
            else b""
            if reply.body is None
            else json.dumps(reply.body).encode()
        )
        headers = dict(reply.headers)
        if not isinstance(reply.body, bytes) and reply.body is not None:
            headers.setdefault("Content-Type", "application/json")
        return web.Response(status=reply.status, body=raw, headers=headers)

    def is_purge(self, seen: Seen) -> bool:
        """Whether scripted answers are for this request."""
        raise NotImplementedError

    def answer(self, seen: Seen) -> Reply:
        """The vendor's answer."""
        raise NotImplementedError

    def breaks(self, why: str) -> str:
        """Note that a request broke the contract."""
        self.broken.append(why)
        return why

    @property
    def purges(self) -> list[Seen]:
        """Requests that were purges."""
        return [seen for seen in self.calls if self.is_purge(seen)]
