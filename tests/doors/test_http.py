# ruff: noqa: SIM117
"""The HTTP door, over real TCP on loopback, with the headers as they go over the wire."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest_doors import TIMEOUT_S, pattern
from prometheus_client.parser import text_string_to_metric_families

from rage_net import gateway as gateway_module
from rage_net import http as http_module
from rage_net import listener as listener_module
from rage_net.acl import Principal
from rage_net.cid import DAG_CBOR, Cid
from rage_net.errors import AccessDeniedError, ConfigError, StorageFullError, UnavailableError
from rage_net.gate import Served
from rage_net.gateway import is_match, parse_range
from rage_net.http import Http, is_known_host
from rage_net.metrics import Metrics

pytestmark = pytest.mark.anyio

DATA = pattern(1000)[:1000]
CID = Cid.of(DATA)
ETAG = f'"{CID}"'
BIG = pattern(4 << 20)[: 4 << 20]


class Chunks:
    """Public chunks by CID; everything else is absent or not public, which looks the same from here."""

    def __init__(self) -> None:
        self.chunks = {Cid.of(data): data for data in (DATA, BIG, b"")} | {Cid.of(DATA, DAG_CBOR): DATA}
        self.reads = 0
        self.error: Exception | None = None

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        if self.error is not None:
            raise self.error
        data = self.chunks.get(cid)
        return None if data is None else Served(len(data), is_public=True)

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        raise NotImplementedError

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        self.reads += 1
        return self.chunks.get(cid)


class Door:
    def __init__(self, http: Http, chunks: Chunks, metrics: Metrics, reasons: list[str]) -> None:
        self.http, self.chunks, self.metrics, self.reasons = http, chunks, metrics, reasons
        self.url = http.addresses[0]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    async def raw(self, *lines: str) -> bytes:
        """Send these header lines exactly and give the whole answer."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
        await writer.wait_closed()
        return answer


@asynccontextmanager
async def open_door(**settings: Any) -> AsyncIterator[Door]:
    chunks, metrics, reasons = Chunks(), Metrics(), list[str]()
    settings = {"listen": "127.0.0.1:0", **settings}
    async with Http(chunks, metrics, ready=lambda: reasons, **settings) as http:
        yield Door(http, chunks, metrics, reasons)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as opened:
        yield opened


async def test_a_public_chunk_is_served_whole_with_headers_that_let_caches_keep_it(
    session: aiohttp.ClientSession,
) -> None:
    async with open_door() as door:
        async with session.get(f"{door.url}/chunks/{CID}") as response:
            assert await response.read() == DATA
            headers = {name.lower(): text for name, text in response.headers.items() if name != "Date"}
            assert (response.status, headers) == (
                200,
                {
                    "server": "rage",
                    "x-content-type-options": "nosniff",
                    "etag": ETAG,
                    "cache-control": "public, max-age=60",
                    "cache-status": "rage; hit",
                    "accept-ranges": "bytes",
                    "content-type": "application/vnd.ipld.raw",
                    "content-length": "1000",
                },
            )


async def test_a_manifest_is_served_as_dag_cbor_and_the_old_form_of_a_cid_finds_its_chunk(
    session: aiohttp.ClientSession,
) -> None:
    async with open_door() as door:
        async with session.get(f"{door.url}/chunks/{Cid.of(DATA, DAG_CBOR)}") as response:
            assert response.headers["Content-Type"] == "application/vnd.ipld.dag-cbor"
        async with session.get(f"{door.url}/chunks/{CID.spec_text()}") as response:
            assert (response.headers["ETag"], await response.read()) == (ETAG, DATA)


async def test_an_empty_chunk_and_one_of_four_mebibytes_are_served(session: aiohttp.ClientSession) -> None:
    async with open_door() as door:
        for data in (b"", BIG):
            async with session.get(f"{door.url}/chunks/{Cid.of(data)}") as response:
                assert (response.status, await response.read() == data) == (200, True)


