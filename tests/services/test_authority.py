"""Whom a node believes by its log: what authors may do, whatever the time; what trust opens; verdicts and their end."""

from __future__ import annotations

import random

import pytest

from rage_net import keys
from rage_net.acl import SCOPES
from rage_net.cert import Anchor, Verified, verify_chain
from rage_net.env import SystemEnv
from rage_net.libp2p.peer_id import PeerId
from rage_net.services.ledger import authority as subject
from rage_net.services.ledger.authority import Authority
from rage_net.sync.facts import Certificate, New, Trust
from rage_net.sync.log import open_log
from tests.services.trust_world import DAY_S, EPOCH_S
from tests.services.trust_world import Authority as Ca


class Node:
    """The log of one node of acme, and whom it believes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.acme = rng, Ca("acme", rng)
        key = keys.generate(rng)
        self.own = PeerId.from_public_key(key.public_key())
        self.log = open_log(None, key=key, env=SystemEnv())
        self.authority = Authority(self.log, "acme", self.own, [self.acme.anchor()], lambda: EPOCH_S + 400 * DAY_S)
        certificate = Certificate((self.acme.certify(key),))
        self.log.append(
            "acme",
            [New(f"peer:{self.own}", certificate)],
            judge=lambda author, chain: self.authority.judge("acme", author, chain),
        )

    def trust(self, ca: Ca, *scopes: str) -> None:
        self.log.append("acme", [New(f"org:{ca.organization}", Trust(ca.der, scopes))])
        self.authority.refresh()


@pytest.fixture
def node(rng: random.Random) -> Node:
    return Node(rng)


def test_an_authors_capabilities_outlive_its_certificate(node: Node) -> None:
    other, key = Ca("other", node.rng), keys.generate(node.rng)
    author, judge = PeerId.from_public_key(key.public_key()), node.authority.judge
    old = node.acme.certify(key, days=1, capabilities=("storage", "admin"))
    assert judge("acme", author, (old,)) == {"storage", "admin"}
    assert judge("other", author, (old,)) is None
    assert judge("acme", node.own, (old,)) is None
    theirs = other.certify(key)
    assert judge("other", author, (theirs,)) is None
    node.trust(other, "chunks")
    assert judge("other", author, (theirs,)) is None, "the scope sync is what lets facts in"
    node.trust(other, "sync")
    assert judge("other", author, (theirs,)) == {"storage"}
    assert judge("acme", author, (theirs,)) is None
    assert judge("acme", author, (b"junk",)) is None


def test_what_is_open_to_an_organisation_is_what_all_its_cas_open(node: Node) -> None:
    one, two = Ca("other", node.rng), Ca("other", node.rng)
    assert node.authority.scopes("acme") == SCOPES and node.authority.scopes("other") == frozenset()
    node.trust(one, "chunks", "sync")
    assert node.authority.scopes("other") == {"chunks", "sync"}
    node.trust(two, "sync")
    assert node.authority.scopes("other") == {"sync"}


def test_a_verdict_that_a_change_of_cas_overtook_is_not_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    key = keys.generate(node.rng)
    author, chain = PeerId.from_public_key(key.public_key()), (node.acme.certify(key),)

    def verify(ders: tuple[bytes, ...], anchors: tuple[Anchor, ...], *more: None, **named: object) -> Verified:
        node.authority.anchors = ()
        node.authority.refresh()
        return verify_chain(ders, anchors, *more, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(subject, "verify_chain", verify)
        assert node.authority.judge("acme", author, chain) == {"storage"}
    assert node.authority.judge("acme", author, chain) is None
