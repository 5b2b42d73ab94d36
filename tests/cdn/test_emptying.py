"""Stores that CDNs read, emptied as CDNs are purged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from rage_net import home as homes
from rage_net.cdn.buckets import KEYS_MAX, S3, Dav
from rage_net.cdn.buckets.by_http import CALLS_MAX
from rage_net.cdn.emptying import Emptying
from rage_net.cdn.provider import Call
from rage_net.config.cdn import Bucket as Keys
from rage_net.engine import Engine
from rage_net.errors import ConfigError, NotFoundError, RageError, UnavailableError
from rage_net.home import Home
from rage_net.services.purging import CALL_S_MAX
from rage_net.verbs import cdn as verbs
from rage_net.web import Web

YAML = """\
cdn:
  providers:
    - {name: near, type: self-hosted, software: nginx,
       config: {endpoints: ["http://127.0.0.1:9"], dav_path: /chunks/}}
"""


def test_a_store_that_deletes_one_by_one_is_given_no_more_than_a_slow_one_deletes_in_one_calls_time() -> None:
    dav = Dav("http://127.0.0.1:9", "/chunks/", web=Web(), token="")
    most = Emptying("near", [dav]).abilities.words_max["url"]
    assert most / CALLS_MAX * 2.0 < CALL_S_MAX, "two seconds for each"
    s3 = S3("shop", "", Keys(uri="s3://shop"), blocking=asyncio.to_thread)
    assert Emptying("shop", [s3]).abilities.words_max["url"] == KEYS_MAX, "these go in one exchange"


@pytest.mark.anyio
async def test_a_key_that_is_refused_takes_none_with_it_that_may_go_later() -> None:
    refused, busy = ConfigError("no right to delete it"), UnavailableError("slow down")

    class Store:
        left: ClassVar[dict[str, RageError | None]] = {"a": refused, "b": busy, "c": None}

        async def delete(self, keys: Sequence[str]) -> dict[str, RageError | None]:
            return self.left

    emptying = Emptying("shop", [Store()])  # type: ignore[list-item]
    call = Call(emptying.edges[0], "url", ("a", "b", "c"), False, "r")
    assert (await emptying.purge(call)).state == "queued"
    Store.left = {"a": refused, "b": None, "c": None}
    assert (await emptying.purge(call)).state == "failed"


@pytest.mark.anyio
async def test_what_failed_at_a_store_is_purged_again_by_its_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home)
    (home.config / "cdn.yaml").write_text(YAML)
    async with Engine.open(home, serves=True) as engine:
        assert (await engine.run(verbs.PurgeCdn(failed=True, providers=("near-bucket",)))).rows == ()
        with pytest.raises(NotFoundError, match="nowhere"):
            await engine.run(verbs.PurgeCdn(failed=True, providers=("nowhere",)))
