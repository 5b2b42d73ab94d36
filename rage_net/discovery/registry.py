"""discovery.db: the registrations a server holds. SQLite; blocking: called off the event loop.

Nothing here is precious: an empty registry fills again within a heartbeat. So commits do not wait for the disk.

Not here: schema and versions (`database`), what makes a registration good (`proofs`), who may see it (`server`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rage_net.discovery.database import disk, open_file
from rage_net.discovery.proofs import LEEWAY_S, check_sequence
from rage_net.discovery.records import Registration
from rage_net.errors import UnavailableError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import HOST_PREFIX_BITS, SITE_PREFIX_BITS, IpAddress, Scope, prefix, scope_of

RECORDS_MAX = 100_000
"""Registrations held: some 100 MB of file."""
RECORDS_PER_ORGANIZATION_MAX = 20_000
"""Of one claimed organisation."""
RECORDS_PER_ADDRESS_MAX = 128
"""From one source address: many nodes may stand behind one gateway."""
RECORDS_PER_SITE_MAX = 1024
"""From one /24 or /48."""
REMEMBERED_S = 2 * LEEWAY_S
"""How long an expired registration's sequence is remembered: after that its copy is too old by its own time."""
SWEPT_MAX = 256
"""Forgotten in one step."""
RARE_MAX = 1000
"""Peers with one capability: fewer are sorted, more are met on the way."""
POOL_MAX = 200
"""Rows drawn to choose a sample from, for each rank."""

REACHED, UNTRIED, UNREACHED = range(3)
"""Ranks: what the dial-back found."""
_REACHABLE: dict[int, bool | None] = {REACHED: True, UNTRIED: None, UNREACHED: False}

