"""contracts/split.md once more, byte by byte and from its text alone: what the fast code is compared with.

Also the contract's generator of inputs. Run as a program it writes the vectors, from this code and not from rage's;
that is done once for a scheme.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from blake3 import blake3

MIB = 1 << 20
VECTORS = Path(__file__).parents[2] / "contracts" / "vectors"
GEAR = [int.from_bytes(hashlib.md5(bytes([b]) * 64).digest()[:8], "big") for b in range(256)]
MASKS = {
    8: 0x0000001800035300,
    9: 0x0000019000353000,
    10: 0x0000590003530000,
    11: 0x0000D90003530000,
    12: 0x0000D90103530000,
    13: 0x0000D90303530000,
    14: 0x0000D90313530000,
    15: 0x0000D90F03530000,
    16: 0x0000D90303537000,
    17: 0x0000D90703537000,
    18: 0x0000D90707537000,
    19: 0x0000D91707537000,
    20: 0x0000D91747537000,
    21: 0x0000D91767537000,
    22: 0x0000D93767537000,
    23: 0x0000D93777537000,
}
SPACED, BARE, CLOSERS = ".!?…؟۔।॥።։", "。．！？｡", "\"')]”’»›」』）》】"
BLANKS, WIDE = " \t", "\u3000"

# The generator of inputs


@functools.cache
def tokens(kind: str) -> list[bytes]:
    first, second, other = {
        "prose": (".\n\n", ". ", " "),
        "lines": (".\n", "\n", ","),
        "crlf": (".\r\n\r\n", "!\r\n", " "),
        "words": (" ", " ", " "),
        "cjk": ("？", "。", "，"),
    }[kind]
    found = []
    for b in range(256):
        q, i = divmod(b, 64)
        if kind == "cjk":
            word = chr(0x4E00 + 37 * i) + chr(0x5000 + 91 * i)
        else:
            word = "".join(chr(97 + n) for n in (i % 26, 7 * i % 26, i // 4)) + (str(i) if i % 2 else "")
        found.append((word + (other if q < 3 or i >= 24 else first if i < 4 else second)).encode())
    return found


def part(description: dict[str, Any]) -> bytes:
    match description:
        case {"hex": digits}:
            return bytes.fromhex(digits)
        case {"text": text}:
            return str(text).encode()
        case {"repeat": text, "size": size}:
            unit = str(text).encode()
            return (unit * (size // len(unit) + 1))[:size]
        case {"random": seed, "size": size}:
            return blake3(seed.encode()).digest(length=size)
        case {"size": size, **rest}:
            ((kind, seed),) = rest.items()
            return b"".join(map(tokens(kind).__getitem__, blake3(seed.encode()).digest(length=size // 3)))[:size]
    raise ValueError(f"no such part: {description}")


def generate(parts: list[dict[str, Any]]) -> bytes:
    return b"".join(map(part, parts))


# The schemes


def cut(data: bytes, low: int, target: int, high: int) -> tuple[str, list[int]]:
    head = data[:MIB]
    divided = len(data) > len(head) and any(well_formed(head[:-n]) and begins(head[-n:]) for n in (1, 2, 3))
    text = well_formed(head) or divided
    name = ("text-1" if text else "cdc-1") + (
        "" if (low, target, high) == (256 << 10, MIB, 4 * MIB) else f"/{low}/{target}/{high}"
    )
    if not data:
        return name, [0]
    lengths, at = [], 0
    while at < len(data):
        rest = data[at : at + high]
        length = text_cut(rest, low, target, high) if text else point(rest, low, target, high)
        text = text and well_formed(rest[:length])
        lengths.append(length)
        at += length
    return name, lengths


def point(rest: bytes, low: int, target: int, limit: int) -> int:
    bits = max(n for n in range(8, 24) if 2 ** (n - 0.5) <= target)
    hard, easy = MASKS[bits + 2], MASKS[bits - 2]
    end = min(len(rest), limit)
    if end <= low:
        return end
    value = 0
    for i in range(low, end & ~1):
        value = ((value << 1) + GEAR[rest[i]]) & (1 << 64) - 1
        if not value & (hard if i < target else easy):
            return i
    return end


def text_cut(rest: bytes, low: int, target: int, high: int) -> int:
    size = target // 32
    p = point(rest, low, target, high - size)
    if p == len(rest):
        return p
    contested = p == high - size
    p = target if contested else p
    window = rest[p : p + size]
    for kind in (paragraph, sentence_line, line, sentence, word):
        ends = boundaries(window, kind)
        if ends and not contested:
            return p + ends[0]
        if ends:
            return p + min((zlib.crc32(window[max(0, e - 64) : e]), -e) for e in ends[-1024:])[1] * -1
    skip = 0
    while skip < min(3, len(window)) and window[skip] >> 6 == 0b10:
        skip += 1
    return p + skip


def boundaries(window: bytes, kind: Any) -> list[int]:
    characters = list(decode(window))
    ends, at = [], 0
    while at < len(characters):
        end = kind(characters, at)
        if end > at:
            ends.append(sum(len(c.encode()) if c else 1 for c in characters[:end]))
        at = max(end, at + 1)
    return ends


def decode(data: bytes) -> Any:
    """Characters; None for a byte that is no part of one."""
    at = 0
    while at < len(data):
        for n in (1, 2, 3, 4):
            if well_formed(data[at : at + n]):
                yield data[at : at + n].decode()
                at += n
                break
        else:
            yield None
            at += 1


def run(characters: list[str | None], at: int, allowed: str) -> int:
    while at < len(characters) and characters[at] and characters[at] in allowed:
        at += 1
    return at


def line(characters: list[str | None], at: int) -> int:
    return at + 1 if characters[at : at + 1] == ["\n"] else at


def rest_of_line(characters: list[str | None], at: int) -> int:
    """After blank* CR? LF from `at`; -1 when that is not what is there."""
    at = run(characters, at, BLANKS)
    if characters[at : at + 1] == ["\r"]:
        at += 1
    return at + 1 if characters[at : at + 1] == ["\n"] else -1


def paragraph(characters: list[str | None], at: int) -> int:
    end = line(characters, at)
    if end == at or (following := rest_of_line(characters, end)) < 0:
        return at
    while following > 0:
        end, following = following, rest_of_line(characters, following)
    return end


def sentence_line(characters: list[str | None], at: int) -> int:
    if (characters[at] or " ") not in SPACED + BARE:
        return at
    return max(at, rest_of_line(characters, run(characters, at + 1, CLOSERS)))


def sentence(characters: list[str | None], at: int) -> int:
    if (characters[at] or " ") not in SPACED + BARE:
        return at
    end = run(characters, at + 1, CLOSERS)
    blanks = run(characters, end, BLANKS + WIDE)
    if characters[at] in list(BARE) or run(characters, end, BLANKS) > end:
        return blanks
    return at


def word(characters: list[str | None], at: int) -> int:
    return run(characters, at, BLANKS + WIDE)


def well_formed(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def begins(tail: bytes) -> bool:
    """Whether some bytes after `tail` make one well-formed character of it."""
    edges = (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)
    more: list[bytes] = [b""]
    for _ in range(3):
        more += [m + bytes([e]) for m in more for e in edges]
    return any(well_formed(tail + m) and len((tail + m).decode()) == 1 for m in set(more) if m)


# The vectors

SMALL = [16384, 65536, 262144]
DEFAULT = [262144, MIB, 4 * MIB]
NOTE = {"text": "A sentence put at the head. "}
PROSE = {"prose": "v9", "size": MIB}
ALMOST = {"repeat": "x", "size": MIB - 2}
CASES: list[tuple[str, list[int], list[dict[str, Any]]]] = [
    ("no bytes", DEFAULT, []),
    ("one byte", DEFAULT, [{"hex": "41"}]),
    ("prose at the default sizes", DEFAULT, [{"prose": "vector 1", "size": 5 * MIB}]),
    ("prose with a sentence at its head", DEFAULT, [NOTE, {"prose": "vector 1", "size": 5 * MIB}]),
    ("random bytes at the default sizes", DEFAULT, [{"random": "vector 2", "size": 6 * MIB}]),
    ("zeros, of the maximum size", DEFAULT, [{"repeat": "\0", "size": 4 * MIB}]),
    ("zeros behind an invalid byte", DEFAULT, [{"hex": "ff"}, {"repeat": "\0", "size": 5 * MIB}]),
    ("prose", SMALL, [{"prose": "vector 3", "size": MIB}]),
    ("lines", SMALL, [{"lines": "vector 4", "size": MIB}]),
    ("CRLF", SMALL, [{"crlf": "vector 5", "size": MIB}]),
    ("words without sentences", SMALL, [{"words": "vector 6", "size": MIB}]),
    ("CJK", SMALL, [{"cjk": "vector 7", "size": MIB + 1}]),
    ("CJK that ends inside a character", SMALL, [{"cjk": "vector 7", "size": MIB - 1}]),
    ("BOM", SMALL, [{"hex": "efbbbf"}, {"prose": "vector 8", "size": 300000}]),
    ("one letter", SMALL, [{"repeat": "a", "size": 1000003}]),
    ("one CJK letter", SMALL, [{"text": "x"}, {"repeat": "字", "size": 999999}]),
    ("one sentence", SMALL, [{"repeat": "The same again. ", "size": 1000000}]),
    ("short lines", SMALL, [{"repeat": "y\n", "size": 1000000}]),
    (
        "an invalid byte after the first MiB",
        SMALL,
        [PROSE, {"text": "a"}, {"hex": "ff"}, {"prose": "v9b", "size": MIB}],
    ),
    ("an invalid byte in the first MiB", SMALL, [{"hex": "ff"}, PROSE]),
    ("the first MiB ends inside a character", SMALL, [ALMOST, {"cjk": "va", "size": 600000}]),
    ("a surrogate across the MiB mark", SMALL, [ALMOST, {"hex": "eda080"}, {"cjk": "va", "size": 99999}]),
    ("random bytes", SMALL, [{"random": "vector b", "size": MIB + 1}]),
]


def root_of(data: bytes, split: str, lengths: list[int]) -> str:
    chunks, at = [], 0
    for length in lengths:
        chunks.append(data[at : at + length])
        at += length
    if len(chunks) == 1:
        return cid(0x55, data)
    return cid(0x71, manifest(split, [(blake3(chunk).digest(), len(chunk)) for chunk in chunks]))


def uint(number: int, major: int = 0) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    n = next(n for n in range(4) if number < 1 << (8 << n))
    return bytes([major << 5 | 24 + n]) + number.to_bytes(1 << n, "big")


def manifest(split: str, links: list[tuple[bytes, int]], level: int = 1, v: int = 1) -> bytes:
    codec = 0x55 if level == 1 else 0x71
    rows = [b"\x82\xd8\x2a\x58\x25\0\1" + bytes([codec]) + b"\x1e\x20" + digest + uint(n) for digest, n in links]
    size = uint(sum(n for _, n in links))
    head = b"\xa5\x61v" + uint(v) + b"\x64size" + size + b"\x65level" + uint(level) + b"\x65links" + uint(len(links), 4)
    return head + b"".join(rows) + b"\x65split" + uint(len(split), 3) + split.encode()


def link(k: int) -> bytes:
    return blake3(k.to_bytes(4, "little")).digest()


def manifests() -> dict[str, Any]:
    """Blocks that are right, blocks that are wrong in one thing each, and documents too large to print."""
    name, two = "text-1", [(link(0), 300000), (link(1), 23)]
    good = manifest(name, two)
    cbor = {
        "an unknown key": b"\xa6" + good[1:] + b"\x66xtrace\0",
        "a missing key": b"\xa4" + good[1 : good.index(b"\x65split")],
        "version 2": manifest(name, two, v=2),
        "level 0": manifest(name, two, level=0),
        "level 3": manifest(name, two, level=3),
        "no links": manifest(name, []),
        "an empty chunk": manifest(name, [*two, (link(2), 0)]),
        "a chunk over 4 MiB": manifest(name, [*two, (link(2), 4 * MIB + 1)]),
        "a size that lies": good.replace(b"\x1a\x00\x04\x93\xf7", b"\x1a\x00\x04\x93\xf8"),
        "a level 1 that links a manifest": good.replace(b"\x01\x55\x1e", b"\x01\x71\x1e", 1),
        "a level 2 that links chunks": good.replace(b"\x65level\x01", b"\x65level\x02"),
        "a level 2 of one link": manifest(name, two[:1], level=2),
        "a level 2 of 65 links": manifest(name, [(link(k), 1) for k in range(65)], level=2),
        "a byte string for a link": good.replace(b"\xd8\x2a\x58\x25\0", b"\x58\x24", 1),
        "a link by SHA-256": good.replace(b"\x55\x1e\x20", b"\x55\x12\x20", 1),
        "an integer longer than needed": good.replace(b"\x17\x65split", b"\x18\x17\x65split"),
        "a size as a float": good.replace(b"\x1a\x00\x04\x93\xe0", b"\xfa\x48\x92\x7c\x00", 1),
        "a list of undefined length": good.replace(b"\x65links\x82", b"\x65links\x9f").replace(
            b"\x65sp", b"\xff\x65sp"
        ),
        "fewer links than said": good.replace(b"\x65links\x82", b"\x65links\x83"),
        "more links than said": good.replace(b"\x65links\x82", b"\x65links\x81"),
        "keys in another order": b"\xa5" + good[good.index(b"\x64size") :] + good[1 : good.index(b"\x64size")],
        "a byte behind the end": good + b"\0",
        "cut short": good[:-1],
        "a split that is no name": manifest("Text One", two),
        "a split that is too long": manifest("text-1/12345678/12345678/12345678".replace("text", "texttexttext"), two),
        "no CBOR": b"rage",
        "nothing": b"",
    }
    valid = []
    for level, links in (
        (1, two),
        (1, two[:1]),
        (1, [(link(0), 4 * MIB)] * 30),
        (2, [(link(7), 65536 * 9), (link(8), 5)]),
    ):
        block = manifest("text-1/16384/65536/262144" if level == 1 else "cdc-1", links, level)
        rows = [{"digest": digest.hex(), "size": size} for digest, size in links]
        valid.append({"block": block.hex(), "cid": cid(0x71, block), "level": level, "links": rows})
    large = []
    for count in (65535, 65536, 65537, 131072, 131073):
        links = [(link(k), 7) for k in range(count)]
        groups = [links[at : at + 65536] for at in range(0, count, 65536)]
        blocks = [manifest(name, group) for group in groups]
        if len(groups) > 1:
            blocks.append(
                manifest(name, [(blake3(b).digest(), 7 * len(g)) for b, g in zip(blocks, groups, strict=True)], 2)
            )
        large.append(
            {"chunks": count, "size": 7, "split": name, "root": cid(0x71, blocks[-1]), "manifests": len(blocks)}
        )
    invalid = [{"why": why, "block": block.hex()} for why, block in cbor.items()]
    return {"valid": valid, "invalid": invalid, "large": large}


def cid(codec: int, block: bytes) -> str:
    return cid_text(bytes((1, codec, 0x1E, 32)) + blake3(block).digest())


def cid_text(raw: bytes) -> str:
    return "b" + base64.b32encode(raw).decode().lower().rstrip("=")


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def car(roots: list[bytes], sections: list[tuple[bytes, bytes]]) -> bytes:
    tags = b"".join(b"\xd8\x2a" + uint(len(root) + 1, 2) + b"\0" + root for root in roots)
    header = b"\xa2\x65roots" + uint(len(roots), 4) + tags + b"\x67version\x01"
    return b"".join(varint(len(part)) + part for part in [header, *(address + data for address, data in sections)])


def cars() -> list[dict[str, Any]]:
    chunks = [b"first chunk", b"second"]
    ours = [bytes((1, 0x55, 0x1E, 32)) + blake3(chunk).digest() for chunk in chunks]
    block = manifest("cdc-1", [(address[4:], len(chunk)) for address, chunk in zip(ours, chunks, strict=True)])
    root = bytes((1, 0x71, 0x1E, 32)) + blake3(block).digest()
    sha = hashlib.sha256(b"foreign").digest()
    foreign = [
        (b"\x01\x55\x12\x20" + sha, b"foreign"),
        (b"\x12\x20" + sha, b"foreign"),
        (b"\x01\x70\x1e\x20" + blake3(b"pb").digest(), b"pb"),
        (b"\x01\x55\x00\x02hi", b"hi"),
    ]
    ownership = [(root, block), *zip(ours, chunks, strict=True)]
    plain = car([root], ownership)
    mixed = car([foreign[1][0], root], [*foreign[:2], *ownership[:2], *foreign[2:], ownership[2]])
    v2 = bytes.fromhex("0aa16776657273696f6e02") + bytes(16)
    v2 += b"".join(n.to_bytes(8, "little") for n in (64, len(plain), 64 + len(plain))) + bytes(13) + plain + b"index"
    kept = [cid_text(address) for address, _ in ownership]
    return [
        {"name": "a document of two chunks", "car": plain.hex(), "roots": kept[:1], "kept": kept, "skipped": 0},
        {"name": "beside foreign blocks", "car": mixed.hex(), "roots": kept[:1], "kept": kept, "skipped": 4},
        {"name": "version 2 with padding and index", "car": v2.hex(), "roots": kept[:1], "kept": kept, "skipped": 0},
        {"name": "no roots and no blocks", "car": car([], []).hex(), "roots": [], "kept": [], "skipped": 0},
    ]


def main() -> None:
    cases = []
    for name, sizes, parts in CASES:
        data = generate(parts)
        split, lengths = cut(data, *sizes)
        root = root_of(data, split, lengths)
        cases.append({"name": name, "sizes": sizes, "input": parts, "split": split, "lengths": lengths, "root": root})
    (VECTORS / "split.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")
    (VECTORS / "manifest.json").write_text(json.dumps(manifests(), indent=1) + "\n")
    (VECTORS / "car.json").write_text(json.dumps(cars(), indent=1) + "\n")


if __name__ == "__main__":
    main()
