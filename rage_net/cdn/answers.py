"""What calls to the APIs of CDNs have in common: a request as a value, one exchange, a vendor's words made fit to show.

A vendor's own words are shown only where they stand in the vendor's own envelope, on one printable line, without the
secrets that we know. A body of another kind (a login page, HTML of a proxy) is never quoted.

Not here: what a vendor's answers mean (its own module), retries (retry). Source: cdn-apis 11; RFC 9110 10.2.3.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from rage_net.cdn.provider import Verdict
from rage_net.cdn.retry import RETRIED
from rage_net.errors import CertificateError, ConfigError, PeerProtocolError, RageError, UsageError
from rage_net.web import Answer, Web

TIMEOUT_S = 15.0
"""For one call, from the name's resolution to the answer's last byte."""
SAID_CHARS_MAX = 200
"""Of a vendor's own words, in a verdict."""
ID_CHARS_MAX = 64
"""Of a purge's id; Cloudflare's has at most 32."""
RETRY_AFTER_S_MAX = 7 * 86_400.0
"""A longer pause is a slip of somebody's clock."""
TOO_MANY = ("too many", "too large", "too long", "more than", "exceed", "maximum", "limit of", "at most", "up to")
"""What an error says of a call with too many words: no vendor publishes a code for it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Its headers and its body hold secrets: neither is in its repr."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


async def exchange(
    web: Web,
    request: Request,
    secrets: Sequence[str],
    *,
    timeout_s: float = TIMEOUT_S,
    bytes_max: int = 1024 * 1024,
) -> Answer | Verdict:
    """Send it once: the answer, whatever its status, or the verdict that nobody answered. Raises nothing."""
    try:
        return await web.send(
            request.method,
            request.url,
            headers=request.headers,
            body=request.body,
            timeout_s=timeout_s,
            bytes_max=bytes_max,
        )
    except (UsageError, ConfigError) as error:
        return Verdict("failed", reason=_told(error, secrets), code="cdn-config", mend=("rage config check",))
    except PeerProtocolError as error:
        return Verdict("queued", reason=_told(error, secrets), code="cdn-answer", mend=_looks(request.url))
    except CertificateError as error:
        mend = (
            "ca_file of the provider in cdn.yaml, where its certificate is your own",
            *_looks(request.url),
            "date -u",
        )
        return Verdict("queued", reason=_told(error, secrets), code="cdn-unreachable", mend=mend)
    except RageError as error:
        return Verdict("queued", reason=_told(error, secrets), code="cdn-unreachable", mend=_looks(request.url))


def _told(error: RageError, secrets: Sequence[str]) -> str:
    return said(": ".join(text for text in (str(error), error.why) if text), secrets)


def _looks(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    return (f"curl -i {parts.scheme}://{parts.netloc}/",)


def refuse_token(token: str, name: str) -> Verdict | None:
    """The verdict on a token that cannot stand in a header, such as one with a line break at its end; else None."""
    if token and all("!" <= char <= "~" for char in token):
        return None
    why = "it is empty" if not token else "a blank, a line break or a letter beyond ASCII stands in it"
    return Verdict("failed", reason=f"{name} is no token: {why}", code="cdn-credentials", mend=(f"give {name} anew",))


def said(text: str, secrets: Sequence[str] = (), chars_max: int = SAID_CHARS_MAX) -> str:
    """A stranger's text as one short printable line, with each secret replaced before it is cut."""
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    if known:
        text = re.sub("|".join(map(re.escape, known)), "<secret>", text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"


def parse(body: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None


def text_of(plain: object, *keys: str) -> str:
    """The first of these keys whose value is a text or a number, as text; empty where there is none."""
    if isinstance(plain, Mapping):
        for key in keys:
            value = plain.get(key)
            if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
                return str(value)
    return ""


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks for, as seconds or as a date; None where it is not there or makes no sense.

    Args: headers: by lower-case name. now: seconds since the epoch.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), RETRY_AFTER_S_MAX)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, until - now), RETRY_AFTER_S_MAX)


def is_too_many(status: int, told: str) -> bool:
    """Whether an error means that the call has too many words, or too many bytes."""
    return status == 413 or (status == 400 and any(word in told.lower() for word in TOO_MANY))


def described(status: int, headers: Mapping[str, str], told: str, secrets: Sequence[str] = ()) -> str:
    """What an answer was: the status, and the vendor's words or else what kind of body came."""
    if told:
        return f"{status}: {told}"
    kind = said(headers.get("content-type", "").partition(";")[0], secrets, 40)
    where = (
        f", which points to {said(headers['location'], secrets)}"
        if 300 <= status < 400 and "location" in headers
        else ""
    )
    return f"{status} with {kind or 'no body of a known kind'} instead of the API's JSON{where}"


def judge_status(
    status: int, headers: Mapping[str, str], told: str, now: float, vendor: str, secrets: Sequence[str] = ()
) -> Verdict:
    """What a status means with any vendor, where its own codes do not say more.

    Args: told: the vendor's words, made fit to show; empty where the body was not its own.
    """
    reason = f"{vendor} answers {described(status, headers, told, secrets)}"
    if is_too_many(status, told):
        return Verdict("queued", reason=reason, code="cdn-rejected", is_too_large=True)
    if status == 429:
        return Verdict("queued", reason=reason, code="cdn-rate-limited", retry_after_s=retry_after_s(headers, now))
    if status in RETRIED or status >= 500:
        return Verdict("queued", reason=reason, code="cdn-busy", retry_after_s=retry_after_s(headers, now))
    match status:
        case 401:
            return Verdict("failed", reason=reason, code="cdn-credentials")
        case 403:
            return Verdict("failed", reason=reason, code="cdn-forbidden")
        case 404:
            return Verdict("failed", reason=reason, code="cdn-not-found")
        case _ if 400 <= status < 500:
            return Verdict("failed", reason=reason, code="cdn-rejected")
        case _:  # a good status without the API's words, or a redirect: another program answers there
            return Verdict("queued", reason=reason, code="cdn-answer", retry_after_s=retry_after_s(headers, now))


def hosts(public_urls: Sequence[str]) -> tuple[str, ...]:
    """Host names of addresses, lower-case, without port, each once."""
    names = (urlsplit(url).hostname or "" for url in public_urls)
    return tuple(dict.fromkeys(name for name in names if name))


def bases_of(urls: Sequence[str]) -> tuple[str, ...]:
    """Each path that public addresses put before ours, once; one empty text when there is none."""
    return tuple(dict.fromkeys(urlsplit(url).path.rstrip("/") for url in urls)) or ("",)


def halved(verdict: Verdict, words: int) -> Verdict:
    """A verdict that asks for halves, unless one word alone was refused: that fails."""
    if not verdict.is_too_large or words > 1:
        return verdict
    return Verdict("failed", reason=verdict.reason, code=verdict.code, mend=verdict.mend)
