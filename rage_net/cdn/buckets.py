"""Where `rage cdn publish` puts objects: the store that a CDN reads instead of asking a node.

Three of them behind one Protocol: S3 and what speaks its API (R2, Fastly Object Storage, MinIO), Azure Blob, and the
WebDAV directory of an nginx. An object is written once: one that is there is left as it is, for its name is the hash of
its bytes. Under the store's prefix it has the name by which it is asked: `chunks/<cid>` is `/chunks/<cid>`.

One call is one attempt: who calls has the list of what is to be done, and decides when again (UnavailableError) and
when not (ConfigError: credentials, names and rights of the store; "denied" is a word about rights on documents).
Secrets are in no error.

Not here: what is public (gate), what is published and deleted (services.purging). Source: issue 6, B and C; cdn-apis 3,
4, 5 ("S3 put"), 8 (DAV); the S3 API reference; Azure's "Put Blob", "Delete Blob", "List Blobs", "Set Blob Metadata".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlsplit

from rage_net.aws import BUSY, REFUSED, Account, Blocking, Failure, Outcome, hide
from rage_net.cdn.provider import TAGS_MAX, ItemError, check_tag
from rage_net.cdn.retry import RETRIED
from rage_net.cid import Cid
from rage_net.errors import ConfigError, NotFoundError, RageError, StorageFullError, UnavailableError, UsageError

if TYPE_CHECKING:
    from rage_net.config.cdn import Bucket as Keys
    from rage_net.config.cdn import Provider as Entry
    from rage_net.web import Answer, Web

CHUNKS = "chunks/"
"""Before the CID, in the store as in the path."""
KEY_BYTES_MAX = 1024
KEYS_MAX = 1000
"""Of one deletion, and of one page of a list: what S3 takes and gives at most."""
OBJECT_BYTES_MAX = 64 * 1024 * 1024
"""Sent in one piece; chunks have at most 4 MiB."""
METADATA_BYTES_MAX = 2048
"""Names and values of one object, tags among them: what S3 keeps."""
CALLS_MAX = 8
"""At once, where a call deletes one object."""
CALL_S = 30.0
BODY_BYTES_S_MIN = 200_000
"""A body that goes slower than this, over CALL_S, is given up."""
ERROR_BYTES_MAX = 64 * 1024
"""Of an answer that is no list."""
PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of Azure's page of a list."""
TAGS_KEY = "cache-tag"
"""Metadata of S3 that arrives at CloudFront as x-amz-meta-cache-tag."""
AZURE_VERSION = "2021-08-06"
"""Of the Blob service's API: the first with these calls under every kind of signature in use."""

LOOPBACK = frozenset(["127.0.0.1", "localhost", "::1"])

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


class Bucket(Protocol):
    """Objects by keys below a prefix. `str()` names it for people, without secrets.

    Every method raises UnavailableError (again later), ConfigError (not before the configuration or the store is
    mended), StorageFullError; UsageError for a key, tags or bytes that cannot be; CertificateError and
    PeerProtocolError from what answers for the store.
    """

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
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


