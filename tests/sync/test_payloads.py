"""Payloads and words: read strictly; what is malformed says nothing, what a later version means shuts the door."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cid import Cid
from rage_net.libp2p.peer_id import PeerId
from rage_net.pb import rage_pb2 as pb
from rage_net.sync.envelope import ChainId, Head
from rage_net.sync.facts import (
    Access,
    Acknowledgement,
    Adoption,
    Body,
    Cdn,
    Certificate,
    Closing,
    Document,
    Edit,
    NodeRecord,
    Purge,
    Purged,
    PurgedProvider,
    Revocation,
    Tombstone,
    Trust,
    Unknown,
)
from rage_net.sync.payloads import LAMPORT_MAX, Content, decode_payload, encode_payload
from rage_net.sync.vocabulary import FactError, check_principal, check_resource, document_id, is_named_owner, is_text
from tests.sync.world import Forger

PEER = Forger(random.Random(1)).id
OTHER = Forger(random.Random(2)).id
DOC = f"doc:{document_id(PEER, 5)}"
HEAD = Head(ChainId(PEER, 7), 3, bytes(32))
PROVIDER = PurgedProvider("edge", "varnish", ("a.example.org", "b.example.org"), b"place")
BODIES: list[tuple[str, Body]] = [
    (DOC, Access(f"peer:{OTHER}", "read", True)),
    (DOC, Access("user:acme/auth0|jürgen", "write", False, 1_900_000_000)),
    (DOC, Access("group:acme/Team Süd", "query", True)),
    (DOC, Access("anyone", "read", True)),
    ("topic:rage.org.acme", Access("org:acme", "read", True)),
    ("org:acme", Access(visibility="private")),
    (f"peer:{PEER}", Certificate((b"leaf", b"intermediate"))),
    (f"peer:{PEER}", Revocation(PEER, b"", "left us", True, (HEAD,))),
    ("cert:01af", Revocation(PEER, b"\x01\xaf", "key lost")),
    (f"peer:{PEER}", NodeRecord("eu-west", "a", 16, "drained", ("storage", "search"))),
    (DOC, Document(Cid.of(b"x"), 1 << 40, 5, 1_800_000_000)),
    (DOC, Edit(b"update")),
    (DOC, Tombstone("expired")),
    (DOC, Acknowledgement(bytes(16))),
    ("org:globex", Trust(b"DER", ("query", "sync"), 1_900_000_000, True)),
    (f"peer:{OTHER}", Adoption(OTHER, 9, (b"payload",))),
    (f"peer:{PEER}", Closing(PEER, (HEAD,))),
    (DOC, Purged((Purge((bytes(16), bytes(range(16))), (PROVIDER, PurgedProvider("b", "nginx"))),))),
    (DOC, Cdn("encrypted")),
    (DOC, Cdn("encrypted", bytes(16), Cid.of(b"root"), Cid.of(b"index"), bytes(32), (bytes(8), bytes(range(8))))),
    (DOC, Cdn()),
]


@pytest.mark.parametrize(("resource", "body"), BODIES, ids=lambda value: type(value).__name__)
def test_every_kind_of_fact_comes_through_unchanged(resource: str, body: Body) -> None:
    content = Content(LAMPORT_MAX, (1 << 64) - 1, resource, (bytes(16), bytes(range(16))), body)
    assert decode_payload(encode_payload(content)) == content


def wire(resource: str = DOC, lamport: int = 1, **body: object) -> pb.Payload:
    return pb.Payload(lamport=lamport, nonce=1, resource=resource, **body)


def purge(events: Sequence[bytes] = (bytes(16),), count: int = 1, **provider: object) -> pb.Purge:
    given = {"name": "edge", "software": "varnish", **provider}
    return pb.Purge(events=events, providers=[pb.PurgedProvider(**given)] * count)


def cdn_fact(**given: object) -> pb.CdnFact:
    cid = bytes(Cid.of(b"x"))
    return pb.CdnFact(
        **{"mode": "encrypted", "epoch": bytes(16), "root": cid, "sealed": cid, "check": bytes(32), **given}
    )


ACCESS = pb.Access(principal="anyone", action="read")


@pytest.mark.parametrize(
    "bad",
    [
        wire(lamport=0, access=ACCESS),
        wire(lamport=1 << 62, access=ACCESS),
        wire(),
        wire(resource="", access=ACCESS),
        wire(resource="doc:short", access=ACCESS),
        wire(resource="thing:x", access=ACCESS),
        wire(resource="org:" + "a" * 65, access=ACCESS),
        wire(resource="topic:" + "a" * 300, access=ACCESS),
        wire(over=[bytes(15)], access=ACCESS),
        wire(over=[bytes(16)] * 65, access=ACCESS),
        wire(access=pb.Access(principal="someone", action="read")),
        wire(access=pb.Access(principal="anyone", action="Read!")),
        wire(access=pb.Access(principal="anyone", action="read", visibility="org")),
        wire(access=pb.Access(visibility="org", allowed=True)),
        wire(access=pb.Access(principal="anyone", action="read", expires_at=1 << 60)),
        wire(resource="org:acme", document=pb.DocumentFact(root=bytes(Cid.of(b"x")))),
        wire(document=pb.DocumentFact(root=b"x")),
        wire(document=pb.DocumentFact(root=bytes(Cid.of(b"x")), size=1 << 63)),
        wire(edit=pb.Edit()),
        wire(edit=pb.Edit(update=bytes(40_000))),
        wire(tombstone=pb.Tombstone(reason="Because I said so")),
        wire(acknowledgement=pb.Acknowledgement(tombstone=b"x")),
        wire(resource=f"peer:{PEER}", certificate=pb.CertificateFact()),
        wire(resource=f"peer:{PEER}", certificate=pb.CertificateFact(certificates=[b"x"] * 9)),
        wire(resource=f"peer:{PEER}", certificate=pb.CertificateFact(certificates=[bytes(8193)])),
        wire(resource=f"peer:{PEER}", node=pb.NodeRecord(weight=17, state="active")),
        wire(resource=f"peer:{PEER}", node=pb.NodeRecord(weight=1, state="tired")),
        wire(resource=f"peer:{PEER}", revocation=pb.Revocation(peer=b"x")),
        wire(resource=f"peer:{PEER}", revocation=pb.Revocation(peer=bytes(PEER), serial=bytes(21))),
        wire(
            resource=f"peer:{PEER}",
            revocation=pb.Revocation(
                peer=bytes(OTHER), is_author=True, accepted=[pb.Head(author=bytes(PEER), hash=bytes(32))]
            ),
        ),
        wire(resource=f"peer:{PEER}", closing=pb.Closing(author=bytes(PEER))),
        wire(purged=pb.PurgedFact()),
        wire(purged=pb.PurgedFact(purges=[purge()] * 17)),
        wire(purged=pb.PurgedFact(purges=[purge(events=[])])),
        wire(purged=pb.PurgedFact(purges=[purge(events=[bytes(15)])])),
        wire(purged=pb.PurgedFact(purges=[purge(events=[bytes(16)] * 65)])),
        wire(purged=pb.PurgedFact(purges=[pb.Purge(events=[bytes(16)])])),
        wire(purged=pb.PurgedFact(purges=[purge(count=17)])),
        wire(purged=pb.PurgedFact(purges=[purge(name="")])),
        wire(purged=pb.PurgedFact(purges=[purge(software="Our own")])),
        wire(purged=pb.PurgedFact(purges=[purge(place=bytes(17))])),
        wire(purged=pb.PurgedFact(purges=[purge(hosts=["b.example", "a.example"])])),
        wire(purged=pb.PurgedFact(purges=[purge(hosts=["A.example"])])),
        wire(purged=pb.PurgedFact(purges=[purge(hosts=["x" * 254])])),
        wire(purged=pb.PurgedFact(purges=[purge(hosts=[f"{at:0250}" for at in range(16)], count=3)])),
        wire(resource="org:acme", purged=pb.PurgedFact(purges=[purge()])),
        wire(resource="org:acme", cdn=pb.CdnFact()),
        wire(cdn=pb.CdnFact(mode="In the clear")),
        wire(cdn=pb.CdnFact(root=bytes(Cid.of(b"x")))),
        wire(cdn=pb.CdnFact(taken=[bytes(8)])),
        wire(cdn=cdn_fact(epoch=bytes(15))),
        wire(cdn=cdn_fact(check=bytes(31))),
        wire(cdn=pb.CdnFact(check=bytes(32))),
        wire(cdn=cdn_fact(root=b"x")),
        wire(cdn=cdn_fact(sealed=b"")),
        wire(cdn=cdn_fact(taken=[b"b" * 8, b"a" * 8])),
        wire(cdn=cdn_fact(taken=[bytes(7)])),
        wire(cdn=cdn_fact(taken=[at.to_bytes(8, "big") for at in range(1025)])),
        wire(resource=f"peer:{PEER}", adoption=pb.Adoption(author=bytes(PEER))),
    ],
    ids=lambda one: str(one).replace("\n", " ")[:60],
)
def test_what_is_malformed_says_nothing(bad: pb.Payload) -> None:
    with pytest.raises(FactError):
        decode_payload(bad.SerializeToString())


def test_a_body_of_a_later_version_is_unknown_and_keeps_its_number() -> None:
    later = wire().SerializeToString() + bytes((0x92 | 0x80, 0x01)) + b"\x03abc"  # field 18, length-delimited
    assert decode_payload(later[:-3] + b"abc").body == Unknown(18)


def test_a_way_to_a_cdn_of_a_later_version_stays_shut() -> None:
    assert decode_payload(wire(cdn=pb.CdnFact(mode="rot13")).SerializeToString()).body == Cdn()


@pytest.mark.parametrize("access", [pb.Access(principal="anyone", action="share"), pb.Access(visibility="secret")])
def test_a_word_of_a_later_version_is_unknown_and_not_ignored(access: pb.Access) -> None:
    assert decode_payload(wire(access=access).SerializeToString()).body == Unknown(5)


def test_what_a_later_version_of_trust_opens_stays_shut_here() -> None:
    trust = pb.TrustFact(ca=b"DER", scopes=["query", "everything"])
    body = decode_payload(wire(resource="org:globex", trust=trust).SerializeToString()).body
    assert body == Trust(b"DER", ("query",))


@given(st.binary(max_size=200))
def test_garbage_is_no_payload_and_no_crash(data: bytes) -> None:
    try:
        content = decode_payload(data)
    except FactError:
        return
    assert check_resource(content.resource)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " a",
        "a ",
        "a\x00b",
        "a\nb",
        "a\u202eb",
        "a\u200bb",
        "a\u200db",
        "a\u00adb",
        "a\ufeff",
        "a\u2066b",
        "a\u3164",
        "e\u0301",
        "\u212b",
        "a\ue000",
        "a\U000e0041",
        "x" * 257,
        "é" * 129,
    ],
)
def test_a_text_with_what_cannot_be_seen_or_is_not_nfc_is_none(text: str) -> None:
    assert not is_text(text, 256)
    with pytest.raises(FactError):
        check_principal(f"user:acme/{text}")


def test_look_alikes_are_different_names() -> None:
    latin, cyrillic = "user:acme/anna", "user:acme/аnna"
    assert check_principal(latin) == check_principal(cyrillic) == "user"
    assert latin != cyrillic
    with pytest.raises(FactError):
        check_principal("user:аcme/anna")  # an organisation's name is ASCII
    with pytest.raises(FactError):
        check_resource("dос:" + DOC[4:])


@pytest.mark.parametrize("text", ["peer:12D3", f"peer:{PEER} ", "org:", "org:-a", "user:acme", "user:/x", "anyone:"])
def test_what_is_no_principal_is_refused(text: str) -> None:
    with pytest.raises(FactError):
        check_principal(text)


@pytest.mark.parametrize(
    "text", [DOC + "a", DOC.upper(), DOC[:-1] + "b", "cert:AB", "cert:", f"peer:Q{PEER}", "chunk:bafk", "doc:"]
)
def test_what_is_no_resource_is_refused(text: str) -> None:
    with pytest.raises(FactError):
        check_resource(text)


def test_a_documents_id_names_its_owner_and_nobody_else() -> None:
    vectors = json.loads((Path(__file__).parents[2] / "contracts/vectors/log.json").read_text())["document_ids"]
    for one in vectors:
        author = PeerId(bytes.fromhex(one["author"]))
        assert document_id(author, int(one["bits"], 16)) == one["doc_id"]
        assert is_named_owner(one["doc_id"], author)
        assert not is_named_owner(one["doc_id"], OTHER)
