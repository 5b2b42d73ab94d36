"""nginx as the edge: purges by URL, one in a call, each done on one server when it answers.

The purge module of Debian deletes one object by its key: it knows no prefix, tag, host or all, marks nothing as stale,
and takes one path in a call. The key that `rage cdn render nginx` writes is path and format, without the host, so that
one call serves every public host. Files that were put by WebDAV are no part of the cache: see `buckets`.
Source: cdn-apis 8; the README of ngx_cache_purge 2.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from rage_net.cdn import edges
from rage_net.cdn.answers import Request, exchange, hosts, refuse_token
from rage_net.cdn.provider import Abilities, Call, Item, ItemError, Level, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Answer, Web

NOTHING = "/rage-check/nothing"
"""A path that no server has."""
NO_FIGURES = "nginx counts no hits: log $upstream_cache_status, as the rendered configuration does, and count there"

ABILITIES = Abilities(words_max={"url": 1}, answer="done")


def words(item: Item, bases: Sequence[str]) -> tuple[str, ...]:
    """How calls name an item: its path with its format. Nothing of another kind. Raises: ItemError."""
    return tuple(edges.cached_path(base + item.value) for base in bases) if item.kind == "url" else ()


def request(edge: str, purge_path: str, path: str, host: str, token: str) -> Request:
    """POST to the purge location, for the module would delete at a GET as well: those who prefetch send no POST."""
    headers = {"Host": host}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return Request("POST", f"{edge}{purge_path.rstrip('/')}{path}", headers)


def judge(answer: Answer, now: float, secrets: Sequence[str] = ()) -> Verdict:
    """200 and 404 of the purge location are done, with one object or none; else as `edges` says.

    Any server answers 404 at a path that it does not have: only X-Purged tells that the purge location did.
    """
    count = edges.parse_count(answer.headers.get("x-purged"))
    if answer.status in (200, 404) and count is not None:
        return Verdict("done", count=count)
    return edges.judge_refusal(answer, 1, "nginx", now, secrets)


class Nginx:
    """A provider of `rage_net.cdn.provider`: nginx servers as cdn.yaml names them.

    Args: web: with the provider's `ca_file`.
    """

    def __init__(self, config: config_cdn.Provider, web: Web, now: Callable[[], float]) -> None:
        """Nothing is sent. Args: now: seconds since the epoch."""
        assert isinstance(config.config, config_cdn.Edge)
        self._name = config.name
        self._keys = config.config
        self._web = web
        self._now = now
        self._edges = tuple(url.rstrip("/") for url in config.config.endpoints)
        self._hosts = hosts(config.public_urls)
        self._bases = edges.bases_of(config.public_urls)
        token = config.config.auth_token
        self._token = token.reveal() if token is not None else ""
        self._secrets = (self._token,)

    @property
    def name(self) -> str:
        """As in cdn.yaml."""
        return self._name

    @property
    def edges(self) -> Sequence[str]:
        """The endpoints."""
        return self._edges

    @property
    def abilities(self) -> Abilities:
        """URLs, one in a call."""
        return ABILITIES

    def words(self, item: Item) -> Sequence[str]:
        """See `words`; nothing for what no call can name."""
        try:
            return words(item, self._bases)
        except ItemError:
            return ()

    def _hosts_at(self, edge: str) -> tuple[str, ...]:
        return self._hosts or (urlsplit(edge).netloc,)

    async def purge(self, call: Call) -> Verdict:
        """One path on one server."""
        return await self._ask(call.edge, call.words[0], self._hosts_at(call.edge)[0], self._token)

    async def _ask(self, edge: str, path: str, host: str, token: str) -> Verdict:
        if token and (refused := refuse_token(token, "auth_token")) is not None:
            return refused
        answer = await exchange(
            self._web,
            request(edge, self._keys.purge_path, path, host, token),
            self._secrets,
            timeout_s=edges.TIMEOUT_S,
            bytes_max=edges.ANSWER_BYTES_MAX,
        )
        return answer if isinstance(answer, Verdict) else judge(answer, self._now(), self._secrets)

    async def ask(self, edge: str, id: str) -> Verdict:
        """Nothing is ever pending: a server answers when it is done."""
        return Verdict("done", id=id)

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        """Of each server: its purge location takes the token, for every public host, and refuses who has none."""
        verdicts = await asyncio.gather(*(self._check(edge) for edge in self._edges))
        return list(zip(self._edges, verdicts, strict=True))

    async def _check(self, edge: str) -> Verdict:
        for host in self._hosts_at(edge):
            verdict = await self._ask(edge, NOTHING, host, self._token)
            if verdict.code == "cdn-config":
                return Verdict("failed", code=verdict.code, reason=f"{host}: {verdict.reason}", mend=verdict.mend)
            if verdict.state != "done":
                return verdict
        stranger = await self._ask(edge, NOTHING, self._hosts_at(edge)[0], "")
        if stranger.state != "done":
            return Verdict("done")
        why = "it purges for callers without a token: only their addresses guard it"
        return Verdict("done", reason=why, mend=("auth_token in cdn.yaml", "rage cdn render nginx"))

    async def level(self, since: float, until: float) -> Level:
        """None: see NO_FIGURES."""
        return Level(reason=NO_FIGURES)
