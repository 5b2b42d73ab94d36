"""A small disk for the home of one node: an ext4 image on a loop device, or a tmpfs without. Root alone may.

It can be filled to the last byte, and made slow: `frozen` stops everything that writes to it, as a disk does that
does not answer, in bursts. That is the file system's own freezer; a tmpfs has none.
Needs mount, mkfs.ext4 and fsfreeze. What a dead lab has left mounted the next one lets go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

DISK_BYTES = 96 * 1024 * 1024
BLOCK_BYTES = 64 * 1024
RUN_TIMEOUT_S = 30.0
FILLER = "filler"
PREFIX = "rage-lab-"
"""What the directories of labs begin with; a process id follows."""
FROZEN_S = (0.2, 0.9)
"""Of each burst in which nothing is written; between two there is a moment."""
THAWED_S = (0.05, 0.3)


class DiskError(Exception):
    """A tool said no; with what it said."""


def missing() -> str:
    """Why there can be no small disk here; empty when there can."""
    if not sys.platform.startswith("linux"):
        return "small disks are mounted as Linux does"
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    return "" if shutil.which("mount") else "mount is not installed"


class SmallDisk:
    """Mounted on `place`; `kind` is ext4 or tmpfs."""

    def __init__(self, place: Path, image: Path, size: int = DISK_BYTES) -> None:
        self.place = place
        self._image = image
        place.mkdir(parents=True, exist_ok=True)
        try:
            self._mount_image(size)
            self.kind = "ext4"
        except (DiskError, OSError):
            with contextlib.suppress(OSError):
                image.unlink()
            _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "rage-lab", str(place))
            self.kind = "tmpfs"
        place.chmod(0o700)

    def _mount_image(self, size: int) -> None:
        with self._image.open("wb") as image:
            image.truncate(size)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        _run("mount", "-o", "loop", str(self._image), str(self.place))
        with contextlib.suppress(OSError):
            (self.place / "lost+found").rmdir()

    @property
    def can_freeze(self) -> bool:
        """Whether `frozen` works."""
        return self.kind == "ext4" and shutil.which("fsfreeze") is not None

    def fill(self) -> int:
        """Take every byte that is left; how many that were."""
        taken = 0
        with (self.place / FILLER).open("ab", buffering=0) as filler:
            for size in (BLOCK_BYTES, 512, 1):
                try:
                    while True:
                        taken += filler.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return taken

    def free(self) -> None:
        """Give them back."""
        (self.place / FILLER).unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self, rng: random.Random) -> Iterator[None]:
        """While this lasts, writing stands still most of the time. Always thawed at the end."""
        done = threading.Event()

        def burst() -> None:
            while not done.is_set():
                _run("fsfreeze", "-f", str(self.place))
                try:
                    done.wait(rng.uniform(*FROZEN_S))
                finally:
                    _run("fsfreeze", "-u", str(self.place))
                done.wait(rng.uniform(*THAWED_S))

        thread = threading.Thread(target=burst, name="slow-disk")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        """Let it go, whatever still holds it."""
        _release(str(self.place))
        with contextlib.suppress(OSError):
            self._image.unlink()


def sweep() -> None:
    """Let go what labs have left mounted whose process is gone."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            place = line.split()[1]
            for part in Path(place).parts:
                pid = part.removeprefix(PREFIX).split("-")[0]
                if part.startswith(PREFIX) and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                    _release(place)


def _release(place: str) -> None:
    with contextlib.suppress(DiskError):
        _run("umount", "-l", place)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    if done.returncode:
        raise DiskError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
