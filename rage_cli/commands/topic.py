"""rage topic: what is gossiped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rage_cli.command import duration_of, noun, page
from rage_cli.output import Column, render, say
from rage_cli.session import run_in_node
from rage_net.verbs import topic as verbs

if TYPE_CHECKING:
    from rage_cli.files import FileSource

app = noun("List topics, listen to one, publish to one.")

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name, such as rage.global.")]

ROW = (
    Column("topic", lambda it: it.topic),
    Column("joined", lambda it: it.is_joined),
    Column("peers", lambda it: it.peers, "count"),
    Column("mesh", lambda it: it.mesh, "count"),
    Column("received", lambda it: it.received, "count"),
    Column("duplicates", lambda it: it.duplicates, "count", wide=True),
    Column("rejected", lambda it: it.rejected, "count", wide=True),
    Column("published", lambda it: it.published, "count", wide=True),
)


@app.command("list")
@page(
    examples=("rage topic list", "rage topic list --json | jq '.items[].mesh'", "rage topic list -q    # in CI"),
    exits=(7,),
)
def list_() -> None:
    """List the topics that the node has joined, then those that its peers have."""
    result = run_in_node(verbs.ListTopics())
    render(result, ROW, items=result.items, identifier=lambda it: it.topic)


MESSAGE = (
    Column("received", lambda it: it.received_at, "clock"),
    Column("from", lambda it: it.from_peer),
    Column("kind", lambda it: it.kind),
    Column("size", lambda it: it.size, "size"),
    Column("text", lambda it: it.text),
)
MESSAGE_WIDTHS = (8, 52, 12, 9)


@app.command()
@page(
    examples=(
        "rage topic tail rage.global",
        "rage topic tail rage.global --count 10 --for 1m",
        "rage topic tail rage.global --json | jq -r 'select(.what == \"heartbeat\") | .from_peer'",
        "rage topic tail ci.done --count 1 --timeout 5m --json    # in CI: exit 124 when none comes",
    ),
    exits=(4, 7),
)
def tail(
    topic: Topic,
    count: Annotated[int, typer.Option(metavar="N", help="End after so many messages; 0 is never.", min=0)] = 0,
    for_: Annotated[str, typer.Option("--for", metavar="DURATION", help="End after this long.")] = "",
) -> None:
    """Print each message of a topic as it comes, one a line; --json is NDJSON here, with the octets in base64."""
    from rage_cli.rows import Rows

    rows = Rows(MESSAGE, MESSAGE_WIDTHS, identifier=lambda it: f"{it.from_peer}/{it.sequence}", endless=True)
    result = run_in_node(verbs.TailTopic(topic, count, duration_of("--for", for_, "1m") or 0.0), on_item=rows)
    say(f"{result.messages} messages" + (f", of which {result.dropped} were dropped here" if result.dropped else ""))


PUBLISHED = (
    Column("message id", lambda it: it.message_id),
    Column("topic", lambda it: it.topic),
    Column("size", lambda it: it.size, "size"),
    Column("peers", lambda it: it.peers, "count"),
)


@app.command()
@page(
    examples=(
        "rage topic publish rage.global note.txt",
        "echo 'back in ten minutes' | rage topic publish team.talk -",
        "rage topic publish ci.done - -q < result.json    # in CI",
    ),
    exits=(4, 5, 7),
)
def publish(
    topic: Topic,
    path: Annotated[str, typer.Argument(metavar="PATH|-", help="A file, or - for stdin: at most 64 KiB.")],
) -> None:
    """Publish a file as one message of a topic."""
    from rage_cli.files import FileSource

    with FileSource(path) as source:
        _check_size(source.size or 0)
        result = run_in_node(verbs.PublishTopic(topic, source.size), source=_Message(source), label=topic)
    render(result, PUBLISHED, identifier=lambda it: it.message_id)
    if not result.peers:
        say("no connected peer has joined it yet: nobody was sent it")


class _Message:
    """A source that is refused, and so never published in part, once it has more than a message holds."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._size = 0

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """As the source has it."""
        size = self._source.readinto(buffer)
        self._size += size
        _check_size(self._size)
        return size


def _check_size(size: int) -> None:
    if size > verbs.MESSAGE_BYTES_MAX:
        from rage_net.refusals import message_too_large

        raise message_too_large(size, verbs.MESSAGE_BYTES_MAX)
