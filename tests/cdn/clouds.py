"""Providers as configured for tests, at any address: at a fake, at a babbler, at nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rage_net.cdn.azure import Azure
from rage_net.cdn.cloudflare import Cloudflare
from rage_net.cdn.cloudfront import CloudFront
from rage_net.cdn.fastly import Fastly
from rage_net.cdn.provider import Call, Kind
from rage_net.config import cdn as config_cdn
from rage_net.config.values import Secret, Url
from rage_net.web import Web
from tests.cdn.fakes.azure import ContractFakeAzure
from tests.cdn.fakes.cloudflare import ContractFakeCloudflare
from tests.cdn.fakes.cloudfront_stub import CloudFrontStub
from tests.cdn.fakes.fastly import ContractFakeFastly
from tests.cdn.fakes.server import ContractFake, Reply, Seen

NOW = 1_790_000_000.0
SENTINEL = "s3ntinel-0f-a-secret"
ZONE = "0123456789abcdef0123456789abcdef"
CID = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4"
PUBLIC = ("https://cdn.example.org",)


def call(kind: Kind, *words: str, soft: bool = False) -> Call:
    return Call("", kind, words, soft, "reference")


def _provider(software: str, keys: Any, public_urls: tuple[str, ...]) -> config_cdn.Provider:
    return config_cdn.Provider(
        name=f"{software}-1",
        type="commercial",
        software=software,
        config=keys,
        public_urls=tuple(Url(url) for url in public_urls),
    )


def cloudflare(
    url: str,
    web: Web,
    now: Callable[[], float],
    *,
    token: str = SENTINEL,
    public: tuple[str, ...] = PUBLIC,
    **keys: Any,
) -> Cloudflare:
    found = {"zone_id": ZONE, "api_token": Secret(token), "api_url": Url(f"{url}/client/v4"), **keys}
    return Cloudflare(_provider("cloudflare", config_cdn.Cloudflare(**found), public), web, now)


def fastly(
    url: str,
    web: Web,
    now: Callable[[], float],
    *,
    token: str = SENTINEL,
    public: tuple[str, ...] = PUBLIC,
    **keys: Any,
) -> Fastly:
    found = {
        "service_id": "SU1Z0isxPaozGVKXdv0eY",
        "api_key": Secret(token),
        "api_url": Url(url),
        "stats_url": Url(url),
        **keys,
    }
    return Fastly(_provider("fastly", config_cdn.Fastly(**found), public), web, now)


def azure(
    url: str,
    web: Web,
    now: Callable[[], float],
    *,
    token: str = SENTINEL,
    public: tuple[str, ...] = PUBLIC,
    **keys: Any,
) -> Azure:
    found = {
        "subscription_id": "00000000-0000-0000-0000-000000000000",
        "resource_group": "rg",
        "profile_name": "profile1",
        "endpoint_name": "endpoint1",
        "tenant_id": "t-1",
        "client_id": "c-1",
        "client_secret": Secret(token),
        "api_url": Url(url),
        "login_url": Url(url),
        **keys,
    }
    return Azure(_provider("azure", config_cdn.Azure(**found), public), web, now, imds_url=url)


class Babbler(ContractFake):
    """Answers everything with what it is told; with what it was sent, where `echo` is set."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.reply = Reply(200)
        self.echo: Callable[[str], Reply] | None = None

    def is_purge(self, seen: Seen) -> bool:
        return seen.method == "POST"

    def answer(self, seen: Seen) -> Reply:
        if self.echo is None:
            return self.reply
        return self.echo(f"{seen.method} {seen.path} {dict(seen.headers)} {seen.body.decode(errors='replace')}")


@dataclass(frozen=True)
class Case:
    """A provider for the shared suite.

    `serve` starts what it talks to, with SENTINEL as its secret: `url` is where. `make(url, web, now)` makes the
    provider for any such address, with SENTINEL as its secret, or the one that `token=` gives.
    """

    name: str
    serve: Callable[[Callable[[], float]], Any]
    make: Callable[..., Any]


@asynccontextmanager
async def _cloudflare(now: Callable[[], float]) -> AsyncIterator[ContractFakeCloudflare]:
    async with ContractFakeCloudflare(now, token=SENTINEL) as fake:
        yield fake


@asynccontextmanager
async def _fastly(now: Callable[[], float]) -> AsyncIterator[ContractFakeFastly]:
    async with ContractFakeFastly(now, token=SENTINEL) as fake:
        yield fake


@asynccontextmanager
async def _azure(now: Callable[[], float]) -> AsyncIterator[ContractFakeAzure]:
    async with ContractFakeAzure(now, secret=SENTINEL) as fake:
        yield fake


def cloudfront(
    url: str,
    web: Web,
    now: Callable[[], float],
    *,
    token: str = SENTINEL,
    public: tuple[str, ...] = PUBLIC,
    **keys: Any,
) -> CloudFront:
    """Its secret stands for the access key too: that is sent, and a secret key never is."""
    found = {
        "distribution_id": "EDFDVBD6EXAMPLE",
        "access_key_id": Secret(token),
        "secret_access_key": Secret(token),
        "cache_tags": True,
        "api_url": Url(url) if url else None,
        **keys,
    }
    return CloudFront(_provider("cloudfront", config_cdn.CloudFront(**found), public), asyncio.to_thread, now)


@asynccontextmanager
async def _cloudfront(now: Callable[[], float]) -> AsyncIterator[CloudFrontStub]:
    stub = CloudFrontStub(SENTINEL, SENTINEL)
    stub.is_prompt = True
    try:
        yield stub
    finally:
        stub.close()


CLOUDS = [
    Case("cloudflare", _cloudflare, cloudflare),
    Case("fastly", _fastly, fastly),
    Case("azure", _azure, azure),
    Case("cloudfront", _cloudfront, cloudfront),
]
