"""One stream of js-libp2p and of py-libp2p: two processes each, loopback TCP, Noise, yamux; alternating runs, medians.

    python -m bench.foreign_stream [--rounds 5] [--mib 256] [--json]

What rage's own stream (bench/stream.py) is compared with. Installs the peers itself (scripts/foreign-peers.sh).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "tests/foreign/.peers"
WARM_UP_BYTES = 64 << 20
"""JavaScript is compiled as it runs; the first stream is not counted."""


def install() -> None:
    """Bring js-libp2p, py-libp2p and Node into `PEERS`; at once when they are there."""
    subprocess.run(["sh", ROOT / "scripts/foreign-peers.sh", PEERS, sys.executable], check=True)


def command(program: str, *arguments: str) -> tuple[list[str], Path]:
    """How to run a peer's program, and where: a module given as text finds its packages from the working directory."""
    here = Path(__file__).parent / "peers"
    if program == "py-libp2p":
        return [str(PEERS / "py/bin/python"), str(here / "py_stream.py"), *arguments], PEERS
    source = (here / "js_stream.mjs").read_text()
    return [str(PEERS / "node"), "--input-type=module", "-e", source, "--", *arguments], PEERS / "js"


@contextlib.contextmanager
def start(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends when its standard input does."""
    argv, cwd = command(program, *arguments)
    with subprocess.Popen(argv, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str = "") -> str:
    """Send a line, if any, and give the next one that comes back."""
    assert process.stdin is not None
    assert process.stdout is not None
    if line:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"{process.args!r:.80} ended with {process.wait()}")
    return answer.strip()


@contextlib.contextmanager
def pair(program: str) -> Iterator[subprocess.Popen[str]]:
    """A client joined to a server of the same program, warmed up: each "BYTES" it is asked for gives MB/s."""
    with start(program, "serve") as server, start(program, "measure", ask(server)) as client:
        ask(client, str(WARM_UP_BYTES))
        yield client


def measure(rounds: int, mib: int) -> dict[str, list[float]]:
    """MB/s (10^6 bytes) of each run, by program, the programs taking turns."""
    rates: dict[str, list[float]] = {"js-libp2p": [], "py-libp2p": []}
    with contextlib.ExitStack() as stack:
        clients = {program: stack.enter_context(pair(program)) for program in rates}
        for _ in range(rounds):
            for program, client in clients.items():
                rates[program].append(float(ask(client, str(mib << 20))))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    install()
    rates = measure(options.rounds, options.mib)
    if options.json:
        print(
            json.dumps({program: {"median": statistics.median(runs), "runs": runs} for program, runs in rates.items()})
        )
        return
    for program, runs in rates.items():
        print(f"{program:10} one stream  {statistics.median(runs):7.0f} MB/s  ({min(runs):.0f}-{max(runs):.0f})")


if __name__ == "__main__":
    main()
