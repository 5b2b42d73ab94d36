"""The DHT at scale, its rules alone: `python -m bench.dht_scale [--nodes N] [--seed S] [--look-ups N] [--roots N]`.

Real tables, look-ups, answers, records and regions for 10,000 nodes in one process, under virtual time: questions take
20 to 200 ms, or 1 s when nobody is there. One seed gives one result. Exits with 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from rage_lab.sim.virtual_loop import VirtualLoop
from rage_net.libp2p.kad.keys import K, place_of
from tests.sim.dht_net import DhtNet, multihash

GONE = 0.3
AT_ONCE = 32
SAMPLE = 500
"""Keys that are also announced one by one, and looked at closely."""

T = TypeVar("T")
Line = tuple[str, float, str, float | None, bool]
"""What, value, unit, bound, and whether the bound is a least."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.dht_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--look-ups", type=int, default=2_000)
    parser.add_argument("--roots", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    print(f"seed {options.seed}; {options.nodes} nodes, {GONE:.0%} of them gone without a word", flush=True)
    began = time.perf_counter()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        missed = runner.run(play(options))
    print(f"{time.perf_counter() - began:.0f} s; {missed} targets missed; repeat with --seed {options.seed}")
    return 1 if missed else 0


async def play(options: argparse.Namespace) -> int:
    missed = 0
    net = DhtNet(random.Random(options.seed))
    missed += show(measure_memory(net, options.nodes))
    missed += show(await measure_joining(net))
    missed += show(await measure_announcing(net, options.roots))
    missed += show(await measure_finding(net, options.look_ups))
    return missed


def show(lines: Iterable[Line]) -> int:
    missed = 0
    for what, value, unit, bound, is_least in lines:
        verdict = ""
        if bound is not None:
            is_met = value >= bound if is_least else value <= bound
            missed += not is_met
            verdict = f"{'at least' if is_least else 'at most':>9} {bound:<8g} {'reached' if is_met else 'MISSED'}"
        print(f"{what:62} {value:12,.4g} {unit:9} {verdict}".rstrip(), flush=True)
    return missed


def measure_memory(net: DhtNet, nodes: int) -> Iterable[Line]:
    before = memory_kib()
    contacts = [net.contact() for _ in range(nodes)]
    shared = memory_kib()
    began = time.perf_counter()
    net.grow(contacts)
    took = time.perf_counter() - began
    used = memory_kib()
    tables = [peer.table for peer in net.peers.values()]
    yield "to build", took, "s", None, False
    yield "contacts of a node, most", max(len(table) for table in tables), "", 200, False
    yield "contacts of a node, mean", statistics.mean(len(table) for table in tables), "", None, False
    yield "replacements of a node, most", max(table.waiting for table in tables), "", 40, False
    yield "memory of a node, contacts shared", (used - shared) / nodes, "KiB", 50, False
    yield "memory of a shared contact", (shared - before) / nodes, "KiB", None, False


def memory_kib() -> float:
    """The most that this process has had resident: it only grows while nodes are made."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1024 if sys.platform == "darwin" else most


async def measure_joining(net: DhtNet) -> Iterable[Line]:
    """Newcomers that know one peer each: they must find their neighbours, and be found."""
    newcomers = []
    for _ in range(20):
        peer = net.add(net.contact())
        await peer.bootstrap([net.random.choice(net.order).contact])
        newcomers.append(peer)
    right = 0
    for peer in newcomers:
        known = {contact.peer_id for contact in peer.table}
        true = [other for other in net.true_nearest(peer.contact.place, K + 1) if other is not peer][:K]
        right += sum(other.contact.peer_id in known for other in true)
    sizes = [len(peer.table) for peer in newcomers]
    return [
        ("newcomer: contacts after joining, mean", statistics.mean(sizes), "", None, True),
        ("newcomer: its 20 true neighbours that it knows", 100 * right / (K * len(newcomers)), "%", None, True),
    ]


async def measure_announcing(net: DhtNet, roots: int) -> Iterable[Line]:
    """One owner announces everything by region, and a sample of it one by one."""
    keys = [multihash(b"root %d" % number) for number in range(roots)]
    sample = net.random.sample(keys, min(SAMPLE, roots))
    owner = net.random.choice(net.alive())
    before = net.questions + net.batches
    net.keeps = set()
    accepted = await at_once(sample, owner.provide)
    one_by_one = (net.questions + net.batches - before) / len(sample)
    records_each = sum(accepted) / len(sample)

    net.keeps = set(sample)
    before, virtual, began = net.questions + net.batches, net.now(), time.perf_counter()
    told = await owner.provide_many(keys)
    messages = net.questions + net.batches - before
    right = 0
    for key in sample:
        true = net.true_nearest(place_of(key), K)
        right += sum(bool(peer.providers.get(key, net.now())) for peer in true)
    net.keeps = None
    alone = told.questions + told.records
    return [
        (f"announcing {roots} roots: messages, by region", messages, "", None, False),
        ("  the same one by one, from a sample", one_by_one * roots, "", None, False),
        ("  times fewer", one_by_one * roots / messages, "x", 10, True),
        ("  records that these carry, of each root", told.records / roots, "", None, True),
        ("  times fewer, were each record a message of its own", one_by_one * roots / alone, "x", None, True),
        ("  records of each root, one by one", records_each, "", None, True),
        ("  roots that too few took", told.failed, "", 0, False),
        ("  the true 20 nearest that hold a root", 100 * right / (K * len(sample)), "%", None, True),
        ("  virtual time", (net.now() - virtual) / 3600, "h", 22, False),
        ("  real time", time.perf_counter() - began, "s", None, False),
    ]


async def measure_finding(net: DhtNet, count: int) -> Iterable[Line]:
    """Records are left; then a third of all nodes goes; then everyone looks."""
    owners = net.random.sample(net.alive(), 200)
    keys = {multihash(b"held %d" % number): net.random.choice(owners) for number in range(min(1000, count))}
    await at_once(keys, lambda key: keys[key].provide(key))
    net.kill(GONE)
    alive = net.alive()

    async def find(key: bytes) -> tuple[bool, float]:
        seeker, began = net.random.choice(alive), net.now()
        async for provider in seeker.find_providers(key):
            if provider.peer_id == keys[key].own:
                return True, net.now() - began
        return False, 0.0

    finds = await at_once([net.random.choice(list(keys)) for _ in range(count)], find)
    began = time.perf_counter()
    targets = [multihash(b"target %d" % number) for number in range(count)]
    looks = await at_once(targets, lambda key: net.random.choice(alive).find_nearest(key))
    speed = count / (time.perf_counter() - began)
    right = dead = 0
    places = {contact.peer_id for peer in net.peers.values() if not peer.is_alive for contact in [peer.contact]}
    for key, found in list(zip(targets, looks, strict=True))[:SAMPLE]:
        got = {contact.peer_id for contact in found.nearest}
        right += sum(peer.own in got for peer in net.true_nearest(place_of(key), K))
        dead += len(got & places)
    seconds = [found.seconds for found in looks]
    ages = [seconds for is_found, seconds in finds if is_found]
    return [
        (f"{count} look-ups: depth, most", max(found.depth for found in looks), "", 5, False),
        ("  depth, median", statistics.median(found.depth for found in looks), "", None, False),
        ("  time, median", statistics.median(seconds), "s", 3, False),
        ("  time, 99 of 100", statistics.quantiles(seconds, n=100)[98], "s", None, False),
        ("  questions, mean", statistics.mean(found.asked for found in looks), "", None, False),
        ("  dead among the nearest", dead, "", 0, False),
        ("  the true 20 nearest that were found", 100 * right / (K * min(SAMPLE, count)), "%", None, True),
        ("  look-ups a second, simulated", speed, "", None, True),
        (f"{count} searches for a provider: found", 100 * len(ages) / count, "%", 99.9, True),
        ("  until it was heard of, median", statistics.median(ages), "s", None, False),
        ("  until it was heard of, 99 of 100", statistics.quantiles(ages, n=100)[98], "s", None, False),
    ]


async def at_once(items: Iterable[bytes], work: Callable[[bytes], Awaitable[T]]) -> list[T]:
    """`work` on each, AT_ONCE at a time, the results in order."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(item: bytes) -> T:
        async with turns:
            return await work(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


if __name__ == "__main__":
    sys.exit(main())