async def test_head_gives_the_same_headers_and_reads_nothing(session: aiohttp.ClientSession) -> None:
    async with open_door() as door:
        async with session.get(f"{door.url}/chunks/{CID}") as got:
            pass
        async with session.head(f"{door.url}/chunks/{CID}", headers={"Range": "bytes=0-9"}) as response:
            assert (response.status, await response.read()) == (200, b"")
            assert {**response.headers, "Date": ""} == {**got.headers, "Date": ""}
        assert door.chunks.reads == 1


@pytest.mark.parametrize(
    ("asked", "status", "told", "part"),
    [
        ("bytes=0-0", 206, "bytes 0-0/1000", DATA[:1]),
        ("bytes=10-19", 206, "bytes 10-19/1000", DATA[10:20]),
        ("bytes=990-", 206, "bytes 990-999/1000", DATA[990:]),
        ("bytes=990-5000", 206, "bytes 990-999/1000", DATA[990:]),
        ("bytes=-10", 206, "bytes 990-999/1000", DATA[990:]),
        ("bytes=-5000", 206, "bytes 0-999/1000", DATA),
        ("bytes=0-", 206, "bytes 0-999/1000", DATA),
        ("Bytes=0-0", 206, "bytes 0-0/1000", DATA[:1]),
        ("bytes=1000-", 416, "bytes */1000", None),
        ("bytes=999999999999-", 416, "bytes */1000", None),
        ("bytes=-0", 416, "bytes */1000", None),
        ("bytes=5-4", 200, None, DATA),
        ("bytes=0-1,5-6", 200, None, DATA),
        ("bytes=-", 200, None, DATA),
        ("bytes=a-b", 200, None, DATA),
        ("bytes=\u0661-", 200, None, DATA),
        ("bytes=99999999999999999999999999-", 200, None, DATA),
        ("lines=0-1", 200, None, DATA),
    ],
)
async def test_a_range_is_answered_as_rfc_9110_says(
    session: aiohttp.ClientSession, asked: str, status: int, told: str | None, part: bytes | None
) -> None:
    async with open_door() as door:
        async with session.get(f"{door.url}/chunks/{CID}", headers={"Range": asked}) as response:
            assert (response.status, response.headers.get("Content-Range")) == (status, told)
            if part is not None:
                assert await response.read() == part
                assert response.headers["Content-Length"] == str(len(part))
            else:
                assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("if_range", "status"), [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Sat, 01 Jan 2028 00:00:00 GMT", 200)]
)
async def test_a_range_on_a_condition_holds_for_the_same_bytes_alone(
    session: aiohttp.ClientSession, if_range: str, status: int
) -> None:
    async with open_door() as door:
        headers = {"Range": "bytes=0-9", "If-Range": if_range}
        async with session.get(f"{door.url}/chunks/{CID}", headers=headers) as response:
            assert (response.status, len(await response.read())) == (status, 10 if status == 206 else 1000)


@pytest.mark.parametrize("tags", [ETAG, f"W/{ETAG}", "*", f'"x", {ETAG}', f'"x",W/{ETAG} , "y"'])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_has_the_chunk_is_told_that_it_has_not_changed(
    session: aiohttp.ClientSession, tags: str, method: str
) -> None:
    async with open_door() as door:
        async with session.request(method, f"{door.url}/chunks/{CID}", headers={"If-None-Match": tags}) as response:
            assert (response.status, await response.read()) == (304, b"")
            assert response.headers["ETag"] == ETAG
            assert response.headers["Cache-Control"] == "public, max-age=60"
            assert "Content-Type" not in response.headers
        assert door.chunks.reads == 0


@pytest.mark.parametrize("tags", ['"other"', str(CID), "", f"w/{ETAG}"])
async def test_who_has_something_else_gets_the_chunk(session: aiohttp.ClientSession, tags: str) -> None:
    async with open_door() as door:
        async with session.get(f"{door.url}/chunks/{CID}", headers={"If-None-Match": tags}) as response:
            assert response.status == 200


