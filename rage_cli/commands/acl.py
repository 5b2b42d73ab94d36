"""rage acl: who may do what with documents."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rage_cli.command import duration_of, noun, page
from rage_cli.options import options
from rage_cli.output import Column, is_json, render, say
from rage_cli.session import run
from rage_cli.text import format_time
from rage_net.errors import EXIT_FINDINGS, EXIT_OK, UsageError
from rage_net.verbs import acl as verbs

app = noun("See and change who may do what with documents.")

FILE_BYTES_MAX = 1 << 20
"""As much as the way to a node takes."""
DEPTH_MAX = 16
"""Of nesting; a file of rights needs 4."""

Doc = Annotated[str, typer.Argument(metavar="DOC", help="A document's id, name or root.")]
Principal = Annotated[
    str,
    typer.Argument(metavar="PRINCIPAL", help="One of peer:ID, user:ORG/NAME, group:ORG/NAME, org:ORG, anyone."),
]
Action = Annotated[str, typer.Argument(metavar="ACTION", help="One of read, write, admin, query, replicate.")]


SHOW = (
    Column("flaw", lambda it: it.flaw),
    Column("resource", lambda it: it.resource),
    Column("name", lambda it: it.name),
    Column("visibility", lambda it: it.visibility),
    Column("owner", lambda it: it.owner),
    Column("organization", lambda it: it.organization),
    Column("in force", lambda it: [_told(fact) for fact in it.facts if fact.in_force]),
    Column("overruled", lambda it: [f"{_told(fact)} (by {fact.author})" for fact in it.facts if not fact.in_force]),
    Column("conflicts", lambda it: it.conflicts, "count"),
    Column("cdn unless public", lambda it: it.cdn or "none"),
)


@app.command()
@page(
    examples=(
        "rage acl show report.md",
        "rage acl show report.md --json | jq .rights > rights.json",
        "rage acl show $DOC --json | jq -e '.conflicts == 0'    # in CI",
    ),
    exits=(5,),
)
def show(doc: Doc) -> None:
    """Show a document's rights: what is in force, and what concurrent facts were overruled."""
    result = run(verbs.ShowAcl(doc))
    render(result, SHOW if result.flaw else SHOW[1:], identifier=lambda it: it.resource)


CHANGE = (
    Column("principal", lambda it: it.principal),
    Column("action", lambda it: it.action),
    Column("said", lambda it: it.visibility or it.cdn or _word(it)),
    Column("until", lambda it: it.expires_at if it.expires_at > 1 else None, "time"),
    Column("replaces", lambda it: it.replaces, "count"),
)


@app.command("set")
@page(
    examples=(
        "rage acl set report.md --visibility federated",
        "rage acl set report.md -f rights.yaml --dry-run",
        "rage acl set report.md --cdn encrypted    # not public, and yet on CDNs: as ciphertext",
        "jq -n '{visibility: \"org\"}' | rage acl set $DOC -f -    # in CI",
    ),
    exits=(4, 5, 7, 10),
)
def set_(
    doc: Doc,
    visibility: Annotated[
        str, typer.Option(metavar="V", help="One of public, federated, org, private; all else stays.")
    ] = "",
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE|-", help="YAML or JSON: these rights, and none besides.")
    ] = "",
    cdn: Annotated[
        str,
        typer.Option(metavar="encrypted|none", help="How it may go to CDNs while it is not public; all else stays."),
    ] = "",
) -> None:
    """Make a document's rights what is asked for, and write what must change for that."""
    rights = _read(file) if file else ()
    _render(run(verbs.SetAcl(doc, rights, visibility, cdn, options.dry_run)))


@app.command()
@page(
    examples=(
        "rage acl grant report.md org:globex read",
        "rage acl grant report.md user:acme/alice write --until 30d",
        "rage acl grant $DOC group:acme/ci read --until 2027-01-31 -q    # in CI",
    ),
    exits=(4, 5, 7, 10),
)
def grant(
    doc: Doc,
    principal: Principal,
    action: Action,
    until: Annotated[
        str, typer.Option(metavar="DURATION|DATE", help="When the right ends: 30d, or 2027-01-31; never without it.")
    ] = "",
) -> None:
    """Let a principal do something with a document, in place of what was denied it before."""
    _render(run(verbs.GrantAcl(doc, principal, action, _moment(until), options.dry_run)))


@app.command()
@page(
    examples=(
        "rage acl revoke report.md org:globex read",
        "rage acl revoke report.md user:acme/mallory read --dry-run",
        "rage acl revoke $DOC peer:$PEER read -q    # in CI",
    ),
    exits=(4, 5, 7, 10),
)
def revoke(doc: Doc, principal: Principal, action: Action) -> None:
    """Deny a principal something: a denial wins over every grant and over visibility, until it is granted again."""
    _render(run(verbs.RevokeAcl(doc, principal, action, options.dry_run)))


DECISION = (
    Column("answer", lambda it: "yes" if it.allowed else "no"),
    Column("reason", lambda it: it.reason),
    Column("would deny", lambda it: it.would_deny),
)
EXPLAINED = (
    *DECISION,
    Column("resource", lambda it: it.resource),
    Column("principal", lambda it: it.principal),
    Column("action", lambda it: it.action),
    Column("rules tried", lambda it: it.rules),
    Column("documents", lambda it: [f"{_yes(row)} {row.doc_id or 'public'}: {row.reason}" for row in it.documents]),
)


