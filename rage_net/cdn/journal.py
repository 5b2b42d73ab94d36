"""The journal of purges: what was asked, what of it each edge was told, and what became of it. SQLite, durable.

A *purge* is what someone asked for, once. Its *work* is a row for each word on each edge of each provider: two purges
that want the same word while nobody has sent it share the row, so what comes in a rush goes out in few calls. A *call*
is a group of rows with one reference, written before it is sent: a process that dies between sending and hearing sends
exactly that call again. Quotas are rows here too, so that a loop of commands keeps them like one node does.

    ask      a purge, durable when it returns       take     the next call that is due, its tokens spent
    settle   a verdict, for all rows of a call      pending  calls whose end can be asked for
    newest, find, states   how purges stand        prune    what ended long ago

Source: issue 6, B. Blocking; every method is safe from any thread.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rage_net.cdn.holdings import Holdings
from rage_net.cdn.plan import WORDS_MAX, Planned, Word, batches, groups, reference, share
from rage_net.cdn.provider import UNLIMITED, Abilities, Call, Kind, State, Verdict
from rage_net.cdn.schema import APPLICATION_ID, FAILED, MIGRATIONS, OPEN
from rage_net.database import Database

KEEP_S = 30 * 86_400.0
KEEP_PURGES_MAX = 10_000
LEASE_S = 120.0
"""A call that was begun and of which nothing was heard is made again after so long: its process is gone."""
REASON_CHARS_MAX = 500
TOKEN_MIN = 1e-3
"""Less than this of a token is not waited for: seconds since the epoch are that coarse."""
WAIT_S_MIN = 0.001
JITTER_S = 0.5
"""One call may be on its way for so much longer than another: the burst is smaller by what comes in this time, or the
vendor, at whom calls arrive closer together than they were sent, would see more than it allows."""
DUE_S_MAX = 600.0
"""Nothing that waits is due later: what is was written before the clock was set back, and is due now."""
AGAIN_AT_ONCE = 16
"""Calls of old that are looked at for one whose tokens are there."""
REFUSED_AT_ONCE = 1000
"""Words that are put aside together, of a kind that their CDN cannot purge by any more."""
CLOCK_BACK_S = 60.0
"""A quota that was spent so long after now: the clock was set back."""

BUCKETS = "-buckets"
"""After the id of a purge by itself: the id of the one that empties buckets before."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A purge as it was asked. `objects`: paths by which it is proved.

    `cause`: manual, test, sealed (old ciphertexts), or of an owed one narrowed, removed, moved.
    """

    id: str
    asked_at: float
    cause: str
    label: str
    doc_id: str = ""
    objects: tuple[str, ...] = ()
    impossible: tuple[tuple[str, str], ...] = ()
    """Provider, and what it has no way to purge."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one state of a purge stands on one edge."""

    provider: str
    edge: str
    state: State
    words: int
    calls: int
    tries: int
    objects: int | None
    vendor_id: str
    reason: str
    code: str
    mend: tuple[str, ...]
    due_at: float
    sent_at: float
    """When the last of its calls was made."""
    untried: int = 0
    """Of the words, those of which no answer came to any try."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A call to be made now, or when to look again: `due_at` is None when nothing is left for that edge."""

    call: Call | None
    tries: int = 0
    due_at: float | None = None


