"""Seeded runs in which logs of one or two organisations must come to one state, whatever happens on the way.

    python -m tests.sim.convergence --seed N [--verbose]

A run has 3 to 7 nodes with the real log, rights and authority, in memory, and a network of messages on a virtual clock:
a queue of events, no asyncio. People put, name, share, deny, delegate, remove and revoke, several at once and on clocks
that are hours off; messages are lost, late, twice, reordered, replayed; the network parts; nodes restart and come back
from old copies; hostile authors sign what no log would. Then the network heals, all exchange what they have, and the
claims are checked (`convergence_claims`); some of them after every step.

Not here: streams, gossip, the wire's encoding (tests of `services.syncing`), bytes of documents.
Source: issue 4, "It must reach"; design D6, D7.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from rage_net.acl import Principal
from rage_net.cid import Cid
from rage_net.errors import RageError
from rage_net.services.ledger import authority as authority_module
from rage_net.sync import payloads, taking
from rage_net.sync.catalog import Changes
from rage_net.sync.envelope import Head, Segment, fact_id
from rage_net.sync.facts import (
    Access,
    Acknowledgement,
    Document,
    New,
    NodeRecord,
    Revocation,
    Tombstone,
    Trust,
)
from rage_net.sync.vocabulary import document_id
from tests.sim.convergence_cast import (
    CAPABILITIES,
    EPOCH_S,
    ORGANIZATIONS,
    SCOPES,
    Author,
    Clock,
    Node,
    NodeEnv,
    cast,
    verify_once,
)
from tests.sim.convergence_claims import Broken, check_agreement, check_given, check_node, raw_facts
from tests.sim.convergence_hostile import Hostile

PEOPLE_S = 600.0
"""In which everyone acts; then the network heals."""
ROUNDS_MAX = 16
"""Of exchanges of all with all at the end; in most runs the third has nothing to bring."""
ROOT = Cid.parse("bafkr4ictwclhjxyxbu3tqnqaqvhchfk3vm3zdsyneyxq2cltifqkl3auda")
SKEWS_S = (0.0, 0.0, 60.0, -60.0, 3600.0, -3600.0, 6 * 3600.0, -5 * 3600.0)


@dataclass
class Outcome:
    """What a run was like."""

    seed: int
    nodes: int = 0
    facts: int = 0
    events: Counter[str] = field(default_factory=Counter)


class World:
    """One run."""

    def __init__(self, seed: int, *, is_verbose: bool = False) -> None:
        self.rng = random.Random(f"convergence {seed}")
        self.clock = Clock()
        self.outcome = Outcome(seed)
        self.is_verbose = is_verbose
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        rng = self.rng
        self.strategy = rng.choice(("most-restrictive",) * 4 + ("manual", "merge", "last-write-wins"))
        self.organizations = ORGANIZATIONS if rng.random() < 0.4 else ORGANIZATIONS[:1]
        self.loss = rng.choice((0.0, 0.1, 0.3))
        self.delay_s = rng.choice((1.0, 20.0, 90.0))
        self.nodes = self._make_nodes()
        self.hostiles = self._make_hostiles()
        self.documents: dict[str, list[str]] = {organization: [] for organization in self.organizations}
        self.sides: dict[str, int] = {}
        self.old: list[tuple[str, list[Segment]]] = []
        """What passed between members of an organisation: it may come again."""
        self.forged: set[bytes] = set()

    def _make_nodes(self) -> list[Node]:
        rng, total = self.rng, self.rng.randint(3, 7)
        counts = [total] if len(self.organizations) == 1 else [total - total // 3, total // 3]
        nodes = []
        for organization, count in zip(self.organizations, counts, strict=True):
            first, *others = cast().authors[organization]
            for author in [first, *rng.sample(others, count - 1)]:
                env = NodeEnv(f"{rng.getrandbits(64)}", self.clock, rng.choice(SKEWS_S))
                node = Node(author, env, self.strategy)  # type: ignore[arg-type]
                node.certify(0)
                nodes.append(node)
        self.outcome.nodes = len(nodes)
        return nodes

    def _make_hostiles(self) -> list[Hostile]:
        rng, found = self.rng, []
        for _ in range(rng.choice((0, 1, 1, 2))):
            organization = rng.choice(self.organizations)
            busy = {node.author.name for node in self.nodes}
            free = [author for author in cast().authors[organization] if author.name not in busy]
            kind = rng.random()
            if kind < 0.15:
                author = rng.choice([node.author for node in self.nodes])  # a stolen key
            elif kind < 0.3:
                author = cast().impostors[organization]
            else:
                author = rng.choice(free)
            log = rng.choice(self.organizations) if rng.random() < 0.2 else author.organization
            found.append(Hostile(author, log, rng))
        return found

    # --- time ---

    def at(self, delay_s: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.clock.now + delay_s, self._count, act))

    def run(self) -> Outcome:
        rng = self.rng
        for _ in range(rng.randint(14, 30)):
            self.at(rng.uniform(0, PEOPLE_S), self._act)
        for _ in range(rng.randint(10, 26)):
            self.at(rng.uniform(0, PEOPLE_S), self._meet)
        for _ in range(rng.randint(0, 8)):
            self.at(rng.uniform(0, PEOPLE_S), self._mishap)
        while self._events:
            self.clock.now, _, act = heapq.heappop(self._events)
            act()
        self._heal()
        for node in self.nodes:
            if rng.random() < 0.3:
                self._try(node, self._compact)
        self._settle()
        for node in self.nodes:
            self.outcome.facts = max(self.outcome.facts, len(raw_facts(node, node.organization)))
            node.log.close()
        return self.outcome

    def _note(self, what: str, detail: object = "") -> None:
        self.outcome.events[what] += 1
        if self.is_verbose:
            print(f"{self.clock.now - EPOCH_S:7.1f} {what} {detail}")

    # --- what people do ---

    def _act(self) -> None:
        rng = self.rng
        if self.hostiles and rng.random() < 0.3:
            self._be_hostile(rng.choice(self.hostiles))
            return
        node = rng.choice(self.nodes)
        acts = self._do(node)
        if rng.random() < 0.3:  # another does something at once, mostly about the same
            self._do(rng.choice(self.nodes), like=acts)

    def _do(self, node: Node, like: str | None = None) -> str:
        rng = self.rng
        mine = self.documents[node.organization]
        names = ["put"] if not mine else ["put", "edit", "edit", "grant", "grant", "deny", "deny", "see", "delegate"]
        if mine:
            names += ["expiring", "end", "remove", "revoke", "serial", "renew", "trust", "tell", "acknowledge", "twins"]
            names += ["compact", "duel"] if rng.random() < 0.3 else []
        act = like if like and rng.random() < 0.7 and (mine or like == "put") else rng.choice(names)
        before = len(mine)
        if not self._try(node, getattr(self, f"_{act}")):
            return act
        self._check(
            node,
            node.organization,
            is_all=act in ("revoke", "duel", "compact", "serial", "renew", "trust") or len(mine) != before,
        )
        for peer in rng.sample(self.nodes, min(2, len(self.nodes))):
            self._pull(peer, node, node.organization)
        return act

    def _try(self, node: Node, do: Callable[[Node], None]) -> bool:
        name = do.__name__.strip("_")
        try:
            do(node)
        except RageError as error:
            self._note(f"{name} refused", f"{node.author.name}: {error}")
            return False
        self._note(name, node.author.name)
        return True

    def _doc(self, node: Node) -> str:
        return self.rng.choice(self.documents[node.organization])

    def _principal(self, node: Node) -> str:
        rng = self.rng
        author = rng.choice(self.nodes).author
        return rng.choice(
            (f"peer:{author.id}",) * 4 + (f"org:{author.organization}", f"org:{node.organization}", "anyone")
        )

    def _put(self, node: Node) -> None:
        rng, known = self.rng, self.documents[node.organization]
        if len(known) >= 4:
            self._edit(node)
            return
        doc_id = document_id(node.author.id, rng.getrandbits(64))
        if known and rng.random() < 0.15:
            doc_id = rng.choice(known)  # another claims it, too
        elif rng.random() < 0.15:
            doc_id = document_id(self.nodes[0].author.id, rng.getrandbits(64))  # it names somebody else
        news = [New(f"doc:{doc_id}", Document(ROOT, rng.randint(1, 1000), 1, int(node.env.now())))]
        if rng.random() < 0.5:
            news.append(New(f"doc:{doc_id}", Access(visibility=rng.choice(("org", "private", "federated", "public")))))
        node.write(*news)
        if doc_id not in known:
            known.append(doc_id)

    def _edit(self, node: Node) -> None:
        rng, doc_id = self.rng, self._doc(node)
        tag = rng.choice("abc")
        changes = rng.choice(
            (
                Changes(name=f"name {rng.randrange(9)}"),
                Changes(tags_added=(tag,)),
                Changes(tags_removed=(tag,)),
                Changes(policy=rng.choice("pq"), retention_until=rng.randrange(1 << 31)),
            )
        )
        fact = node.log.edit(node.organization, doc_id, changes)
        node.note([fact] if fact is not None else [])

    def _say(self, node: Node, access: Access, doc_id: str = "") -> None:
        """As an operator would, who is told when it would not count; one in five does so all the same."""
        resource = f"doc:{doc_id or self._doc(node)}"
        if self.rng.random() < 0.8:
            node.access.require_admin(node.organization, resource)
        node.write(New(resource, access))

    def _grant(self, node: Node) -> None:
        self._say(node, Access(self._principal(node), self.rng.choice(("read", "read", "write")), True))

    def _deny(self, node: Node) -> None:
        self._say(node, Access(self._principal(node), "read", False))

    def _see(self, node: Node) -> None:
        self._say(node, Access(visibility=self.rng.choice(("public", "federated", "org", "private"))))

    def _delegate(self, node: Node) -> None:
        self._say(node, Access(self._principal(node), "admin", self.rng.random() < 0.7))

    def _expiring(self, node: Node) -> None:
        end = int(node.env.now() + self.rng.choice((-3600, 60, 300, 3600, 6 * 3600)))
        self._say(node, Access(self._principal(node), "read", self.rng.random() < 0.7, max(1, end)))

    def _end(self, node: Node) -> None:
        """A right or a denial is taken back without the other in its place."""
        entries = node.access.rights(node.organization, f"doc:{(doc_id := self._doc(node))}").entries
        rights = [entry for entry in entries if not entry.visibility]
        if rights:
            entry = self.rng.choice(rights)
            self._say(node, Access(entry.principal, entry.action, not entry.allowed, 1), doc_id)

    def _twins(self, node: Node) -> None:
        """Two say the opposite of one principal at once."""
        doc_id, principal = self._doc(node), self._principal(node)
        others = [one for one in self.nodes if one.organization == node.organization and one is not node]
        self._say(node, Access(principal, "read", True), doc_id)
        if others:
            other = self.rng.choice(others)
            self._say(other, Access(principal, "read", False), doc_id)
            self._check(other, other.organization)

    def _remove(self, node: Node) -> None:
        if self.rng.random() < 0.5:
            doc_id = self._doc(node)
            if self.rng.random() < 0.8:
                node.access.require_admin(node.organization, f"doc:{doc_id}")
            node.write(New(f"doc:{doc_id}", Tombstone("removed")))

    def _acknowledge(self, node: Node) -> None:
        doc_id = self._doc(node)
        for fact in node.access.rights(node.organization, f"doc:{doc_id}").facts:
            if isinstance(fact.body, Tombstone):
                node.write(New(f"doc:{doc_id}", Acknowledgement(fact.id)))
                return

    def _revoke(self, node: Node) -> None:
        """An author, as far as it is heard here, or a little less; half of those who may not, try."""
        rng = self.rng
        if rng.random() < 0.5 or (
            not node.authority.is_admin(node.organization, node.author.id) and rng.random() < 0.5
        ):
            return
        authors = [one.author for one in self.nodes if one.organization == node.organization and one is not node]
        authors += [one.author for one in self.hostiles if one.author.id != node.author.id] * 2
        if not authors:
            return
        author = rng.choice(authors)
        accepted = [head for head in node.log.heads(node.organization) if head.chain.author == author.id]
        if accepted and rng.random() < 0.3:
            head = accepted[-1]
            accepted[-1] = Head(head.chain, rng.randint(1, head.sequence), head.hash)
        body = Revocation(author.id, b"", "key-compromise", is_author=True, accepted=tuple(accepted))
        node.write(New(f"peer:{author.id}", body))

    def _duel(self, node: Node) -> None:
        """Two admins revoke each other at once."""
        rivals = [one for one in self.nodes if one.organization == node.organization and one is not node]
        rivals = [one for one in (node, *rivals) if one.authority.is_admin(one.organization, one.author.id)][:2]
        for one, other in zip(rivals, rivals[::-1], strict=True):
            accepted = tuple(each for each in one.log.heads(one.organization) if each.chain.author == other.author.id)
            body = Revocation(other.author.id, b"", "", is_author=True, accepted=accepted)
            if one is not other and self.rng.random() < 0.5:
                one.write(New(f"peer:{other.author.id}", body))
                self._check(one, one.organization)

    def _compact(self, node: Node) -> None:
        """Our own chains are rewritten; or an admin takes over what is wanted of another."""
        rng, organization = self.rng, node.organization
        if rng.random() < 0.6:
            shed = node.log.compact(organization)
        else:
            departed = rng.choice([one.author for one in (*self.nodes, *self.hostiles)])
            shed = node.log.adopt(organization, departed.id)
        self.outcome.events["shed"] += shed
        node.note([], is_rejudged=True)

    def _serial(self, node: Node) -> None:
        """A certificate is revoked, and not what its author wrote."""
        authors = [one.author for one in self.nodes if one.organization == node.organization and one is not node]
        if authors and self.rng.random() < 0.2:
            author = self.rng.choice(authors)
            node.write(New(f"cert:{author.serials[0].hex()}", Revocation(author.id, author.serials[0], "")))

    def _renew(self, node: Node) -> None:
        if self.rng.random() < 0.5:
            node.certify(1)

    def _trust(self, node: Node) -> None:
        other = next((each for each in self.organizations if each != node.organization), None)
        if other is not None:
            ca = cast().anchors[other].certificate
            node.write(New(f"org:{other}", Trust(ca, SCOPES, withdrawn=self.rng.random() < 0.2)))

    def _tell(self, node: Node) -> None:
        node.write(New(f"peer:{node.author.id}", NodeRecord("eu", weight=self.rng.randint(1, 4))))

    # --- hostile authors ---

    def _be_hostile(self, hostile: Hostile) -> None:
        rng = self.rng
        organization = hostile.organization
        victims = [node for node in self.nodes if organization in (node.organization, *node.log.organizations())]
        if not victims:
            return
        read_from = rng.choice(victims)
        facts = raw_facts(read_from, organization)
        principals = [f"peer:{node.author.id}" for node in self.nodes] + [f"peer:{hostile.author.id}", "anyone"]
        for _ in range(rng.randint(1, 3)):
            hostile.say(facts, self.documents[organization], principals, self.clock.now)
        luck = rng.random()
        if luck < 0.15:
            hostile.fork()
        elif luck < 0.25:
            hostile.renew()
        elif luck < 0.32:
            hostile.begin_again()
        self._note("hostile", f"{hostile.author.name} in {organization}")
        for node in rng.sample(victims, min(2, len(victims))):
            segments = hostile.segments()
            heads = [head for head in read_from.log.heads(organization) if head.chain.author != hostile.author.id]
            if heads and rng.random() < 0.3:
                head, payload = rng.choice(heads), hostile.branches[0][-1]
                segments.append(hostile.forged(head, payload))
                self.forged.add(fact_id(head.chain.author, payload))
            self.at(rng.uniform(0, self.delay_s), self._taking(node, organization, segments))

    # --- the network ---

    def _meet(self) -> None:
        asker, holder = self.rng.sample(self.nodes, 2)
        for organization in self.organizations:
            self._pull(asker, holder, organization)
        replayed = self.rng.random() < 0.1 and [one for one in self.old if one[0] == asker.organization]
        if replayed:
            self._note("replay")
            self.at(0, self._taking(asker, *self.rng.choice(replayed)))

    def _reach(self, one: Node, other: Node) -> bool:
        return one.is_up and other.is_up and self.sides.get(one.author.name, 0) == self.sides.get(other.author.name, 0)

    def _pull(self, asker: Node, holder: Node, organization: str) -> None:
        """Asks, if it would: a member of ours for any log, another for its own organisation's."""
        if asker is holder or not may_pull(asker, holder, organization) or self.rng.random() < self.loss:
            return
        known = asker.log.heads(organization)
        bytes_max = self.rng.choice((1, 600, 1 << 20, 1 << 20))
        self.at(self.rng.uniform(0, self.delay_s), lambda: self._serve(asker, holder, organization, known, bytes_max))

    def _serve(self, asker: Node, holder: Node, organization: str, known: Sequence[Head], bytes_max: int) -> None:
        if not self._reach(asker, holder):
            return
        segments = serve(holder, asker, organization, known, bytes_max)
        rng = self.rng
        if not segments or rng.random() < self.loss:
            return
        if asker.organization == holder.organization == organization:
            self.old.append((organization, list(segments)))
        if rng.random() < 0.2:
            rng.shuffle(segments)
        if rng.random() < 0.1:
            segments.pop(rng.randrange(len(segments)))
        take = self._taking(asker, organization, segments)
        self.at(rng.uniform(0, self.delay_s), take)
        if rng.random() < 0.1:
            self.at(rng.uniform(0, 3 * self.delay_s), take)

    def _taking(self, node: Node, organization: str, segments: list[Segment]) -> Callable[[], None]:
        def take() -> None:
            if node.is_up and segments:
                self._take(node, organization, segments)

        return take

    def _take(self, node: Node, organization: str, segments: Sequence[Segment]) -> None:
        taken = node.take(organization, segments)
        for _, reason in taken.refused:
            self.outcome.events[f"refused {reason}"] += 1
        self.outcome.events["forks"] += len(taken.forks)
        self.outcome.events["incarnations"] += taken.is_behind_ours
        if not (taken.new or taken.forks or taken.is_rejudged):
            return
        resources = None if taken.is_rejudged else taken.resources
        self._check(
            node, organization, is_all=resources is None or any(not one.startswith("doc:") for one in resources)
        )

    # --- what goes wrong ---

    def _mishap(self) -> None:
        rng, node = self.rng, self.rng.choice(self.nodes)
        match rng.randrange(5):
            case 0:
                self._note("partition")
                self.sides = {one.author.name: rng.randrange(2) for one in self.nodes}
                self.at(rng.uniform(10, 200), self.sides.clear)
            case 1:
                self._note("restart", node.author.name)
                node.restart(node.file.image())
            case 2:
                self._note("stop", node.author.name)
                node.is_up = False
                self.at(rng.uniform(5, 120), lambda: setattr(node, "is_up", True))
            case 3:
                node.backup = node.file.image()
            case _:
                if node.backup is not None:
                    self._note("restored backup", node.author.name)
                    node.learnt.clear()
                    node.restart(node.backup)

    def _heal(self) -> None:
        self.sides.clear()
        for node in self.nodes:
            node.is_up = True
            node.env.skew_s = 0.0  # rights that expire are compared, so clocks are set right at last
            node.access.forget_all()

    # --- the end ---

    def _settle(self) -> None:
        """Everyone exchanges with everyone who would, in any order, until nothing is new; then all must agree."""
        for at in range(ROUNDS_MAX + 1):
            pairs = [(one, other) for one in self.nodes for other in self.nodes if one is not other]
            self.rng.shuffle(pairs)
            is_moving = False
            for asker, holder in pairs:
                for organization in self.organizations:
                    if not may_pull(asker, holder, organization):
                        continue
                    segments = serve(holder, asker, organization, asker.log.heads(organization), 1 << 20)
                    if segments:
                        before = asker.log.digest(organization), len(asker.log.evidence())
                        self._take(asker, organization, segments)
                        is_moving |= before != (asker.log.digest(organization), len(asker.log.evidence()))
            if not is_moving:
                self.outcome.events[f"rounds {at}"] += 1
                break
        else:
            raise Broken("1: exchanges do not come to an end")
        for organization in self.organizations:
            for group in self._groups(organization):
                for node in group:
                    self._check(node, organization, is_all=True)
                check_agreement(group, organization)

    def _groups(self, organization: str) -> Iterator[list[Node]]:
        """Members who exchange with each other, directly or not: who is revoked is left alone."""
        left = [node for node in self.nodes if node.organization == organization]
        while left:
            group = [left.pop(0)]
            for node in group:
                near = [one for one in left if may_pull(one, node, organization) and may_pull(node, one, organization)]
                near = [
                    one for one in near if may_serve(one, node, organization) and may_serve(node, one, organization)
                ]
                group += near
                left = [one for one in left if one not in near]
            yield group

    # --- claims ---

    def _check(self, node: Node, organization: str, *, is_all: bool = True) -> None:
        if organization != node.organization:
            return
        doc_ids = self.documents[organization]
        if not is_all and doc_ids:
            doc_ids = doc_ids[-2:]
        principals = [principal for one in self.nodes if (principal := node.principal_of(one.author)).organization]
        check_node(node, organization, doc_ids, principals, self.forged)
        if self.rng.random() < 0.1:
            node.access.conflicts(organization)


