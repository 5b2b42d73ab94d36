from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import split_reference as reference
from hypothesis import given
from hypothesis import strategies as st

from rage_net.chunk.manifest import ManifestBuilder
from rage_net.chunk.split import DEFAULT_SIZES, PROBE_BYTES, WINDOW_SHARE, Sizes, Splitter
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.errors import ConfigError

MIB = 1 << 20
SMALL = Sizes(1024, 4096, 16384)
TINY = Sizes(1024, 1024, 2048)
VECTORS = json.loads((reference.VECTORS / "split.json").read_text())


def cut(data: bytes, sizes: Sizes = DEFAULT_SIZES) -> tuple[str, list[int]]:
    splitter = Splitter(sizes)
    lengths = splitter.cuts(memoryview(data), True)
    return splitter.scheme, lengths


def cut_in_steps(data: bytes, sizes: Sizes, steps: Iterable[int]) -> tuple[str, list[int]]:
    """As a reader does it: bytes come in pieces of `steps`, what is left over is carried to the next view."""
    splitter, lengths, rest, at = Splitter(sizes), [], b"", 0
    for step in steps:
        rest, at = rest + data[at : at + step], at + step
        found = splitter.cuts(memoryview(rest), False)
        lengths += found
        rest = rest[sum(found) :]
        assert len(rest) < splitter.lookahead
    rest += data[at:]
    lengths += splitter.cuts(memoryview(rest), True)
    return splitter.scheme, lengths


def chunks(data: bytes, sizes: Sizes = DEFAULT_SIZES) -> list[bytes]:
    found, at = [], 0
    for length in cut(data, sizes)[1]:
        found.append(data[at : at + length])
        at += length
    assert b"".join(found) == data
    return found


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_cuts_and_roots_are_those_of_the_contract(vector: dict) -> None:
    data, sizes = reference.generate(vector["input"]), Sizes(*vector["sizes"])
    scheme, lengths = cut(data, sizes)
    assert (scheme, lengths) == (vector["split"], vector["lengths"])
    builder, at = ManifestBuilder(scheme), 0
    for length in lengths:
        builder.add(Cid.of(data[at : at + length]), length)
        at += length
    assert str(builder.finish()[0]) == vector["root"]


# Pieces that meet every rule of the contract, and bytes that break UTF-8.
PIECES = (
    "word word ", "one, two; three", "End. ", 'Said "so." ', "What?! ", "3.14 ", "。", "！」", "字字字",
    "\n", "\r\n", "\n\n", "\r\n \r\n", "\n \t\n", ".\n", ".\r\n", ".)  \r\n", "…", "… ", "aaaaaaaaaaaaaaaa", "؟ ",
    "\r", "\0", "é", "𝄞", "\u3000",
)  # fmt: skip
BROKEN = (b"\xff", b"\xe3\x80", b"\xe3", b"\x80", b"\xf0\x9d\x84", b"\xed\xa0\x80", b"\xc0\x80")


def mixture(seed: int, size: int, few: int, broken: float) -> bytes:
    """Seeded text of at least `size` bytes out of `few` kinds of pieces; each piece is broken with the chance given."""
    rng = random.Random(seed)
    kinds = [piece.encode() for piece in rng.sample(PIECES, few)]
    out = bytearray()
    while len(out) < size:
        out += rng.choice(BROKEN) if rng.random() < broken else rng.choice(kinds)
        if rng.random() < 0.01:
            out += bytes(rng.choice(kinds)) * rng.randint(1, 400)
    return bytes(out)


@given(st.integers(0, 2**32), st.integers(0, 60_000), st.integers(1, len(PIECES)), st.sampled_from([0, 0, 1e-4, 0.02]))
def test_the_fast_code_cuts_as_the_contract_reads(seed: int, size: int, few: int, broken: float) -> None:
    data = mixture(seed, size, few, broken)
    for sizes in (SMALL, TINY):
        assert cut(data, sizes) == reference.cut(data, sizes.min_size, sizes.target_size, sizes.max_size)


