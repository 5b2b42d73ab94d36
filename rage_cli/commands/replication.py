"""rage replication: how often chunks are stored, where, and whether that is proved; and what mends it.

Not here: how status, findings and plans look to a person (`rage_cli.replicas`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rage_cli import replicas
from rage_cli.command import duration_of, noun, page, share_of
from rage_cli.options import options
from rage_cli.output import chosen_format, confirm, is_json, render, say
from rage_cli.session import home, run, run_in_node
from rage_cli.text import format_duration
from rage_net.errors import (
    EXIT_FINDINGS,
    EXIT_OK,
    ConflictError,
    DeadlineError,
    PartialError,
    UnavailableError,
    UsageError,
)
from rage_net.verbs import replication as verbs

app = noun("See how often chunks are stored, and where; prove it, repair it, move it.")
policy = noun(
    "Look at replication policies: which there are, which one a document is under, what is wrong in the file."
)
app.add_typer(policy, name="policy", help=str(policy.info.help))

EXIT_INVALID = 10
ASKED_AGAIN_MAX = 3
"""Plans that are shown one after the other, because the world moves while a person reads."""

Node = Annotated[str, typer.Argument(metavar="NODE", help="A node's peer id, or how it begins or ends.")]
PlanId = Annotated[str, typer.Option("--plan", metavar="ID", help="Carry out this plan of a --dry-run, or refuse.")]
Wait = Annotated[
    str, typer.Option("--wait", metavar="DURATION", help="Until every copy is proved, or exit 124; the node goes on.")
]


@app.command()
@page(
    examples=(
        "rage replication status",
        "rage replication status --nodes",
        "rage replication status --json | jq '.policies[] | {policy, factor, chunks}'",
        "rage replication status -q || exit    # in CI: exit 6 when something is wrong",
    ),
    exits=(4, 5, 6, 7),
)
def status(
    nodes: Annotated[
        bool, typer.Option("--nodes", help="The nodes alone: a row each, those in trouble first.")
    ] = False,
    policies: Annotated[bool, typer.Option("--policies", help="The policies at work alone: a row each.")] = False,
) -> int:
    """Show who should hold how much, what waits, and what is at risk; problems first."""
    if nodes and policies:
        raise UsageError("--nodes and --policies are two lists", mend=["rage replication status"])
    result = run(verbs.ShowReplication())
    rows = replicas.worst_first(result.nodes)
    if nodes:
        render(result, replicas.NODE, items=rows, identifier=lambda it: it.peer_id)
    elif policies:
        render(result, replicas.POLICY, items=result.policies, identifier=lambda it: it.policy)
    elif chosen_format() == "table":
        replicas.print_status(result, rows)
    else:
        columns = replicas.STATUS if result.problems else replicas.STATUS[1:]
        render(result, columns, identifier=replicas.state_of)
    return EXIT_FINDINGS if result.problems else EXIT_OK


@app.command()
@page(
    examples=(
        "rage replication audit --prove",
        "rage replication audit --doc report.md --prove",
        "rage replication audit --policy critical --prove --json | jq '.findings[] | select(.is_at_risk)'",
        "rage replication audit --sample 10% --prove --timeout 10m    # in CI: exit 6 on findings",
    ),
    exits=(4, 5, 6, 7),
)
def audit(
    all_: Annotated[
        bool, typer.Option("--all", help="Every chunk of the organisation; so it is without a word.")
    ] = False,
    doc: Annotated[str, typer.Option("--doc", metavar="CID|DOC", help="Only this document or chunk.")] = "",
    policy: Annotated[str, typer.Option("--policy", metavar="POLICY", help="Only what is under this policy.")] = "",
    sample: Annotated[
        str, typer.Option("--sample", metavar="PCT", help="Only this share of the chunks, drawn at random: 10%.")
    ] = "100%",
    prove: Annotated[
        bool, typer.Option("--prove", help="Have each holder prove that it has the bytes, instead of taking its word.")
    ] = False,
) -> int:
    """Ask the holders of chunks whether they have them, and list every chunk that is not as its policy wants it."""
    share = share_of("--sample", sample)
    if bool(doc) + bool(policy) > 1 or (all_ and (doc or policy or share < 1)):
        raise UsageError(
            "--all, --doc and --policy are three audits", mend=["rage replication audit --policy POLICY --sample 10%"]
        )
    result = run(verbs.AuditReplication(doc, policy, share, prove), label="audit")
    if is_json():
        render(result, replicas.FINDING, identifier=lambda it: "")
    elif chosen_format() == "table":
        replicas.print_findings(result)
    else:
        render(result, replicas.FINDING, items=result.findings, identifier=lambda it: it.cid)
    for line in replicas.audit_in_words(result):
        say(line)
    return EXIT_OK if result.ok == result.checked and not result.lied else EXIT_FINDINGS


@app.command()
@page(
    examples=(
        "rage replication plan",
        "rage replication plan --moves",
        "plan=$(rage replication plan -q) && rage replication repair --plan $plan    # in CI: that one, or exit 9",
    ),
    exits=(4, 7),
)
def plan(
    moves: Annotated[bool, typer.Option("--moves", help="The copies alone: a row each.")] = False,
) -> None:
    """Show what repair would do now: copies, bytes, time, and what is at risk; nothing is changed."""
    result = run_in_node(verbs.PlanReplication(), label="plan")
    if moves:
        render(result, replicas.MOVE, items=result.moves, identifier=lambda it: it.cid)
    else:
        _show(result)


@app.command()
@page(
    examples=(
        "rage replication repair",
        "rage replication repair --dry-run",
        "rage replication repair --wait 10m",
        "rage replication repair --yes --wait 1h    # in CI: exit 124 when copies are under way still",
    ),
    exits=(3, 4, 7, 9),
)
def repair(plan: PlanId = "", wait: Wait = "") -> None:
    """Bring back the copies that are missing, now; a node does so by itself, only more slowly."""
    _carry_out(verbs.RepairReplication(plan=plan, wait_s=_wait(wait)), lambda it: f"Make {replicas.amount(it)}?")


@app.command()
@page(
    examples=(
        "rage replication drain 12D3KooWQ7 --dry-run",
        "rage replication drain 12D3KooWQ7 --wait 1h    # then it can be stopped",
        "rage replication drain 12D3KooWQ7 --undo",
        "rage replication drain $NODE --yes --wait 6h -q    # in CI",
    ),
    exits=(3, 4, 5, 7, 9),
)
def drain(
    node: Node,
    undo: Annotated[bool, typer.Option("--undo", help="Let it hold copies again.")] = False,
    plan: PlanId = "",
    wait: Wait = "",
) -> None:
    """Place nothing on a node any more; what it holds goes to others, who prove it, and then it can be stopped."""
    if undo:
        ask = "Let {node} hold copies again, which moves {amount}?"
    else:
        ask = "Place nothing on {node} any more, and bring {amount} to others?"
    _carry_out(
        verbs.DrainNode(node, undo, plan=plan, wait_s=_wait(wait)),
        lambda it: ask.format(node=it.node or node, amount=replicas.amount(it)),
    )


@app.command("replace")
@page(
    examples=(
        "rage replication replace 12D3KooWQ7 --lost --dry-run",
        "rage replication replace 12D3KooWQ7 --lost",
        "rage replication replace $NODE --lost --yes --wait 1h    # in CI",
    ),
    exits=(3, 4, 5, 7, 9),
)
def replace_(
    node: Node,
    lost: Annotated[
        bool, typer.Option("--lost", help="Say it: its disk is gone, and it counts no more, though it comes back.")
    ] = False,
    plan: PlanId = "",
    wait: Wait = "",
) -> None:
    """Give up a node for good; its copies count no more, and are made anew elsewhere without waiting for it."""
    if not lost:
        raise UsageError(
            f"replace gives {node} up for good, and wants --lost",
            why="a node that still answers is drained instead, which needs none of its copies made from others",
            mend=["--lost", f"rage replication drain {node}"],
        )
    _carry_out(
        verbs.ReplaceNode(node, lost, plan=plan, wait_s=_wait(wait)),
        lambda it: f"Give up {it.node or node} for good, and make {replicas.amount(it)} elsewhere?",
    )


@app.command()
@page(
    examples=(
        "rage replication rebalance --dry-run",
        "rage replication rebalance",
        "rage replication rebalance --yes --wait 6h    # in CI",
    ),
    exits=(3, 4, 7, 9),
)
def rebalance(plan: PlanId = "", wait: Wait = "") -> None:
    """Move copies to where placement wants them, and drop those too many once the others have proved theirs."""
    _carry_out(verbs.RebalanceReplication(plan=plan, wait_s=_wait(wait)), lambda it: f"Make {replicas.amount(it)}?")


@policy.command("list")
@page(
    examples=(
        "rage replication policy list",
        "rage replication policy list --json | jq '.items[] | {name, factor, documents}'",
        "rage replication policy list -q    # in CI: one name a line",
    ),
    exits=(10,),
)
def list_() -> None:
    """List the policies of this node's files and how many documents are under each; the default is last."""
    result = run(verbs.ListPolicies())
    render(result, replicas.DEFINITION, items=result.items, identifier=lambda it: it.name)
    say(f"from {result.file}; placement by {result.strategy}")
    for peer_id in result.disagreeing:
        say(f"{peer_id} has other policies in its file: there rage replication policy list")


