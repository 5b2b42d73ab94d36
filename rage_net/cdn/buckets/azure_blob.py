"""Azure Blob: a container, by a shared access signature.

Source: issue 6, B; Azure's "Put Blob", "Delete Blob", "List Blobs", "Set Blob Metadata".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack
from urllib.parse import quote, unquote, urlsplit

from rage_net.aws import hide
from rage_net.cdn.buckets.by_http import ERROR_BYTES_MAX, each, length_of, send
from rage_net.cdn.buckets.objects import (
    KEYS_MAX,
    TAGS_KEY,
    Found,
    Page,
    PutOutcome,
    Told,
    check_data,
    check_key,
    joined,
    tags_of,
)
from rage_net.cdn.retry import RETRIED
from rage_net.errors import ConfigError, NotFoundError, RageError, UnavailableError

if TYPE_CHECKING:
    from rage_net.web import Answer, Web

PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of a page of a list."""
AZURE_VERSION = "2021-08-06"
"""Of the Blob service's API: the first with these calls under every kind of signature in use."""

LOOPBACK = frozenset(["127.0.0.1", "localhost", "::1"])


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

    async def put(self, key: str, data: bytes, **told: Unpack[Told]) -> PutOutcome:
        """Put Blob with If-None-Match."""
        headers = {
            "x-ms-blob-type": "BlockBlob",
            "If-None-Match": "*",
            "Content-Type": told["content_type"],
            "x-ms-blob-content-type": told["content_type"],
            "x-ms-blob-cache-control": told["cache_control"],
            "Content-MD5": md5_of(data),
            **_azure_metadata(joined(told.get("tags", ()), told.get("metadata", {}))),
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

        return await each(keys, delete_one)

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
        return Found(length_of(answer), tags, metadata, kind, cache_control)

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
        return await send(self._web, method, signed, self._secrets, headers=sent, body=body, bytes_max=bytes_max)

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
