"""`chunk get` of a document from another node, verified, to a file, whole process, beside curl, the bare stream, Helia.

The document lies in the page cache on either side. What is fetched is removed after each run, homes at the end alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import bare_stream, documents
from bench.https import https
from bench.measure import Result, Setting, alternate, skip
from bench.processes import RAGE, Node, make_home, node, put, seconds, server
from bench.programs import MissingError, need, need_helia
from bench.stream import server as python_server

ROW = "get"
KINDS = {"prose": documents.write_text, "random": documents.write_random}
CACHED_TARGETS = {"prose": 0.8, "random": 0.6}
HELIA_MIB = 256
"""Helia needs half a minute for a GiB; both sides fetch this much instead."""


def run(setting: Setting) -> Iterator[Result]:
    for kind in KINDS:
        with contextlib.ExitStack() as stack:
            yield from _beside_curl(setting, kind, stack)
    with contextlib.ExitStack() as stack:
        yield from _in_memory(setting, stack)
    with contextlib.ExitStack() as stack:
        yield from _beside_helia(setting, stack)


class Getter:
    """Gets one root from one node into files on one disk; each run's rate in MB/s."""

    def __init__(self, directory: Path, out: Path, source: Node, root: str, size: int) -> None:
        self._directory = directory
        self._out = out
        self._source = source
        self._root = root
        self._size = size
        self._home = make_home(directory / "getter")
        self._serial = itertools.count()

    def uncached(self) -> float:
        return self._get(self._home, "--no-cache")

    def cached(self) -> float:
        return self._get(make_home(self._directory / f"getter{next(self._serial)}"))

    def _get(self, home: Path, *options: str) -> float:
        path = str(self._out)
        command = [RAGE, "--home", str(home), "chunk", "get", self._root, "--peer", self._source.address, "-o", path]
        return timed([*command, *options], self._out, self._size)


def timed(command: list[str], out: Path, size: int, cwd: Path | None = None) -> float:
    """MB/s of a command that writes `size` bytes to `out`, which is removed again."""
    os.sync()
    took = seconds(command, cwd=cwd)
    if out.stat().st_size != size:
        raise AssertionError(f"{out.stat().st_size} of {size} bytes")
    out.unlink()
    return size / 1e6 / took


def _beside_curl(setting: Setting, kind: str, stack: contextlib.ExitStack) -> Iterator[Result]:
    size = setting.size(1024, 128) << 20
    directory = setting.directory / kind
    directory.mkdir()
    source, out = directory / "source", directory / "out"
    KINDS[kind](source, size)
    home = make_home(directory / "holder")
    root = put(home, source)
    getter = Getter(directory, out, stack.enter_context(node(home)), root, size)
    what = f"get {size >> 20} MiB of {kind}, to a file"
    try:
        nginx, curl = need("nginx", "curl")
    except MissingError as error:
        yield skip(ROW, what, "curl", str(error))
        return
    url, certificate = stack.enter_context(https(nginx, directory))
    command = [curl, "--silent", "--fail", "--tlsv1.3", "--cacert", str(certificate), "-o", str(out), f"{url}/source"]
    cases = {"curl": lambda: timed(command, out, size), "rage": getter.uncached, "cached": getter.cached}
    samples = alternate(cases, setting.rounds)
    peer = "curl, HTTPS, nginx"
    yield Result(ROW, what, "MB/s", samples["rage"], "at least", 0.8, peer, samples["curl"])
    target = CACHED_TARGETS[kind]
    yield Result(
        ROW, f"{what}, and a cached copy", "MB/s", samples["cached"], "at least", target, peer, samples["curl"]
    )


def _in_memory(setting: Setting, stack: contextlib.ExitStack) -> Iterator[Result]:
    size = setting.size(1024, 128) << 20
    what = f"get {size >> 20} MiB of random, homes in memory"
    if setting.memory is None:
        yield skip(ROW, what, "bare stream", "no file system in memory: /dev/shm is missing or full")
        return
    directory = setting.memory / "memory"
    directory.mkdir()
    stack.callback(shutil.rmtree, directory)
    source = setting.directory / "memory.source"
    documents.write_random(source, size)
    home = make_home(directory / "holder")
    root = put(home, source)
    source.unlink()
    getter = Getter(directory, setting.directory / "memory.out", stack.enter_context(node(home)), root, size)
    loop = stack.enter_context(asyncio.Runner())
    (port,) = loop.run(_enter(stack, loop))
    sink = loop.run(bare_stream.connect(int(port)))
    cases: dict[str, Callable[[], float]] = {
        "bare": lambda: size / 1e6 / loop.run(sink.measure(size)),
        "rage": getter.uncached,
    }
    samples = alternate(cases, setting.rounds)
    yield Result(ROW, what, "MB/s", samples["rage"], "at least", 0.4, "bare stream", samples["bare"])


async def _enter(stack: contextlib.ExitStack, loop: asyncio.Runner) -> list[str]:
    context = python_server("bench.bare_stream")
    words = await context.__aenter__()
    stack.callback(lambda: loop.run(context.__aexit__(None, None, None)))
    return words


def _beside_helia(setting: Setting, stack: contextlib.ExitStack) -> Iterator[Result]:
    size = setting.size(HELIA_MIB, 32) << 20
    what = f"get {size >> 20} MiB of random, to a file"
    try:
        helia, cwd = need_helia(setting.peers)
    except MissingError as error:
        yield skip(ROW, what, "Helia", str(error))
        return
    directory = setting.directory / "helia"
    directory.mkdir()
    source, out = directory / "source", directory / "out"
    documents.write_random(source, size)
    home = make_home(directory / "holder")
    root = put(home, source)
    getter = Getter(directory, out, stack.enter_context(node(home)), root, size)
    line, _ = stack.enter_context(server([*helia, "serve", str(source)], cwd=cwd))
    address, cid = line.split()
    cases = {
        "helia": lambda: timed([*helia, "get", address, cid, str(out)], out, size, cwd),
        "rage": getter.uncached,
    }
    samples = alternate(cases, setting.rounds)
    note = "both sides of Helia hold blocks in memory"
    yield Result(ROW, what, "MB/s", samples["rage"], "at least", 4.0, "Helia", samples["helia"], note)