@policy.command()
@page(
    examples=(
        "rage replication policy test report.md",
        "rage replication policy test --tag legal --retention 3d",
        '[ "$(rage replication policy test $CID -q)" = critical ]    # in CI',
    ),
    exits=(5, 10),
)
def test(
    ref: Annotated[str, typer.Argument(metavar="[CID|DOC]", help="A CID, a document's id, or its name.")] = "",
    tag: Annotated[
        list[str], typer.Option("--tag", "--tags", metavar="TAG", help="Of a document yet to come; may be repeated.")
    ] = [],  # noqa: B006  Typer reads it
    retention: Annotated[
        str, typer.Option("--retention", metavar="DURATION", help="Of a document yet to come: 12h, 30d.")
    ] = "",
) -> None:
    """Explain which policy is for a document, by which rule, and who should hold it."""
    keep = duration_of("--retention", retention, "30d")
    if bool(ref) == bool(tag or keep is not None):
        raise UsageError(
            "either a document is wanted, or the tags and retention of one",
            mend=["rage replication policy test report.md", "rage replication policy test --tag legal"],
        )
    result = run(verbs.TestPolicy(ref, tuple(tag), keep))
    render(result, replicas.MATCH, identifier=lambda it: it.policy)
    if chosen_format() == "table" and result.considered:
        replicas.print_list(result.considered, replicas.CONSIDERED)


