"""Blocks over HTTP, for browsers, CDNs and IPFS tools: rage's own form, and that of the IPFS trustless gateway.

    /chunks/<cid>                        a block as it is
    /ipfs/<cid>?format=raw, or Accept    the same, for tools that know IPFS
    /ipfs/<cid>?format=car, or Accept    a block and all under it, as an archive: CARv1, depth first, no block twice

Both forms ask the one gate for each block, and whoever may not have it learns what they would learn were it absent. An
archive begins when every block of it was asked for, and ends the connection when one goes meanwhile. What caches are
told is the policy's word (cdn.policy); what a token was shown for is for no cache.

Not here: unpacking files from archives, paths inside of them, names (IPNS), asking others for what is absent here.
Source: design D7; IPFS trustless gateway of 2026-03-05; cdn-apis 10; RFC 9110, 9111, 9211.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from aiohttp import hdrs, web

from rage_net.acl import ANYONE, Principal
from rage_net.bearer import Bearer
from rage_net.cdn import policy
from rage_net.chunk import car, manifest
from rage_net.cid import Cid, CidError, decode_base58
from rage_net.config.cdn import Cdn
from rage_net.errors import NotFoundError, UnavailableError, UsageError
from rage_net.gate import Served
from rage_net.listener import HEADERS, error_response
from rage_net.metrics import Metrics
from rage_net.tokens import TokenError

ROUTES = ("chunks", "ipfs", "ipns")

BODIES_BYTES_MAX = 32 * 1024 * 1024
"""Of blocks in memory for clients at once; others wait."""
BODIES_WAIT_S = 5.0
"""How long they wait before they are told to come again."""
ARCHIVES_MAX = 4
"""Archives under way at once: half of that memory, and of the threads, is left to others."""
ARCHIVE_BLOCKS_MAX = 4096
"""Of one archive: 4 GiB as rage cuts. All are asked for before the first byte leaves: half a second."""
LOOK_BATCH = 64
"""Blocks that are asked for in one go in a thread."""
ANSWER_TIMEOUT_S = 60.0
"""For one whole block to leave: 4 MiB at 70 KiB/s."""
RATE_BYTES_S_MIN = 70 * 1024
"""At which an archive must leave, after that time."""
CID_CHARS_MAX = 256
"""Of any hash and codec."""

RAW_TYPE = "application/vnd.ipld.raw"
CBOR_TYPE = "application/vnd.ipld.dag-cbor"
CAR_TYPE = "application/vnd.ipld.car"
CAR_ANSWERED = f"{CAR_TYPE};version=1;order=dfs;dups=n"
CAR_VARIANTS: Mapping[str, Collection[str]] = {"version": ("1",), "order": ("dfs", "unk"), "dups": ("n",)}
"""What may be asked for; `unk` asks for any order."""

PROBE = bytes((1, 0x55, 0, 0))
"""The CID of no bytes, by the hash that is the bytes themselves (`bafkqaaa`): what tools ask to find a gateway."""
PROBE_ARCHIVE = bytes.fromhex("19a265726f6f747381d82a45000155000067") + b"version\x01"
"""Its archive: a header with this one root."""

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII | re.IGNORECASE)
_ENTITY_BYTES = re.compile(r"(-?\d{1,15}):(-?\d{1,15}|\*)", re.ASCII)


class ChunkSource(Protocol):
    """Where blocks come from; it asks `authorize` before each answer."""

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        """What may be told of a block; None when absent or not for the principal."""
        ...

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        """The plain sizes of blocks, in order; None for each that is absent or not for the principal."""
        ...

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        """The plain bytes, verified; None when absent or not for the principal."""
        ...


# --- what was asked for ---


class FormError(UsageError):
    """The request wants a form that is not served; `status` is 400 or 406."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Form:
    """The form in which a block is wanted at `/ipfs/`."""

    kind: Literal["raw", "car"]
    is_named: bool
    """By the URL, not by the header `Accept` alone."""
    scope: Literal["", "block", "entity", "all"] = ""
    """Of an archive; empty when not asked for, which means all."""
    span: tuple[int, int | None] | None = None
    """The first and the last byte that are wanted, negative from the end; None as the last one is the end."""

    def etag(self, cid: Cid) -> str:
        """Distinct for whatever may differ in its bytes."""
        if self.kind == "raw":
            return f'"{cid}.raw"'
        if self.span is not None:
            first, last = self.span
            return f'"entity.{first}.{"end" if last is None else last}.{cid}.car"'
        return f'"{self.scope}.{cid}.car"' if self.scope else f'"{cid}.car"'


