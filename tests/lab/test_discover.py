"""`rage peer discover --via mdns`, with real nodes on hosts of the lab."""

from __future__ import annotations

import json
from pathlib import Path

from rage_lab.net.lab import Lab

from .rage_host import RageHost

CONFIG = "  libp2p: {bootstrap_peers: [], dht: {enabled: false}}\n"


def discover(asker: RageHost, *words: str) -> tuple[int, list[dict[str, object]], str]:
    done = asker.run("peer", "discover", "--via", "mdns", "--for", "3s", "--json", *words)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, lines, done.stderr


def found(lines: list[dict[str, object]]) -> dict[object, dict[str, object]]:
    """The peers in the last line, the result, by id."""
    items = lines[-1]["items"]
    assert isinstance(items, list)
    return {item["peer_id"]: item for item in items}


def test_a_command_finds_a_node_of_its_own_namespace_within_three_seconds(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("a")
    lab.lan(host, lab.host("b"))
    node = RageHost(host, tmp_path / "node", CONFIG)
    status = node.start(listen="/ip4/0.0.0.0/tcp/0")
    asker = RageHost(host, tmp_path / "asker", CONFIG)
    code, lines, words = discover(asker, "--connect")
    assert code == 0, words
    row = found(lines)[status["peer_id"]]
    assert row["via"] == ["mdns"] and row["is_connected"] is True


def test_nodes_of_a_lan_find_each_other_and_connect(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.host("a"), lab.host("b")
    addresses = lab.lan(a, b)
    one, other = RageHost(a, tmp_path / "a", CONFIG), RageHost(b, tmp_path / "b", CONFIG)
    status = one.start(listen=f"/ip4/{addresses[0]}/tcp/0")
    other.start(listen=f"/ip4/{addresses[1]}/tcp/0")
    code, lines, words = discover(other, "--connect")
    assert code == 0, words
    assert found(lines)[status["peer_id"]]["addresses"] == status["listen"]
    assert status["peer_id"] in [item["peer_id"] for item in other.ok("peer", "list")["items"]]


def test_a_node_that_listens_everywhere_is_found_on_each_of_its_links(lab: Lab, tmp_path: Path) -> None:
    """None of them leads to a default route: what a socket would be bound to says nothing here."""
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    (left, _), (right, _) = lab.lan(b, a), lab.lan(b, c)
    node = RageHost(b, tmp_path / "b", CONFIG)
    status = node.start(listen="/ip4/0.0.0.0/tcp/0")
    port = status["listen"][0].split("/")[4]
    for host, address in ((a, left), (c, right)):
        code, lines, words = discover(RageHost(host, tmp_path / host.name, CONFIG), "--connect")
        assert code == 0, words
        row = found(lines)[status["peer_id"]]
        assert row["addresses"] == [f"/ip4/{address}/tcp/{port}/p2p/{status['peer_id']}"]
        assert row["is_connected"] is True


def test_where_multicast_is_impossible_the_command_says_why(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("a")
    host.run(["ip", "link", "set", "lo", "down"])
    host.run(["ip", "addr", "flush", "dev", "lo"])
    asker = RageHost(host, tmp_path / "asker", CONFIG)
    code, _, words = discover(asker)
    assert code == 7, words
    assert "mdns" in words.lower() and "Traceback" not in words
