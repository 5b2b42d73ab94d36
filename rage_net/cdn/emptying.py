"""A bucket as a CDN that is purged: its objects are deleted, journalled and tried again like every purge.

What a CDN reads must be gone before its edges are purged, or they fill themselves again from there. Source: issue 6, B.
"""

from __future__ import annotations

from collections.abc import Sequence

from rage_net.cdn.buckets import KEYS_MAX, S3, Bucket, Dav, key_of
from rage_net.cdn.provider import Abilities, Call, Item, Level, Verdict
from rage_net.cid import Cid, CidError
from rage_net.errors import ConfigError, RageError

SUFFIX = "-bucket"
"""After the provider's name: the name under which its buckets stand in the journal."""
PROBE = key_of(Cid.of(b"rage"))
KEYS_ONE_BY_ONE = 200
"""Of a store that deletes one object in each exchange: they must end within one call's time (`purging.CALL_S_MAX`), or
all would be begun again each time; eight at once, that leaves each more than two seconds."""


class Emptying:
    """The buckets of one provider; each is an edge. See `provider.Provider`."""

    def __init__(self, provider: str, buckets: Sequence[Bucket]) -> None:
        self.provider = provider
        self.name = provider + SUFFIX
        self.buckets = {str(bucket): bucket for bucket in buckets}
        self.edges = tuple(self.buckets)
        self.is_served = all(isinstance(bucket, Dav) for bucket in buckets)
        """They are the edges' own files, which they give as they are: a purge by hand takes them, too."""
        keys = KEYS_MAX if all(isinstance(bucket, S3) for bucket in buckets) else KEYS_ONE_BY_ONE
        self.abilities = Abilities({"url": keys}, answer="done")

    def words(self, item: Item) -> Sequence[str]:
        """The key under which the block of a path lies."""
        try:
            return [key_of(Cid.parse(item.value.partition("?")[0].rpartition("/")[2]))]
        except CidError:
            return []

    async def purge(self, call: Call) -> Verdict:
        """Delete; what is not there is deleted. It fails for good only when nothing of it can still succeed."""
        try:
            left = await self.buckets[call.edge].delete(call.words)
        except RageError as error:
            return _verdict(error)
        errors = [error for error in left.values() if error is not None]
        if not errors:
            return Verdict("done", count=len(call.words))
        return _verdict(next((error for error in errors if error.retryable), errors[0]))

    async def ask(self, edge: str, id: str) -> Verdict:
        """Nothing is ever pending."""
        return Verdict("done", id=id)

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        """Whether each bucket can be asked with the keys that cdn.yaml gives."""
        found = []
        for edge, bucket in self.buckets.items():
            try:
                await bucket.head(PROBE)
            except RageError as error:
                found.append((edge, _verdict(error)))
            else:
                found.append((edge, Verdict("done")))
        return found

    async def level(self, since: float, until: float) -> Level:
        """A bucket has no hits."""
        return Level(reason="a bucket has no hits to count", is_fault=False)


def _verdict(error: RageError) -> Verdict:
    reason = f"{error.message}: {error.why}" if error.why else error.message
    if isinstance(error, ConfigError):
        return Verdict("failed", reason=reason, code="cdn-config", mend=tuple(error.mend))
    return Verdict("queued" if error.retryable else "failed", reason=reason, code="cdn-unreachable")
