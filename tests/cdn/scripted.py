"""A CDN that does what a test says: the Protocol in memory, counting calls and keeping its quota by a test's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rage_net.cdn.provider import Abilities, Call, Item, Level, Verdict

ACCEPTED = Verdict("accepted", id="1")


@dataclass
class Scripted:
    """`answer` is asked for each call's verdict; `calls` are those that were made."""

    name: str = "scripted"
    abilities: Abilities = field(default_factory=lambda: Abilities({"tag": 30, "url": 100}))
    edges: Sequence[str] = ("",)
    hosts: Sequence[str] = ("https://cdn.example.org",)
    answer: Callable[[Call], Verdict] = lambda call: ACCEPTED
    later: Callable[[str], Verdict] = lambda id: Verdict("done", id=id)
    calls: list[Call] = field(default_factory=list)

    def words(self, item: Item) -> Sequence[str]:
        if item.kind == "url":
            return [host + item.value for host in self.hosts]
        return [item.value or "*"]

    async def purge(self, call: Call) -> Verdict:
        self.calls.append(call)
        return self.answer(call)

    async def ask(self, edge: str, id: str) -> Verdict:
        return self.later(id)

    async def check(self) -> Sequence[tuple[str, Verdict]]:
        return [(edge, Verdict("done")) for edge in self.edges]

    async def level(self, since: float, until: float) -> Level:
        return Level({"all": 0.5})
