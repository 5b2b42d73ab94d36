"""An author without manners, for the runs of `convergence`: signs what a log would never write, and sends it to anyone.

It has a key, mostly a genuine certificate, and reads the log of some node; it keeps its branches of one chain itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from rage_net.pb import rage_pb2 as pb
from rage_net.sync.envelope import ChainId, Entry, Head, Segment, extend
from rage_net.sync.facts import Access, Adoption, Certificate, Closing, Document, Edit, Fact, Revocation, Tombstone
from rage_net.sync.payloads import LAMPORT_MAX, Content, encode_payload
from rage_net.sync.vocabulary import FactError
from tests.sim.convergence_cast import Author

UNKNOWN_BODY = b"\xa2\x01\x02hi"
"""Field 20: two bytes that a later version may understand."""


class Hostile:
    """One such author, in one organisation's log: its own, or another's."""

    def __init__(self, author: Author, organization: str, rng: random.Random) -> None:
        self.author = author
        self.organization = organization
        self.rng = rng
        self.incarnation = rng.getrandbits(64)
        self.branches: list[list[bytes]] = [[self._certificate(0)]]

    def renew(self) -> None:
        self.rng.choice(self.branches).append(self._certificate(1))

    def begin_again(self) -> None:
        """Another incarnation: as after a revocation, of which it makes nothing."""
        self.incarnation = self.rng.getrandbits(64)
        self.branches = [[self._certificate(self.rng.randrange(2))]]

    def fork(self) -> None:
        branch = self.rng.choice(self.branches)
        self.branches.append(branch[: self.rng.randint(1, len(branch))])

    def say(self, facts: Sequence[Fact], doc_ids: Sequence[str], principals: Sequence[str], now: float) -> None:
        """Add to a branch whatever comes to mind. `facts` are what it could read."""
        payload = self._payload(facts, doc_ids, principals, now)
        if payload is not None:
            self.rng.choice(self.branches).append(payload)

    def segments(self) -> list[Segment]:
        """A branch, whole or in parts, in any order; now and then what somebody else is said to have signed."""
        branch = self.rng.choice(self.branches)
        chain = ChainId(self.author.id, self.incarnation)
        cut = self.rng.randint(1, len(branch))
        first = extend(self.author.key, self.organization, None, chain, branch[:cut])
        if cut == len(branch) or self.rng.random() < 0.3:
            return [first]
        whole = extend(self.author.key, self.organization, None, chain, branch)
        parts = [first, Segment(chain, cut + 1, whole.entries[cut:], whole.signature)]
        self.rng.shuffle(parts)
        return parts

    def forged(self, head: Head, payload: bytes) -> Segment:
        """An entry behind another author's head, signed with our key."""
        segment = extend(self.author.key, self.organization, head, head.chain, [payload])
        return replace(segment, entries=(Entry(payload),))

    def _certificate(self, which: int) -> bytes:
        body = Certificate((self.author.certificates[which],))
        return self._encode(1, f"peer:{self.author.id}", (), body) or b""

    def _encode(self, lamport: int, resource: str, over: Sequence[bytes], body: object) -> bytes | None:
        content = Content(lamport, self.rng.getrandbits(64), resource, tuple(over)[:64], body)  # type: ignore[arg-type]
        try:
            return encode_payload(content)
        except FactError:
            return None

    def _payload(
        self, facts: Sequence[Fact], doc_ids: Sequence[str], principals: Sequence[str], now: float
    ) -> bytes | None:
        rng = self.rng
        seen = max((fact.lamport for fact in facts), default=1)
        lamport = rng.choice((1, seen + 1, seen + 1, seen + 1000, LAMPORT_MAX if rng.random() < 0.1 else seen + 2))
        resource = f"doc:{rng.choice(doc_ids)}" if doc_ids else f"org:{self.organization}"
        about = [fact.id for fact in facts if fact.resource == resource]
        rng.shuffle(about)
        over = rng.choice(((), about, about[:1], [rng.randbytes(16)]))
        peer = rng.choice(facts).author if facts else self.author.id
        others = [fact for fact in facts if isinstance(fact.body, Edit | Access)]
        match rng.randrange(12):
            case 0 | 1 | 2:
                action = rng.choice(("read", "read", "write", "admin"))
                end = rng.choice((0, 0, int(now) + 3600))
                body: object = Access(rng.choice(principals), action, rng.random() < 0.6, end)
            case 3:
                body = Access(visibility=rng.choice(("public", "federated", "org", "private")))
            case 4:
                return rng.randbytes(rng.randint(0, 60))
            case 5:
                plain = pb.Payload(lamport=lamport, nonce=rng.getrandbits(64), resource=resource)
                return plain.SerializeToString() + UNKNOWN_BODY
            case 6:
                copied = rng.choice(others) if others else None
                if copied is None:
                    return None
                return self._encode(copied.lamport, copied.resource, copied.over, copied.body)
            case 7:
                body = Tombstone("removed")
            case 8:
                moves = [fact.body for fact in facts if isinstance(fact.body, Document)]
                if not moves:
                    return None
                body = rng.choice(moves)
            case 9:
                body = Edit(rng.randbytes(rng.randint(1, 40)))
            case 10:
                resource, over = f"peer:{peer}", ()
                body = Revocation(peer, b"", "", is_author=True)
            case _:
                resource, over = f"peer:{peer}", ()
                heads = [Head(fact.chain, fact.sequence, bytes(32)) for fact in facts if fact.author == peer][:1]
                heads = [head for head in heads if head.chain.author == peer]
                raw = self._encode(lamport, f"doc:{doc_ids[0]}", (), Access(visibility="public")) if doc_ids else None
                if rng.random() < 0.5 and raw is not None:
                    body = Adoption(peer, rng.getrandbits(64), (raw,))
                elif heads:
                    body = Closing(peer, tuple(heads))
                else:
                    return None
        return self._encode(lamport, resource, over, body)
