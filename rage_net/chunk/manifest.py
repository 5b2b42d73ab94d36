"""Manifests: the blocks that list a document's chunks, so that one CID names a document of any size.

A manifest is DAG-CBOR `{v, split, size, level, links: [[cid, size], ...]}` and nothing else: equal chunks give equal
roots. Level 1 links chunks, level 2 links full manifests of level 1; a document of one chunk has none, its chunk is its
root. Nothing is trusted: a manifest in any other form, or one that lies about sizes, raises `IntegrityError`. Not here:
reading or storing blocks; the caller brings and keeps them.

Source: design D3; contracts/split.md, "Manifests"; IPLD DAG-CBOR specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import libipld

from rage_net.cid import BLOCK_BYTES_MAX, DAG_CBOR, RAW, Cid
from rage_net.errors import IntegrityError, UsageError

VERSION = 1
LINKS_MAX = 1 << 16
"""Links of a level 1 manifest: at 47 bytes each the block is at most 3.1 MB."""
CHILDREN_MAX = 1 << 6
"""Links of a level 2 manifest. A document has at most 4,194,304 chunks: 1 TiB at the minimum size, 4 at the usual."""
CHUNKS_MAX = LINKS_MAX * CHILDREN_MAX
DOCUMENT_BYTES_MAX = CHUNKS_MAX * BLOCK_BYTES_MAX
SPLIT_CHARS_MAX = 40
LINK_BYTES_MAX = 51
"""A CID in a list, and a number."""
HEAD_BYTES_MAX = 128
"""Everything but the links."""

_SPLIT = rb"[a-z0-9]{1,8}-[0-9]{1,3}(?:/[0-9]{1,8}){0,3}"
_UINT = rb"(?:[\x00-\x17]|\x18.|\x19..|\x1a.{4}|\x1b.{8})"
_LINK = rb"\x82\xd8\x2a\x58\x25\x00\x01[\x55\x71]\x1e\x20.{32}" + _UINT
_SHAPE = re.compile(
    rb"\xa5\x61v\x01\x64size" + _UINT + rb"\x65level[\x01\x02]\x65links"
    rb"(?:[\x80-\x97]|\x98.|\x99..|\x9a.{4})(?:" + _LINK + rb")*+\x65split(?:[\x60-\x77]|\x78.)" + _SPLIT,
    re.DOTALL,
)
"""Every byte of a manifest but lengths and numbers. Matched before decoding: four MiB of empty lists would become
hundreds of MiB, and libipld reads a string of bytes that looks like a CID as a link."""


@dataclass(frozen=True, slots=True)
class Link:
    """A block and how many bytes of the document lie under it."""

    cid: Cid
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one block says. `size` is the sum of the links' sizes; `level` is 1 (of chunks) or 2 (of manifests)."""

    split: str
    size: int
    level: int
    links: tuple[Link, ...]

    def encode(self) -> bytes:
        """The block, at most `BLOCK_BYTES_MAX` long. Raises `IntegrityError` when the manifest breaks a rule."""
        _check(self)
        links = [[bytes(link.cid), link.size] for link in self.links]
        plain = {"v": VERSION, "split": self.split, "size": self.size, "level": self.level, "links": links}
        return bytes(libipld.encode_dag_cbor(plain))


def bytes_max(links: int) -> int:
    """How long a manifest of so many links may be."""
    return HEAD_BYTES_MAX + links * LINK_BYTES_MAX


def decode(data: bytes | memoryview) -> Manifest:
    """Read a block. Raises `IntegrityError`, whatever the bytes are; memory is bounded by the block's own size."""
    if len(data) > BLOCK_BYTES_MAX:
        raise _broken(f"it has {len(data)} bytes, {BLOCK_BYTES_MAX} at most are allowed")
    data = bytes(data)
    if not _SHAPE.fullmatch(data):
        raise _broken("it is not the DAG-CBOR map {v, split, size, level, links: [[cid, size], ...]}")
    try:
        plain = libipld.decode_dag_cbor(data)
        links = tuple(Link(Cid(cid[1], cid[4:]), size) for cid, size in plain["links"])
        manifest = Manifest(plain["split"], plain["size"], plain["level"], links)
    except ValueError as error:
        raise _broken(str(error)) from error
    if manifest.encode() != data:
        raise _broken("it is not in canonical form")
    return manifest