def read_form(query: Mapping[str, str], accept: str) -> Form:
    """What a request wants. Raises FormError.

    `format` in the query goes before `Accept`, and so do its `car-version`, `car-order` and `car-dups`.
    """
    name = query.get("format")
    ranges = _media_ranges(accept)
    variant = {key: query[f"car-{key}"] for key in CAR_VARIANTS if f"car-{key}" in query}
    archives = [{**params, **variant} for kind, params in ranges if kind == CAR_TYPE]
    if name is None:
        kind = next(
            (kind for kind, params in ranges if kind == RAW_TYPE or _is_served(kind, {**params, **variant})), ""
        )
        if not kind and all("*" in each for each, _ in ranges):
            raise FormError("say which form is wanted: add ?format=raw or ?format=car")
        if not kind:
            raise FormError(f"{RAW_TYPE} and {CAR_ANSWERED} are served", 406)
    elif name in ("raw", "car"):
        kind = RAW_TYPE if name == "raw" else CAR_TYPE
    else:
        raise FormError("the formats raw and car are served", 406)
    if kind == RAW_TYPE:
        return Form("raw", name is not None)
    if not any(_is_served(CAR_TYPE, params) for params in archives or [variant]):
        raise FormError(f"archives are served as {CAR_ANSWERED}", 406)
    scope = query.get("dag-scope", "")
    if scope not in ("", "block", "entity", "all"):
        raise FormError("dag-scope is block, entity or all")
    return Form("car", name is not None, scope, _read_span(query.get("entity-bytes")))  # type: ignore[arg-type]


def _media_ranges(accept: str) -> list[tuple[str, dict[str, str]]]:
    """The types of the header and their parameters, the most wanted first (RFC 9110, 12.5.1); nonsense is left out."""
    found = []
    for part in accept.split(","):
        kind, *words = (word.strip() for word in part.split(";"))
        params = {}
        for word in words:
            name, _, value = word.partition("=")
            params[name.strip().lower()] = value.strip().strip('"').lower()
        quality = params.pop("q", "1")
        if "/" in kind and re.fullmatch(r"(0(\.\d{0,3})?|1(\.0{0,3})?)", quality) and float(quality) > 0:
            found.append((-float(quality), kind.lower(), params))
    return [(kind, params) for _, kind, params in sorted(found, key=lambda each: each[0])]


def _is_served(kind: str, params: Mapping[str, str]) -> bool:
    return kind == CAR_TYPE and all(value in CAR_VARIANTS.get(name, ()) for name, value in params.items())


def _read_span(text: str | None) -> tuple[int, int | None] | None:
    if text is None:
        return None
    found = _ENTITY_BYTES.fullmatch(text)
    if found is None:
        raise FormError("entity-bytes is FROM:TO, two numbers of bytes; TO may be *")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def is_outside(span: tuple[int, int | None], size: int) -> bool:
    """Whether the span lies wholly before or behind `size` bytes; negative numbers count from the end."""
    first, last = (number if number is None or number >= 0 else size + number for number in span)
    assert first is not None
    return first >= max(size, 1) or (last is not None and last < 0)


def read_cid(text: str) -> Cid | bytes:
    """A CID in any of its spellings: the bytes of one whose hash or codec rage does not have. Raises CidError."""
    with suppress(CidError):
        return Cid.parse(text)
    raw = _read_multibase(text)
    if raw is None or car.cid_length(raw) != len(raw):
        raise CidError("the path holds no CID")
    try:
        return Cid.from_bytes(raw)
    except CidError:
        return raw


