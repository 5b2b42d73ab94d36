"""Unsigned varints: the lengths and codes of every libp2p format. Not here: protobuf's own, signed or padded ones.

Seven bits a byte, least significant first; the shortest form is the only one. Source: multiformats/unsigned-varint.
"""

from __future__ import annotations

from rage_net.libp2p.errors import RemoteProtocolError

VARINT_BYTES_MAX = 9
"""63 bits: the specification's own bound."""
VARINT_MAX = (1 << 63) - 1

Buffer = bytes | bytearray | memoryview


def encode(number: int) -> bytes:
    """The varint of `number`, 0 to `VARINT_MAX`. Raises ValueError outside that range."""
    if not 0 <= number <= VARINT_MAX:
        raise ValueError(f"a varint holds 0 to 2^63 - 1, not {number}")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(data: Buffer, offset: int = 0, *, maximum: int = VARINT_MAX) -> tuple[int, int] | None:
    """Read one varint at `offset`.

    Returns: the number and the offset behind it; None when `data` ends inside it, so that a caller may wait for more.
    Raises: RemoteProtocolError when it is longer than it must be or more than `maximum` (at most `VARINT_MAX`), as soon
        as the bytes seen so far prove it.
    """
    number = shift = 0
    for position in range(offset, min(len(data), offset + VARINT_BYTES_MAX)):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if number > maximum:
            raise RemoteProtocolError(f"a varint is more than its limit, {maximum}")
        if byte < 0x80:
            if byte == 0 and position > offset:
                raise RemoteProtocolError("a varint is not in its shortest form")
            return number, position + 1
        shift += 7
        if 1 << shift > maximum:  # any further bit is too much, and a zero would be padding
            raise RemoteProtocolError(f"a varint is more than its limit, {maximum}")
    return None
