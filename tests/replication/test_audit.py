"""Proof of possession: what is refused, whoever it is said to be from, and the committed digests."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.errors import (
    AccessDeniedError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    RemoteProtocolError,
    UnavailableError,
)
from rage_net.libp2p.peer_id import PeerId
from rage_net.pb import rage_pb2 as pb
from rage_net.replication import audit
from rage_net.replication.audit import (
    AuditResponse,
    Challenge,
    Challenges,
    Hold,
    Proof,
    Proofs,
    Relay,
    Verdict,
    Verdicts,
    decode_request,
    decode_response,
    digest,
    draw_range,
    encode_request,
    encode_response,
    key_of,
    open_proofs,
    open_verdicts,
    raise_for_status,
    read_proofs,
    seal_proofs,
    seal_verdicts,
)
from tests.replication.world import cid, peer

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes((at,)) * 32) for at in (1, 2, 3)]
AUDITOR, HOLDER, OTHER = (PeerId.from_public_key(key.public_key()) for key in KEYS)
NONCE = bytes(range(32))
DATA = b"the plain bytes of a chunk" * 100
ASKED = Challenges(NONCE, (Challenge(Cid.of(DATA), 0, 0), Challenge(cid(1), 7, 100), Challenge(Cid.of(DATA), 3, 5)))
RELAYED = Relay(HOLDER, NONCE, (cid(1), cid(2)))


def proofs(**changes: object) -> Proofs:
    key = key_of(NONCE, AUDITOR, HOLDER)
    items = (
        Proof(Cid.of(DATA), 0, 0, digest(key, DATA, 0, 0), True),
        Proof(cid(1), 7, 100, b"", False),
        Proof(Cid.of(DATA), 3, 5, digest(key, DATA, 3, 5), False),
    )
    return replace(Proofs(NONCE, AUDITOR, HOLDER, 1_900_000_000, items), **changes)  # type: ignore[arg-type]


def verdicts(**changes: object) -> Verdicts:
    items = (Verdict(cid(1), "proved", True), Verdict(cid(2), "wrong"))
    return replace(Verdicts(NONCE, AUDITOR, OTHER, HOLDER, 1_900_000_000, items), **changes)  # type: ignore[arg-type]


def by(at: int) -> Callable[[bytes], bytes]:
    return KEYS[at].sign


# --- digests ----------------------------------------------------------------------------------------------------------


def test_a_digest_is_bound_to_nonce_auditor_holder_and_range() -> None:
    found = {
        digest(key_of(nonce, auditor, holder), DATA, offset, length)
        for nonce in (NONCE, bytes(32))
        for auditor, holder in ((AUDITOR, HOLDER), (HOLDER, AUDITOR), (AUDITOR, OTHER))
        for offset, length in ((0, 0), (1, 0), (1, 5))
    }
    assert len(found) == 18


def test_a_length_of_nothing_goes_to_the_end_and_a_range_is_cut_there() -> None:
    key = key_of(NONCE, AUDITOR, HOLDER)
    assert digest(key, DATA, 0, 0) == digest(key, DATA, 0, len(DATA)) == digest(key, DATA, 0, len(DATA) + 9)
    assert digest(key, DATA, 5, 0) == digest(key, DATA[5:], 0, 0)
    assert digest(key, DATA, len(DATA) + 1, 3) == digest(key, b"", 0, 0)


@given(st.integers(1, BLOCK_BYTES_MAX), st.integers(1, 1 << 20), st.randoms(use_true_random=False))
def test_a_range_lies_within_its_chunk(size: int, length: int, source: random.Random) -> None:
    offset, taken = draw_range(size, length, source)
    assert (offset, taken) == (0, 0) if size <= length else taken == length and 0 <= offset <= size - length


def test_every_byte_may_be_asked_for(rng: random.Random) -> None:
    drawn = [draw_range(10, 3, rng)[0] for _ in range(500)]
    assert set(drawn) == set(range(8))


VECTORS = json.loads((Path(__file__).parents[2] / "contracts/vectors/audit.json").read_text())


@pytest.mark.parametrize("row", VECTORS["digests"], ids=lambda row: f"{row['offset']}+{row['length']}")
def test_the_committed_digests(row: dict[str, object]) -> None:
    auditor, holder = PeerId.parse(str(row["auditor"])), PeerId.parse(str(row["holder"]))
    key = key_of(bytes.fromhex(str(row["nonce"])), auditor, holder)
    assert key.hex() == row["key"]
    data = bytes(at % 251 for at in range(int(str(row["size"]))))
    assert digest(key, data, int(str(row["offset"])), int(str(row["length"]))).hex() == row["digest"]


def test_the_committed_statements() -> None:
    row = VECTORS["proofs"]
    found = read_proofs(bytes.fromhex(row["statement"]), bytes.fromhex(row["signature"]))
    assert [(str(one.cid), one.offset, one.length, one.digest.hex(), one.is_kept) for one in found.items] == [
        (one["cid"], one["offset"], one["length"], one["digest"], one["kept"]) for one in row["items"]
    ]
    assert (str(found.auditor), str(found.holder), found.at) == (row["auditor"], row["holder"], row["at"])


# --- requests and responses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [ASKED, RELAYED, Hold("acme", (cid(1), cid(2)))], ids=lambda one: type(one).__name__
)
def test_a_request_comes_back_as_it_was(request_: Challenges | Relay | Hold) -> None:
    assert decode_request(encode_request(request_)) == request_


def test_the_largest_requests_and_answers_fit_their_limits() -> None:
    far = BLOCK_BYTES_MAX - 1
    items = tuple(Challenge(cid(at), far, 1) for at in range(audit.CHALLENGES_MAX))
    asked = Challenges(NONCE, items)
    assert decode_request(encode_request(asked)) == asked
    said = proofs(items=tuple(Proof(one.cid, far, 1, bytes(32), True) for one in items), at=(1 << 64) - 1)
    answer = decode_response(encode_response(seal_proofs(said, by(1))))
    assert open_proofs(answer, asked, auditor=AUDITOR, holder=HOLDER) == said


def test_a_message_that_is_too_long_is_refused_unread() -> None:
    for decode in (decode_request, decode_response):
        with pytest.raises(RemoteProtocolError, match="65536 is the most"):
            decode(b"\xff" * ((64 << 10) + 1))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.AuditRequest(), "asks for nothing"),
        (pb.AuditRequest(challenges=pb.Challenges(nonce=NONCE)), "0 chunks at once"),
        (pb.AuditRequest(challenges=pb.Challenges(nonce=NONCE, items=[pb.Challenge(chunk_id=b"x")])), "no CIDv1"),
        (
            pb.AuditRequest(challenges=pb.Challenges(nonce=NONCE[1:], items=[pb.Challenge(chunk_id=bytes(cid(1)))])),
            "a nonce of 31 bytes",
        ),
        (
            pb.AuditRequest(challenges=pb.Challenges(nonce=NONCE, items=[pb.Challenge(chunk_id=bytes(cid(1)))] * 257)),
            "257 chunks at once",
        ),
        (
            pb.AuditRequest(
                challenges=pb.Challenges(
                    nonce=NONCE, items=[pb.Challenge(chunk_id=bytes(cid(1)), offset=1 << 22, length=1)]
                )
            ),
            "beyond any chunk",
        ),
        (
            pb.AuditRequest(
                challenges=pb.Challenges(
                    nonce=NONCE, items=[pb.Challenge(chunk_id=bytes(cid(1)), length=(1 << 64) - 1)]
                )
            ),
            "beyond any chunk",
        ),
        (pb.AuditRequest(relay=pb.Relay(holder=b"x", nonce=NONCE, chunk_ids=[bytes(cid(1))])), "no multihash"),
        (pb.AuditRequest(relay=pb.Relay(holder=HOLDER.multihash, nonce=NONCE)), "0 chunks at once"),
        (pb.AuditRequest(hold=pb.Hold(organization="", chunk_ids=[bytes(cid(1))])), "1 to 64 bytes"),
        (pb.AuditRequest(hold=pb.Hold(organization="é" * 33, chunk_ids=[bytes(cid(1))])), "1 to 64 bytes"),
        (pb.AuditRequest(hold=pb.Hold(organization="acme", chunk_ids=[bytes(cid(1))] * 257)), "257 chunks at once"),
    ],
)
def test_a_malformed_request_is_refused(message: pb.AuditRequest, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        decode_request(message.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_breach(data: bytes) -> None:
    for decode in (decode_request, decode_response, lambda raw: read_proofs(raw, bytes(64))):
        try:
            decode(data)
        except RemoteProtocolError as error:
            assert str(error)


def test_an_answer_takes_no_more_than_can_be_asked() -> None:
    with pytest.raises(RemoteProtocolError, match="takes 257 chunks"):
        decode_response(pb.AuditResponse(status=200, taken=257).SerializeToString())


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, PeerProtocolError), (403, AccessDeniedError), (404, NotFoundError), (503, UnavailableError)],
)
def test_a_refusal_is_an_error_of_its_own_kind(status: int, kind: type[RageError]) -> None:
    with pytest.raises(kind, match="no"):
        raise_for_status(AuditResponse(status, message="no"), "x")
    raise_for_status(AuditResponse(200), "x")
    raise_for_status(AuditResponse(507, taken=1), "x")  # a node that is full says how many it takes all the same


# --- statements -------------------------------------------------------------------------------------------------------


def test_proofs_of_exactly_what_was_asked_are_taken() -> None:
    answer = decode_response(encode_response(seal_proofs(proofs(), by(1))))
    assert open_proofs(answer, ASKED, auditor=AUDITOR, holder=HOLDER) == proofs()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": bytes(32)}, "another nonce, auditor or holder"),  # an old answer, shown again
        ({"auditor": OTHER}, "another nonce, auditor or holder"),  # an answer to somebody else
        ({"items": proofs().items[:2]}, "something else than was asked"),
        ({"items": proofs().items[::-1]}, "something else than was asked"),
        ({"items": (*proofs().items, proofs().items[0])}, "something else than was asked"),
        ({"items": (replace(proofs().items[0], offset=1), *proofs().items[1:])}, "something else than was asked"),
        ({"items": (replace(proofs().items[0], cid=cid(9)), *proofs().items[1:])}, "something else than was asked"),
        ({"items": (replace(proofs().items[0], digest=b"x"), *proofs().items[1:])}, "a digest of 1 bytes"),
        ({"items": ()}, "0 chunks at once"),
    ],
)
def test_proofs_of_anything_else_are_none(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        open_proofs(seal_proofs(proofs(**changes), by(1)), ASKED, auditor=AUDITOR, holder=HOLDER)


def test_a_proof_taken_from_another_holder_in_flight_is_none() -> None:
    """The liar relays our challenge to one who has the bytes: the answer is signed by that one, over its own id."""
    others = seal_proofs(proofs(holder=OTHER), by(2))
    with pytest.raises(RemoteProtocolError, match="another nonce, auditor or holder"):
        open_proofs(others, ASKED, auditor=AUDITOR, holder=HOLDER)
    stolen = seal_proofs(replace(read_proofs(others.statement, others.signature), holder=HOLDER), by(1))
    taken = open_proofs(stolen, ASKED, auditor=AUDITOR, holder=HOLDER)
    mine = digest(key_of(NONCE, AUDITOR, OTHER), DATA, 0, 0)
    assert taken.items[0].digest != mine  # the digests that an honest OTHER would have made are under another key
    assert digest(key_of(NONCE, AUDITOR, HOLDER), DATA, 0, 0) != mine


def test_a_statement_that_another_signed_or_that_was_changed_is_none() -> None:
    answer = seal_proofs(proofs(), by(1))
    forged = [
        seal_proofs(proofs(), by(2)),
        replace(answer, signature=b""),
        replace(answer, signature=bytes(64)),
        replace(answer, signature=answer.signature + b"\0"),
        replace(answer, statement=seal_proofs(proofs(at=1), by(1)).statement),
        replace(answer, statement=answer.statement + b"\xf8\x06\x00"),  # an unknown field behind it
        replace(answer, signature=KEYS[1].sign(answer.statement)),  # signed for no purpose
    ]
    for one in forged:
        with pytest.raises(RemoteProtocolError):
            open_proofs(one, ASKED, auditor=AUDITOR, holder=HOLDER)


def test_a_holder_whose_id_holds_no_key_proves_nothing() -> None:
    nobody = PeerId(bytes((0x12, 32)) + bytes(32))
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        open_proofs(seal_proofs(proofs(holder=nobody), by(1)), ASKED, auditor=AUDITOR, holder=nobody)


def test_verdicts_on_exactly_what_was_asked_are_taken() -> None:
    answer = decode_response(encode_response(seal_verdicts(verdicts(), by(2))))
    assert open_verdicts(answer, RELAYED, auditor=AUDITOR, relay=OTHER) == verdicts()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": bytes(32)}, "another nonce"),
        ({"auditor": OTHER}, "another nonce"),
        ({"relay": HOLDER}, "another nonce"),
        ({"holder": peer(1)}, "another nonce"),
        ({"items": verdicts().items[::-1]}, "something else than was asked"),
        ({"items": verdicts().items[:1]}, "something else than was asked"),
    ],
)
def test_verdicts_on_anything_else_are_none(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        open_verdicts(seal_verdicts(verdicts(**changes), by(2)), RELAYED, auditor=AUDITOR, relay=OTHER)


def test_verdicts_that_the_holder_itself_signed_are_none() -> None:
    with pytest.raises(RemoteProtocolError):
        open_verdicts(seal_verdicts(verdicts(), by(1)), RELAYED, auditor=AUDITOR, relay=OTHER)


@pytest.mark.parametrize("outcome", [-1, 5, 1 << 30])
def test_an_outcome_of_a_later_version_is_unknown(outcome: int) -> None:
    wire = pb.Verdicts()
    wire.ParseFromString(seal_verdicts(verdicts(), by(2)).statement)
    wire.items[0].outcome = outcome  # type: ignore[assignment]
    statement = wire.SerializeToString()
    answer = AuditResponse(200, statement, KEYS[2].sign(audit.PURPOSE + statement))
    assert open_verdicts(answer, RELAYED, auditor=AUDITOR, relay=OTHER).items[0].outcome == "unknown"


def test_neither_statement_can_be_read_as_the_other() -> None:
    with pytest.raises(RemoteProtocolError):
        open_verdicts(seal_proofs(proofs(), by(1)), RELAYED, auditor=AUDITOR, relay=HOLDER)
    said = seal_verdicts(verdicts(relay=HOLDER), by(1))
    with pytest.raises(RemoteProtocolError):
        open_proofs(said, ASKED, auditor=AUDITOR, holder=HOLDER)