class S3:
    """Objects in S3, or what speaks its API. See `Bucket`.

    Bodies are sent whole, with their hash in the signature and no trailing checksum: other servers than AWS know no
    other. A server that knows no conditional writes is asked first whether the object is there.
    """

    def __init__(self, name: str, prefix: str, keys: Keys, *, blocking: Blocking) -> None:
        self._name = name
        self._prefix = f"{prefix}/" if prefix else ""
        found = None
        if keys.access_key_id is not None and keys.secret_access_key is not None:
            found = (keys.access_key_id.reveal(), keys.secret_access_key.reveal())
        self._account = Account("s3", blocking=blocking, keys=found, endpoint=keys.endpoint, region=keys.region)
        self._is_conditional = True

    def __str__(self) -> str:
        return f"s3://{self._name}/{self._prefix}".rstrip("/")

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
        """PutObject with If-None-Match."""
        arguments = {
            "Bucket": self._name,
            "Key": self._prefix + check_key(key),
            "Body": check_data(data),
            "ContentType": content_type,
            "CacheControl": cache_control,
            "Metadata": joined(tags, metadata),
        }
        if self._is_conditional:
            try:
                await self._account.ask("put_object", **arguments, IfNoneMatch="*")
            except Failure as failure:
                if failure.outcome == "there":
                    return PutOutcome(True)
                if failure.outcome != "unsupported":
                    raise self._error(f"write {key}", failure) from None
                self._is_conditional = False
            else:
                return PutOutcome(False)
        if await self.head(key) is not None:
            return PutOutcome(True)
        try:
            await self._account.ask("put_object", **arguments)
        except Failure as failure:
            raise self._error(f"write {key}", failure) from None
        return PutOutcome(False)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, RageError | None]:
        """DeleteObjects, a thousand in a call."""
        outcomes: dict[str, RageError | None] = dict.fromkeys(map(check_key, keys))
        for part in parts_of(list(outcomes), KEYS_MAX):
            try:
                answer = await self._account.ask(
                    "delete_objects",
                    Bucket=self._name,
                    Delete={"Objects": [{"Key": self._prefix + key} for key in part], "Quiet": False},
                )
            except Failure as failure:
                for key in part:
                    outcomes[key] = self._error(f"delete {key}", failure)
                continue
            gone = {str(entry.get("Key")) for entry in answer.get("Deleted", ())}
            refused = {str(entry.get("Key")): entry for entry in answer.get("Errors", ())}
            for key in part:
                entry = refused.get(self._prefix + key)
                if entry is not None:
                    outcomes[key] = self._refused(f"delete {key}", str(entry.get("Code")), str(entry.get("Message")))
                elif self._prefix + key not in gone:
                    outcomes[key] = UnavailableError(
                        f"cannot delete {key} in {self}", why="the answer does not name it", id="objects-unavailable"
                    )
        return outcomes

    async def head(self, key: str) -> Found | None:
        """HeadObject."""
        try:
            answer = await self._account.ask("head_object", Bucket=self._name, Key=self._prefix + check_key(key))
        except Failure as failure:
            if failure.outcome == "missing":
                return None
            raise self._error(f"look at {key}", failure) from None
        metadata = {str(name): str(text) for name, text in answer.get("Metadata", {}).items()}
        tags = tags_of(metadata.pop(TAGS_KEY, ""))
        kind, cache_control = str(answer.get("ContentType", "")), str(answer.get("CacheControl", ""))
        return Found(int(answer.get("ContentLength", 0)), tags, metadata, kind, cache_control)

    async def page(self, prefix: str, marker: str | None = None) -> Page:
        """ListObjectsV2."""
        try:
            answer = await self._account.ask(
                "list_objects_v2",
                Bucket=self._name,
                Prefix=self._prefix + prefix,
                MaxKeys=KEYS_MAX,
                **({"ContinuationToken": marker} if marker else {}),
            )
        except Failure as failure:
            raise self._error(f"list {prefix}", failure) from None
        found = [str(entry["Key"])[len(self._prefix) :] for entry in answer.get("Contents", ())]
        following = str(answer.get("NextContinuationToken", "")) if answer.get("IsTruncated") else ""
        return Page(found, following or None)

    async def set_tags(self, key: str, tags: Sequence[str]) -> None:
        """CopyObject onto itself with other metadata: S3 changes it in no other way."""
        found = await self.head(key)
        if found is None:
            raise NotFoundError(f"there is no {key} in {self}")
        place = {"Bucket": self._name, "Key": self._prefix + key}
        try:
            await self._account.ask(
                "copy_object",
                **place,
                CopySource=place,
                MetadataDirective="REPLACE",
                Metadata=joined(tags, found.metadata),
                **({"ContentType": found.content_type} if found.content_type else {}),
                **({"CacheControl": found.cache_control} if found.cache_control else {}),
            )
        except Failure as failure:
            if failure.outcome == "missing":
                raise NotFoundError(f"there is no {key} in {self}") from None
            raise self._error(f"set the tags of {key}", failure) from None

    def close(self) -> None:
        """Close the connections."""
        self._account.close()

    def _refused(self, doing: str, code: str, message: str) -> RageError:
        """What one key's row in the answer to a deletion means."""
        outcome: Outcome = "busy" if code in BUSY else "refused" if code in REFUSED else "setup"
        said = "".join(char if char.isprintable() else " " for char in f"{code}: {message}"[:200])
        return self._error(doing, Failure(outcome, code, self._account.hide(said)))

    def _error(self, doing: str, failure: Failure) -> RageError:
        where = self._account.endpoint or "AWS"
        message, why = f"cannot {doing} in {self}", f"{where} says {failure.said}"
        mend: tuple[str, ...]
        match failure.outcome:
            case "full":
                return StorageFullError(message, why=why, mend=("give the bucket more room",))
            case "refused" if failure.code in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
                mend = (
                    "set bucket.access_key_id and bucket.secret_access_key in cdn.yaml, or AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY",
                )
                return ConfigError(message, why=why, mend=mend, id="objects-refused")
            case "refused" if failure.code == "RequestTimeTooSkewed":
                return ConfigError(message, why=why, mend=("date -u",), id="objects-refused")
            case "refused":
                mend = (
                    "renew bucket.access_key_id and bucket.secret_access_key in cdn.yaml",
                    f"the keys need Get, Put and Delete on {self}/* and ListBucket on its bucket",
                )
                return ConfigError(message, why=why, mend=mend, id="objects-refused")
            case "setup" | "unsupported":
                mend = ("see bucket.uri, bucket.endpoint and bucket.region in cdn.yaml", "rage config check")
                return ConfigError(message, why=why, mend=mend, id="objects-setup")
        return UnavailableError(message, why=why, id="objects-unavailable")


