"""What self-hosted caches have in common: how keys name a path, what answers mean, and a client for all endpoints.

An edge that `rage cdn render` configured proves each purge: it answers with the header X-Purged (so many objects went)
or X-Banned. A good status without it comes from something else, a page of a proxy or rules of another kind, and is no
purge: it would leave the bytes where they are and report them gone.
Not here: the words and calls of one product (varnish, nginx). Source: cdn-apis 7, 8, 11.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlsplit

from rage_net.cdn.answers import Request, bases_of, exchange, halved, hosts, judge_status, refuse_token, said
from rage_net.cdn.provider import Abilities, Call, Item, ItemError, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Answer, Web

TIMEOUT_S = 10.0
"""For one call: an edge purges in memory, or deletes one file."""
ANSWER_BYTES_MAX = 64 * 1024
PATH_BYTES_MAX = 2048
FORMATS = ("raw", "car")
"""Of the gateway form `?format=`: the only part of a query that an edge's keys have."""

TOO_LARGE = (414, 431)
"""Beside 413: what is too long stands in the head."""
RENDER = "rage cdn render"
"""What follows is the edge's software."""
ROWS: Mapping[int, tuple[str, str, tuple[str, ...]]] = {
    401: ("cdn-credentials", "the edge does not take this token", ("give auth_token as in the edge's token file",)),
    403: ("cdn-forbidden", "the edge lets nobody purge from this address", (f"{RENDER} --caller ADDRESS",)),
    404: ("cdn-config", "nothing there purges", (RENDER,)),
    405: ("cdn-config", "the edge does not allow this method", (RENDER,)),
    421: ("cdn-config", "the edge does not serve this host", ("correct public_urls in cdn.yaml", RENDER)),
    501: ("cdn-config", "the edge does not know this method", (RENDER,)),
}
"""By status: the error's id, what it means, what mends it."""


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
        return Verdict("failed", code=code, reason=f"{name}: {means}: {told or status}", mend=_mends(mend, name))
    if 200 <= status < 400:
        reason = f"{name} answers {status} and does not say what was purged: other rules, or another program, are there"
        return Verdict("queued", code="cdn-answer", reason=reason, mend=_mends((RENDER,), name))
    if status in TOO_LARGE or (status == 400 and not told and words > 1):
        # A server refuses a head that is too long before it reads any rule: nothing of ours is in that 400.
        verdict = Verdict("queued", code="cdn-rejected", reason=verdict.reason, is_too_large=True)
    return halved(verdict, words)


def _mends(lines: Sequence[str], name: str) -> tuple[str, ...]:
    return tuple(line.replace(RENDER, f"{RENDER} {name.lower()}") for line in lines)


def headers_of(host: str, token: str) -> dict[str, str]:
    """Of each call: a host that the edge serves, for it answers for no other, and the token, where there is one."""
    return {"Host": host} | ({"Authorization": f"Bearer {token}"} if token else {})


class SelfHosted(ABC):
    """A provider of `rage_net.cdn.provider` but for its level: the caches of one product that cdn.yaml names.

    Args: web: with the provider's `ca_file`. A product gives its software, what it can do, words, request and judge;
    and a call that purges nothing, which shows whether an edge would take others.
    """

    software: str
    """As in cdn.yaml."""
    abilities: Abilities

    def __init__(self, config: config_cdn.Provider, web: Web, now: Callable[[], float]) -> None:
        """Nothing is sent. Args: now: seconds since the epoch."""
        assert isinstance(config.config, config_cdn.Edge)
        self.name = config.name
        self.edges: Sequence[str] = tuple(url.rstrip("/") for url in config.config.endpoints)
        self._keys = config.config
        self._web = web
        self._now = now
        self._hosts = hosts(config.public_urls)
        self._bases = bases_of(config.public_urls)
        token = config.config.auth_token
        self._token = token.reveal() if token is not None else ""
        self._secrets = (self._token,)

    @abstractmethod
    def _words(self, item: Item) -> Sequence[str]:
        """How calls name an item. Raises: ItemError for what none can name."""

    @abstractmethod
    def _request(self, call: Call, host: str, token: str) -> Request:
        """The request of one call."""

    @abstractmethod
    def _judge(self, call: Call, answer: Answer) -> Verdict:
        """What an edge's answer means."""

    @abstractmethod
    def _nothing(self, edge: str) -> Call:
        """A call for what no edge has."""

    def words(self, item: Item) -> Sequence[str]:
        """See `Provider`; nothing for what no call can name."""
        try:
            return self._words(item)
        except ItemError:
            return ()

    async def purge(self, call: Call) -> Verdict:
        """One call to one edge."""
        return await self._ask(call, self._hosts_at(call.edge)[0], self._token)

    async def ask(self, edge: str, id: str) -> Verdict:
        """Nothing is ever pending: an edge answers when it is done."""
        return Verdict("done", id=id)

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        """Of each edge: it takes the token, for every public host, and refuses who has none."""
        verdicts = await asyncio.gather(*(self._check(edge) for edge in self.edges))
        return list(zip(self.edges, verdicts, strict=True))

    async def _check(self, edge: str) -> Verdict:
        call = self._nothing(edge)
        for host in self._hosts_at(edge):
            verdict = await self._ask(call, host, self._token)
            if verdict.code == "cdn-config":
                return Verdict("failed", code=verdict.code, reason=f"{host}: {verdict.reason}", mend=verdict.mend)
            if verdict.state != "done":
                return verdict
        stranger = await self._ask(call, self._hosts_at(edge)[0], "")
        if stranger.state != "done":
            return Verdict("done")
        why = "it purges for callers without a token: only their addresses guard it"
        return Verdict("done", reason=why, mend=("auth_token in cdn.yaml", f"{RENDER} {self.software}"))

    def _hosts_at(self, edge: str) -> tuple[str, ...]:
        return self._hosts or (urlsplit(edge).netloc,)

    async def _ask(self, call: Call, host: str, token: str) -> Verdict:
        if token and (refused := refuse_token(token, "auth_token")) is not None:
            return refused
        request = self._request(call, host, token)
        answer = await exchange(self._web, request, self._secrets, timeout_s=TIMEOUT_S, bytes_max=ANSWER_BYTES_MAX)
        return answer if isinstance(answer, Verdict) else self._judge(call, answer)
