"""Objects of stores: what is told and known of them, the Protocol of a store, and what no store takes.

Source: issue 6, B; the S3 API reference, "Object key naming guidelines" and "User-defined object metadata".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NotRequired, Protocol, TypedDict, Unpack

from rage_net.cdn.provider import TAGS_MAX, ItemError, check_tag
from rage_net.cid import Cid
from rage_net.errors import RageError, UsageError

CHUNKS = "chunks/"
"""Before the CID, in the store as in the path."""
KEY_BYTES_MAX = 1024
KEYS_MAX = 1000
"""Of one deletion, and of one page of a list: what S3 takes and gives at most."""
OBJECT_BYTES_MAX = 64 * 1024 * 1024
"""Sent in one piece; chunks have at most 4 MiB."""
METADATA_BYTES_MAX = 2048
"""Names and values of one object, tags among them: what S3 keeps."""
TAGS_KEY = "cache-tag"
"""Metadata of S3 that arrives at CloudFront as x-amz-meta-cache-tag."""

_KEY = r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*"


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """`existed`: an object of that name was there, with the bytes that its name says."""

    existed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """An object, without its bytes."""

    size: int
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    cache_control: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Keys below the prefix, in order; `marker` gives the next page, None when there is none."""

    keys: Sequence[str]
    marker: str | None


class Told(TypedDict):
    """What is written of an object beside its bytes. Names of metadata: a-z 0-9 -; values: printable ASCII."""

    content_type: str
    cache_control: str
    tags: NotRequired[Sequence[str]]
    metadata: NotRequired[Mapping[str, str]]


class Bucket(Protocol):
    """Objects by keys below a prefix. `str()` names it for people, without secrets.

    Every method raises UnavailableError (again later), ConfigError (not before the configuration or the store is
    mended), StorageFullError; UsageError for a key, tags or bytes that cannot be; CertificateError and
    PeerProtocolError from what answers for the store.
    """

    async def put(self, key: str, data: bytes, **told: Unpack[Told]) -> PutOutcome:
        """Write an object that is not there; one that is stays as it is."""
        ...

    async def delete(self, keys: Sequence[str]) -> Mapping[str, RageError | None]:
        """Remove objects: for each key None, or why it is there still. One that was not there is removed."""
        ...

    async def head(self, key: str) -> Found | None:
        """What is known of an object; None when there is none."""
        ...

    async def page(self, prefix: str, marker: str | None = None) -> Page:
        """Up to a thousand keys that begin with `prefix`, from `marker` on."""
        ...

    async def set_tags(self, key: str, tags: Sequence[str]) -> None:
        """Give an object other tags; caches see them when they next fetch it. Raises NotFoundError too."""
        ...

    def close(self) -> None:
        """Close the connections that are its own."""
        ...


def key_of(cid: Cid) -> str:
    """Where a chunk lies, below the store's prefix."""
    return f"{CHUNKS}{cid}"


async def keys_of(bucket: Bucket, prefix: str, *, pages_max: int = 10_000) -> AsyncIterator[str]:
    """All keys that begin with `prefix`, page by page."""
    marker = None
    for _ in range(pages_max):
        page = await bucket.page(prefix, marker)
        for key in page.keys:
            yield key
        marker = page.marker
        if marker is None:
            return


def parts_of(keys: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """The keys in order, in parts of at most `most`."""
    for at in range(0, len(keys), most):
        yield keys[at : at + most]


def check_key(key: str) -> str:
    """A key that every store takes as it is, and no file system as another. Raises UsageError."""
    if len(key) > KEY_BYTES_MAX or not re.fullmatch(_KEY, key):
        raise UsageError(
            f"{key[:80]!r} is no key of an object",
            why=f"letters, digits and . _ ~ - in parts between /, none of which begins with a dot; "
            f"at most {KEY_BYTES_MAX}",
        )
    return key


def check_data(data: bytes) -> bytes:
    """Bytes that are sent in one piece. Raises UsageError."""
    if len(data) > OBJECT_BYTES_MAX:
        raise UsageError(f"an object of {len(data)} bytes", why=f"at most {OBJECT_BYTES_MAX} are sent in one piece")
    return data


def joined(tags: Sequence[str], metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata with the tags in it, as S3 keeps it: names in lower case, values in ASCII, 2 KiB in all.

    Raises UsageError: a tag that is left out would be a purge that misses.
    """
    found = dict(metadata)
    unique = list(dict.fromkeys(tags))
    try:
        if unique:
            found[TAGS_KEY] = ",".join(map(check_tag, unique))
    except ItemError as error:
        raise UsageError(f"wrong tag: {error}") from None
    if len(unique) > TAGS_MAX:
        raise UsageError(f"an object with {len(unique)} tags", why=f"CDNs keep {TAGS_MAX} of one object")
    for name, text in found.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or not re.fullmatch(r"[ -~]*", text) or text != text.strip():
            raise UsageError(f"{name[:80]!r} is no metadata", why="names are a-z 0-9 -, values printable ASCII")
    size = sum(len(name) + len(text) for name, text in found.items())
    if size > METADATA_BYTES_MAX:
        raise UsageError(f"tags and metadata of {size} bytes", why=f"a store keeps {METADATA_BYTES_MAX} of one object")
    return found


def tags_of(text: str) -> tuple[str, ...]:
    """The tags in an object's metadata."""
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())
