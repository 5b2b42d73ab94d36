"""rage cdn: what CDNs keep of us, what is purged there, and the proof that it went.

Not here: how rows look to a person (`rage_cli.cdns`).
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rage_cli import cdns
from rage_cli.command import duration_of, not_one_of, noun, page
from rage_cli.options import options
from rage_cli.output import chosen_format, confirm, is_json, render, say
from rage_cli.partial import failure, raise_failures
from rage_cli.replicas import print_list
from rage_cli.session import home, run
from rage_cli.text import counted, format_duration
from rage_net import config as configuration
from rage_net.config.cdn import Cdn, Edge, Provider
from rage_net.errors import EXIT_FINDINGS, EXIT_OK, DeadlineError, NotFoundError, UsageError
from rage_net.verbs import Progress
from rage_net.verbs import cdn as verbs

app = noun("Purge CDNs and prove it, fill them, see how they do.")
rules = noun("See which cache rule is for a path, and what caches are told.")
app.add_typer(rules, name="rules", help=str(rules.info.help))

LINES_MAX = verbs.TARGETS_MAX
SOFTWARE = ("varnish", "nginx", "tls", "token")
"""What files are rendered for."""

Providers = Annotated[
    list[str], typer.Option("--provider", metavar="NAME", help="Only this CDN of cdn.yaml; may be repeated.")
]


@app.command()
@page(
    examples=(
        "rage cdn purge --doc report.md --wait 2m",
        "rage cdn purge bafkr4icsnu5x2m",
        "rage cdn purge --tag legal --dry-run",
        "rage chunk list --chunks -q | rage cdn purge - --yes    # in CI: exit 3 names the CDNs that failed",
    ),
    exits=(3, 4, 5, 7, 10),
)
def purge(
    cids: Annotated[list[str] | None, typer.Argument(metavar="[CID]...|-", help="CIDs; - reads one a line.")] = None,
    doc: Annotated[list[str], typer.Option("--doc", metavar="DOC", help="A document; may be repeated.")] = [],  # noqa: B006
    tag: Annotated[list[str], typer.Option("--tag", metavar="TAG", help="All documents with this tag.")] = [],  # noqa: B006
    prefix: Annotated[list[str], typer.Option("--prefix", metavar="PATH", help="All paths that begin so.")] = [],  # noqa: B006
    host: Annotated[list[str], typer.Option("--host", metavar="HOST", help="All of a public host name.")] = [],  # noqa: B006
    all_: Annotated[
        bool, typer.Option("--all", help="All that these CDNs have of us; the origin then bears it.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Again all that has failed, and was not purged since.")
    ] = False,
    provider: Providers = [],  # noqa: B006
    soft: Annotated[
        bool | None, typer.Option("--soft/--hard", help="Mark as stale, or delete; without a word as cdn.yaml says.")
    ] = None,
    wait: Annotated[
        str, typer.Option("--wait", metavar="DURATION", help="To the end, and prove it at every edge; else exit 124.")
    ] = "",
) -> None:
    """Purge CIDs, documents, tags or paths at every CDN; journalled first, and tried until it is done."""
    verb = verbs.PurgeCdn(
        _lines(cids or []), tuple(doc), tuple(tag), tuple(prefix), tuple(host), all_, tuple(provider), soft,
        duration_of("--wait", wait, "2m") or 0.0, options.dry_run, failed,
    )  # fmt: skip
    if all_ and not options.dry_run:
        confirm("Purge everything: until the caches are warm, every request comes to the origin. Go on?")
    result = _watched(verb)
    if failed and not (result.rows or is_json()):
        say("nothing has failed that was not purged since")
        return
    _show(result, verb.wait_s)


def _lines(words: list[str]) -> tuple[str, ...]:
    """Arguments, with `-` replaced by the lines of stdin."""
    if "-" not in words:
        return tuple(words)
    if sys.stdin.isatty():
        raise UsageError(
            "- reads CIDs from a pipe",
            why="stdin is a terminal",
            mend=["rage chunk list --chunks -q | rage cdn purge -"],
        )
    found = [word for word in words if word != "-"]
    for line in sys.stdin:
        if line.strip():
            found.append(line.strip())
        if len(found) > LINES_MAX:
            raise UsageError(
                f"more than {LINES_MAX} CIDs in one purge",
                why="each is kept in the journal with its words until it is done",
                mend=["split -l 100000", "rage cdn purge --all"],
            )
    return tuple(found)


def _watched(verb: verbs.PurgeCdn) -> verbs.PurgeResult:
    """Its result. Whoever stops waiting for it is told that it goes on, and where to look."""
    from rage_cli.app import TerminatedError

    name = ""

    def watch(progress: Progress) -> None:
        nonlocal name
        name = progress.label.rpartition(" ")[2] or name

    try:
        return run(verb, label="purge", watch=watch)
    except (KeyboardInterrupt, TerminatedError):
        if name and is_json():
            sys.stderr.write(json.dumps({"type": "interrupted", "purge_id": name}) + "\n")
        elif name:
            goes_on = "goes on, in the node or with the next rage cdn command"
            sys.stderr.write(f"interrupted; {name} {goes_on}: rage cdn journal {name}\n")
        raise
    except DeadlineError as error:
        if name:
            error.mend = (f"rage cdn journal {name}", *error.mend)
        raise


def _show(result: verbs.PurgeResult, wait_s: float) -> None:
    rows = cdns.worst_first((*result.rows, *result.impossible))
    if is_json():
        render(result, cdns.PURGE, identifier=lambda it: it.purge_id)
    elif chosen_format() == "id":
        render(result, cdns.PURGE, items=[result], identifier=lambda it: it.purge_id)
    else:
        render(result, cdns.PURGE, items=rows, identifier=lambda it: it.provider)
        if chosen_format() == "table" and result.proofs:
            print_list(result.proofs, cdns.PROOF)
    for line in cdns.purge_in_words(result):
        say(line)
    if result.dry_run:
        return
    failed = [(_name(row), failure(row.code, row.reason)) for row in rows if row.state == "failed"]
    mend = list(dict.fromkeys(line for row in rows if row.state == "failed" for line in row.mend))
    again = ["then: rage cdn purge --failed"] if any(row.state == "failed" for row in result.rows) else []
    raise_failures(
        f"{len(failed)} of {len(rows)} did not purge", failed, len(rows), [*(mend or ["rage cdn check"]), *again]
    )
    late = [_name(row) for row in rows if row.state in ("queued", "pending")]
    late += [f"{it.edge or it.provider} {it.path}" for it in result.proofs if it.proof != "gone"]
    if wait_s and late:
        raise DeadlineError(
            f"not proved within {format_duration(wait_s)}: {', '.join(late[:3])}{' ...' if len(late) > 3 else ''}",
            why=_why_late(rows),
            mend=[f"rage cdn journal {result.purge_id}", "rage cdn check"],
        )


def _why_late(rows: Sequence[verbs.PurgeRow]) -> str:
    waits = [row for row in rows if row.state in ("queued", "pending")]
    if reason := next((row.reason for row in waits if row.reason), ""):
        return reason
    if waits:
        return "its vendor has not ended it yet" if waits[0].state == "pending" else "it has not answered yet"
    return "the cache gives it still, or does not say"


def _name(row: verbs.PurgeRow) -> str:
    return f"{row.provider} {row.edge}".strip()


@app.command()
@page(
    examples=(
        "rage cdn status",
        "rage cdn status --hours 1",
        "rage cdn status --json | jq '.items[] | select(.hit_ratio < 0.7) | .provider'    # in CI",
    ),
    exits=(7, 10),
)
def status(
    hours: Annotated[float, typer.Option("--hours", metavar="N", help="Hit ratios of so many hours back.")] = 24.0,
) -> None:
    """Show each CDN: hit ratio by its own figures, quota left, purges that wait, and what is wrong."""
    result = run(verbs.ShowCdn(hours))
    render(result, cdns.PROVIDER, items=result.items, identifier=lambda it: it.provider)
    for row in result.items:
        if row.hint:
            say(f"{row.provider}: no hit ratio: {row.hint}")
    if not result.items:
        say("no CDN is configured: config/cdn.yaml names them, docs/CDN.md leads through each")


@app.command()
@page(
    examples=(
        "rage cdn check",
        "rage cdn check --doc report.md",
        "rage cdn check --provider varnish-edge -q    # in CI: exit 6 when something is wrong",
    ),
    exits=(6, 7, 10),
)
def check(
    doc: Annotated[str, typer.Option("--doc", metavar="DOC", help="Ask every public host for this document.")] = "",
    provider: Providers = [],  # noqa: B006
) -> int:
    """Try credentials, ids, rights, edges and public hosts, without a change; exit 6 when one is wrong."""
    result = run(verbs.CheckCdn(doc, tuple(provider)))
    render(result, cdns.CHECK, items=result.items, identifier=lambda it: f"{it.provider} {it.edge}".strip())
    for line in dict.fromkeys(f"{row.provider}: {line}" for row in result.items if not row.ok for line in row.mend):
        say(line)
    return EXIT_OK if all(row.ok for row in result.items) else EXIT_FINDINGS


@app.command()
@page(
    examples=(
        "rage cdn test",
        "rage cdn test --provider azure --timeout 30m",
        "rage cdn test --json > probe.json    # in CI: exit 6 when a step failed, 124 when a purge has not ended",
    ),
    exits=(6, 7, 10),
)
def test(provider: Providers = []) -> int:  # noqa: B006
    """Put a public probe, get it twice through every edge, purge it, and prove that it went."""
    result = run(verbs.TestCdn(tuple(provider), options.timeout_s or 0.0), label="test")
    render(result, cdns.STEP, items=result.items, identifier=lambda it: f"{it.provider} {it.step}")
    if any(not row.ok and not row.is_pending for row in result.items):
        return EXIT_FINDINGS
    late = [row for row in result.items if row.is_pending]
    if late:
        names = ", ".join(dict.fromkeys(row.provider for row in late))
        raise DeadlineError(
            f"the purge has not ended within {format_duration(options.timeout_s or 60)} at {names}",
            why=next((row.reason for row in late if row.reason), "") or "its vendor is at it; some take minutes",
            mend=[
                f"rage cdn journal {late[0].purge_id}",
                options.longer_timeout() if options.timeout_s else "--timeout 30m",
            ],
        )
    return EXIT_OK


@app.command()
@page(
    examples=(
        "rage cdn warm report.md",
        "rage cdn warm report.md minutes.md --provider fastly",
        "rage cdn warm $DOC --progress plain    # in CI: exit 3 when an edge did not give all",
    ),
    exits=(3, 5, 7, 10),
)
def warm(
    refs: Annotated[list[str], typer.Argument(metavar="DOC...", help="Public documents.")],
    provider: Providers = [],  # noqa: B006
) -> None:
    """Ask for every block of public documents through every edge, so that readers find them there."""
    result = run(verbs.WarmCdn(tuple(refs), tuple(provider)), label="warm")
    render(result, cdns.WARM, items=result.items, identifier=lambda it: it.provider)
    failed = [(f"{it.provider} {it.edge}", failure(it.code, it.reason)) for it in result.items if it.failed]
    raise_failures(
        f"{counted(len(failed), 'edge')} did not give all",
        failed,
        len(result.items),
        [f"rage cdn check --doc {refs[0]}"],
    )


@app.command()
@page(
    examples=(
        "rage cdn publish report.md",
        "rage cdn publish report.md --dry-run",
        "rage cdn publish $DOC --provider cloudfront --progress plain    # in CI: exit 3 when a bucket failed",
    ),
    exits=(3, 4, 5, 7, 10),
)
def publish(
    doc: Annotated[str, typer.Argument(metavar="DOC", help="A public document, or one that is sealed for CDNs.")],
    provider: Providers = [],  # noqa: B006
) -> None:
    """Push a document to the buckets that CDNs read, write-once; what is not public is refused."""
    result = run(verbs.PublishCdn(doc, tuple(provider), options.dry_run), label="publish")
    render(result, cdns.PUBLISH, items=result.items, identifier=lambda it: it.provider)
    if result.is_current and not any(it.put for it in result.items):
        say("unchanged since it was sealed: nothing was put")
    failed = [(f"{it.provider} {it.bucket}", failure(it.code, it.reason)) for it in result.items if it.failed]
    mend = ["rage cdn check"]
    if any(it.code == "cdn-unsealed" for it in result.items):
        mend = [f"on the node that sealed it: rage cdn publish {doc}"]
    raise_failures(f"{counted(len(failed), 'bucket')} failed", failed, len(result.items), mend)


@app.command()
@page(
    examples=(
        "rage cdn journal",
        "rage cdn journal --open",
        "rage cdn journal p0123456789abcde",
        "rage cdn journal --open -q    # in CI: nothing is printed when nothing waits",
    ),
    exits=(5, 10),
)
def journal(
    purge_id: Annotated[str, typer.Argument(metavar="[PURGE]", help="One purge, edge by edge.")] = "",
    open_: Annotated[bool, typer.Option("--open", help="Those alone that have not ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="So many, the newest first.")] = 20,
) -> None:
    """List what was asked of CDNs and how it stands; nothing asked is forgotten."""
    result = run(verbs.ListPurges(purge_id, open_, limit))
    if purge_id and chosen_format() in ("table", "tsv"):
        rows = cdns.worst_first((*result.items[0].rows, *result.items[0].impossible))
        render(result, cdns.PURGE, items=rows, identifier=lambda it: it.provider)
    else:
        render(result, cdns.JOURNAL, items=result.items, identifier=lambda it: it.purge_id)


@dataclass(frozen=True)
class Rule:
    """A path's rule and the headers that an origin sends for it."""

    path: str
    rule: str
    ttl_s: float
    headers: dict[str, str]


