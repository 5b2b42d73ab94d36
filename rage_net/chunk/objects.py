"""Stored forms as objects: `<prefix>/ab/<cid>` in an S3-compatible bucket, the third body of a chunk store.

An object is written when it is staged, under its own CID: bytes are durable before the row that names them, whatever
dies in between, and what no row comes to name is gc's. So a put waits for the object store in its workers and never
under the index's lock. What is staged must not be taken away by whoever removes the same CID at that moment: `delete`
and `quarantine` pass over it, and staging waits for a removal that is under way.

The names are those of `files.FileBodies`, so that a store moves by copying its directory. Each object carries the
checksum of its bytes; only what agrees with it is kept in the local cache. Blocking code. Not here: calls, retries and
errors (bucket), whose prefix it is (ownership). Source: design D4, D10; issue 5, section G.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from rage_net.chunk.bucket import Bucket, Place
from rage_net.chunk.disk_cache import DiskCache
from rage_net.chunk.encoding import Data
from rage_net.chunk.files import FREE_BYTES_UNKNOWN, QUARANTINE_FILES_MAX, SHARDS, Spread
from rage_net.chunk.ownership import Ownership
from rage_net.chunk.room import Quota
from rage_net.cid import BLOCK_BYTES_MAX, Cid, CidError
from rage_net.database import disk
from rage_net.errors import UnavailableError

if TYPE_CHECKING:
    from rage_net.chunk.index import Index
    from rage_net.env import Env

CHECKSUM_BYTES = 16
SHARD_PAGES_MAX = 1000
"""Pages of one shard that are read: a million keys. What a larger one holds beyond is found when these are gone."""
DELETERS = 8
"""Threads for one deletion of many: each object is a call, and the index is locked meanwhile."""

log = logging.getLogger(__name__)


class ObjectBodies:
    """A prefix of a bucket, with a local cache before it. Its errors are those of `Bucket`."""

    def __init__(
        self,
        bucket: Bucket,
        cache: DiskCache,
        *,
        check_owner: Callable[[], None] = lambda: None,
        failpoint: Callable[[str], None] = lambda step: None,
    ) -> None:
        """`check_owner` raises when the prefix is another home's: it is asked before anything is swept."""
        self.bucket = bucket
        self.cache = cache
        self.check_owner = check_owner
        self._failpoint = failpoint
        self._numbers = itertools.count()
        self._changing = threading.Condition()
        self._tokens: dict[str, Cid] = {}
        self._staged: Counter[Cid] = Counter()
        self._removing: set[Cid] = set()
        self._listed: dict[int, list[Cid]] = {}
        """Shards that a page has told of beyond the one it was asked for."""

    def check_room(self, size: int, files: int, quota: Quota) -> None:
        """A bucket has no end that could be asked for; the local cache makes way for the index."""
        self.cache.give_way(quota.free_bytes_min)

    def free_bytes(self) -> int:
        """Nobody knows: an object store has no end, but the quota."""
        return FREE_BYTES_UNKNOWN

    def stage(self, cid: Cid, stored: Data, *, durable: bool = True) -> str:
        """Write the object; it is durable when this returns. One that is there with these bytes is left as it is."""
        with self._changing:
            self._changing.wait_for(lambda: cid not in self._removing)  # a removal ends by its own deadlines
            self._staged[cid] += 1
        try:
            self._failpoint("created")
            self._write(cid, bytes(stored))
            self._failpoint("written")
        except BaseException:
            self._unstage(cid)
            raise
        self.cache.put(cid, stored)
        token = str(next(self._numbers))
        with self._changing:
            self._tokens[token] = cid
        return token

    def sync(self, staged: str) -> None:
        """Nothing to do: an object that was acknowledged is durable."""

    def discard(self, staged: str) -> None:
        """Count on a staged object no more. It stays: a row written meanwhile may name it; else gc finds it."""
        with self._changing:
            cid = self._tokens.pop(staged, None)
        if cid is not None:
            self._unstage(cid)

    def publish(self, staged: Mapping[Cid, str], *, durable: bool, spread: Spread) -> None:
        """They are where they belong; from here on the caller's lock keeps removals off."""
        for token in staged.values():
            self.discard(token)
            self._failpoint("renamed")

    def persist(self, cids: Iterable[Cid]) -> None:
        """Nothing to do: what is published is durable."""

    def read(self, cid: Cid, *, at_rest: bool = False) -> bytes:
        """The object's bytes, from the cache unless `at_rest`. Those that differ from their checksum are read twice.

        Raises FileNotFoundError, UnavailableError.
        """
        if not at_rest:
            kept = self.cache.get(cid)
            if kept is not None:
                return kept
        found = self.bucket.get(_key(cid), BLOCK_BYTES_MAX)
        if found.checksum and found.checksum != checksum_of(found.data):
            found = self.bucket.get(_key(cid), BLOCK_BYTES_MAX)
        if found.checksum == checksum_of(found.data):
            self.cache.put(cid, found.data)
        return found.data

    def has(self, cid: Cid, size: int) -> bool:
        """Whether an object of that size is there."""
        found = self.bucket.head(_key(cid))
        return found is not None and found[0] == size

    def delete(self, cid: Cid) -> bool:
        """Remove; False when a put counts on it. Whether it was there the server does not say."""
        return self.delete_all([cid]) == 1

    def delete_all(self, cids: Iterable[Cid]) -> int:
        """Remove many, some at a time; how many a put does not count on."""
        free = self._begin_removing(cids)
        try:
            if len(free) == 1:
                self._delete(free[0])
            elif free:
                with ThreadPoolExecutor(min(DELETERS, len(free)), thread_name_prefix="rage-objects") as pool:
                    for _ in pool.map(self._delete, free):
                        pass
        finally:
            self._end_removing(free)
        self._failpoint("deleted")
        return len(free)

    def quarantine(self, cid: Cid, stored: bytes | None) -> None:
        """Copy to `quarantine/`, while there is room in it, and remove.

        What cannot be removed raises: a row that went while its rot stayed would let the next put count on it.
        """
        free = self._begin_removing([cid])
        try:
            with contextlib.suppress(UnavailableError, FileNotFoundError):
                kept, _ = self.bucket.page("quarantine/", keys_max=QUARANTINE_FILES_MAX)
                if len(kept) < QUARANTINE_FILES_MAX:
                    if stored is not None:
                        self.bucket.put(f"quarantine/{cid}", stored, checksum_of(stored), replace=True)
                    elif free:
                        self.bucket.copy(_key(cid), f"quarantine/{cid}")
            if free and stored is None:
                self._delete(cid)
        finally:
            self._end_removing(free)

    def shard(self, number: int) -> list[Cid]:
        """The CIDs that objects of one shard are named by; other names are somebody else's and are left alone.

        A page that reaches over the shards behind it answers for these too, once: what has come or gone meanwhile the
        index knows, and it is asked before anything is deleted.
        """
        if number not in self._listed:
            self._listed = self._list_from(number)
        return self._listed.pop(number)

    def _list_from(self, number: int) -> dict[int, list[Cid]]:
        """The shard, and those that one page from its beginning on holds whole."""
        keys, has_more = self.bucket.page("", f"{number:02x}/")
        last = SHARDS - 1
        if has_more:
            bounds = [*(f"{at:02x}/" for at in range(SHARDS)), "fg"]
            last = next((at for at, bound in enumerate(bounds) if bound > keys[-1]), SHARDS + 1) - 2
        if last < number:
            keys, last = list(self.bucket.list(f"{number:02x}/", SHARD_PAGES_MAX)), number
        found: dict[int, list[Cid]] = {at: [] for at in range(number, last + 1)}
        for key in keys:
            if (cid := _cid_of(key)) is not None and cid.digest[0] in found:
                found[cid.digest[0]].append(cid)
        return found

    def is_empty(self) -> bool:
        """Whether no chunk is here."""
        # A prefix has few other names: the owner's mark and what lies in quarantine.
        return not any(_cid_of(key) for key in self.bucket.list("", 2))

    def sweep(self, limit: int) -> int:
        """Remove half-written files of the cache; how many went. Raises when the prefix has become another home's."""
        self.check_owner()
        self._listed = {}
        return self.cache.sweep(limit)

    @property
    def problem(self) -> str:
        """Why the object store cannot be used now; empty when it can."""
        return self.bucket.problem

    def close(self) -> None:
        """Close the connections."""
        self.bucket.close()

    def _write(self, cid: Cid, stored: bytes) -> None:
        checksum = checksum_of(stored)
        if self.bucket.put(_key(cid), stored, checksum, replace=False):
            return
        if self.bucket.head(_key(cid)) != (
            len(stored),
            checksum,
        ):  # not ours, or not whole: our bytes are known to be right
            self.bucket.put(_key(cid), stored, checksum, replace=True)

    def _delete(self, cid: Cid) -> None:
        self.bucket.delete(_key(cid))
        self.cache.drop(cid)

    def _unstage(self, cid: Cid) -> None:
        with self._changing:
            self._staged[cid] -= 1
            if not self._staged[cid]:
                del self._staged[cid]

    def _begin_removing(self, cids: Iterable[Cid]) -> list[Cid]:
        with self._changing:
            free = [cid for cid in dict.fromkeys(cids) if cid not in self._staged]
            self._removing.update(free)
        return free

    def _end_removing(self, cids: Iterable[Cid]) -> None:
        with self._changing:
            self._removing.difference_update(cids)
            self._changing.notify_all()


