"""The vocabulary of access: principals, actions, visibilities, and which names may be written.

A principal in a fact is a text: `peer:<peer id>`, `user:<org>/<sub>`, `group:<org>/<name>`, `org:<org>`, `anyone`. Two
texts are one principal when they are equal, code point by code point: nothing is folded, so that no name can be made to
pass for another. Names that only look alike are refused where a machine can tell: other forms of the same letters,
invisible characters, and words that mix alphabets which share letter shapes.
Source: design 4.4; Unicode TR 36 and TR 39 (mixed scripts).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Literal, get_args

from rage_net.errors import UsageError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

Action = Literal["read", "write", "admin", "query", "replicate", "sync", "audit", "kad"]
"""The last three are asked of organisations and never granted by a fact: trust opens them."""
ACTIONS: tuple[str, ...] = ("read", "write", "admin", "query", "replicate")
"""Those that a fact gives or denies."""
SCOPES = frozenset(("chunks", "query", "sync"))
"""What trust can open to another organisation's peers; within our own all is open."""
Visibility = Literal["public", "federated", "org", "private"]
VISIBILITIES: tuple[str, ...] = get_args(Visibility)
"""The most open one first."""

NAME_BYTES_MAX = 255
"""Of an organisation, a subject, a group: the longest `sub` that OpenID Connect allows."""

_SHARING_SHAPES = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC")
"""Alphabets with letters that look the same."""
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""Printable as Python has it, and yet nothing to be seen: fillers and variation selectors."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a peer (proven by Noise), a user (by a token), anyone (at the HTTP door), an operator (Unix socket)."""

    kind: Literal["peer", "user", "anyone", "operator"]
    name: str = ""
    """A peer id, or `<organisation>/<subject>` of a user."""
    organization: str = ""
    """Proven by a certificate, or by the issuer of a token; empty for a stranger."""
    groups: frozenset[str] = frozenset()
    """Of a user, `<organisation>/<name>`."""
    capabilities: frozenset[str] = frozenset()
    """Of a peer, by its certificate."""
    scopes: frozenset[str] = frozenset()
    """What trust opens to a peer: chunks, query, sync; all of them within our own organisation."""
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """All that a fact may call it, the narrowest first: made once, for a decision takes less time than they do."""

    def __post_init__(self) -> None:
        names = [f"{self.kind}:{self.name}"] if self.name and self.kind in ("peer", "user") else []
        names += sorted(f"group:{group}" for group in self.groups)
        if self.organization:
            names.append(f"org:{self.organization}")
        object.__setattr__(self, "names", (*names, "anyone"))

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


ANYONE = Principal("anyone")
OPERATOR = Principal("operator")


def parse_principal(text: str) -> str:
    """The principal as facts hold it. Raises: UsageError, saying how one is written."""
    kind, colon, name = text.partition(":")
    if text == "anyone":
        return text
    if not colon or kind not in ("peer", "user", "group", "org"):
        raise _bad(text, "it begins with peer:, user:, group: or org:, or is `anyone`")
    if kind == "peer":
        try:
            return f"peer:{PeerId.parse(name)}"
        except PeerIdError as error:
            raise _bad(text, str(error)) from None
    organization, slash, rest = (name, "", "") if kind == "org" else name.partition("/")
    if kind != "org" and not slash:
        raise _bad(text, f"{kind}s belong to an organisation: {kind}:ORG/{name or 'NAME'}")
    if kind == "org" and "/" in name:
        raise _bad(text, "an organisation's name has no /")
    for part in (organization, rest) if slash else (organization,):
        if problem := check_name(part):
            raise _bad(text, problem)
    return text


def parse_action(text: str) -> str:
    """An action that a fact may give. Raises: UsageError."""
    if text not in ACTIONS:
        raise UsageError(f"{text[:80]!r} is no action", why=f"there are {', '.join(ACTIONS)}", id="bad-action")
    return text


def check_name(text: str) -> str:
    """What is wrong with a name, or nothing: then it is one line of letters that cannot pass for another's."""
    if not text:
        return "a name is missing"
    if len(text) > NAME_BYTES_MAX or len(text.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        return f"a name has at most {NAME_BYTES_MAX} bytes"
    if not text.isprintable() or text != text.strip() or not _INVISIBLE.isdisjoint(text):
        return "a name holds no control characters, no invisible ones, and no blanks around it"
    if text.isascii():
        return ""
    plain = unicodedata.normalize("NFKC", text)
    if plain != text:
        return f"it is written in an uncommon form of its letters: write {plain}"
    alphabets = {alphabet for char in text if (alphabet := _alphabet(char))}
    if len(alphabets) > 1:
        return f"it mixes letters that look alike: {' and '.join(sorted(alphabets)).lower()}"
    return ""


def _alphabet(char: str) -> str:
    word = unicodedata.name(char, "").partition(" ")[0]
    return word if word in _SHARING_SHAPES and char.isalpha() else ""


def _bad(text: str, why: str) -> UsageError:
    shown = text[:80].encode("unicode_escape").decode()
    return UsageError(f"{shown!r} is no principal", why=why, mend=["rage acl grant --help"], id="bad-principal")
