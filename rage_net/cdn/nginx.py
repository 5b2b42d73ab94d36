"""nginx as the edge: purges by URL, one in a call, each done on one server when it answers.

The purge module of Debian deletes one object by its key: it knows no prefix, tag, host or all, marks nothing as stale,
and takes one path in a call. The key that `rage cdn render nginx` writes is path and format, without the host, so that
one call serves every public host. Files that were put by WebDAV are no part of the cache: see `buckets`.
Source: cdn-apis 8; the README of ngx_cache_purge 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from rage_net.cdn import edges
from rage_net.cdn.answers import Request
from rage_net.cdn.provider import Abilities, Call, Item, Level, Verdict
from rage_net.web import Answer

NOTHING = "/rage-check/nothing"
"""A path that no server has."""
NO_FIGURES = "nginx counts no hits: log $upstream_cache_status, as the rendered configuration does, and count there"

ABILITIES = Abilities(words_max={"url": 1}, answer="done")


def words(item: Item, bases: Sequence[str]) -> tuple[str, ...]:
    """How calls name an item: its path with its format. Nothing of another kind. Raises: ItemError."""
    return tuple(edges.cached_path(base + item.value) for base in bases) if item.kind == "url" else ()


def request(edge: str, purge_path: str, path: str, host: str, token: str) -> Request:
    """POST to the purge location, for the module would delete at a GET as well: those who prefetch send no POST."""
    return Request("POST", f"{edge}{purge_path.rstrip('/')}{path}", edges.headers_of(host, token))


def judge(answer: Answer, now: float, secrets: Sequence[str] = ()) -> Verdict:
    """200 and 404 of the purge location are done, with one object or none; else as `edges` says.

    Any server answers 404 at a path that it does not have: only X-Purged tells that the purge location did.
    """
    count = edges.parse_count(answer.headers.get("x-purged"))
    if answer.status in (200, 404) and count is not None:
        return Verdict("done", count=count)
    return edges.judge_refusal(answer, 1, "nginx", now, secrets)


class Nginx(edges.SelfHosted):
    """nginx servers as cdn.yaml names them: URLs, one in a call."""

    software = "nginx"
    abilities = ABILITIES

    def _words(self, item: Item) -> Sequence[str]:
        return words(item, self._bases)

    def _request(self, call: Call, host: str, token: str) -> Request:
        return request(call.edge, self._keys.purge_path, call.words[0], host, token)

    def _judge(self, call: Call, answer: Answer) -> Verdict:
        return judge(answer, self._now(), self._secrets)

    def _nothing(self, edge: str) -> Call:
        return Call(edge, "url", (NOTHING,), soft=False, reference="")

    async def level(self, since: float, until: float) -> Level:
        """None: see NO_FIGURES."""
        return Level(reason=NO_FIGURES, is_fault=False)
