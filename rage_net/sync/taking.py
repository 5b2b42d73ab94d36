"""Segments from anyone: verified against what is here, then written; refused, with a reason; or kept as evidence.

A segment is applied only once its signature stood. A chain is let in when its first payload is a certificate that
holds. Whatever is refused changes nothing. Blocking; internal to the log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rage_net.libp2p.peer_id import PeerId
from rage_net.sync.chains import Chain, View, add_chain, hash_at, read_hashes, save_chain
from rage_net.sync.envelope import (
    ChainId,
    Entry,
    Head,
    Segment,
    SegmentError,
    chain_hash,
    chain_start,
    check_bounds,
    decode_segment,
    encode_segment,
    fact_id,
    payload_hash,
    verify_signature,
)
from rage_net.sync.facts import NUMBERS, Certificate
from rage_net.sync.payloads import decode_payload, number_of, parse
from rage_net.sync.storing import Change, Judge, fill_hidden, put_certificate, put_checkpoint, put_entries, touch, weigh
from rage_net.sync.vocabulary import FactError

CHAINS_AUTHOR_MAX = 256
"""Of one author: a new one for each compaction and each restored backup."""
CHAINS_MAX = 8_000
"""Of one organisation."""
AUTHOR_BYTES_MAX = 4 << 30
"""Of payloads of one author: whoever has a certificate may fill a disk no further."""

AUTHOR_ENTRIES_MAX = 16_000_000
"""The same for entries: one that is hidden, or empty, has few bytes on the wire and a row here."""


@dataclass(slots=True)
class Taking:
    """One `take` while it runs."""

    db: sqlite3.Connection
    view: View
    judge: Judge
    own: PeerId
    now: float
    change: Change = field(default_factory=Change)
    chains: dict[ChainId, Chain] = field(default_factory=dict)
    """As they are now, where they differ from the view's."""
    refused: list[tuple[Head, str]] = field(default_factory=list)
    forks: list[ChainId] = field(default_factory=list)
    is_behind_ours: bool = False
    segments: tuple[Segment, ...] = ()
    rescued: list[bytes] = field(default_factory=list)
    """Payloads of our own that a fork of our own chain cost: they are to be said again."""

    def take(self, segments: Iterable[Segment]) -> None:
        """Take each in turn."""
        self.segments = tuple(segments)
        for segment in self.segments:
            try:
                check_bounds(segment)
                self._take(segment)
            except SegmentError as error:
                self.refused.append((Head(segment.chain, segment.last, b""), error.reason))
        for chain in self.chains.values():
            save_chain(self.db, chain)

    def _chain(self, id: ChainId) -> Chain | None:
        return self.chains.get(id) or self.view.chains.get(id)

    def _take(self, segment: Segment) -> None:
        chain = self._chain(segment.chain)
        is_closed = chain is not None and chain.is_closed and chain.sequence
        if chain is not None and is_closed and (chain.forked_at or not self._is_of_admin(chain.id)):
            return  # who sent it has not heard so yet
        if chain is not None and chain.forked_at:
            self._take_forked(chain, segment)
            return
        if chain is None or not chain.sequence:
            self._begin(segment, chain)
            return
        if segment.first > chain.sequence + 1:
            raise SegmentError("gap", f"{segment.chain} is here up to {chain.sequence}, not {segment.first - 1}")
        if chain.accepted is not None and segment.last > max(chain.accepted, chain.sequence):
            self._check_revoked(chain, segment)
        hashes = _hashes(segment.entries)
        shared = min(chain.sequence, segment.last) - segment.first + 1
        if chain.is_closed:  # of what was closed the rows are gone; only what follows can be checked
            if shared < len(hashes):
                self._extend(chain, segment, hashes, max(shared, 0))
            return
        if shared > 0:
            ours = read_hashes(self.db, chain, segment.first, segment.first + shared - 1)
            fork = next((at for at in range(shared) if ours[at] != hashes[at]), None)
            if fork is not None:
                self._fork(chain, segment, hashes, segment.first + fork)
                return
        if shared < len(hashes):
            self._extend(chain, segment, hashes, max(shared, 0))
        if shared > 0:
            self._fill(chain, segment, shared)

    def _begin(self, segment: Segment, chain: Chain | None) -> None:
        """The first segment of a chain: its author needs a certificate."""
        if segment.first != 1:
            raise SegmentError("gap", f"nothing of {segment.chain} is here")
        revoked = next((one for one in self.view.chains.values() if one.id.author == segment.chain.author), None)
        payload = segment.entries[0].payload
        try:
            body = decode_payload(payload).body if payload is not None else None
        except FactError:
            body = None
        if not isinstance(body, Certificate) or payload is None:
            raise SegmentError("author-unknown", f"{segment.chain} does not begin with a certificate")
        hashes = _hashes(segment.entries)
        start = chain or Chain(0, segment.chain, 0, chain_start(segment.chain, self.view.name), 0)
        digest = self._verify(start, segment, hashes, 0)
        first = self.judge(segment.chain.author, body.certificates)
        if first is None and not self._has_later_certificate(segment.chain):
            raise SegmentError("author-unknown", f"no certificate of {segment.chain.author} holds")
        is_revoked = revoked is not None and revoked.accepted is not None
        is_heard = not is_revoked or self._is_heard_out(segment.chain)
        if not is_heard and not weigh(self.db, self.view).accepted(segment.chain):
            raise SegmentError("author-revoked", f"{segment.chain.author} was revoked")
        self._check_room(segment.chain.author)
        chain = chain or add_chain(self.db, self.view, segment.chain)
        self.change.is_limiting = True
        put_certificate(self.db, self.view, segment.chain.author, fact_id(segment.chain.author, payload), first)
        self._write(chain, segment, hashes, 0, digest)
        if segment.chain.author == self.own and segment.chain.incarnation == self.view.incarnation:
            self.is_behind_ours = True

    def _has_later_certificate(self, chain: ChainId) -> bool:
        """Whether one that holds was sent with a chain's beginning: its first CA was withdrawn, and it was renewed."""
        for segment in self.segments:
            for entry in segment.entries if segment.chain == chain else ():
                if entry.payload is None:
                    continue
                try:
                    if number_of(parse(entry.payload)) != NUMBERS[Certificate]:
                        continue
                    body = decode_payload(entry.payload).body
                except FactError:
                    continue
                if isinstance(body, Certificate) and self.judge(chain.author, body.certificates) is not None:
                    return True
        return False

    def _check_room(self, author: PeerId) -> None:
        chains = {**self.view.chains, **self.chains}
        if len(chains) >= CHAINS_MAX or sum(id.author == author for id in chains) >= CHAINS_AUTHOR_MAX:
            raise SegmentError("too-many-chains", f"{author} began too many chains")

    def _check_revoked(self, chain: Chain, segment: Segment) -> None:
        assert chain.accepted is not None
        if segment.first > chain.accepted and not self._is_heard_out(chain.id):
            raise SegmentError("author-revoked", f"{chain.id.author} was revoked")

    def _is_heard_out(self, chain: ChainId) -> bool:
        """Whether a revoked author is: an admin, because its revocations are weighed even then; others are not.

        What made it one may stand in another of its chains, and what this chain begins with may give less.
        """
        return "admin" in self.view.shown.get(chain.author, ()) or self._is_of_admin(chain)

    def _is_of_admin(self, chain: ChainId) -> bool:
        """Whether what was sent of a chain shows its author to be an admin."""
        return any(self._shows_admin(one) for one in self.segments if one.chain == chain)

    def _shows_admin(self, segment: Segment) -> bool:
        """Whether an entry is a certificate that makes its author an admin."""
        for payload in (entry.payload for entry in segment.entries if entry.payload is not None):
            try:
                body = decode_payload(payload).body
            except FactError:
                continue
            if isinstance(body, Certificate) and "admin" in (self.judge(segment.chain.author, body.certificates) or ()):
                return True
        return False

    def _verify(self, chain: Chain, segment: Segment, hashes: list[bytes], skipped: int) -> bytes:
        """Check the signature over what follows our head. Returns: the hash there."""
        digest = chain_hash(chain.hash, segment.first + skipped, hashes[skipped:])
        verify_signature(Head(segment.chain, segment.last, digest), segment.signature)
        return digest

    def _extend(self, chain: Chain, segment: Segment, hashes: list[bytes], skipped: int) -> None:
        if chain.id.author == self.own and chain.id.incarnation == self.view.incarnation:
            self.is_behind_ours = True  # our own, which we do not remember: a backup was restored
        digest = self._verify(chain, segment, hashes, skipped)
        own = [one for one in self.view.chains.values() if one.id.author == chain.id.author]
        if sum(one.bytes for one in own) > AUTHOR_BYTES_MAX:
            raise SegmentError("author-full", f"{chain.id.author} has written more than {AUTHOR_BYTES_MAX} bytes")
        if sum(one.sequence for one in own if not one.is_closed) > AUTHOR_ENTRIES_MAX:
            raise SegmentError("author-full", f"{chain.id.author} has written more than {AUTHOR_ENTRIES_MAX} entries")
        self._write(chain, segment, hashes, skipped, digest)

    def _write(self, chain: Chain, segment: Segment, hashes: list[bytes], skipped: int, digest: bytes) -> None:
        first = segment.first + skipped
        entries = segment.entries[skipped:]
        size = put_entries(self.db, self.view, chain, first, entries, hashes[skipped:], self.change)
        after = replace(chain, sequence=segment.last, hash=digest, bytes=chain.bytes + size)
        put_checkpoint(self.db, chain, after, segment.signature)
        self.chains[chain.id] = after

    def _fill(self, chain: Chain, segment: Segment, shared: int) -> None:
        """Payloads of entries that we hold: of use where only the hash was known. They match it, so they are right."""
        payloads = [
            (sequence, payload)
            for sequence, (payload, _) in enumerate(segment.entries[:shared], segment.first)
            if payload is not None
        ]
        fill_hidden(self.db, self.view, chain, payloads, self.change)

    # --- forks --------------------------------------------------------------------------------------------------------

    def _take_forked(self, chain: Chain, segment: Segment) -> None:
        """A chain that stopped: of use is only what shows that it forked earlier, or payloads of what stands."""
        shared = min(chain.sequence, segment.last) - segment.first + 1
        if shared <= 0:
            raise SegmentError("forked", f"{segment.chain} forked at {chain.forked_at}")
        hashes = _hashes(segment.entries)
        ours = read_hashes(self.db, chain, segment.first, segment.first + shared - 1)
        fork = next((at for at in range(shared) if ours[at] != hashes[at]), None)
        if fork is not None:
            self._fork(chain, segment, hashes, segment.first + fork)
        else:
            self._fill(chain, segment, shared)

    def _fork(self, chain: Chain, segment: Segment, hashes: list[bytes], at: int) -> None:
        """Two entries with one sequence: if the author signed both, keep them as evidence, and stop before them."""
        before = hash_at(self.db, self.view, chain, segment.first - 1)
        head = Head(segment.chain, segment.last, chain_hash(before, segment.first, hashes))
        verify_signature(head, segment.signature)
        ours = self._our_branch(chain, at)
        theirs = Segment(
            segment.chain, segment.first, tuple(Entry(None, digest) for digest in hashes), segment.signature
        )
        if chain.id.author == self.own:
            self._rescue(chain, segment, at)
        self.db.execute(
            "INSERT OR REPLACE INTO evidence (chain, sequence, ours, theirs, found_at) VALUES (?, ?, ?, ?, ?)",
            (chain.key, at, encode_segment(ours), encode_segment(theirs), self.now),
        )
        stopped = hash_at(self.db, self.view, chain, at - 1)
        touch(self.db, chain, at, self.change)
        self.db.execute("DELETE FROM entry WHERE chain = ? AND sequence >= ?", (chain.key, at))
        self.db.execute("DELETE FROM checkpoint WHERE chain = ? AND sequence >= ?", (chain.key, at))
        self.chains[chain.id] = replace(chain, sequence=at - 1, hash=stopped, forked_at=at)
        self.change.is_limiting = True
        self.change.authors.add(chain.id.author)
        self.forks.append(chain.id)

    def _our_branch(self, chain: Chain, at: int) -> Segment:
        """The signed run of ours that holds the entry `at`; of a chain that forked later, its evidence is that run."""
        first = self.db.execute(
            "SELECT max(sequence) FROM checkpoint WHERE chain = ? AND sequence < ?", (chain.key, at)
        ).fetchone()[0]
        row = self.db.execute(
            "SELECT sequence, signature FROM checkpoint WHERE chain = ? AND sequence >= ? ORDER BY sequence LIMIT 1",
            (chain.key, at),
        ).fetchone()
        begin = (first or 0) + 1
        if row is None:
            raw = self.db.execute("SELECT ours FROM evidence WHERE chain = ?", (chain.key,)).fetchone()[0]
            return decode_segment(raw)
        hashes = read_hashes(self.db, chain, begin, row[0])
        return Segment(chain.id, begin, tuple(Entry(None, digest) for digest in hashes), row[1])

    def _rescue(self, chain: Chain, segment: Segment, at: int) -> None:
        """What we said on both branches, to be said again in a new incarnation."""
        rows = self.db.execute(
            "SELECT payload FROM entry WHERE chain = ? AND sequence >= ? AND part = 0 AND payload IS NOT NULL"
            " ORDER BY sequence",
            (chain.key, at),
        )
        self.rescued += [row[0] for row in rows]
        self.rescued += [payload for payload, _ in segment.entries[at - segment.first :] if payload is not None]
        self.is_behind_ours = self.is_behind_ours or chain.id.incarnation == self.view.incarnation


def _hashes(entries: Iterable[Entry]) -> list[bytes]:
    return [given if payload is None else payload_hash(payload) for payload, given in entries]