_COLUMNS = (
    "peer_id, addresses, organization, region, zone, capabilities, private, members, instance, source, site, seen_at, "
    "expires_at, rank, checked_at"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A registration as it is held."""

    peer_id: PeerId
    addresses_text: str
    organization_id: str
    region: str
    zone: str
    capabilities: tuple[str, ...]
    private: bool
    members_text: str
    instance: str
    source: str
    site: str
    seen_at: float
    expires_at: float
    rank: int
    checked_at: float | None

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """Where it listens; parsed when they are asked for, as most entries of a pool are not chosen."""
        return tuple(map(Multiaddr.parse, self.addresses_text.split()))

    @property
    def members(self) -> tuple[PeerId, ...]:
        """Of a private one, who may see it."""
        return tuple(map(PeerId.parse, self.members_text.split()))

    @property
    def reachable(self) -> bool | None:
        """What the dial-back found; None when it was not tried."""
        return _REACHABLE[self.rank]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are wanted; empty words do not filter. `scope`: those with an address that reaches so far."""

    organization: str = ""
    region: str = ""
    capability: str = ""
    scope: Scope = Scope.MACHINE
    asker: str = ""
    """The organisation that who asks has claimed: private entries of that one are among the answer."""


class Registry:
    """The registrations of one server. Every method is safe from any thread; one process owns the file.

    `path` None keeps them in memory. Raises: ConflictError `newer-store`; StorageFullError, UnavailableError.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        records_max: int = RECORDS_MAX,
        per_organization_max: int = RECORDS_PER_ORGANIZATION_MAX,
        per_address_max: int = RECORDS_PER_ADDRESS_MAX,
        per_site_max: int = RECORDS_PER_SITE_MAX,
    ) -> None:
        self._lock = threading.Lock()
        self._limits = (
            ("organization", per_organization_max, "organisation"),
            ("address", per_address_max, "address"),
            ("site", per_site_max, "network"),
        )
        self._records_max = records_max
        with disk():
            self._db = open_file(path)
            self._rows = self._count()

    def _count(self) -> int:
        rows: int = self._db.execute("SELECT count(*) FROM peer").fetchone()[0]
        return rows

    def close(self) -> None:
        """Close the file. May be called again."""
        with self._lock:
            self._db.close()

    def put(
        self, registration: Registration, *, source: IpAddress, now: float, ttl_s: float, draw: int
    ) -> tuple[Entry, Entry | None]:
        """Take a registration for `ttl_s`, 0 for none; the entry, and the live one that it replaced.

        What the dial-back found is kept while addresses and source stay the same.
        Raises: ConflictError when it is not newer than the last; RegistryFullError when there is no room for it.
        """
        host, site = prefix(source, HOST_PREFIX_BITS), prefix(source, SITE_PREFIX_BITS)
        addresses = " ".join(map(str, registration.addresses))
        with self._write() as db:
            self._sweep(db, now)
            found = db.execute(
                f"SELECT sequence, address, organization, {_COLUMNS} FROM peer WHERE peer_id = ?",  # noqa: S608
                (registration.peer_id.multihash,),
            ).fetchone()
            check_sequence(registration, found[0] if found else None)
            old = _entry(found[3:]) if found else None
            if ttl_s > 0:
                known = {"address": found[1], "organization": found[2], "site": old.site} if found and old else {}
                wanted = {"address": host, "organization": registration.organization_id, "site": site}
                self._check_room(db, known, wanted)
            is_same = old is not None and (old.source, old.addresses_text) == (str(source), addresses)
            rank, checked_at = (old.rank, old.checked_at) if old is not None and is_same else (UNTRIED, None)
            row = (
                registration.peer_id.multihash,
                addresses,
                int(max(map(scope_of, registration.addresses), default=Scope.MACHINE)),
                registration.organization_id,
                registration.region,
                registration.zone,
                " ".join(registration.capabilities),
                registration.private,
                " ".join(map(str, registration.members)),
                registration.instance,
                registration.sequence,
                str(source),
                host,
                site,
                now,
                now + ttl_s,
                rank,
                checked_at,
                draw,
            )
            db.execute(f"REPLACE INTO peer VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
            if old is None or old.capabilities != registration.capabilities:
                db.execute("DELETE FROM capability WHERE peer_id = ?", (registration.peer_id.multihash,))
                names = [(name, registration.peer_id.multihash) for name in registration.capabilities]
                db.executemany("INSERT OR IGNORE INTO capability VALUES (?, ?)", names)
            if old is None:
                self._rows += 1
            entry = self._get(db, registration.peer_id)
            assert entry is not None
        return entry, old if old is not None and old.expires_at > now else None

    def get(self, peer_id: PeerId, now: float) -> Entry | None:
        """The live registration of a peer."""
        with self._lock, disk():
            entry = self._get(self._db, peer_id)
        return entry if entry is not None and entry.expires_at > now else None

    def note_check(self, peer_id: PeerId, instance: str, source: str, is_reachable: bool, now: float) -> None:
        """Keep what a dial-back found, unless the peer has registered from elsewhere since."""
        with self._write() as db:
            db.execute(
                "UPDATE peer SET rank = ?, checked_at = ? WHERE peer_id = ? AND instance = ? AND source = ?",
                (REACHED if is_reachable else UNREACHED, now, peer_id.multihash, instance, source),
            )

    def page(
        self, wanted: Filter, *, now: float, limit: int, after: tuple[int, bytes] | None
    ) -> tuple[list[Entry], tuple[int, bytes] | None]:
        """At most `limit` entries, the reached first, then in the order of peer ids; and where the next page begins.

        An entry whose rank changes between two pages may be in both or in neither.
        """
        where, values = _where(wanted, now)
        if wanted.capability:
            where += f" AND {self._by_capability(wanted.capability)}"
            values += (wanted.capability,)
        if after is not None:
            where += " AND (rank, peer_id) > (?, ?)"
            values += after
        sql = f"SELECT {_COLUMNS} FROM peer WHERE {where} ORDER BY rank, peer_id LIMIT ?"  # noqa: S608
        with self._lock, disk():
            rows = self._db.execute(sql, (*values, limit + 1)).fetchall()
        entries = [_entry(row) for row in rows[:limit]]
        last = entries[-1] if len(rows) > limit else None
        return entries, (last.rank, last.peer_id.multihash) if last is not None else None

    def _by_capability(self, name: str) -> str:
        """Few have it: look at those alone. Many do: look at all in order, and a page is soon full."""
        with self._lock, disk():
            sql = "SELECT count(*) FROM (SELECT 1 FROM capability WHERE name = ? LIMIT ?)"
            is_rare = self._db.execute(sql, (name, RARE_MAX)).fetchone()[0] < RARE_MAX
        if is_rare:
            return "peer_id IN (SELECT peer_id FROM capability WHERE name = ?)"
        return "EXISTS (SELECT 1 FROM capability WHERE name = ? AND capability.peer_id = peer.peer_id)"

    def pool(self, wanted: Filter, *, now: float, count: int, draw: int) -> list[Entry]:
        """Entries to choose a sample from, from `draw` on: at most `POOL_MAX` of each rank.

        A worse rank is looked at only while there are fewer than `count`.
        """
        where, values = _where(wanted, now)
        entries: list[Entry] = []
        for rank in (REACHED, UNTRIED, UNREACHED):
            found: list[tuple[object, ...]] = []
            for beyond in (">=", "<"):
                sql = (
                    f"SELECT {_COLUMNS} FROM peer WHERE {where} AND rank = ? AND draw {beyond} ? "  # noqa: S608
                    "ORDER BY rank, draw LIMIT ?"
                )
                with self._lock, disk():
                    found += self._db.execute(sql, (*values, rank, draw, POOL_MAX - len(found))).fetchall()
                if len(found) >= POOL_MAX:
                    break
            entries += map(_entry, found)
            if len(entries) >= count:
                break
        return entries

    def counts(self, now: float) -> dict[str, int]:
        """Live registrations by what the dial-back found: yes, unknown, no."""
        with self._lock, disk():
            rows = self._db.execute(
                "SELECT rank, count(*) FROM peer WHERE expires_at > ? GROUP BY +rank", (now,)
            ).fetchall()
        found = dict(rows)
        return {name: found.get(rank, 0) for rank, name in enumerate(("yes", "unknown", "no"))}

    def sweep(self, now: float) -> int:
        """Forget what has been expired for long enough; at most `SWEPT_MAX`, and how many."""
        with self._write() as db:
            return self._sweep(db, now)

    def _sweep(self, db: sqlite3.Connection, now: float) -> int:
        sql = "DELETE FROM peer WHERE peer_id IN (SELECT peer_id FROM peer WHERE expires_at < ? LIMIT ?)"
        return self._forget(db, sql, now - REMEMBERED_S, SWEPT_MAX)

    def _forget(self, db: sqlite3.Connection, sql: str, *values: object) -> int:
        gone = db.execute(sql, values).rowcount
        self._rows -= gone
        return gone

    @staticmethod
    def _get(db: sqlite3.Connection, peer_id: PeerId) -> Entry | None:
        sql = f"SELECT {_COLUMNS} FROM peer WHERE peer_id = ?"  # noqa: S608
        row = db.execute(sql, (peer_id.multihash,)).fetchone()
        return None if row is None else _entry(row)

    def _check_room(self, db: sqlite3.Connection, known: dict[str, str], wanted: dict[str, str]) -> None:
        """Pass when one more has room. What is known already takes none, however full it is."""
        for column, limit, name in self._limits:
            if wanted[column] and known.get(column) != wanted[column]:
                sql = f"SELECT count(*) FROM peer WHERE {column} = ?"  # noqa: S608
                if db.execute(sql, (wanted[column],)).fetchone()[0] >= limit:
                    raise RegistryFullError(
                        f"this server holds {limit} registrations of one {name}, and takes no more of this one"
                    )
        if known or self._rows < self._records_max:
            return
        # Who cannot be reached makes way.
        sql = "DELETE FROM peer WHERE peer_id IN (SELECT peer_id FROM peer WHERE rank = ? ORDER BY draw LIMIT 1)"
        if not self._forget(db, sql, UNREACHED):
            raise RegistryFullError(f"this server holds {self._records_max} registrations, and takes no more")

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, disk():
            rows = self._rows
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._rows = rows
                raise


class RegistryFullError(UnavailableError):
    """A limit of the registry is reached; what is registered stays and can be refreshed."""

    id = "registry-full"


def _where(wanted: Filter, now: float) -> tuple[str, tuple[object, ...]]:
    where = "expires_at > ? AND scope >= ? AND (private = 0 OR organization = ?)"
    values: list[object] = [now, int(wanted.scope), wanted.asker or "\0"]  # no organisation is called that
    for column, value in (("organization", wanted.organization), ("region", wanted.region)):
        if value:
            where += f" AND {column} = ?"
            values.append(value)
    return where, tuple(values)


def _entry(row: tuple[object, ...]) -> Entry:
    peer, addresses, organization, region, zone, capabilities, private, members, *rest = row
    instance, source, site, seen_at, expires_at, rank, checked_at = rest
    return Entry(
        peer_id=PeerId.from_bytes(peer),  # type: ignore[arg-type]
        addresses_text=str(addresses),
        organization_id=str(organization),
        region=str(region),
        zone=str(zone),
        capabilities=tuple(str(capabilities).split()),
        private=bool(private),
        members_text=str(members),
        instance=str(instance),
        source=str(source),
        site=str(site),
        seen_at=seen_at,  # type: ignore[arg-type]
        expires_at=expires_at,  # type: ignore[arg-type]
        rank=rank,  # type: ignore[arg-type]
        checked_at=checked_at,  # type: ignore[arg-type]
    )
