"""The routing table over `kademlia`'s classes: exact nearest, bounds, replacements, no clock, no task, no UDP."""

from __future__ import annotations

import ast
import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest

from rage_net.libp2p.dht.table import (
    CONTACTS_MAX,
    FAILURES_MAX,
    REFRESH_S,
    REPLACEMENTS_MAX,
    STALE_S,
    Node,
    Table,
)
from rage_net.libp2p.kad.contact import Contact
from rage_net.libp2p.kad.keys import K, place_of
from rage_net.libp2p.multiaddr import Multiaddr
from tests.libp2p.dht_world import peer_id

ROOT = Path(__file__).parents[2]
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


def contact(rng: random.Random, *groups: str) -> Contact:
    return Contact.of(peer_id(rng), [ADDRESS], groups)


def filled(rng: random.Random, count: int) -> tuple[Table, list[Contact]]:
    table = Table(contact(rng))
    met = [contact(rng) for _ in range(count)]
    for number, one in enumerate(met):
        table.answered(Node(one), float(number))
    return table, met


def near(rng: random.Random, table: Table, bits: int) -> Contact:
    """A contact that shares `bits` bits with the table's own."""
    while True:
        one = contact(rng)
        if 256 - (one.place ^ table.node.long_id).bit_length() == bits:
            return one


@pytest.mark.parametrize("count", [0, 1, 5, 300, 3000])
def test_nearest_is_exact(rng: random.Random, count: int) -> None:
    table, _ = filled(rng, count)
    everyone = list(table)
    for number in range(20):
        place = place_of(b"%d" % number)
        by_hand = sorted(everyone, key=lambda one: one.place ^ place)
        assert table.nearest(place, K) == by_hand[:K]
        assert table.nearest(place, 3) == by_hand[:3]


def test_whom_to_ask_are_the_nearest_of_which_few_are_of_one_group(rng: random.Random) -> None:
    table, place = Table(contact(rng)), place_of(b"x")
    for number in range(300):
        table.answered(Node(contact(rng, "crowd" if number % 3 else f"alone {number}")), 0.0)
    everyone = sorted(table, key=lambda one: one.place ^ place)
    crowd = [one for one in everyone if one.groups == ("crowd",)]
    by_hand = [one for one in everyone if one not in crowd[2:]]
    assert len(by_hand) > 15
    assert table.choose(place, 15) == by_hand[:15]
    assert len(table.choose(place, 1000)) == len(everyone)  # no place stays empty
    assert table.choose(place, 1) == everyone[:1]


def test_the_neighbours_are_all_kept(rng: random.Random) -> None:
    table, met = filled(rng, 3000)
    by_hand = sorted(met, key=lambda one: one.place ^ table.node.long_id)
    assert table.nearest(table.node.long_id, K) == by_hand[:K]


def test_contacts_and_replacements_are_bounded_and_counted(rng: random.Random) -> None:
    table, _ = filled(rng, 10_000)
    assert len(table) == len(list(table)) <= CONTACTS_MAX
    assert table.waiting == len(list(table.replacements())) <= REPLACEMENTS_MAX
    assert all(len(bucket.heard_at) == len(bucket) + len(bucket.replacement_nodes) for bucket in table.buckets)
    assert all(len(bucket) <= K for bucket in table.buckets)


def test_every_place_is_in_exactly_one_bucket(rng: random.Random) -> None:
    table, _ = filled(rng, 2000)
    edges = [bucket.range for bucket in table.buckets]
    assert edges[0][0] == 0 and edges[-1][1] == (1 << 256) - 1
    for (_, high), (low, _) in itertools.pairwise(edges):
        assert low == high + 1
        assert table._index(high) + 1 == table._index(low)


def test_a_full_table_gives_up_far_contacts_for_near_ones(rng: random.Random) -> None:
    table = Table(contact(rng), contacts_max=80)
    for _ in range(500):
        table.answered(Node(contact(rng)), 0.0)
    assert len(table) <= 80
    for bits in range(6, 12):
        newcomer = near(rng, table, bits)
        table.answered(Node(newcomer), 1.0)
        assert newcomer in list(table)
        assert len(table) <= 80


def test_who_fails_leaves_and_the_newest_that_waits_takes_the_place(rng: random.Random) -> None:
    table, _ = filled(rng, 200)
    bucket = next(bucket for bucket in table.buckets if bucket.replacement_nodes)
    newest = list(bucket.replacement_nodes.values())[-1].contact
    victim = next(iter(bucket.nodes.values())).contact
    contacts, waiting = len(table), table.waiting
    assert table.failed(victim.peer_id, victim.place)
    assert victim not in list(table) and newest in list(table)
    assert (len(table), table.waiting) == (contacts, waiting - 1)


