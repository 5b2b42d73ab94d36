"""Where `rage trust` writes: facts of our organisation's log. See trust_verbs.TrustLedger. Source: ADR 18."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rage_net import sharing
from rage_net.trust_verbs import TrustEntry

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.metadata import Metadata
    from rage_net.sync.facts import Fact


class LogLedger:
    """Trust in other organisations, as the log of one engine has it."""

    def __init__(self, engine: Engine, metadata: Metadata) -> None:
        self._engine = engine
        self._metadata = metadata

    async def list_trust(self) -> Sequence[TrustEntry]:
        """What is in force and not withdrawn; what has ended is there still."""
        return await self._engine.env.blocking(self._list)

    def _list(self) -> list[TrustEntry]:
        return [
            TrustEntry(held.organization, held.ca, held.scopes, held.until, held.by)
            for held in self._metadata.authority.trusted()
        ]

    async def append_trust(self, entry: TrustEntry, *, withdrawn: bool) -> None:
        """Write a fact, durably; trust obeys it when this returns."""

        def write() -> list[Fact]:
            from rage_net.sync.facts import New, Trust

            until = 0 if entry.until is None else int(entry.until)
            body = Trust(entry.ca, tuple(sorted(entry.scopes)), until, withdrawn)
            return self._metadata.log.append(self._metadata.organization, [New(f"org:{entry.organization}", body)])

        facts = await self._engine.env.blocking(write)
        await sharing.written(self._engine, self._metadata.organization, facts)
