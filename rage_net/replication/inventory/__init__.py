"""The inventory: which chunks the documents of our logs have, where each belongs, and what is proved of its copies.

    document   of the log, with its policy; its chunks are known once its manifest was read
    chunk      its home set, whether it is ours to hold, whether it is here
    proof      what holders proved to this node, or could not
    evidence   signed statements that were wrong

All of it follows from the log, the store and what peers say: the file may be deleted, and is made anew. So nothing here
is synced, and nothing that was acknowledged rests on it. Times are of a clock of its own that goes on only while the
node runs: neither a wall clock that jumps nor a long stop makes everything due, or nothing. Home sets carry the epoch
of the topology that they were computed for; a new topology makes all of them due, and a page at a time is computed
again.

Several documents may name one chunk, and naming it grants nothing (design D7): each can add to where the chunk belongs,
none can take away. So a home set is that of every document's wish, one after the other; only the words for it, policy
and minimum, are those of the one that wants most copies.

Blocking; thread-safe. Not here: where a chunk belongs (place), what is done about it (services.replicating).
Source: design D5; issue 5, B to D; peers.md 12 to 14.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection

from rage_net.cid import Cid
from rage_net.database import Database
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.audit import Outcome
from rage_net.replication.inventory.rows import (
    DEMANDS_MAX,
    OUTCOMES,
    Demand,
    Item,
    Known,
    PolicyTotals,
    Unread,
    Wanted,
    bounded,
    numbers_of,
    others_of,
    peer_of,
)
from rage_net.replication.inventory.schema import APPLICATION_ID, JOINED, MIGRATIONS, SHARED

__all__ = [
    "CACHE_BYTES",
    "DEMANDS_MAX",
    "FAILED_MIN",
    "MOVED_S",
    "PAGE",
    "VANISHED_S",
    "Demand",
    "Inventory",
    "Item",
    "Known",
    "Outcome",
    "PolicyTotals",
    "Unread",
    "Wanted",
    "open_inventory",
]

PAGE = 1000
"""Rows in one page."""
FAILED_MIN = 3
"""Rounds of audits that fail, one after another, before a chunk counts as short: a new one is not proved at once."""
EVIDENCE_MAX = 1000
"""Statements kept; of each peer the first ones tell as much as all."""
EVIDENCE_OF_ONE_MAX = 10
CACHE_BYTES = 48 << 20
"""Pages of it: with less, noting a million chunks waits for the disk at random places of its trees."""
VANISHED_S = 7 * 86_400.0
"""Chunks are kept for so long for whose document nothing says any more that it is, or that it is gone: a log that was
lost or restored, or a CA file that is wrong for an hour, must not cost bytes on all nodes at once."""
MOVED_S = 3600.0
"""And those of a document that has moved to another root: most of them are in that one, too, once it can be read."""


class Inventory:
    """One node's. `path` None keeps it in memory."""

    def __init__(self, path: Path | None, own: PeerId) -> None:
        self._db = Database(
            path, name="inventory", application_id=APPLICATION_ID, migrations=MIGRATIONS, cache_bytes=CACHE_BYTES
        )
        self._own = own
        self._numbers: dict[PeerId, int] = {}
        self._peers: dict[int, PeerId] = {}
        with self._db.read() as db:
            for number, peer in db.execute("SELECT id, peer FROM node").fetchall():
                self._learn(number, PeerId(peer))
            row = db.execute("SELECT value FROM setting WHERE name = 'epoch'").fetchone()
            self._epoch = int(row[0]) if row else 1
            row = db.execute("SELECT value FROM setting WHERE name = 'topology'").fetchone()
            self._topology = row[0] if row else ""
            row = db.execute("SELECT max(seen) FROM document").fetchone()
            self._seen = row[0] or 0
            row = db.execute("SELECT value FROM setting WHERE name = 'clock'").fetchone()
        self.clock_at_open = float(row[0]) if row else 1.0
        """Its clock when it was last saved: it goes on from there, and so counts the time that this node runs."""

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def save_clock(self, now: float) -> None:
        """Write down the time, so that what is due then is not due much later after a restart."""
        with self._db.write(durable=False) as db:
            db.execute("INSERT OR REPLACE INTO setting VALUES ('clock', ?)", (repr(now),))

    def _learn(self, number: int, peer: PeerId) -> None:
        self._numbers[peer], self._peers[number] = number, peer

    def number(self, peer: PeerId) -> int:
        """A node's number in home sets, given now where it has none."""
        found = self._numbers.get(peer)
        if found is None:
            with self._db.write(durable=False) as db:
                db.execute("INSERT OR IGNORE INTO node (peer) VALUES (?)", (peer.multihash,))
                found = db.execute("SELECT id FROM node WHERE peer = ?", (peer.multihash,)).fetchone()[0]
            self._learn(found, peer)
        return found

    # --- documents ---

    def begin_round(self) -> int:
        """A round of reconciling: documents that it does not see are gone. Give the number to `see` and `forget`."""
        self._seen += 1
        return self._seen

    def same_round(self) -> int:
        """The number of the last round: for documents that are looked at by themselves."""
        return self._seen

    def see(self, wanted: Iterable[Wanted], seen: int, now: float) -> int:
        """Documents are so; those whose root is new are to be read, those whose policy is, placed anew.

        Returns: how many were new or have changed.
        """
        changed = 0
        with self._db.write(durable=False) as db:
            for each in wanted:
                changed += self._see(db, each, seen, now)
        return changed

    def _see(self, db: Connection, wanted: Wanted, seen: int, now: float) -> int:
        old = db.execute(
            "SELECT id, root, policy, factor, minimum, topology FROM document WHERE organization = ? AND doc_id = ?",
            (wanted.organization, wanted.doc_id),
        ).fetchone()
        rules = (wanted.policy, wanted.factor, wanted.minimum, wanted.topology)
        if old is None:
            db.execute(
                "INSERT INTO document (organization, doc_id, root, owner, policy, factor, minimum, topology, seen)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (wanted.organization, wanted.doc_id, bytes(wanted.root), wanted.owner.multihash, *rules, seen),
            )
            return 1
        identity = old[0]
        if old[1] != bytes(wanted.root):
            self._leave(db, identity, now, now + MOVED_S)
            db.execute(
                "UPDATE document SET root = ?, is_read = 0, read_at = 0, tries = 0 WHERE id = ?",
                (bytes(wanted.root), identity),
            )
        is_ruled_anew = tuple(old[2:]) != rules
        if is_ruled_anew:
            db.execute(
                "UPDATE document SET policy = ?, factor = ?, minimum = ?, topology = ? WHERE id = ?", (*rules, identity)
            )
            chunks = "SELECT chunk FROM member WHERE document = ?"
            db.execute(f"UPDATE chunk SET epoch = 0 WHERE id IN ({chunks})", (identity,))  # noqa: S608
            for (chunk,) in db.execute(SHARED, (identity,)).fetchall():  # another may want more of it now
                self._govern(db, chunk, now)
        db.execute("UPDATE document SET seen = max(seen, ?) WHERE id = ?", (seen, identity))
        return int(is_ruled_anew or old[1] != bytes(wanted.root))

    def unseen(self, seen: int) -> list[tuple[str, str]]:
        """Organisation and id of the documents that this round did not see."""
        with self._db.read() as db:
            return db.execute("SELECT organization, doc_id FROM document WHERE seen < ?", (seen,)).fetchall()

    def organizations_of(self, doc_id: str) -> list[str]:
        """Whose documents have this id: authors choose ids, and another organisation's may choose one of ours."""
        with self._db.read() as db:
            rows = db.execute("SELECT organization FROM document WHERE doc_id = ?", (doc_id,)).fetchall()
        return [row[0] for row in rows]

    def forget(self, organization: str, doc_id: str, now: float, *, is_told: bool) -> None:
        """A document is gone, and with it what is for nothing else. `is_told`: something says so; else after a while.

        So a removal is at once, and a log that has lost its facts costs nothing.
        """
        key = organization, doc_id
        with self._db.write(durable=False) as db:
            row = db.execute("SELECT id FROM document WHERE organization = ? AND doc_id = ?", key).fetchone()
            if row is not None:
                self._leave(db, row[0], now, 0.0 if is_told else now + VANISHED_S)
                db.execute("DELETE FROM document WHERE id = ?", row)

    def _leave(self, db: Connection, document: int, now: float, until: float) -> None:
        """Its chunks are for it no more; those that are for nothing else belong nowhere, and are kept `until`."""
        chunks = [row[0] for row in db.execute("SELECT chunk FROM member WHERE document = ?", (document,)).fetchall()]
        db.execute("DELETE FROM member WHERE document = ?", (document,))
        for chunk in chunks:
            self._govern(db, chunk, now, until)

    def _govern(self, db: Connection, chunk: int, now: float, until: float = 0.0) -> None:
        """Find which document governs a chunk: the one that wants most copies; none, and it belongs nowhere."""
        row = db.execute(
            "SELECT document.id FROM member JOIN document ON document.id = member.document WHERE chunk = ?"
            " ORDER BY factor DESC, doc_id LIMIT 1",
            (chunk,),
        ).fetchone()
        if row is None:
            db.execute("DELETE FROM proof WHERE chunk = ?", (chunk,))
            db.execute(
                "UPDATE chunk SET document = 0, home = x'', first = 0, also = '', mine = 0, since = ?, next_at = ?"
                " WHERE id = ?",
                (now, until, chunk),
            )
            db.execute("DELETE FROM chunk WHERE id = ? AND have = 0", (chunk,))
        else:
            db.execute("UPDATE chunk SET document = ?, epoch = 0 WHERE id = ?", (row[0], chunk))

    def unread(self, now: float, limit: int = 16, doc_ids: Collection[str] | None = None) -> list[Unread]:
        """Documents whose chunks are not known yet and whose reading is due; of some ids where they are given."""
        where, values = "is_read = 0 AND read_at <= ?", [now, *(doc_ids or ())]
        if doc_ids is not None:
            where += f" AND doc_id IN ({','.join('?' * len(doc_ids))})"
        with self._db.read() as db:
            rows = db.execute(
                "SELECT id, organization, doc_id, root, owner, tries, topology FROM document"  # noqa: S608
                f" WHERE {where} ORDER BY read_at, id DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [Unread(row[0], row[1], row[2], Cid.from_bytes(row[3]), PeerId(row[4]), row[5], row[6]) for row in rows]

    def put_off(self, document: int, until: float) -> None:
        """Its manifest could not be had: try again then."""
        with self._db.write(durable=False) as db:
            db.execute("UPDATE document SET read_at = ?, tries = tries + 1 WHERE id = ?", (until, document))

    def read(
        self, document: int, root: Cid, members: Iterable[tuple[Cid, int]], now: float, *, is_last: bool = True
    ) -> None:
        """Chunks of a document, with their plain sizes, a page at a time; unless it has moved to another root since."""
        with self._db.write(durable=False) as db:
            row = db.execute("SELECT root FROM document WHERE id = ?", (document,)).fetchone()
            if row is None or row[0] != bytes(root):
                return
            for cid, size in members:
                key = bytes(cid)
                db.execute(
                    "INSERT INTO chunk (cid, size, document, since) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (cid) DO UPDATE SET size = excluded.size WHERE document = 0",
                    (key, size, document, now),
                )
                chunk = db.execute("SELECT id, document FROM chunk WHERE cid = ?", (key,)).fetchone()
                db.execute("INSERT OR IGNORE INTO member VALUES (?, ?)", (document, chunk[0]))
                if chunk[1] != document:
                    self._govern(db, chunk[0], now)
            if is_last:
                db.execute("UPDATE document SET is_read = 1 WHERE id = ?", (document,))

    # --- placement ---

    def use(self, topology: str) -> bool:
        """From now on this topology holds (its digest). Whether it is another one: then all home sets are due."""
        if topology == self._topology:
            return False
        self._topology = topology
        self._epoch += 1
        with self._db.write(durable=False) as db:
            values = (("epoch", str(self._epoch)), ("topology", topology))
            db.executemany("INSERT OR REPLACE INTO setting VALUES (?, ?)", values)
        return True

    def unplaced(self, limit: int = PAGE) -> list[Item]:
        """A page of chunks whose home sets are of another topology, or not computed yet."""
        with self._db.read() as db:
            rows = db.execute(
                f"{JOINED} WHERE epoch < ? LIMIT ?",
                (self._epoch, limit),
            ).fetchall()
        items = [self._item(row) for row in rows]
        demands = self.demands([item.id for item in items])
        return [replace(item, also=others_of(item, demands[item.id])) for item in items]

    def demands(self, chunks: Sequence[int]) -> dict[int, list[Demand]]:
        """What the documents of some chunks want of them, those that want most copies first."""
        found: dict[int, list[Demand]] = {chunk: [] for chunk in chunks}
        with self._db.read() as db:
            for at in range(0, len(chunks), PAGE):
                page = chunks[at : at + PAGE]
                for chunk, *demand in db.execute(
                    "SELECT chunk, organization, topology, max(factor) AS most FROM member"  # noqa: S608
                    f" JOIN document ON document.id = member.document WHERE chunk IN ({','.join('?' * len(page))})"
                    " GROUP BY chunk, organization, topology ORDER BY chunk, most DESC, organization, topology",
                    tuple(page),
                ):
                    found[chunk].append(Demand(*demand))
        return {chunk: bounded(demands) for chunk, demands in found.items()}

    def place(self, placed: Sequence[tuple[Item, Sequence[PeerId], bool]], now: float) -> None:
        """Home sets, and whether the chunk is durable here already. What has become ours, or no longer is, is due.

        What is ours and durable for another reason (a document that was put here, a pin) is still wanted: whoever
        fetches makes a replica of it, so that it stays when that reason goes.
        """
        rows, same = [], []
        for item, home, is_here in placed:
            mine = 1 if self._own in home else (2 if item.mine == 2 else 0)
            have = 0 if mine and item.have == 2 else item.have or int(is_here and not mine)
            also = json.dumps(item.also) if item.also else ""
            if (mine, have, tuple(home)) == (item.mine, item.have, item.home):
                same.append((also, self._epoch, item.id))
                continue
            numbers = [self.number(peer) for peer in home]
            packed = struct.pack(f">{len(numbers)}I", *numbers)
            first = numbers[0] if numbers else 0
            rows.append((packed, first, also, self._epoch, mine, item.have, have, now, now, now, item.id))
        with self._db.write(durable=False) as db:
            db.executemany("UPDATE chunk SET also = ?, epoch = ? WHERE id = ?", same)
            db.executemany(
                "UPDATE chunk SET home = ?, first = ?, also = ?, epoch = ?, mine = ?,"
                " have = CASE have WHEN ? THEN ? ELSE have END,"  # what was fetched or dropped meanwhile is so
                " since = ?, next_at = ?, audit_at = ? WHERE id = ?",
                rows,
            )

    # --- what is ours to hold ---

    def wanted(self, now: float, limit: int) -> list[Item]:
        """Chunks that are ours and not here, due now: those that a coordinator asked for first, then the newest.

        Half of them at most: the others are those that have waited longest, and what failed before comes behind what is
        new. Else a document that names a million chunks which nobody has would keep all others waiting for good.
        """
        due = f"{JOINED} WHERE mine > 0 AND have = 0 AND next_at <= ? ORDER BY"
        with self._db.read() as db:
            rows = db.execute(
                f"{due} mine DESC, chunk.tries > 0, since DESC LIMIT ?", (now, (limit + 1) // 2)
            ).fetchall()
            rows += db.execute(f"{due} chunk.next_at LIMIT ?", (now, limit)).fetchall()
        found = {row[0]: row for row in rows}
        return [self._item(row) for row in list(found.values())[:limit]]

    def surplus(self, now: float, limit: int) -> list[Item]:
        """Chunks that are here and belong elsewhere, due now."""
        with self._db.read() as db:
            rows = db.execute(
                f"{JOINED} WHERE mine = 0 AND have = 1 AND next_at <= ? ORDER BY next_at LIMIT ?",
                (now, limit),
            ).fetchall()
        return [self._item(row) for row in rows]

    def orphans(self, now: float, limit: int) -> list[Cid]:
        """Chunks that are here for documents that are gone, and that are let go now: they count as not here."""
        with self._db.write(durable=False) as db:
            rows = db.execute(
                "SELECT id, cid FROM chunk WHERE document = 0 AND next_at <= ? ORDER BY next_at LIMIT ?", (now, limit)
            ).fetchall()
            db.executemany("UPDATE chunk SET have = 0 WHERE id = ?", [(chunk,) for chunk, _ in rows])
        return [Cid.from_bytes(cid) for _, cid in rows]

    def drop_orphans(self, cids: Iterable[Cid]) -> None:
        """They were let go."""
        with self._db.write(durable=False) as db:
            rows = [(bytes(cid),) for cid in cids]
            db.executemany("DELETE FROM chunk WHERE cid = ? AND document = 0 AND have = 0", rows)

    def guests(self, now: float = math.inf, limit: int = PAGE) -> list[Item]:
        """Chunks that we hold because a coordinator asked, due to be looked at; those that are here first."""
        with self._db.read() as db:
            rows = db.execute(
                f"{JOINED} WHERE mine = 2 AND next_at <= ? ORDER BY have DESC, next_at LIMIT ?", (now, limit)
            ).fetchall()
        return [self._item(row) for row in rows]

    def ask_to_hold(self, organization: str, cids: Iterable[Cid], now: float) -> int:
        """A coordinator asks us to hold these. Returns: how many are known, and are held or will be."""
        taken = 0
        with self._db.write(durable=False) as db:
            for cid in cids:
                row = db.execute(
                    "SELECT id, mine FROM chunk WHERE cid = ? AND EXISTS (SELECT 1 FROM member JOIN document"
                    " ON document.id = member.document WHERE member.chunk = chunk.id AND organization = ?)",
                    (bytes(cid), organization),
                ).fetchone()
                if row is None:
                    continue
                taken += 1
                if row[1] == 0:
                    db.execute(
                        "UPDATE chunk SET mine = 2, have = have % 2, since = ?, next_at = 0 WHERE id = ?",
                        (now, row[0]),
                    )
        return taken

    def release_guests(self, chunks: Iterable[int], now: float) -> None:
        """They are where they belong: we need hold them no more."""
        with self._db.write(durable=False) as db:
            db.executemany(
                "UPDATE chunk SET mine = 0, since = ?, next_at = ? WHERE id = ? AND mine = 2",
                [(now, now, chunk) for chunk in chunks],
            )

    def set_have(self, items: Iterable[Item], have: int, now: float) -> list[Cid]:
        """They are here now (1), or kept whatever placement says (2). Returns: those that are for nothing any more."""
        with self._db.write(durable=False) as db:
            return [
                item.cid
                for item in items
                if not db.execute(
                    "UPDATE chunk SET have = ?, since = ?, next_at = 0, audit_at = 0, tries = 0"
                    " WHERE id = ? AND cid = ? AND document <> 0",
                    (have, now, item.id, bytes(item.cid)),
                ).rowcount
            ]

    def lost(self, cids: Iterable[Cid], now: float) -> int:
        """Rot was found, or a file is gone: what is ours of them is wanted again. Returns: how many are known."""
        with self._db.write(durable=False) as db:
            return sum(
                db.execute(
                    "UPDATE chunk SET have = 0, since = ?, next_at = 0, tries = 0 WHERE cid = ? AND have > 0",
                    (now, bytes(cid)),
                ).rowcount
                for cid in cids
            )

    def begin_drop(self, chunk: int) -> bool:
        """It is let go now, unless it has become ours meanwhile. From here on we say no more that we keep it."""
        with self._db.write(durable=False) as db:
            return bool(
                db.execute("UPDATE chunk SET have = 0 WHERE id = ? AND mine = 0 AND have = 1", (chunk,)).rowcount
            )

    def documents_of(self, chunk: int) -> list[tuple[str, str]]:
        """Organisation and id of the documents that a chunk is for."""
        query = (
            "SELECT organization, doc_id FROM member JOIN document ON document.id = member.document WHERE chunk = ?"
            " ORDER BY doc_id"
        )
        with self._db.read() as db:
            return db.execute(query, (chunk,)).fetchall()

    def documents_with(self, root: Cid) -> list[str]:
        """The ids of the documents that have this root."""
        with self._db.read() as db:
            rows = db.execute("SELECT doc_id FROM document WHERE root = ? ORDER BY doc_id LIMIT 16", (bytes(root),))
            return [row[0] for row in rows.fetchall()]

    def noted(self, cids: Iterable[Cid], now: float) -> int:
        """These are held here. Returns: of how many the inventory did not know.

        What no document that is known names is kept for a while: its document may not have been read yet.
        """
        with self._db.write(durable=False) as db:
            return sum(
                db.execute(
                    "INSERT INTO chunk (cid, size, document, have, since, next_at) VALUES (?, 0, 0, 1, ?, ?)"
                    " ON CONFLICT (cid) DO UPDATE SET have = 1, since = excluded.since,"
                    " next_at = CASE document WHEN 0 THEN next_at ELSE 0 END WHERE have = 0",
                    (bytes(cid), now, now + VANISHED_S),
                ).rowcount
                for cid in cids
            )

    def put_off_chunks(self, chunks: Iterable[tuple[int, float]]) -> None:
        """They could not be fetched or dropped now: (chunk, when to try again)."""
        with self._db.write(durable=False) as db:
            db.executemany(
                "UPDATE chunk SET next_at = ?, tries = tries + 1 WHERE id = ?", [(at, chunk) for chunk, at in chunks]
            )

    def held(self, after: int, limit: int = PAGE) -> list[tuple[int, Cid]]:
        """A page of chunks that are ours and that the inventory says are here, by id."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT id, cid FROM chunk WHERE id > ? AND have > 0 ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [(row[0], Cid.from_bytes(row[1])) for row in rows]

    # --- audits ---

    def due(self, firsts: Iterable[PeerId], now: float, limit: int) -> list[Item]:
        """Chunks whose home sets begin with one of these nodes and whose audit is due, the longest due first."""
        numbers = [self._numbers[peer] for peer in firsts if peer in self._numbers]
        marks = ",".join("?" * len(numbers))
        with self._db.read() as db:
            rows = db.execute(
                f"{JOINED} WHERE first IN ({marks}) AND audit_at <= ? ORDER BY audit_at LIMIT ?",
                (*numbers, now, limit),
            ).fetchall()
        return [self._item(row) for row in rows]

    def hasten(self, peer: PeerId, now: float) -> int:
        """What is to be done for the chunks of a node has changed: all of them are due. Returns: how many."""
        number = self._numbers.get(peer)
        if number is None:
            return 0
        pattern = struct.pack(">I", number)
        with self._db.write(durable=False) as db:
            rows = db.execute("SELECT id, home FROM chunk WHERE instr(home, ?) > 0", (pattern,)).fetchall()
            due = [(now, row[0]) for row in rows if number in numbers_of(row[1])]
            db.executemany("UPDATE chunk SET audit_at = ?, audits = 0 WHERE id = ?", due)
            db.execute("UPDATE proof SET at = 0 WHERE node = ? AND outcome <> 1", (number,))
        return len(due)

    def proofs(self, chunks: Sequence[int]) -> dict[int, list[Known]]:
        """What is known of the holders of some chunks."""
        found: dict[int, list[Known]] = {chunk: [] for chunk in chunks}
        with self._db.read() as db:
            for at in range(0, len(chunks), PAGE):
                page = chunks[at : at + PAGE]
                marks = ",".join("?" * len(page))
                for chunk, node, when, outcome, since in db.execute(
                    f"SELECT chunk, node, at, outcome, since FROM proof WHERE chunk IN ({marks})",  # noqa: S608
                    tuple(page),
                ):
                    if node in self._peers:
                        found[chunk].append(Known(self._peers[node], OUTCOMES[outcome], when, since))
        return found

    def note(self, told: Iterable[tuple[int, PeerId, Outcome]], now: float) -> None:
        """What holders proved, or could not, just now. `since` is when a holder began to prove, or began to fail.

        One that now is not reached, now answers late, has failed all the while.
        """
        rows = [(chunk, self.number(peer), now, OUTCOMES.index(outcome), now) for chunk, peer, outcome in told]
        with self._db.write(durable=False) as db:
            db.executemany(
                "INSERT INTO proof VALUES (?, ?, ?, ?, ?) ON CONFLICT (chunk, node) DO UPDATE SET at = excluded.at,"
                " since = CASE (outcome = 1) WHEN (excluded.outcome = 1) THEN since ELSE excluded.since END,"
                " outcome = excluded.outcome",
                rows,
            )

    def audited(self, rows: Iterable[tuple[int, float, bool]]) -> None:
        """(chunk, when it is due again, whether all its copies are proved)."""
        with self._db.write(durable=False) as db:
            db.executemany(
                "UPDATE chunk SET audit_at = ?, audits = CASE ? WHEN 1 THEN 0 ELSE audits + 1 END WHERE id = ?",
                [(at, int(is_proved), chunk) for chunk, at, is_proved in rows],
            )

    def keep_evidence(self, peer: PeerId, cid: Cid, statement: bytes, signature: bytes, now: float) -> bool:
        """A signed statement that is wrong. Whether it was kept: of one peer the first ones are enough."""
        with self._db.write(durable=False) as db:
            count = db.execute("SELECT count(*) FROM evidence WHERE peer = ?", (peer.multihash,)).fetchone()[0]
            total = db.execute("SELECT count(*) FROM evidence").fetchone()[0]
            if count >= EVIDENCE_OF_ONE_MAX or total >= EVIDENCE_MAX:
                return False
            db.execute(
                "INSERT INTO evidence (peer, at, cid, statement, signature) VALUES (?, ?, ?, ?, ?)",
                (peer.multihash, now, bytes(cid), statement, signature),
            )
        return True

    def liars(self) -> list[PeerId]:
        """Peers against whom there is evidence."""
        with self._db.read() as db:
            return [PeerId(row[0]) for row in db.execute("SELECT DISTINCT peer FROM evidence ORDER BY peer").fetchall()]

    # --- looking ---

    def page(self, after: int = 0, limit: int = PAGE, *, policy: str = "", documents: Sequence[str] = ()) -> list[Item]:
        """A page of chunks by id, of documents or a policy alone where they are named."""
        where, values = ["chunk.id > ?"], [after]
        more: list[object] = []
        if policy:
            where.append("document.policy = ?")
            more.append(policy)
        if documents:
            marks = ",".join("?" * len(documents))
            where.append(
                "chunk.id IN (SELECT member.chunk FROM member JOIN document ON document.id = member.document"  # noqa: S608
                f" WHERE doc_id IN ({marks}))"
            )
            more += documents
        with self._db.read() as db:
            rows = db.execute(
                f"{JOINED} WHERE {' AND '.join(where)} ORDER BY chunk.id LIMIT ?",
                (*values, *more, limit),
            ).fetchall()
        return [self._item(row) for row in rows]

    def find(self, cid: Cid) -> Item | None:
        """One chunk."""
        with self._db.read() as db:
            row = db.execute(f"{JOINED} WHERE cid = ?", (bytes(cid),)).fetchone()
        return None if row is None else self._item(row)

    def is_read(self, organization: str, doc_id: str) -> bool:
        """Whether the chunks of a document are known and placed."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT is_read, (SELECT count(*) FROM member JOIN chunk ON chunk.id = member.chunk"
                " WHERE member.document = document.id AND epoch < ?) FROM document"
                " WHERE organization = ? AND doc_id = ?",
                (self._epoch, organization, doc_id),
            ).fetchone()
        return bool(row and row[0] and not row[1])

    def totals(self) -> list[PolicyTotals]:
        """Policies at work, by name."""
        with self._db.read() as db:
            documents = dict(db.execute("SELECT policy, count(*) FROM document GROUP BY policy").fetchall())
            rows = db.execute(
                "SELECT policy, max(factor), max(minimum), count(*), sum(size) FROM chunk"
                " JOIN document ON document.id = chunk.document GROUP BY policy ORDER BY policy"
            ).fetchall()
        return [PolicyTotals(row[0], row[1], row[2], documents.get(row[0], 0), row[3], row[4]) for row in rows]

    def loads(self) -> dict[PeerId, tuple[int, int]]:
        """Chunks and bytes that home sets give each node."""
        loads: dict[int, list[int]] = {}
        with self._db.read() as db:
            for home, count, size in db.execute("SELECT home, count(*), sum(size) FROM chunk GROUP BY home"):
                for number in numbers_of(home):
                    load = loads.setdefault(number, [0, 0])
                    load[0] += count
                    load[1] += size
        return {self._peers[number]: (load[0], load[1]) for number, load in loads.items() if number in self._peers}

    def short(self, first: PeerId) -> int:
        """Chunks whose home set begins with a node and whose copies were not all proved in FAILED_MIN rounds."""
        with self._db.read() as db:
            query = "SELECT count(*) FROM chunk WHERE first = ? AND audits >= ?"
            return int(db.execute(query, (self._numbers.get(first, -1), FAILED_MIN)).fetchone()[0])

    def backlog(self) -> tuple[int, int]:
        """Chunks and bytes that this node has still to fetch."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT count(*), COALESCE(sum(size), 0) FROM chunk WHERE mine > 0 AND have = 0"
            ).fetchone()
        return row[0], row[1]

    def unread_count(self) -> int:
        """Documents whose chunks are not known yet."""
        with self._db.read() as db:
            return int(db.execute("SELECT count(*) FROM document WHERE is_read = 0").fetchone()[0])

    def _item(self, row: Sequence[object]) -> Item:
        identity, cid, size, home, mine, have, tries, audits, since, organization, doc_id, owner, *rules, also = row
        peers = tuple(self._peers[number] for number in numbers_of(home) if number in self._peers)  # type: ignore[arg-type]
        rules.append(tuple(Demand(*one) for one in json.loads(str(also))) if also else ())
        return Item(
            identity,  # type: ignore[arg-type]
            Cid.from_bytes(cid),  # type: ignore[arg-type]
            size,  # type: ignore[arg-type]
            peers,
            mine,  # type: ignore[arg-type]
            have,  # type: ignore[arg-type]
            tries,  # type: ignore[arg-type]
            audits,  # type: ignore[arg-type]
            since,  # type: ignore[arg-type]
            organization,  # type: ignore[arg-type]
            doc_id,  # type: ignore[arg-type]
            peer_of(owner),
            *rules,  # type: ignore[arg-type]
        )


def open_inventory(path: Path | None, own: PeerId) -> Inventory:
    """The inventory of a home; made anew where it cannot be read, as all of it follows from elsewhere."""
    from rage_net.errors import ConflictError, IntegrityError

    try:
        return Inventory(path, own)
    except (IntegrityError, ConflictError):
        if path is None:
            raise
        for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            name.unlink(missing_ok=True)
        return Inventory(path, own)
