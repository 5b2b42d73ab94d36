"""The web client over real sockets: what a hostile server can send, and what it costs us."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rage_net.errors import (
    AccessDeniedError,
    CertificateError,
    ConfigError,
    ConflictError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    UnavailableError,
    UsageError,
)
from rage_net.web import PARTS_AT_ONCE, PARTS_MAX, RETRY_AFTER_S_MAX, RefusedError, Web
from tests.listening import Serve, listening

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def answering(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A raw server for each connection's first request; its URL."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await serve(reader, writer)

    async with listening(accept, tls) as port:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}"


def sending(*parts: str | bytes, then: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part.encode() if isinstance(part, str) else part)
        await writer.drain()
        if then is not None:
            await then(writer)
        writer.close()

    return serve


def reply(status: str, body: str | bytes, *headers: str, kind: str = "application/json") -> Serve:
    raw = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(raw)}", *headers, "", ""]
    return sending("\r\n".join(head), raw)


async def failure(serve: Serve, **options: object) -> RageError:
    async with answering(serve) as url, Web() as web:
        with pytest.raises(RageError) as caught:
            await web.get(f"{url}/x", **{"timeout_s": 20.0, **options})  # type: ignore[arg-type]
    return caught.value


async def test_an_answer_comes_with_its_status_its_headers_and_who_gave_it() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readexactly(4))
        await reply("201 Created", '{"a": 1}', "X-Kind: test")(reader, writer)

    async with answering(serve) as url, Web(agent="rage/9") as web:
        answer = await web.request("POST", f"{url}/x?a=b", body=b"body", headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.body, answer.headers["x-kind"], answer.remote) == (
        201,
        b'{"a": 1}',
        "test",
        "127.0.0.1",
    )
    assert answer.seconds > 0 and seen == [b"body"]


async def test_nothing_of_the_environment_is_sent_or_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reply("200 OK", "{}", "Set-Cookie: a=b")(reader, writer)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await serve(reader, writer)

    async with listening(accept) as port, Web() as web:
        await web.get(f"http://127.0.0.1:{port}/")
        await web.get(f"http://127.0.0.1:{port}/")
    for head in heads:
        lowered = head.lower()
        assert b"authorization" not in lowered and b"cookie" not in lowered
        assert b"accept-encoding: identity" in lowered and b"python" not in lowered
    assert len(heads) == 2


async def test_an_endless_answer_is_cut_at_the_limit() -> None:
    sent = 0

    async def pour(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    error = await failure(sending(head, then=pour), bytes_max=100_000)
    assert (type(error), error.id) == (PeerProtocolError, "answer-too-large")
    assert sent < 32 * 1024 * 1024  # what sockets hold; it was not read


async def test_an_answer_in_crumbs_is_given_up_and_stalls_nobody_meanwhile() -> None:
    turns = 0

    async def pour(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"2\r\nab\r\n" * 9_000)
            await writer.drain()

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    others = asyncio.create_task(count())
    error = await failure(sending(head, then=pour), bytes_max=4 * 1024 * 1024)
    others.cancel()
    assert type(error) is PeerProtocolError and "crumbs" in error.message
    assert turns > PARTS_MAX / PARTS_AT_ONCE, "it was read in a few long turns"


async def test_an_announced_length_beyond_the_limit_is_not_waited_for() -> None:
    for length in ("100001", "9" * 40):
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"

        async def hang(writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        error = await failure(sending(head, then=hang), bytes_max=100_000)
        assert isinstance(error, PeerProtocolError), error


@pytest.mark.parametrize("where", ["head", "body", "never"])
async def test_a_dripping_answer_ends_at_the_deadline_however_lively_it_is(where: str) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        while where != "never":
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)  # a byte a turn: never silent, never done
        await asyncio.Event().wait()

    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + ("\r\n" if where == "body" else "X-A: ")
    error = await failure(sending(head if where != "never" else "", then=drip), timeout_s=0.2)
    assert (type(error), error.id) == (UnavailableError, "timeout")


async def test_a_head_without_end_is_refused() -> None:
    async def pour(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"X-Header: " + b"y" * 60_000 + b"\r\n")
            await writer.drain()

    error = await failure(sending("HTTP/1.1 200 OK\r\n", then=pour))
    assert isinstance(error, PeerProtocolError)


@pytest.mark.parametrize(
    "place", ["https://evil.example/", "http://169.254.169.254/latest", "file:///etc/passwd", "//x", ""]
)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_redirects_are_not_followed_and_say_where_they_led(place: str, status: str) -> None:
    error = await failure(reply(status, "", *([f"Location: {place}"] if place else [])))
    assert (type(error), error.id) == (PeerProtocolError, "redirected")
    assert place in error.message


async def test_html_and_compressed_answers_are_refused() -> None:
    html = await failure(reply("200 OK", "<html>Sign in to the hotel</html>", kind="text/html; charset=utf-8"))
    assert html.id == "answer-type" and "text/html" in html.message
    packed = await failure(reply("200 OK", gzip.compress(b"0" * 10_000_000), "Content-Encoding: gzip"))
    assert isinstance(packed, PeerProtocolError)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\nshort",
    ],
)
async def test_what_is_no_http_is_the_peers_fault(raw: str) -> None:
    assert isinstance(await failure(sending(raw)), PeerProtocolError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, PeerProtocolError), (401, AccessDeniedError), (403, AccessDeniedError), (404, NotFoundError),
        (409, ConflictError), (418, PeerProtocolError), (429, RefusedError), (500, UnavailableError),
        (502, UnavailableError), (503, UnavailableError), (199, PeerProtocolError),
    ],
)  # fmt: skip
async def test_a_status_becomes_the_class_that_says_what_to_do_next(status: int, kind: type[RageError]) -> None:
    told = '{"message": "no \\u001b[2Jroom", "why": "full", "mend": ["rm -rf /"]}'
    if status == 199:  # informational answers without end, and never a real one

        async def hint(writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                await writer.drain()

        error = await failure(sending("", then=hint), timeout_s=0.2)
        assert isinstance(error, UnavailableError)
        return
    error = await failure(reply(f"{status} X", told))
    assert type(error) is kind and str(status) in error.message
    assert error.why == "no  [2Jroom: full" and error.mend == ()


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("999999", RETRY_AFTER_S_MAX), ("soon", 1.0), ("-1", 1.0), ("٣", 1.0)]
)
async def test_a_server_that_is_busy_says_how_long_within_reason(header: str, seconds: float) -> None:
    for status in (429, 503):
        error = await failure(sending(f"HTTP/1.1 {status} X\r\nRetry-After: {header}\r\nContent-Length: 0\r\n\r\n"))
        assert isinstance(error, RefusedError) and error.retry_after_s == seconds


async def test_nobody_there_is_unavailable_and_no_address_is_usage() -> None:
    async with Web() as web:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await web.get("http://127.0.0.1:1/")
        for url in ("ftp://a/", "nonsense", "http://", "http://a:b/", "http://[::1", "file:///etc/passwd", "\x00"):
            with pytest.raises(UsageError):
                await web.get(url)


# --- TLS ---


def certificate(directory: Path, *, host: str = "127.0.0.1", days: int = 1) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate in a file, and what a server needs to show it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, secret)
    return chain, context


async def test_tls_is_verified_by_issuer_by_name_and_by_date(tmp_path: Path) -> None:
    chain, tls = certificate(tmp_path)
    async with answering(reply("200 OK", "{}"), tls) as url:
        async with Web(ca_file=chain) as web:
            assert (await web.get(url)).body == b"{}"
        async with Web() as web:
            with pytest.raises(CertificateError, match="cannot prove"):
                await web.get(url)
    for host, days in (("127.0.0.2", 1), ("127.0.0.1", -1)):
        chain, tls = certificate(tmp_path, host=host, days=days)
        async with answering(reply("200 OK", "{}"), tls) as url, Web(ca_file=chain) as web:
            with pytest.raises(CertificateError):
                await web.get(url)


async def test_certificates_that_cannot_be_read_are_a_matter_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        async with Web(ca_file=tmp_path / name) as web:
            with pytest.raises(ConfigError):
                await web.get("https://127.0.0.1:1/")
