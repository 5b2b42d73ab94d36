"""What clients of CDNs in a cloud have in common: one edge, one way to send, and whose the public hosts are.

Not here: what a call is and what its answer means (cloudflare, fastly, azure); CloudFront, which boto3 asks.
Source: issue 6, A; cdn-apis 11.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from rage_net.cdn.answers import Request, exchange, hosts
from rage_net.cdn.provider import Level, Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Answer, Web


class Cloud(ABC):
    """A provider of `rage_net.cdn.provider` but for abilities, words, purges and level: one API, asked by HTTP."""

    edges: Sequence[str] = ("",)
    _wrong: Verdict | None = None
    """What the configuration alone tells: then nothing is sent."""

    def __init__(self, config: config_cdn.Provider, web: Web, now: Callable[[], float]) -> None:
        """Nothing is sent. Args: now: seconds since the epoch."""
        self.name = config.name
        self._config = config
        self._web = web
        self._now = now

    @property
    @abstractmethod
    def _secrets(self) -> Sequence[str]:
        """What calls carry; hidden wherever an answer is quoted."""

    @abstractmethod
    async def _check(self) -> Verdict:
        """See `Provider.check`."""

    @abstractmethod
    def _note_quota(self, headers: Mapping[str, str]) -> None:
        """Remember what an answer says of calls that are left."""

    async def ask(self, edge: str, id: str) -> Verdict:
        """The API tells no more than that it accepted a purge."""
        return Verdict("accepted", id=id)

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        """The credentials, what they may do, the ids, and whose the public hosts are."""
        return [("", await self._check())]

    async def _send(self, request: Request) -> Answer | Verdict:
        if self._wrong is not None:
            return self._wrong
        answer = await exchange(self._web, request, self._secrets)
        if not isinstance(answer, Verdict):
            self._note_quota(answer.headers)
        return answer


def judge_hosts(public_urls: Sequence[str], is_ours: Callable[[str], bool], otherwise: str, id: str) -> Verdict:
    """Whether each public host is ours: another's purges nothing. Args: id: the key of cdn.yaml that says whose."""
    for name in hosts(public_urls):
        if not is_ours(name):
            reason = f"the public host {name} is {otherwise} would purge nothing"
            return Verdict("failed", reason=reason, code="cdn-config", mend=(f"see public_urls and {id}",))
    return Verdict("done")


class Tally:
    """Requests by region, and how many of them were answered from the cache."""

    def __init__(self) -> None:
        self._hits = defaultdict[str, float](float)
        self._asked = defaultdict[str, float](float)

    def add(self, region: str, hits: float, asked: float) -> None:
        """More of them. Raises: ValueError for what is no count."""
        if not 0 <= hits <= asked < float("inf"):
            raise ValueError("a count below 0")
        self._hits[region] += hits
        self._asked[region] += asked

    def level(self) -> Level:
        """The hit ratio of each region that was asked, and of all of them."""
        ratios = {region: self._hits[region] / asked for region, asked in self._asked.items() if asked > 0}
        if not ratios:
            return Level(reason="no request in this time", is_fault=False)
        return Level(ratios, sum(self._hits.values()) / sum(self._asked.values()), is_fault=False)


def time_text(at: float) -> str:
    """A time as APIs take it, to the second. Args: at: seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