def test_a_lone_contact_is_borne_once(rng: random.Random) -> None:
    table, (one,) = filled(rng, 1)
    for _ in range(FAILURES_MAX - 1):
        assert not table.failed(one.peer_id, one.place)
    table.answered(Node(one), 1.0)  # it lives: counted from the beginning
    for _ in range(FAILURES_MAX - 1):
        assert not table.failed(one.peer_id, one.place)
    assert table.failed(one.peer_id, one.place)
    assert len(table) == 0


def test_who_was_silent_longest_is_to_be_asked_before_it_keeps_another_out(rng: random.Random) -> None:
    table = Table(contact(rng))
    far = [near(rng, table, 0) for _ in range(K)]
    for one in [*(near(rng, table, 3) for _ in range(K)), *far]:
        table.answered(Node(one), 0.0)
    suspect = table.answered(Node(near(rng, table, 0)), STALE_S - 1)
    assert suspect is None
    for one in far[1:]:
        table.answered(Node(one), STALE_S)
    suspect = table.answered(Node(near(rng, table, 0)), STALE_S)
    assert suspect is not None and suspect.contact == far[0]


def test_we_are_not_in_our_own_table(rng: random.Random) -> None:
    own = contact(rng)
    table = Table(own)
    table.answered(Node(own), 0.0)
    assert len(table) == 0


def test_another_network_displaces_one_of_a_crowd_in_a_full_bucket(rng: random.Random) -> None:
    table = Table(contact(rng))
    for _ in range(K):
        table.answered(Node(near(rng, table, 3)), 0.0)
    for _ in range(K):
        one = near(rng, table, 0)
        table.answered(Node(Contact(one.peer_id, one.addresses, one.place, ("crowd",))), 0.0)
    newcomer = near(rng, table, 0)
    table.answered(Node(Contact(newcomer.peer_id, newcomer.addresses, newcomer.place, ("other",))), 1.0)
    assert newcomer.peer_id in {one.peer_id for one in table}
    again = near(rng, table, 0)
    table.answered(Node(Contact(again.peer_id, again.addresses, again.place, ("crowd",))), 2.0)
    assert again.peer_id not in {one.peer_id for one in table}


def test_where_few_are_known_or_all_are_silent_we_look_once_an_hour(rng: random.Random) -> None:
    table, _ = filled(rng, 60)
    own = table.node.long_id
    farthest = 256 - (table.nearest(own)[-1].place ^ own).bit_length()
    due = table.places_to_look_at(60.0)
    assert [bits for _, bits in due] == [bits for bits in range(1, farthest + 2) if at_distance(table, bits - 1) < K]
    for place, bits in due:
        assert 256 - (place ^ own).bit_length() == bits - 1
    assert table.places_to_look_at(61.0) == []
    assert len(table.places_to_look_at(60.0 + REFRESH_S)) == farthest + 1


def test_who_knows_its_neighbours_alone_looks_farther(rng: random.Random) -> None:
    table = Table(contact(rng))
    for _ in range(K):
        table.answered(Node(near(rng, table, 3)), 0.0)
    assert [bits for _, bits in table.places_to_look_at(1.0)] == [1, 2, 3]


def test_where_there_are_few_in_all_nothing_is_looked_for(rng: random.Random) -> None:
    table, _ = filled(rng, K - 1)
    assert table.places_to_look_at(1e6) == []


def at_distance(table: Table, shared: int) -> int:
    return sum(256 - (one.place ^ table.node.long_id).bit_length() == shared for one in table)


def test_one_module_imports_the_library_and_no_udp_comes_with_it() -> None:
    importers = set()
    for path in [*ROOT.glob("rage_net/**/*.py"), *ROOT.glob("rage_cli/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if any(name.split(".")[0] == "kademlia" for name in names):
                importers.add(path.relative_to(ROOT).as_posix())
    assert importers == {"rage_net/libp2p/dht/table.py"}
    program = (
        "import sys, rage_net.libp2p.dht; print(*(m for m in sys.modules if m.startswith(('rpcudp', 'umsgpack'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_neither_clock_nor_loop_is_touched(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the library reads the clock or starts a task")

    monkeypatch.setattr("kademlia.routing.time.monotonic", forbidden)
    monkeypatch.setattr("kademlia.routing.asyncio.ensure_future", forbidden)
    table, met = filled(rng, 1000)
    table.nearest(place_of(b"x"), K)
    for one in met[:50]:
        table.failed(one.peer_id, one.place)
    table.places_to_look_at(1e6)
    table.flush()
    assert len(table) == 0 and len(list(table)) == 0
