"""multistream-select 1.0: two ends of a fresh channel agree on a protocol. Sans-I/O: bytes in, bytes and a choice out.

The `Initiator` proposes, the `Responder` picks. Each message is a varint length, a name, a line feed. An initiator with
one proposal need not wait: its names and its first bytes may leave together ("lazy"), and the answer is checked when it
comes. Whatever follows the agreement belongs to the protocol agreed on and is handed over untouched. `ls` is answered
with "na", as the specification allows: identify is the place to ask what a peer speaks.
Source: multiformats/multistream-select, libp2p/specs connections.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rage_net.libp2p import varint
from rage_net.libp2p.errors import LocalProtocolError, NegotiationError, RemoteProtocolError

MULTISTREAM = "/multistream/1.0.0"
MESSAGE_BYTES_MAX = 1024
"""Of one message with its line feed; names in use have under 60."""
PROPOSALS_MAX = 64
"""Names one initiator may try before the responder gives up on it."""

_NA = "na"
_LS = "ls"


@dataclass(frozen=True, slots=True)
class Selected:
    """The ends agree on `protocol`; `rest` are bytes of it that came along."""

    protocol: str
    rest: bytes


@functools.lru_cache(maxsize=256)  # the names a node speaks, once for each stream
def encode_message(name: str) -> bytes:
    """One message on the wire. Raises ValueError for a name that is empty, too long or holds a line feed."""
    body = name.encode("utf-8") + b"\n"
    if len(body) == 1 or len(body) > MESSAGE_BYTES_MAX or b"\n" in body[:-1]:
        raise ValueError(f"{name[:80]!r} is no protocol id")
    return varint.encode(len(body)) + body


class _Negotiation:
    """What both ends share: the reader of messages, the queue of bytes to send, and the end."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._out = bytearray(_HEADER)
        self._greeted = False
        self._over = False

    def data_to_send(self) -> bytes:
        """The bytes that are due now; call after creation and after each `receive`."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def receive(self, data: varint.Buffer) -> Selected | None:
        """Take bytes from the peer; None until there is an agreement, after which it takes no more.

        Raises: RemoteProtocolError for a message that is malformed, too long or out of place; NegotiationError when no
            proposal is left; LocalProtocolError when called after the end.
        """
        if self._over:
            raise LocalProtocolError("the negotiation is over; its bytes belong to the protocol")
        self._unread += data
        selected = None
        try:
            while selected is None and (name := self._read_message()) is not None:
                if self._greeted:
                    selected = self._take(name)
                elif name == MULTISTREAM:
                    self._greeted = True
                else:
                    raise RemoteProtocolError(f"a peer opens with {name[:80]!r} instead of {MULTISTREAM}")
        except Exception:
            self._over = True
            raise
        if selected is None:
            return None
        self._over = True
        return Selected(selected, bytes(self._unread))

    def _read_message(self) -> str | None:
        head = varint.decode(self._unread, maximum=MESSAGE_BYTES_MAX)
        if head is None:
            return None
        size, start = head
        if len(self._unread) < start + size:
            return None
        body = bytes(self._unread[start : start + size])
        del self._unread[: start + size]
        if not body.endswith(b"\n"):
            raise RemoteProtocolError("a multistream message does not end with a line feed")
        try:
            return body[:-1].decode("utf-8")
        except UnicodeDecodeError:
            raise RemoteProtocolError("a protocol id is no UTF-8") from None

    def _take(self, name: str) -> str | None:
        raise NotImplementedError


class Initiator(_Negotiation):
    """The end that opened the channel. Proposes `protocols` in order until one is taken.

    `initial` are the first bytes of the protocol itself, sent along with the names; they need a single proposal, since
    with several nobody knows yet what they would mean.
    """

    def __init__(self, protocols: Sequence[str], initial: bytes = b"") -> None:
        if not protocols or (initial and len(protocols) > 1):
            raise LocalProtocolError("an initiator proposes at least one protocol, and exactly one with early bytes")
        super().__init__()
        self._left = list(protocols)
        self._out += encode_message(protocols[0]) + initial

    def _take(self, name: str) -> str | None:
        if name == self._left[0]:
            return name
        if name != _NA:
            raise RemoteProtocolError(f"a peer answers {self._left[0]!r} with {name[:80]!r}")
        refused = self._left.pop(0)
        if not self._left:
            raise NegotiationError(f"the peer does not speak {refused}")
        self._out += encode_message(self._left[0])
        return None


class Responder(_Negotiation):
    """The end that was reached. Takes the first proposal in `protocols`: a collection, or a function that says yes."""

    def __init__(self, protocols: Collection[str] | Callable[[str], bool]) -> None:
        super().__init__()
        self._speaks = protocols if callable(protocols) else protocols.__contains__
        self._tries = 0

    def _take(self, name: str) -> str | None:
        if name != _LS and self._speaks(name):
            self._out += encode_message(name)
            return name
        self._tries += 1
        if self._tries > PROPOSALS_MAX:
            raise RemoteProtocolError(f"a peer proposes more than {PROPOSALS_MAX} protocols")
        self._out += _NA_MESSAGE
        return None


_HEADER = encode_message(MULTISTREAM)
_NA_MESSAGE = encode_message(_NA)
