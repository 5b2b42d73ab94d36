"""What the index knows of one chunk, and the one query for it."""

from __future__ import annotations

from dataclasses import dataclass
from sqlite3 import Connection

from rage_net.cid import Cid

CHECKSUM_BYTES = 16
"""Of BLAKE3 over the stored form: enough against rot. Against forgery there is the CID."""


@dataclass(frozen=True, slots=True)
class Stat:
    """One chunk: plain bytes (`size`), bytes at rest (`stored`), how they are packed, and whether it is only cache."""

    cid: Cid
    size: int
    stored: int
    encoding: str
    cached: bool


def find(db: Connection, cid: Cid) -> Stat | None:
    """The chunk's row, or None."""
    query = "SELECT size, stored, encoding, cached FROM chunk WHERE cid = ?"
    row = db.execute(query, (bytes(cid),)).fetchone()
    return None if row is None else Stat(cid, row[0], row[1], row[2], bool(row[3]))
