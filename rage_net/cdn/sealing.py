"""Sealed documents: what of a document that is not public a CDN may hold. Pure: no clock, no chance, no I/O.

Each block of a document (chunk or manifest) becomes a ciphertext with a CID of its own, under the key of an *epoch*:
32 random bytes for one document and one time. *Pages*, sealed too, list which ciphertext is which block's; the root
page's CID stands in the log. Who has the key and the root page finds every block; a CDN sees lengths, and how many.

The key of one block comes from the epoch's key and from all that the block is: organisation, document, epoch, kind and
plain CID. A plain CID has one plaintext, so no key ever meets two, and the nonce may be zero: the same block sealed
again gives the same ciphertext, and a publication that was killed goes on where it was. Wrong bytes, the block of
another document, epoch or place: all fail to open. What opens is still checked against its plain CID by the store.

Source: issue 6, C; contracts/sealed.md; ADR 24; RFC 5869; NIST SP 800-38D.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from blake3 import blake3

from rage_net.cid import BLOCK_BYTES_MAX, CID_BYTES, DIGEST_BYTES, RAW, Cid, CidError
from rage_net.errors import IntegrityError, UsageError

KEY_BYTES = 32
EPOCH_BYTES = 16
TAG_BYTES = 16
SEALED_BYTES_MAX = BLOCK_BYTES_MAX + TAG_BYTES
"""The largest ciphertext: larger than any chunk, so none may be stored or sent as one."""
PAGE_ENTRIES = 4096
"""Blocks that one page lists: 272 KiB, and 4 GiB of a document at the usual size of a chunk."""
BLOCKS_MAX = 1 << 19
"""Of one document: some 512 GiB at the usual size of a chunk, and 120 MB of memory while it is sealed."""

Kind = Literal["block", "page"]

_DOMAIN = b"rage:sealed:1\0"
_CHECK = b"rage:epoch:1\0"
_KINDS: dict[Kind, bytes] = {"block": b"\0", "page": b"\1"}
_NONCE = bytes(12)
_ENTRY_BYTES = CID_BYTES + DIGEST_BYTES
_LEAF, _ROOT = 0, 1


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one document's ciphertexts are bound to, and their key."""

    organization: str
    doc_id: str
    """26 base32 characters."""
    id: bytes
    """16 random bytes."""
    key: bytes = field(repr=False)
    """32 random bytes, of this epoch alone."""

    def __post_init__(self) -> None:
        if len(self.id) != EPOCH_BYTES or len(self.key) != KEY_BYTES or len(self.doc_id) != 26:
            raise ValueError("an epoch has an id of 16 bytes, a key of 32, and a document")

    @property
    def check(self) -> bytes:
        """32 bytes by which the key is known, and that say nothing of it: it is random. They stand in the log."""
        return blake3(_CHECK + self.id + self.key).digest()


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the log says that CDNs hold of a document."""

    organization: str
    doc_id: str
    root: Cid
    """The plain root that was sealed."""
    epoch: bytes
    """Its id."""
    sealed: Cid
    """The root page, as CDNs have it."""
    check: bytes
    """As `Epoch.check`."""
    author: str = ""
    """Peer id of the node that said so: whoever sealed it has the key."""


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A ciphertext as CDNs hold it, and its CID (raw, BLAKE3-256 of these bytes)."""

    cid: Cid
    data: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A page, opened: `cids` in order, and for each a ciphertext; of a root page above others, each page's first."""

    is_leaf: bool
    cids: tuple[Cid, ...]
    sealed: tuple[Cid, ...]

    def find(self, cid: Cid) -> Cid | None:
        """The ciphertext of a block, or, above leaves, of the page that lists it if any does."""
        at = bisect.bisect_right(self.cids, cid) - 1
        if at < 0 or (self.is_leaf and self.cids[at] != cid):
            return None
        return self.sealed[at]


def seal_block(epoch: Epoch, cid: Cid, data: bytes) -> SealedBlock:
    """The ciphertext of one block, which must be what `cid` names: else two plaintexts could meet one key.

    Raises: IntegrityError when it is not.
    """
    if len(data) > BLOCK_BYTES_MAX or not cid.matches(data):
        raise IntegrityError(f"the bytes are not those of {cid}")
    sealed = _encrypt(epoch, "block", cid, data)
    return SealedBlock(Cid.of(sealed), sealed)


def open_block(epoch: Epoch, cid: Cid, sealed: bytes) -> bytes:
    """The plain bytes of the block `cid`. Raises: IntegrityError for bytes that were not sealed as that block."""
    if not TAG_BYTES <= len(sealed) <= SEALED_BYTES_MAX:
        raise _broken(f"{len(sealed)} bytes are no ciphertext of a block")
    return _decrypt(epoch, "block", cid, sealed)


