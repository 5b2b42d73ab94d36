"""Whose a prefix of a bucket is: one home's, and it knows it.

Two homes on one prefix would delete each other's chunks: what no row of theirs names is garbage to both. So the prefix
has a mark, `owner.json`, and the home a note, `objects.json` beside index.db, and both hold one random id. A mark that
is another's ends the opening; so does a bucket without what the index says is in it. Source: issue 5, section G.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rage_net.chunk.bucket import Bucket
from rage_net.cid import Cid
from rage_net.database import disk
from rage_net.durable import write_replacing
from rage_net.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from rage_net.chunk.index import Index
    from rage_net.chunk.objects import ObjectBodies
    from rage_net.env import Env

MARK = "owner.json"
MARK_BYTES_MAX = 4096
PROBES = 16
"""Chunks that are looked for before a prefix without a mark is taken, drawn at random from the index."""


class Ownership:
    """One home and one prefix."""

    def __init__(self, home: Path, bucket: Bucket, env: Env) -> None:
        self._home = home
        self._bucket = bucket
        self._env = env
        self._note = note_of(home)
        self._id = read_note(home).get("id", "")

    def check(self) -> bool:
        """Whether the prefix has our mark; False when it has none. Raises ConflictError when it is another home's."""
        place = self._bucket.place
        try:
            mark = parse(self._bucket.get(MARK, MARK_BYTES_MAX).data)
        except FileNotFoundError:
            return False
        if self._id and mark.get("id") == self._id:
            return True
        who = " ".join(str(mark.get(name, "unknown"))[:200] for name in ("host", "path"))
        raise ConflictError(
            f"{place} belongs to another home",
            why=f"{who} has put its mark there; two homes would delete each other's chunks",
            mend=(
                "give this home a prefix of its own in network.store.uri",
                f"if this home is that one, restored: put its objects.json back to {self._note}",
                f"if that home is gone for good: aws s3 rm {place}/{MARK}",
            ),
            id="objects-owned",
        )

    def require(self) -> None:
        """Raise unless the prefix has our mark: before anything is deleted that only this home's index speaks of."""
        if not self.check():
            raise ConflictError(
                f"{self._bucket.place} has lost the mark of this home",
                why=f"{MARK} is gone: somebody removed it, or the bucket is another one",
                mend=("rage node stop", "rage node start --detach", "see network.store.uri"),
                id="objects-owned",
            )

    def claim(self, index: Index, bodies: ObjectBodies) -> None:
        """Take a prefix that has no mark. Raises ConfigError when what the index names is not there, ConflictError."""
        place = self._bucket.place
        chunks = _some_chunks(index)
        missing = sum(not bodies.has(cid, size) for cid, size in chunks)
        if missing:
            raise ConfigError(
                f"the chunks of this home are not in {place}",
                why=f"{missing} of {len(chunks)} that were looked for are missing, and nobody's mark is there",
                mend=(
                    "see network.store.uri and network.store.endpoint",
                    f"to move here: aws s3 sync {self._home / 'store'} {place} --exclude '*' --include '??/bafk*' "
                    "--include '??/bafy*'",
                ),
                id="objects-elsewhere",
            )
        if not chunks and not bodies.is_empty():
            raise ConflictError(
                f"{place} holds chunks that this home does not know",
                why="nobody's mark is there, and index.db names none of them: garbage collection would delete them all",
                mend=(
                    "give this home a prefix of its own in network.store.uri",
                    "or restore its index.db from a backup",
                ),
                id="objects-owned",
            )
        if not self._id:
            self._id = f"{self._env.random.getrandbits(128):032x}"
        with disk("note the object store", self._note):
            write_replacing(self._note, json.dumps({"v": 1, "id": self._id, "uri": str(place)}).encode() + b"\n")
        mark = {"v": 1, "id": self._id, "host": socket.gethostname(), "path": str(self._home)}
        data = json.dumps(mark).encode()
        self._bucket.put(MARK, data, "", replace=False)
        if not self.check():  # read back: a server without conditional writes lets two of us write
            raise ConfigError(
                f"{place} does not keep what is written",
                why="its mark was written, and is not there",
                mend=("see network.store.uri and network.store.endpoint",),
                id="objects-setup",
            )


def note_of(home: Path) -> Path:
    """The home's note of its object store."""
    return home / "objects.json"


def read_note(home: Path) -> dict[str, Any]:
    """What the note says; empty when there is none."""
    path = note_of(home)
    try:
        with path.open("rb") as file:
            return parse(file.read(MARK_BYTES_MAX))
    except FileNotFoundError:
        return {}


def parse(data: bytes) -> dict[str, Any]:
    """A mark or a note; one that cannot be read is nobody's."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def refuse_moved(home: Path) -> None:
    """Raise ConfigError when the chunks of a home lie in an object store that its configuration no longer names."""
    note = read_note(home)
    if note:
        raise ConfigError(
            f"the chunks of this home are in {note.get('uri', 'an object store')}",
            why="network.store.uri is not set; with no chunk in reach this home would give up what it holds",
            mend=(
                f"set network.store.uri: {note.get('uri', 's3://...')}",
                f"or, when they were copied back to {home / 'store'}: rm {note_of(home)}",
            ),
            id="objects-elsewhere",
        )


def _some_chunks(index: Index) -> list[tuple[Cid, int]]:
    query = (
        "SELECT cid, chunk.stored FROM chunk LEFT JOIN body ON body.chunk = chunk.id"
        " WHERE body.chunk IS NULL AND cached = 0 ORDER BY random() LIMIT ?"
    )
    with index.read() as db:
        return [(Cid.from_bytes(row[0]), row[1]) for row in db.execute(query, (PROBES,)).fetchall()]