@rules.command("show")
@page(
    examples=(
        "rage cdn rules show /chunks/bafkr4icsnu5x2m",
        "rage cdn rules show /embeddings/42",
        "rage cdn rules show /api/v1 --json | jq .headers    # in CI",
    ),
    exits=(10,),
)
def show(path: Annotated[str, typer.Argument(metavar="PATH", help="As in a URL: /chunks/bafk...")]) -> None:
    """Show the cache rule that is for a path, and the headers that caches and browsers are sent."""
    from rage_net.cdn import policy

    if not path.startswith("/"):
        raise UsageError(
            f"{path!r} is no path",
            why="rules are for what stands in a URL after the host: it begins with /",
            mend=[f"rage cdn rules show {shlex.quote(_path_of(path))}"],
        )
    cdn = _config()
    rule = policy.rule_for(cdn.cache_policy, path)
    headers = policy.headers_for(cdn.cache_policy, path, edges=policy.edges_of(cdn))
    pattern = rule.rule.pattern if rule.rule is not None else "(default)"
    result = Rule(path, pattern, float(rule.ttl_s), dict(headers))
    if chosen_format() == "table":
        render(result, cdns.RULE[:-1], identifier=lambda it: it.rule)
        print_list(list(headers.items()), cdns.HEADER)
    else:
        render(result, cdns.RULE, identifier=lambda it: it.rule)


