"""The object store under a home, where it has one: one question, asked once."""

from __future__ import annotations

from rage_net.checkup.outcomes import failed, ok
from rage_net.config.network import Store
from rage_net.env import SystemEnv
from rage_net.errors import RageError
from rage_net.home import Home
from rage_net.verbs.diagnose import Check


def check_objects(home: Home, keys: Store) -> Check:
    """Whether the object store answers, takes our keys, and is this home's. A part of the check `disk`.

    Blocking, for one attempt of `Bucket` at most.
    """
    from rage_net.chunk.bucket import Bucket, Place
    from rage_net.chunk.ownership import Ownership

    place = Place.of_keys(keys)
    assert place is not None, "asked where chunks are files"
    env = SystemEnv()
    try:
        bucket = Bucket(place, env, attempts=1)
        began = env.monotonic()
        try:
            is_ours = Ownership(home.root, bucket, env).check()
        finally:
            bucket.close()
    except RageError as error:
        return failed("disk", error)
    finally:
        env.close()
    took = (env.monotonic() - began) * 1000
    return ok("disk", f"{place} answers in {took:.0f} ms" + ("" if is_ours else "; it is nobody's yet"))
