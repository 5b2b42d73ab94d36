"""Where publish puts objects: S3 against moto's server, DAV against a real nginx, Azure against a contract fake."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import itertools
import logging
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from rage_net import aws
from rage_net.cdn import buckets
from rage_net.cdn.buckets import (
    KEYS_MAX,
    S3,
    AzureBlob,
    Bucket,
    Dav,
    Found,
    Page,
    PutOutcome,
    key_of,
    keys_of,
    open_bucket,
    open_buckets,
)
from rage_net.cdn.buckets.azure_blob import parse_blobs
from rage_net.cdn.buckets.objects import OBJECT_BYTES_MAX, check_key
from rage_net.cid import Cid
from rage_net.config.cdn import Bucket as Keys
from rage_net.config.cdn import CloudFront, Edge, Provider
from rage_net.config.values import Secret, Url
from rage_net.errors import (
    ConfigError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    StorageFullError,
    UnavailableError,
    UsageError,
)
from rage_net.web import Web
from tests import listening as raw_server
from tests.aws_server import Recorder
from tests.cdn.fakes.azure_blob import ContractFakeAzureBlob

KEY, SECRET = "AKIASENTINELKEY00001", "sentinel-of-the-secret-that-nobody-may-see"  # in the form of AWS's
SIGNATURE = "c2VudGluZWwvc2lnbmF0dXJl%2Bkey%3D"
TOKEN = f"sv=2022-11-02&sr=c&sp=rcwdl&se=2030-01-01T00%3A00%3A00Z&sig={SIGNATURE}"
BEARER = "sentinel-of-the-edge-token"
SECRETS = (KEY, SECRET, SIGNATURE, "c2VudGluZWwvc2lnbmF0dXJl+key=", BEARER)

CID = Cid.of(b"a chunk")
TOLD = {"content_type": "application/octet-stream", "cache_control": "public, max-age=60"}

ENTITIES = """<!DOCTYPE a [<!ENTITY a "b">]><ListBucketResult><Name>&a;&a;</Name></ListBucketResult>"""
"""Four megabytes of such unpack into four hundred."""

pytestmark = pytest.mark.usefixtures("no_credentials")

_numbers = itertools.count()


def keys(uri: str, url: str | None, **more: Any) -> Keys:
    given: dict[str, Any] = {"access_key_id": Secret(KEY), "secret_access_key": Secret(SECRET), **more}
    return Keys(uri=uri, endpoint=Url(url) if url else None, **given)


@pytest.fixture
def operator(aws_url: str) -> Iterator[Any]:
    client = boto3.client(
        "s3", endpoint_url=aws_url, region_name="us-east-1", aws_access_key_id="o", aws_secret_access_key="o"
    )
    yield client
    client.close()


@pytest.fixture
def s3_name(operator: Any) -> str:
    name = f"published-{next(_numbers)}"
    operator.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3(recorder: Recorder, s3_name: str) -> Iterator[Bucket]:
    found = open_bucket(keys(f"s3://{s3_name}/some/prefix", recorder.url), web=Web(), blocking=asyncio.to_thread)
    yield found
    found.close()


@pytest.fixture
def azure() -> ContractFakeAzureBlob:
    return ContractFakeAzureBlob("objects", TOKEN)


@asynccontextmanager
async def blobs(fake: httpx.AsyncBaseTransport, token: str = TOKEN) -> AsyncIterator[Bucket]:
    uri = "https://acc.blob.core.windows.net/objects/some/prefix"
    async with Web(transport=fake) as web:
        yield open_bucket(Keys(uri=uri, sas_token=Secret(token)), web=web, blocking=asyncio.to_thread)


# --- what every store promises ---


@pytest.fixture(params=["s3", "azure"])
def opened(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """A store that keeps all that a store may be asked for."""

    @asynccontextmanager
    async def of_s3(found: Bucket) -> AsyncIterator[Bucket]:
        yield found

    if request.param == "s3":
        found = request.getfixturevalue("s3")
        return lambda: of_s3(found)
    fake = request.getfixturevalue("azure")
    return lambda: blobs(fake)


@pytest.mark.anyio
async def test_an_object_is_written_once_found_tagged_and_removed(opened: Callable[[], Any]) -> None:
    async with opened() as bucket:
        key = key_of(CID)
        assert key == f"chunks/{CID}" and await bucket.head(key) is None
        made = await bucket.put(key, b"a chunk", **TOLD, tags=["doc:42", "rage", "doc:42"], metadata={"made-by": "x"})
        assert made == PutOutcome(existed=False)
        again = await bucket.put(key, b"other bytes, longer", **TOLD)
        assert again == PutOutcome(existed=True)
        kept = Found(7, ("doc:42", "rage"), {"made-by": "x"}, TOLD["content_type"], TOLD["cache_control"])
        assert await bucket.head(key) == kept, "the first stays"
        await bucket.set_tags(key, ["doc:43"])
        assert await bucket.head(key) == Found(7, ("doc:43",), {"made-by": "x"}, *list(TOLD.values())), "and the rest"
        await bucket.set_tags(key, [])
        assert (await bucket.head(key)).tags == ()
        assert await bucket.delete([key, "chunks/none"]) == {key: None, "chunks/none": None}
        assert await bucket.head(key) is None
        with pytest.raises(NotFoundError):
            await bucket.set_tags(key, ["doc:42"])


@pytest.mark.anyio
async def test_keys_are_listed_below_the_prefix_in_pages(
    opened: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (buckets.s3, buckets.azure_blob):
        monkeypatch.setattr(module, "KEYS_MAX", 3)
    async with opened() as bucket:
        names = [f"chunks/{at:02}" for at in range(8)]
        for name in [*names, "other/1"]:
            await bucket.put(name, name.encode(), **TOLD)
        page = await bucket.page("chunks/")
        assert list(page.keys) == names[:3] and page.marker
        assert list((await bucket.page("chunks/", page.marker)).keys) == names[3:6]
        assert [key async for key in keys_of(bucket, "chunks/")] == names
        assert await bucket.page("nothing/") == Page([], None)
        gone = await bucket.delete(names)
        assert gone == dict.fromkeys(names) and [key async for key in keys_of(bucket, "")] == ["other/1"]


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "a?b", "ä", "a\n", "x" * 1025])
async def test_a_key_that_could_mean_another_is_refused(key: str, opened: Callable[[], Any]) -> None:
    async with opened() as bucket:
        for work in (bucket.put(key, b"", **TOLD), bucket.head(key), bucket.delete([key]), bucket.set_tags(key, [])):
            with pytest.raises(UsageError):
                await work


@pytest.mark.anyio
@pytest.mark.parametrize(
    "more",
    [
        {"tags": ["a b"]},
        {"tags": ["a,b"]},
        {"tags": ["ä"]},
        {"tags": ["a&&b"]},
        {"tags": ["Upper"]},
        {"tags": [""]},
        {"tags": ["x" * 257]},
        {"tags": [f"doc:{at}" for at in range(51)]},
        {"tags": [f"doc:{at:060}" for at in range(40)]},
        {"metadata": {"Name": "x"}},
        {"metadata": {"name": "ä"}},
        {"metadata": {"name": "a\r\nx-evil: 1"}},
        {"metadata": {"name": "x" * 2048}},
    ],
)
async def test_tags_and_metadata_that_no_store_keeps_are_refused_before_anything_is_sent(
    more: Mapping[str, Any], opened: Callable[[], Any]
) -> None:
    async with opened() as bucket:
        with pytest.raises(UsageError):
            await bucket.put("chunks/a", b"", **TOLD, **more)
        assert await bucket.head("chunks/a") is None


@pytest.mark.anyio
async def test_more_bytes_than_go_in_one_piece_are_refused(
    opened: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert OBJECT_BYTES_MAX >= 4 * 1024 * 1024
    monkeypatch.setattr(buckets.objects, "OBJECT_BYTES_MAX", 10)
    async with opened() as bucket:
        with pytest.raises(UsageError, match="11 bytes"):
            await bucket.put("chunks/a", b"x" * 11, **TOLD)


# --- S3 ---


@pytest.mark.anyio
async def test_a_body_goes_whole_with_its_hash_and_no_trailing_checksum(
    s3: Bucket, recorder: Recorder, s3_name: str, operator: Any
) -> None:
    data = bytes(range(256)) * 40
    await s3.put("chunks/a", data, **TOLD, tags=["doc:1", "doc:2"])
    ((method, path, headers, body),) = recorder.asked
    assert (method, path) == ("PUT", f"/{s3_name}/some/prefix/chunks/a") and body == data
    assert headers["content-length"] == str(len(data)) and "transfer-encoding" not in headers
    assert headers["x-amz-content-sha256"] == hashlib.sha256(data).hexdigest()
    assert not any("checksum" in name or "trailer" in name for name in headers)
    assert "aws-chunked" not in headers.get("content-encoding", "") and headers["if-none-match"] == "*"
    assert headers["x-amz-meta-cache-tag"] == "doc:1,doc:2", "as CloudFront reads it"
    found = operator.get_object(Bucket=s3_name, Key="some/prefix/chunks/a")
    assert found["Body"].read() == data and found["CacheControl"] == TOLD["cache_control"]
    assert found["ContentType"] == TOLD["content_type"] and found["Metadata"] == {"cache-tag": "doc:1,doc:2"}


@pytest.mark.anyio
async def test_a_deletion_takes_a_thousand_keys_a_call_with_the_sum_that_other_servers_want(
    s3: Bucket, recorder: Recorder
) -> None:
    names = [f"chunks/{at}" for at in range(KEYS_MAX + 5)]
    assert await s3.delete([*names, *names[:3]]) == dict.fromkeys(names)
    assert [method for method, *_ in recorder.asked] == ["POST", "POST"]
    for _, path, headers, body in recorder.asked:
        assert "delete" in path and body.count(b"<Key>") in (KEYS_MAX, 5)
        assert not any("checksum" in name for name in headers), "which not every server knows"
        assert headers["content-md5"] == base64.b64encode(hashlib.md5(body).digest()).decode()
    assert await s3.delete([]) == {} and len(recorder.asked) == 2


@pytest.mark.anyio
async def test_each_key_that_was_not_deleted_has_its_own_reason(s3: Bucket, recorder: Recorder) -> None:
    rows = "".join(
        f"<Error><Key>some/prefix/{key}</Key><Code>{code}</Code><Message>{SECRET}</Message></Error>"
        for key, code in (("a", "AccessDenied"), ("b", "InternalError"), ("c", "MethodNotAllowed"))
    )
    body = f"<DeleteResult><Deleted><Key>some/prefix/d</Key></Deleted>{rows}</DeleteResult>"
    recorder.fault = (200, {"Content-Type": "application/xml"}, body.encode())
    found = await s3.delete(["a", "b", "c", "d", "e"])
    assert [type(error) for error in found.values()] == [
        *(ConfigError, UnavailableError, ConfigError, type(None), UnavailableError)
    ]
    assert "does not name it" in found["e"].why and SECRET not in str(
        [vars(error) for error in found.values() if error]
    )


@pytest.mark.anyio
async def test_a_server_without_conditional_writes_is_asked_first(
    s3_name: str, aws_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_bucket(keys(f"s3://{s3_name}", aws_url), web=Web(), blocking=asyncio.to_thread)
    asked: list[tuple[str, bool]] = []
    ask = bucket._account.ask  # type: ignore[attr-defined]

    async def old(operation: str, **arguments: Any) -> Any:
        asked.append((operation, "IfNoneMatch" in arguments))
        if "IfNoneMatch" in arguments:
            raise aws.Failure("unsupported", "NotImplemented", "501 NotImplemented", 501)
        return await ask(operation, **arguments)

    monkeypatch.setattr(bucket._account, "ask", old)  # type: ignore[attr-defined]
    assert await bucket.put("a", b"1", **TOLD) == PutOutcome(False)
    assert await bucket.put("a", b"2", **TOLD) == PutOutcome(True)
    assert asked == [("put_object", True), ("head_object", False), ("put_object", False), ("head_object", False)]
    bucket.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "code", "kind", "id"),
    [
        (403, "AccessDenied", ConfigError, "objects-refused"),
        (403, "SignatureDoesNotMatch", ConfigError, "objects-refused"),
        (403, "InvalidAccessKeyId", ConfigError, "objects-refused"),
        (400, "ExpiredToken", ConfigError, "objects-refused"),
        (403, "RequestTimeTooSkewed", ConfigError, "objects-refused"),
        (401, "Unauthorized", ConfigError, "objects-refused"),
        (404, "NoSuchBucket", ConfigError, "objects-setup"),
        (400, "InvalidArgument", ConfigError, "objects-setup"),
        (301, "PermanentRedirect", ConfigError, "objects-setup"),
        (413, "EntityTooLarge", ConfigError, "objects-setup"),
        (507, "XMinioStorageFull", StorageFullError, "storage-full"),
        (408, "RequestTimeout", UnavailableError, "objects-unavailable"),
        (409, "ConditionalRequestConflict", UnavailableError, "objects-unavailable"),
        (429, "TooManyRequests", UnavailableError, "objects-unavailable"),
        (500, "InternalError", UnavailableError, "objects-unavailable"),
        (503, "SlowDown", UnavailableError, "objects-unavailable"),
    ],
)
async def test_each_refusal_of_s3_has_its_class(
    s3: Bucket, recorder: Recorder, status: int, code: str, kind: type[RageError], id: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>because of {SECRET} and {KEY}</Message></Error>".encode()
    recorder.fault = (status, {"Content-Type": "application/xml"}, body)
    for work in (s3.put("a", b"x", **TOLD), s3.page("a")):
        with pytest.raises(kind) as caught:
            await work
        assert caught.value.id == id and code in caught.value.why and str(s3) in caught.value.message
        assert SECRET not in repr(caught.value.to_plain()) and KEY not in repr(caught.value.to_plain())
        assert caught.value.__cause__ is None and (caught.value.mend or caught.value.retryable)
    found = (await s3.delete(["a"]))["a"]
    assert isinstance(found, kind) and found.id == id
    assert len(recorder.asked) == 3, "one attempt each"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>log in<br>"),
        (200, {"Content-Type": "application/xml"}, b"x" * (aws.ANSWER_BYTES_MAX + 1)),
        (200, {"Content-Type": "application/xml"}, b"<ListBucketResult><Contents>"),
        (200, {"Content-Type": "application/xml"}, ENTITIES.encode()),
        (200, {"Content-Type": "application/xml"}, ENTITIES.encode("utf-16")),
    ],
)
async def test_a_list_that_is_none_is_an_outage(s3: Bucket, recorder: Recorder, answer: Any) -> None:
    recorder.fault = answer
    with pytest.raises(UnavailableError):
        await s3.page("chunks/")


@pytest.mark.anyio
async def test_nobody_there_is_an_outage_and_no_keys_are_a_matter_of_configuration(aws_url: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        bucket = open_bucket(keys("s3://bucket", url), web=Web(), blocking=asyncio.to_thread)
        with pytest.raises(UnavailableError):
            await bucket.head("a")
    none = keys("s3://bucket", aws_url, access_key_id=None, secret_access_key=None)
    bucket = open_bucket(none, web=Web(), blocking=asyncio.to_thread)
    with pytest.raises(ConfigError) as caught:
        await bucket.put("a", b"", **TOLD)
    assert "bucket.access_key_id" in caught.value.mend[0]


@pytest.mark.anyio
@pytest.mark.parametrize("head", ["", "Content-Length: 60000\r\n\r\n", "Connection: close\r\n\r\n"])
async def test_a_server_that_drips_keeps_no_thread_of_ours(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(f"HTTP/1.1 200 OK\r\n{head}".encode())
            while True:
                writer.write(b"X")
                await writer.drain()
                await asyncio.sleep(0.02)

    def watched(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        finally:
            loop.call_soon_threadsafe(is_free.set)

    async def blocking(function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.to_thread(watched, function, *args)

    loop, is_free = asyncio.get_running_loop(), asyncio.Event()
    monkeypatch.setattr(aws, "CALL_S", 0.2)
    async with asyncio.timeout(20), raw_server.listening(drip) as port:
        bucket = open_bucket(keys("s3://bucket", f"http://127.0.0.1:{port}"), web=Web(), blocking=blocking)
        with pytest.raises(UnavailableError):
            await bucket.page("chunks/")
        await is_free.wait()
        bucket.close()


# --- Azure, by a contract fake ---


@pytest.mark.anyio
async def test_a_blob_has_what_front_door_and_people_read(azure: ContractFakeAzureBlob) -> None:
    async with blobs(azure) as bucket:
        await bucket.put("chunks/a", b"x", **TOLD, tags=["doc:1"])
        await bucket.put("chunks/a", b"y", **TOLD)
    blob = azure.blobs["some/prefix/chunks/a"]
    assert blob.data == b"x" and blob.metadata == {"cache_tag": "doc:1"}, "a name in metadata is an identifier there"
    assert blob.headers == {"content-type": TOLD["content_type"], "cache-control": TOLD["cache_control"]}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "code", "kind", "id"),
    [
        (401, "NoAuthenticationInformation", ConfigError, "objects-refused"),
        (403, "AuthenticationFailed", ConfigError, "objects-refused"),
        (403, "AuthorizationPermissionMismatch", ConfigError, "objects-refused"),
        (404, "ContainerNotFound", ConfigError, "objects-setup"),
        (400, "InvalidHeaderValue", ConfigError, "objects-setup"),
        (409, "PublicAccessNotPermitted", ConfigError, "objects-setup"),
        (413, "RequestBodyTooLarge", ConfigError, "objects-setup"),
        (302, "", ConfigError, "objects-setup"),
        (409, "ContainerBeingDeleted", UnavailableError, "objects-unavailable"),
        (429, "TooManyRequests", UnavailableError, "objects-unavailable"),
        (500, "InternalError", UnavailableError, "objects-unavailable"),
        (503, "ServerBusy", UnavailableError, "objects-unavailable"),
    ],
)
async def test_each_refusal_of_azure_has_its_class(
    azure: ContractFakeAzureBlob, status: int, code: str, kind: type[RageError], id: str
) -> None:
    async with blobs(azure) as bucket:
        fault = (status, code, f"because of {SIGNATURE}")
        works = [
            lambda: bucket.put("a", b"x", **TOLD),
            lambda: bucket.head("a"),
            lambda: bucket.page("a"),
        ]
        for work in works:
            azure.faults = [fault]
            with pytest.raises(kind) as caught:
                await work()
            assert caught.value.id == id and str(status) in caught.value.why and code in caught.value.why
            assert not any(secret in repr(caught.value.to_plain()) for secret in SECRETS)
        azure.faults = [fault]
        found = (await bucket.delete(["a"]))["a"]
        assert isinstance(found, kind) and found.id == id


@contextmanager
def listening(fake: ContractFakeAzureBlob) -> Iterator[str]:
    """The fake behind a server on loopback, for clients that are not ours."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = f"https://acc.blob.core.windows.net{self.path}"
            request = httpx.Request(self.command, url, headers=dict(self.headers.items()), content=body)
            answer = asyncio.run(fake.handle_async_request(request))
            self.send_response(answer.status_code)
            for name, text in {"content-length": str(len(answer.content)), **answer.headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_HEAD = do_DELETE = pass_on

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.anyio
async def test_the_vendors_sdk_and_the_fake_agree_and_each_reads_what_the_other_wrote(
    azure: ContractFakeAzureBlob,
) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
    from azure.storage.blob import ContainerClient, ContentSettings

    async with blobs(azure) as bucket:
        await bucket.put("chunks/ours", b"ours", **TOLD, tags=["doc:1"])
    settings = ContentSettings(content_type=TOLD["content_type"], cache_control=TOLD["cache_control"])
    with listening(azure) as url, ContainerClient(url, "objects", credential=TOKEN, retry_total=0) as sdk:
        theirs = sdk.get_blob_client("some/prefix/chunks/theirs")
        theirs.upload_blob(b"theirs", content_settings=settings, metadata={"cache_tag": "doc:2"})
        with pytest.raises(ResourceExistsError):
            theirs.upload_blob(b"other")
        found = sdk.get_blob_client("some/prefix/chunks/ours").get_blob_properties()
        assert (found.size, found.metadata) == (4, {"cache_tag": "doc:1"})
        assert found.content_settings.cache_control == TOLD["cache_control"]
        assert list(sdk.list_blob_names(name_starts_with="some/prefix/")) == [
            *("some/prefix/chunks/ours", "some/prefix/chunks/theirs")
        ]
        async with blobs(azure) as bucket:
            assert await bucket.head("chunks/theirs") == Found(6, ("doc:2",), {}, *TOLD.values())
        theirs.set_blob_metadata({"cache_tag": "doc:3"})
        theirs.delete_blob(delete_snapshots="include")
        with pytest.raises(ResourceNotFoundError):
            theirs.delete_blob()
        async with blobs(azure) as bucket:
            assert list((await bucket.page("chunks/")).keys) == ["chunks/ours"]
    wrong = TOKEN.replace("sig=", "sig=x")
    with listening(azure) as url, ContainerClient(url, "objects", credential=wrong, retry_total=0) as sdk:
        with pytest.raises(HttpResponseError) as caught:
            sdk.get_blob_client("a").get_blob_properties()
        assert caught.value.status_code == 403


@pytest.mark.anyio
async def test_a_signature_of_another_key_is_refused_and_said_by_nobody(azure: ContractFakeAzureBlob) -> None:
    other = "sv=2022-11-02&sp=rcwdl&sig=c2VudGluZWw%3D"
    async with blobs(azure, other) as bucket:
        with pytest.raises(ConfigError) as caught:
            await bucket.page("chunks/")
    assert "AuthenticationFailed" in caught.value.why and "c2VudGluZWw" not in repr(caught.value.to_plain())
    assert not azure.blobs


@pytest.mark.parametrize("token", ["", "?", "sv=1", "sig=a b", "sig=a#b", "sig=a\nb", "sig=" + "x" * 5000, "sig=ä"])
def test_what_is_no_signature_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AzureBlob("https://acc.blob.core.windows.net/objects", web=Web(), token=token)
    assert token[4:] == "" or token not in repr(caught.value.to_plain())


def test_a_signature_does_not_go_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="in the clear"):
        AzureBlob("http://acc.blob.core.windows.net/objects", web=Web(), token=TOKEN)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>log in<br>",
        b"<html></html>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><EnumerationResults>&a;</EnumerationResults>',
        b"<EnumerationResults>",
    ],
)
def test_what_is_no_list_of_blobs_is_told_so(body: bytes) -> None:
    with pytest.raises(ValueError):
        parse_blobs(body)