async def test_what_is_not_public_looks_exactly_like_what_is_absent(session: aiohttp.ClientSession) -> None:
    async with open_door() as door:
        answers = []
        for error in (None, AccessDeniedError("secret reason"), None):
            door.chunks.error = None if error is None else http_module.NotFoundError("not public: owner is acme")
            for headers in ({}, {"If-None-Match": "*"}, {"Range": "bytes=0-0"}):
                async with session.get(f"{door.url}/chunks/{Cid.of(b'private')}", headers=headers) as response:
                    answers.append((response.status, await response.read(), {**response.headers, "Date": ""}))
        assert all(answer == answers[0] for answer in answers)
        assert answers[0][0] == 404
        assert answers[0][2]["Cache-Control"] == "no-store"


async def test_an_error_tells_the_public_its_kind_and_nothing_else(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_door() as door:
        for error, status, code in (
            (StorageFullError("no room at /srv/secret", why="/srv/secret"), 507, "storage-full"),
            (KeyError("/srv/secret"), 500, "bug"),
        ):
            door.chunks.error = error
            async with session.get(f"{door.url}/chunks/{CID}") as response:
                text = await response.text()
                assert (response.status, (await response.json())["code"]) == (status, code)
                assert "secret" not in text
                assert "Traceback" not in text
        assert "/srv/secret" in caplog.text
        assert door.metrics.failures.read() == {("http",): [1.0]}
        door.chunks.error = None
        async with session.get(f"{door.url}/chunks/{CID}") as response:
            assert response.status == 200


async def test_a_path_that_is_no_cid_and_a_route_that_is_none_are_refused(session: aiohttp.ClientSession) -> None:
    async with open_door() as door:
        for path, status in (
            ("/chunks/", 400),
            ("/chunks/hello", 400),
            (f"/chunks/{CID}/more", 400),
            ("/chunks/" + "b" * 5000, 400),
            ("/chunks/%00%ff", 400),
            ("/", 404),
            ("/healthz/x", 404),
            ("/metrics", 404),
            ("/v1/node/status", 404),
            ("/v1/op/1", 404),
        ):
            async with session.get(door.url + path) as response:
                assert (path, response.status) == (path, status)


async def test_control_routes_do_not_exist_here(session: aiohttp.ClientSession) -> None:
    async with open_door() as door:
        async with session.post(f"{door.url}/v1/node/stop", json={}) as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_health_is_told_apart_from_readiness(session: aiohttp.ClientSession) -> None:
    async with open_door() as door:
        for reasons, status in (([], 200), (["the store is not open"], 503)):
            door.reasons[:] = reasons
            async with session.get(f"{door.url}/readyz") as response:
                assert (response.status, await response.json()) == (status, {"ready": not reasons, "reasons": reasons})
                assert response.headers["Cache-Control"] == "no-store"
            async with session.get(f"{door.url}/healthz") as response:
                assert (response.status, await response.text()) == (200, "ok\n")


async def test_metrics_are_served_on_their_own_address_and_not_on_the_other(session: aiohttp.ClientSession) -> None:
    async with open_door(metrics_listen="127.0.0.1:00") as door:
        public, private = door.http.addresses
        assert public != private
        async with session.get(f"{public}/chunks/{CID}") as response:
            await response.read()
        async with session.get(f"{public}/metrics") as response:
            assert response.status == 404
        async with session.get(f"{private}/chunks/{CID}") as response:
            assert response.status == 404
        async with session.get(f"{private}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            families = {family.name: family for family in text_string_to_metric_families(await response.text())}
        requests = families["rage_http_requests"].samples
        samples = {(sample.labels["route"], sample.labels["code"]): sample.value for sample in requests}
        assert samples == {("chunks", "200"): 1.0, ("none", "404"): 2.0}
        assert families["rage_http_bytes_sent"].samples[0].value == 1000


async def test_metrics_may_share_the_address(session: aiohttp.ClientSession) -> None:
    async with open_door(metrics_listen="127.0.0.1:0") as door:
        assert len(door.http.addresses) == 1
        async with session.get(f"{door.url}/metrics") as response:
            assert response.status == 200


async def test_no_address_opens_no_door() -> None:
    async with Http(Chunks(), Metrics(), listen=None, ready=list) as http:
        assert http.addresses == []


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LocalHost:4080", True),
        ("localhost.", True),
        ("127.0.0.1:4080", True),
        ("192.0.2.7", True),
        ("[::1]", True),
        ("[::1]:4080", True),
        ("node.example.com:4080", True),
        ("evil.example.com", False),
        ("localhost.evil.example.com", False),
        ("node.example.com.evil.example.com", False),
        ("127.0.0.1.evil.example.com", False),
        ("[localhost]", False),
        ("localhost:port", False),
        ("127.1", False),
        ("0x7f000001", False),
        ("", False),
        ("localhost@evil.example.com", False),
    ],
)
def test_a_host_is_an_address_or_a_known_name(host: str, known: bool) -> None:
    assert is_known_host(host, {"localhost", "node.example.com"}) is known


