"""The demonstration behind `rage demo`: two organisations, an outsider, documents, a death, and three ways to say no.

acme has alpha and beta, and later delta; birch has gamma; crow is of an organisation that nobody trusts. All are real
processes, told one discovery server and nobody's address. Each claim is tried where it could fail, and one that does
not hold ends the demonstration with an error. Nothing stays: nodes and homes are gone when it ends, however it does.
Not here: how nodes and certificates are made (`staging`), how the table looks (`commands/demo`).

Source: issue 2, section G; issue 3 and 4, "Done when".
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rage_cli import staging
from rage_cli.files import FileSink, FileSource
from rage_cli.staging import MIB, DemoNode
from rage_net.errors import DeadlineError, IntegrityError, NotFoundError, RageError, UnavailableError
from rage_net.verbs import Progress, Verb
from rage_net.verbs.acl import GrantAcl, RevokeAcl
from rage_net.verbs.cert import RevokeCertificate
from rage_net.verbs.chunk import (
    GetChunk,
    ListChunks,
    PutChunk,
    PutChunkResult,
    RemoveChunk,
    RemoveChunkResult,
    Source,
    VerifyChunks,
    Visibility,
)
from rage_net.verbs.peer import DiscoverPeers, ListPeers
from rage_net.verbs.trust import AddTrust, ProbeTrust

R = TypeVar("R")

REPORT_BYTES = 4 * MIB
PLAN_BYTES = 256 * 1024
ARCHIVE_BYTES = 64 * MIB

SOON_S = 10.0
"""For what one node has written to hold on the others; it takes a fraction of a second."""
POLL_S = 0.05

EQUAL = "equal, byte for byte"
SCOPES = ("chunks", "sync")

DEATH_AT = 0.3
"""The share of the archive after which its first holder is killed."""

REFUSED = frozenset({"chunk-not-found", "document-not-found", "sources-unreachable", "peer-not-trusted"})
"""How a node says that it has nothing for us: the same words, whether it lacks it or keeps it to itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened: what, of how many bytes, in which time, and how it ended."""

    what: str
    size: int | None
    seconds: float
    outcome: str


class ClaimError(IntegrityError):
    """Something that the demonstration claims does not hold."""

    id = "demo-failed"


def perform(tell: Callable[[str], None]) -> Iterator[Step]:
    """The steps, as they are done. `tell` is given words before each. Raises ClaimError when any claim fails."""
    names = ("server", "alpha", "beta", "gamma", "crow", "delta")
    with tempfile.TemporaryDirectory(prefix="rage-demo-") as place, staging.nodes(Path(place), names) as nodes:
        yield from _Story(Path(place), nodes, tell).play()


class _Story:
    """The nodes and documents of one performance, and what is done with them."""

    def __init__(self, place: Path, nodes: tuple[DemoNode, ...], tell: Callable[[str], None]) -> None:
        self.server, self.alpha, self.beta, self.gamma, self.crow, self.delta = nodes
        self.place = place
        self.tell = tell
        self.report, self.plan, self.archive = (place / name for name in ("report.txt", "plan.txt", "archive.bin"))
        self.roots: dict[Path, str] = {}

    def play(self) -> Iterator[Step]:
        for act in (
            self._certify,
            self._start,
            self._trust,
            self._put,
            self._share,
            self._outsider,
            self._rights,
            self._remove,
            self._death,
            self._newcomer,
            self._revoke,
        ):
            yield from act()

    # --- the acts ---

    def _certify(self) -> Iterator[Step]:
        self.tell("making the CAs of acme, birch and crow, and certificates of their nodes")
        begun = time.monotonic()
        self.acme, self.birch, crow = (staging.found(self.place / f"ca-{it}", it) for it in ("acme", "birch", "crow"))
        for node in (self.alpha, self.beta):
            self.acme.certify(node, "storage", "admin")
        self.acme.certify(self.delta, "storage")
        self.birch.certify(self.gamma, "storage", "admin")
        crow.certify(self.crow, "storage", "admin")
        yield Step("make certificates", None, time.monotonic() - begun, "acme, birch and crow: 3 CAs, 5 nodes")

    def _start(self) -> Iterator[Step]:
        self.tell("starting a discovery server and four nodes")
        begun = time.monotonic()
        staging.start([self.server], ["discovery", "serve", "--listen", "127.0.0.1:0"])
        for node in (self.alpha, self.beta, self.gamma, self.crow, self.delta):
            staging.tell_server(node, self.server)
        staging.start([self.alpha, self.beta, self.gamma, self.crow], ["node", "start"])
        _wait(lambda: _meet(self.beta, self.alpha), "beta finds alpha by the server")
        words = "acme: alpha, beta; birch: gamma; crow: crow; each is told the server alone"
        yield Step("start a server, 4 nodes", None, time.monotonic() - begun, words)

    def _trust(self) -> Iterator[Step]:
        self.tell("letting acme and birch trust each other")
        begun = time.monotonic()
        _run(self.alpha, AddTrust("birch", ca=self.birch.pem, scopes=SCOPES))
        _run(self.gamma, AddTrust("acme", ca=self.acme.pem, scopes=SCOPES))
        _wait(lambda: _meet(self.gamma, self.alpha, self.beta), "gamma finds alpha and beta, and they let it in")
        seconds = time.monotonic() - begun
        yield Step("acme and birch trust each other", None, seconds, "alpha wrote it, and beta heard of it")

    def _put(self) -> Iterator[Step]:
        staging.write_text(self.report, REPORT_BYTES)
        staging.write_text(self.plan, PLAN_BYTES)
        staging.write_archive(self.archive, ARCHIVE_BYTES)
        documents: tuple[tuple[Path, Visibility], ...] = (
            (self.report, "federated"),
            (self.plan, "org"),
            (self.archive, "federated"),
        )
        for path, visibility in documents:
            self.tell(f"putting {path.name} on alpha")
            found, seconds = _put(self.alpha, path, visibility)
            self.roots[path] = found.root
            outcome = f"{visibility}; {found.total_chunks} chunks, {_brief(found.root)}"
            yield Step(f"put {path.name} on alpha", found.size, seconds, outcome)

    def _share(self) -> Iterator[Step]:
        self.tell("fetching by name on beta and gamma")
        begun = time.monotonic()
        for path in (self.plan, self.archive):
            self._get_soon(self.beta, path)
        size = PLAN_BYTES + ARCHIVE_BYTES
        yield Step("get plan.txt, archive.bin on beta", size, time.monotonic() - begun, EQUAL)
        seconds = self._get_soon(self.gamma, self.report)
        yield Step("get report.txt on gamma, by name", REPORT_BYTES, seconds, EQUAL)
        begun = time.monotonic()
        for ref in (self.plan.name, self.roots[self.plan]):
            self._refuse(self.gamma, ref)
        yield Step("get plan.txt on gamma", None, time.monotonic() - begun, "nothing, by name and by CID")

    def _outsider(self) -> Iterator[Step]:
        self.tell("trying all three on crow, who knows their CIDs and alpha's address")
        begun = time.monotonic()
        for root in self.roots.values():
            self._refuse(self.crow, root, holders=(self.alpha, self.beta, self.gamma))
        has = _run(self.crow, ListChunks(chunks=True)).items
        if has:
            raise ClaimError(f"the outsider has {len(has)} chunks")
        probe = _run(self.crow, ProbeTrust(self.alpha.address))
        if not probe.refused_by_peer:
            raise ClaimError("alpha does not refuse the outsider")
        words = f"nothing: no chunk here; alpha says {probe.refused_by_peer}"
        yield Step("get all on crow, by CID and address", None, time.monotonic() - begun, words)

    def _rights(self) -> Iterator[Step]:
        """A grant opens, a revocation closes; gamma asks every holder, and keeps nothing."""
        self.tell("granting plan.txt to birch, and taking it back")
        _run(self.alpha, GrantAcl(self.plan.name, "org:birch", "read"))
        seconds = self._get_soon(self.gamma, self.plan, sources=("p2p",), cache=False)
        yield Step("grant: get plan.txt on gamma, by name", PLAN_BYTES, seconds, EQUAL)
        begun = time.monotonic()
        _run(self.alpha, RevokeAcl(self.plan.name, "org:birch", "read"))
        self._refuse_soon(self.gamma, self.roots[self.plan], (self.alpha, self.beta))
        yield Step("revoke: get plan.txt on gamma", None, time.monotonic() - begun, "nothing, from alpha and from beta")

    def _remove(self) -> Iterator[Step]:
        self.tell("removing plan.txt everywhere")
        begun = time.monotonic()
        done: RemoveChunkResult = _run(self.alpha, RemoveChunk(self.plan.name, everywhere=True, wait_s=SOON_S))
        if done.acknowledged != (self.beta.peer_id,) or done.awaiting:
            raise ClaimError(f"the removal was acknowledged by {done.acknowledged}, and not by {done.awaiting}")
        for node in (self.alpha, self.beta):
            self._refuse(node, self.plan.name)
        yield Step("remove plan.txt everywhere", PLAN_BYTES, time.monotonic() - begun, "beta dropped it, and said so")

    def _death(self) -> Iterator[Step]:
        """gamma fetches from alpha and beta, and alpha is killed on the way."""
        self.tell("fetching archive.bin on gamma, and killing alpha midway")
        given: dict[str, int] = {}
        died_at, died_s = 0, 0.0
        begun = time.monotonic()

        def watch(progress: Progress) -> None:
            nonlocal died_at, died_s
            if not died_at and progress.done > DEATH_AT * ARCHIVE_BYTES:
                died_at, died_s = progress.done, time.monotonic() - begun
                given.update(_received(self.gamma))
                self.alpha.kill()

        before = _received(self.gamma)
        seconds = self._get(self.gamma, self.archive, progress=watch)
        after = {**given, **_received(self.gamma)}
        gave = {
            node.name: max(0, after.get(node.peer_id, 0) - before.get(node.peer_id, 0))
            for node in (self.alpha, self.beta)
        }
        if not died_at or not all(gave.values()):
            raise ClaimError("archive.bin did not come from both alpha and beta", why=str(gave))
        words = ", ".join(f"{name} gave {size / MIB:.0f} MiB" for name, size in gave.items())
        yield Step(f"  kill alpha at {100 * died_at // ARCHIVE_BYTES} %", None, died_s, words)
        yield Step("get archive.bin on gamma", ARCHIVE_BYTES, seconds, EQUAL)
        checked = _run(self.gamma, VerifyChunks())
        if checked.bad:
            raise ClaimError(f"{len(checked.bad)} chunks of gamma's store are bad")
        yield Step("verify gamma's store", checked.bytes, checked.seconds, f"{checked.checked} chunks, none bad")

    def _newcomer(self) -> Iterator[Step]:
        self.tell("starting delta of acme, which is told the server's address alone")
        begun = time.monotonic()
        staging.start([self.delta], ["node", "start"])
        seconds = time.monotonic() - begun
        yield Step("start delta of acme", None, seconds, "told the server alone; alpha, who wrote all, is dead")
        seconds = self._get_soon(self.delta, self.report)
        yield Step("get report.txt on delta, by name", REPORT_BYTES, seconds, EQUAL)

    def _revoke(self) -> Iterator[Step]:
        self.tell("revoking delta's certificate")
        self.acme.record_revoked(self.delta, "key-compromise")
        begun = time.monotonic()
        _run(self.beta, RevokeCertificate(self.delta.serial, self.delta.peer_id, "key-compromise"))

        def is_cut() -> bool:
            return not any(self.delta.peer_id in _connected(node) for node in (self.beta, self.gamma))

        _wait(is_cut, "beta and gamma have cut delta")
        seconds = time.monotonic() - begun
        self._refuse(self.delta, self.roots[self.archive], (self.beta, self.gamma))
        yield Step("revoke delta's certificate", None, seconds, "cut by acme's beta and birch's gamma; gets nothing more")

    # --- what they are made of ---

    def _get(self, node: DemoNode, path: Path, ref: str = "", **more: Any) -> float:
        """Fetch by name, compare with the original, and give the seconds of the fetch."""
        out, begun = self.place / f"{node.name}.out", time.monotonic()
        progress = more.pop("progress", lambda it: None)
        _run(node, GetChunk(ref or path.name, **more), sink=out, progress=progress)
        seconds = time.monotonic() - begun
        if _digest(out) != _digest(path):
            raise ClaimError(f"{path.name} came out different on {node.name}")
        return seconds

    def _get_soon(self, node: DemoNode, path: Path, **more: Any) -> float:
        """The same, as soon as its name is known there; the seconds are those of the waiting, too."""
        begun = time.monotonic()

        def try_it() -> bool:
            try:
                self._get(node, path, **more)
            except RageError as error:
                if error.id in REFUSED:
                    return False
                raise
            return True

        _wait(try_it, f"{node.name} gets {path.name}")
        return time.monotonic() - begun

    def _refuse(self, node: DemoNode, ref: str, holders: tuple[DemoNode, ...] = ()) -> None:
        """Nothing of `ref` comes to the node from others. Raises ClaimError when it does."""
        if not self._is_refused(node, ref, holders):
            raise ClaimError(f"{node.name} got {ref}, which it must not")

    def _refuse_soon(self, node: DemoNode, ref: str, holders: tuple[DemoNode, ...]) -> None:
        _wait(lambda: self._is_refused(node, ref, holders), f"{node.name} is refused {ref}")

    def _is_refused(self, node: DemoNode, ref: str, holders: tuple[DemoNode, ...]) -> bool:
        sources: tuple[Source, ...] = ("p2p",)
        verb = GetChunk(ref, peers=tuple(one.address for one in holders), sources=sources, cache=False)
        try:
            _run(node, verb, sink=self.place / f"{node.name}.out")
        except RageError as error:
            if error.id not in REFUSED:
                raise
            return True
        return False


def _run(
    node: DemoNode, verb: Verb[R], *, sink: Path | None = None, progress: Callable[[Progress], None] = lambda _: None
) -> R:
    into: AbstractContextManager[FileSink | None] = FileSink(str(sink)) if sink is not None else nullcontext()
    with node.connect() as connection, into as open_sink:
        return connection.run(verb, sink=open_sink, progress=progress)


def _put(node: DemoNode, path: Path, visibility: Visibility) -> tuple[PutChunkResult, float]:
    begun = time.monotonic()
    with node.connect() as connection, FileSource(str(path)) as source:
        found = connection.run(PutChunk(name=path.name, visibility=visibility, size=source.size), source=source)
    return found, time.monotonic() - begun


def _wait(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is so. Raises ClaimError after SOON_S."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline:
            raise ClaimError(f"it is not so within {SOON_S:g} s: {what}")
        time.sleep(POLL_S)


def _meet(node: DemoNode, *others: DemoNode) -> bool:
    """Whether a node finds others by the server, and each lets the other in."""
    found = _run(node, DiscoverPeers(via=("server",), for_s=SOON_S, connect=True)).items
    return {one.peer_id for one in others} <= {row.peer_id for row in found if row.is_connected}


def _received(node: DemoNode) -> dict[str, int]:
    """Bytes the node has received, by peer."""
    return {row.peer_id: row.bytes_in for row in _run(node, ListPeers()).items}


def _connected(node: DemoNode) -> set[str]:
    return {row.peer_id for row in _run(node, ListPeers()).items}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _brief(cid: str) -> str:
    return f"{cid[:11]}...{cid[-4:]}"
