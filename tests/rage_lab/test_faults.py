"""What faults are made of does what it says: disks, clocks, rot, one-way partitions, bursts of loss, the picture."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rage_lab import clocks, disks, soak
from rage_lab.clocks import Clock
from rage_lab.disks import SmallDisk
from rage_lab.nemesis import FAULTS, flip
from rage_lab.net import namespaces
from rage_lab.net.lab import Lab
from rage_lab.net.link import Conditions, Pipe
from rage_lab.picture import draw
from rage_lab.scenarios import MIXED, SCENARIOS

SIZE = 16 << 20


@pytest.fixture
def need(in_ci: bool) -> Callable[[str | None], None]:
    """Skip where the machine lacks something; in CI fail."""

    def check(why: str | None) -> None:
        if why:
            (pytest.fail if in_ci else pytest.skip)(why)

    return check


@pytest.fixture
def disk(need: Callable[[str], None], tmp_path: Path) -> Iterator[SmallDisk]:
    need(disks.missing())
    made = SmallDisk(tmp_path / "disk", tmp_path / "image", SIZE)
    yield made
    made.close()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_small_disk_is_full_to_the_last_byte_and_has_room_again(disk: SmallDisk) -> None:
    (disk.place / "here").write_bytes(b"before")
    assert 0.5 * SIZE < disk.fill() <= SIZE
    with pytest.raises(OSError, match="No space left"):
        (disk.place / "more").write_bytes(bytes(8192))
    assert (disk.place / "here").read_bytes() == b"before"
    disk.free()
    (disk.place / "more").write_bytes(bytes(8192))


def test_a_slow_disk_holds_writers_up_and_never_stays_frozen(disk: SmallDisk, rng: random.Random) -> None:
    if not disk.can_freeze:
        pytest.skip(f"a {disk.kind} cannot be frozen here")
    waits = []
    with disk.frozen(rng):
        ends = time.monotonic() + 2.0
        while time.monotonic() < ends:
            began = time.monotonic()
            (disk.place / "written").write_bytes(b"x")
            waits.append(time.monotonic() - began)
    assert max(waits) > 0.1, "nothing was held up"
    began = time.monotonic()
    (disk.place / "written").write_bytes(b"x")
    assert time.monotonic() - began < 1.0


def test_a_clock_jumps_in_a_process_that_runs_and_monotonic_time_does_not(
    need: Callable[[str], None], tmp_path: Path
) -> None:
    need(clocks.missing())
    clock = Clock(tmp_path / "clock")
    program = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | clock.environment,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        told = []
        for jump_s in (0, 86_400, -3_600, 0):
            clock.set(jump_s)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            told.append(round((wall - time.time()) / 60))
            assert abs(monotonic - time.monotonic()) < 30
        process.stdin.close()
    assert told == [0, 1440, -60, 0]


def test_one_bit_of_a_file_flips_and_nothing_else_shows(tmp_path: Path, rng: random.Random) -> None:
    file = tmp_path / "chunk"
    data = rng.randbytes(5000)
    file.write_bytes(data)
    file.chmod(0o400)
    before = file.stat()
    flip(file, rng)
    after = file.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_mode) == (after.st_size, after.st_mtime_ns, after.st_mode)
    changed = int.from_bytes(data, "big") ^ int.from_bytes(file.read_bytes(), "big")
    assert changed.bit_count() == 1


def test_a_muted_host_is_not_heard_and_hears(need: Callable[[str | None], None]) -> None:
    need(namespaces.missing())
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.lan(a, b)
        lab.route()
        program = (
            "import socket,sys;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',9));s.settimeout(0.5)\n"
            "print('up',flush=True)\ntry: print(s.recv(9).decode())\nexcept TimeoutError: print('nothing')"
        )
        send = "import socket,sys;socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'word',(sys.argv[1],9))"

        def is_heard(speaker, listener) -> bool:  # type: ignore[no-untyped-def]
            hearing = listener.spawn([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
            assert hearing.stdout.readline() == "up\n"
            speaker.run([sys.executable, "-c", send, listener.address], check=False)
            return hearing.stdout.readline() == "word\n"

        assert is_heard(a, b) and is_heard(b, a)
        lab.mute(a, b)
        assert not is_heard(a, b)
        assert is_heard(b, a)
        lab.unmute(a, b)
        assert is_heard(a, b)


def test_bursts_lose_as_much_as_asked_for_and_in_rows(rng: random.Random) -> None:
    conditions = Conditions(loss=0.05, burst=8.0, seed=rng.getrandbits(32))
    pipe, lost, rows, was_lost = Pipe(conditions, 0), 0, 0, False
    total = 200_000
    for _ in range(total):
        before = pipe.counts["lost"]
        pipe.put(b"x", 0.0)
        is_lost = pipe.counts["lost"] > before
        lost += is_lost
        rows += is_lost and not was_lost
        was_lost = is_lost
        pipe.take(1.0)
    assert 0.04 < lost / total < 0.06
    assert 7 < lost / rows < 9


def test_every_fault_can_be_asked_for_and_the_mix_names_faults() -> None:
    assert set(FAULTS) <= set(SCENARIOS)
    assert set(MIXED) <= set(FAULTS)


def test_the_picture_is_svg_and_breaks_where_a_node_was_down(tmp_path: Path) -> None:
    drawn = draw("memory <of> nodes", "minutes", "MiB", {"n0": [(0, 70), (1, 71), (2, None), (3, 60), (4, 61)]})
    tree = ElementTree.fromstring(drawn)
    assert len([each for each in tree.iter() if each.tag.endswith("polyline")]) == 2
    table = tmp_path / "soak.csv"
    rows = [f"{at * 5},{70 << 20},{(70 + at) << 20 if at != 40 else ''}" for at in range(100)]
    table.write_text("\n".join(["seconds,n0,n1", *rows]) + "\n")
    ElementTree.fromstring(soak.draw_file(table))
    flat, rising = soak.memory_of(table, ("n0", "n1"))
    assert flat.growth == 0 and flat.life_s == 495
    assert rising.growth > 32 << 20 and rising.life_s == 295