@app.command()
@page(
    examples=(
        "rage acl check report.md org:globex read",
        "rage acl check bafkr4i... user:acme/alice read --group acme/research --explain",
        "rage acl check $DOC anyone read -q && echo leaks    # in CI: exit 6 when the answer is no",
    ),
    exits=(5, 6),
)
def check(
    ref: Annotated[str, typer.Argument(metavar="DOC|CID", help="A document, or a chunk as peers ask for it.")],
    principal: Principal,
    action: Action,
    group: Annotated[
        list[str], typer.Option("--group", metavar="ORG/NAME", help="A user's group, as its token says; repeatable.")
    ] = [],  # noqa: B006
    explain: Annotated[bool, typer.Option("--explain", help="Every rule that was tried, and each document.")] = False,
) -> int:
    """Say whether a principal may do something, as a door of this node would decide."""
    result = run(verbs.CheckAcl(ref, principal, action, tuple(group)))
    columns = EXPLAINED if explain else DECISION if result.would_deny else DECISION[:2]
    render(result, columns, identifier=lambda it: "yes" if it.allowed else "no")
    return EXIT_OK if result.allowed else EXIT_FINDINGS


ROW = (
    Column("resource", lambda it: it.resource),
    Column("name", lambda it: it.name),
    Column("principal", lambda it: it.principal),
    Column("action", lambda it: it.action),
    Column("said", lambda it: "granted" if it.allowed else "denied"),
    Column("until", lambda it: it.expires_at or None, "time"),
    Column("organization", lambda it: it.organization, wide=True),
)


@app.command("list")
@page(
    examples=(
        "rage acl list",
        "rage acl list org:globex",
        "rage acl list anyone --json | jq -e '.items == []'    # in CI",
    ),
    exits=(),
)
def list_(
    principal: Annotated[str, typer.Argument(metavar="[PRINCIPAL]", help="Its rights alone; without it all.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", help="At most so many.", min=1, max=10_000)] = 1000,
) -> None:
    """List rights and denials in force on the documents of this node."""
    result = run(verbs.ListAcl(principal, limit))
    render(result, ROW, items=result.items, identifier=lambda it: it.resource)
    if result.more:
        say(f"there are more than {limit}: --limit shows them")


def _render(result: verbs.ChangeAclResult) -> None:
    render(result, CHANGE, items=result.changes, identifier=lambda it: result.resource)
    if not result.changes and not is_json():
        say("nothing to change: it is so already")
    elif result.dry_run:
        say(f"dry run: {len(result.changes)} facts would be written")


def _word(change: Any) -> str:
    if change.allowed:
        return "granted"
    return "taken back" if change.expires_at == 1 else "denied"


def _yes(row: verbs.AclReason) -> str:
    return "yes" if row.allowed else "no"


def _told(fact: verbs.AclFact) -> str:
    if fact.visibility:
        return f"visibility {fact.visibility}"
    end = f" until {format_time(fact.expires_at)}" if fact.expires_at > 1 else ""
    return f"{fact.principal} {fact.action} {_word(fact)}{end}"


def _moment(until: str) -> float:
    """Seconds since the epoch of a duration from now, or of the end of a day in UTC; 0 for nothing."""
    import time
    from datetime import UTC, datetime, timedelta

    if not until:
        return 0
    try:
        day = datetime.strptime(until, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        seconds = duration_of("--until", until, "30d") or 0.0
        return float(int(time.time() + seconds))
    return (day + timedelta(days=1)).timestamp()


def _read(path: str) -> tuple[verbs.AclRights, ...]:
    """The rights that a file holds. Raises UsageError, saying what is wrong with them."""
    import time

    from rage_cli.files import FileSource
    from rage_net.acl import AclPayload, parse_payloads

    data = bytearray()
    block = bytearray(1 << 16)
    with FileSource(path) as source:
        while size := source.readinto(block):
            data += block[:size]
            if len(data) > FILE_BYTES_MAX:
                raise UsageError(
                    f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB",
                    why="a file of rights names 10,000 principals at most",
                    mend=["name a group or an organisation"],
                    id="bad-acl",
                )
    payloads = parse_payloads(_parse(path, bytes(data)), time.time())
    return tuple(verbs.AclRights(*(getattr(one, name) for name in AclPayload.__slots__)) for one in payloads)


def _parse(path: str, data: bytes) -> Any:
    """YAML, of which JSON is a part, as plain values."""
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text, depth = data.decode("utf-8-sig"), 0
        for event in yaml.parse(text, Loader=loader):  # to construct recurses: a hostile depth must be seen before
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX or isinstance(event, yaml.AliasEvent):
                raise ValueError("it is nested too deeply, or holds aliases")
        return yaml.load(text, Loader=loader)  # noqa: S506  a safe loader
    except (yaml.YAMLError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is no YAML or JSON", why=why, mend=["rage acl set --help"], id="bad-acl") from error