class AzureBlob:
    """Blobs in a container of Azure Storage, by a shared access signature. See `Bucket`.

    Front Door knows no tags: they are kept as metadata, with `_` for `-`, for it must be an identifier there.
    """

    def __init__(self, uri: str, *, web: Web, token: str) -> None:
        parts = urlsplit(uri)
        token = token.removeprefix("?")
        if not re.fullmatch(r"[!-~]{1,4096}", token) or "#" in token or "sig=" not in token:
            raise ConfigError(
                f"bucket.sas_token is no shared access signature for {uri}",
                why="it is a query such as sv=...&sp=rcwdl&sig=..., printable and without blanks",
                mend=("az storage container generate-sas --permissions rcwdl", "set bucket.sas_token or its _FILE"),
                id="objects-setup",
            )
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"{uri} would carry its signature in the clear",
                mend=("write https:// in bucket.uri",),
                id="objects-setup",
            )
        container, _, prefix = parts.path.strip("/").partition("/")
        self._uri = f"{parts.scheme}://{parts.netloc}/{container}/{prefix}".rstrip("/")
        self._container = f"{parts.scheme}://{parts.netloc}/{quote(container, safe='$-')}"
        self._prefix = f"{unquote(prefix)}/" if prefix else ""
        self._web = web
        self._token = token
        signature = next((part[4:] for part in token.split("&") if part.startswith("sig=")), "")
        self._secrets = (token, signature, unquote(signature))

    def __str__(self) -> str:
        return self._uri

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
        """Put Blob with If-None-Match."""
        headers = {
            "x-ms-blob-type": "BlockBlob",
            "If-None-Match": "*",
            "Content-Type": content_type,
            "x-ms-blob-content-type": content_type,
            "x-ms-blob-cache-control": cache_control,
            "Content-MD5": md5_of(data),
            **_azure_metadata(joined(tags, metadata)),
        }
        answer = await self._send("PUT", self._url(key), body=check_data(data), headers=headers)
        if answer.status == 201:
            return PutOutcome(False)
        if azure_code(answer) in ("BlobAlreadyExists", "ConditionNotMet"):
            return PutOutcome(True)
        raise self._error(f"write {key}", answer)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, RageError | None]:
        """Delete Blob for each, some at once."""

        async def delete_one(key: str) -> RageError | None:
            headers = {"x-ms-delete-snapshots": "include"}
            try:
                answer = await self._send("DELETE", self._url(key), headers=headers)
            except RageError as error:
                return error
            is_gone = answer.status == 202 or (answer.status == 404 and azure_code(answer) in ("BlobNotFound", ""))
            return None if is_gone else self._error(f"delete {key}", answer)

        return await _each(keys, delete_one)

    async def head(self, key: str) -> Found | None:
        """Get Blob Properties."""
        answer = await self._send("HEAD", self._url(key), bytes_max=1 << 50)  # the length is told, and nothing comes
        if answer.status == 404 and azure_code(answer) in ("BlobNotFound", ""):
            return None
        if answer.status != 200:
            raise self._error(f"look at {key}", answer)
        metadata = {
            name.removeprefix("x-ms-meta-").replace("_", "-"): text
            for name, text in answer.headers.items()
            if name.startswith("x-ms-meta-")
        }
        tags = tags_of(metadata.pop(TAGS_KEY, ""))
        kind, cache_control = answer.headers.get("content-type", ""), answer.headers.get("cache-control", "")
        return Found(_length(answer), tags, metadata, kind, cache_control)

    async def page(self, prefix: str, marker: str | None = None) -> Page:
        """List Blobs."""
        query = f"restype=container&comp=list&maxresults={KEYS_MAX}&prefix={quote(self._prefix + prefix, safe='')}"
        if marker:
            query += f"&marker={quote(marker, safe='')}"
        answer = await self._send("GET", f"{self._container}?{query}", bytes_max=PAGE_BYTES_MAX)
        if answer.status != 200:
            raise self._error(f"list {prefix}", answer)
        try:
            names, following = parse_blobs(answer.body)
        except ValueError as error:
            raise UnavailableError(
                f"cannot list {prefix} in {self}", why=f"the answer is no list: {error}", id="objects-unavailable"
            ) from None
        return Page([name[len(self._prefix) :] for name in names if name.startswith(self._prefix)], following)

    async def set_tags(self, key: str, tags: Sequence[str]) -> None:
        """Set Blob Metadata, which replaces all of it."""
        found = await self.head(key)
        if found is None:
            raise NotFoundError(f"there is no {key} in {self}")
        headers = _azure_metadata(joined(tags, found.metadata))
        answer = await self._send("PUT", f"{self._url(key)}?comp=metadata", headers=headers, body=b"")
        if answer.status == 404:
            raise NotFoundError(f"there is no {key} in {self}")
        if answer.status != 200:
            raise self._error(f"set the tags of {key}", answer)

    def close(self) -> None:
        """Nothing: connections are those of `web`."""

    def _url(self, key: str) -> str:
        return f"{self._container}/{quote(self._prefix + check_key(key), safe='/~')}"

    async def _send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        bytes_max: int = ERROR_BYTES_MAX,
    ) -> Answer:
        signed = f"{url}{'&' if '?' in url else '?'}{self._token}"
        sent = {"x-ms-version": AZURE_VERSION, **(headers or {})}
        return await _send(self._web, method, signed, self._secrets, headers=sent, body=body, bytes_max=bytes_max)

    def _error(self, doing: str, answer: Answer) -> RageError:
        message = f"cannot {doing} in {self}"
        why = hide(f"Azure says {answer.status} {azure_code(answer)}{_azure_said(answer)}", self._secrets)
        if answer.status in (401, 403):
            mend = (
                "renew bucket.sas_token: az storage container generate-sas --permissions rcwdl",
                "date -u: a signature counts from a time to a time",
            )
            return ConfigError(message, why=why, mend=mend, id="objects-refused")
        if answer.status in RETRIED:
            return UnavailableError(message, why=why, id="objects-unavailable")
        if answer.status == 409 and azure_code(answer) in ("ContainerBeingDeleted", "OperationNotAllowed", ""):
            return UnavailableError(message, why=why, id="objects-unavailable")
        return ConfigError(message, why=why, mend=("see bucket.uri in cdn.yaml",), id="objects-setup")


