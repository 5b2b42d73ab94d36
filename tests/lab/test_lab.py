"""The lab does what it says: else what is tested in it proves nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rage_lab.net.lab import Host, Lab
from rage_lab.net.namespaces import LabError, has_netem, stale, sweep

ROOT = Path(__file__).parents[2]
TOLERANCE_S = 0.04
"""Of the least of ten round trips, on a machine with other work; less than what tells the delays apart."""


def ping(host: Host, address: str, count: int = 1, interval_s: float = 0.002, wait_s: float = 1.0) -> dict[int, float]:
    """The round trips that came back, in seconds, by number from 1."""
    done = host.run(["ping", "-n", "-c", str(count), "-i", str(interval_s), "-W", str(wait_s), address], check=False)
    return {int(number): float(ms) / 1000 for number, ms in re.findall(r"icmp_seq=(\d+) .*time=([\d.]+)", done.stdout)}


def reaches(host: Host, address: str) -> bool:
    return bool(ping(host, address, wait_s=0.3))


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_a_link_delays_each_way(lab: Lab) -> None:
    for way in ["tun", "netem"] if has_netem() else ["tun"]:
        a, b = lab.host(f"a-{way}"), lab.host(f"b-{way}")
        link = lab.link(a, b, delay_s=0.03, way=way)
        lab.route()
        took = ping(a, b.address, count=10)
        assert len(took) == 10
        assert 0.06 <= min(took.values()) < 0.06 + TOLERANCE_S
        link.change(delay_s=0.005)
        assert 0.01 <= min(ping(a, b.address, count=10).values()) < 0.01 + TOLERANCE_S


def test_a_link_without_conditions_is_the_kernels_own(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    assert lab.link(a, b).way == "veth"
    lab.route()
    assert min(ping(a, b.address, count=10).values()) < TOLERANCE_S


def test_losses_repeat_with_the_seed(lab: Lab) -> None:
    came = []
    for number, seed in enumerate((1, 1)):
        a, b = lab.host(f"a{number}"), lab.host(f"b{number}")
        link = lab.link(a, b, loss=0.3, seed=seed)
        came.append(set(ping(a, link.addresses[1], count=100, wait_s=0.5)))
    assert 20 < len(came[0]) < 80
    assert came[0] == came[1]


def test_hosts_in_a_line_reach_each_other_over_the_one_between(lab: Lab) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    lab.link(a, b, delay_s=0.01)
    lab.link(b, c, delay_s=0.01)
    assert not reaches(a, c.address)
    lab.route()
    took = ping(a, c.address, count=10)
    assert 0.04 <= min(took.values()) < 0.04 + TOLERANCE_S
    assert reaches(c, a.address)


def test_a_rate_bounds_what_a_stream_gets(lab: Lab) -> None:
    """Both ends are sockets of this very process, each opened in its host."""
    a, b = lab.host("a"), lab.host("b")
    lab.link(a, b, rate_bytes_s=2_000_000)
    lab.route()
    size = 1_000_000
    with b.inside():
        server = socket.create_server((b.address, 0))
    with a.inside():
        client = socket.create_connection(server.getsockname(), timeout=10)
    with client:
        sender = threading.Thread(target=client.sendall, args=(bytes(size),))
        with server:
            peer, address = server.accept()
        assert address[0] == a.address
        began = time.monotonic()
        sender.start()
        with peer:
            peer.settimeout(10)
            got = 0
            while got < size:
                got += len(peer.recv(65536))
        sender.join()
    assert 0.4 < time.monotonic() - began < 5


def test_a_partition_parts_two_hosts_and_no_others(lab: Lab) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    lab.link(a, b)
    lab.link(b, c)
    lab.route()
    lab.partition(a, c)
    assert not reaches(a, c.address) and not reaches(c, a.address)
    assert reaches(a, b.address) and reaches(c, b.address)
    lab.heal(a, c)
    assert reaches(a, c.address)
    lab.partition(a, [b, c])
    assert not reaches(a, b.address) and not reaches(a, c.address) and reaches(b, c.address)
    lab.heal(a, [b, c])
    assert reaches(b, a.address)


def test_a_cut_link_carries_nothing_until_it_is_mended(lab: Lab) -> None:
    a, b, c = lab.host("a"), lab.host("b"), lab.host("c")
    link = lab.link(a, b)
    lab.link(b, c)
    lab.route()
    link.cut()
    assert not reaches(c, a.address) and not reaches(a, b.address) and reaches(b, c.address)
    link.mend()
    assert reaches(c, a.address)


def test_multicast_reaches_everyone_in_a_lan(lab: Lab) -> None:
    hosts = [lab.host(name) for name in "abc"]
    addresses = lab.lan(*hosts)
    group = "224.0.0.251"
    with contextlib.ExitStack() as stack:
        ears = []
        for host, address in zip(hosts[1:], addresses[1:], strict=True):
            with host.inside():
                ear = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                ear.bind(("", 0))
            member = socket.inet_aton(group) + socket.inet_aton(address)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            ear.settimeout(5)
            ears.append(ear)
        with hosts[0].inside():
            mouth = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for ear in ears:
            mouth.sendto(b"all of you", (group, ear.getsockname()[1]))
            data, source = ear.recvfrom(100)
            assert (data, source[0]) == (b"all of you", addresses[0])


def test_nothing_is_left_of_a_lab_whose_test_failed(lab: Lab) -> None:
    own = f"-{os.getpid()}-"
    before = namespaces().count(own)
    with pytest.raises(ZeroDivisionError), Lab() as second:
        a, b = second.host("a"), second.host("b")
        link = second.link(a, b, delay_s=0.01)
        carrier = link._process
        sleeper = a.spawn(["sleep", "1000"])
        assert namespaces().count(own) == before + 2
        raise ZeroDivisionError
    assert namespaces().count(own) == before
    assert carrier is not None and carrier.poll() == 0
    assert sleeper.poll() == -signal.SIGKILL
    second.close()


def test_what_a_killed_process_left_is_swept_up(lab: Lab) -> None:
    program = (
        "from rage_lab.net.lab import Lab\n"
        "lab = Lab(); a, b = lab.host('a'), lab.host('b'); link = lab.link(a, b, delay_s=0.01)\n"
        "sleeper = a.spawn(['sleep', '1000'])\n"
        "print(a.namespace, link._process.pid, sleeper.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        namespace, *pids = process.stdout.readline().split()
        assert namespace in namespaces()
        assert namespace not in stale()
        process.kill()
    sweep()
    assert namespace not in namespaces()
    assert namespace not in stale()
    for pid in pids:  # the link ends by itself, once nobody holds its other end
        with contextlib.suppress(ProcessLookupError), open_pid(int(pid)) as gone:
            assert gone.wait(5), f"process {pid} lives"


class open_pid:
    """Waits for a process that is not ours to wait for; ProcessLookupError when there is none."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def __enter__(self) -> open_pid:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def wait(self, timeout_s: float) -> bool:
        import select

        return bool(select.select([self._fd], [], [], timeout_s)[0])


def test_a_tool_that_says_no_is_named_with_its_words(lab: Lab) -> None:
    host = lab.host("a")
    with pytest.raises(LabError, match=r"ip netns add .*File exists"):
        lab._namespace("a")
    assert host.run(["true"]).returncode == 0
    with pytest.raises(subprocess.CalledProcessError) as failed:
        host.run(["ls", "/nowhere"])
    assert "No such file" in failed.value.__notes__[0]
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(["sleep", "5"], timeout_s=0.1)
