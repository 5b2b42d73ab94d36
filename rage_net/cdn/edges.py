"""What self-hosted caches have in common: how their keys name a path, and what their answers mean.

An edge that `rage cdn render` configured proves each purge: it answers with the header X-Purged (so many objects went)
or X-Banned. A good status without it comes from something else, a page of a proxy or rules of another kind, and is no
purge: it would leave the bytes where they are and report them gone.
Not here: the calls of one product (varnish, nginx). Source: cdn-apis 7, 8, 11.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlsplit

from rage_net.cdn.answers import halved, judge_status, said
from rage_net.cdn.provider import ItemError, Verdict
from rage_net.web import Answer

TIMEOUT_S = 10.0
"""For one call: an edge purges in memory, or deletes one file."""
ANSWER_BYTES_MAX = 64 * 1024
PATH_BYTES_MAX = 2048
FORMATS = ("raw", "car")
"""Of the gateway form `?format=`: the only part of a query that an edge's keys have."""

TOO_LARGE = (414, 431)
"""Beside 413: what is too long stands in the head."""
RENDER = "rage cdn render"
ROWS: Mapping[int, tuple[str, str, tuple[str, ...]]] = {
    401: ("cdn-credentials", "the edge does not take this token", ("give auth_token as in the edge's token file",)),
    403: ("cdn-forbidden", "the edge lets nobody purge from this address", ("name it among the edge's callers",)),
    404: ("cdn-config", "nothing there purges", (RENDER,)),
    405: ("cdn-config", "the edge does not allow this method", (RENDER,)),
    421: ("cdn-config", "the edge does not serve this host", ("correct public_urls in cdn.yaml", RENDER)),
    501: ("cdn-config", "the edge does not know this method", (RENDER,)),
}
"""By status: the error's id, what it means, what mends it."""


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


def parse_count(text: str | None) -> int | None:
    """A number of objects; None for anything else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def judge_refusal(answer: Answer, words: int, name: str, now: float, secrets: Sequence[str]) -> Verdict:
    """The verdict of every answer that is not the good one: the rows of cdn-apis 7, 8 and 11."""
    status = answer.status
    told = said(answer.headers.get("x-purge-error", ""), secrets)
    verdict = judge_status(status, answer.headers, told, now, name, secrets)
    if status in ROWS:
        code, means, mend = ROWS[status]
        return Verdict("failed", code=code, reason=f"{name}: {means}: {told or status}", mend=mend)
    if 200 <= status < 400:
        reason = f"{name} answers {status} and does not say what was purged: other rules, or another program, are there"
        return Verdict("queued", code="cdn-answer", reason=reason, mend=(RENDER,))
    if status in TOO_LARGE or (status == 400 and not told and words > 1):
        # A server refuses a head that is too long before it reads any rule: nothing of ours is in that 400.
        verdict = Verdict("queued", code="cdn-rejected", reason=verdict.reason, is_too_large=True)
    return halved(verdict, words)
