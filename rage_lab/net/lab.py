"""Networks on one machine: namespaces for hosts, links that delay, lose and shape, partitions. Real programs run there.

    with Lab() as lab:
        a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
        lab.link(a, b, delay_s=0.05)
        lab.link(b, c, delay_s=0.05, loss=0.01, seed=7)
        lab.route()
        a.run(["ping", "-c", "1", c.address])
        lab.partition(a, c)

Needs root, iproute2 and, for partitions, nftables. A link with conditions is `tc netem` over a veth pair where the
kernel has it, else, or when packets are to be lost by a seed, the program in `link.py` over TUN. What a lab makes bears
its process in its name; when that is gone without cleaning up, the next lab does.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rage_lab.net.link import Conditions, enter_namespace
from rage_lab.net.namespaces import RUN_TIMEOUT_S, LabError, has_netem, missing, own_prefix, remove, run, sweep, urgent

LINK_NICE = -20
"""The priority of a link's process: above that of what is measured with it."""
QUEUE_PACKETS = 10_000
"""Of a device: a whole window of a fast stream may wait there while the link's process has its turn elsewhere."""
HOSTS_MAX, LINKS_MAX, LANS_MAX = 250, 4_000, 250
"""What the plan of addresses holds: 10.77.0.<host>, 10.78.<link>/30, 10.79.<lan>.<host>."""

_labs = itertools.count()

_FILTER = """
table inet lab {
  set cut { type ipv4_addr; }
  set severed { type ifname; }
  set muted { type ipv4_addr; }
  chain in { type filter hook input priority 0; ip saddr @cut drop; iifname @severed drop; }
  chain out { type filter hook output priority 0; ip daddr @cut drop; ip daddr @muted drop; oifname @severed drop; }
  chain through { type filter hook forward priority 0; iifname @severed drop; oifname @severed drop; }
}
"""


