"""The verbs of the noun cdn: a plain function each. The engine takes `VERBS` into its own table.

    targets   what a CID, a document, a tag means to CDNs     purge     purge, wait, prove; the journal
    probing   check, test, warm                               status    hit ratios, quotas, what waits
    publish   to the buckets that CDNs read

Source: issue 6, B, C and F. Not here: what sends (services.purging), what a CDN's calls look like (cdn).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rage_net.cdn_verbs.probing import check_cdn, test_cdn, warm_cdn
from rage_net.cdn_verbs.publish import fill_buckets, publish_cdn
from rage_net.cdn_verbs.purge import list_purges, purge_cdn
from rage_net.cdn_verbs.status import show_cdn
from rage_net.verbs import Verb
from rage_net.verbs import cdn as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io

__all__ = ["VERBS", "fill_buckets"]

VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.PurgeCdn: purge_cdn,
    verbs.ListPurges: list_purges,
    verbs.ShowCdn: show_cdn,
    verbs.CheckCdn: check_cdn,
    verbs.TestCdn: test_cdn,
    verbs.WarmCdn: warm_cdn,
    verbs.PublishCdn: publish_cdn,
}
