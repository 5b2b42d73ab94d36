"""Documents to measure with: always the same bytes, made in seconds.

The prose is Zipf-distributed made-up words in sentences and paragraphs: zstd-3 shrinks it 3 to 1, as it does English.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

MIB = 1 << 20
BLOCK_BYTES = 8 * MIB
WORDS = 20_000


def write_text(path: Path, size: int) -> None:
    """`size` bytes of prose."""
    _write(path, _blocks(_prose, size))


def write_random(path: Path, size: int) -> None:
    """`size` bytes that nothing compresses."""
    _write(path, _blocks(_noise, size))


def write_half_and_half(path: Path, size: int) -> None:
    """Prose, then as many random bytes."""
    _write(path, itertools.chain(_blocks(_prose, size // 2), _blocks(_noise, size - size // 2)))


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    with path.open("wb") as out:
        for block in blocks:
            out.write(block)


def _blocks(make: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    count = -(-size // BLOCK_BYTES)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for number, block in enumerate(pool.map(make, range(count))):
            yield block[: size - number * BLOCK_BYTES]


def _noise(number: int) -> bytes:
    return random.Random(f"noise {number}").randbytes(BLOCK_BYTES)


def _prose(number: int) -> bytes:
    rng = random.Random("words")
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 11))) for _ in range(WORDS)]
    shares = list(itertools.accumulate(1 / rank for rank in range(1, WORDS + 1)))
    rng = random.Random(f"prose {number}")
    out = bytearray()
    while len(out) < BLOCK_BYTES:
        stream = iter(rng.choices(words, cum_weights=shares, k=60_000))
        at = 0
        while sentence := b" ".join(itertools.islice(stream, rng.randint(5, 25))):
            at += 1
            out += sentence.capitalize() + (b". " if at % 5 else b".\n\n")
    return bytes(out[:BLOCK_BYTES])