def checksum_of(stored: Data) -> str:
    """What is written beside an object's bytes: BLAKE3, 16 bytes in hex."""
    return blake3(stored).hexdigest(length=CHECKSUM_BYTES)


def open_objects(
    home: Path,
    env: Env,
    place: Place,
    directory: Path,
    cache_bytes: int,
    session: str,
    failpoint: Callable[[str], None],
) -> tuple[ObjectBodies, Callable[[Index], None] | None]:
    """The bodies of a home in an object store; its cache is in `directory`. One question is asked: whose it is.

    The second value takes a prefix that is nobody's yet, once the index is open. Raises as `Ownership.check` and
    `Bucket` do.
    """
    bucket = Bucket(place, env)
    with contextlib.ExitStack() as undo:
        undo.callback(bucket.close)
        ownership = Ownership(home, bucket, env)
        cache = DiskCache(directory / "cache", cache_bytes, session)
        bodies = ObjectBodies(bucket, cache, check_owner=ownership.require, failpoint=failpoint)
        is_ours = ownership.check()
        with disk("create the store", home / "store"):  # for the ballast of the index
            (home / "store").mkdir(mode=0o700, exist_ok=True)
        undo.pop_all()
    return bodies, None if is_ours else lambda index: ownership.claim(index, bodies)


def _key(cid: Cid) -> str:
    return f"{cid.digest[0]:02x}/{cid}"


def _cid_of(key: str) -> Cid | None:
    """The chunk that an object is named by; None for somebody else's."""
    try:
        cid = Cid.parse(key[3:])
    except CidError:
        return None
    return cid if key == _key(cid) else None
