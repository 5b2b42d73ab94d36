"""Decisions a second, warm, one core: `python -m bench.authorize`. With up to 8 facts a resource 100,000 are wanted."""

from __future__ import annotations

import time

from rage_net.acl import (
    AccessList,
    ChunkResource,
    DocumentResource,
    Entry,
    Principal,
    Resource,
    Rules,
    authorize,
    compile_access,
)
from rage_net.cid import Cid

ROUNDS = 200_000
NOW = 1_800_000_000.0
RULES = Rules(public_to_strangers=False, is_open=False, organization="acme")
ALL = frozenset(("chunks", "query", "sync"))


def _lists(facts: int) -> list[AccessList]:
    """A hundred documents with so many facts each, a quarter of them denials."""

    def entry(doc: int, at: int) -> Entry:
        kind = ("user:globex/u", "org:org", "peer:p", "group:acme/g")[at % 4]
        action = ("read", "write", "query", "read")[at % 4]
        return Entry(bytes([doc, at]), f"{kind}{at}", action, at % 4 != 3, NOW + 3600 if at % 2 else 0, "", at, "a")

    return [
        compile_access([entry(doc, at) for at in range(facts)], "most-restrictive", f"owner{doc}", "acme")
        for doc in range(100)
    ]


def rate(resources: list[Resource], principals: list[Principal], rounds: int = ROUNDS) -> float:
    """Decisions a second."""
    asked = [(resources[at % len(resources)], principals[at % len(principals)]) for at in range(len(resources) * 7)]
    turns = max(1, rounds // len(asked))
    for resource, principal in asked:
        authorize(resource, principal, "read", RULES, NOW)
    started = time.perf_counter()
    for _ in range(turns):
        for resource, principal in asked:
            authorize(resource, principal, "read", RULES, NOW)
    return turns * len(asked) / (time.perf_counter() - started)


def main() -> None:
    """Print one line a case."""
    principals = [
        Principal("peer", "owner1", "acme", scopes=ALL),
        Principal("peer", "p2", "acme", scopes=ALL),
        Principal("peer", "p6", "globex", scopes=frozenset({"chunks"})),
        Principal("user", "acme/alice", "acme", frozenset({"acme/g3", "acme/staff", "acme/research"})),
        Principal("peer", "stranger"),
    ]
    for facts in (0, 1, 8):
        lists = _lists(facts)
        documents: list[Resource] = [DocumentResource(f"d{at}", access) for at, access in enumerate(lists)]
        chunks: list[Resource] = [ChunkResource(Cid.of(bytes([at])), (access,)) for at, access in enumerate(lists)]
        print(f"{facts} facts: document {rate(documents, principals):,.0f}/s, chunk {rate(chunks, principals):,.0f}/s")


if __name__ == "__main__":
    main()
