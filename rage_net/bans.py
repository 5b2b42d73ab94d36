"""Peers that an operator has banned: until when, and why. Kept as a text file, a line a peer.

A line is the peer id, the end in seconds since the epoch or `-` for never, and the reason. Unlike the peer store it is
obeyed: a line that cannot be read is an error, so that no ban is lost without a word.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rage_net.errors import ConfigError, UnavailableError
from rage_net.libp2p.peer_id import PeerId, PeerIdError

BANS_MAX = 10_000
REASON_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Ban:
    """One banned peer. `until` is None when the ban does not end."""

    peer_id: PeerId
    until: float | None
    reason: str = ""


class Bans:
    """The bans in force. `now` is the wall clock's: only it survives a restart."""

    def __init__(self, bans: Iterator[Ban] | tuple[Ban, ...] = ()) -> None:
        self._bans = {ban.peer_id: ban for ban in bans}

    def add(self, ban: Ban, now: float) -> None:
        """Ban a peer, or ban it anew. Raises UnavailableError when BANS_MAX others are banned."""
        self._expire(now)
        if ban.peer_id not in self._bans and len(self._bans) >= BANS_MAX:
            raise UnavailableError(f"{BANS_MAX} peers are banned already", mend=["rage peer list --state banned"])
        reason = "".join(char if char.isprintable() else " " for char in ban.reason)[:REASON_CHARS_MAX]
        self._bans[ban.peer_id] = Ban(ban.peer_id, ban.until, reason)

    def lift(self, peer_id: PeerId) -> Ban | None:
        """End a ban; what it was."""
        return self._bans.pop(peer_id, None)

    def get(self, peer_id: PeerId, now: float) -> Ban | None:
        """The ban on a peer, if one is in force."""
        ban = self._bans.get(peer_id)
        return ban if ban is not None and (ban.until is None or ban.until > now) else None

    def listed(self, now: float) -> list[Ban]:
        """Those in force, by peer id."""
        self._expire(now)
        return sorted(self._bans.values(), key=lambda ban: str(ban.peer_id))

    def _expire(self, now: float) -> None:
        for peer_id in [peer_id for peer_id in self._bans if self.get(peer_id, now) is None]:
            del self._bans[peer_id]

    def to_text(self) -> str:
        """The file's content."""
        return "".join(
            f"{ban.peer_id} {'-' if ban.until is None else format(ban.until, '.0f')} {ban.reason}".rstrip() + "\n"
            for ban in self._bans.values()
        )

    @classmethod
    def from_text(cls, text: str, file: str) -> Bans:
        """Read the file's content. Raises: ConfigError naming file and line."""
        bans = []
        for number, line in enumerate(text.splitlines()[: BANS_MAX + 1], 1):
            peer_id, _, rest = line.partition(" ")
            until, _, reason = rest.partition(" ")
            try:
                end = None if until == "-" else float(until)
                if end is not None and not math.isfinite(end):  # compared with any time, it would be over
                    raise ValueError(until)
                bans.append(Ban(PeerId.parse(peer_id), end, reason))
            except (PeerIdError, ValueError):
                raise ConfigError(
                    f"{file}, line {number}: no ban",
                    why="a line holds a peer id, the end in seconds since the epoch or -, and a reason",
                    mend=[f"sed -n {number}p {file}", f"sed -i {number}d {file}"],
                ) from None
        return cls(tuple(bans))
