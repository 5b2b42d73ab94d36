"""rage chunk: documents and their chunks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rage_cli.command import duration_of, not_one_of, noun, page, share_of
from rage_cli.files import FileSource, open_sink
from rage_cli.options import options
from rage_cli.output import Column, confirm, is_json, render, render_beside, say
from rage_cli.progress import Display
from rage_cli.session import home, run
from rage_cli.text import counted, format_duration, format_size
from rage_net.errors import EXIT_FINDINGS, EXIT_OK, DeadlineError, UsageError
from rage_net.verbs import chunk as verbs
from rage_net.verbs import dataclass

app = noun("Put, get and look after documents and their chunks.")

Ref = Annotated[str, typer.Argument(metavar="CID|DOC", help="A CID, a document's id, or its name.")]
PathOrStdin = Annotated[str, typer.Argument(metavar="PATH|-", help="A file, or - for stdin.")]
Out = Annotated[str, typer.Option("-o", "--out", metavar="PATH|-", help="A file, or - for stdout, the default.")]
Tags = Annotated[list[str], typer.Option("--tag", metavar="TAG", help="A tag; may be repeated.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="The document's name; a known name moves here.")]
VisibilityOption = Annotated[
    str, typer.Option("--visibility", metavar="public|federated|org|private", help="Who may read it.")
]

VISIBILITIES = ("org", "public", "federated", "private")

DOCUMENT = (
    Column("name", lambda it: it.name or it.doc_id),
    Column("size", lambda it: it.size, "size"),
    Column("chunks", lambda it: it.chunks, "count"),
    Column("visibility", lambda it: it.visibility),
    Column("created", lambda it: it.created_at, "time"),
    Column("doc id", lambda it: it.doc_id, wide=True),
    Column("root", lambda it: it.root, wide=True),
    Column("tags", lambda it: it.tags, wide=True),
)
CHUNK = (
    Column("cid", lambda it: it.cid),
    Column("size", lambda it: it.size, "size"),
    Column("stored", lambda it: it.stored, "size"),
    Column("encoding", lambda it: it.encoding, wide=True),
    Column("cached", lambda it: it.cached, wide=True),
    Column("held by", lambda it: it.held_by, "count", wide=True),
)
PUT = (
    Column("root", lambda it: it.root),
    Column("name", lambda it: it.name),
    Column("size", lambda it: it.size, "size"),
    Column("chunks", lambda it: it.total_chunks, "count"),
    Column("new chunks", lambda it: it.new_chunks, "count"),
    Column("doc id", lambda it: it.doc_id),
)
PROVED = (Column("proved by", lambda it: it.replicas), Column("wanted", lambda it: it.wanted, "count"))
GET = (
    Column("root", lambda it: it.root),
    Column("size", lambda it: it.size, "size"),
    Column("path", lambda it: it.path),
    Column("sources", lambda it: [f"{name} {count}" for name, count in it.sources.items() if count]),
    Column("seconds", lambda it: it.seconds, "seconds"),
)
STAT = (
    Column("cid", lambda it: it.cid),
    Column("kind", lambda it: it.kind),
    Column("size", lambda it: it.size, "size"),
    Column("stored", lambda it: it.stored, "size"),
    Column("encoding", lambda it: it.encoding),
    Column("cached", lambda it: it.cached),
    Column("pinned", lambda it: it.pinned),
    Column("chunks", lambda it: it.chunks, "count"),
    Column("present", lambda it: it.present, "count"),
    Column("documents", lambda it: [document.name or document.doc_id for document in it.documents]),
)


@app.command()
@page(
    examples=(
        "rage chunk put report.md --tag quarter=3",
        "git archive HEAD | rage chunk put - --name source.tar",
        "rage chunk put report.md --wait 2 --timeout 5m    # two nodes have proved that they hold it, or exit 124",
        "root=$(rage chunk put report.md -q)    # in CI: the root alone",
    ),
    exits=(4, 5, 7, 9, 11),
)
def put(
    path: PathOrStdin,
    name: Name = "",
    tag: Tags = [],  # noqa: B006  Typer reads it
    retention: Annotated[str, typer.Option(metavar="DURATION", help="Let it go after this long: 12h, 30d.")] = "",
    visibility: VisibilityOption = "org",
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="The replication policy it is under, instead of one by its tags.")
    ] = "",
    cdn: Annotated[
        str, typer.Option(metavar="encrypted|none", help="How it may go to CDNs while it is not public.")
    ] = "",
    wait: Annotated[
        int,
        typer.Option(
            "--wait",
            metavar="N",
            help="Return when so many nodes have proved that they hold all of it, within --timeout, or 120 s.",
            min=0,
            max=32,
        ),
    ] = 0,
) -> None:
    """Cut a file into chunks, store them durably, and record a document that names them."""
    check_visibility(visibility)
    keep = duration_of("--retention", retention, "30d")
    with FileSource(path) as source:
        verb = verbs.PutChunk(
            name=name or source.name,
            tags=tuple(tag),
            retention_s=keep,
            visibility=visibility,  # type: ignore[arg-type]
            size=source.size,
            policy=policy,
            cdn=cdn,
            wait=wait,
            wait_s=_proof_time() if wait else 0.0,
        )
        result = run(verb, source=source, label=name or source.name)
    render(result, (*PUT, *PROVED) if wait else PUT, identifier=lambda it: it.root)


@app.command()
@page(
    examples=(
        "rage chunk get report.md -o copy.md",
        "rage chunk get bafkr4i... --peer /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW... | less",
        "rage chunk get source.tar -o source.tar --json --timeout 5m    # in CI: {root, size, sources, seconds}",
    ),
    exits=(4, 5, 7, 8, 11),
)
def get(
    ref: Ref,
    out: Out = "",
    peer: Annotated[list[str], typer.Option(metavar="MULTIADDR", help="Ask this peer first; may be repeated.")] = [],  # noqa: B006
    sources: Annotated[
        str, typer.Option("--from", metavar="local,cdn,p2p", help="Where it may come from.")
    ] = "local,cdn,p2p",
    raw: Annotated[bool, typer.Option("--raw", help="The block itself: a manifest is not joined.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no copy in the store.")] = False,
) -> None:
    """Fetch a document or chunk, verified, from this store, the CDN or peers; a file appears whole or not at all."""
    if peer:
        from rage_cli.daemon import check_peers

        check_peers("--peer", [address for address in peer if address.startswith("/")])  # else it is a known peer's id
    verb = verbs.GetChunk(ref, tuple(peer), _sources(sources), raw, not no_cache)
    with open_sink(out) as sink:
        result = run(verb, sink=sink, label=out if out not in ("", "-") else ref)
    result = replace(result, path=out if out not in ("", "-") else "")
    if not result.path:
        render_beside(result)
    elif options.format == "auto":
        say(f"{out}: {format_size(result.size)} in {format_duration(result.seconds)}, {_came_from(result)}")
    else:
        render(result, GET, identifier=lambda it: it.path)


@app.command("list")
@page(
    examples=(
        "rage chunk list",
        "rage chunk list --tag quarter=3 --chunks",
        "rage chunk list -q | xargs -n1 rage chunk stat --json    # in CI: one document id a line",
    )
)
def list_(
    chunks: Annotated[bool, typer.Option("--chunks", help="Every chunk of the store instead of documents.")] = False,
    tag: Annotated[str, typer.Option(metavar="TAG", help="Only what has this tag.")] = "",
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Only names, or CIDs, that begin so.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", help="At most this many; 0 is all.", min=0)] = 0,
    catalog: Annotated[
        bool, typer.Option("--catalog", help="All that the organisation's log knows, here or not.")
    ] = False,
) -> None:
    """List the documents of this store, its chunks, or the documents of the whole organisation."""
    if chunks and catalog:
        raise UsageError("--chunks and --catalog are two lists", mend=["rage chunk list --catalog"])
    result = _list_all(chunks=chunks, tag=tag, prefix=prefix, limit=limit, catalog=catalog)
    if chunks:
        render(result, CHUNK, items=result.items, identifier=lambda it: it.cid)
    else:
        render(result, DOCUMENT, items=result.documents, identifier=lambda it: it.doc_id)


@app.command()
@page(
    examples=(
        "rage chunk stat report.md",
        "rage chunk stat bafkr4i...",
        "rage chunk stat report.md --json | jq -e '.present == .chunks'    # in CI: is all of it here?",
    ),
    exits=(5,),
)
def stat(ref: Ref) -> None:
    """Look at one document or chunk of this store."""
    render(run(verbs.StatChunk(ref)), STAT, identifier=lambda it: it.cid)


@app.command()
@page(
    examples=(
        "rage chunk rm report.md",
        "rage chunk rm report.md --dry-run",
        "rage chunk rm report.md --everywhere --wait 30s",
        "rage chunk rm report.md --yes    # in CI",
    ),
    exits=(4, 5, 9),
)
def rm(
    ref: Ref,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="On every node of the organisation, by a signed tombstone.")
    ] = False,
    wait: Annotated[
        str, typer.Option("--wait", metavar="DURATION", help="With --everywhere: until every known node has seen it.")
    ] = "",
) -> None:
    """Remove a document; its chunks go at the next gc after the grace time, unless something else holds them."""
    wait_s = duration_of("--wait", wait, "30s") or 0.0
    if wait_s and not everywhere:
        raise UsageError("--wait goes with --everywhere", mend=[f"rage chunk rm {ref} --everywhere --wait {wait}"])
    plan = run(verbs.RemoveChunk(ref, dry_run=True, everywhere=everywhere))
    if not options.dry_run:
        names = ", ".join(document.name or document.doc_id for document in plan.removed)
        where = " on every node of the organisation, for good" if everywhere else ""
        confirm(f"Remove {names}{where}, which lets {format_size(plan.released_bytes)} go?")
        plan = run(verbs.RemoveChunk(ref, everywhere=everywhere, wait_s=wait_s))
    render(plan, DOCUMENT, items=plan.removed, identifier=lambda it: it.doc_id)
    if plan.acknowledged:
        say(f"seen by {counted(len(plan.acknowledged), 'other node')}")
    if plan.awaiting:
        say(f"not yet seen by {', '.join(plan.awaiting)}")
        if wait_s:
            raise DeadlineError(
                f"not seen after {wait} by {counted(len(plan.awaiting), 'node')}",
                why=", ".join(plan.awaiting),
                mend=["rage sync status", f"rage chunk rm {ref} --everywhere --wait 10m"],
            )


@app.command()
@page(
    examples=(
        "rage chunk verify",
        "rage chunk verify report.md",
        "rage chunk verify --sample 5% || echo rot    # in CI",
    ),
    exits=(5, 6),
)
def verify(
    ref: Annotated[str, typer.Argument(metavar="[CID|DOC]", help="Only this one; without it the whole store.")] = "",
    sample: Annotated[str, typer.Option(metavar="PCT", help="Check this share of the chunks: 5%.")] = "100%",
) -> int:
    """Re-hash chunks of this store; bad ones are put into quarantine and listed."""
    result = run(verbs.VerifyChunks(ref, share_of("--sample", sample)), label="verify")
    columns = (Column("cid", lambda it: it.cid), Column("reason", lambda it: it.reason))
    if is_json():
        render(result, columns, identifier=lambda it: "")
    elif result.bad:
        render(result, columns, items=result.bad, identifier=lambda it: it.cid)
    elsewhere = f", {result.elsewhere} kept by other nodes" if result.elsewhere else ""
    say(f"{result.checked} chunks, {format_size(result.bytes)}: {len(result.bad)} bad{elsewhere}")
    return EXIT_FINDINGS if result.bad else EXIT_OK


PROVIDER = (
    Column("peer id", lambda it: it.peer_id),
    Column("state", lambda it: it.state),
    Column("via", lambda it: it.via),
    Column("rtt ms", lambda it: None if it.rtt_ms is None else round(it.rtt_ms, 2)),
    Column("addresses", lambda it: it.addresses, wide=True),
    Column("error", lambda it: it.error, wide=True),
)


@app.command()
@page(
    examples=(
        "rage chunk providers report.md",
        "rage chunk providers bafkr4i... --limit 5",
        "rage chunk providers $CID -q | head -1    # in CI: exit 5 when nobody has it",
    ),
    exits=(5, 7),
)
def providers(
    ref: Ref,
    limit: Annotated[int, typer.Option(metavar="N", help="At most this many.", min=1, max=1000)] = 20,
) -> None:
    """Show who has a document or chunk: this store, connected peers, and those that the DHT names."""
    from rage_net.refusals import no_providers

    result = run(verbs.ChunkProviders(ref, limit), label=f"providers of {ref}")
    if result.items or is_json():
        render(result, PROVIDER, items=result.items, identifier=lambda it: it.peer_id)
    for words in result.asked:
        say(words)
    if not result.items:
        raise no_providers(ref, "; ".join(result.asked))


PIN = (
    Column("cid", lambda it: it.cid),
    Column("pinned", lambda it: it.pinned),
    Column("changed", lambda it: it.changed),
)


@app.command()
@page(
    examples=(
        "rage chunk pin bafkr4i...",
        "rage chunk pin report.md",
        "rage chunk get $CID -o f && rage chunk pin $CID    # in CI: fetched is cache, pinned stays",
    ),
    exits=(5,),
)
def pin(ref: Ref) -> None:
    """Hold a root and all its chunks, document or not, until it is unpinned."""
    render(run(verbs.PinChunk(ref)), PIN, identifier=lambda it: it.cid)


@app.command()
@page(
    examples=("rage chunk unpin bafkr4i...", "rage chunk unpin report.md", "rage chunk unpin $CID -q    # in CI"),
    exits=(5,),
)
def unpin(ref: Ref) -> None:
    """Let a pinned root go."""
    render(run(verbs.UnpinChunk(ref)), PIN, identifier=lambda it: it.cid)


COLLECTED = (
    Column("chunks", lambda it: it.chunks, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("expired documents", lambda it: it.expired_documents, "count"),
    Column("waiting", lambda it: it.waiting, "count"),
    Column("plan id", lambda it: it.plan_id),
    Column("dry run", lambda it: it.dry_run),
    Column("seconds", lambda it: it.seconds, "seconds"),
)


@app.command()
@page(
    examples=(
        "rage chunk gc --dry-run",
        "rage chunk gc --plan 7f3a...    # that plan, or a conflict because the store moved on",
        "rage chunk gc --yes --json      # in CI",
    ),
    exits=(9,),
)
def gc(
    plan: Annotated[str, typer.Option(metavar="ID", help="Carry out this plan of a --dry-run, or fail.")] = "",
    grace: Annotated[str, typer.Option(metavar="DURATION", help="Instead of the configured grace time.")] = "",
    cache: Annotated[bool, typer.Option("--cache", help="Evict cached chunks too.")] = False,
) -> None:
    """Delete the chunks that nothing holds and that were let go longer than the grace time ago."""
    verb = verbs.CollectGarbage(options.dry_run, plan, duration_of("--grace", grace, "30d"), cache)
    if not options.dry_run and not plan and not options.yes:
        found = run(replace(verb, dry_run=True))
        confirm(f"Delete {found.chunks} chunks, {format_size(found.bytes)}?")
        verb = replace(verb, plan=found.plan_id)
    render(run(verb, label="gc"), COLLECTED, identifier=lambda it: it.plan_id)


EXPORTED = (
    Column("root", lambda it: it.root),
    Column("blocks", lambda it: it.blocks, "count"),
    Column("size", lambda it: it.bytes, "size"),
    Column("path", lambda it: it.path),
)


@app.command()
@page(
    examples=(
        "rage chunk export report.md -o report.car",
        "rage chunk export report.md | ipfs dag import",
        "rage chunk export $CID -o out.car --json    # in CI",
    ),
    exits=(5, 8, 11),
)
def export(ref: Ref, out: Out = "") -> None:
    """Write a CAR archive of a root and all its blocks, which other IPFS tools can read."""
    with open_sink(out) as sink:
        result = run(verbs.ExportChunk(ref), sink=sink, label=ref)
    result = replace(result, path=out if out not in ("", "-") else "")
    if not result.path:
        render_beside(result)
    elif options.format == "auto":
        say(f"{out}: {result.blocks} blocks, {format_size(result.bytes)}")
    else:
        render(result, EXPORTED, identifier=lambda it: it.path)


@app.command("import")
@page(
    examples=(
        "rage chunk import report.car",
        "ipfs dag export $CID | rage chunk import - --name report.md",
        "rage chunk import report.car --json    # in CI: {roots, documents, blocks, ...}",
    ),
    exits=(4, 5, 8, 9, 11),
)
def import_(
    path: PathOrStdin,
    name: Name = "",
    tag: Tags = [],  # noqa: B006
    visibility: VisibilityOption = "org",
) -> None:
    """Read a CAR archive: its blocks are checked, and each root becomes a document."""
    check_visibility(visibility)
    with FileSource(path) as source:
        verb = verbs.ImportChunks(name, tuple(tag), visibility)  # type: ignore[arg-type]
        result = run(verb, source=source, label=source.name)
    render(result, DOCUMENT, items=result.documents, identifier=lambda it: it.root)


@dataclass(frozen=True, slots=True)
class Address:
    """The root that a put of these bytes answers, and the specification's form where it was asked for."""

    cid: str
    size: int
    chunks: int
    spec_cid: str = ""


