"""Writes contracts/vectors/sealed.json: `python -m tests.cdn.vectors`.

What another implementation must make of the same keys and blocks, and open.
"""

from __future__ import annotations

import json
from pathlib import Path

from rage_net.cdn.sealing import Epoch, seal
from rage_net.cid import DAG_CBOR, Cid

FILE = Path(__file__).parents[2] / "contracts" / "vectors" / "sealed.json"


def sealed() -> list[dict[str, object]]:
    """A document of one empty chunk; one of a manifest and three chunks."""
    manifest = b"a manifest stands here"
    chunks = [b"the first chunk\n", b"the second\n", bytes(range(64))]
    large = {Cid.of(manifest, DAG_CBOR): manifest, **{Cid.of(chunk): chunk for chunk in chunks}}
    return [
        _vector(Epoch("acme", "a" * 26, bytes(range(16)), bytes(range(32))), {Cid.of(b""): b""}),
        _vector(
            Epoch("acme", "mfrggzdfmztwq2lknnwg23tpoi", bytes(range(16, 32)), bytes(range(100, 132))),
            large,
        ),
    ]


def _vector(epoch: Epoch, blocks: dict[Cid, bytes]) -> dict[str, object]:
    out = list(seal(epoch, blocks, blocks.__getitem__))
    return {
        "organization": epoch.organization,
        "doc_id": epoch.doc_id,
        "epoch": epoch.id.hex(),
        "key": epoch.key.hex(),
        "check": epoch.check.hex(),
        "blocks": [
            {"cid": str(cid), "plain": plain.hex(), "sealed_cid": str(block.cid), "sealed": block.data.hex()}
            for (cid, plain), block in zip(blocks.items(), out, strict=False)
        ],
        "pages": [{"cid": str(page.cid), "bytes": page.data.hex()} for page in out[len(blocks) :]],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(sealed(), indent=1) + "\n")