@policy.command()
@page(
    examples=(
        "rage replication policy lint",
        "rage replication policy lint deploy/replication.yaml",
        "rage replication policy lint - < replication.yaml    # in CI: 10 stops the job, file:line is in the log",
    ),
    exits=(10,),
)
def lint(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Files instead; - is stdin.")] = None,
) -> None:
    """Check replication.yaml, and say every problem with line, key and how to mend it; needs no node and no home."""
    from rage_cli.commands.config import network_file, show_check, stdin_octets
    from rage_net import config
    from rage_net.config import audit as checks

    root = home().root
    if files:
        found = [
            checks.check_file(
                Path(name),
                stdin_octets() if name == "-" else None,
                home=root,
                environ=os.environ,
                root="replication",
            )
            for name in files
        ]
    else:
        settings = config.load(root, environ=os.environ, file=network_file(), files=False)
        named = "network.replication.policies_file" in settings.origins
        path = settings.network.replication.policies_file
        found = [checks.check_file(path, None, home=root, environ=os.environ, root="replication", must_exist=named)]
    result = checks.CheckResult(
        tuple(file for part in found for file in part.files), tuple(p for part in found for p in part.problems)
    )
    show_check(result)
    if not result.is_valid:
        raise typer.Exit(EXIT_INVALID)


# --- plan, then apply -------------------------------------------------------------------------------------------------


def _wait(words: str) -> float:
    """Seconds of `--wait`."""
    wait_s = duration_of("--wait", words, "10m") or 0.0
    if wait_s > verbs.WAIT_S_MAX:
        raise UsageError("--wait is a day at most", mend=["--wait 24h"])
    return wait_s


def _carry_out(verb: verbs.Planned, question: Callable[[verbs.Plan], str]) -> None:
    """Show the plan and ask, unless `--plan` or `--yes` says that it was looked at; then do that and nothing else."""
    label = verb.route.partition("/")[2]
    planning = replace(verb, dry_run=True, wait_s=0.0)
    if options.dry_run:
        _show(run_in_node(planning, label=label))
        return
    if verb.plan or options.yes:
        _end(run_in_node(verb, label=label), verb)
        return
    for left in reversed(range(ASKED_AGAIN_MAX)):
        found = run_in_node(planning, label=label)
        if not found.copies and not found.moves and label in ("repair", "rebalance"):
            _show(found)
            say("nothing to do: every copy is there, as far as this node has proof or word of it")
            return
        for line in replicas.plan_in_words(found):
            say(line)
        confirm(question(found))
        try:
            done = run_in_node(replace(verb, plan=found.plan_id), label=label)
        except ConflictError as conflict:
            if conflict.id != "plan-stale" or not left:
                raise
            say("the world has moved since that plan was made; now it is")
        else:
            _end(done, verb)
            return


def _end(done: verbs.Plan, verb: verbs.Planned) -> None:
    """What was done; exit 124 where copies are under way when the wait is over, 3 or 7 where copies failed."""
    _show(done)
    if verb.wait_s and done.waiting:
        raise DeadlineError(
            f"{replicas.copies(done.waiting)} under way still after {format_duration(verb.wait_s)}",
            why=f"{done.done} are proved, {done.failed} failed; the node goes on by itself",
            mend=["rage replication status", *([] if verb.plan else [f"--wait {4 * verb.wait_s:g}s"])],
        )
    if done.failed:
        failure = UnavailableError(f"{done.failed} chunks could not be had, or not proved")
        error = PartialError(
            f"{done.failed} of {done.done + done.failed} chunks failed",
            [(done.plan_id, failure)],
            mend=["rage replication audit --prove", "rage replication status"],
        )
        error.exit_code = 3 if done.done else failure.exit_code
        raise error
    for line in replicas.outcome_in_words(done, is_undone=isinstance(verb, verbs.DrainNode) and verb.undo):
        say(line)


def _show(result: verbs.Plan) -> None:
    render(result, replicas.PLAN, identifier=lambda it: it.plan_id)
    if chosen_format() == "table" and result.moves:
        replicas.print_list(result.moves, replicas.MOVE, more="rage replication plan --moves")
