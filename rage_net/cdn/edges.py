"""What self-hosted caches have in common: how their keys name a path, and what their answers mean.

An edge that `rage cdn render` configured proves each purge: it answers with the header X-Purged (so many objects went)
or X-Banned. A good status without it comes from something else, a page of a proxy or rules of another kind, and is no
purge: it would leave the bytes where they are and report them gone.
Not here: the calls of one product (varnish, nginx). Source: cdn-apis 7, 8, 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, quote, urlsplit

from rage_net.cdn.provider import ItemError, Verdict
from rage_net.cdn.retry import RETRIED
from rage_net.errors import CertificateError, PeerProtocolError, RageError, UnavailableError
from rage_net.web import Answer, Web

TIMEOUT_S = 10.0
"""For one call: an edge purges in memory, or deletes one file."""
ANSWER_BYTES_MAX = 64 * 1024
SAID_CHARS_MAX = 200
"""Of an edge's own words, in a reason."""
PATH_BYTES_MAX = 2048
FORMATS = ("raw", "car")
"""Of the gateway form `?format=`: the only part of a query that an edge's keys have."""
GARBAGE_TRIES_MAX = 3
"""An edge that does not speak HTTP: it may be starting, or it is no edge at all."""

RENDER = "rage cdn render"

ROWS: Mapping[int, tuple[str, str, tuple[str, ...]]] = {
    401: (
        "cdn-credentials",
        "the edge does not take this token",
        ("auth_token in cdn.yaml and the edge's token file",),
    ),
    403: ("cdn-forbidden", "the edge lets nobody purge from this address", ("name it among the edge's callers",)),
    404: ("cdn-config", "nothing there purges", (RENDER,)),
    405: ("cdn-config", "the edge does not allow this method", (RENDER,)),
    421: ("cdn-config", "the edge does not serve this host", ("public_urls in cdn.yaml", RENDER)),
    501: ("cdn-config", "the edge does not know this method", (RENDER,)),
}
"""By status: the error's id, what it means, what mends it."""


def hosts_of(urls: Sequence[str]) -> tuple[str, ...]:
    """Each host once, with its port where the URL has one, in order."""
    return tuple(dict.fromkeys(urlsplit(url).netloc.rpartition("@")[2].lower() for url in urls))


def bases_of(urls: Sequence[str]) -> tuple[str, ...]:
    """Each path that public addresses put before ours, once; one empty text when there is none."""
    return tuple(dict.fromkeys(urlsplit(url).path.rstrip("/") for url in urls)) or ("",)


def cached_path(path: str) -> str:
    """A path as an edge's key has it: encoded where it must be, of its query only `format=raw` or `format=car`.

    Raises: ItemError for a text that no edge has as a path.
    """
    if not path.startswith("/") or len(path.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
        raise ItemError(f"a path begins with / and has at most {PATH_BYTES_MAX} bytes")
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in path):
        raise ItemError("a control character cannot stand in a path")
    plain, _, query = path.partition("?")
    if any(part in (".", "..") for part in plain.split("/")):
        raise ItemError("a path with . or .. names another one")
    named = (value for name, value in parse_qsl(query, max_num_fields=None) if name == "format" and value in FORMATS)
    kept = next((f"?format={value}" for value in named), "")
    return quote(plain, safe="/-._~!$&'()*+,;=:@%") + kept


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait as `Retry-After` has them: a number, or a date against `now`; None for anything else."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError, TypeError):
        return None


def parse_count(text: str | None) -> int | None:
    """A number of objects; None for anything else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def said(answer: Answer, token: str) -> str:
    """What an edge says of its error: its header for that, else a body that is no page. One line, no secret."""
    text = answer.headers.get("x-purge-error", "")
    if not text and not answer.headers.get("content-type", "").startswith("text/html"):
        text = answer.body[:4096].decode("utf-8", "replace")
    if token:
        text = text.replace(token, "...")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:SAID_CHARS_MAX]


def judge_refusal(answer: Answer, words: int, token: str, now: float) -> Verdict:
    """The verdict of every answer that is not the good one: the rows of cdn-apis 7, 8 and 11."""
    told = said(answer, token)
    tail = f": {told}" if told else ""
    status = answer.status
    if status in RETRIED:
        pause = parse_retry_after(answer.headers.get("retry-after"), now)
        code = "cdn-rate-limited" if status == 429 else "cdn-busy"
        return Verdict("queued", code=code, reason=f"the edge answers {status}{tail}", retry_after_s=pause)
    if status in (413, 414, 431) or (status == 400 and "x-purge-error" not in answer.headers):
        # A server refuses a head that is too long before it reads any rule: nothing of ours is in that 400.
        return Verdict("failed", code="cdn-rejected", reason=f"the edge answers {status}{tail}", is_too_large=words > 1)
    if status in ROWS:
        code, means, mend = ROWS[status]
        return Verdict("failed", code=code, reason=f"{means} ({status}){tail}", mend=mend)
    if 300 <= status < 400:
        reason = f"the edge sends us elsewhere ({status})"
        return Verdict("failed", code="cdn-config", reason=reason, mend=("endpoints in cdn.yaml",))
    if 200 <= status < 300:
        reason = f"the answer {status} does not say what was purged: something else answers there, or other rules"
        return Verdict("failed", code="cdn-answer", reason=reason, mend=(RENDER,))
    return Verdict("failed", code="cdn-rejected", reason=f"the edge answers {status}{tail}")


def judge_failure(error: RageError) -> Verdict:
    """The verdict of a call that got no answer: whatever may pass, or be mended on the edge, is sent again."""
    reason = f"{error.message}: {error.why}" if error.why else error.message
    mend = tuple(error.mend)
    if isinstance(error, (UnavailableError, CertificateError)):
        return Verdict("queued", code="cdn-unreachable", reason=reason, mend=mend)
    if isinstance(error, PeerProtocolError):
        return Verdict("queued", code="cdn-answer", reason=reason, mend=mend, tries_max=GARBAGE_TRIES_MAX)
    return Verdict("failed", code="cdn-config", reason=reason, mend=mend)


async def reach(web: Web, method: str, url: str, headers: Mapping[str, str]) -> Answer | Verdict:
    """One exchange with an edge; what became of it where there is no answer."""
    try:
        return await web.send(method, url, headers=headers, timeout_s=TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX)
    except RageError as error:
        return judge_failure(error)
