"""Verbs of the noun topic: what is gossiped."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass

MESSAGE_BYTES_MAX = 64 * 1024
"""Of one message that is published."""


@dataclass(frozen=True, slots=True)
class TopicRow:
    """One topic; the counts are since the node's start."""

    topic: str
    is_joined: bool
    peers: int
    """Connected peers that have joined it."""
    mesh: int
    received: int
    duplicates: int
    rejected: int
    published: int


@dataclass(frozen=True, slots=True)
class ListTopicsResult:
    """Topics we have joined first, then those that peers have; by name."""

    items: tuple[TopicRow, ...]


@dataclass(frozen=True, slots=True)
class ListTopics(Verb[ListTopicsResult]):
    """The topics this node and its peers have joined."""

    route: ClassVar[str] = "topic/list"
    result: ClassVar[type] = ListTopicsResult


@dataclass(frozen=True, slots=True)
class TopicMessage:
    """One message as it came. `data` is base64; `kind` and `text` are what it says where it is one of rage's own."""

    topic: str
    from_peer: str
    sequence: int
    received_at: float
    size: int
    kind: str
    """heartbeat, announcement, or unknown."""
    text: str
    data: str


@dataclass(frozen=True, slots=True)
class TailTopicResult:
    """How many messages were told, and how many were dropped because the reader was too slow."""

    topic: str
    messages: int
    dropped: int


@dataclass(frozen=True, slots=True)
class TailTopic(Verb[TailTopicResult]):
    """Tell each message of a topic as it comes; joins it for so long.

    Ends after `count` messages or `for_s` seconds, whichever is first; 0 sets no limit.
    """

    route: ClassVar[str] = "topic/tail"
    result: ClassVar[type] = TailTopicResult
    item: ClassVar[type] = TopicMessage

    topic: str
    count: int = 0
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PublishTopicResult:
    """`peers` were sent the message at once; gossip brings it to the others."""

    topic: str
    message_id: str
    peers: int
    size: int


@dataclass(frozen=True, slots=True)
class PublishTopic(Verb[PublishTopicResult]):
    """Publish the octets given, at most MESSAGE_BYTES_MAX, as one message."""

    route: ClassVar[str] = "topic/publish"
    result: ClassVar[type] = PublishTopicResult
    octets_in: ClassVar[bool] = True
    mutates: ClassVar[bool] = True

    topic: str
    size: int | None = None
