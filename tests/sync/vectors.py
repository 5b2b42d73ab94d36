"""Writes contracts/vectors/log.json: `python -m tests.sync.vectors`. What another implementation is checked against."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rage_net.sync.catalog import Changes, CountedEdit, build, make_edit
from rage_net.sync.envelope import chain_start, client_id, encode_segment, fact_id, signed_bytes
from rage_net.sync.facts import (
    Access,
    Acknowledgement,
    Adoption,
    Closing,
    Edit,
    NodeRecord,
    Revocation,
    Tombstone,
    Trust,
)
from rage_net.sync.vocabulary import document_id
from tests.sync.world import Forger, document, end_of, grant

PATH = Path(__file__).parents[2] / "contracts/vectors/log.json"


def chains() -> list[dict[str, object]]:
    rng = random.Random("rage log vectors")
    found = []
    for organization in ("acme", "example.org"):
        forger, other = Forger(rng, "storage", organization=organization), Forger(rng, "storage")
        doc = f"doc:{document_id(forger.id, rng.getrandbits(64))}"
        certified = forger.certify()
        before = forger.head
        assert before is not None
        written = forger.payload(doc, document(), 2)
        given = forger.payload(doc, grant(other.id), 3)
        over = (fact_id(forger.id, given),)
        update = make_edit(client_id(forger.chain), (), Changes(name="Bericht für März", tags_added=("a", "b")))
        payloads = [
            written,
            given,
            forger.payload(doc, grant(other.id, allowed=False, expires_at=1_900_000_000), 4, over),
            forger.payload(doc, Access(visibility="federated"), 5),
            forger.payload(doc, Edit(update), 6),
            forger.payload(doc, Tombstone("removed"), 7),
            forger.payload(doc, Acknowledgement(bytes(range(16))), 8),
            forger.payload(f"peer:{forger.id}", NodeRecord("eu-west", "a", 4, "active", ("storage",)), 9),
            forger.payload(f"peer:{other.id}", Revocation(other.id, b"", "left", True, ()), 10),
            forger.payload("cert:01af", Revocation(other.id, b"\x01\xaf", "key lost"), 11),
            forger.payload("org:globex", Trust(b"DER", ("query", "chunks"), 1_900_000_000), 12),
            forger.payload(f"peer:{other.id}", Adoption(other.id, 7, (other.payload(doc, grant(forger.id), 3),)), 13),
            forger.payload(f"peer:{forger.id}", Closing(forger.id, (before,)), 14),
        ]
        first = certified.entries[0].payload
        assert first is not None
        forger.head = None
        segment = forger.say(first, *payloads)
        head, entries = None, []
        for sequence, entry in enumerate(segment.entries, 1):
            assert entry.payload is not None
            part = type(segment)(segment.chain, sequence, (entry,), segment.signature)
            head = end_of(part, head, organization)
            entries.append(
                {
                    "payload": entry.payload.hex(),
                    "fact_id": fact_id(forger.id, entry.payload).hex(),
                    "hash": head.hash.hex(),
                }
            )
        assert head is not None
        found.append(
            {
                "organization": organization,
                "private_key": forger.key.private_bytes_raw().hex(),
                "author": bytes(forger.id).hex(),
                "incarnation": f"{forger.chain.incarnation:016x}",
                "client_id": client_id(forger.chain),
                "hash_0": chain_start(forger.chain, organization).hex(),
                "entries": entries,
                "signed": signed_bytes(head).hex(),
                "signature": segment.signature.hex(),
                "segment": encode_segment(segment).hex(),
            }
        )
    return found


def records() -> list[dict[str, object]]:
    """Edits in order, by two authors who had seen each other's but for the last, and the record they come to."""
    steps = (
        (5, Changes(name="draft", tags_added=("x", "y"), retention_until=1_900_000_001), None),
        (9, Changes(policy="hot", tags_removed=("x",)), None),
        (5, Changes(name="final"), None),
        (9, Changes(name="endgültig"), 2),
    )
    edits: list[CountedEdit] = []
    for at, (client, changes, seen) in enumerate(steps):
        update = make_edit(client, edits[:seen], changes)
        edits.append(CountedEdit(bytes([at]) * 16, at + 1, frozenset({client}), update))
    record, refused = build(edits)
    assert not refused
    return [
        {
            "edits": [
                {"id": one.id.hex(), "lamport": one.lamport, "client_id": min(one.clients), "update": one.update.hex()}
                for one in edits
            ],
            "record": {
                "name": record.name,
                "tags": list(record.tags),
                "policy": record.policy,
                "retention_until": record.retention_until,
            },
        }
    ]


def document_ids() -> list[dict[str, object]]:
    rng = random.Random("rage document ids")
    author = Forger(rng).id
    drawn = [0, 1, (1 << 64) - 1, rng.getrandbits(64)]
    return [
        {"author": bytes(author).hex(), "bits": f"{bits:016x}", "doc_id": document_id(author, bits)} for bits in drawn
    ]


def main() -> None:
    content = {"chains": chains(), "records": records(), "document_ids": document_ids()}
    PATH.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
