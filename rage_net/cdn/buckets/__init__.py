"""Where `rage cdn publish` puts objects: the store that a CDN reads instead of asking a node.

Three of them behind one Protocol: S3 and what speaks its API (R2, Fastly Object Storage, MinIO), Azure Blob, and the
WebDAV directory of an nginx. An object is written once: one that is there is left as it is, for its name is the hash of
its bytes. Under the store's prefix it has the name by which it is asked: `chunks/<cid>` is `/chunks/<cid>`.

One call is one attempt: who calls has the list of what is to be done, and decides when again (UnavailableError) and
when not (ConfigError: credentials, names and rights of the store; "denied" is a word about rights on documents).
Secrets are in no error.

Here: which stores cdn.yaml names. Not here: what is public (gate), what is published and deleted (services.purging).
Source: issue 6, B and C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rage_net.aws import Blocking
from rage_net.cdn.buckets.azure_blob import AzureBlob
from rage_net.cdn.buckets.dav import Dav
from rage_net.cdn.buckets.objects import KEYS_MAX, Bucket, Found, Page, PutOutcome, key_of, keys_of
from rage_net.cdn.buckets.s3 import S3
from rage_net.errors import ConfigError

if TYPE_CHECKING:
    from rage_net.config.cdn import Bucket as Keys
    from rage_net.config.cdn import Provider as Entry
    from rage_net.web import Web

__all__ = [
    "KEYS_MAX",
    "S3",
    "AzureBlob",
    "Bucket",
    "Dav",
    "Found",
    "Page",
    "PutOutcome",
    "key_of",
    "keys_of",
    "open_bucket",
    "open_buckets",
]


def open_buckets(entry: Entry, *, web: Web, blocking: Blocking) -> Sequence[Bucket]:
    """The stores of a part of cdn.yaml, in its order: its bucket, then the directory of each edge; often none.

    `web` trusts the edges' `ca_file`, where there is one. Nothing is sent. Raises ConfigError.
    """
    from rage_net.config.cdn import Edge

    found: list[Bucket] = []
    if entry.bucket is not None:
        found.append(open_bucket(entry.bucket, web=web, blocking=blocking))
    if isinstance(entry.config, Edge) and entry.config.dav_path is not None:
        token = entry.config.auth_token
        for endpoint in entry.config.endpoints:
            found.append(Dav(endpoint, entry.config.dav_path, web=web, token=token.reveal() if token else None))
    return found


def open_bucket(keys: Keys, *, web: Web, blocking: Blocking) -> Bucket:
    """The store that a `bucket` of cdn.yaml names. Raises ConfigError."""
    uri = keys.uri
    if uri.startswith("s3://"):
        name, _, prefix = uri.removeprefix("s3://").partition("/")
        if name:
            return S3(name, prefix.strip("/"), keys, blocking=blocking)
    elif uri.startswith(("https://", "http://")):
        parts = urlsplit(uri)
        if parts.hostname and parts.path.strip("/") and not parts.query and not parts.fragment and "@" not in uri:
            return AzureBlob(uri, web=web, token=keys.sas_token.reveal() if keys.sas_token else "")
    raise ConfigError(
        "a bucket's uri names no store",
        why="it is s3://bucket/prefix or https://ACCOUNT.blob.core.windows.net/CONTAINER/prefix, without a query",
        mend=("see bucket.uri in cdn.yaml", "put a shared access signature in bucket.sas_token"),
        id="objects-setup",
    )
