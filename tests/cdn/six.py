"""Six CDNs at once, as a purge meets them: contract fakes of three clouds, CloudFront's stub, stand-ins for two edges.

They serve on loopback from a thread of their own, each with its vendor's quota by the clock, and count: what they were
asked, what they would have refused, which words came twice. The fewest calls are computed here from the vendors' bounds
alone, by nothing of `rage_net`. The stand-ins for edges only count; real ones are in test_edges_real.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from rage_net.cid import Cid
from tests.cdn.fakes.azure import ContractFakeAzure
from tests.cdn.fakes.cloudflare import ContractFakeCloudflare
from tests.cdn.fakes.cloudfront_stub import CloudFrontStub
from tests.cdn.fakes.fastly import ContractFakeFastly
from tests.cdn.fakes.server import ContractFake, Purged, Reply, Seen

SECRET = "s3cret-of-a-test"
START_S = 20.0
VARNISH_LINE_BYTES = 6000
"""Of names in one header of a PURGE: what rage's rules for Varnish take (varnishd: 8192 for the whole line)."""

CDN = """\
cdn:
  version: 1
  providers:
    - name: cloudflare
      type: commercial
      public_urls: ["https://cdn.example.org"]
      config: {{zone_id: "{zone}", api_token: "{secret}", plan: "{plan}", api_url: "{cloudflare}/client/v4"}}
    - name: fastly
      type: commercial
      public_urls: ["https://cdn.example.org"]
      config: {{service_id: "{service}", api_key: "{secret}", api_url: "{fastly}", stats_url: "{fastly}"}}
    - name: cloudfront
      type: commercial
      public_urls: ["https://cdn.example.org"]
      config:
        {{distribution_id: "EDFDVBD6EXAMPLE", access_key_id: "{secret}", secret_access_key: "{secret}",
         cache_tags: true, api_url: "{cloudfront}"}}
    - name: azure
      type: commercial
      public_urls: ["https://cdn.example.org"]
      config:
        {{subscription_id: "00000000-0000-0000-0000-000000000000", resource_group: rg, profile_name: profile1,
         endpoint_name: endpoint1, tenant_id: t-1, client_id: c-1, client_secret: "{secret}", api_url: "{azure}",
         login_url: "{azure}"}}
    - name: varnish
      type: self-hosted
      config: {{endpoints: ["{varnish}"], auth_token: "{secret}"}}
    - name: nginx
      type: self-hosted
      config: {{endpoints: ["{nginx}"], auth_token: "{secret}"}}
"""


class StandIn(ContractFake):
    """An edge that purges all it is told, one word each, and keeps nothing."""

    def is_purge(self, seen: Seen) -> bool:
        return seen.method in ("PURGE", "POST")

    def answer(self, seen: Seen) -> Reply:
        if seen.headers.get("authorization") != f"Bearer {SECRET}":
            return Reply(401, self.breaks("no token").encode())
        if seen.method == "PURGE":
            words = seen.headers["xkey"].split()
        else:
            query = f"?format={seen.query['format']}" if seen.query else ""
            words = [seen.path.removeprefix("/purge") + query]
        self.purged += [Purged(seen.method, word) for word in words]
        return Reply(200, b"", {"X-Purged": str(len(words))})


@dataclass(frozen=True)
class Figures:
    """What one CDN saw: good purge calls, words, words that came again, and calls that it refused, by status."""

    calls: int
    words: int
    again: int
    refused: Mapping[int, int]
    broken: tuple[str, ...]


class Six:
    """The six, by name; `cdn_yaml` is how a home finds them."""

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.cloudflare = ContractFakeCloudflare(time.time, plan=plan, token=SECRET)
        self.fastly = ContractFakeFastly(time.time, token=SECRET)
        self.azure = ContractFakeAzure(time.time, secret=SECRET)
        self.azure.retry_after = 1
        self.varnish, self.nginx = StandIn(time.time), StandIn(time.time)
        self.fakes: dict[str, ContractFake] = {
            "cloudflare": self.cloudflare,
            "fastly": self.fastly,
            "azure": self.azure,
            "varnish": self.varnish,
            "nginx": self.nginx,
        }
        self.cloudfront = CloudFrontStub(SECRET, SECRET)
        self.cloudfront.is_prompt = True
        self.statuses: dict[str, Counter[int]] = {name: Counter() for name in self.fakes}
        for name, fake in self.fakes.items():
            self._count(name, fake)

    def _count(self, name: str, fake: ContractFake) -> None:
        answer = fake.answer

        def counted(seen: Seen) -> Reply:
            reply = answer(seen)
            if fake.is_purge(seen):
                self.statuses[name][reply.status] += 1
            return reply

        fake.answer = counted  # type: ignore[method-assign]

    @property
    def cdn_yaml(self) -> str:
        return CDN.format(
            secret=SECRET,
            plan=self.plan,
            zone=self.cloudflare.zone_id,
            service=self.fastly.service_id,
            cloudfront=self.cloudfront.url,
            **{name: fake.url for name, fake in self.fakes.items()},
        )

    def figures(self) -> dict[str, Figures]:
        """What each saw until now."""
        found = {}
        for name, fake in self.fakes.items():
            words = Counter((it.kind, it.word) for it in fake.purged)
            good = sum(count for status, count in self.statuses[name].items() if status < 300)
            refused = {status: count for status, count in self.statuses[name].items() if status >= 300}
            found[name] = Figures(good, len(words), words.total() - len(words), refused, tuple(fake.broken))
        items = Counter(item for purge in self.cloudfront.purges for item in purge.items)
        calls = sum(1 for name, _ in self.cloudfront.calls if name == "CreateInvalidation")
        purges = len(self.cloudfront.purges)
        refused = {429: calls - purges} if calls > purges else {}
        found["cloudfront"] = Figures(purges, len(items), items.total() - len(items), refused, ())
        return found


def fewest(count: int, plan: str, cid: Cid) -> dict[str, int]:
    """The calls without which so many CIDs cannot be purged, each by itself, and nothing else with them.

    By tag where the CDN has tags, but for Cloudflare: an Enterprise zone takes 500 URLs in a call and 100 tags; another
    takes 30 URLs, and so few calls by tag that they would last for hours. nginx and Azure have paths alone, of which a
    CID has `/chunks/CID` and `/ipfs/CID`; in nginx's keys the latter's two formats, raw and car, are apart.
    """
    tag = len(f"cid:{cid}") + 1
    return {
        "cloudflare": min(math.ceil(count / 100), math.ceil(3 * count / 500)) if plan == "enterprise" else count // 10,
        "fastly": math.ceil(count / 256),
        "cloudfront": math.ceil(count / 3000),
        "azure": math.ceil(2 * count / 100),
        "varnish": math.ceil(count / (VARNISH_LINE_BYTES // tag)),
        "nginx": 3 * count,
    }


def some_cids(count: int, seed: int) -> list[Cid]:
    """CIDs of chunks that nobody has."""
    rng = random.Random(seed)
    return [Cid.of(rng.randbytes(32)) for _ in range(count)]


@contextmanager
def serving(plan: str = "enterprise") -> Iterator[Six]:
    """The six, on ports of their own, from a thread of their own."""
    six = Six(plan)
    loop = asyncio.new_event_loop()
    started, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for fake in six.fakes.values():
                await stack.enter_async_context(fake)
            started.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="six CDNs")
    thread.start()
    try:
        assert started.wait(START_S)
        yield six
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(START_S)
        loop.close()
        six.cloudfront.close()
