"""A contract fake of Azure's Blob service: no server of Azure. It checks what the REST reference says of five calls.

Put Blob, Delete Blob, Get Blob Properties, Set Blob Metadata, List Blobs; by a shared access signature in the query.
Codes and statuses are those of "Blob service error codes". It does not compute signatures: it compares `sig`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import httpx


@dataclass
class Blob:
    data: bytes
    headers: dict[str, str]
    metadata: dict[str, str] = field(default_factory=dict)


class ContractFakeAzureBlob(httpx.AsyncBaseTransport):
    """One container. `faults` are answered first, each once: (status, code, message)."""

    def __init__(self, container: str, token: str, *, page: int = 5000) -> None:
        self.container = container
        self.signature = unquote(parse_qs(token)["sig"][0])
        self.permissions = parse_qs(token)["sp"][0]
        self.blobs: dict[str, Blob] = {}
        self.faults: list[tuple[int, str, str]] = []
        self.asked: list[tuple[str, str]] = []
        self.page = page

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = {name.lower(): text for name, text in request.headers.items()}
        parts = urlsplit(str(request.url))
        self.asked.append((request.method, parts.path))
        query = {name: found[0] for name, found in parse_qs(parts.query, keep_blank_values=True).items()}
        if self.faults:
            return refused(*self.faults.pop(0))
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", headers.get("x-ms-version", "")):
            return refused(400, "InvalidHeaderValue", "x-ms-version")
        if "authorization" in headers or query.get("sig") != self.signature:
            text = f"Signature did not match. String to sign used was {query.get('sp')}; sig {query.get('sig')}"
            return refused(403, "AuthenticationFailed", f"Server failed to authenticate the request.\n{text}")
        container, _, name = unquote(parts.path).strip("/").partition("/")
        if container != self.container:
            return refused(404, "ContainerNotFound", "The specified container does not exist.")
        if not name:
            return self._list(request.method, query)
        needs = {"PUT": "w", "DELETE": "d", "HEAD": "r"}.get(request.method)
        if needs is None:
            return refused(405, "UnsupportedHttpVerb", request.method)
        if needs not in self.permissions:
            return refused(403, "AuthorizationPermissionMismatch", "This request is not authorized.")
        if request.method == "PUT":
            return self._tag(name, headers) if query.get("comp") == "metadata" else self._put(name, headers, body)
        blob = self.blobs.get(name)
        if blob is None:
            return refused(404, "BlobNotFound", "The specified blob does not exist.", head=request.method == "HEAD")
        if request.method == "DELETE":
            if headers.get("x-ms-delete-snapshots") != "include":
                return refused(
                    409, "SnapshotsPresent", "This operation is not permitted because the blob has snapshots."
                )
            del self.blobs[name]
            return httpx.Response(202, headers={"x-ms-delete-type-permanent": "true"})
        told = {**blob.headers, **{f"x-ms-meta-{key}": text for key, text in blob.metadata.items()}}
        return httpx.Response(200, headers={**told, "Content-Length": str(len(blob.data))})

    def _put(self, name: str, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        if headers.get("x-ms-blob-type") != "BlockBlob":
            return refused(400, "MissingRequiredHeader", "x-ms-blob-type")
        if "transfer-encoding" in headers or headers.get("content-length") != str(len(body)):
            return refused(411, "MissingContentLengthHeader", "Content-Length was not specified.")
        wanted = base64.b64encode(hashlib.md5(body).digest()).decode()
        if headers.get("content-md5", wanted) != wanted:
            return refused(400, "Md5Mismatch", "The MD5 value specified in the request did not match.")
        metadata = metadata_of(headers)
        if metadata is None:
            return refused(400, "InvalidMetadata", "The metadata specified is invalid.")
        if headers.get("if-none-match") == "*" and name in self.blobs:
            return refused(409, "BlobAlreadyExists", "The specified blob already exists.")
        kept = {"content-type": headers.get("x-ms-blob-content-type", headers.get("content-type", ""))}
        kept["cache-control"] = headers.get("x-ms-blob-cache-control", "")
        self.blobs[name] = Blob(body, kept, metadata)
        return httpx.Response(201, headers={"ETag": '"0x1"'})

    def _tag(self, name: str, headers: Mapping[str, str]) -> httpx.Response:
        metadata = metadata_of(headers)
        if metadata is None:
            return refused(400, "InvalidMetadata", "The metadata specified is invalid.")
        if name not in self.blobs:
            return refused(404, "BlobNotFound", "The specified blob does not exist.")
        self.blobs[name].metadata = metadata
        return httpx.Response(200)

    def _list(self, method: str, query: Mapping[str, str]) -> httpx.Response:
        if method != "GET" or query.get("restype") != "container" or query.get("comp") != "list":
            return refused(400, "InvalidQueryParameterValue", "restype")
        if "l" not in self.permissions:
            return refused(403, "AuthorizationPermissionMismatch", "This request is not authorized.")
        most = min(int(query.get("maxresults", 5000)), self.page)
        names = sorted(name for name in self.blobs if name.startswith(query.get("prefix", "")))
        names = [name for name in names if name >= query.get("marker", "")]
        following = names[most] if len(names) > most else ""
        rows = "".join(f"<Blob><Name>{escape(name)}</Name></Blob>" for name in names[:most])
        text = (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{self.container}">'
            f"<Blobs>{rows}</Blobs><NextMarker>{escape(following)}</NextMarker></EnumerationResults>"
        )
        return httpx.Response(200, headers={"Content-Type": "application/xml"}, content=b"\xef\xbb\xbf" + text.encode())


def metadata_of(headers: Mapping[str, str]) -> dict[str, str] | None:
    """None where a name is no identifier of C#, as it must be."""
    found = {name.removeprefix("x-ms-meta-"): text for name, text in headers.items() if name.startswith("x-ms-meta-")}
    is_good = all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in found)
    return found if is_good and sum(len(name) + len(text) for name, text in found.items()) <= 8192 else None


def refused(status: int, code: str, message: str, *, head: bool = False) -> httpx.Response:
    text = (
        f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>'
    )
    headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
    return httpx.Response(status, headers=headers, content=b"" if head else text.encode())
