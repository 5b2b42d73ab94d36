"""The words of facts: resources, principals, actions; which texts may stand in them; ids of documents.

Texts are compared as code points and never normalised into one another: what looks like another name is another name,
and a text that is not in NFC, or holds what cannot be seen (controls, bidi marks, zero-width), is none. The list of the
unseen is fixed here, because Python's own grows with its Unicode: nodes with different Pythons must judge alike.

Source: design 4.4; contracts/rage.proto, `Payload`.
"""

from __future__ import annotations

import base64
import functools
import re
import unicodedata

from blake3 import blake3

from rage_net.cid import Cid, CidError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

ACTIONS = ("read", "write", "admin", "query", "replicate")
VISIBILITIES = ("public", "federated", "org", "private")
"""From the widest to the narrowest."""
STATES = ("active", "drained", "lost")
SCOPES = ("query", "chunks", "sync")
CDN_MODES = ("encrypted",)
"""How a document that is not public may go to CDNs; one without such a word may not."""

NAME_BYTES_MAX = 64
"""Of an organisation, as in the configuration."""
SUBJECT_BYTES_MAX = 256
"""Of a user, as the issuer of tokens names it, and of a group."""
TOPIC_BYTES_MAX = 128
WORD_BYTES_MAX = 64
RESOURCE_BYTES_MAX = 256
PRINCIPAL_BYTES_MAX = NAME_BYTES_MAX + SUBJECT_BYTES_MAX + 8
DOCUMENT_ID_CHARS = 26

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOCUMENT = re.compile(r"[a-z2-7]{25}[aeimquy4]")
"""128 bits in base32: the two bits that the last character has too many are zero."""
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_WORD = re.compile(r"[a-z][a-z0-9-]{0,31}")
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)
_DOC = b"rage:doc:1\0"


class FactError(ValueError):
    """A payload that says nothing a node could act on: it stays in its chain, and never counts."""


def is_text(text: str, bytes_max: int) -> bool:
    """Whether a text may be a name: seen in full, NFC, no blank at its ends, 1 to `bytes_max` bytes of UTF-8."""
    if not text or len(text) > bytes_max:
        return False
    if text.isascii():
        return text.isprintable() and text[0] != " " != text[-1]
    return (
        _UNSEEN.search(text) is None
        and len(text.encode()) <= bytes_max
        and text[0] != " " != text[-1]
        and unicodedata.is_normalized("NFC", text)
    )


def is_word(text: str) -> bool:
    """Whether a text could be a word of this vocabulary, of this version or a later one."""
    return _WORD.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a text is a name of an organisation."""
    return _NAME.fullmatch(text) is not None


@functools.lru_cache(maxsize=8192)
def check_resource(text: str) -> str:
    """The kind of a resource (doc, org, topic, chunk, peer, cert). Raises: FactError when it is none."""
    kind, _, name = text.partition(":")
    match kind:
        case "doc":
            good = _DOCUMENT.fullmatch(name) is not None
        case "org":
            good = is_name(name)
        case "topic":
            good = is_text(name, TOPIC_BYTES_MAX)
        case "chunk":
            good = _is_cid(name)
        case "peer":
            good = _is_peer(name)
        case "cert":
            good = _SERIAL.fullmatch(name) is not None
        case _:
            good = False
    if not good:
        raise FactError(f"{text[:RESOURCE_BYTES_MAX]!r} is no resource")
    return kind


@functools.lru_cache(maxsize=8192)
def check_principal(text: str) -> str:
    """The kind of a principal (peer, user, group, org, anyone). Raises: FactError when it is none."""
    kind, colon, name = text.partition(":")
    organization, slash, subject = name.partition("/")
    match kind:
        case "anyone":
            good = not colon
        case "org":
            good = is_name(name)
        case "peer":
            good = _is_peer(name)
        case "user" | "group":
            good = bool(slash) and is_name(organization) and is_text(subject, SUBJECT_BYTES_MAX)
        case _:
            good = False
    if not good:
        raise FactError(f"{text[:PRINCIPAL_BYTES_MAX]!r} is no principal")
    return kind


def document_id(author: PeerId, bits: int) -> str:
    """A new document's id, from 64 random bits: it names its owner, so that no one can have come before.

    The second half is BLAKE3("rage:doc:1" NUL author bits). An id of another kind belongs to whoever wrote first.
    """
    raw = bits.to_bytes(8, "big")
    digest = blake3(_DOC + author.multihash + raw).digest(8)
    return base64.b32encode(raw + digest).decode("ascii").lower().rstrip("=")


def document_bytes(doc_id: str) -> bytes:
    """A document's id in 16 bytes. Raises ValueError for what is none."""
    return base64.b32decode(doc_id.upper() + "======")


def document_text(raw: bytes) -> str:
    """A document's id from its 16 bytes."""
    return base64.b32encode(raw).decode("ascii").lower().rstrip("=")


@functools.lru_cache(maxsize=8192)
def is_named_owner(doc_id: str, author: PeerId) -> bool:
    """Whether the document's id names `author` as its owner."""
    raw = document_bytes(doc_id)
    return raw[8:] == blake3(_DOC + author.multihash + raw[:8]).digest(8)


def _is_peer(text: str) -> bool:
    try:
        return str(PeerId.parse(text)) == text
    except PeerIdError:
        return False


def _is_cid(text: str) -> bool:
    try:
        return str(Cid.parse(text)) == text
    except CidError:
        return False
