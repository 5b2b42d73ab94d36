"""mDNS between hosts: on links and switches, with more than one interface, over IPv6 alone, and where it cannot be."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rage_lab.net.lab import Host, Lab

from .mdns_node import peer_id

PROGRAM = str(Path(__file__).with_name("mdns_node.py"))
TIMEOUT_S = 15.0


class Node:
    """A process on a host; what it has told so far, and may be waited for."""

    def __init__(self, host: Host, number: int, *words: str) -> None:
        self.id = str(peer_id(number))
        self.told: list[dict[str, Any]] = []
        self._process = host.spawn(
            [sys.executable, PROGRAM, str(number), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._rest = b""

    def wait(self, **wanted: object) -> dict[str, Any]:
        """The first line that says all of `wanted`."""
        deadline = time.monotonic() + TIMEOUT_S
        assert self._process.stdout is not None
        while True:
            for line in self.told:
                if wanted.items() <= line.items():
                    return line
            ready = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]
            assert ready, f"never told {wanted}, only {self.told}"
            data = os.read(self._process.stdout.fileno(), 65536)
            assert data, f"it ended, and told only {self.told}"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.told += [json.loads(line) for line in lines]

    def found(self, other: Node) -> list[str]:
        """Where another node was found first."""
        addresses: list[str] = self.wait(found=other.id)["addresses"]
        return addresses

    def has_found(self) -> set[str]:
        return {line["found"] for line in self.told if "found" in line}


def test_everyone_in_a_lan_finds_everyone_where_it_can_be_reached(lab: Lab) -> None:
    hosts = [lab.host(name) for name in "abc"]
    addresses = lab.lan(*hosts)
    nodes = [Node(host, number, "/ip4/0.0.0.0/tcp/4001") for number, host in enumerate(hosts)]
    for one in nodes:
        for other, address in zip(nodes, addresses, strict=True):
            if one is not other:
                assert one.found(other) == [f"/ip4/{address}/tcp/4001"]


def test_each_link_is_told_its_own_addresses_and_nothing_passes_on(lab: Lab) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    left = lab.link(a, b, delay_s=0.01)
    (_, right) = lab.lan(c, b)
    lab.route()
    nodes = {host.name: Node(host, number, "/ip4/0.0.0.0/tcp/4001") for number, host in enumerate((a, b, c))}
    assert nodes["a"].found(nodes["b"]) == [f"/ip4/{left.addresses[1]}/tcp/4001"]
    assert nodes["c"].found(nodes["b"]) == [f"/ip4/{right}/tcp/4001"]
    nodes["b"].found(nodes["a"])
    nodes["b"].found(nodes["c"])
    assert nodes["a"].has_found() == nodes["c"].has_found() == {nodes["b"].id}


def test_no_multicast_route_is_needed(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.lan(a, b)
    for host in (a, b):
        host.run(["ip", "route", "delete", "224.0.0.0/4"])
    one, other = (Node(host, number, "/ip4/0.0.0.0/tcp/1") for number, host in enumerate((a, b)))
    one.found(other)
    other.found(one)


def test_a_network_with_ipv6_alone_will_do(lab: Lab) -> None:
    with Lab(ipv6=True) as other_lab:
        a, b = other_lab.host("a"), other_lab.host("b")
        other_lab.lan(a, b)
        for number, host in enumerate((a, b), 1):
            host.run(["ip", "-4", "addr", "flush", "dev", "lan0"])
            host.run(["ip", "addr", "add", f"fd77::{number}/64", "dev", "lan0", "nodad"])
        one, other = (Node(host, number, "/ip6/::/tcp/4001") for number, host in enumerate((a, b)))
        assert one.found(other) == ["/ip6/fd77::2/tcp/4001"]
        assert other.found(one) == ["/ip6/fd77::1/tcp/4001"]


def test_nodes_of_one_machine_find_each_other_over_loopback(lab: Lab) -> None:
    host = lab.host("a")
    one, other = (Node(host, number, f"/ip4/127.0.0.1/tcp/{4000 + number}") for number in range(2))
    looking = Node(host, 2, "/ip4/127.0.0.1/tcp/4002", "--look")
    assert one.found(other) == ["/ip4/127.0.0.1/tcp/4001"]
    assert looking.found(one) == ["/ip4/127.0.0.1/tcp/4000"]
    looking.found(other)
    assert looking.id not in one.has_found()


def test_loopback_addresses_are_not_told_to_others(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    (_, address) = lab.lan(a, b)
    hidden = Node(b, 1, "/ip4/127.0.0.1/tcp/4001")
    neighbour = Node(b, 2, "/ip4/0.0.0.0/tcp/4002")
    one = Node(a, 0, "/ip4/0.0.0.0/tcp/4001")
    neighbour.found(hidden)
    assert one.found(neighbour) == [f"/ip4/{address}/tcp/4002"]
    assert hidden.id not in one.has_found()


def test_with_every_interface_down_it_is_unavailable_until_one_is_up(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    lab.lan(a, b)
    a.run(["ip", "link", "set", "lo", "down"])
    a.run(["ip", "link", "set", "lan0", "down"])
    one, other = (Node(host, number, "/ip4/0.0.0.0/tcp/1") for number, host in enumerate((a, b)))
    assert one.wait(state="unavailable")["reason"]
    a.run(["ip", "link", "set", "lan0", "up"])
    one.found(other)
    other.found(one)
    assert one.wait(state="running")["interfaces"] == ["lan0"]


def test_a_firewall_that_takes_no_packets_is_the_reason(lab: Lab) -> None:
    a = lab.host("a")
    lab.lan(a, lab.host("b"))
    a.run(["nft", "add table inet strict; add chain inet strict out { type filter hook output priority 0; }"])
    a.run(["nft", "add rule inet strict out udp dport 5353 drop"])
    one = Node(a, 0, "/ip4/0.0.0.0/tcp/1")
    assert "not permitted" in one.wait(state="unavailable")["reason"]


def test_an_interface_that_comes_later_is_joined(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    one, other = (Node(host, number, "/ip4/0.0.0.0/tcp/4001") for number, host in enumerate((a, b)))
    one.wait(state="running")
    other.wait(state="running")
    addresses = lab.lan(a, b)
    assert one.found(other) == [f"/ip4/{addresses[1]}/tcp/4001"]
    assert other.found(one) == [f"/ip4/{addresses[0]}/tcp/4001"]