@dataclass(eq=False)
class Host:
    """A machine: a network namespace with an address that every other host reaches once the lab is routed."""

    name: str
    namespace: str
    address: str
    addresses: list[str] = field(default_factory=list)
    """All its addresses but loopback: its own, then one for each link and LAN."""
    spawned: list[subprocess.Popen[Any]] = field(default_factory=list)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` there."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(
        self, argv: Sequence[str], *, timeout_s: float = RUN_TIMEOUT_S, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there to its end. Raises CalledProcessError with `check`, TimeoutExpired."""
        options = {"capture_output": True, "text": True} | options
        try:
            return subprocess.run(self.command(argv), timeout=timeout_s, check=check, **options)
        except subprocess.CalledProcessError as error:
            error.add_note(f"it said: {error.stderr or error.stdout}")
            raise

    def spawn(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program there; the lab's end ends it."""
        process = subprocess.Popen(self.command(argv), **options)
        self.spawned.append(process)
        return process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is there: the sockets it opens belong there, also afterwards."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            enter_namespace(f"/run/netns/{self.namespace}")
            yield
        finally:
            enter_namespace(f"/proc/self/fd/{home}")
            os.close(home)

    def set(self, key: str, value: str) -> None:
        """A kernel setting of its network: `set("ipv4/ip_forward", "1")`."""
        with self.inside():
            Path("/proc/sys/net", key).write_text(value)


class Link:
    """A link between two hosts. `way` is veth, netem or tun; `devices` and `addresses` are those of its two ends."""

    def __init__(self, hosts: tuple[Host, Host], conditions: Conditions, number: int, way: str) -> None:
        self.hosts = hosts
        self.conditions = conditions
        self.way = way
        self.devices = (f"{hosts[1].name[:9]}-{number}", f"{hosts[0].name[:9]}-{number}")
        base = f"10.78.{number // 64}.{{}}"
        self.addresses = (base.format(number % 64 * 4 + 1), base.format(number % 64 * 4 + 2))
        self._process: subprocess.Popen[str] | None = None
        if way == "tun":
            self._start()
        else:
            one, other = zip(self.devices, (host.namespace for host in hosts), strict=True)
            run("ip", "link", "add", one[0], "netns", one[1], "type", "veth", "peer", other[0], "netns", other[1])
            if way == "netem":
                self._shape("add")
        for host, device, address in zip(hosts, self.devices, self.addresses, strict=True):
            _attach(host, device, f"{address}/30")

    def change(self, **conditions: Any) -> list[dict[str, int]]:
        """Other conditions from now on (`delay_s=0.2`); what is on its way is not changed.

        Returns: for each direction, how many packets were carried, lost, reordered, overflowed so far; only of `tun`.
        """
        self.conditions = Conditions(**(asdict(self.conditions) | conditions))
        if self.way == "netem":
            self._shape("replace")
        if self._process is None:
            return []
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(conditions) + "\n")
        self._process.stdin.flush()
        counts: list[dict[str, int]] = json.loads(self._process.stdout.readline())
        return counts

    def cut(self) -> None:
        """Nothing passes, in either direction; routes stay."""
        for host, device in zip(self.hosts, self.devices, strict=True):
            _filter(host, f'add element inet lab severed {{ "{device}" }}')

    def mend(self) -> None:
        """It passes again."""
        for host, device in zip(self.hosts, self.devices, strict=True):
            _filter(host, f'delete element inet lab severed {{ "{device}" }}')

    def close(self) -> None:
        """End the process that carries it, if there is one."""
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None

    def _start(self) -> None:
        words = [word for end in zip(self.hosts, self.devices, strict=True) for word in (end[0].namespace, end[1])]
        program = str(Path(__file__).with_name("link.py"))
        argv = [sys.executable, "-I", program, *words, json.dumps(asdict(self.conditions))]
        self._process = subprocess.Popen(
            urgent(argv, LINK_NICE),  # a wait for the processor would be a delay of the link's
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":  # it prints that, or ends
            self.close()
            raise LabError(f"the link {' - '.join(host.name for host in self.hosts)} did not start")

    def _shape(self, verb: str) -> None:
        conditions = self.conditions
        words = ["delay", f"{conditions.delay_s * 1000:g}ms", "limit", "100000"]
        if conditions.reorder:  # netem's way: these go at once, the others are delayed
            words += ["reorder", f"{conditions.reorder * 100:g}%"]
        if conditions.rate_bytes_s:
            words += ["rate", f"{conditions.rate_bytes_s * 8:.0f}bit"]
        for host, device in zip(self.hosts, self.devices, strict=True):
            run("tc", "-n", host.namespace, "qdisc", verb, "dev", device, "root", "netem", *words)


class Lab:
    """Hosts and links; everything it made is gone at its end. `seed` is added to that of every link."""

    def __init__(self, *, seed: int = 0, ipv6: bool = False) -> None:
        if why := missing():
            raise LabError(why)
        sweep()
        self.hosts: list[Host] = []
        self.links: list[Link] = []
        self._seed = seed
        self._ipv6 = ipv6
        self._name = f"{own_prefix()}-{next(_labs)}"
        self._lans: list[list[Host]] = []
        self._namespaces: list[str] = []

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every program, link and namespace. May be called again."""
        for host in self.hosts:
            for process in host.spawned:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        with contextlib.suppress(OSError):  # what it never read
                            pipe.close()
        for link in self.links:
            link.close()
        for namespace in self._namespaces:
            remove(namespace)
        self.hosts, self.links, self._lans, self._namespaces = [], [], [], []

    def host(self, name: str) -> Host:
        """A new host, with loopback and an address of its own, joined to nothing yet."""
        if len(self.hosts) >= HOSTS_MAX:
            raise LabError(f"a lab holds {HOSTS_MAX} hosts")
        namespace = self._namespace(name)
        address = f"10.77.0.{len(self.hosts) + 1}"
        host = Host(name, namespace, address, [address])
        self.hosts.append(host)
        if not self._ipv6:  # its talk would be lost and delayed like ours, and cost the seed its meaning
            for key in ("all", "default"):
                with contextlib.suppress(FileNotFoundError):
                    host.set(f"ipv6/conf/{key}/disable_ipv6", "1")
        host.set("ipv4/ip_forward", "1")
        _ip(host, "link set lo up", f"addr add {address}/32 dev lo")
        return host

    def link(
        self,
        a: Host,
        b: Host,
        *,
        delay_s: float = 0.0,
        loss: float = 0.0,
        reorder: float = 0.0,
        rate_bytes_s: float | None = None,
        burst: float = 1.0,
        seed: int = 0,
        way: str | None = None,
    ) -> Link:
        """Join two hosts. Conditions hold for each direction: a `delay_s` of 0.05 makes a round trip of 0.1 s."""
        if len(self.links) >= LINKS_MAX:
            raise LabError(f"a lab holds {LINKS_MAX} links")
        conditions = Conditions(delay_s, loss, reorder, rate_bytes_s, self._seed + seed, burst)
        if way is None:
            way = "veth" if conditions == Conditions(seed=conditions.seed, burst=burst) else "tun"
            if way == "tun" and not loss and has_netem():
                way = "netem"
        link = Link((a, b), conditions, len(self.links), way)
        self.links.append(link)
        return link

    @property
    def is_joined(self) -> bool:
        """Whether any two hosts are joined."""
        return bool(self.links or self._lans)

    def lan(self, *hosts: Host) -> list[str]:
        """Join hosts by a switch, where multicast reaches all; the address of each there, in their order."""
        number = len(self._lans)
        if number >= LANS_MAX:
            raise LabError(f"a lab holds {LANS_MAX} LANs")
        switch = self._namespace(f"lan{number}")
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        self._lans.append([])
        return [self.plug(host, number) for host in hosts]

    def plug(self, host: Host, lan: int = 0) -> str:
        """Join one more host by the switch of a LAN; its address there. Call `route` after it."""
        members, switch, device = self._lans[lan], f"{self._name}-lan{lan}", f"lan{lan}"
        port = len(members) + 1
        ends = ["netns", switch, "type", "veth", "peer", device, "netns", host.namespace]
        run("ip", "link", "add", f"p{port}", *ends)
        run("ip", "-n", switch, "link", "set", f"p{port}", "master", "br0", "up")
        address = f"10.79.{lan}.{port}"
        _attach(host, device, f"{address}/24")
        members.append(host)
        return address

    def route(self) -> None:
        """Give every host a way to every other's address, over the fewest links; call it again after new links."""
        ways: dict[Host, list[tuple[Host, str, str]]] = {host: [] for host in self.hosts}
        for link in self.links:
            for here, there in ((0, 1), (1, 0)):
                ways[link.hosts[here]].append((link.hosts[there], link.addresses[there], link.devices[here]))
        for number, members in enumerate(self._lans):
            for host in members:
                ways[host] += [
                    (other, f"10.79.{number}.{port}", f"lan{number}")
                    for port, other in enumerate(members, 1)
                    if other is not host
                ]
        for host in self.hosts:
            first: dict[Host, tuple[str, str]] = {other: (hop, device) for other, hop, device in ways[host]}
            found, todo = {host, *first}, deque(first)
            while todo:
                at = todo.popleft()
                for other, _, _ in ways[at]:
                    if other not in found:
                        found.add(other)
                        first[other] = first[at]
                        todo.append(other)
            lines = [
                f"route replace {other.address}/32 via {hop} dev {device} src {host.address}"
                for other, (hop, device) in first.items()
            ]
            _ip(host, *lines)

    def partition(self, a: Host | Iterable[Host], b: Host | Iterable[Host]) -> None:
        """Nothing that one side sends reaches the other; what others send through them does."""
        self._divide(a, b, "add")

    def heal(self, a: Host | Iterable[Host], b: Host | Iterable[Host]) -> None:
        """Undo `partition` of the same two."""
        self._divide(a, b, "delete")

    def mute(self, a: Host | Iterable[Host], b: Host | Iterable[Host]) -> None:
        """Nothing that side `a` sends reaches side `b`; what `b` sends arrives: a partition in one direction."""
        self._mute(a, b, "add")

    def unmute(self, a: Host | Iterable[Host], b: Host | Iterable[Host]) -> None:
        """Undo `mute` of the same two."""
        self._mute(a, b, "delete")

    def _mute(self, a: Host | Iterable[Host], b: Host | Iterable[Host], verb: str) -> None:
        here, there = ([side] if isinstance(side, Host) else list(side) for side in (a, b))
        muted = ", ".join(address for other in there for address in other.addresses)
        for host in here:
            _filter(host, f"{verb} element inet lab muted {{ {muted} }}")

    def _divide(self, a: Host | Iterable[Host], b: Host | Iterable[Host], verb: str) -> None:
        sides = [[side] if isinstance(side, Host) else list(side) for side in (a, b)]
        for here, there in (sides, sides[::-1]):
            cut = ", ".join(address for other in there for address in other.addresses)
            for host in here:
                _filter(host, f"{verb} element inet lab cut {{ {cut} }}")

    def _namespace(self, name: str) -> str:
        namespace = f"{self._name}-{name}"
        run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        return namespace


def _attach(host: Host, device: str, address: str) -> None:
    _ip(
        host,
        f"link set {device} txqueuelen {QUEUE_PACKETS}",
        f"link set {device} multicast on up",
        f"addr add {address} dev {device}",
    )
    if len(host.addresses) == 1:  # programs that leave the interface to the routes need one
        _ip(host, f"route add 224.0.0.0/4 dev {device}")
    host.addresses.append(address.partition("/")[0])


def _filter(host: Host, change: str) -> None:
    listed = subprocess.run(host.command(["nft", "list", "table", "inet", "lab"]), capture_output=True, check=False)
    rules = change if listed.returncode == 0 else _FILTER + change
    run(*host.command(["nft", "-f", "-"]), told=rules)


def _ip(host: Host, *lines: str) -> None:
    run("ip", "-n", host.namespace, "-batch", "-", told="\n".join(lines))