class Dav:
    """The directory of one edge, written by nginx's WebDAV module. See `Bucket`.

    nginx knows no conditions: an object that is there is replaced at once, by the same bytes. It keeps no tags, and has
    no list.
    """

    def __init__(self, endpoint: str, path: str, *, web: Web, token: str | None) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._path = "/".join(quote(part, safe="~") for part in path.split("/") if part)
        self._web = web
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._secrets = (token,) if token else ()

    def __str__(self) -> str:
        return f"{self._endpoint}/{self._path}".rstrip("/")

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        cache_control: str,
        tags: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> PutOutcome:
        """PUT. The rest is the edge's own configuration: it keeps nothing but bytes."""
        joined(tags, metadata)
        headers = {**self._headers, "Content-Type": content_type}
        answer = await self._send("PUT", key, headers=headers, body=check_data(data))
        if answer.status in (200, 201, 204):
            return PutOutcome(answer.status != 201)
        raise self._error(f"write {key}", answer)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, RageError | None]:
        """DELETE for each, some at once."""

        async def delete_one(key: str) -> RageError | None:
            try:
                answer = await self._send("DELETE", key, headers=self._headers)
            except RageError as error:
                return error
            return None if answer.status in (200, 204, 404) else self._error(f"delete {key}", answer)

        return await _each(keys, delete_one)

    async def head(self, key: str) -> Found | None:
        """HEAD."""
        answer = await self._send("HEAD", key, headers=self._headers, bytes_max=1 << 50)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._error(f"look at {key}", answer)
        return Found(
            _length(answer),
            content_type=answer.headers.get("content-type", ""),
            cache_control=answer.headers.get("cache-control", ""),
        )

    async def page(self, prefix: str, marker: str | None = None) -> Page:
        """Refused."""
        raise UsageError(f"{self} cannot be listed", why="nginx's WebDAV module lists no directories")

    async def set_tags(self, key: str, tags: Sequence[str]) -> None:
        """Nothing: nginx neither keeps tags nor purges by them."""
        joined(tags, None)

    def close(self) -> None:
        """Nothing: connections are those of `web`."""

    async def _send(
        self,
        method: str,
        key: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        bytes_max: int = ERROR_BYTES_MAX,
    ) -> Answer:
        url = f"{self}/{check_key(key)}"
        return await _send(self._web, method, url, self._secrets, headers=headers, body=body, bytes_max=bytes_max)

    def _error(self, doing: str, answer: Answer) -> RageError:
        message, why = f"cannot {doing} in {self}", f"nginx says {answer.status}"
        if answer.status in (401, 403):
            mend = ("see config.auth_token in cdn.yaml, and what the edge compares it with",)
            return ConfigError(message, why=why, mend=mend, id="objects-refused")
        if answer.status == 507:
            return StorageFullError(message, why=why, mend=("give the edge's disk more room",))
        if answer.status in RETRIED:
            return UnavailableError(message, why=why, id="objects-unavailable")
        mend = (DAV_MENDS.get(answer.status, "see config.dav_path and config.endpoints in cdn.yaml"),)
        return ConfigError(message, why=why, mend=mend, id="objects-setup")


