"""One object asked of one edge: what it gives, whether these are the right bytes, and what it says of its cache.

For `--wait`, which proves a purge, for `check` and `test`, and for `rage why`. Nothing an edge sends is believed: bytes
are compared with the CID, redirects are not followed (a loop is an answer like any other), a body is bounded, and all
of it has one deadline. A failure is a result, never an exception.

Not here: chunks for a download (services.fronting). Source: issue 6, B, "Bad input"; cdn-apis 3 to 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from rage_net.cdn.evidence import NOTHING, Evidence, Look, read
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.config.cdn import Edge, Provider
from rage_net.errors import RageError
from rage_net.web import Web

PROBE_S_MAX = 10.0
"""For one probe, from the name's resolution to the last byte."""
PLACES_MAX = 64
"""Places of one provider that are probed: endpoints, each with every public host."""

Bytes = Literal["right", "wrong", "truncated", "page", "unread", "none"]
"""right: what the CID names. truncated: the connection ended before the body did, or it is a beginning of nothing.
page: HTML, such as a login page. unread: nothing to compare with. none: the answer has no object."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a CDN is asked. `edge`: as `Provider.edges` names it, "" of a cloud. `host`: sent as Host where not ""."""

    provider: str
    software: str
    edge: str
    url: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one edge answered. `status` is None when there was no answer; `reason` then says why, else what is wrong."""

    place: Place
    status: int | None
    evidence: Evidence
    body: Bytes
    seconds: float
    reason: str = ""
    code: str = ""
    """As a verdict's: cdn-unreachable, cdn-answer, cdn-config, cdn-busy, cdn-forbidden; "" when nothing is wrong."""
    size_bytes: int = 0
    """Of the body."""

    @property
    def look(self) -> Look | None:
        """For `evidence.judge`; None when there was no answer."""
        return None if self.status is None else Look(self.status, self.evidence)


def places(provider: Provider) -> tuple[Place, ...]:
    """Where the objects of a CDN can be asked for; nowhere of a cloud without public URLs.

    Each self-hosted edge is asked by itself, under each public name; a cloud at each of its public URLs.
    """
    if isinstance(provider.config, Edge):
        hosts = [urlsplit(url).netloc for url in provider.public_urls] or [""]
        found = [
            Place(provider.name, provider.software, str(endpoint), str(endpoint).rstrip("/"), host)
            for endpoint in provider.config.endpoints
            for host in hosts
        ]
    else:
        found = [Place(provider.name, provider.software, "", url.rstrip("/")) for url in provider.public_urls]
    return tuple(found[:PLACES_MAX])


async def probe(
    web: Web, place: Place, path: str, *, cid: Cid | None = None, timeout_s: float = PROBE_S_MAX, method: str = "GET"
) -> Probe:
    """Ask `place` for `path` (`/chunks/bafk...`) once. `cid`: what the body must be. HEAD has no body to compare."""
    headers = {"Host": place.host} if place.host else {}
    try:
        answer = await web.send(
            method, place.url + path, headers=headers, timeout_s=timeout_s, bytes_max=BLOCK_BYTES_MAX
        )
    except RageError as error:
        body: Bytes = "truncated" if error.id == "answer-truncated" else "none"
        reason = error.message if not error.why else f"{error.message}: {error.why}"
        code = "cdn-unreachable" if error.retryable else "cdn-answer"
        return Probe(place, None, NOTHING, body, 0.0, reason, code)
    evidence = read(answer.headers, place.software)
    kind = _kind_of(answer.status, answer.headers.get("content-type", ""), answer.body, cid, method)
    reason, code = _fault(answer.status, kind, answer.headers.get("location", ""), cid)
    return Probe(place, answer.status, evidence, kind, answer.seconds, reason, code, len(answer.body))


def is_page(content_type: str, body: bytes) -> bool:
    """Whether an answer looks like a web page: a document may be one, so the CID is asked first."""
    if content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        return True
    return body[:256].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _kind_of(status: int, content_type: str, body: bytes, cid: Cid | None, method: str) -> Bytes:
    if status != 200:
        return "none"
    if cid is None or method == "HEAD":
        return "unread"
    if cid.matches(body):
        return "right"
    return "page" if is_page(content_type, body) else "wrong"


def _fault(status: int, kind: Bytes, location: str, cid: Cid | None) -> tuple[str, str]:
    """What is wrong with an answer and the id of it; nothing is wrong with an object and with its absence."""
    if kind == "page":
        return (
            "it answers with a web page instead of the object: a login or an error page with status 200",
            "cdn-answer",
        )
    if kind == "wrong":
        return f"it gives other bytes than {cid}", "cdn-answer"
    if 300 <= status < 400:
        where = "".join(char for char in location[:200] if char.isprintable()) or "nowhere"
        return f"it answers {status} and sends us to {where}: redirects are not followed", "cdn-config"
    if status in (401, 403, 407):
        return f"it answers {status}: it does not give objects to everybody", "cdn-forbidden"
    if status in (408, 425, 429) or status >= 500:
        return f"it answers {status}", "cdn-busy"
    if status not in (200, 404, 410):
        return f"it answers {status}", "cdn-answer"
    return "", ""
