"""The clouds themselves: run where credentials are in the environment, skipped elsewhere, never passed without them.

    RAGE_LIVE_CLOUDFLARE_TOKEN, _ZONE, and _URL (a public address in it); _PLAN is free by default
    RAGE_LIVE_FASTLY_TOKEN, _SERVICE, and _URL
    RAGE_LIVE_AZURE_SUBSCRIPTION, _GROUP, _PROFILE, _ENDPOINT, _TENANT, _CLIENT, _SECRET, and _URL
    RAGE_LIVE_CLOUDFRONT_KEY, _SECRET, _DISTRIBUTION (with CacheTagConfig), and _URL; _TAGS=no for one without

Each test purges one path and one tag that nobody has: /rage-live-test and rage-live-test. `pytest -m live` runs them.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from rage_net.cdn.provider import Item, Provider
from rage_net.config.values import Secret, Url
from rage_net.web import Web
from tests.cdn.clouds import azure, call, cloudflare, cloudfront, fastly

pytestmark = [pytest.mark.anyio, pytest.mark.live]

PATH, TAG = "/rage-live-test", "rage-live-test"
END_S_MAX = 1200.0


def given(vendor: str, *names: str) -> dict[str, str]:
    """The variables of a vendor by their last word; the test is skipped where one is missing."""
    wanted = {name: f"RAGE_LIVE_{vendor}_{name}" for name in names}
    missing = [variable for variable in wanted.values() if not os.environ.get(variable)]
    if missing:
        pytest.skip(f"no credentials for the real {vendor.title()}: set {', '.join(missing)}")
    return {name: os.environ[variable] for name, variable in wanted.items()}


async def check_and_purge(provider: Provider) -> None:
    for _, verdict in await provider.check():
        assert verdict.state == "done", verdict
    for item in (Item("url", PATH), Item("tag", TAG)):
        words = provider.words(item)
        if item.kind not in provider.abilities.words_max or not words:
            continue
        for soft in {False, item.kind in provider.abilities.soft}:
            verdict = await provider.purge(call(item.kind, words[0], soft=soft))
            assert verdict.state == provider.abilities.answer, verdict
            until = time.monotonic() + END_S_MAX
            while verdict.state == "pending" and time.monotonic() < until:
                await asyncio.sleep(verdict.retry_after_s or 10)
                verdict = await provider.ask("", verdict.id)
            assert verdict.state in ("accepted", "done"), verdict
    level = await provider.level(time.time() - 3600, time.time())
    assert all(0 <= ratio <= 1 for ratio in level.hit_ratio.values())
    assert level.hit_ratio or "no request" in level.reason, level


async def test_the_real_cloudflare_takes_our_calls() -> None:
    env = given("CLOUDFLARE", "TOKEN", "ZONE", "URL")
    async with Web() as web:
        provider = cloudflare(
            "",
            web,
            time.time,
            token=env["TOKEN"],
            public=(env["URL"],),
            zone_id=env["ZONE"],
            plan=os.environ.get("RAGE_LIVE_CLOUDFLARE_PLAN", "free"),
            api_url=Url("https://api.cloudflare.com/client/v4"),
        )
        await check_and_purge(provider)


async def test_the_real_fastly_takes_our_calls() -> None:
    env = given("FASTLY", "TOKEN", "SERVICE", "URL")
    async with Web() as web:
        provider = fastly(
            "",
            web,
            time.time,
            token=env["TOKEN"],
            public=(env["URL"],),
            service_id=env["SERVICE"],
            api_url=Url("https://api.fastly.com"),
            stats_url=Url("https://rt.fastly.com"),
        )
        await check_and_purge(provider)


async def test_the_real_azure_takes_our_calls() -> None:
    env = given("AZURE", "SUBSCRIPTION", "GROUP", "PROFILE", "ENDPOINT", "TENANT", "CLIENT", "SECRET", "URL")
    async with Web() as web:
        provider = azure(
            "",
            web,
            time.time,
            public=(env["URL"],),
            subscription_id=env["SUBSCRIPTION"],
            resource_group=env["GROUP"],
            profile_name=env["PROFILE"],
            endpoint_name=env["ENDPOINT"],
            tenant_id=env["TENANT"],
            client_id=env["CLIENT"],
            client_secret=Secret(env["SECRET"]),
            api_url=Url("https://management.azure.com"),
            login_url=Url("https://login.microsoftonline.com"),
        )
        await check_and_purge(provider)


async def test_the_real_cloudfront_takes_our_calls() -> None:
    env = given("CLOUDFRONT", "KEY", "SECRET", "DISTRIBUTION", "URL")
    async with Web() as web:
        provider = cloudfront(
            "",
            web,
            time.time,
            public=(env["URL"],),
            access_key_id=Secret(env["KEY"]),
            secret_access_key=Secret(env["SECRET"]),
            distribution_id=env["DISTRIBUTION"],
            cache_tags=os.environ.get("RAGE_LIVE_CLOUDFRONT_TAGS") != "no",
            api_url=None,
        )
        try:
            await check_and_purge(provider)
        finally:
            provider.close()
