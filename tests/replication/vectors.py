"""Writes contracts/vectors/placement.json and audit.json: `python -m tests.replication.vectors`.

What another implementation is checked against.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rage_net.libp2p.peer_id import PeerId
from rage_net.replication import audit
from rage_net.replication.place import STRATEGIES, Candidate, Topology, logarithms, mix, seed
from tests.replication.world import cid, peer

DIRECTORY = Path(__file__).parents[2] / "contracts/vectors"
COUNT = 7


def topologies() -> list[tuple[str, list[Candidate]]]:
    rng = random.Random("rage placement vectors")

    def nodes(first: int, count: int, regions: str, zones: str, weights: list[int]) -> list[Candidate]:
        return [
            Candidate(
                peer(first + at),
                "acme",
                f"r{rng.choice(regions)}" if regions else "",
                rng.choice(zones) if zones else "",
                rng.choice(weights),
            )
            for at in range(count)
        ]

    return [
        ("one node", nodes(0, 1, "", "", [4])),
        ("three, no places", nodes(10, 3, "", "", [1])),
        ("twelve alike in three regions", nodes(20, 12, "123", "ab", [1])),
        ("twelve of all weights in three regions", nodes(40, 12, "123", "ab", list(range(1, 17)))),
        ("one region", nodes(60, 10, "1", "abc", [1, 2, 16])),
        ("a region for each, few zones", [*nodes(80, 4, "9", "", [3]), *nodes(90, 6, "12345678", "a", [3])]),
    ]


def placement() -> dict[str, object]:
    table = logarithms()
    inputs = [0, 1, 0x9E3779B97F4A7C15, (1 << 64) - 1]
    return {
        "mix": [{"in": f"{value:016x}", "out": f"{mix(value):016x}"} for value in inputs],
        "seeds": [{"peer": str(peer(at)), "seed": f"{seed(peer(at)):016x}"} for at in range(3)],
        "table": {
            "entries": {str(at): table[at] for at in (0, 1, 2, 255, 32_767, 32_768, 65_534, 65_535)},
            "blake3": blake3(b"".join(entry.to_bytes(4, "big") for entry in table)).hexdigest(),
        },
        "topologies": [
            {
                "name": name,
                "strategy": strategy,
                "count": COUNT,
                "candidates": [
                    {
                        "peer": str(one.peer_id),
                        "organization": one.organization,
                        "region": one.region,
                        "zone": one.zone,
                        "weight": one.weight,
                    }
                    for one in topology.candidates
                ],
                "digest": topology.digest.hex(),
                "places": {str(cid(number)): topology.place(cid(number), COUNT) for number in range(12)},
            }
            for name, candidates in topologies()
            for strategy in STRATEGIES
            for topology in [Topology(candidates, strategy)]
        ],
    }


def audits() -> dict[str, object]:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    auditor, holder, nonce = peer(0), PeerId.from_public_key(key.public_key()), bytes(range(100, 132))
    secret = audit.key_of(nonce, auditor, holder)

    def data(size: int) -> bytes:
        return bytes(at % 251 for at in range(size))

    ranges = [
        (0, 0, 0),
        (1, 0, 0),
        (1024, 0, 0),
        (1025, 0, 0),
        (100_000, 0, 0),
        (100_000, 4096, 65_536),
        (1000, 999, 1),
    ]
    items = (
        audit.Proof(cid(0), 0, 0, audit.digest(secret, data(1000), 0, 0), True),
        audit.Proof(cid(1), 7, 100, b"", False),
    )
    said = audit.seal_proofs(audit.Proofs(nonce, auditor, holder, 1_900_000_000, items), key.sign)
    names = {"auditor": str(auditor), "holder": str(holder)}
    return {
        "data": "byte n of the data is n mod 251",
        "digests": [
            {
                "nonce": nonce.hex(),
                **names,
                "key": secret.hex(),
                "size": size,
                "offset": offset,
                "length": length,
                "digest": audit.digest(secret, data(size), offset, length).hex(),
            }
            for size, offset, length in ranges
        ],
        "proofs": {
            "holder_key": key.private_bytes_raw().hex(),
            **names,
            "at": 1_900_000_000,
            "items": [
                {
                    "cid": str(one.cid),
                    "offset": one.offset,
                    "length": one.length,
                    "digest": one.digest.hex(),
                    "kept": one.is_kept,
                }
                for one in items
            ],
            "statement": said.statement.hex(),
            "signature": said.signature.hex(),
        },
    }


def write(path: Path, value: dict[str, object]) -> None:
    """A line for each entry of a list, so that a change shows as such."""
    parts = []
    for name, found in value.items():
        rows = [json.dumps(row, ensure_ascii=False) for row in found] if isinstance(found, list) else []
        text = "[\n" + ",\n".join(rows) + "\n]" if rows else json.dumps(found)
        parts.append(f"{json.dumps(name)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    write(DIRECTORY / "placement.json", placement())
    write(DIRECTORY / "audit.json", audits())