def test_names_that_xml_cannot_hold_come_encoded() -> None:
    body = b'<EnumerationResults><Blobs><Blob><Name Encoded="true">a%2Fb</Name></Blob></Blobs></EnumerationResults>'
    assert parse_blobs(body) == (["a/b"], None)


@pytest.mark.anyio
async def test_lists_that_are_too_long_or_packed_are_refused(azure: ContractFakeAzureBlob) -> None:
    def long(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"x" * (buckets.azure_blob.PAGE_BYTES_MAX + 1))

    def packed(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=gzip.compress(b"x" * 10_000))

    for answer in (long, packed):
        async with blobs(httpx.MockTransport(answer)) as bucket:
            with pytest.raises(PeerProtocolError):
                await bucket.page("chunks/")


# --- a real nginx, by DAV ---

NGINX = """
daemon off;
master_process off;
error_log {root}/error.log notice;
pid {root}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
    server {{
        listen unix:{root}/socket;
        client_max_body_size 1m;
        location /dav/ {{
            if ($http_authorization != "Bearer {token}") {{ return 403; }}
            root {root}/files;
            default_type application/octet-stream;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
        location /read/ {{ root {root}/files; }}
    }}
}}
"""


@pytest.fixture
def edge(tmp_path: Path, in_ci: bool) -> Iterator[Path]:
    """The directory of a real nginx, which listens at its `socket`."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/sbin")
    if program is None:
        (pytest.fail if in_ci else pytest.skip)("nginx is not installed: `make deps` installs it")
    root = tmp_path / "n"
    (root / "files/dav").mkdir(parents=True)
    (root / "conf").write_text(NGINX.format(root=root, token=BEARER))
    process = subprocess.Popen(
        [program, "-c", root / "conf", "-p", root, "-e", root / "error.log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 20
        while not (root / "socket").exists():
            assert process.poll() is None and time.monotonic() < deadline, (root / "error.log").read_text()
            time.sleep(0.01)
        yield root
    finally:
        process.terminate()
        process.communicate(timeout=10)


@asynccontextmanager
async def dav(edge: Path, path: str = "/dav", token: str | None = BEARER) -> AsyncIterator[Bucket]:
    transport = httpx.AsyncHTTPTransport(uds=str(edge / "socket"))
    async with Web(transport=transport) as web:
        yield Dav("http://edge.example.org", path, web=web, token=token)


@pytest.mark.anyio
@pytest.mark.foreign("nginx")
async def test_an_edge_takes_objects_by_put_and_loses_them_by_delete(edge: Path) -> None:
    async with dav(edge) as bucket:
        key = key_of(CID)
        assert str(bucket) == "http://edge.example.org/dav" and await bucket.head(key) is None
        assert await bucket.put(key, b"a chunk", **TOLD, tags=["doc:1"]) == PutOutcome(existed=False)
        assert (edge / "files/dav/chunks" / str(CID)).read_bytes() == b"a chunk"
        assert await bucket.put(key, b"a chunk", **TOLD) == PutOutcome(existed=True)
        found = await bucket.head(key)
        assert found is not None and (found.size, found.content_type) == (7, "application/octet-stream")
        await bucket.set_tags(key, ["doc:2"])
        many = [f"chunks/{at}" for at in range(20)]
        for name in many:
            await bucket.put(name, b"", **TOLD)
        assert await bucket.delete([key, *many, "chunks/none"]) == dict.fromkeys([key, *many, "chunks/none"])
        assert not [path for path in (edge / "files/dav").rglob("*") if path.is_file()]
        with pytest.raises(UsageError):
            await bucket.page("chunks/")


@pytest.mark.anyio
@pytest.mark.foreign("nginx")
async def test_an_edge_that_refuses_says_what_to_mend(edge: Path) -> None:
    async with dav(edge, token="another") as bucket:
        with pytest.raises(ConfigError) as caught:
            await bucket.put("chunks/a", b"", **TOLD)
        assert caught.value.id == "objects-refused" and "config.auth_token" in caught.value.mend[0]
        refused = (await bucket.delete(["chunks/a"]))["chunks/a"]
        assert isinstance(refused, ConfigError) and refused.id == "objects-refused"
    async with dav(edge) as bucket:
        with pytest.raises(ConfigError) as caught:
            await bucket.put("chunks/a", b"x" * (1024 * 1024 + 1), **TOLD)
        assert "413" in caught.value.why and "client_max_body_size" in caught.value.mend[0]
    async with dav(edge, path="/read/") as bucket:
        with pytest.raises(ConfigError) as caught:
            await bucket.put("chunks/a", b"", **TOLD)
        assert "405" in caught.value.why and "dav_methods" in caught.value.mend[0]
    async with dav(edge, path="/none") as bucket:
        with pytest.raises(ConfigError) as caught:
            await bucket.put("chunks/a", b"", **TOLD)
        assert caught.value.id == "objects-setup"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, UnavailableError),
        (502, UnavailableError),
        (503, UnavailableError),
        (429, UnavailableError),
        (507, StorageFullError),
        (409, ConfigError),
        (301, ConfigError),
        (401, ConfigError),
    ],
)
async def test_each_status_of_an_edge_has_its_class(status: int, kind: type[RageError]) -> None:
    async with Web(transport=httpx.MockTransport(lambda request: httpx.Response(status))) as web:
        bucket = Dav("https://edge.example.org/", "/dav/", web=web, token=None)
        for work in (bucket.put("a", b"", **TOLD), bucket.head("a")):
            with pytest.raises(kind):
                await work
        assert isinstance((await bucket.delete(["a"]))["a"], kind)


# --- from cdn.yaml ---


@pytest.mark.parametrize(
    "uri",
    ["", "s3://", "s3:///prefix", "ftp://x/y", "https://acc.blob.core.windows.net", "https://acc/c?sig=secret", "x"],
)
def test_an_address_that_names_no_store_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_bucket(Keys(uri=uri, sas_token=Secret(TOKEN)), web=Web(), blocking=asyncio.to_thread)
    assert "sig=secret" not in repr(caught.value.to_plain())


def test_the_stores_of_a_provider_are_its_bucket_and_each_edges_directory() -> None:
    edges = Edge(
        endpoints=(Url("https://a.example.org"), Url("https://b.example.org/")),
        dav_path="/dav/",
        auth_token=Secret(BEARER),
    )
    bucket = Keys(uri="s3://bucket/prefix/")
    given = Provider(name="nginx", type="self-hosted", software="nginx", config=edges, bucket=bucket)
    found = open_buckets(given, web=Web(), blocking=asyncio.to_thread)
    assert [str(one) for one in found] == [
        "s3://bucket/prefix",
        "https://a.example.org/dav",
        "https://b.example.org/dav",
    ]
    assert isinstance(found[0], S3)
    cloud = Provider(
        name="cloudfront", type="commercial", software="cloudfront", config=CloudFront(distribution_id="E1")
    )
    assert open_buckets(cloud, web=Web(), blocking=asyncio.to_thread) == []


def test_random_keys_stay_below_their_prefix(rng: random.Random) -> None:
    taken = 0
    for _ in range(2000):
        key = "".join(rng.choice("ab./.~-_%\\ \0é") for _ in range(rng.randrange(1, 9)))
        try:
            check_key(key)
        except UsageError:
            continue
        taken += 1
        assert (Path("/prefix") / key).resolve().is_relative_to("/prefix") and "//" not in f"/{key}/".rstrip("/")
    assert taken


# --- secrets ---


@pytest.mark.anyio
@pytest.mark.foreign("nginx")
async def test_secrets_are_in_no_error_name_or_log(
    s3: Bucket, recorder: Recorder, azure: ContractFakeAzureBlob, edge: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    async def tried(bucket: Bucket) -> None:
        said.append(repr(bucket) + str(bucket))
        for work in (bucket.put("a", b"x", **TOLD), bucket.head("a"), bucket.page("a"), bucket.set_tags("a", [])):
            try:
                said.append(repr(await work))
            except RageError as error:
                said.append(repr(error) + repr(error.to_plain()) + repr(error.__cause__) + repr(error.__context__))
        said.append(repr({key: error and error.to_plain() for key, error in (await bucket.delete(["a"])).items()}))

    await tried(s3)
    recorder.fault = (403, {}, f"<Error><Code>X</Code><Message>{SECRET} {KEY}</Message></Error>".encode())
    await tried(s3)
    async with blobs(azure) as bucket:
        await tried(bucket)
        azure.faults = [(403, "AuthenticationFailed", f"{TOKEN} {SIGNATURE}")] * 9
        await tried(bucket)
    async with dav(edge) as bucket:
        await tried(bucket)

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"cannot reach {request.url} with {request.headers.get('authorization')}")

    async with Web(transport=httpx.MockTransport(broken)) as web:
        await tried(AzureBlob("https://acc.blob.core.windows.net/objects", web=web, token=TOKEN))
        await tried(Dav("https://edge.example.org", "/dav", web=web, token=BEARER))
    told = "\n".join(said) + caplog.text
    assert "objects-unavailable" in told or "server-unreachable" in told
    assert [secret for secret in SECRETS if secret in told] == []