def _check(manifest: Manifest) -> None:
    level, links = manifest.level, manifest.links
    if level not in (1, 2):
        raise _broken(f"its level is {level}, not 1 or 2")
    codec, fewest, most, size_max = (
        (RAW, 1, LINKS_MAX, BLOCK_BYTES_MAX) if level == 1 else (DAG_CBOR, 2, CHILDREN_MAX, LINKS_MAX * BLOCK_BYTES_MAX)
    )
    if not fewest <= len(links) <= most:
        raise _broken(f"it has {len(links)} links; {fewest} to {most} are allowed at level {level}")
    if not re.fullmatch(_SPLIT.decode(), manifest.split) or len(manifest.split) > SPLIT_CHARS_MAX:
        raise _broken("its split is no name of a way to cut")
    total = 0
    for link in links:
        if link.cid.codec != codec:
            raise _broken(f"at level {level} it links {link.cid}, which is of the other kind")
        if not 0 < link.size <= size_max:
            raise _broken(f"the link to {link.cid} claims {link.size} bytes; 1 to {size_max} are allowed")
        total += link.size
    if total != manifest.size:
        raise _broken(f"it claims {manifest.size} bytes, its links have {total}")


def _broken(why: str) -> IntegrityError:
    return IntegrityError("the manifest is broken", why=why, id="manifest-invalid")


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes to store and the CID they are stored under."""

    cid: Cid
    data: bytes


class ManifestBuilder:
    """Builds the manifests of one document while its chunks go by; holds at most `LINKS_MAX` + `CHILDREN_MAX` links.

    Blocks come in the order to store them: children before the root.
    """

    def __init__(self, split: str) -> None:
        self.chunks = 0
        self.size = 0
        self._split = split
        self._links: list[Link] = []
        self._children: list[Link] = []

    def add(self, cid: Cid, size: int) -> Block | None:
        """Take the next chunk. Returns a manifest when one is full.

        Raises: UsageError beyond `CHUNKS_MAX` chunks. A chunk that no manifest may link (empty, too large, not raw)
        is an `IntegrityError` here or in `finish`.
        """
        if self.chunks == CHUNKS_MAX:
            raise UsageError(
                f"the document has more than {CHUNKS_MAX} chunks",
                why="cut it into larger chunks",
                id="document-too-large",
            )
        self.chunks += 1
        self.size += size
        self._links.append(Link(cid, size))
        return self._flush() if len(self._links) == LINKS_MAX else None

    def finish(self) -> tuple[Cid, list[Block]]:
        """The root, and the manifests that are not stored yet. Raises ValueError when there was no chunk."""
        if not self.chunks:
            raise ValueError("a document has at least one chunk; that of no bytes has an empty one")
        if self.chunks == 1:
            return self._links[0].cid, []
        blocks = [self._flush()] if self._links else []
        if len(self._children) == 1:
            return self._children[0].cid, blocks
        data = Manifest(self._split, self.size, 2, tuple(self._children)).encode()
        root = Block(Cid.of(data, DAG_CBOR), data)
        return root.cid, [*blocks, root]

    def _flush(self) -> Block:
        size = sum(link.size for link in self._links)
        data = Manifest(self._split, size, 1, tuple(self._links)).encode()
        block = Block(Cid.of(data, DAG_CBOR), data)
        self._links = []
        self._children.append(Link(block.cid, size))
        return block


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk and where in the document it begins."""

    offset: int
    cid: Cid
    size: int


