"""The signed log at scale: `python -m bench.log_scale [--facts N] [--authors A] [--large M] [--seed S]`.

A newcomer takes a whole log from another node's, both on this disk, in one process, without a network: bytes of
segments are encoded and decoded as on the wire. Then a log of a million facts is opened by a fresh process. Facts are
grants by distinct authors on documents, up to 8 a document. The targets are step 3's.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rage_net import keys
from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.pb import rage_pb2 as pb
from rage_net.sync.envelope import ChainId, Segment, decode_segment, encode_segment, extend
from rage_net.sync.facts import Access, Certificate, Document, New
from rage_net.sync.log import Log, open_log
from rage_net.sync.vocabulary import document_id

ORGANIZATION = "acme"
RUN = 1000
RESPONSE_BYTES = 4 << 20


@dataclass(frozen=True)
class Line:
    what: str
    value: float
    target: float

    @property
    def is_reached(self) -> bool:
        return self.value <= self.target


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def now(self) -> float:
        return 1_800_000_000.0


def judge(author: PeerId, certificates: tuple[bytes, ...]) -> frozenset[str]:
    return frozenset(certificates[0].decode().split())


def segments(rng: random.Random, facts: int, authors: int) -> Iterator[Segment]:
    """Signed runs of grants: each author gives on documents of its own, to others, eight a document."""
    made = [keys.generate(rng) for _ in range(authors)]
    ids = [PeerId.from_public_key(key.public_key()) for key in made]
    lamport = 0
    for key, author in zip(made, ids, strict=True):
        chain, head = ChainId(author, rng.getrandbits(64)), None
        payloads = [
            pb.Payload(
                lamport=1,
                nonce=rng.getrandbits(64),
                resource=f"peer:{author}",
                certificate=pb.CertificateFact(certificates=[b"storage".ljust(600)]),
            ).SerializeToString()
        ]
        resource = ""
        for at in range(facts // authors):
            if at % 8 == 0:
                resource = f"doc:{document_id(author, rng.getrandbits(64))}"
            lamport += 1
            access = pb.Access(principal=f"peer:{ids[at % authors]}", action="read", allowed=bool(at % 8))
            payloads.append(
                pb.Payload(
                    lamport=lamport, nonce=rng.getrandbits(64), resource=resource, access=access
                ).SerializeToString()
            )
            if len(payloads) == RUN:
                segment = extend(key, ORGANIZATION, head, chain, payloads)
                yield segment
                head, payloads = end_of(head, segment), []
        if payloads:
            yield extend(key, ORGANIZATION, head, chain, payloads)


def end_of(head, segment):
    from rage_net.sync.envelope import Head, chain_hash, chain_start, payload_hash

    before = head.hash if head else chain_start(segment.chain, ORGANIZATION)
    hashes = [payload_hash(entry.payload) for entry in segment.entries]
    return Head(segment.chain, segment.last, chain_hash(before, segment.first, hashes))


def fill(log: Log, rng: random.Random, facts: int, authors: int) -> float:
    begin = time.perf_counter()
    batch: list[Segment] = []
    for segment in segments(rng, facts, authors):
        batch.append(segment)
        if len(batch) == 20:
            log.take(ORGANIZATION, batch, authority=judge)
            batch = []
    log.take(ORGANIZATION, batch, authority=judge)
    return time.perf_counter() - begin


def catch_up(source: Log, target: Log) -> tuple[float, float, int]:
    """Seconds until both are equal, of these in `missing` and on the wire, and bytes."""
    begin = time.perf_counter()
    reading, size = 0.0, 0
    while True:
        at = time.perf_counter()
        heads = target.heads(ORGANIZATION)
        sent = [
            encode_segment(one)
            for one in source.missing(ORGANIZATION, heads, is_complete=True, bytes_max=RESPONSE_BYTES)
        ]
        got = [decode_segment(raw) for raw in sent]
        reading += time.perf_counter() - at
        size += sum(map(len, sent))
        if not got:
            break
        target.take(ORGANIZATION, got, authority=judge)
    assert source.digest(ORGANIZATION) == target.digest(ORGANIZATION)
    return time.perf_counter() - begin, reading, size


def one_grant(directory: Path, rng: random.Random) -> int:
    """Bytes of the segment that carries one grant which replaces another."""
    log = open_log(directory / "one.db", key=keys.generate(rng), env=World(1))
    resource = f"doc:{document_id(log.author, rng.getrandbits(64))}"
    log.append(ORGANIZATION, [New(f"peer:{log.author}", Certificate((b"storage",)))], judge=judge)
    log.append(ORGANIZATION, [New(resource, Document(Cid.of(b"x"), 1, 1, 1)), New(resource, grant(log, False))])
    heads = log.heads(ORGANIZATION)
    log.append(ORGANIZATION, [New(resource, grant(log, True))])
    (segment,) = log.missing(ORGANIZATION, heads, is_complete=True, bytes_max=1 << 20)
    log.close()
    return len(encode_segment(segment))


def grant(log: Log, allowed: bool) -> Access:
    return Access(f"peer:{log.author}", "read", allowed)


OPENING = """
import resource, sys, time
from pathlib import Path
from bench.log_scale import ORGANIZATION, World
from rage_net import keys
from rage_net.sync.log import open_log
world = World(1)
key = keys.generate(world.random)
before = time.perf_counter()
log = open_log(Path(sys.argv[1]), key=key, env=world)
opened = time.perf_counter() - before
names = log.resources(ORGANIZATION, limit=10000)
read = time.perf_counter()
for name in names:
    log.facts(ORGANIZATION, name)
each = (time.perf_counter() - read) / len(names)
count = log.counts(ORGANIZATION).entries
print(opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, each * 1e6, count)
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.log_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--facts", type=int, default=100_000)
    parser.add_argument("--authors", type=int, default=20)
    parser.add_argument("--large", type=int, default=1_000_000, help="facts of the log that is opened; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"seed {options.seed}, {options.facts} facts by {options.authors} authors")
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = open_log(directory / "source.db", key=keys.generate(rng), env=World(2))
        fill(source, rng, options.facts, options.authors)
        target = open_log(directory / "target.db", key=keys.generate(rng), env=World(3))
        seconds, reading, size = catch_up(source, target)
        print(f"of these, read, encoded and decoded in {reading:.2f} s; {size / 1e6:.1f} MB on the wire")
        lines.append(Line("a newcomer has all, s", seconds, 3.0))
        lines.append(Line("one grant, bytes of its segment", one_grant(directory, rng), 350))
        source.close()
        target.close()
        if options.large:
            large = directory / "large.db"
            log = open_log(large, key=keys.generate(rng), env=World(4))
            took = fill(log, rng, options.large, options.authors)
            log.close()
            print(f"{options.large} facts written in {took:.1f} s, {large.stat().st_size / 1e6:.0f} MB on disk")
            command = [sys.executable, "-c", OPENING, str(large)]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            opened, resident, each, count = map(float, out.stdout.split())
            print(f"{count:.0f} entries; one resource's facts in {each:.0f} us")
            lines.append(Line("a large log opens, s", opened, 10.0))
            lines.append(Line("resident after reading 10,000 resources, MiB", resident, 600.0))
    for line in lines:
        verdict = "reached" if line.is_reached else "MISSED "
        print(f"{line.what:48} {line.value:8.3f}  at most {line.target:<6g} {verdict}")
    return 0 if all(line.is_reached for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
