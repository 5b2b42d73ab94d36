"""Blocks over HTTP as IPFS tools ask for them, and what caches are told, over real TCP on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from conftest_doors import TIMEOUT_S
from hypothesis import given
from hypothesis import strategies as st

from rage_net import gateway as gateway_module
from rage_net.acl import ANYONE, Principal
from rage_net.cdn.policy import NO_STORE, tags_of
from rage_net.chunk.car import CarReader
from rage_net.chunk.manifest import LINKS_MAX, Manifest, ManifestBuilder
from rage_net.cid import DAG_CBOR, RAW, Cid, CidError
from rage_net.config.cdn import CachePolicy, CacheRule, Cdn, Edge, Provider
from rage_net.config.values import Name, Seconds, Url
from rage_net.gate import Served
from rage_net.gateway import (
    CAR_ANSWERED,
    PROBE,
    PROBE_ARCHIVE,
    Form,
    FormError,
    is_outside,
    read_cid,
    read_form,
)
from rage_net.http import Http
from rage_net.metrics import Metrics

pytestmark = pytest.mark.anyio

DATA = b"a block"
CID = Cid.of(DATA)
OTHER = [b"one" * 100, b"two", b"one" * 100, b"three" * 5000]
RAW_TYPE, CAR_TYPE = "application/vnd.ipld.raw", "application/vnd.ipld.car"
VARNISH = Provider(
    name=Name("varnish"), type="self-hosted", software="varnish", config=Edge(endpoints=(Url("http://edge"),))
)
WITH_CDN = Cdn(providers=(VARNISH,))
SHA256 = "b" + base64.b32encode(b"\x01\x55\x12\x20" + hashlib.sha256(DATA).digest()).decode().lower().rstrip("=")


def document(chunks: Sequence[bytes]) -> tuple[Cid, dict[Cid, bytes]]:
    builder, blocks = ManifestBuilder("cdc-1"), {}
    for data in chunks:
        blocks[Cid.of(data)] = data
        if full := builder.add(Cid.of(data), len(data)):
            blocks[full.cid] = full.data
    root, manifests = builder.finish()
    return root, blocks | {block.cid: block.data for block in manifests}


ROOT, BLOCKS = document(OTHER)


class Chunks:
    """Public blocks of one document, and some that are absent or hidden, which looks the same from here."""

    def __init__(self) -> None:
        self.blocks = {CID: DATA, Cid.of(b""): b"", **BLOCKS}
        self.gone: set[Cid] = set()
        """Absent from the moment they are read."""
        self.asked = 0
        self.reads = 0
        self.told: dict[str, Any] = {"is_public": True, "documents": ("doc1",), "words": ("news",)}

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        return Served(len(self.blocks[cid]), **self.told) if cid in self.blocks else None

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        self.asked += len(cids)
        return [len(self.blocks[cid]) if cid in self.blocks else None for cid in cids]

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        self.reads += 1
        return None if cid in self.gone else self.blocks.get(cid)


class Door:
    def __init__(self, http: Http, chunks: Chunks, metrics: Metrics, session: aiohttp.ClientSession) -> None:
        self.http, self.chunks, self.metrics, self.url, self.session = http, chunks, metrics, http.addresses[0], session

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        from yarl import URL

        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=sent, skip_auto_headers=["Accept"]) as answer:
            return answer.status, {name.lower(): text for name, text in answer.headers.items()}, await answer.read()


@asynccontextmanager
async def open_door(cdn: Cdn = WITH_CDN) -> AsyncIterator[Door]:
    chunks, metrics = Chunks(), Metrics()
    async with (
        Http(chunks, metrics, listen="127.0.0.1:0", ready=list, cdn=cdn) as http,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
    ):
        yield Door(http, chunks, metrics, session)


def read_car(data: bytes) -> tuple[tuple[Cid, ...], list[tuple[Cid, bytes]]]:
    reader = CarReader()
    found = reader.receive(data)
    reader.finish()
    assert all(block.cid.matches(block.data) for block in found)
    return reader.roots, [(block.cid, block.data) for block in found]


# --- raw ---


@pytest.mark.parametrize("cid", [CID, ROOT, Cid.of(b"")])
async def test_a_raw_block_comes_with_every_header_that_the_gateway_owes(cid: Cid) -> None:
    async with open_door() as door:
        for method in ("GET", "HEAD"):
            status, headers, body = await door.ask(f"/ipfs/{cid}?format=raw", method)
            assert (status, body) == (200, door.chunks.blocks[cid] if method == "GET" else b"")
            assert headers["content-type"] == RAW_TYPE
            assert headers["content-length"] == str(len(door.chunks.blocks[cid]))
            assert headers["content-disposition"] == f'attachment; filename="{cid}.bin"'
            assert headers["etag"] == f'"{cid}.raw"'
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-status"] == "rage; hit"
            assert "vary" not in headers and "content-location" not in headers


async def test_the_form_may_be_said_by_accept_alone_and_then_shared_caches_keep_nothing() -> None:
    async with open_door() as door:
        status, headers, body = await door.ask(f"/ipfs/{CID}", Accept=RAW_TYPE)
        assert (status, body, headers["vary"]) == (200, DATA, "Accept")
        assert headers["content-location"] == f"/ipfs/{CID}?format=raw"
        assert headers["cache-control"] == "private, max-age=60"
        assert headers["cdn-cache-control"] == headers["surrogate-control"] == "no-store"
        status, headers, body = await door.ask(f"/ipfs/{CID}?format=raw", Accept=CAR_TYPE)
        assert (status, headers["content-type"]) == (200, RAW_TYPE), "format goes before Accept"
        assert headers["cache-control"].startswith("public, max-age=60")


async def test_ranges_and_conditions_hold_for_raw_blocks_of_the_gateway_too() -> None:
    async with open_door() as door:
        path = f"/ipfs/{CID}?format=raw"
        status, headers, body = await door.ask(path, Range="bytes=2-4")
        assert (status, body, headers["content-range"]) == (206, DATA[2:5], f"bytes 2-4/{len(DATA)}")
        status, headers, body = await door.ask(path, If_None_Match=f'"{CID}.raw"')
        assert (status, body) == (304, b"")
        assert headers["xkey"] and headers["cache-control"] and "content-type" not in headers
        assert (await door.ask(path, If_None_Match=f'"{CID}"'))[0] == 200, "the tag of another form"
        status, headers, _ = await door.ask(path, Range="bytes=99-")
        assert (status, headers["cache-control"], headers["surrogate-control"]) == (416, "no-store", "no-store")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/ipfs/{CID}", 400),
        (f"/ipfs/{CID}?format=", 406),
        (f"/ipfs/{CID}?format=tar", 406),
        (f"/ipfs/{CID}?format=ipns-record", 406),
        (f"/ipfs/{CID}/?format=raw", 400),
        (f"/ipfs/{CID}/a/b?format=car", 400),
        ("/ipfs/?format=raw", 400),
        ("/ipfs/hello?format=raw", 400),
        ("/ipfs/" + "b" * 5000 + "?format=raw", 400),
        ("/ipfs/%00%ff?format=raw", 400),
        (f"/ipns/{CID}?format=ipns-record", 400),
        ("/ipns/example.org?format=raw", 400),
        (f"/ipfs/{CID}?format=car&dag-scope=some", 400),
        (f"/ipfs/{CID}?format=car&entity-bytes=1", 400),
        (f"/ipfs/{CID}?format=car&entity-bytes=*:1", 400),
        (f"/ipfs/{CID}?format=car&entity-bytes=99:100", 400),
        (f"/ipfs/{CID}?format=car&car-version=2", 406),
        (f"/ipfs/{CID}?format=car&car-order=bfs", 406),
        (f"/ipfs/{CID}?format=car&car-dups=y", 406),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_not_served_is_refused_and_kept_by_no_cache(path: str, status: int, method: str) -> None:
    async with open_door() as door:
        found, headers, _ = await door.ask(path, method)
        assert found == status
        assert {name: headers.get(name.lower()) for name in NO_STORE} == NO_STORE
        assert "xkey" not in headers and "cache-status" not in headers
        assert door.chunks.reads == 0


async def test_a_service_worker_cannot_be_registered_from_a_block() -> None:
    async with open_door() as door:
        assert (await door.ask(f"/ipfs/{CID}?format=raw", Service_Worker="script"))[0] == 400


@pytest.mark.parametrize(
    "text",
    [
        str(Cid.of(b"absent")),
        SHA256,
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKKdQx",
        "f01551220" + "ab" * 32,
        "bafkqabtimvwgy3yk",
    ],
)
async def test_a_cid_that_is_absent_hidden_or_of_another_hash_is_one_answer(text: str) -> None:
    async with open_door() as door:
        wanted = await door.ask(f"/ipfs/{Cid.of(b'hidden')}?format=raw")
        assert wanted[0] == 404
        for form in ("raw", "car"):
            for sent in ({}, {"If_None_Match": "*"}):
                found = await door.ask(f"/ipfs/{text}?format={form}", **sent)
                assert (found[0], {**found[1], "date": ""}, found[2]) == (404, {**wanted[1], "date": ""}, wanted[2])
            status, headers, _ = await door.ask(
                f"/ipfs/{text}?format={form}", Cache_Control="max-age=0, Only-If-Cached"
            )
            assert (status, headers["cache-control"]) == (412, "no-store")
        assert (await door.ask(f"/ipfs/{CID}?format=raw", Cache_Control="only-if-cached"))[0] == 200


async def test_a_cid_in_another_base_is_the_same_block_and_no_shared_cache_keeps_it_under_that_name() -> None:
    async with open_door() as door:
        for text in (f"f{bytes(CID).hex()}", str(CID).upper(), CID.spec_text(), f"%62{str(CID)[1:]}"):
            status, headers, body = await door.ask(f"/ipfs/{text}?format=raw")
            assert (status, body, headers["etag"]) == (200, DATA, f'"{CID}.raw"')
            assert headers["cdn-cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_probe_is_answered_in_both_forms_by_every_gateway(method: str) -> None:
    async with open_door() as door:
        status, headers, body = await door.ask("/ipfs/bafkqaaa?format=raw", method)
        assert (status, body, headers["content-type"], headers["content-length"]) == (200, b"", RAW_TYPE, "0")
        status, headers, body = await door.ask("/ipfs/bafkqaaa?format=car", method, Accept=CAR_TYPE)
        assert (status, headers["content-type"], headers["content-length"]) == (200, CAR_ANSWERED, "26")
        if method == "GET":
            assert body == PROBE_ARCHIVE
            reader = CarReader()
            assert (reader.receive(body), reader.finish(), reader.foreign_roots) == ([], None, 1)


# --- archives ---


async def test_an_archive_holds_the_root_first_and_each_block_below_it_once() -> None:
    async with open_door() as door:
        status, headers, body = await door.ask(f"/ipfs/{ROOT}?format=car")
        assert (status, headers["content-type"]) == (200, CAR_ANSWERED)
        assert headers["content-length"] == str(len(body))
        assert headers["content-disposition"] == f'attachment; filename="{ROOT}.car"'
        assert (headers["etag"], headers["accept-ranges"]) == (f'"{ROOT}.car"', "none")
        roots, blocks = read_car(body)
        assert roots == (ROOT,)
        chunks = [Cid.of(data) for data in OTHER]
        assert [cid for cid, _ in blocks] == [ROOT, chunks[0], chunks[1], chunks[3]]
        head = await door.ask(f"/ipfs/{ROOT}?format=car", "HEAD", Range="bytes=0-1")
        assert (head[0], {**head[1], "date": ""}, head[2]) == (200, {**headers, "date": ""}, b"")
        assert (await door.ask(f"/ipfs/{ROOT}?format=car", Range="bytes=0-1"))[2] == body
        assert door.metrics.http_bytes.read() == {(): [2.0 * len(body)]}


async def test_an_archive_of_many_levels_is_walked_in_depth(
    monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    """Two manifests under one, with smaller bounds than real ones."""
    monkeypatch.setattr("rage_net.chunk.manifest.LINKS_MAX", 3)
    chunks = [rng.randbytes(50) for _ in range(5)]
    root, blocks = document(chunks)
    cids = [Cid.of(data) for data in chunks]
    async with open_door() as door:
        door.chunks.blocks |= blocks
        _, found = read_car((await door.ask(f"/ipfs/{root}?format=car"))[2])
        order = [cid for cid, _ in found]
        assert order[0] == root and order[1].is_manifest() and order[2:5] == cids[:3]
        assert order[5].is_manifest() and order[6:] == cids[3:]


@pytest.mark.parametrize(
    ("query", "etag"),
    [
        ("dag-scope=block", "block."),
        ("dag-scope=entity", "entity."),
        ("entity-bytes=0:*", "entity.0.end."),
        ("entity-bytes=499:-1000&dag-scope=all", "entity.499.-1000."),
    ],
)
async def test_a_part_of_an_archive_is_its_root_for_rage_has_no_unixfs_and_its_tag_is_another(
    query: str, etag: str
) -> None:
    async with open_door() as door:
        status, headers, body = await door.ask(f"/ipfs/{ROOT}?format=car&{query}")
        assert (status, headers["etag"]) == (200, f'"{etag}{ROOT}.car"')
        assert read_car(body) == ((ROOT,), [(ROOT, BLOCKS[ROOT])])
        assert headers["cdn-cache-control"] == "no-store"
        status, _, body = await door.ask(f"/ipfs/{CID}?format=car&{query.replace('499:-1000', '0:-1')}")
        assert (status, read_car(body)) == (200, ((CID,), [(CID, DATA)]))


async def test_an_archive_of_all_may_be_asked_for_by_name_and_its_tag_says_so() -> None:
    async with open_door() as door:
        _, headers, body = await door.ask(f"/ipfs/{ROOT}?format=car&dag-scope=all")
        assert (headers["etag"], len(read_car(body)[1])) == (f'"all.{ROOT}.car"', 4)
        status, headers, _ = await door.ask(f"/ipfs/{ROOT}?format=car", If_None_Match=f'"all.{ROOT}.car"')
        assert status == 200
        assert (await door.ask(f"/ipfs/{ROOT}?format=car", If_None_Match=f'"{ROOT}.car"'))[0] == 304


async def test_an_archive_that_lacks_a_block_is_refused_before_its_first_byte() -> None:
    async with open_door() as door:
        absent = await door.ask(f"/ipfs/{Cid.of(b'absent')}?format=car")
        for data in (OTHER[0], OTHER[3]):
            del door.chunks.blocks[Cid.of(data)]
            for method in ("GET", "HEAD"):
                found = await door.ask(f"/ipfs/{ROOT}?format=car", method)
                assert (found[0], {**found[1], "date": ""}) == (404, {**absent[1], "date": ""})
            assert (await door.ask(f"/ipfs/{ROOT}?format=raw"))[0] == 200
            door.chunks.blocks[Cid.of(data)] = data


async def test_a_block_that_goes_while_an_archive_leaves_ends_the_connection_so_that_it_is_no_whole_answer() -> None:
    async with open_door() as door:
        door.chunks.gone.add(Cid.of(OTHER[3]))
        with pytest.raises(aiohttp.ClientError):
            await door.ask(f"/ipfs/{ROOT}?format=car")
        door.chunks.gone.clear()
        assert (await door.ask(f"/ipfs/{ROOT}?format=car"))[0] == 200


async def test_an_archive_of_too_many_blocks_is_refused_before_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    huge = Manifest("cdc-1", LINKS_MAX, 1, tuple(link_of(number) for number in range(LINKS_MAX))).encode()
    async with open_door() as door:
        door.chunks.blocks[Cid.of(huge, DAG_CBOR)] = huge
        status, _, body = await door.ask(f"/ipfs/{Cid.of(huge, DAG_CBOR)}?format=car")
        assert (status, json.loads(body)["code"]) == (400, "archive-too-large")
        assert door.chunks.reads == door.chunks.asked == 0, "its size tells"
        monkeypatch.setattr(gateway_module, "ARCHIVE_BLOCKS_MAX", 3)
        assert (await door.ask(f"/ipfs/{ROOT}?format=car", "HEAD"))[0] == 400
        assert door.chunks.asked == 0


def link_of(number: int) -> Any:
    from rage_net.chunk.manifest import Link

    return Link(Cid(RAW, number.to_bytes(32, "big")), 1)


async def test_few_archives_are_under_way_at_once_and_others_are_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_module, "BODIES_WAIT_S", 0.05)
    monkeypatch.setattr(gateway_module, "ARCHIVES_MAX", 1)
    async with open_door() as door:
        big = [bytes([number]) * (4 << 20) for number in range(8)]
        root, blocks = document(big)
        door.chunks.blocks |= blocks
        host, _, port = door.url.removeprefix("http://").rpartition(":")
        loop = asyncio.get_running_loop()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await loop.sock_connect(slow, (host, int(port)))
            await loop.sock_sendall(slow, f"GET /ipfs/{root}?format=car HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await loop.sock_recv(slow, 100)
            status, headers, body = await door.ask(f"/ipfs/{ROOT}?format=car")
            assert (status, headers["retry-after"], json.loads(body)["code"]) == (503, "1", "busy")
            assert door.metrics.shed.read() == {("http-archives",): [1.0]}
            assert door.chunks.reads < 8, "blocks are read as they leave"
            assert (await door.ask(f"/ipfs/{CID}?format=raw"))[0] == 200, "blocks have room of their own"
        async with asyncio.timeout(TIMEOUT_S):
            while (await door.ask(f"/ipfs/{ROOT}?format=car"))[0] != 200:
                pass


async def test_an_archive_may_take_longer_than_one_answer_as_long_as_it_leaves_fast_enough() -> None:
    async with open_door() as door:
        moved = []
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout_at(began + 5) as deadline:
            gateway = door.http.gateway
            blocks = {cid: len(data) for cid, data in BLOCKS.items()}
            async for _ in gateway._sections(b"head", blocks, ANYONE, deadline):
                moved.append((deadline.when() or 0) - began)
        sent = 4 + sum(blocks.values()) - blocks[list(blocks)[-1]]
        assert moved[0] == 5, "the first block has the time of one answer"
        least = gateway_module.ANSWER_TIMEOUT_S + sent / gateway_module.RATE_BYTES_S_MIN
        assert moved == sorted(moved) and least <= moved[-1] < least + TIMEOUT_S


# --- what caches are told ---


@pytest.mark.parametrize("path", [f"/chunks/{CID}", f"/ipfs/{CID}?format=raw", f"/ipfs/{CID}?format=car"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_form_of_a_block_carries_the_tags_that_it_is_purged_by(path: str, method: str) -> None:
    rules = (CacheRule(pattern="/chunks/*", ttl=Seconds(500)), CacheRule(pattern="/ipfs/*", ttl=Seconds(500)))
    async with open_door(WITH_CDN.replace(cache_policy=CachePolicy(rules=rules))) as door:
        _, headers, _ = await door.ask(path, method)
        tags = tags_of(CID, ("doc1",), ("news",))
        assert headers["xkey"] == headers["surrogate-key"] == " ".join(tags)
        assert headers["cache-tag"] == headers["x-amz-meta-cache-tag"] == ",".join(tags)
        assert headers["cache-control"] == "public, max-age=60, s-maxage=500"
        assert headers["cdn-cache-control"] == headers["surrogate-control"] == "max-age=500"


@pytest.mark.parametrize(
    "path",
    [
        f"/chunks/{CID}?a=1",
        f"/chunks/{str(CID).upper()}",
        f"/chunks/{CID.spec_text()}",
        f"//chunks/{CID}",
        f"/ipfs/{CID}?format=raw&format=raw",
        f"/ipfs/{CID}?format=car&dag-scope=all",
        f"/ipfs/{CID}?filename=a&format=raw",
        f"/ipfs/{ROOT}?format=car",
    ],
)
async def test_what_a_purge_by_url_would_not_meet_is_in_no_shared_cache(path: str) -> None:
    async with open_door() as door:
        status, headers, _ = await door.ask(path)
        assert (status, headers["cdn-cache-control"]) in ((200, "no-store"), (404, "no-store"))
        assert headers["cache-control"] in ("private, max-age=60", "no-store")
        assert "xkey" not in headers


async def test_a_permanent_document_is_kept_for_long_and_so_is_its_archive() -> None:
    async with open_door() as door:
        door.chunks.told["is_permanent"] = True
        for path in (f"/chunks/{ROOT}", f"/ipfs/{ROOT}?format=raw", f"/ipfs/{ROOT}?format=car"):
            _, headers, _ = await door.ask(path)
            assert headers["cache-control"] == "public, max-age=29030400, immutable"


async def test_what_only_a_grant_lets_anyone_read_is_kept_by_no_cache() -> None:
    async with open_door() as door:
        door.chunks.told["is_public"] = False
        for path in (f"/chunks/{CID}", f"/ipfs/{CID}?format=raw", f"/ipfs/{ROOT}?format=car"):
            status, headers, _ = await door.ask(path)
            assert (status, headers["cache-control"], headers["cdn-cache-control"]) == (
                200,
                "private, no-store",
                "no-store",
            )
            assert "xkey" not in headers


async def test_a_rule_that_keeps_nothing_holds_for_every_form() -> None:
    rules = (CacheRule(pattern="*", cache=False),)
    async with open_door(WITH_CDN.replace(cache_policy=CachePolicy(rules=rules))) as door:
        for path in (f"/chunks/{CID}", f"/ipfs/{CID}?format=raw"):
            _, headers, _ = await door.ask(path)
            assert {name: headers.get(name.lower()) for name in NO_STORE} == NO_STORE


# --- what was asked for ---


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (RAW_TYPE, Form("raw", False)),
        (f"{RAW_TYPE.upper()}; q=0.5", Form("raw", False)),
        (f"{CAR_TYPE}", Form("car", False)),
        (f"{CAR_TYPE}; version=1; order=dfs; dups=n", Form("car", False)),
        (f'{CAR_TYPE};order="unk"', Form("car", False)),
        (f"{RAW_TYPE};q=0.1, {CAR_TYPE};q=0.9", Form("car", False)),
        (f"{CAR_TYPE};dups=y, {CAR_TYPE};q=0.5", Form("car", False)),
        (f"{CAR_TYPE};dups=y, {RAW_TYPE};q=0.5", Form("raw", False)),
        (f"text/html, */*;q=0.1, {RAW_TYPE};q=0.2", Form("raw", False)),
        ("", 400),
        ("*/*", 400),
        ("application/*", 400),
        ("nonsense", 400),
        (f"{RAW_TYPE};q=0", 400),
        (f"{RAW_TYPE};q=2", 400),
        ("text/html, */*", 406),
        ("application/json", 406),
        (f"{CAR_TYPE};dups=y", 406),
        (f"{CAR_TYPE};version=2", 406),
        (f"{CAR_TYPE};order=bfs", 406),
        (f"{CAR_TYPE};colour=red", 406),
        ("application/vnd.ipfs.ipns-record", 406),
    ],
)
def test_accept_says_the_form_as_rfc_9110_weighs_it(accept: str, wanted: Form | int) -> None:
    if isinstance(wanted, Form):
        assert read_form({}, accept) == wanted
        return
    with pytest.raises(FormError) as caught:
        read_form({}, accept)
    assert caught.value.status == wanted


def test_the_query_goes_before_accept() -> None:
    assert read_form({"format": "car", "car-dups": "n"}, f"{CAR_TYPE};dups=y") == Form("car", True)
    assert read_form({"format": "car"}, f"{RAW_TYPE}, text/html") == Form("car", True)
    assert read_form({"format": "raw", "car-dups": "y"}, "") == Form("raw", True)
    assert read_form({"format": "car", "entity-bytes": "-5:*"}, "").span == (-5, None)
    with pytest.raises(FormError):
        read_form({"format": "car"}, f"{CAR_TYPE};dups=y")


@given(
    accept=st.text(max_size=60),
    query=st.dictionaries(st.sampled_from(["format", "car-order", "dag-scope", "entity-bytes"]), st.text(max_size=8)),
)
def test_whatever_is_asked_for_is_a_form_or_refused(accept: str, query: dict[str, str]) -> None:
    try:
        assert read_form(query, accept).kind in ("raw", "car")
    except FormError as error:
        assert error.status in (400, 406)


@given(text=st.text(max_size=80) | st.text("abcdefghijkmnopqrstuvwxyz234567", max_size=70).map("b".__add__))
def test_whatever_stands_in_the_path_is_a_cid_or_none(text: str) -> None:
    with suppress(CidError):
        assert isinstance(read_cid(text), (Cid, bytes))


def test_a_cid_is_read_in_every_base_and_of_every_hash() -> None:
    number = int.from_bytes(bytes(CID), "big")
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    assert read_cid(f"k{digits}") == read_cid(f"f{bytes(CID).hex()}") == read_cid(str(CID)) == CID
    assert read_cid("bafkqaaa") == PROBE
    assert read_cid(SHA256) == b"\x01\x55\x12\x20" + hashlib.sha256(DATA).digest()
    for text in ("", "b", "z", "k", "f", "Qm", "bafkqaa", "f0", f"f{bytes(CID).hex()}00", "k-1", "k+1", "k1_1"):
        with pytest.raises(CidError):
            read_cid(text)


@pytest.mark.parametrize(
    ("span", "size", "outside"),
    [
        ((0, None), 0, False),
        ((0, None), 7, False),
        ((6, None), 7, False),
        ((7, None), 7, True),
        ((-7, None), 7, False),
        ((-99, None), 7, False),
        ((0, -7), 7, False),
        ((0, -8), 7, True),
        ((3, 2), 7, False),
    ],
)
def test_a_span_of_bytes_is_outside_when_none_of_them_can_be_there(
    span: tuple[int, int | None], size: int, outside: bool
) -> None:
    assert is_outside(span, size) is outside