DAV_MENDS = {
    405: "dav_methods PUT DELETE; in the location that config.dav_path names",
    409: "create_full_put_path on; in the location that config.dav_path names",
    413: "client_max_body_size 8m; in the location that config.dav_path names: chunks have up to 4 MiB",
}
"""By status: what nginx lacks."""


async def _send(
    web: Web,
    method: str,
    url: str,
    secrets: Sequence[str],
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    bytes_max: int,
) -> Answer:
    """One exchange, slower for a larger body; its errors without secrets, nor a cause that might have them."""
    timeout_s = CALL_S + len(body or b"") / BODY_BYTES_S_MIN
    try:
        return await web.send(method, url, headers=headers, body=body, timeout_s=timeout_s, bytes_max=bytes_max)
    except RageError as error:
        plain = type(error)(hide(error.message, secrets), why=hide(error.why, secrets), mend=error.mend, id=error.id)
    raise plain


async def _each(
    keys: Sequence[str], delete_one: Callable[[str], Awaitable[RageError | None]]
) -> Mapping[str, RageError | None]:
    outcomes: dict[str, RageError | None] = dict.fromkeys(map(check_key, keys))
    for part in parts_of(list(outcomes), CALLS_MAX):
        for key, outcome in zip(part, await asyncio.gather(*map(delete_one, part)), strict=True):
            outcomes[key] = outcome
    return outcomes


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


def joined(tags: Sequence[str], metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata with the tags in it, as S3 keeps it: names in lower case, values in ASCII, 2 KiB in all.

    Raises UsageError: a tag that is left out would be a purge that misses.
    """
    found = dict(metadata or {})
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


def md5_of(data: bytes) -> str:
    """What Azure compares the body with."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii")


def azure_code(answer: Answer) -> str:
    """The error's code: from its header, else from the body."""
    code = answer.headers.get("x-ms-error-code", "")
    if not code:
        match = re.search(rb"<Code>([A-Za-z]{1,64})</Code>", answer.body)
        code = match[1].decode("ascii") if match else ""
    return code if re.fullmatch(r"[A-Za-z]{0,64}", code) else ""


def _azure_said(answer: Answer) -> str:
    """The first line of the error's message, after a colon."""
    match = re.search(rb"<Message>([^<\r\n]{1,200})", answer.body)
    text = match[1].decode("utf-8", "replace") if match else ""
    return f": {text}" if text and text.isprintable() else ""


def _azure_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    return {f"x-ms-meta-{name.replace('-', '_')}": text for name, text in metadata.items()}


def parse_blobs(body: bytes) -> tuple[list[str], str | None]:
    """Names of blobs, and the marker of the next page, from an answer to List Blobs. Raises ValueError."""
    from xml.etree import ElementTree

    if b"<!" in body:  # no document type, thus no entities that unpack
        raise ValueError("it declares a document type")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314  bounded, without entities
    except ElementTree.ParseError:
        raise ValueError("it is no XML") from None
    if root.tag != "EnumerationResults":
        raise ValueError("it is another document")
    names = []
    for name in root.iterfind("Blobs/Blob/Name"):
        text = name.text or ""
        names.append(unquote(text) if name.get("Encoded") == "true" else text)
    return names, (root.findtext("NextMarker") or None)


def _length(answer: Answer) -> int:
    text = answer.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