async def test_another_host_name_is_refused_at_every_route_before_anything_is_read() -> None:
    async with open_door(hosts=["Node.Example.com"], metrics_listen="127.0.0.1:0") as door:
        for path in (f"/chunks/{CID}", "/healthz", "/readyz", "/metrics", "/"):
            answer = await door.raw(f"GET {path} HTTP/1.1", "Host: evil.example.com", "Connection: close")
            assert answer.startswith(b"HTTP/1.1 421 "), path
        assert door.chunks.reads == 0
        assert door.metrics.denied.read() == {("http-host",): [5.0]}
        answer = await door.raw(f"GET /chunks/{CID} HTTP/1.1", "Host: node.example.com:80", "Connection: close")
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_request_without_a_host_or_for_another_site_is_refused() -> None:
    async with open_door() as door:
        assert (await door.raw("GET /healthz HTTP/1.1", "Connection: close")).split(b" ")[1] == b"400"
        answer = await door.raw("GET http://evil.example.com/healthz HTTP/1.1", "Host: localhost", "Connection: close")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert (await door.raw("GET /healthz HTTP/1.0")).startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/9.9"],
        ["GARBAGE"],
        ["GET / HTTP/1.1", "Host: localhost", "X: " + "a" * 20_000],
        ["GET /" + "a" * 20_000 + " HTTP/1.1", "Host: localhost"],
        ["GET / HTTP/1.1", "Host: localhost", *(f"X-{n}: 1" for n in range(500))],
        ["GET / HTTP/1.1", "Host: localhost", "Content-Length: 1", "Transfer-Encoding: chunked"],
        ["GET / HTTP/1.1", "Host: localhost", "Host: evil.example.com"],
    ],
)
async def test_words_that_are_no_http_are_answered_400_without_a_word_about_us(lines: list[str]) -> None:
    async with open_door() as door:
        answer = await door.raw(*lines)
        assert answer.split(b" ")[1] == b"400"
        assert b"aiohttp" not in answer
        assert b"Python" not in answer
        assert (await door.raw("GET /healthz HTTP/1.0")).startswith(b"HTTP/1.0 200 ")


