"""The kinds of value that configuration holds, and how each is read from text. Pure: opens nothing, knows no key.

Every parser takes the text as it stands in a file, a variable or a flag, and raises ValueError with words that end the
sentence "wrong value: ...". None of them quotes its text: the caller knows whether it is a secret.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NewType

Seconds = NewType("Seconds", float)
"""A duration. Written `90`, `90s`, `5m`, `1h` or `7d`."""
Bytes = NewType("Bytes", int)
"""A size. Written `4096`, `256KiB`, `1MiB`, `2GiB`, `1TiB`, or decimal: `100KB`, `20MB`, `2GB`, `1TB`."""
Share = NewType("Share", float)
"""A part of a whole, above 0 to 1. Written `80%` or `0.8`."""
Endpoint = NewType("Endpoint", str)
"""`HOST:PORT`; an IPv6 address stands in brackets. Port 0 takes a free one."""
Url = NewType("Url", str)
"""`https://host/path` or `http://...`, without credentials in it."""
Address = NewType("Address", str)
"""A multiaddr, such as `/ip4/0.0.0.0/tcp/4001`."""
PeerAddress = NewType("PeerAddress", str)
"""A multiaddr that ends in `/p2p/<peer id>`."""
PeerName = NewType("PeerName", str)
"""A peer id, such as `12D3KooW...`."""
Name = NewType("Name", str)
"""Letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first: it goes into principals and topics."""

FILE_BYTES_MAX = 1 << 20
"""Of one configuration file, or one that holds a secret; the specification's have 2 KiB."""
DURATION_S_MAX = 10 * 365 * 86_400
"""Ten years: longer is a slip of the unit."""
TEXT_CHARS_MAX = 4096
"""Of one value; certificates and keys stand in files of their own."""

_DURATION = r"(\d{1,12}(?:\.\d{1,6})?)\s*(s|m|h|d)?"
_DURATION_UNITS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = r"(?i)(\d{1,18}(?:\.\d{1,6})?)\s*(B|[KMGT]i?B)?"
_SIZE_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ENDPOINT = r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([A-Za-z0-9.-]+)):(\d{1,5})"
_URL = r"(https?)://(?:([^/@\s]*)@)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/\S*)?"
_COMPARISON = r"(<=|>=|<|>|=)?\s*(\d{1,15}(?:\.\d{1,6})?)\s*(?:/\s*(second|minute|hour|day|week))?"
_PER = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_OPERATORS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "=": "eq", None: "eq"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


# Patterns stay text: compiling all of them costs 5 ms at every start, and `re` keeps those that are used.
class Secret:
    """A text that shows itself to nobody but `reveal`: not in repr, str, format, JSON or an error."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "<set>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> typing.NoReturn:
        raise TypeError("a secret is not copied out of the process")


class Comparison(NamedTuple):
    """A bound in a selector: `operator` is lt, le, gt, ge or eq; `per_s` makes `value` a rate, so many in that time."""

    operator: str
    value: float
    per_s: int | None = None

    def __str__(self) -> str:
        sign = next(sign for sign, name in _OPERATORS.items() if name == self.operator)
        per = next((f"/{name}" for name, seconds in _PER.items() if seconds == self.per_s), "")
        return f"{sign} {self.value:g}{per}"

    def holds(self, measured: float) -> bool:
        """Whether a measured number, in the same unit, satisfies the bound."""
        below, equal = measured < self.value, measured == self.value
        return {"lt": below, "le": below or equal, "eq": equal, "ge": not below, "gt": not below and not equal}[
            self.operator
        ]


class Between(NamedTuple):
    """Bounds of a number, both allowed: `Annotated[int, Between(1, 32)]`."""

    low: float
    high: float

    def check(self, number: float) -> None:
        """Pass, or raise ValueError."""
        if not self.low <= number <= self.high:
            raise ValueError(f"it must be from {self.low:g} to {self.high:g}")


def parse_duration(text: str) -> Seconds:
    """Seconds from `90`, `90s`, `1.5h`, `7d`; at most ten years."""
    match = re.fullmatch(_DURATION, text.strip())
    if match is None:
        raise ValueError("a duration is wanted: a number of seconds, or with s, m, h or d, such as 30s")
    seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if seconds > DURATION_S_MAX:
        raise ValueError("it is longer than ten years")
    return Seconds(seconds)


def parse_size(text: str) -> Bytes:
    """Bytes from `4096`, `256KiB`, `1.5GiB`, `20MB`; a fraction of a byte is dropped."""
    match = re.fullmatch(_SIZE, text.strip())
    if match is None:
        raise ValueError(
            "a size is wanted: a number of bytes, or with KiB, MiB, GiB, TiB (KB, MB, GB, TB), such as 1MiB"
        )
    unit = (match[2] or "").lower().removesuffix("b")
    base = 1024 if unit.endswith("i") else 1000
    size = int(float(match[1]) * base ** _SIZE_POWERS[unit.removesuffix("i")]) if unit else int(float(match[1]))
    if size >= 1 << 63:
        raise ValueError("it is larger than any disk")
    return Bytes(size)


def parse_share(text: str) -> Share:
    """A part above 0 to 1 from `80%` or `0.8`."""
    stripped = text.strip()
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*(%?)", stripped)
    share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < share <= 1:
        raise ValueError("a share is wanted, above 0% to 100%, such as 80%")
    return Share(share)


def parse_bool(text: str) -> bool:
    """True or false, in the words that YAML 1.1 and shells use."""
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("true or false is wanted") from None


def parse_int(text: str) -> int:
    """A whole number in decimal digits."""
    if not re.fullmatch(r"-?(0|[1-9]\d{0,17})", text.strip()):
        raise ValueError("a whole number is wanted")
    return int(text)


def parse_float(text: str) -> float:
    """A decimal number."""
    if not re.fullmatch(r"-?\d{1,18}(\.\d{1,12})?", text.strip()):
        raise ValueError("a number is wanted")
    return float(text)


def parse_text(text: str) -> str:
    """Any printable text of one line."""
    if len(text) > TEXT_CHARS_MAX:
        raise ValueError(f"it is longer than {TEXT_CHARS_MAX} characters")
    if not text.isprintable():
        raise ValueError("it holds characters that cannot be printed")
    return text


def parse_secret(text: str) -> Secret:
    """Any text that is not empty."""
    if not text or len(text) > TEXT_CHARS_MAX:
        raise ValueError(f"a text of 1 to {TEXT_CHARS_MAX} characters is wanted")
    return Secret(text)


def parse_name(text: str) -> Name:
    """A name of an organisation, region, zone or node; empty is no name."""
    if text and not re.fullmatch(_NAME, text):
        raise ValueError("a name is wanted: letters, digits, `.`, `_`, `-`, at most 64, a letter or digit first")
    return Name(text)


def parse_endpoint(text: str) -> Endpoint:
    """`HOST:PORT`, as written."""
    match = re.fullmatch(_ENDPOINT, text.strip())
    if match is None or int(match[3]) > 65_535:
        raise ValueError("HOST:PORT is wanted, such as 127.0.0.1:4080 or [::1]:4080")
    return Endpoint(text.strip())


def split_endpoint(endpoint: Endpoint) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port."""
    match = re.fullmatch(_ENDPOINT, endpoint)
    if match is None:
        raise ValueError("HOST:PORT is wanted")
    return match[1] or match[2], int(match[3])


