"""CAR archives: a document's blocks as one stream that other IPFS tools read, and theirs read here.

Written are CARs of version 1. Read are versions 1 and 2 (its inner archive; the index is passed over). Blocks that rage
does not keep (other hashes than BLAKE3-256, other codecs than raw and dag-cbor) are passed over and counted. Not here:
checking that a block's bytes match its CID, which is the store's gate, and any reading or writing of files.

Source: ipld.io specifications, CARv1 and CARv2; multiformats/unsigned-varint.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

import libipld

from rage_net.chunk.manifest import Block, blocks
from rage_net.cid import BLOCK_BYTES_MAX, CID_BYTES, Cid, CidError
from rage_net.errors import IntegrityError

HEADER_BYTES_MAX = 32 << 10
"""Enough for some 700 roots; a header is decoded as a whole."""
CID_BYTES_MAX = 128
"""The longest CID of a foreign block that is recognised, hash of 512 bits included."""
SECTION_BYTES_MAX = BLOCK_BYTES_MAX + CID_BYTES_MAX
"""Larger blocks cannot be kept, and other tools do not make them (2 MiB by habit)."""
VARINT_BYTES_MAX = 9
"""As multiformats limits it: 63 bits."""

_V2_PRAGMA = bytes.fromhex("0aa16776657273696f6e02")
_V2_HEADER_BYTES = 40
_STEP_BYTES = 1 << 16
_V2_DATA_FIRST = len(_V2_PRAGMA) + _V2_HEADER_BYTES


def encode_header(roots: Iterable[Cid]) -> bytes:
    """The first bytes of an archive of version 1."""
    header = bytes(libipld.encode_dag_cbor({"roots": [bytes(root) for root in roots], "version": 1}))
    return _encode_varint(len(header)) + header


def encode_section(cid: Cid, data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """A block as it stands in an archive, in two buffers: what goes before, and `data` itself."""
    return _encode_varint(len(bytes(cid)) + len(data)) + bytes(cid), data


def section_bytes(size: int) -> int:
    """How long a block of `size` bytes is in an archive."""
    length = CID_BYTES + size
    return len(_encode_varint(length)) + length


def export(root: Cid, load: Callable[[Cid], bytes]) -> Iterator[bytes | memoryview]:
    """An archive of `root` and all blocks under it, the root first, as buffers to write one after the other.

    `load` gives a block's bytes, verified, and is asked for one at a time; what it raises passes through.
    """
    yield encode_header([root])
    for cid in blocks(root, load):
        yield from encode_section(cid, load(cid))


class CarReader:
    """Reads one archive as its bytes come in, in pieces of any size; holds at most one block and the piece at hand.

    Bytes that are no archive raise `IntegrityError`; a length is checked before anything is allocated for it.
    """

    def __init__(self) -> None:
        self.roots: tuple[Cid, ...] = ()
        """The header's roots that rage can read; known once the first block is."""
        self.foreign_roots = 0
        """Roots with another hash or codec."""
        self.skipped = 0
        """Blocks with another hash or codec, passed over so far."""
        self._found: list[Block] = []
        self._buffer = bytearray()
        self._left: int | None = None  # bytes left of a version 2 file's inner archive
        self._may_end = False
        self._parser = self._archive()
        self._needed = next(self._parser)

    def receive(self, data: bytes | bytearray | memoryview) -> list[Block]:
        """Take the next bytes of the archive. Returns the blocks that are complete now and that rage keeps."""
        if not self._needed:  # past the inner archive
            return []
        self._buffer += data
        used = 0
        with memoryview(self._buffer) as view:
            while 0 < self._needed <= len(view) - used:
                piece = bytes(view[used : used + self._needed])
                used += self._needed
                self._needed = self._parser.send(piece)
        del self._buffer[: used if self._needed else None]
        found, self._found = self._found, []
        return found

    def finish(self) -> None:
        """Say that the stream has ended. Raises `IntegrityError` when the archive has not."""
        if self._buffer or not self._may_end:
            raise _broken("it ends in the middle")

    def _archive(self) -> Generator[int, bytes, None]:
        """The parser: yields how many bytes it needs and is sent just these; 0 says that the rest does not matter."""
        length = yield from self._varint()
        header = yield from self._header(length)
        if _encode_varint(length) + header == _V2_PRAGMA:
            fields = yield from self._take(_V2_HEADER_BYTES)
            offset, size = (int.from_bytes(fields[at : at + 8], "little") for at in (16, 24))
            if offset < _V2_DATA_FIRST:
                raise _broken("its header of version 2 points into itself")
            passed = _V2_DATA_FIRST
            while passed < offset:
                passed += len((yield from self._take(min(offset - passed, _STEP_BYTES))))
            self._left = size
            length = yield from self._varint()
            header = yield from self._header(length)
        self._read_roots(header)
        while self._left != 0:
            self._may_end = self._left is None
            length = yield from self._varint()
            yield from self._section(length)
        self._may_end = True
        while True:
            yield 0

    def _take(self, count: int) -> Generator[int, bytes, bytes]:
        if not count:
            return b""
        if self._left is not None:
            if count > self._left:
                raise _broken("its last block is longer than the archive")
            self._left -= count
        return (yield count)

    def _varint(self) -> Generator[int, bytes, int]:
        raw = b""
        while not raw or raw[-1] & 0x80:
            raw += yield from self._take(1)
            self._may_end = False
            if len(raw) > VARINT_BYTES_MAX:
                break
        number = _read_varint(raw)
        if number is None:
            raise _broken("a length is no unsigned varint")
        return number[0]

    def _header(self, length: int) -> Generator[int, bytes, bytes]:
        if not 0 < length <= HEADER_BYTES_MAX:
            raise _broken(f"its header has {length} bytes, {HEADER_BYTES_MAX} at most are allowed")
        return (yield from self._take(length))

    def _read_roots(self, header: bytes) -> None:
        try:
            plain = libipld.decode_dag_cbor(header)
        except (ValueError, RecursionError) as error:
            raise _broken("its header is no DAG-CBOR") from error
        if not isinstance(plain, dict) or plain.get("version") != 1 or not isinstance(plain.get("roots"), list):
            raise _broken("its header is not {roots, version: 1}")
        roots = []
        for raw in plain["roots"]:
            if not isinstance(raw, bytes) or cid_length(raw) != len(raw):
                raise _broken("one of its roots is no CID")
            try:
                roots.append(Cid.from_bytes(raw))
            except CidError:
                self.foreign_roots += 1
        self.roots = tuple(roots)

    def _section(self, length: int) -> Generator[int, bytes, None]:
        if not 0 < length <= SECTION_BYTES_MAX:
            raise _broken(f"a block has {length} bytes with its CID; 1 to {SECTION_BYTES_MAX} are allowed")
        head = yield from self._take(min(length, CID_BYTES))
        try:
            cid = Cid.from_bytes(head)
        except CidError:
            head += yield from self._take(min(length - len(head), CID_BYTES_MAX))
            if cid_length(head) is None:
                raise _broken("a block has no CID") from None
            yield from self._take(length - len(head))
            self.skipped += 1
            return
        if length - CID_BYTES > BLOCK_BYTES_MAX:
            raise _broken(f"{cid} has {length - CID_BYTES} bytes, {BLOCK_BYTES_MAX} at most are allowed")
        data = yield from self._take(length - CID_BYTES)
        self._found.append(Block(cid, data))


def cid_length(raw: bytes) -> int | None:
    """How many first bytes of `raw` are a CID of any kind, version 0 or 1; None when they are none."""
    if raw[:2] == b"\x12\x20":
        return 34 if len(raw) >= 34 else None
    at, numbers = 0, []
    for _ in ("version", "codec", "hash", "hash length"):
        number = _read_varint(raw[at : at + VARINT_BYTES_MAX])
        if number is None:
            return None
        numbers.append(number[0])
        at += number[1]
    end = at + numbers[3]
    return end if numbers[0] == 1 and end <= min(len(raw), CID_BYTES_MAX) else None


def _read_varint(raw: bytes) -> tuple[int, int] | None:
    """The number at the front of `raw` and how many bytes it takes; None when there is none in its shortest form."""
    number = 0
    for at, byte in enumerate(raw[:VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return (number, at + 1) if byte or not at else None
    return None


def _encode_varint(number: int) -> bytes:
    raw = bytearray()
    while number > 0x7F:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    raw.append(number)
    return bytes(raw)


def _broken(why: str) -> IntegrityError:
    return IntegrityError("the CAR archive is broken", why=why, mend=["rage chunk put FILE"], id="car-invalid")