def seal(epoch: Epoch, blocks: Iterable[Cid], load: Callable[[Cid], bytes]) -> Iterator[SealedBlock]:
    """All that a CDN is to hold of a document: its blocks in order, each once, then pages; the root page is the last.

    Args: blocks: of the document, as `manifest.blocks` gives them. load: the plain bytes.
    Raises: UsageError beyond BLOCKS_MAX blocks; IntegrityError; what `load` raises.
    """
    entries: dict[bytes, bytes] = {}
    for cid in blocks:
        if bytes(cid) in entries:
            continue
        if len(entries) == BLOCKS_MAX:
            raise UsageError(
                f"the document has more than {BLOCKS_MAX} chunks: too many to be sealed",
                why="its index would not fit into memory",
                mend=["make it public, or leave it to the peers", "cut it into larger chunks"],
                id="cdn-too-large",
            )
        block = seal_block(epoch, cid, load(cid))
        entries[bytes(cid)] = block.cid.digest
        yield block
    if not entries:
        raise ValueError("a document has at least one block")
    yield from _seal_pages(epoch, entries)


def _seal_pages(epoch: Epoch, entries: dict[bytes, bytes]) -> Iterator[SealedBlock]:
    cids = sorted(entries)
    roots = []
    for at in range(0, len(cids), PAGE_ENTRIES):
        leaf = cids[at : at + PAGE_ENTRIES]
        page = seal_page(epoch, _LEAF, [cid + entries[cid] for cid in leaf])
        roots.append(leaf[0] + page.cid.digest)
        yield page
    if len(roots) > 1:
        yield seal_page(epoch, _ROOT, roots)


def seal_page(epoch: Epoch, level: int, rows: Sequence[bytes]) -> SealedBlock:
    """One page: the BLAKE3 of its plain bytes, then these, encrypted."""
    plain = bytes((level,)) + b"".join(rows)
    cid = Cid.of(plain)
    sealed = cid.digest + _encrypt(epoch, "page", cid, plain)
    return SealedBlock(Cid.of(sealed), sealed)


def open_page(epoch: Epoch, sealed: bytes) -> Page:
    """Read a page. Raises: IntegrityError for what is none of this document and epoch."""
    if not DIGEST_BYTES + TAG_BYTES < len(sealed) <= DIGEST_BYTES + TAG_BYTES + 1 + PAGE_ENTRIES * _ENTRY_BYTES:
        raise _broken(f"{len(sealed)} bytes are no page")
    cid = Cid(RAW, sealed[:DIGEST_BYTES])
    plain = _decrypt(epoch, "page", cid, sealed[DIGEST_BYTES:])
    level, size = plain[0], len(plain) - 1
    if level not in (_LEAF, _ROOT) or not size or size % _ENTRY_BYTES or not cid.matches(plain):
        raise _broken("it is not a level and entries")
    rows = [plain[at : at + _ENTRY_BYTES] for at in range(1, len(plain), _ENTRY_BYTES)]
    try:
        cids = tuple(Cid.from_bytes(row[:CID_BYTES]) for row in rows)
    except CidError as error:
        raise _broken(str(error)) from None
    if any(one >= other for one, other in pairwise(cids)):
        raise _broken("its entries are not in order")
    return Page(level == _LEAF, cids, tuple(Cid(RAW, row[CID_BYTES:]) for row in rows))


def _binding(epoch: Epoch, kind: Kind, cid: Cid) -> bytes:
    """All that a ciphertext is: fixed lengths first, so that nothing can be read in two ways."""
    return _DOMAIN + _KINDS[kind] + epoch.doc_id.encode("ascii") + bytes(cid) + epoch.organization.encode()


def _key(epoch: Epoch, binding: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt=epoch.id, info=binding).derive(epoch.key)


def _encrypt(epoch: Epoch, kind: Kind, cid: Cid, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    binding = _binding(epoch, kind, cid)
    return AESGCM(_key(epoch, binding)).encrypt(_NONCE, data, binding)


def _decrypt(epoch: Epoch, kind: Kind, cid: Cid, sealed: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    binding = _binding(epoch, kind, cid)
    try:
        return AESGCM(_key(epoch, binding)).decrypt(_NONCE, sealed, binding)
    except InvalidTag:
        raise _broken("it was sealed as something else, or with another key, or was altered") from None


def _broken(why: str) -> IntegrityError:
    return IntegrityError("what a CDN holds of a sealed document does not open", why=why, id="sealed-broken")
