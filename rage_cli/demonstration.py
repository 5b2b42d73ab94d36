"""The demonstration behind `rage demo`: two organisations, an outsider, documents, deaths, and three ways to say no.

acme has alpha and beta, and later delta; birch has gamma; crow is of an organisation that nobody trusts. All are real
processes, told one discovery server and nobody's address. Where Varnish is installed, echo stands behind two edges of a
CDN, and one of them dies. Each claim is tried where it could fail, and one that does not hold ends the demonstration
with an error. Nothing stays: nodes, edges and homes are gone when it ends, however it does.
Not here: how nodes and certificates are made (`staging`), and edges (`edges`), how the table looks (`commands/demo`).

Source: issue 2, section G; issue 3 and 4, "Done when"; issue 6, "It must reach".
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rage_cli import edges, staging
from rage_cli.edges import VarnishEdge
from rage_cli.files import FileSink, FileSource
from rage_cli.staging import MIB, VERB_S, DemoNode
from rage_net.errors import DeadlineError, FindingsError, IntegrityError, RageError
from rage_net.verbs import Progress, Verb
from rage_net.verbs.acl import GrantAcl, RevokeAcl
from rage_net.verbs.cdn import ListPurges, PurgeCdn, PurgeResult
from rage_net.verbs.cert import RevokeCertificate
from rage_net.verbs.chunk import (
    GetChunk,
    ListChunks,
    PutChunk,
    RemoveChunk,
    Source,
    VerifyChunks,
    Visibility,
)
from rage_net.verbs.peer import DiscoverPeers, ListPeers
from rage_net.verbs.replication import AuditReplication, AuditResult
from rage_net.verbs.trust import AddTrust, ProbeTrust

R = TypeVar("R")

REPORT_BYTES = 4 * MIB
PLAN_BYTES = 256 * 1024
ARCHIVE_BYTES = 64 * MIB
NOTICE_BYTES = 128 * 1024

PLAY_S_MAX = 50.0
"""For all of it; it takes 18 s on two busy cores. With the nodes' end it is over within a minute, whatever happens."""
SOON_S = 10.0
"""For what one node has written to hold on the others; it takes a fraction of a second."""
POLL_S = 0.05

COPIES = 2
REPLICATION = f"replication: {{version: 1, default_factor: {COPIES}, grace: 2s}}\n"
"""Of acme's nodes: with the default grace, a restart of half a minute is no loss, and the demonstration longer."""
REPAIR_S = 30.0

EQUAL = "equal, byte for byte"
SCOPES = ("chunks", "sync")

DEATH_AT = 0.3
"""The share of the archive after which its first holder is killed."""

REFUSED = frozenset({"chunk-not-found", "document-not-found", "sources-unreachable", "peer-not-trusted"})
"""How others say that they have nothing for us. Any other error ends the demonstration: it proves nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened: what, of how many bytes, in which time, and how it ended."""

    what: str
    size: int | None
    seconds: float
    outcome: str


def perform(tell: Callable[[str], None]) -> Iterator[Step]:
    """The steps, as they are done. `tell` is given words before each.

    Raises: FindingsError when a claim fails, IntegrityError when a byte is wrong, DeadlineError after PLAY_S_MAX; what
    a node answers that it should not.
    """
    names = ("server", "alpha", "beta", "gamma", "crow", "delta", "echo")
    with (
        tempfile.TemporaryDirectory(prefix="rage-demo-") as place,
        staging.nodes(Path(place), names) as nodes,
        edges.edges(Path(place), ("edge-1", "edge-2")) as both,
    ):
        yield from _Story(Path(place), nodes, both, tell).play()