def parse_url(text: str) -> Url:
    """An http or https address; one with a user or password in it is refused, because it would be shown."""
    match = re.fullmatch(_URL, text.strip())
    if match is None:
        raise ValueError("an address that begins with https:// or http:// is wanted")
    if match[2] is not None:
        raise ValueError("credentials do not belong in an address; they have keys of their own")
    if match[4] is not None and int(match[4][1:]) > 65_535:
        raise ValueError("a port is at most 65535")
    return Url(text.strip())


def parse_address(text: str) -> Address:
    """A multiaddr, in its canonical form."""
    from rage_net.libp2p.multiaddr import Multiaddr

    return Address(str(Multiaddr.parse(text.strip())))


def parse_peer_address(text: str) -> PeerAddress:
    """A multiaddr that says which peer must answer there, in its canonical form."""
    from rage_net.libp2p.multiaddr import Multiaddr

    address = Multiaddr.parse(text.strip())
    if address.peer_id is None:
        raise ValueError("the address must end in /p2p/<peer id>, else anyone could answer there")
    return PeerAddress(str(address))


def parse_peer_name(text: str) -> PeerName:
    """A peer id, in its base58 form."""
    from rage_net.libp2p.peer_id import PeerId

    return PeerName(str(PeerId.parse(text.strip())))


def parse_comparison(text: str) -> Comparison:
    """A bound from `< 7`, `>= 2.5`, `> 1000/day`; a bare number means equal."""
    match = re.fullmatch(_COMPARISON, text.strip())
    if match is None:
        raise ValueError('a bound is wanted, such as "< 7", "> 1000/day" or {gt: 1000/day}')
    return Comparison(_OPERATORS[match[1]], float(match[2]), _PER[match[3]] if match[3] else None)


PARSERS: Mapping[Any, Callable[[str], Any]] = {
    bool: parse_bool,
    int: parse_int,
    float: parse_float,
    str: parse_text,
    Seconds: parse_duration,
    Bytes: parse_size,
    Share: parse_share,
    Secret: parse_secret,
    Name: parse_name,
    Endpoint: parse_endpoint,
    Url: parse_url,
    Address: parse_address,
    PeerAddress: parse_peer_address,
    PeerName: parse_peer_name,
    Comparison: parse_comparison,
}
"""What reads each kind. Paths are read as text and resolved against the home when everything is known."""


def is_wire_ready(address: str) -> bool:
    """Whether this version can listen on or dial the address: TCP over IP or a DNS name, or the in-memory transport."""
    names = [part for part in address.split("/")[1::2] if part]
    return names[:1] == ["memory"] or ("tcp" in names and not {"ws", "wss", "tls", "p2p-circuit"} & set(names))