async def test_a_head_of_many_long_fields_is_cut_off_before_it_fills_the_memory() -> None:
    async with open_door() as door:
        reader, writer = await asyncio.open_connection(*door.address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(60):  # fewer than are refused by their number
            writer.write(b"X-%d: %s\r\n" % (number, b"a" * 4000))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
        assert (await door.raw("GET /healthz HTTP/1.0")).startswith(b"HTTP/1.0 200 ")


async def test_a_client_that_trickles_its_header_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "HEAD_TIMEOUT_S", 0.1)
    async with open_door() as door:
        for begun in (b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
            reader, writer = await asyncio.open_connection(*door.address)
            writer.write(begun)
            assert await asyncio.wait_for(reader.read(), TIMEOUT_S) == b""
            writer.close()


async def test_a_client_that_does_not_read_is_cut_off_and_frees_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(gateway_module, "BODIES_BYTES_MAX", len(BIG))
    async with open_door() as door:
        data = BIG * 4
        cid = Cid.of(data)
        door.chunks.chunks[cid] = data
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, door.address)
            await loop.sock_sendall(client, f"GET /chunks/{cid} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            while not door.chunks.reads:
                await asyncio.sleep(0)
            async with asyncio.timeout(TIMEOUT_S):
                while door.http.gateway.bodies_bytes:
                    await asyncio.sleep(0.01)
        assert door.metrics.shed.read() == {("http-slow",): [1.0]}


async def test_more_chunks_than_memory_allows_wait_and_then_are_told_to_come_again(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "BODIES_WAIT_S", 0.05)
    async with open_door() as door:
        door.http.gateway.bodies_bytes = gateway_module.BODIES_BYTES_MAX
        async with session.get(f"{door.url}/chunks/{CID}") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["code"] == "busy"
        door.http.gateway.bodies_bytes = 0
        async with session.get(f"{door.url}/chunks/{CID}") as response:
            assert response.status == 200


async def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async with open_door(connections_max=2) as door:
        held = [await asyncio.open_connection(*door.address) for _ in range(2)]
        for _, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for reader, _ in held:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert await door.raw() == b""
        for _, writer in held:
            writer.close()
        assert door.metrics.shed.read() == {("http-refused",): [1.0]}


async def test_a_body_that_nobody_asked_for_is_not_read() -> None:
    async with open_door() as door:
        answer = await door.raw("GET /healthz HTTP/1.1", "Host: localhost", "Content-Length: 1000000000")
        assert answer.startswith(b"HTTP/1.1 200 ")  # and the connection was closed: `raw` reads to its end


async def test_two_doors_cannot_share_an_address_and_say_so() -> None:
    async with open_door() as door:
        host, port = door.address
        with pytest.raises(UnavailableError, match=str(port)) as caught:
            async with open_door(listen=f"{host}:{port}"):
                pass
        assert caught.value.id == "listen-failed"  # as for the listeners of peers: a supervisor tries again
    async with open_door(listen=f"{host}:{port}"):
        pass


async def test_an_address_that_is_not_ours_is_a_configuration_error() -> None:
    for address in ("192.0.2.1:0", "no such host.invalid:0"):
        with pytest.raises(ConfigError):
            async with open_door(listen=address):
                pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=now.year + 1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    place = tmp_path_factory.mktemp("tls")
    (place / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (place / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (place / "locked.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    return place / "cert.pem", place / "key.pem"


async def test_the_door_speaks_tls_where_a_certificate_is_given(
    session: aiohttp.ClientSession, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    async with open_door(tls_cert=cert, tls_key=key) as door:
        assert door.url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(cert))
        url = f"{door.url.replace('127.0.0.1', 'localhost')}/chunks/{Cid.of(BIG)}"
        async with session.get(url, ssl=trust) as response:
            assert await response.read() == BIG


async def test_a_certificate_that_cannot_be_used_is_a_configuration_error(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = certificate
    (tmp_path / "empty.pem").touch()
    for bad in ((tmp_path / "none.pem", key), (tmp_path / "empty.pem", key), (cert, cert.with_name("locked.pem"))):
        with pytest.raises(ConfigError) as caught:
            async with open_door(tls_cert=bad[0], tls_key=bad[1]):
                pass
        assert caught.value.exit_code == 10


@pytest.mark.parametrize("size", [0, 1, 7])
def test_every_range_lies_within_the_size(size: int) -> None:
    for first in ("", *map(str, range(9))):
        for last in ("", *map(str, range(9))):
            found = parse_range(f"bytes={first}-{last}", size)
            assert found is None or not found or (found.start >= 0 and found.stop <= size and found.step == 1)


def test_an_etag_within_another_is_no_match() -> None:
    assert not is_match('"abc"', '"ab"')
    assert not is_match("", '""x')
    assert not is_match('*, "x"', '"ab"')