class _Story:
    """The nodes and documents of one performance, and what is done with them."""

    def __init__(
        self,
        place: Path,
        nodes: tuple[DemoNode, ...],
        both: tuple[VarnishEdge, ...],
        tell: Callable[[str], None],
    ) -> None:
        self.server, self.alpha, self.beta, self.gamma, self.crow, self.delta, self.echo = nodes
        self.edges = both
        self.place = place
        self.tell = tell
        self.report, self.plan, self.archive = (place / name for name in ("report.txt", "plan.txt", "archive.bin"))
        self.roots: dict[Path, str] = {}
        self.ends_at = time.monotonic() + PLAY_S_MAX

    def play(self) -> Iterator[Step]:
        """All acts, in order."""
        for act in (
            self._certify,
            self._start,
            self._trust,
            self._put,
            self._share,
            self._shut_out,
            self._grant,
            self._remove,
            self._kill,
            self._welcome,
            self._repair,
            self._revoke,
            self._purge,
        ):
            yield from act()
            self._left()

    # --- the acts ---

    def _certify(self) -> Iterator[Step]:
        self.tell("making the CAs of acme, birch and crow, and certificates of their nodes")
        begun = time.monotonic()
        staging.launch([self.server], ["discovery", "serve", "--listen", "127.0.0.1:0"])
        self.acme, self.birch, crow = (staging.found(self.place / f"ca-{it}", it) for it in ("acme", "birch", "crow"))
        for node in (self.alpha, self.beta):
            self.acme.certify(node, "storage", "admin")
        self.acme.certify(self.delta, "storage")
        for node in (self.alpha, self.beta, self.delta):
            (node.home.config / "replication.yaml").write_text(REPLICATION, "utf-8")
        self.birch.certify(self.gamma, "storage", "admin")
        crow.certify(self.crow, "storage", "admin")
        staging.wait_ready([self.server])
        words = "3 CAs, 5 nodes' certificates, a discovery server"
        yield Step("make acme, birch, crow", None, time.monotonic() - begun, words)

    def _start(self) -> Iterator[Step]:
        self.tell("starting four nodes")
        begun = time.monotonic()
        for node in (self.alpha, self.beta, self.gamma, self.crow, self.delta):
            staging.tell_server(node, self.server)
        some = (self.alpha, self.beta, self.gamma, self.crow)
        staging.launch(some, ["node", "start"])
        staging.write_text(self.report, REPORT_BYTES)
        staging.write_text(self.plan, PLAN_BYTES)
        staging.write_archive(self.archive, ARCHIVE_BYTES)
        staging.wait_ready(some)
        self._wait(lambda: self._meets(self.beta, self.alpha), "beta finds alpha by the server")
        words = "acme's alpha and beta, birch's gamma, crow; told the server alone"
        yield Step("start 4 nodes", None, time.monotonic() - begun, words)

    def _trust(self) -> Iterator[Step]:
        self.tell("letting acme and birch trust each other")
        begun = time.monotonic()
        self._run(self.alpha, AddTrust("birch", ca=self.birch.pem, scopes=SCOPES))
        self._run(self.gamma, AddTrust("acme", ca=self.acme.pem, scopes=SCOPES))
        self._wait(lambda: self._meets(self.gamma, self.alpha, self.beta), "alpha, beta and gamma let each other in")
        seconds = time.monotonic() - begun
        yield Step(
            "acme and birch trust each other", None, seconds, "alpha and gamma wrote it; beta lets gamma in, too"
        )

    def _put(self) -> Iterator[Step]:
        documents: tuple[tuple[Path, Visibility], ...] = (
            (self.report, "federated"),
            (self.plan, "org"),
            (self.archive, "federated"),
        )
        for path, visibility in documents:
            self.tell(f"putting {path.name} on alpha")
            begun = time.monotonic()
            verb = PutChunk(name=path.name, visibility=visibility, size=path.stat().st_size)
            with FileSource(str(path)) as source:
                found = self._run(self.alpha, verb, source=source)
            self.roots[path] = found.root
            words = f"{visibility}; {found.total_chunks} chunks, {_brief(found.root)}"
            yield Step(f"put {path.name} on alpha", found.size, time.monotonic() - begun, words)

    def _share(self) -> Iterator[Step]:
        self.tell("fetching by name on beta and gamma")
        seconds = sum(self._get_soon(self.beta, path) for path in (self.plan, self.archive))
        yield Step("get plan.txt, archive.bin on beta", PLAN_BYTES + ARCHIVE_BYTES, seconds, EQUAL)
        seconds = self._get_soon(self.gamma, self.report)
        yield Step("get report.txt on gamma, by name", REPORT_BYTES, seconds, EQUAL)
        begun = time.monotonic()
        self._refuse(self.gamma, self.plan.name)
        self._refuse(self.gamma, self.roots[self.plan], (self.alpha, self.beta))
        yield Step("get plan.txt on gamma", None, time.monotonic() - begun, "nothing, by name nor by CID: acme's alone")

    def _shut_out(self) -> Iterator[Step]:
        self.tell("trying all three on crow, which knows their CIDs and who has them")
        begun = time.monotonic()
        for root in self.roots.values():
            self._refuse(self.crow, root, (self.alpha, self.beta, self.gamma))
        probe = self._run(self.crow, ProbeTrust(self.alpha.address))
        chunks = self._run(self.crow, ListChunks(chunks=True)).items
        if chunks or not probe.refused_by_peer:
            raise FindingsError("the outsider is let in", why=f"it has {len(chunks)} chunks")
        words = f"nothing; alpha says {probe.refused_by_peer}"
        yield Step("get all on crow, by CID", None, time.monotonic() - begun, words)

    def _grant(self) -> Iterator[Step]:
        """A grant opens, its revocation closes; gamma keeps nothing, and asks all who have it."""
        self.tell("granting plan.txt to birch, and taking it back")
        begun = time.monotonic()
        self._run(self.alpha, GrantAcl(self.plan.name, "org:birch", "read"))
        self._get_soon(self.gamma, self.plan, sources=("p2p",), cache=False)
        seconds = time.monotonic() - begun
        yield Step("grant plan.txt to birch", PLAN_BYTES, seconds, f"gamma gets it by name; {EQUAL}")
        begun = time.monotonic()
        self._run(self.alpha, RevokeAcl(self.plan.name, "org:birch", "read"))
        root, holders = self.roots[self.plan], (self.alpha, self.beta)
        self._wait(lambda: self._is_refused(self.gamma, root, holders), "gamma gets plan.txt no longer")
        yield Step("revoke it", None, time.monotonic() - begun, "gamma gets nothing, of alpha nor of beta")

    def _remove(self) -> Iterator[Step]:
        self.tell("removing plan.txt everywhere")
        begun = time.monotonic()
        done = self._run(self.alpha, RemoveChunk(self.plan.name, everywhere=True, wait_s=SOON_S))
        seconds = time.monotonic() - begun
        if done.acknowledged != (self.beta.peer_id,) or done.awaiting:
            raise FindingsError("the removal was not acknowledged by beta, and beta alone", why=str(done.acknowledged))
        for node in (self.alpha, self.beta):
            self._refuse(node, self.plan.name, sources=("local", "p2p"))
        yield Step("remove plan.txt everywhere", None, seconds, "beta has dropped it, and said so")

    def _kill(self) -> Iterator[Step]:
        """Gamma fetches from alpha and beta, and alpha is killed on the way."""
        self.tell("fetching archive.bin on gamma, and killing alpha midway")
        given: dict[str, int] = {}
        died_at, died_s = 0, 0.0
        begun = time.monotonic()

        def watch(progress: Progress) -> None:
            nonlocal died_at, died_s
            if not died_at and progress.done > DEATH_AT * ARCHIVE_BYTES:
                died_at, died_s = progress.done, time.monotonic() - begun
                given.update(self._received(self.gamma))
                self.alpha.kill()

        before = self._received(self.gamma)
        seconds = self._get(self.gamma, self.archive, watch)
        after = {**given, **self._received(self.gamma)}
        both = {it.name: after.get(it.peer_id, 0) - before.get(it.peer_id, 0) for it in (self.alpha, self.beta)}
        words = ", ".join(f"{name} gave {size / MIB:.0f} MiB" for name, size in both.items())
        if not died_at or min(both.values()) <= 0:
            raise FindingsError("archive.bin did not come from both", why=words)
        yield Step(f"  kill alpha at {100 * died_at // ARCHIVE_BYTES} %", None, died_s, words)
        yield Step("get archive.bin on gamma, by name", ARCHIVE_BYTES, seconds, EQUAL)
        checked = self._run(self.gamma, VerifyChunks())
        if checked.bad:
            raise IntegrityError(f"{len(checked.bad)} chunks of gamma's store are bad")
        yield Step("verify gamma's store", checked.bytes, checked.seconds, f"{checked.checked} chunks, none bad")

    def _welcome(self) -> Iterator[Step]:
        self.tell("starting delta of acme, which is told the server alone")
        begun = time.monotonic()
        staging.launch([self.delta], ["node", "start"])
        staging.wait_ready([self.delta])
        others = (self.beta, self.gamma)
        self._wait(lambda: self._meets(self.delta, *others), "delta finds beta and gamma by the server")
        self._wait(
            lambda: all(self.delta.peer_id in self._received(node) for node in others), "beta and gamma let delta in"
        )
        words = "finds beta and gamma, and is let in; alpha is dead"
        yield Step("start delta of acme", None, time.monotonic() - begun, words)
        seconds = self._get_soon(self.delta, self.report)
        yield Step("get report.txt on delta, by name", REPORT_BYTES, seconds, EQUAL)

    def _repair(self) -> Iterator[Step]:
        self.tell("waiting until delta holds, in alpha's stead, what placement wants of it")
        begun = time.monotonic()
        found: list[AuditResult] = []

        def is_whole() -> bool:
            found.append(self._run(self.beta, AuditReplication(ref=self.archive.name, prove=True)))
            return bool(found[-1].checked) and found[-1].ok + found[-1].over == found[-1].checked

        self._wait(is_whole, f"{self.archive.name} has {COPIES} copies again, proved", REPAIR_S)
        short = max(one.checked - one.ok - one.over for one in found)
        words = f"{found[-1].checked} chunks, {COPIES} copies of each, proved by challenge; {short} had lost one"
        yield Step("  copies of archive.bin", ARCHIVE_BYTES, time.monotonic() - begun, words)

    def _revoke(self) -> Iterator[Step]:
        self.tell("revoking delta's certificate")
        others = (self.beta, self.gamma)
        self.acme.record_revoked(self.delta, "key-compromise")
        begun = time.monotonic()
        self._run(self.beta, RevokeCertificate(self.delta.serial, self.delta.peer_id, "key-compromise"))
        self._wait(
            lambda: not any(self.delta.peer_id in self._received(node) for node in others), "beta and gamma cut delta"
        )
        seconds = time.monotonic() - begun
        self._refuse(self.delta, self.roots[self.archive], others)
        yield Step("revoke delta's certificate", None, seconds, "cut by beta and by gamma; it gets nothing more")

    def _purge(self) -> Iterator[Step]:
        """A CDN of two edges: filled, purged and counted; one is away, is told when it is back, and that is proved."""
        lacking = edges.missing()
        if lacking:
            yield Step("purge a CDN", None, 0.0, f"not shown: no {lacking} here")
            return
        self.tell("starting echo of acme, and two Varnish edges before it")
        begun = time.monotonic()
        first, second = self.edges
        token = edges.configure(self.edges, self.echo.home.config / "cdn.yaml")
        self.acme.certify(self.echo, "storage", public_access=True)
        staging.launch([self.echo], ["node", "start", "--http", "127.0.0.1:0"])
        staging.wait_ready([self.echo])
        edges.launch(self.edges, self.echo.http, token)
        notice = self.place / "notice.txt"
        staging.write_text(notice, NOTICE_BYTES)
        verb = PutChunk(name=notice.name, visibility="public", size=NOTICE_BYTES)
        with FileSource(str(notice)) as source:
            put = self._run(self.echo, verb, source=source)
        edges.wait_ready(self.edges)
        words = "varnishd, as rage renders"
        yield Step("start 2 edges before echo", None, time.monotonic() - begun, words)

        path = f"/chunks/{put.root}"
        self.tell("getting notice.txt from both edges, and purging it")
        begun = time.monotonic()
        self._caches("MISS", path)
        self._caches("HIT", path)
        words = "MISS, then HIT, on both"
        yield Step("get notice.txt of a CDN", 4 * put.size, time.monotonic() - begun, words)
        begun = time.monotonic()
        done = self._run(self.echo, PurgeCdn(docs=(put.doc_id,)))
        seconds = time.monotonic() - begun
        self._stands(done, {first: ("done", 1), second: ("done", 1)})
        self._caches("MISS", path)
        yield Step("cdn purge --doc DOC", None, seconds, "1 object gone from each")

        self.tell("killing an edge, and purging again")
        second.kill()
        begun = time.monotonic()
        done = self._run(self.echo, PurgeCdn(docs=(put.doc_id,)))
        self._stands(done, {first: ("done", 1), second: ("queued", None)})
        yield Step("  kill edge-2, and purge", None, time.monotonic() - begun, "1 done, 1 queued")
        begun = time.monotonic()
        second.launch()
        edges.wait_ready([second])
        self._wait(lambda: self._is_told(done.purge_id), "the journal tells edge-2")
        yield Step("  start edge-2", None, time.monotonic() - begun, "told by the journal")
        begun = time.monotonic()
        done = self._run(self.echo, PurgeCdn(docs=(put.doc_id,), wait_s=SOON_S))
        places = {(proof.edge, proof.proof) for proof in done.proofs}
        if places != {(edge.url, "gone") for edge in self.edges}:
            raise FindingsError("the purge was not proved at both edges", why=str(places))
        words = "gone, proved at both"
        yield Step("cdn purge --wait", None, time.monotonic() - begun, words)

    # --- what they are made of ---

    def _caches(self, word: str, path: str) -> None:
        """See that both edges give notice.txt, and say so. Raises: FindingsError, IntegrityError."""
        for edge in self.edges:
            status, said, body = edge.get(path)
            if (status, said) != (200, word):
                raise FindingsError(f"{edge.name} answers {status} {said}, not 200 {word}")
            if body != (self.place / "notice.txt").read_bytes():
                raise IntegrityError(f"notice.txt came out different of {edge.name}")

    def _stands(self, purge: PurgeResult, wanted: dict[VarnishEdge, tuple[str, int | None]]) -> None:
        """See that a purge stands so at each edge: its state, and how many objects went. Raises FindingsError."""
        found = {row.edge: (row.state, row.objects) for row in purge.rows}
        if found != {edge.url: state for edge, state in wanted.items()}:
            words = [f"{row.edge} {row.state} {row.objects} {row.reason}".rstrip() for row in purge.rows]
            raise FindingsError("a purge does not stand as it must", why="; ".join(words))

    def _is_told(self, purge_id: str) -> bool:
        """Whether each edge has done this purge."""
        (purge,) = self._run(self.echo, ListPurges(purge_id)).items
        return all(row.state == "done" for row in purge.rows)

    def _run(self, node: DemoNode, verb: Verb[R], **more: Any) -> R:
        with node.connect(min(VERB_S, self._left())) as connection:
            return connection.run(verb, **more)

    def _left(self) -> float:
        """Raises DeadlineError when nothing is left of the time."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"the demonstration was not over within {PLAY_S_MAX:g} s", why="is the machine busy?")
        return left

    def _wait(self, condition: Callable[[], bool], what: str, within_s: float = SOON_S) -> None:
        """Ask until it is so. Raises FindingsError when it is not in time."""
        until = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > until:
                raise FindingsError(f"it did not come about within {within_s:g} s: {what}")
            time.sleep(min(POLL_S, self._left()))

    def _meets(self, node: DemoNode, *others: DemoNode) -> bool:
        """Whether a node finds others by the server, and each lets the other in."""
        found = self._run(node, DiscoverPeers(via=("server",), for_s=SOON_S, connect=True)).items
        return {one.peer_id for one in others} <= {row.peer_id for row in found if row.is_connected}

    def _received(self, node: DemoNode) -> dict[str, int]:
        """Bytes the node has received, by connected peer."""
        return {row.peer_id: row.bytes_in for row in self._run(node, ListPeers()).items}

    def _get(
        self, node: DemoNode, path: Path, progress: Callable[[Progress], None] = lambda _: None, **more: Any
    ) -> float:
        """Fetch by name, compare with the original, and give the seconds of the fetch."""
        out, begun = self.place / f"{node.name}.out", time.monotonic()
        with FileSink(str(out)) as sink:
            self._run(node, GetChunk(path.name, **more), sink=sink, progress=progress)
        seconds = time.monotonic() - begun
        if _digest(out) != _digest(path):
            raise IntegrityError(f"{path.name} came out different on {node.name}")
        return seconds

    def _get_soon(self, node: DemoNode, path: Path, **more: Any) -> float:
        """The same, as soon as its name is known there; the seconds are those of the waiting, too."""
        begun = time.monotonic()

        def is_there() -> bool:
            try:
                self._get(node, path, **more)
            except RageError as error:
                if error.id in REFUSED:
                    return False
                raise
            return True

        self._wait(is_there, f"{node.name} gets {path.name}")
        return time.monotonic() - begun

    def _refuse(self, node: DemoNode, ref: str, holders: tuple[DemoNode, ...] = (), **more: Any) -> None:
        """See that nothing of `ref` comes to the node. Raises FindingsError when it does."""
        if not self._is_refused(node, ref, holders, **more):
            raise FindingsError(f"{node.name} got {ref}, and must not", why="a right is not enforced")

    def _is_refused(
        self, node: DemoNode, ref: str, holders: tuple[DemoNode, ...], sources: tuple[Source, ...] = ("p2p",)
    ) -> bool:
        verb = GetChunk(ref, peers=tuple(one.address for one in holders), sources=sources, cache=False)
        try:
            with FileSink(str(self.place / f"{node.name}.out")) as sink:
                self._run(node, verb, sink=sink)
        except RageError as error:
            if error.id not in REFUSED:
                raise
            return True
        return False


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _brief(cid: str) -> str:
    return f"{cid[:11]}...{cid[-4:]}"