@app.command()
@page(
    examples=(
        "rage chunk cid report.md",
        "git archive HEAD | rage chunk cid -",
        '[ "$(rage chunk cid report.md -q)" = "$CID" ]    # in CI: is it what was put?',
    ),
    exits=(4, 5, 9),
)
def cid(
    path: PathOrStdin,
    spec: Annotated[bool, typer.Option("--spec", help="Also the specification's form: bafk and base58.")] = False,
) -> None:
    """Print the root that a file has or would have; nothing is stored, and no home is needed."""
    from rage_net.chunk.address import address

    with FileSource(path) as source, Display(source.name) as progress:
        found = address(source, sizes=split_sizes(), expected_size=source.size, progress=progress)
    spec_cid = found.root.spec_text() if spec else ""
    columns = (
        Column("cid", lambda it: it.cid),
        Column("size", lambda it: it.size, "size"),
        Column("chunks", lambda it: it.chunks, "count"),
        *([Column("spec cid", lambda it: it.spec_cid)] if spec else []),
    )
    render(Address(str(found.root), found.size, found.chunks, spec_cid), columns, identifier=lambda it: it.cid)


def split_sizes() -> Any:
    """How this home cuts; the defaults where it says nothing or does not exist."""
    from rage_net import config
    from rage_net.chunk.split import Sizes

    file = Path(options.config) if options.config else None
    cut = config.load(home().root, environ=os.environ, file=file).network.store.split
    return Sizes(cut.min_size, cut.target_size, cut.max_size)