class Journal:
    """One home's. `path` None keeps it in memory. `holdings` are in the same file."""

    def __init__(self, path: Path | None) -> None:
        self._db = Database(path, name="journal of purges", application_id=APPLICATION_ID, migrations=MIGRATIONS)
        self.holdings = Holdings(self._db)
        self.release()  # one process owns the home: calls under way were another's, now gone

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def release(self) -> None:
        """Whoever made calls has gone: those of which nothing was heard are due."""
        with self._db.write(durable=False) as db:
            db.execute("UPDATE call SET due_at = 0 WHERE state = 'queued' AND due_at = sent_at + ?", (LEASE_S,))

    def ask(self, asked: Asked, plans: Sequence[tuple[Planned, Sequence[str]]]) -> bool:
        """Write a purge with its work on each edge; durable when it returns. False when its id is known already."""
        with self._db.write() as db:
            row = (asked.id, asked.asked_at, asked.cause, asked.label, asked.doc_id)
            lists = json.dumps(asked.objects), json.dumps(asked.impossible)
            made = db.execute("INSERT OR IGNORE INTO purge VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", (*row, *lists))
            if not made.rowcount:
                return False
            number = made.lastrowid
            for planned, edges in plans:
                for edge in edges:
                    for kind in {word.kind: None for word in planned.words}:
                        soft = int(kind in planned.soft)
                        texts = [word.text for word in planned.words if word.kind == kind]
                        db.executemany(
                            "INSERT OR IGNORE INTO work (provider, edge, kind, word, soft) VALUES (?, ?, ?, ?, ?)",
                            ((planned.provider, edge, kind, text, soft) for text in texts),
                        )
                        db.executemany(
                            "INSERT OR IGNORE INTO wanted SELECT ?, number FROM work WHERE"
                            " provider = ? AND edge = ? AND kind = ? AND word = ? AND soft = ? AND reference = ''",
                            ((number, planned.provider, edge, kind, text, soft) for text in texts),
                        )
            return True

    def take(self, provider: str, edge: str, abilities: Abilities, now: float) -> Taken:
        """The next call that is due on an edge, its tokens spent and its rows bound to it, written before it is made.

        It outlives the process; the machine, too, where a vendor knows a call by its reference. For other calls a sync
        would cost more than to make them twice. Calls of old come first: they are sent again as they were. What waits
        for tokens holds up what spends others: at Cloudflare a purge by tag may wait for minutes, one by URL need not.
        """
        with self._db.write(durable=abilities.answer == "pending") as db:
            dues: list[float] = []
            short: set[str] = set()
            """Buckets for which something waits that came before."""
            db.execute(  # the clock was set back since
                "UPDATE call SET due_at = ? WHERE provider = ? AND edge = ? AND state = 'queued' AND due_at > ?",
                (now, provider, edge, now + DUE_S_MAX),
            )
            for ref, soft, tries, due_at in db.execute(
                "SELECT reference, soft, tries, due_at FROM call WHERE provider = ? AND edge = ? AND state = 'queued'"
                " ORDER BY due_at LIMIT ?",
                (provider, edge, AGAIN_AT_ONCE),
            ).fetchall():
                if due_at > now:
                    dues.append(due_at)
                    break
                words = self._words_of(db, ref)
                wait = _spend(db, provider, abilities, words, now, short)
                if not wait:
                    db.execute(
                        "UPDATE call SET tries = tries + 1, sent_at = ?, due_at = ? WHERE reference = ?",
                        (now, now + LEASE_S, ref),
                    )
                    return Taken(_call(ref, edge, bool(soft), words), tries + 1)
                dues.append(now + wait)
            for soft, kinds in ((soft, kinds) for soft in (0, 1) for kinds in groups(abilities)):
                rows = self._unsent(db, provider, edge, soft, kinds, abilities)
                if not rows:
                    continue
                able = [Word(kind, text) for _, kind, text in rows if kind in abilities.words_max]
                words = next(batches(able, abilities), ())
                if not words:  # the configuration has changed: it cannot do this any more
                    self._refuse(db, provider, edge, soft, rows, now)
                    return Taken(None, due_at=now)
                wait = _spend(db, provider, abilities, words, now, short)
                if not wait:
                    chosen = set(words)
                    numbers = [row[0] for row in rows if Word(row[1], row[2]) in chosen]
                    ref = _reference(numbers[0], now, provider, edge, words)
                    self._bind(db, ref, provider, edge, soft, numbers, now, now + LEASE_S)
                    return Taken(_call(ref, edge, bool(soft), words), 1)
                dues.append(now + wait)
            return Taken(None, due_at=min(dues, default=None))

    def settle(self, ref: str, verdict: Verdict, now: float, *, retry_in_s: float = 0.0) -> None:
        """What became of a call. One that was too large is undone: its words go in two halves.

        When the machine dies before the next sync, this is forgotten, and the call is made again.
        """
        with self._db.write(durable=False) as db:
            words = self._words_of(db, ref) if verdict.is_too_large else ()
            if len(words) > 1:
                self._halve(db, ref, words, now)
            else:
                self._settle(db, ref, verdict, now, retry_in_s)

    def pending(self, provider: str, now: float) -> list[tuple[str, str, str, int]]:
        """Reference, edge, the vendor's id and tries of calls whose end may be asked for now."""
        with self._db.read() as db:
            return db.execute(
                "SELECT reference, edge, vendor_id, tries FROM call"
                " WHERE provider = ? AND state = 'pending' AND (due_at <= ? OR due_at > ?)",
                (provider, now, now + DUE_S_MAX),
            ).fetchall()

    def next_pending(self, provider: str) -> float | None:
        """When the next pending call of a provider may be asked about."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT min(due_at) FROM call WHERE provider = ? AND state = 'pending'", (provider,)
            ).fetchone()
        return None if row[0] is None else float(row[0])

    def find(self, purge: str) -> Asked | None:
        """A purge by its id."""
        with self._db.read() as db:
            row = db.execute("SELECT * FROM purge WHERE id = ?", (purge,)).fetchone()
        return None if row is None else _asked(row)

    def newest(self, limit: int, *, is_open: bool = False) -> list[Asked]:
        """Purges, the newest first; with `is_open` those alone of which something waits or is pending."""
        where = f" WHERE number IN ({OPEN})" if is_open else ""
        with self._db.read() as db:
            rows = db.execute(
                f"SELECT * FROM purge{where} ORDER BY asked_at DESC, number DESC LIMIT ?",  # noqa: S608  constants
                (limit,),
            ).fetchall()
        return [_asked(row) for row in rows]

    def states(self, purge: str) -> list[Standing]:
        """How a purge stands: a row for each provider, edge and state."""
        with self._db.read() as db:
            rows = db.execute(
                "SELECT work.provider, work.edge, coalesce(call.state, 'queued') AS state, count(*),"
                " count(DISTINCT call.reference), max(coalesce(call.tries, 0)),"
                " max(call.vendor_id), max(coalesce(call.reason, '')), max(coalesce(call.code, '')),"
                " max(coalesce(call.mend, '[]')), min(coalesce(call.due_at, 0)), max(coalesce(call.sent_at, 0)),"
                " sum(coalesce(call.tries, 0) = 0 OR (call.state = 'queued' AND call.tries = 1"
                " AND call.due_at = call.sent_at + :lease))"
                " FROM purge JOIN wanted ON wanted.purge = purge.number JOIN work ON work.number = wanted.work"
                " LEFT JOIN call ON call.reference = work.reference AND work.reference != ''"
                " WHERE purge.id = :purge GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
                {"purge": purge, "lease": LEASE_S},
            ).fetchall()
            counts = db.execute(
                "SELECT provider, edge, state, sum(objects) FROM call WHERE reference IN ("
                " SELECT work.reference FROM purge JOIN wanted ON wanted.purge = purge.number"
                " JOIN work ON work.number = wanted.work WHERE purge.id = ? AND work.reference != '')"
                " GROUP BY 1, 2, 3",
                (purge,),
            ).fetchall()
        objects = {row[:3]: row[3] for row in counts}
        return [
            Standing(
                row[0], row[1], row[2], row[3], row[4], row[5], objects.get(row[:3]), row[6] or "", row[7], row[8],
                tuple(json.loads(row[9])), row[10], row[11], row[12],
            )
            for row in rows
        ]  # fmt: skip

    def failed(self) -> list[tuple[str, str, bool, tuple[Word, ...]]]:
        """Words that were refused and not taken since, by provider, edge and whether soft; WORDS_MAX at most."""
        with self._db.read() as db:
            rows = db.execute(f"{FAILED} ORDER BY 1, 2, 3 LIMIT ?", (WORDS_MAX,)).fetchall()
        found: dict[tuple[str, str, bool], list[Word]] = {}
        for provider, edge, soft, kind, text in rows:
            found.setdefault((provider, edge, bool(soft)), []).append(Word(kind, text))
        return [(*key, tuple(words)) for key, words in found.items()]

    def count_failed(self) -> list[tuple[str, str, int]]:
        """How many these are, by provider and edge."""
        with self._db.read() as db:
            return db.execute(f"SELECT provider, edge, count(*) FROM ({FAILED}) GROUP BY 1, 2").fetchall()  # noqa: S608  a constant

    def open_words(self, provider: str, edge: str) -> int:
        """Words that an edge has not been told, or not with success."""
        with self._db.read() as db:
            row = db.execute(
                "SELECT count(*) FROM work LEFT JOIN call ON call.reference = work.reference AND work.reference != ''"
                " WHERE work.provider = ? AND work.edge = ?"
                " AND coalesce(call.state, 'queued') IN ('queued', 'pending')",
                (provider, edge),
            ).fetchone()
        return int(row[0])

    def prune(self, now: float) -> int:
        """Forget purges that ended long ago and settle nothing that is owed. Returns how many."""
        with self._db.write(durable=False) as db:
            gone = [
                row[0]
                for row in db.execute(
                    "SELECT number FROM purge WHERE (asked_at < ? OR number <= (SELECT max(number) FROM purge) - ?)"
                    " AND id NOT IN (SELECT id FROM owed UNION SELECT id || ? FROM owed UNION SELECT purge FROM owed)"
                    " AND NOT EXISTS (SELECT 1 FROM wanted JOIN work ON work.number = wanted.work"
                    " LEFT JOIN call ON call.reference = work.reference AND work.reference != ''"
                    " WHERE wanted.purge = purge.number"
                    " AND coalesce(call.state, 'queued') IN ('queued', 'pending')) LIMIT 100",
                    (now - KEEP_S, KEEP_PURGES_MAX, BUCKETS),
                )
            ]
            for number in gone:
                db.execute("DELETE FROM wanted WHERE purge = ?", (number,))
                db.execute("DELETE FROM purge WHERE number = ?", (number,))
            if gone:
                db.execute("DELETE FROM work WHERE reference != '' AND number NOT IN (SELECT work FROM wanted)")
                db.execute("DELETE FROM call WHERE reference NOT IN (SELECT reference FROM work)")
        return len(gone)

    def leave(self, edges: Collection[tuple[str, str]], now: float) -> int:
        """End what is open on edges that are not among these (provider, edge): nobody will ask them. How many words."""
        with self._db.write() as db:
            strays = [
                row
                for row in db.execute(
                    "SELECT provider, edge, soft FROM work WHERE reference = '' GROUP BY 1, 2, 3"
                    " UNION SELECT provider, edge, soft FROM call WHERE state IN ('queued', 'pending') GROUP BY 1, 2, 3"
                ).fetchall()
                if tuple(row[:2]) not in edges
            ]
            words = 0
            for provider, edge, soft in strays:
                rows = db.execute(
                    "SELECT number, kind, word FROM work"
                    " WHERE provider = ? AND edge = ? AND soft = ? AND reference = '' ORDER BY number",
                    (provider, edge, soft),
                ).fetchall()
                if rows:
                    ref = _reference(rows[0][0], now, provider, edge, [Word(*row[1:]) for row in rows])
                    self._bind(db, ref, provider, edge, soft, [row[0] for row in rows], now, now, tries=0)
                open_ = db.execute(
                    "SELECT reference FROM call"
                    " WHERE provider = ? AND edge = ? AND soft = ? AND state IN ('queued', 'pending')",
                    (provider, edge, soft),
                ).fetchall()
                for (ref,) in open_:
                    words += len(self._words_of(db, ref))
                    self._settle(db, ref, _left(provider, edge), now)
        return words

    # --- rows ---

    def _unsent(
        self, db: sqlite3.Connection, provider: str, edge: str, soft: int, kinds: Sequence[Kind], abilities: Abilities
    ) -> list[tuple[int, Kind, str]]:
        """Rows that no call has, of these kinds, in order: as many as one call takes."""
        sizes = (abilities.words_max[kind] for kind in kinds if kind in abilities.words_max)
        most = max(sizes, default=REFUSED_AT_ONCE)
        found: list[tuple[int, Kind, str]] = []
        for kind in kinds:
            found += db.execute(
                "SELECT number, kind, word FROM work WHERE provider = ? AND edge = ? AND soft = ? AND kind = ?"
                " AND reference = '' ORDER BY number LIMIT ?",
                (provider, edge, soft, kind, most - len(found)),
            )
        return found

    def _refuse(
        self,
        db: sqlite3.Connection,
        provider: str,
        edge: str,
        soft: int,
        rows: Sequence[tuple[int, Kind, str]],
        now: float,
    ) -> None:
        ref = _reference(rows[0][0], now, provider, edge, [Word(kind, text) for _, kind, text in rows])
        self._bind(db, ref, provider, edge, soft, [row[0] for row in rows], now, now)
        reason = f"{provider} cannot purge by {rows[0][1]}"
        self._settle(db, ref, Verdict("failed", reason=reason, code="cdn-config"), now)

    def _words_of(self, db: sqlite3.Connection, ref: str) -> tuple[Word, ...]:
        rows = db.execute("SELECT kind, word FROM work WHERE reference = ? ORDER BY kind, number", (ref,))
        return tuple(Word(kind, text) for kind, text in rows)

    def _bind(
        self,
        db: sqlite3.Connection,
        ref: str,
        provider: str,
        edge: str,
        soft: int,
        numbers: Sequence[int],
        now: float,
        due_at: float,
        tries: int = 1,
    ) -> None:
        db.execute(
            "INSERT INTO call (reference, provider, edge, soft, state, tries, due_at, sent_at)"
            " VALUES (?, ?, ?, ?, 'queued', ?, ?, ?)",
            (ref, provider, edge, soft, tries, due_at, now),
        )
        db.executemany("UPDATE work SET reference = ? WHERE number = ?", ((ref, number) for number in numbers))

    def _halve(self, db: sqlite3.Connection, ref: str, words: Sequence[Word], now: float) -> None:
        row = db.execute("SELECT provider, edge, soft FROM call WHERE reference = ?", (ref,)).fetchone()
        numbers = [
            number
            for (number,) in db.execute("SELECT number FROM work WHERE reference = ? ORDER BY kind, number", (ref,))
        ]
        db.execute("DELETE FROM call WHERE reference = ?", (ref,))
        middle = len(numbers) // 2
        for part, names in ((numbers[:middle], words[:middle]), (numbers[middle:], words[middle:])):
            half = reference(f"{ref} {part[0]}", row[0], row[1], names)
            self._bind(db, half, row[0], row[1], row[2], part, now, now, tries=0)

    def _settle(self, db: sqlite3.Connection, ref: str, verdict: Verdict, now: float, retry_in_s: float = 0.0) -> None:
        is_open = verdict.state in ("queued", "pending")
        db.execute(
            "UPDATE call SET state = ?, vendor_id = ?, objects = ?, reason = ?, code = ?, mend = ?, due_at = ?"
            " WHERE reference = ?",
            (
                verdict.state,
                verdict.id,
                verdict.count,
                verdict.reason[:REASON_CHARS_MAX],
                verdict.code,
                json.dumps(verdict.mend),
                now + retry_in_s if is_open else 0.0,
                ref,
            ),
        )


def _reference(number: int, now: float, provider: str, edge: str, words: Sequence[Word]) -> str:
    """Of a new call.

    A row's number alone would not do: SQLite gives it again when its row was forgotten, and another home at the same
    CDN has it too; a vendor that knows the reference and the words would purge nothing.
    """
    return reference(f"{number} {now!r}", provider, edge, words)


def _left(provider: str, edge: str) -> Verdict:
    name = f"{provider} {edge}".strip()
    return Verdict(
        "failed", reason=f"{name} is in cdn.yaml no more", code="cdn-config", mend=("rage cdn purge --failed",)
    )


def _call(ref: str, edge: str, soft: bool, words: Sequence[Word]) -> Call:
    return Call(edge, words[0].kind, tuple(word.text for word in words), soft, ref)


def _asked(row: Sequence[object]) -> Asked:
    _, purge, asked_at, cause, label, doc_id, objects, impossible = row
    return Asked(
        str(purge),
        float(str(asked_at)),
        str(cause),
        str(label),
        str(doc_id),
        tuple(json.loads(str(objects))),
        tuple((provider, name) for provider, name in json.loads(str(impossible))),
    )


def _spend(
    db: sqlite3.Connection,
    provider: str,
    abilities: Abilities,
    words: Sequence[Word],
    now: float,
    short: set[str],
) -> float:
    """Take a call's tokens out of its bucket, 0; else the seconds until there are enough. A full bucket lends.

    Args: short: buckets for which others wait that come first, however little this one wants; what lacks is added.
    """
    kind: Kind = words[0].kind
    name, quota = abilities.quotas.get(kind, ("", UNLIMITED))
    if quota is UNLIMITED:
        return 0.0
    row = db.execute("SELECT tokens, at FROM quota WHERE provider = ? AND bucket = ?", (provider, name)).fetchone()
    burst = max(1.0, quota.burst - quota.per_s * JITTER_S)
    tokens, at = (burst, now) if row is None else row
    if at > now + CLOCK_BACK_S:
        at = now  # the clock was set back
    tokens = share(tokens, min(now - at, 86_400.0), quota.per_s, burst)
    wanted = 1.0 if quota.counts == "calls" else float(len(words))
    lack = min(wanted, burst) - tokens
    if name in short:
        return math.inf
    if lack > TOKEN_MIN:
        short.add(name)
        return max(WAIT_S_MIN, lack / quota.per_s)
    row = (provider, name, tokens - wanted, max(at, now))  # one that waited for its turn has an older `now`
    db.execute("INSERT OR REPLACE INTO quota VALUES (?, ?, ?, ?)", row)
    return 0.0