@app.command("render")
@page(
    examples=(
        "rage cdn render varnish --origin http://10.0.0.5:4080 --token /etc/varnish/rage-token -o edge.vcl",
        "rage cdn render nginx --cert /etc/ssl/edge.pem --key /etc/ssl/edge.key > edge.conf    # in CI",
        "rage cdn render nginx --cache-dir /srv/cache --log off    # where Debian's folders are not yours",
        "rage cdn render tls --cert /etc/ssl/edge.pem --key /etc/ssl/edge.key -o front.conf    # before a Varnish",
    ),
    exits=(5, 10),
)
def render_(
    software: Annotated[str, typer.Argument(metavar="varnish|nginx|tls|token", help="What the file is for.")],
    provider: Annotated[str, typer.Option("--provider", metavar="NAME", help="The edge's provider in cdn.yaml.")] = "",
    origin: Annotated[
        str, typer.Option("--origin", metavar="URL", help="This node's HTTP door, as the edge reaches it.")
    ] = "http://127.0.0.1:4080",
    token: Annotated[str, typer.Option("--token", metavar="FILE", help="On the edge: the file with the token.")] = "",
    callers: Annotated[
        list[str], typer.Option("--caller", metavar="NET", help="Address or network that may purge; may be repeated.")
    ] = [],  # noqa: B006
    cert: Annotated[str, typer.Option("--cert", metavar="FILE", help="On the edge: its certificate, for TLS.")] = "",
    key: Annotated[str, typer.Option("--key", metavar="FILE", help="On the edge: the certificate's key.")] = "",
    listen: Annotated[str, typer.Option("--listen", metavar="ADDRESS", help="Where nginx listens, 80 or 443.")] = "",
    behind: Annotated[
        str, typer.Option("--behind", metavar="HOST:PORT", help="For tls: where the Varnish listens.")
    ] = "127.0.0.1:6081",
    cache_dir: Annotated[
        str, typer.Option("--cache-dir", metavar="DIR", help="On an nginx: its cache. Default: /var/cache/nginx/rage.")
    ] = "",
    cache_size: Annotated[
        str,
        typer.Option(
            "--cache-size", metavar="SIZE", help="On an nginx: the most of it, as nginx writes it. Default: 10g."
        ),
    ] = "",
    dav_dir: Annotated[
        str,
        typer.Option(
            "--dav-dir", metavar="DIR", help="On an nginx: where puts lie, with dav_path. Default: /var/lib/rage-dav."
        ),
    ] = "",
    log: Annotated[
        str,
        typer.Option(
            "--log", metavar="FILE|off", help="On an nginx: its access log. Default: /var/log/nginx/rage-cdn.log."
        ),
    ] = "",
    inner: Annotated[
        str,
        typer.Option(
            "--inner", metavar="HOST:PORT", help="On an nginx: free there, for itself. Default: 127.0.0.1:8479."
        ),
    ] = "",
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="Write it there instead of stdout.")] = "",
) -> None:
    """Write the commented configuration of a self-hosted edge, or its token's map, from cdn.yaml."""
    from rage_net.cdn import render as edges

    found = _edge(software, provider)
    tls = edges.Tls(cert, key, listen or "443") if cert else None
    allowed = tuple(callers) or ("127.0.0.1", "::1")
    if bool(cert) != bool(key) or (software == "tls" and tls is None):
        raise UsageError(
            "TLS needs --cert and --key",
            why="nginx reads a certificate and its key, and one alone is of no use",
            mend=[f"rage cdn render {software} --cert /etc/ssl/edge.pem --key /etc/ssl/edge.key"],
        )
    names = {
        "cache_dir": cache_dir,
        "cache_bytes_max": cache_size,
        "dav_dir": dav_dir,
        "access_log": log,
        "inner": inner,
    }
    of_nginx: dict[str, Any] = {name: value for name, value in names.items() if value}
    if of_nginx and software != "nginx":
        raise UsageError(
            f"{software} has no --cache-dir, --cache-size, --dav-dir, --log and --inner",
            why="they are nginx's; varnishd and its service are told elsewhere what is kept where",
            mend=[f"rage cdn render {software}", "rage cdn render nginx"],
        )
    if log == "off":
        of_nginx["access_log"] = None
    if software == "varnish":
        varnish = edges.VarnishOptions(token or "/etc/varnish/rage-token", allowed)
        text = edges.render_varnish(_config(), found, origin, varnish)
    elif software == "nginx":
        nginx = edges.NginxOptions(token or "/etc/nginx/rage-token.map", allowed, tls, listen or "80", **of_nginx)
        text = edges.render_nginx(_config(), found, origin, nginx)
    elif software == "token":
        secret = found.config.auth_token if isinstance(found.config, Edge) else None
        text = edges.render_token_map(secret.reveal() if secret is not None else "")
    else:
        assert tls is not None
        text = edges.render_tls_front(found, behind, allowed, tls)
    if out in ("", "-"):
        sys.stdout.write(text)
    else:
        with open(out, "w", opener=functools.partial(os.open, mode=0o600 if software == "token" else 0o644)) as file:
            file.write(text)
        say(f"written to {out}")


