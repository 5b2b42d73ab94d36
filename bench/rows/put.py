"""`chunk put` of half prose, half random bytes, durable and start-up included, beside two backup programs.

Whole processes into fresh directories. Directories are removed at the end alone: ext4 avoids inodes that were deleted
lately, which would make the next run's files dearer.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

from bench import documents
from bench.measure import Result, Setting, alternate, skip
from bench.processes import RAGE, environment, make_home, output, seconds
from bench.programs import MissingError, need

ROW = "put"
TARGETS = {"borg -C zstd,3, repokey-blake2": 2.0, "borg -C zstd,3, -e none": 1.5, "restic backup": 2.2}


def run(setting: Setting) -> Iterator[Result]:
    size = setting.size(256, 64) << 20
    source = setting.directory / "source"
    documents.write_half_and_half(source, size)
    serial = itertools.count()

    def rate(command: list[str], env: dict[str, str]) -> float:
        os.sync()
        return size / 1e6 / seconds(command, env)

    def rage() -> float:
        home = make_home(setting.directory / f"rage{next(serial)}")
        return rate([RAGE, "--home", str(home), "chunk", "put", str(source)], environment())

    def borg(program: str, encryption: str) -> float:
        repository = str(setting.directory / f"borg{next(serial)}")
        env = environment(
            BORG_BASE_DIR=f"{repository}.base",
            BORG_PASSPHRASE="bench",
            BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
        )
        output([program, "init", "-e", encryption, repository], env)
        return rate([program, "create", "-C", "zstd,3", f"{repository}::one", str(source)], env)

    def restic(program: str) -> float:
        repository = str(setting.directory / f"restic{next(serial)}")
        env = environment(RESTIC_PASSWORD="bench", RESTIC_CACHE_DIR=f"{repository}.cache", RESTIC_REPOSITORY=repository)
        output([program, "init"], env)
        return rate([program, "backup", str(source)], env)

    cases: dict[str, Callable[[], float]] = {"rage": rage}
    try:
        (program,) = need("borg")
        cases["borg -C zstd,3, repokey-blake2"] = lambda: borg(program, "repokey-blake2")
        cases["borg -C zstd,3, -e none"] = lambda: borg(program, "none")
    except MissingError as error:
        yield skip(ROW, "put", "borg", str(error))
    try:
        (restic_program,) = need("restic")
        cases["restic backup"] = lambda: restic(restic_program)
    except MissingError as error:
        yield skip(ROW, "put", "restic", str(error))

    samples = alternate(cases, setting.rounds)
    what = f"put {size >> 20} MiB, half prose, half random"
    for peer, target in TARGETS.items():
        if peer in samples:
            yield Result(ROW, what, "MB/s", samples["rage"], "at least", target, peer, samples[peer])
