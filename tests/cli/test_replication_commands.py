"""rage replication in each form, against a node whose engine says what it is told to; and put --wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest_cli import RAGE, Rage, environment
from conftest_engine import ALICE, BOB, CID, FakeEngine

from rage_cli import replicas
from rage_cli.commands import replication as commands
from rage_net import refusals
from rage_net.errors import ConflictError, DeadlineError, NotFoundError, UnavailableError
from rage_net.verbs import chunk
from rage_net.verbs import replication as verbs

TIMEOUT_S = 30
STALE = ConflictError("plan 7f3a no longer fits", id="plan-stale")
DOC = "4nq7k2v5m6x3c2b6z7a7s6d5f4"
CAROL = "12D3KooWMbS7tXq5fX4rXvZ8m2JtXq5fX4rXvZ8m2JtXq5fX4rXv"

NODES = (
    verbs.NodeRow(ALICE, "acme", "eu-west", "a", 2, "active", "self", False, 3 << 30, 1200, 5 << 20, 0.0),
    verbs.NodeRow(BOB, "acme", "us-east", "b", 1, "active", "gone", False, 0, 1100, 4 << 20, 75.0),
    verbs.NodeRow(CAROL, "acme", "eu-west", "b", 1, "drained", "alive", True, 100, 0, 0, 0.0),
)
POLICIES = (
    verbs.PolicyRow("critical", 3, 2, 4, 1200, 9 << 20, 3600),
    verbs.PolicyRow("default", 2, 1, 40, 800, 3 << 20, 1600),
)
WELL = verbs.ReplicationStatus(
    enabled=True,
    organization="acme",
    strategy="geographic_diversity",
    nodes=NODES[:1],
    policies=POLICIES,
    waiting=0,
    waiting_bytes=0,
    coordinated=700,
    proved=700,
    under=0,
    at_risk=0,
    lied=(),
    audited_at=1_790_000_000.0,
    problems=(),
)
ILL = replace(
    WELL,
    nodes=NODES,
    waiting=3,
    waiting_bytes=4096,
    proved=690,
    under=10,
    at_risk=2,
    lied=(CAROL,),
    audited_at=0.0,
    problems=("2 chunks are at risk", f"{BOB} is gone for 75 s"),
)
HOLDERS = (
    verbs.HolderRow(ALICE, "eu-west", "proved", True),
    verbs.HolderRow(BOB, "us-east", "unreachable", True, "no answer in 5 s"),
    verbs.HolderRow(CAROL, "", "lied", False),
)
FINDINGS = (
    verbs.Finding(CID, DOC, "critical", 3, 1, "under", True, "2 of 3 are missing", HOLDERS),
    verbs.Finding(CID[:-1] + "a", DOC, "default", 2, 3, "over", False, "one too many", HOLDERS[:1]),
)
AUDITED = verbs.AuditResult(
    checked=2000,
    ok=1989,
    under=8,
    over=1,
    misplaced=0,
    unproven=0,
    unreachable=2,
    at_risk=1,
    lied=1,
    proved=True,
    findings=FINDINGS,
    plan_s=0.2,
    seconds=12.34,
)
SOUND = replace(AUDITED, ok=2000, under=0, over=0, unreachable=0, at_risk=0, lied=0, findings=())
MOVES = (verbs.Move(CID, ALICE, CAROL, 1024, "home"), verbs.Move(CID, BOB, "", 2048, "over"))
PLANNED = verbs.Plan("repair", "7f3a", True, "", 2, 3072, 1.5, 1, 0, MOVES)
NOTHING = replace(PLANNED, copies=0, bytes=0, seconds=0.0, at_risk=0, moves=())
DONE = replace(PLANNED, dry_run=False, done=2)
DEFINED = verbs.ListPoliciesResult(
    (
        verbs.PolicyDefinition("critical", 3, 2, "tags: compliance, legal", 4),
        verbs.PolicyDefinition("default", 2, 1, "", 40),
    ),
    "geographic_diversity",
    "/home/config/replication.yaml",
    (BOB,),
)
MATCHED = verbs.PolicyMatch(
    CID,
    DOC,
    "critical",
    3,
    2,
    "its selector matches: tags legal",
    (
        verbs.ConsideredPolicy("critical", 3, True, "it has the tag legal"),
        verbs.ConsideredPolicy("ephemeral", 1, False, "30 days are not < 7"),
    ),
    12.345,
    HOLDERS[:2],
)

ACTIONS: list[tuple[list[str], Callable[..., Any]]] = [
    (["repair"], verbs.RepairReplication),
    (["rebalance"], verbs.RebalanceReplication),
    (["drain", "QpxqBeD"], lambda **more: verbs.DrainNode("QpxqBeD", **more)),
    (["drain", "QpxqBeD", "--undo"], lambda **more: verbs.DrainNode("QpxqBeD", True, **more)),
    (["replace", "QpxqBeD", "--lost"], lambda **more: verbs.ReplaceNode("QpxqBeD", True, **more)),
]
ACTING = pytest.mark.parametrize(("words", "verb"), ACTIONS, ids=[" ".join(words) for words, _ in ACTIONS])


@pytest.fixture(autouse=True)
def _answers(engine: FakeEngine) -> None:
    engine.answer(verbs.ShowReplication, ILL)
    engine.answer(verbs.AuditReplication, AUDITED)
    engine.answer(verbs.ListPolicies, DEFINED)
    engine.answer(verbs.TestPolicy, MATCHED)
    answer_plans(engine, PLANNED)


def answer_plans(engine: FakeEngine, plan: Any) -> None:
    for kind in (
        verbs.PlanReplication,
        verbs.RepairReplication,
        verbs.RebalanceReplication,
        verbs.DrainNode,
        verbs.ReplaceNode,
    ):
        engine.answer(kind, plan)


def rows(stdout: bytes) -> list[list[str]]:
    return [line.split("\t") for line in stdout.decode().splitlines()]


def stderr(done: Any) -> list[str]:
    return list(done.stderr.decode().splitlines())


class Terminal:
    """`rage replication ...` as a person sees it."""

    def __init__(self, home: Path, columns: int, *words: str) -> None:
        self.child = pexpect.spawn(
            RAGE[0],
            [*RAGE[1:], "replication", *words, "--color", "never"],
            env=environment(home),
            cwd=str(home.parent),
            dimensions=(60, columns),
            timeout=TIMEOUT_S,
            encoding="utf-8",
        )

    def rest(self) -> tuple[str, int]:
        self.child.expect(pexpect.EOF)
        self.child.wait()
        return self.child.before.replace("\r\n", "\n"), self.child.exitstatus


# --- looking ----------------------------------------------------------------------------------------------------------


def test_status_is_one_line_in_a_pipe_and_6_where_something_is_wrong(rage: Rage, engine: FakeEngine) -> None:
    (row,) = rows(rage("replication", "status", code=6).stdout)
    assert row[:2] == [f"2 chunks are at risk,{BOB} is gone for 75 s", "lied"]
    assert row[2:5] == ["2", "10", "2 active,1 drained"] and row[7:] == ["3", "4096", "700", "690", "", CAROL]
    assert rage("replication", "status", "-q", code=6).stdout == b"lied\n"
    engine.answer(verbs.ShowReplication, WELL)
    assert rows(rage("replication", "status").stdout)[0][0] == "ok"
    engine.answer(verbs.ShowReplication, replace(WELL, under=3))
    assert b"mend" not in rage("replication", "status", "--format", "table").stdout, "what was just put goes by itself"
    assert json.loads(rage("replication", "status", "--json").stdout)["policies"][0]["minimum"] == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "ok"),
        ({"waiting": 1}, "catching up"),
        ({"problems": ("x",)}, "problems"),
        ({"under": 1, "problems": ("x",)}, "under"),
        ({"under": 1, "at_risk": 1}, "at risk"),
        ({"at_risk": 1, "lied": (BOB,)}, "lied"),
        ({"enabled": False, "at_risk": 1}, "off"),
    ],
    ids=str,
)
def test_the_state_is_the_worst_that_is_so(change: dict[str, Any], word: str) -> None:
    assert replicas.state_of(replace(WELL, **change)) == word


def test_nodes_in_trouble_come_first(rage: Rage) -> None:
    found = rows(rage("replication", "status", "--nodes", code=6).stdout)
    assert [row[0] for row in found] == [BOB, CAROL, ALICE]
    assert found[0][1:] == ["us-east", "active", "gone", "false", "75.0", "1100", "4194304", "", "b", "1", "acme"]
    assert rage("replication", "status", "--nodes", "-q", code=6).stdout.decode().split() == [BOB, CAROL, ALICE]
    lost = replace(NODES[0], state="lost")
    assert replicas.worst_first((NODES[1], lost))[0] is lost


def test_policies_at_work_are_rows(rage: Rage) -> None:
    found = rows(rage("replication", "status", "--policies", code=6).stdout)
    assert found == [
        ["critical", "3", "2", "4", "1200", str(9 << 20), "3600"],
        ["default", "2", "1", "40", "800", str(3 << 20), "1600"],
    ]
    assert b"two lists" in rage("replication", "status", "--policies", "--nodes", code=2).stderr


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_on_a_terminal_problems_come_first_each_with_what_mends_it(home: Path, columns: int) -> None:
    shown, code = Terminal(home, columns, "status").rest()
    found = shown.splitlines()
    assert code == 6
    assert found[0].split(None, 1)[1] == "2 chunks are at risk" and "is gone" in found[1]
    assert "  mend: rage replication repair" in found and f"  mend: rage replication drain {CAROL}" in found
    assert found.index("  mend: rage replication repair") < next(
        at for at, line in enumerate(found) if line.startswith("at risk")
    )
    critical = next(line for line in found if line.startswith("critical"))
    assert critical.split()[1:5] == ["3", "2", "4", "1,200"]
    (gone,) = [line for line in found if BOB[-7:] in line and "1,100" in line]
    assert "gone" in gone and "1m 15s" in gone and len(gone) <= columns
    tables = found[next(at for at, line in enumerate(found) if line.startswith("POLICY")) :]
    assert all(len(line) <= columns for line in tables)


def test_what_a_problem_says_itself_is_not_said_twice(home: Path, engine: FakeEngine) -> None:
    engine.answer(
        verbs.ShowReplication,
        replace(ILL, lied=(), problems=("2 chunks are at risk (rage replication repair)",)),
    )
    shown, _ = Terminal(home, 100, "status").rest()
    assert shown.count("rage replication repair") == 1 and "mend: rage replication audit --prove" in shown


# --- audit ------------------------------------------------------------------------------------------------------------


def test_an_audit_lists_its_findings_those_at_risk_first_and_is_6(rage: Rage, engine: FakeEngine) -> None:
    first, second = rows(rage("replication", "audit", "--prove", code=6).stdout)
    assert first[:5] == ["true", "under", "1", "3", CID]
    assert first[5] == f"{BOB[-8:]} unreachable,{CAROL[-8:]} lied"
    assert first[6:] == ["2 of 3 are missing", "critical", DOC, ALICE]
    assert second[:4] == ["false", "over", "3", "2"]
    assert rage("replication", "audit", "-q", code=6).stdout.decode().split() == [CID, CID[:-1] + "a"]
    plain = json.loads(rage("replication", "audit", "--json", code=6).stdout)
    assert (plain["kind"], plain["checked"], plain["under"], plain["at_risk"]) == ("Audit", 2000, 8, 1)
    assert plain["findings"][0]["holders"][2]["possession"] == "lied"
    engine.answer(verbs.AuditReplication, SOUND)
    assert rage("replication", "audit").stdout == b""
    assert json.loads(rage("replication", "audit", "--json").stdout)["ok"] == 2000


def test_who_lied_is_a_finding_though_every_chunk_is_well(rage: Rage, engine: FakeEngine) -> None:
    engine.answer(verbs.AuditReplication, replace(SOUND, lied=1))
    rage("replication", "audit", code=6)


def test_what_is_audited_is_passed_on(rage: Rage, engine: FakeEngine) -> None:
    engine.answer(verbs.AuditReplication, SOUND)
    for words in ([], ["--all"], ["--doc", "report"], ["--policy", "critical", "--sample", "10%"], ["--prove"]):
        rage("replication", "audit", *words)
    assert engine.asked == [
        verbs.AuditReplication(),
        verbs.AuditReplication(),
        verbs.AuditReplication(ref="report"),
        verbs.AuditReplication(policy="critical", sample=0.1),
        verbs.AuditReplication(prove=True),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["--sample", "0%"],
        ["--sample", "101%"],
        ["--sample", "nan"],
        ["--doc", "x", "--policy", "y"],
        ["--all", "--sample", "5%"],
        ["--all", "--doc", "x"],
    ],
    ids=" ".join,
)
def test_an_audit_of_nothing_or_of_two_things_is_refused(rage: Rage, engine: FakeEngine, words: list[str]) -> None:
    rage("replication", "audit", *words, code=2)
    assert engine.asked == []


@pytest.mark.parametrize("columns", [60, 100])
def test_at_a_terminal_an_audit_ends_with_what_where_and_the_mend(home: Path, columns: int) -> None:
    shown, code = Terminal(home, columns, "audit", "--prove").rest()
    assert code == 6
    words = shown.splitlines()
    assert "2000 chunks in 12.3 s, by proof: 1,989 ok, 8 under, 1 over, 2 unreachable" in words
    assert "at risk: 1 chunk with fewer copies than the policy's min" in words
    assert f"where: {BOB} (us-east) unreachable: 1 chunk" in words and f"where: {CAROL} lied: 1 chunk" in words
    assert "mend: rage replication repair" in words and "mend: rage replication rebalance --dry-run" in words
    head, row = words[0], words[1]
    assert head.split()[:3] == ["AT", "RISK", "STATE"] and row.split()[:4] == ["yes", "under", "1", "3"]
    assert CID[-6:] in row, "a CID that is cut keeps its end"


def test_a_terminal_is_not_flooded(home: Path, engine: FakeEngine) -> None:
    engine.answer(verbs.AuditReplication, replace(AUDITED, findings=FINDINGS[:1] * 2000))
    shown, _ = Terminal(home, 200, "audit").rest()
    assert len(shown.splitlines()) < 60 and "and 1,980 more: rage replication audit --json" in shown


def test_an_audit_that_finds_nothing_says_so_in_a_line(home: Path, engine: FakeEngine) -> None:
    engine.answer(verbs.AuditReplication, replace(SOUND, proved=False))
    assert Terminal(home, 80, "audit").rest() == (
        "2000 chunks in 12.3 s, by their holders' word: 2,000 ok\n",
        0,
    )


# --- plan, then apply -------------------------------------------------------------------------------------------------


def test_a_plan_is_a_line_and_its_moves_are_rows(rage: Rage, engine: FakeEngine) -> None:
    assert rows(rage("replication", "plan").stdout) == [
        ["repair", "7f3a", "", "1", "0", "2", "3072", "1.5", "", "", "", "true"]
    ]
    assert rows(rage("replication", "plan", "--moves").stdout) == [
        [CID, ALICE, CAROL, "1024", "home"],
        [CID, BOB, "drop", "2048", "over"],
    ]
    assert rage("replication", "plan", "-q").stdout == b"7f3a\n"
    plain = json.loads(rage("replication", "plan", "--json").stdout)
    assert (plain["kind"], plain["what"], plain["plan_id"]) == ("Plan", "repair", "7f3a")
    assert engine.asked == [verbs.PlanReplication()] * 4


@ACTING
def test_a_dry_run_is_asked_for_and_shown(
    rage: Rage, engine: FakeEngine, words: list[str], verb: Callable[..., Any]
) -> None:
    assert rows(rage("replication", *words, "--dry-run", "--wait", "1h").stdout)[0][-1] == "true"
    assert engine.asked == [verb(dry_run=True)]


@ACTING
def test_without_a_terminal_yes_is_wanted_and_the_plan_is_told(
    rage: Rage, engine: FakeEngine, words: list[str], verb: Callable[..., Any]
) -> None:
    done = rage("replication", *words, code=2)
    assert stderr(done)[0] == "error[needs-yes]: this needs --yes"
    assert "2 copies, 3.0 KiB, in about 1.5 s" in stderr(done)[1]
    assert engine.asked == [verb(dry_run=True)]


@ACTING
def test_yes_does_it_at_once_and_a_plan_is_passed_on_without_a_question(
    rage: Rage, engine: FakeEngine, words: list[str], verb: Callable[..., Any]
) -> None:
    answer_plans(engine, DONE)
    assert rows(rage("replication", *words, "--yes").stdout)[0][8:] == ["2", "0", "0", "false"]
    rage("replication", *words, "--plan", "7f3a", "--wait", "2m")
    assert engine.asked == [verb(), verb(plan="7f3a", wait_s=120.0)]


def test_a_node_is_needed_to_move_copies(home: Path) -> None:
    from conftest_cli import runner

    from rage_net import home as homes

    homes.init(homes.Home(home.parent / "other"))
    alone = runner(home.parent / "other")
    for words in (["plan"], ["repair", "--yes"], ["drain", "x"], ["replace", "x", "--lost"], ["rebalance"]):
        assert stderr(alone("replication", *words, code=7))[0].startswith("error[node-unreachable]")


def test_a_replacement_wants_its_word(rage: Rage, engine: FakeEngine) -> None:
    done = rage("replication", "replace", BOB, code=2)
    assert f"rage replication replace {BOB} --lost  |  rage replication drain {BOB}" in stderr(done)[-1]
    assert engine.asked == []


@pytest.mark.parametrize("wait", ["soon", "25h"])
def test_a_wait_is_a_duration_of_a_day_at_most(rage: Rage, engine: FakeEngine, wait: str) -> None:
    rage("replication", "repair", "--yes", "--wait", wait, code=2)
    assert engine.asked == []


def test_copies_under_way_when_the_wait_is_over_are_124(rage: Rage, engine: FakeEngine) -> None:
    engine.answer(verbs.RepairReplication, replace(DONE, done=1, waiting=1))
    done = rage("replication", "repair", "--yes", "--wait", "5s", code=124)
    assert rows(done.stdout)[0][8:] == ["1", "0", "1", "false"], "what was done is shown"
    assert stderr(done)[0] == "error[deadline]: 1 copy under way still after 5.0 s"
    assert "rage replication repair --yes --wait 20s" in stderr(done)[-1]
    rage("replication", "repair", "--yes")  # nobody waited: nothing ran out


@pytest.mark.parametrize(("done", "failed", "code"), [(1, 1, 3), (0, 2, 7)])
def test_copies_that_failed_are_3_and_7_where_all_did(
    rage: Rage, engine: FakeEngine, done: int, failed: int, code: int
) -> None:
    engine.answer(verbs.RepairReplication, replace(DONE, done=done, failed=failed))
    told = rage("replication", "repair", "--yes", "--json", code=code).stderr
    plain = json.loads(told)
    assert plain["message"] == f"{failed} of 2 chunks failed" and plain["exit"] == code
    assert plain["partial"][0]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (STALE, 9),
        (ConflictError("the only node that can hold 7 chunks", id="drain-last-holder"), 9),
        (refusals.not_an_admin(), 4),
        (NotFoundError("means no node", id="node-not-found"), 5),
        (UnavailableError("takes no part", id="replication-off"), 7),
        (UnavailableError("5 copies cannot be had", id="replication-short"), 7),
        (refusals.no_ca(), 10),
    ],
    ids=lambda value: getattr(value, "id", ""),
)
def test_a_refusal_has_its_page_and_code(rage: Rage, engine: FakeEngine, error: Any, code: int) -> None:
    engine.answer(verbs.RepairReplication, error)
    done = rage("replication", "repair", "--yes", code=code)
    assert stderr(done)[0].startswith(f"error[{error.id}]: ")
    assert rage("help", "error", error.id, "-q").stdout.decode().strip() == error.id


class TestAsking:
    """At a terminal."""

    def test_the_plan_is_shown_and_that_plan_is_carried_out(self, home: Path, engine: FakeEngine) -> None:
        at = Terminal(home, 100, "repair")
        at.child.expect_exact("plan 7f3a, repair: 2 copies, 3.0 KiB, in about 1.5 s, and drop 1 copy\r\n")
        at.child.expect_exact("at risk now: 1 chunk with fewer copies than the policy's min\r\n")
        at.child.expect_exact("Make 2 copies, 3.0 KiB, in about 1.5 s, and drop 1 copy? [y/N] ")
        engine.answer(verbs.RepairReplication, replace(DONE, waiting=2, done=0))
        at.child.sendline("y")
        shown, code = at.rest()
        assert code == 0 and "2 copies under way; the node goes on by itself: rage replication status" in shown
        assert engine.asked == [verbs.RepairReplication(dry_run=True), verbs.RepairReplication(plan="7f3a")]

    @pytest.mark.parametrize(
        ("words", "question"),
        [
            (["rebalance"], "Make 2 copies, 3.0 KiB, in about 1.5 s, and drop 1 copy? [y/N]"),
            (["drain", "abc"], f"Place nothing on {BOB} any more, and bring 2 copies"),
            (["drain", "abc", "--undo"], f"Let {BOB} hold copies again, which moves 2 copies"),
            (["replace", "abc", "--lost"], f"Give up {BOB} for good, and make 2 copies"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_a_no_changes_nothing(self, home: Path, engine: FakeEngine, words: list[str], question: str) -> None:
        answer_plans(engine, replace(PLANNED, node=BOB, lost=3))
        at = Terminal(home, 200, *words)
        at.child.expect_exact("lost: 3 chunks of which nobody is known to have a copy")
        at.child.expect_exact(question)
        at.child.sendline("n")
        assert at.rest()[1] == 2
        assert len(engine.asked) == 1 and engine.asked[0].dry_run

    def test_of_a_drain_that_is_taken_back_nobody_says_that_the_node_can_be_stopped(
        self, home: Path, engine: FakeEngine
    ) -> None:
        answer_plans(engine, replace(NOTHING, kind="drain", node=BOB))
        for word, said in (("--undo", f"{BOB}: holds copies again"), ("--yes", f"{BOB}: others have proved")):
            shown, code = Terminal(home, 200, "drain", "abc", "--yes", word).rest()
            assert code == 0 and said in shown

    @pytest.mark.parametrize("word", ["repair", "rebalance"])
    def test_where_there_is_nothing_to_do_nobody_is_asked(self, home: Path, engine: FakeEngine, word: str) -> None:
        answer_plans(engine, NOTHING)
        shown, code = Terminal(home, 100, word).rest()
        assert code == 0 and "nothing to do" in shown and len(engine.asked) == 1

    def test_a_drain_that_moves_nothing_is_asked_about_all_the_same(self, home: Path, engine: FakeEngine) -> None:
        answer_plans(engine, replace(NOTHING, kind="drain", node=BOB))
        at = Terminal(home, 200, "drain", "abc")
        at.child.expect_exact("and bring 0 copies, 0 B to others? [y/N] ")
        engine.answer(verbs.DrainNode, replace(NOTHING, kind="drain", node=BOB, dry_run=False))
        at.child.sendline("y")
        shown, code = at.rest()
        assert code == 0 and f"{BOB}: others have proved all that it should hold" in shown

    def test_while_the_world_moves_the_new_plan_is_shown_and_asked_about(self, home: Path, engine: FakeEngine) -> None:
        engine.answer(verbs.RepairReplication, lambda verb: STALE if verb.plan else PLANNED)
        at = Terminal(home, 100, "repair")
        for _ in range(commands.ASKED_AGAIN_MAX):
            at.child.expect_exact("? [y/N] ")
            at.child.sendline("y")
        shown, code = at.rest()
        assert code == 9 and "error[plan-stale]" in shown


# --- policies ---------------------------------------------------------------------------------------------------------


def test_policies_are_listed_and_who_disagrees_is_named(rage: Rage, home: Path) -> None:
    assert rows(rage("replication", "policy", "list").stdout) == [
        ["critical", "3", "2", "4", "tags: compliance, legal"],
        ["default", "2", "1", "40", ""],
    ]
    assert rage("replication", "policy", "list", "-q").stdout == b"critical\ndefault\n"
    assert json.loads(rage("replication", "policy", "list", "--json").stdout)["disagreeing"] == [BOB]
    shown, code = Terminal(home, 120, "policy", "list").rest()
    assert code == 0 and f"{BOB} has other policies in its file" in shown


def test_a_policy_is_explained(rage: Rage, engine: FakeEngine, home: Path) -> None:
    (row,) = rows(rage("replication", "policy", "test", "report").stdout)
    assert row[:6] == ["critical", "3", "2", "its selector matches: tags legal", DOC, CID]
    assert row[6:] == ["12.3", f"{ALICE} proved,{BOB} unreachable"]
    rage("replication", "policy", "test", "--tag", "a", "--tags", "b", "--retention", "3d")
    assert rage("replication", "policy", "test", "--retention", "0s", "-q").stdout == b"critical\n"
    assert engine.asked[1:] == [
        verbs.TestPolicy(tags=("a", "b"), retention_s=259_200.0),
        verbs.TestPolicy(retention_s=0.0),
    ]
    shown, _ = Terminal(home, 100, "policy", "test", "report").rest()
    assert "30 days are not < 7" in shown and "it has the tag legal" in shown


def test_either_a_document_or_what_one_would_be_is_tested(rage: Rage, engine: FakeEngine) -> None:
    rage("replication", "policy", "test", code=2)
    rage("replication", "policy", "test", "report", "--tag", "a", code=2)
    assert engine.asked == []


GOOD = "replication:\n  version: 1\n  policies:\n    - {name: critical, factor: 3, selector: {tags: [legal]}}\n"
BAD = "replication:\n  version: 1\n  policies:\n    - name: critical\n      factor: 33\n"


def test_lint_reads_files_and_asks_no_node(rage: Rage, engine: FakeEngine, home: Path, tmp_path: Path) -> None:
    rage("replication", "policy", "lint")
    (home / "config" / "replication.yaml").write_text(BAD)
    done = rage("replication", "policy", "lint", code=10)
    assert done.stdout.decode().startswith(f"{home}/config/replication.yaml:5: replication.policies[0].factor: ")
    (tmp_path / "good.yaml").write_text(GOOD)
    rage("replication", "policy", "lint", tmp_path / "good.yaml")
    rage("replication", "policy", "lint", "-", stdin=GOOD.encode())
    plain = json.loads(rage("replication", "policy", "lint", "-", "--json", stdin=BAD.encode(), code=10).stdout)
    assert plain["problems"][0]["line"] == 5
    rage("replication", "policy", "lint", "missing.yaml", code=10)
    rage("--home", "nowhere", "replication", "policy", "lint", tmp_path / "good.yaml")
    assert engine.asked == []


# --- put --wait -------------------------------------------------------------------------------------------------------

PUT = chunk.PutChunkResult(CID, DOC, 5, (), 1, "a", 1, (ALICE, BOB), 3)


def test_put_waits_for_proofs_and_names_who_proved(rage: Rage, engine: FakeEngine) -> None:
    engine.answer(chunk.PutChunk, PUT)
    (row,) = rows(rage("chunk", "put", "-", "--wait", "2", "--policy", "critical", stdin=b"hello").stdout)
    assert row[-2:] == [f"{ALICE},{BOB}", "3"]
    plain = json.loads(rage("chunk", "put", "-", "--wait", "2", "--timeout", "20s", "--json", stdin=b"hello").stdout)
    assert plain["replicas"] == [ALICE, BOB] and plain["wanted"] == 3
    rage("chunk", "put", "-", "--wait", "2", "--timeout", "5s", stdin=b"hello")
    rage("chunk", "put", "-", stdin=b"hello")
    assert [(verb.wait, verb.wait_s, verb.policy) for verb in engine.asked] == [
        (2, 120.0, "critical"),
        (2, 19.0, ""),
        (2, 4.5, ""),
        (0, 0.0, ""),
    ]
    rage("chunk", "put", "-", "--wait", "33", stdin=b"hello", code=2)


def test_a_put_whose_copies_were_not_proved_in_time_says_that_it_is_stored(rage: Rage, engine: FakeEngine) -> None:
    told = "the document is stored, and 1 of 3 nodes have proved that they hold all of it"
    engine.answer(chunk.PutChunk, DeadlineError(told, id="copies-not-proved"))
    done = rage("chunk", "put", "-", "--wait", "3", stdin=b"hello", code=124)
    assert stderr(done) == [f"error[copies-not-proved]: {told}"]
    assert b"do not put it again" in rage("help", "error", "copies-not-proved").stdout