def check_visibility(word: str) -> None:
    """Raises UsageError for what is no visibility."""
    if word not in VISIBILITIES:
        raise not_one_of("--visibility", word, VISIBILITIES)


def _proof_time() -> float:
    """Seconds from the beginning of a put that waits.

    The node's word of what is stored and proved is to come before this process gives up: it would know neither.
    """
    given = options.timeout_s
    return PROOF_S if given is None else given - min(given / 10, LAST_WORD_S)


def _sources(words: str) -> Any:
    names = tuple(name.strip() for name in words.split(",") if name.strip())
    for name in names:
        if name not in ("local", "cdn", "p2p"):
            raise UsageError(f"--from: {name!r} is not one of local, cdn, p2p", mend=["--from local,p2p"])
    return names


def _came_from(result: verbs.GetChunkResult) -> str:
    return ", ".join(f"{count} from {name}" for name, count in result.sources.items() if count) or "nothing fetched"


def _list_all(*, chunks: bool, tag: str, prefix: str, limit: int, catalog: bool = False) -> verbs.ListChunksResult:
    """All pages, or as many as `limit` wants."""
    items: list[verbs.ChunkRow] = []
    documents: list[verbs.Document] = []
    cursor = ""
    while True:
        left = limit - len(items) - len(documents) if limit else PAGE
        found = run(verbs.ListChunks(chunks, tag, prefix, min(left, PAGE), cursor, catalog))
        items += found.items
        documents += found.documents
        cursor = found.cursor
        if not cursor or (limit and len(items) + len(documents) >= limit):
            return verbs.ListChunksResult(tuple(items), tuple(documents), cursor)


PROOF_S = 120.0
"""For the proofs that a put waits for, where `--timeout` does not say otherwise."""
LAST_WORD_S = 1.0
"""Of `--timeout`, for the node to say how far it came."""
PAGE = 1000
"""Records asked for at a time."""
