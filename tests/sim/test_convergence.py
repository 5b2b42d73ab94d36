"""Seeded runs end in one state; and rules that are broken on purpose are noticed, each within a few runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rage_net.acl import lists
from rage_net.services.ledger import access as access_module
from rage_net.services.ledger import authority as authority_module
from rage_net.sync import facts, rights, taking
from rage_net.sync.chains import Chain
from rage_net.sync.envelope import SegmentError
from rage_net.sync.facts import Document, Fact, Tombstone
from tests.sim import convergence
from tests.sim.convergence import Broken, play

RUNS = 120
CHUNKS = 6
MUTANT_RUNS_MAX = 150
"""A broken rule that so many runs do not notice would go unnoticed."""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_all_nodes_come_to_one_state(rng: random.Random, chunk: int) -> None:
    for _ in range(RUNS // CHUNKS):
        outcome = play(rng.getrandbits(32))
        assert outcome.facts and outcome.nodes >= 3


@pytest.mark.parametrize("seed", [89, 148, 5871, 7342, 9359])
def test_runs_that_once_came_apart_come_to_one_state(seed: int) -> None:
    play(seed)


def test_a_run_is_its_seed() -> None:
    assert play(7) == play(7)


def test_a_failure_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise Broken("1: they differ")

    monkeypatch.setattr(convergence, "check_agreement", broken)
    with pytest.raises(Broken, match=r"seed 3: 1: they differ\nrepeat: python -m tests.sim.convergence --seed 3"):
        play(3)


def test_runs_hold_what_they_promise() -> None:
    """Everything that the issue names happens, and often: else nothing was shown."""
    events = sum((play(seed).events for seed in range(40)), start=play(40).events)
    wanted = (
        "put", "edit", "grant", "deny", "see", "delegate", "expiring", "remove", "revoke", "serial", "renew", "twins",
        "duel", "compact", "shed", "trust", "hostile", "forks", "incarnations", "partition", "restart", "stop",
        "replay", "restored backup",
        "refused author-unknown", "refused bad-signature", "refused gap", "refused forked", "refused author-revoked",
    )  # fmt: skip
    assert [name for name in wanted if not events[name]] == []


# --- rules broken on purpose ------------------------------------------------------------------------------------------

Break = Callable[[pytest.MonkeyPatch], None]


def _ignore_over(patch: pytest.MonkeyPatch) -> None:
    def current(known: Any) -> tuple[Fact, ...]:
        return tuple(sorted({fact.id: fact for fact in known}.values(), key=lambda fact: fact.order))

    for module in (rights, facts):
        patch.setattr(module, "current", current)


def _compile_otherwise(patch: pytest.MonkeyPatch, rewrite: Callable[..., tuple[Any, ...]]) -> None:
    compiled = access_module.Access._compile

    def compile_(self: Any, organization: str, resource: str) -> Any:
        found = compiled(self, organization, resource)
        entries = rewrite(self, found, organization, resource)
        access = lists.compile_access(
            entries, self.strategy(resource), found.access.owner, organization, has_unknown=bool(found.access.flaw)
        )
        return replace(found, access=access)

    patch.setattr(access_module.Access, "_compile", compile_)


def _let_anybody_replace(patch: pytest.MonkeyPatch) -> None:
    """A denial is replaced by a fact that does not count."""

    def rewrite(self: Any, found: Any, organization: str, resource: str) -> tuple[Any, ...]:
        covered = {id for fact in self._log.facts(organization, resource) for id in fact.over}
        return tuple(entry for entry in found.entries if entry.id not in covered)

    _compile_otherwise(patch, rewrite)


def _last_to_arrive_wins(patch: pytest.MonkeyPatch) -> None:
    def rewrite(self: Any, found: Any, organization: str, resource: str) -> tuple[Any, ...]:
        arrival = {fact.id: at for at, fact in enumerate(self._log.facts(organization, resource))}
        return tuple({entry.key: entry for entry in sorted(found.entries, key=lambda one: arrival[one.id])}.values())

    _compile_otherwise(patch, rewrite)


def _ignore_revocations_of_authors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Chain, "last", property(lambda self: 0 if self.is_closed else self.sequence))


def _invert_restriction(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(lists._ORDERS, "most-restrictive", lists._ORDERS["merge"])


def _first_to_arrive_owns(patch: pytest.MonkeyPatch) -> None:
    """Owner is whose document fact came first, whatever its order."""
    counting = rights._of_document

    def of_document(doc_id: str, known: list[Fact], *args: Any) -> Any:
        authors = [fact.author for fact in known if isinstance(fact.body, Document)]
        patch.setattr(rights, "_owner", lambda *_: authors[-1] if authors else None)
        return counting(doc_id, known, *args)

    patch.setattr(rights, "_of_document", of_document)


def _anybody_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rights, "_delegates", lambda _, known, __: ({one.author for one in known},) * 2)


def _undo_tombstones(patch: pytest.MonkeyPatch) -> None:
    compiled = access_module.Access._compile

    def compile_(self: Any, organization: str, resource: str) -> Any:
        found = compiled(self, organization, resource)
        last = [fact.body for fact in found.facts if isinstance(fact.body, Document | Tombstone)][-1:]
        return replace(found, is_dead=bool(last) and isinstance(last[0], Tombstone))

    patch.setattr(access_module.Access, "_compile", compile_)


def _tell_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(access_module.Access, "may_see", lambda *_: None)


def _share_what_is_private(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(access_module, "is_shared_with", lambda *_: True)


def _keep_old_rights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(access_module.Access, "forget", lambda *_: None)


def _believe_any_ca(patch: pytest.MonkeyPatch) -> None:
    def judge(self: Any, organization: str, author: Any, certificates: Any) -> Any:
        return frozenset({"admin", "storage"})

    patch.setattr(authority_module.Authority, "judge", judge)


def _believe_any_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(taking, "verify_signature", lambda *_: None)


def _keep_the_first_branch(patch: pytest.MonkeyPatch) -> None:
    def fork(*_: Any) -> None:
        raise SegmentError("forked", "as if nothing were")

    patch.setattr(taking.Taking, "_fork", fork)


def _revoke_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(authority_module.Authority, "is_revoked", lambda *_: False)


def _ignore_revocations_of_rivals(patch: pytest.MonkeyPatch) -> None:
    """Who was revoked revokes back, and so goes free."""
    patch.setattr("rage_net.sync.reading.LogReader.revoked", lambda *_: frozenset())


def _let_what_is_unknown_pass(patch: pytest.MonkeyPatch) -> None:
    def compile_(*args: Any, has_unknown: bool, **more: Any) -> Any:
        return lists.compile_access(*args, **more)

    patch.setattr(access_module, "compile_access", compile_)


BROKEN: list[Break] = [
    _ignore_over,
    _let_anybody_replace,
    _last_to_arrive_wins,
    _ignore_revocations_of_authors,
    _invert_restriction,
    _first_to_arrive_owns,
    _anybody_counts,
    _undo_tombstones,
    _tell_everything,
    _share_what_is_private,
    _keep_old_rights,
    _believe_any_ca,
    _believe_any_signature,
    _keep_the_first_branch,
    _revoke_nobody,
    _ignore_revocations_of_rivals,
    _let_what_is_unknown_pass,
]


@pytest.mark.parametrize("break_", BROKEN, ids=lambda break_: break_.__name__.strip("_"))
def test_a_broken_rule_is_noticed(break_: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    break_(monkeypatch)
    with pytest.raises(Broken):
        for seed in range(MUTANT_RUNS_MAX):
            play(seed)