@pytest.mark.parametrize("broken", [0, 1e-5])
@pytest.mark.parametrize("few", [2, len(PIECES)])
def test_beyond_the_first_mib_the_fast_code_cuts_as_the_contract_reads(
    few: int, broken: float, rng: random.Random
) -> None:
    data = b"first " * (PROBE_BYTES // 6) + mixture(rng.getrandbits(32), 400_000, few, broken)
    sizes = Sizes(4096, 65536, 131072)
    assert cut(data, sizes) == reference.cut(data, 4096, 65536, 131072)


@given(st.integers(0, 2**32), st.sampled_from([0, 1e-4]), st.lists(st.integers(1, 400_000), max_size=8), st.booleans())
def test_cuts_do_not_depend_on_how_the_bytes_come(seed: int, broken: float, steps: list[int], text: bool) -> None:
    data = mixture(seed, 1_300_000, 12, broken) if text else random.Random(seed).randbytes(1_300_000)
    sizes = Sizes(16384, 65536, 131072)
    assert cut_in_steps(data, sizes, steps)[1] == cut(data, sizes)[1]


def test_single_bytes_give_the_same_cuts(rng: random.Random) -> None:
    data = ("字。" * 200_000).encode()[: PROBE_BYTES + 3000]
    steps = [PROBE_BYTES - 2, *[1] * 2000]  # the MiB mark divides a character
    assert cut_in_steps(data, SMALL, steps)[1] == cut(data, SMALL)[1]


def test_buffers_can_be_reused_between_calls(rng: random.Random) -> None:
    data = mixture(rng.getrandbits(32), 3_000_000, len(PIECES), 0)
    sizes = Sizes(16384, 65536, 262144)
    buffer, splitter, lengths, at, rest = memoryview(bytearray(2 * MIB)), Splitter(sizes), [], 0, 0
    while True:
        fresh = data[at : at + len(buffer) - rest]
        at += len(fresh)
        buffer[rest : rest + len(fresh)] = fresh
        filled = rest + len(fresh)
        found = splitter.cuts(buffer[:filled], at == len(data))
        lengths += found
        done = sum(found)
        rest = filled - done
        buffer[:rest] = bytes(buffer[done:filled])
        buffer[rest:] = bytes(len(buffer) - rest)
        if at == len(data):
            break
    assert lengths == cut(data, sizes)[1]


def prose(rng: random.Random, size: int, sentence: Callable[[], str], mark: Callable[[], str]) -> bytes:
    """Text of `size` bytes that does not repeat: sentences drawn from a few thousand, marks between them."""
    pool = [sentence().encode() for _ in range(4000)]
    out, length = [], 0
    while length < size:
        out += (rng.choice(pool), mark().encode())
        length += len(out[-1]) + len(out[-2])
    return b"".join(out)


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(1, 9))) for _ in range(count))


def sentence(rng: random.Random) -> str:
    return words(rng, rng.randint(4, 60)).capitalize()


def cjk(rng: random.Random) -> str:
    return "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(20, 120)))


def row(rng: random.Random) -> str:
    return f"{rng.getrandbits(40)},{words(rng, 3)},{rng.random()},2024-03-01T10:00:{rng.random()}Z INFO {words(rng, 9)}"