class Walk:
    """The chunks under a manifest that cover a range of bytes, in order; sans-I/O, at most two manifests in memory.

    While `wanted` names a manifest, bring its block to `receive`, which gives the chunks that are then known. What a
    level 2 manifest says about its children is checked against them.
    """

    def __init__(self, root: Cid, start: int = 0, end: int = DOCUMENT_BYTES_MAX) -> None:
        """Walk `root`, a manifest, for bytes `start` to `end` (not included; beyond the document's end is no error).

        Raises: ValueError when `root` is a chunk.
        """
        if not root.is_manifest():
            raise ValueError(f"{root} is a chunk; only manifests can be walked")
        self.root: Manifest | None = None
        """The root's manifest, once it was received: it tells size, split and level."""
        self._start, self._end = start, end if start < end else 0
        self._root_cid = root
        self._children: list[
            tuple[int, Link, bool]
        ] = []  # offset, link, whether it is the last; the next one at the end

    @property
    def wanted(self) -> Cid | None:
        """The manifest to bring next, or None when all chunks were given."""
        if self.root is None:
            return self._root_cid
        return self._children[-1][1].cid if self._children else None

    def upcoming(self) -> list[Link]:
        """The manifests that will be wanted, in order: for fetching ahead. Empty until the root is here."""
        return [link for _, link, _ in reversed(self._children)]

    def receive(self, data: bytes | memoryview) -> list[Piece]:
        """Take the block that was wanted. Raises `IntegrityError` when it is another, or breaks a rule."""
        cid = self.wanted
        if cid is None:
            raise ValueError("no manifest is wanted")
        if not cid.matches(data):
            raise IntegrityError(f"the bytes are not those of {cid}")
        manifest = decode(data)
        if self.root is None:
            if len(manifest.links) < 2:
                raise _broken("a root links at least two chunks; one chunk is its own root")
            self.root = manifest
            if manifest.level == 1:
                return self._pieces(0, manifest.links)
            self._children = [
                (offset, link, link is manifest.links[-1]) for offset, link in self._covering(0, manifest.links)
            ][::-1]
            return []
        offset, link, is_last = self._children.pop()
        if manifest.level != 1 or manifest.size != link.size or manifest.split != self.root.split:
            raise _broken(f"{cid} is not what the manifest above it says: level, size or split differ")
        if len(manifest.links) != LINKS_MAX and not is_last:
            raise _broken(f"{cid} has {len(manifest.links)} links; all but the last of its kind have {LINKS_MAX}")
        return self._pieces(offset, manifest.links)

    def _covering(self, offset: int, links: tuple[Link, ...]) -> Iterator[tuple[int, Link]]:
        for link in links:
            if offset >= self._end:
                return
            if offset + link.size > self._start:
                yield offset, link
            offset += link.size

    def _pieces(self, offset: int, links: tuple[Link, ...]) -> list[Piece]:
        return [Piece(at, link.cid, link.size) for at, link in self._covering(offset, links)]


def pieces(root: Cid, load: Callable[[Cid], bytes], start: int = 0, end: int = DOCUMENT_BYTES_MAX) -> Iterator[Piece]:
    """The chunks under a manifest that cover bytes `start` to `end`, in order, where blocks are read by a call."""
    walk = Walk(root, start, end)
    while wanted := walk.wanted:
        yield from walk.receive(load(wanted))


def blocks(root: Cid, load: Callable[[Cid], bytes]) -> Iterator[Cid]:
    """All blocks of a document, the root first, each manifest before its chunks; `load` is asked for manifests alone.

    A chunk that repeats is given once for each manifest that links it.
    """
    yield root
    if not root.is_manifest():
        return
    walk = Walk(root)
    while wanted := walk.wanted:
        if wanted != root:
            yield wanted
        yield from dict.fromkeys(piece.cid for piece in walk.receive(load(wanted)))