def _read_multibase(text: str) -> bytes | None:
    """The bytes of a CID: version 0, or version 1 in base 16, 32, 36 or 58."""
    if len(text) > CID_CHARS_MAX or not text.isascii() or not text.isalnum():
        return None
    if text.startswith("Qm"):
        return decode_base58(text)
    head, body = text[:1], text[1:]
    with suppress(ValueError):
        match head:
            case "b":
                return base64.b32decode(body.upper() + "=" * (-len(body) % 8)) if body.islower() else None
            case "f":
                return bytes.fromhex(body)
            case "k":
                number = int(body, 36)
                return number.to_bytes((number.bit_length() + 7) // 8, "big")
            case "z":
                return decode_base58(body)
    return None


def is_match(if_none_match: str, etag: str) -> bool:
    """Whether the header lists `etag`, weakly compared (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


def parse_range(header: str, size: int) -> range | None:
    """The bytes that a `Range` header wants of `size`: empty when there are none such; None when it is to be ignored.

    One range is understood; several, other units and nonsense are ignored, as RFC 9110, 14.2 allows.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


# --- answers ---


@dataclass(frozen=True, slots=True)
class Found:
    """A block that is here for who asks."""

    cid: Cid
    principal: Principal
    served: Served
    is_for_all: bool
    """No token was shown, and it is public."""


class Gateway:
    """Answers on `ROUTES`. Args: bearer: proves tokens; without one all are refused. cdn: what caches are told."""

    def __init__(self, chunks: ChunkSource, metrics: Metrics, bearer: Bearer | None, cdn: Cdn) -> None:
        self._chunks = chunks
        self._metrics = metrics
        self._bearer = bearer
        self._policy = cdn.cache_policy
        self._edges = policy.edges_of(cdn)
        self._bodies = asyncio.Condition()
        self._archives = asyncio.Semaphore(ARCHIVES_MAX)
        self.bodies_bytes = 0
        """Of blocks in memory for clients."""

    @asynccontextmanager
    async def answer(
        self, request: web.BaseRequest, route: str, rest: str, deadline: asyncio.Timeout
    ) -> AsyncIterator[web.StreamResponse]:
        """The answer, unsent; what it holds of memory is ours until the block ends. Raises RageError.

        Args: route: one of `ROUTES`, the first part of the path. rest: what follows it. deadline: of the whole answer,
        moved on while an archive leaves fast enough.
        """
        if route == "chunks":
            async with self._chunk(request, rest) as answer:
                yield answer
        elif route == "ipfs":
            async with self._ipfs(request, rest, deadline) as answer:
                yield answer
        else:
            raise UsageError("names (IPNS) are not served here, CIDs are: /ipfs/CID?format=raw")

    @asynccontextmanager
    async def _chunk(self, request: web.BaseRequest, text: str) -> AsyncIterator[web.StreamResponse]:
        try:
            cid = Cid.parse(text)
        except CidError as error:
            raise UsageError("the path holds no CID") from error
        found = await self._find(cid, await self._principal(request))
        headers = {
            hdrs.ETAG: f'"{cid}"',
            hdrs.CONTENT_TYPE: CBOR_TYPE if cid.is_manifest() else RAW_TYPE,
            **self._caching(request, found, is_shared=True),
        }
        async with self._block(request, found, headers) as answer:
            yield answer

    @asynccontextmanager
    async def _ipfs(
        self, request: web.BaseRequest, text: str, deadline: asyncio.Timeout
    ) -> AsyncIterator[web.StreamResponse]:
        text, slash, _ = text.partition("/")
        try:
            cid = read_cid(text)
        except CidError as error:
            raise UsageError("the path holds no CID") from error
        if slash:
            raise UsageError("paths inside of a CID are not served here")
        if request.headers.get("Service-Worker"):
            raise UsageError("no service worker may be registered here")
        try:
            form = read_form(request.query, ",".join(request.headers.getall(hdrs.ACCEPT, [])))
        except FormError as error:
            yield refuse(error, error.status)
            return
        principal = await self._principal(request)
        if cid == PROBE:
            yield _probe(request, form)
            return
        try:
            found = await self._find(cid, principal)
        except NotFoundError:
            if not _is_cached_wanted(request):
                raise
            yield refuse(UsageError("absent or not public", id="not-held"), 412)
            return
        is_whole = form.kind == "raw" or not found.cid.is_manifest() or found.served.is_permanent
        headers = {
            hdrs.ETAG: form.etag(found.cid),
            hdrs.CONTENT_TYPE: RAW_TYPE if form.kind == "raw" else CAR_ANSWERED,
            hdrs.CONTENT_DISPOSITION: f'attachment; filename="{found.cid}.{"bin" if form.kind == "raw" else "car"}"',
            **_naming(form, found.cid),
            **self._caching(request, found, is_shared=is_whole),
        }
        if form.kind == "raw":
            async with self._block(request, found, headers) as answer:
                yield answer
        else:
            async with self._archive(request, found, form, headers, deadline) as answer:
                yield answer

    async def _principal(self, request: web.BaseRequest) -> Principal:
        headers = request.headers.getall(hdrs.AUTHORIZATION, [])
        if not headers:
            return ANYONE
        if self._bearer is None or len(headers) != 1:
            raise TokenError("no tokens are taken here" if self._bearer is None else "more than one token")
        return await self._bearer.principal(headers[0])

    async def _find(self, cid: Cid | bytes, principal: Principal) -> Found:
        served = await self._chunks.stat_served(cid, principal) if isinstance(cid, Cid) else None
        if served is None or not isinstance(cid, Cid):
            raise NotFoundError("absent or not public")
        return Found(cid, principal, served, principal is ANYONE and served.is_public)

    def _caching(self, request: web.BaseRequest, found: Found, *, is_shared: bool) -> dict[str, str]:
        """What caches are told. Under another spelling of its URL a purge would not meet what they kept."""
        served = found.served
        return {
            **policy.headers_for(
                self._policy,
                request.path,
                tags=policy.tags_of(found.cid, served.documents, served.words, has_more=served.has_more),
                is_permanent=served.is_permanent,
                is_public=found.is_for_all,
                is_shared=is_shared and request.raw_path in policy.paths_of(found.cid),
                edges=self._edges,
            ),
            "Cache-Status": "rage; hit",
        }

    @asynccontextmanager
    async def _block(
        self, request: web.BaseRequest, found: Found, headers: Mapping[str, str]
    ) -> AsyncIterator[web.StreamResponse]:
        """A block as it is: conditional requests and one range."""
        size, etag = found.served.size, headers[hdrs.ETAG]
        headers = {**HEADERS, **headers, hdrs.ACCEPT_RANGES: "bytes"}
        if is_match(request.headers.get(hdrs.IF_NONE_MATCH, ""), etag):
            yield _unchanged(headers)
            return
        if request.method == hdrs.METH_HEAD:
            yield web.StreamResponse(headers={**headers, hdrs.CONTENT_LENGTH: str(size)})
            return
        wanted = request.headers.get(hdrs.RANGE, "")
        part: range | None = None
        if wanted and request.headers.get(hdrs.IF_RANGE, etag) == etag:
            part = parse_range(wanted, size)
            if part is not None and not part:
                answer = refuse(UsageError("the range begins past the end"), 416)
                answer.headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
                yield answer
                return
        async with self._room_for(size):
            data = await self._chunks.read_served(found.cid, found.principal)
            if data is None:
                raise NotFoundError("gone since")
            if part is None:
                yield web.Response(body=data, headers=headers)
            else:
                headers[hdrs.CONTENT_RANGE] = f"bytes {part.start}-{part.stop - 1}/{size}"
                yield web.Response(status=206, body=data[part.start : part.stop], headers=headers)

    @asynccontextmanager
    async def _archive(
        self,
        request: web.BaseRequest,
        found: Found,
        form: Form,
        headers: Mapping[str, str],
        deadline: asyncio.Timeout,
    ) -> AsyncIterator[web.StreamResponse]:
        """A block and, as the form says, all under it. Ranges are none: its own parameters say which part."""
        headers = {**HEADERS, **headers, hdrs.ACCEPT_RANGES: "none"}
        if form.span is not None and not found.cid.is_manifest() and is_outside(form.span, found.served.size):
            raise UsageError("entity-bytes lies outside of the block's bytes")
        if is_match(request.headers.get(hdrs.IF_NONE_MATCH, ""), headers[hdrs.ETAG]):
            yield _unchanged(headers)
            return
        async with self._one_of_few():
            is_all = form.scope in ("", "all") and form.span is None
            blocks = await self._plan(found) if is_all else {found.cid: found.served.size}
            head = car.encode_header([found.cid])
            headers[hdrs.CONTENT_LENGTH] = str(len(head) + sum(map(car.section_bytes, blocks.values())))
            if request.method == hdrs.METH_HEAD:
                yield web.StreamResponse(headers=headers)
                return
            async with (
                self._room_for(max(blocks.values())),
                aclosing(self._sections(head, blocks, found.principal, deadline)) as parts,
            ):
                yield web.Response(body=parts, headers=headers)

    async def _plan(self, found: Found) -> dict[Cid, int]:
        """All blocks of the archive with their sizes, each once, in order. Raises NotFoundError, UsageError.

        Whether each may be had is asked now: what an archive lacks could not be told once it has begun.
        """
        too_many = UsageError(
            f"the archive would have more than {ARCHIVE_BLOCKS_MAX} blocks: take them one by one, with format=raw",
            id="archive-too-large",
        )
        planned = {found.cid: found.served.size}
        if not found.cid.is_manifest():
            return planned
        walk = manifest.Walk(found.cid)
        while wanted := walk.wanted:
            size = planned.get(wanted)
            if size is None:
                (size,) = await self._sizes([wanted], found.principal)
            if size > manifest.bytes_max(ARCHIVE_BLOCKS_MAX):
                raise too_many
            data = await self._chunks.read_served(wanted, found.principal)
            if data is None:
                raise NotFoundError("a block is absent or not public")
            planned[wanted] = size
            fresh = [cid for cid in dict.fromkeys(piece.cid for piece in walk.receive(data)) if cid not in planned]
            if len(planned) + len(fresh) + len(walk.upcoming()) > ARCHIVE_BLOCKS_MAX:
                raise too_many
            planned.update(zip(fresh, await self._sizes(fresh, found.principal), strict=True))
        return planned

    async def _sizes(self, cids: Sequence[Cid], principal: Principal) -> list[int]:
        sizes: list[int] = []
        for at in range(0, len(cids), LOOK_BATCH):
            for size in await self._chunks.sizes_served(cids[at : at + LOOK_BATCH], principal):
                if size is None:
                    raise NotFoundError("a block is absent or not public")
                sizes.append(size)
        return sizes

    async def _sections(
        self, head: bytes, blocks: Mapping[Cid, int], principal: Principal, deadline: asyncio.Timeout
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """The archive's bytes, one block in memory; each part is asked for when the one before has left."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        yield head
        sent = len(head)
        for cid, size in blocks.items():
            data = await self._chunks.read_served(cid, principal)
            if data is None or len(data) != size:
                raise NotFoundError("a block of an archive went while it left")
            for part in car.encode_section(cid, data):
                yield part
            sent += size
            deadline.reschedule(began + ANSWER_TIMEOUT_S + sent / RATE_BYTES_S_MIN)

    @asynccontextmanager
    async def _one_of_few(self) -> AsyncIterator[None]:
        """Wait until one more archive may be under way."""
        try:
            async with asyncio.timeout(BODIES_WAIT_S):
                await self._archives.acquire()
        except TimeoutError as error:
            self._metrics.shed.add(1, "http-archives")
            raise UnavailableError("too many archives under way", id="busy") from error
        try:
            yield
        finally:
            self._archives.release()

    @asynccontextmanager
    async def _room_for(self, size: int) -> AsyncIterator[None]:
        """Wait until `size` more bytes may be held; one answer always may."""
        try:
            async with asyncio.timeout(BODIES_WAIT_S), self._bodies:
                await self._bodies.wait_for(
                    lambda: self.bodies_bytes == 0 or self.bodies_bytes + size <= BODIES_BYTES_MAX
                )
                self.bodies_bytes += size
        except TimeoutError as error:
            self._metrics.shed.add(1, "http-bodies")
            raise UnavailableError("too many chunks under way", id="busy") from error
        try:
            yield
        finally:
            self.bodies_bytes -= size
            async with self._bodies:
                self._bodies.notify_all()


def refuse(error: UsageError, status: int) -> web.Response:
    """A refusal that no cache keeps."""
    answer = error_response(error, status=status)
    answer.headers.update(policy.NO_STORE)
    return answer


def _unchanged(headers: Mapping[str, str]) -> web.Response:
    left_out = (hdrs.CONTENT_TYPE, hdrs.CONTENT_DISPOSITION)
    return web.Response(status=304, headers={name: text for name, text in headers.items() if name not in left_out})


def _is_cached_wanted(request: web.BaseRequest) -> bool:
    words = ",".join(request.headers.getall(hdrs.CACHE_CONTROL, [])).lower().split(",")
    return "only-if-cached" in (word.strip() for word in words)


def _naming(form: Form, cid: Cid) -> dict[str, str]:
    """Where the URL does not say the form, another `Accept` gets another answer, and this one has a URL of its own.

    Cloudflare keys by no header, so that no cache but the browser's may keep such an answer: its URL is not canonical.
    """
    if form.is_named:
        return {}
    return {hdrs.VARY: "Accept", hdrs.CONTENT_LOCATION: f"/ipfs/{cid}?format={form.kind}"}


def _probe(request: web.BaseRequest, form: Form) -> web.StreamResponse:
    body, kind, suffix = (b"", RAW_TYPE, "bin") if form.kind == "raw" else (PROBE_ARCHIVE, CAR_ANSWERED, "car")
    headers = {
        **HEADERS,
        **policy.NO_STORE,
        hdrs.ETAG: f'"bafkqaaa.{suffix}"',
        hdrs.CONTENT_TYPE: kind,
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="bafkqaaa.{suffix}"',
    }
    if request.method == hdrs.METH_HEAD:
        return web.StreamResponse(headers={**headers, hdrs.CONTENT_LENGTH: str(len(body))})
    return web.Response(body=body, headers=headers)