def _path_of(text: str) -> str:
    """The path of a URL, or of a word that lacks the slash."""
    return "/" + text.partition("://")[2].partition("/")[2] if "://" in text else f"/{text}"


def _config() -> Cdn:
    """cdn.yaml of this home, or of --config."""
    environ = dict(os.environ)
    file = Path(options.config) if options.config else None
    config = configuration.load(home().root, environ=environ, file=file)
    return configuration.load_cdn(config, environ=environ)


def _edge(software: str, name: str) -> Provider:
    """The one provider that is meant."""
    if software not in SOFTWARE:
        raise not_one_of("rage cdn render", software, SOFTWARE)
    kinds = {"tls": ("varnish",), "token": ("varnish", "nginx")}.get(software, (software,))
    named = _config().providers
    found = [it for it in named if it.software in kinds and name in ("", it.name)]
    if not found:
        raise NotFoundError(
            f"no {' or '.join(kinds)} provider{f' {name!r}' if name else ''} in cdn.yaml",
            why=f"there are {', '.join(it.name for it in named)}" if named else "it names no provider at all",
            mend=["rage config show cdn", "rage config check"],
            id="cdn-unknown",
        )
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} providers are meant",
            why="each has a file of its own: hosts, paths and token differ",
            mend=[f"--provider {it.name}" for it in found[:3]],
        )
    return found[0]