def may_pull(asker: Node, holder: Node, organization: str) -> bool:
    """As `Syncing` asks: members of ours for every log, others for that of their organisation if trust opens sync."""
    principal = asker.principal_of(holder.author)
    if principal.organization == asker.organization:
        return organization == asker.organization or organization in holder.log.organizations()
    return principal.organization == organization and "sync" in principal.scopes


def may_serve(holder: Node, asker: Node, organization: str) -> bool:
    principal = holder.principal_of(asker.author)
    if principal.organization == holder.organization:
        return True
    return "sync" in principal.scopes and organization == holder.organization


def serve(holder: Node, asker: Node, organization: str, known: Sequence[Head], bytes_max: int) -> list[Segment]:
    """What the holder answers, checked for what it must not give."""
    if not may_serve(holder, asker, organization):
        return []
    principal = holder.principal_of(asker.author)
    may_see = holder.access.may_see(principal, organization, ())
    segments = list(holder.log.missing(organization, known, is_complete=True, bytes_max=bytes_max, may_see=may_see))
    if principal.organization != holder.organization:
        given = [
            (segment.chain, sequence, entry.payload)
            for segment in segments
            for sequence, entry in enumerate(segment.entries, segment.first)
            if entry.payload is not None
        ]
        check_given(holder, principal, organization, given)
    return segments


@contextmanager
def verified_once() -> Iterator[None]:
    """Certificates, signatures and payloads are read once, not once for each node: all three are pure functions."""
    with (
        mock.patch.object(authority_module, "verify_chain", verify_once),
        mock.patch.object(taking, "verify_signature", functools.lru_cache(4096)(taking.verify_signature)),
        mock.patch.object(payloads, "decode_payload", functools.lru_cache(4096)(payloads.decode_payload)),
    ):
        yield


def play(seed: int, *, is_verbose: bool = False) -> Outcome:
    """One run. Raises Broken, with the seed and how to repeat it, when a claim does not hold."""
    with verified_once():
        try:
            return World(seed, is_verbose=is_verbose).run()
        except Exception as error:
            repeat = f"seed {seed}: {error}\nrepeat: python -m tests.sim.convergence --seed {seed} --verbose"
            raise (Broken(repeat) if isinstance(error, Broken) else RuntimeError(repeat)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args(arguments)
    try:
        print(play(chosen.seed, is_verbose=chosen.verbose))
    except Broken as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["CAPABILITIES", "Author", "Broken", "Outcome", "Principal", "play", "verified_once"]
