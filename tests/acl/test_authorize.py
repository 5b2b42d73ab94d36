"""Access of an open node: what is public, trusted peers, the operator, and nobody else."""

from __future__ import annotations

import pytest

from rage_net.acl import ANYONE, OPERATOR, ChunkResource, Principal, Rules, access_of_row, authorize
from rage_net.cid import Cid

CID = Cid.of(b"chunk")
PEER = Principal("peer", "12D3KooWStranger")
TRUSTED = Rules(frozenset({"12D3KooWStranger"}))


def chunk(*visibilities: str) -> ChunkResource:
    return ChunkResource(CID, tuple(access_of_row(word, "", "") for word in visibilities))


@pytest.mark.parametrize("principal", [ANYONE, PEER])
@pytest.mark.parametrize("visibility", ["federated", "org", "private", None])
def test_what_is_not_public_is_read_by_no_stranger(principal: Principal, visibility: str | None) -> None:
    resource = chunk(*([visibility] if visibility else []))
    assert not authorize(resource, principal, "read", Rules(), 0.0).allowed


@pytest.mark.parametrize("principal", [ANYONE, PEER, OPERATOR])
def test_one_public_document_opens_a_chunk_that_others_share(principal: Principal) -> None:
    assert authorize(chunk("private", "public"), principal, "read", Rules(), 0.0).allowed


def test_once_a_ca_is_set_strangers_read_what_is_public_only_where_that_was_allowed() -> None:
    resource = chunk("public")
    assert not authorize(resource, PEER, "read", Rules(public_to_strangers=False), 0.0).allowed
    assert authorize(resource, PEER, "read", Rules(public_to_strangers=True), 0.0).allowed


def test_a_trusted_peer_reads_anything_and_does_nothing_else() -> None:
    resource = chunk("private")
    assert authorize(resource, PEER, "read", TRUSTED, 0.0).allowed
    for action in ("write", "admin", "query", "replicate"):
        assert not authorize(resource, PEER, action, TRUSTED, 0.0).allowed  # type: ignore[arg-type]


def test_a_name_at_the_http_door_is_no_peer() -> None:
    impostor = Principal("anyone", "12D3KooWStranger")
    assert not authorize(chunk("org"), impostor, "read", TRUSTED, 0.0).allowed


def test_a_denial_says_why_and_which_rules_were_tried() -> None:
    decision = authorize(chunk(), PEER, "read", Rules(), 0.0)
    assert "not public" in decision.reason
    assert decision.rules == ("operator", "public", "security.trusted_peers")
