"""yamux frames: numbers and the header. Not here: what a frame does to a stream (`session`)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

PROTOCOL_ID = "/yamux/1.0.0"
HEADER_BYTES = 12
WINDOW_BYTES_INITIAL = 256 * 1024
"""Every stream's first window, fixed by the specification."""
SEND_WINDOW_BYTES_MAX = 2**32 - 1
"""A peer that grants more breaks the protocol: no counter of it would be right."""


class Type(IntEnum):
    """Frame types."""

    DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)


class Flag(IntFlag):
    """Frame flags."""

    SYN, ACK, FIN, RST = 1, 2, 4, 8


class Reason(IntEnum):
    """Why a session goes away."""

    NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR = range(3)


# As plain integers: members of an enumeration cost a descriptor call and slow arithmetic in the loop below.
DATA, WINDOW_UPDATE, PING, GO_AWAY = (int(kind) for kind in Type)
SYN, ACK, FIN, RST = (int(flag) for flag in Flag)

header = struct.Struct(">BBHII")
pack = header.pack