def repeat(unit: bytes, size: int) -> bytes:
    return unit * (size // len(unit) + 1)


TEXTS: dict[str, Callable[[random.Random, int], bytes]] = {
    "prose": lambda rng, size: prose(rng, size, lambda: sentence(rng), lambda: rng.choice((". ", "? ", ".\n\n"))),
    "wrapped": lambda rng, size: prose(rng, size, lambda: words(rng, 12), lambda: rng.choice(("\n", "\n", ".\n"))),
    "markdown": lambda rng, size: prose(
        rng, size, lambda: sentence(rng), lambda: rng.choice((".\n\n## Head\n\n", ".\n- ", ". "))
    ),
    "csv and logs": lambda rng, size: prose(rng, size, lambda: row(rng), lambda: f",{rng.getrandbits(16)}\n"),
    "no sentence ends": lambda rng, size: prose(rng, size, lambda: words(rng, 40), lambda: " "),
    "no blanks": lambda rng, size: prose(rng, size, lambda: rng.randbytes(90).hex(), lambda: ""),
    "CJK": lambda rng, size: prose(rng, size, lambda: cjk(rng), lambda: rng.choice("。！？")),
    "CRLF": lambda rng, size: prose(rng, size, lambda: sentence(rng), lambda: rng.choice((".\r\n", ".\r\n\r\n"))),
    "numbered lines": lambda rng, size: b"".join(
        b"Line %d: the quick brown fox jumps over it.\n" % n for n in range(size // 44)
    ),
    "one paragraph again and again": lambda rng, size: repeat((sentence(rng) + ".\n\n").encode(), size),
    "a page again and again": lambda rng, size: repeat(
        prose(rng, 9000, lambda: sentence(rng), lambda: rng.choice((". ", ".\n\n"))), size
    ),
    "one letter": lambda rng, size: b"a" * size,
    "binary": lambda rng, size: rng.randbytes(size),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_sentence_at_the_head_of_50_mib_leaves_95_percent_of_the_chunks(kind: str) -> None:
    old = TEXTS[kind](random.Random(f"50 MiB of {kind}"), 50 * MIB)[: 50 * MIB]
    before = Counter(map(Cid.of, chunks(old)))
    new = b"This sentence is new, and stands before all the others. " + old
    if kind == "binary":
        new = b"\xff" + new
    after = Counter(map(Cid.of, chunks(new)))
    assert (before & after).total() >= 0.95 * before.total()


@pytest.mark.parametrize("kind", TEXTS)
def test_an_edit_anywhere_is_forgotten_within_a_few_chunks(kind: str) -> None:
    rng = random.Random(f"an edit of {kind}")  # always the same: how long it takes has a long tail
    sizes = Sizes(4096, 16384, 65536)
    old = TEXTS[kind](rng, 4 * MIB)
    before = Counter(chunks(old, sizes))
    at = rng.randrange(MIB, len(old) - MIB)
    while kind != "binary" and old[at] & 0xC0 == 0x80:
        at += 1
    for new in (old[:at] + b"an edit" + old[at:], old[:at] + old[at + 300 - 300 % 3 :], old[: len(old) // 2]):
        if kind != "binary":
            new = new.decode("utf-8", "ignore").encode()
        fresh = (Counter(chunks(new, sizes)) - before).total()
        assert fresh <= 6, f"{fresh} new chunks"


@pytest.mark.parametrize("kind", TEXTS)
def test_chunks_keep_the_bounds_and_characters_stay_whole(kind: str, rng: random.Random) -> None:
    for sizes in (SMALL, Sizes(16384, 65536, 131072)):
        data = TEXTS[kind](rng, MIB)
        if kind != "binary":
            data = data.decode("utf-8", "ignore").encode()
        scheme, _ = cut(data, sizes)
        found = chunks(data, sizes)
        assert scheme.startswith("cdc-1/" if kind == "binary" else "text-1/")
        assert all(sizes.min_size <= len(chunk) <= sizes.max_size for chunk in found[:-1])
        assert 0 < len(found[-1]) <= sizes.max_size
        if kind != "binary":
            for chunk in found:
                chunk.decode("utf-8")


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("prose", (b"\n\n", b". ", b"? ")),
        ("markdown", (b"\n\n",)),
        ("csv and logs", (b"\n",)),
        ("wrapped", (b".\n",)),
        ("no sentence ends", (b" ",)),
        ("CJK", tuple(c.encode() for c in "。！？")),
        ("CRLF", (b"\r\n\r\n",)),
    ],
)
def test_text_is_cut_at_the_best_end_there_is(kind: str, ends: tuple[bytes, ...], rng: random.Random) -> None:
    for chunk in chunks(TEXTS[kind](rng, 6 * MIB))[:-1]:
        assert chunk.endswith(ends)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("He said 3.14 is pi. ", "pi. "),
        ('"Stop it!" she said to all of them', '"Stop it!" '),
        ("（说。）然后走了走了走了", "。）"),
        ("你好。　再见再见再见再见", "。\u3000"),
        ("who? me and you and them", "who? "),
    ],
)
def test_a_sentence_ends_behind_its_quotes_and_blanks(text: str, end: str) -> None:
    unit = text.encode()
    for chunk in chunks(unit * (3 * 65536 // len(unit)), Sizes(16384, 32768, 65536))[:-1]:
        assert chunk.endswith(end.encode())


@pytest.mark.parametrize(
    ("data", "scheme", "lengths"),
    [
        (b"", "text-1", [0]),
        (b"x", "text-1", [1]),
        (b"\xff", "cdc-1", [1]),
        (b"\xef\xbb\xbf", "text-1", [3]),
        (b"ends in \xe5\xad", "cdc-1", [10]),
        (b"a" * (256 << 10), "text-1", [256 << 10]),
        (b"\xff" + bytes(4 * MIB - 1), "cdc-1", [4 * MIB]),
        (b"\xff" + bytes(4 * MIB), "cdc-1", [4 * MIB, 1]),
    ],
)
def test_the_edges(data: bytes, scheme: str, lengths: list[int]) -> None:
    assert cut(data) == (scheme, lengths)


def test_the_mark_at_one_mib_divides_only_what_could_be_a_character() -> None:
    tails = [bytes((lead,)) for lead in range(256)]
    tails += [
        bytes((lead, second)) for lead in range(0xC0, 256) for second in (0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)
    ]
    tails += [tail + b"\xbf" for tail in tails[256:]]
    padding = b"x" * PROBE_BYTES
    for tail in tails:
        data = padding[len(tail) :] + tail + b"rest"
        expected = any(reference.well_formed(tail[:n]) and reference.begins(tail[n:]) for n in range(len(tail)))
        expected = expected or reference.well_formed(tail)
        splitter = Splitter(Sizes(MIB // 2, MIB, 4 * MIB))
        splitter.cuts(memoryview(data), True)
        assert splitter.scheme.startswith("text-1") == expected, tail.hex()


def test_an_end_just_after_a_cut_adds_no_chunk() -> None:
    splitter = Splitter(TINY)
    data = memoryview(b"x" * PROBE_BYTES)
    lengths = splitter.cuts(data, False)
    assert lengths
    lengths += splitter.cuts(data[sum(lengths) :], True)
    assert sum(lengths) == PROBE_BYTES and lengths[-1] > 0
    for at_end in (False, True):
        with pytest.raises(ValueError, match="ended"):
            splitter.cuts(memoryview(b""), at_end)
    splitter = Splitter(TINY)
    assert splitter.cuts(memoryview(b"\xff" + b"x" * (PROBE_BYTES - 1)), False)
    assert splitter.cuts(memoryview(b""), False) == []
    assert splitter.cuts(memoryview(b""), True) == []


def test_an_invalid_byte_switches_to_binary_at_the_next_cut(rng: random.Random) -> None:
    sizes = Sizes(16384, 65536, 131072)
    text = TEXTS["prose"](rng, 3 * MIB)
    binary = rng.randbytes(MIB)
    at = 2 * MIB
    mixed = text[:at] + b"\xff" + text[at + 1 :] + binary
    scheme, lengths = cut(mixed, sizes)
    clean = cut(text, sizes)[1]
    assert scheme == "text-1/16384/65536/131072"
    start, last = 0, 0
    while start <= at:
        start += lengths[last]
        last += 1
    assert lengths[: last - 1] == clean[: last - 1]
    rest = mixed[start:]
    behind = Splitter(sizes)
    behind.scheme = "cdc-1"  # what follows is cut as if it had always been binary
    assert lengths[last:] == behind.cuts(memoryview(rest), True)


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 1024, 2048),
        (1024, 512, 2048),
        (1025, 4096, 16384),
        (2048, 1024, 4096),
        (1024, 4096, 4096),
        (1024, 4096, 2 * BLOCK_BYTES_MAX),
        (2 << 20, 2 << 20, 4 << 20),
        (-1024, 4096, 16384),
    ],
)
def test_sizes_that_cannot_be_kept_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=str(sizes[2])):
        Sizes(*sizes)


@pytest.mark.parametrize(
    "sizes", [(1024, 1024, 2048), (1 << 20, 2 << 20, 4 << 20), (1024, 2 << 20, 4 << 20), (3072, 5120, 11264)]
)
def test_sizes_at_the_edges_work(sizes: tuple[int, int, int], rng: random.Random) -> None:
    for data in (mixture(7, 5 * MIB, 20, 0), rng.randbytes(5 * MIB)):
        found = chunks(data, Sizes(*sizes))
        assert all(sizes[0] <= len(chunk) <= sizes[2] for chunk in found[:-1])


def test_the_window_holds_a_whole_character_at_every_size() -> None:
    assert TINY.target_size // WINDOW_SHARE >= 4
