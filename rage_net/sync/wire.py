"""The messages of /rage/sync/1.0.0 and of its gossip: bytes in, dataclasses out, and back, within bounds.

Not here: streams (services.syncing), what a segment must prove (envelope, log). Source: contracts/rage.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rage_net.errors import RemoteProtocolError
from rage_net.sync.envelope import (
    Head,
    Segment,
    SegmentError,
    head_to_wire,
    heads_from_wire,
    segment_from_wire,
    segment_to_wire,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

PROTOCOL = "/rage/sync/1.0.0"
UPDATES_TOPIC = "rage.acl.updates"

REQUEST_BYTES_MAX = 1 << 20
RESPONSE_BYTES_MAX = 5 << 20
REPORT_BYTES_MAX = 1 << 20
ANNOUNCEMENT_BYTES_MAX = 4 << 10
HEADS_ANNOUNCED_MAX = 32
USAGE_MAX = 100
SEGMENTS_MAX = 8192
TAGS_MAX = 64
CONFLICTS_MAX = 1000
TEXT_BYTES_MAX = 255

OK = 200
BAD_REQUEST = 400
NOT_FOUND = 404
BUSY = 503


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller has of a log; see SyncRequest."""

    organization: str
    heads: tuple[Head, ...]
    is_complete: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """A part of what the caller lacks; `heads` of the holder stand in the first."""

    status: int
    changes: Sequence[Segment] = ()
    heads: tuple[Head, ...] = ()
    more: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One resource whose facts contradict each other, and a digest of what its rights come to."""

    resource: str
    strategy: str
    winning: bytes


def encode_request(request: Request) -> bytes:
    """Protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    return pb.SyncRequest(
        organization=request.organization,
        last_known_heads=map(head_to_wire, request.heads),
        is_complete=request.is_complete,
        tags=request.tags,
    ).SerializeToString()


def decode_request(data: bytes) -> Request:
    """Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.SyncRequest()
    _parse(message, data)
    if len(message.tags) > TAGS_MAX or len(message.organization.encode()) > TEXT_BYTES_MAX:
        raise RemoteProtocolError("a request of sync with too many or too long words")
    return Request(message.organization, _heads(message.last_known_heads), message.is_complete, tuple(message.tags))


def encode_response(response: Response) -> bytes:
    """Protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    return pb.SyncResponse(
        status=response.status,
        changes=map(segment_to_wire, response.changes),
        heads=map(head_to_wire, response.heads),
        more=response.more,
        message=response.message[:200],
    ).SerializeToString()


def decode_response(data: bytes) -> Response:
    """Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.SyncResponse()
    _parse(message, data)
    if len(message.changes) > SEGMENTS_MAX:
        raise RemoteProtocolError(f"more than {SEGMENTS_MAX} segments in one response")
    try:
        changes = tuple(map(segment_from_wire, message.changes))
    except SegmentError as error:
        raise RemoteProtocolError(str(error)) from None
    return Response(message.status, changes, _heads(message.heads), message.more, message.message[:200])


def encode_ack(heads: Sequence[Head]) -> bytes:
    """A SyncClosing with the heads that the caller holds now."""
    from rage_net.pb import rage_pb2 as pb

    return pb.SyncClosing(ack=pb.SyncAck(new_heads=map(head_to_wire, heads))).SerializeToString()


def encode_report(conflicts: Sequence[Conflict]) -> bytes:
    """A SyncClosing with contradictions as the caller resolves them."""
    from rage_net.pb import rage_pb2 as pb

    return pb.SyncClosing(report=pb.AclConflictReport(conflicts=map(_conflict_message, conflicts))).SerializeToString()


@dataclass(frozen=True, slots=True)
class Closing:
    """How an exchange ends: a report, to be answered, or the acknowledgement."""

    kind: Literal["ack", "report"]
    heads: tuple[Head, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


def decode_closing(data: bytes) -> Closing:
    """Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.SyncClosing()
    _parse(message, data)
    match message.WhichOneof("content"):
        case "ack":
            return Closing("ack", _heads(message.ack.new_heads))
        case "report":
            return Closing("report", conflicts=_conflicts(message.report.conflicts))
    raise RemoteProtocolError("an exchange of sync that ends with neither report nor acknowledgement")


def encode_resolution(conflicts: Sequence[Conflict]) -> bytes:
    """Protobuf, without its length."""
    from rage_net.pb import rage_pb2 as pb

    return pb.AclResolution(conflicts=map(_conflict_message, conflicts)).SerializeToString()


def decode_resolution(data: bytes) -> tuple[Conflict, ...]:
    """Raises RemoteProtocolError."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.AclResolution()
    _parse(message, data)
    return _conflicts(message.conflicts)


def encode_announcement(organization: str, heads: Sequence[Head]) -> bytes:
    """For gossip: at most HEADS_ANNOUNCED_MAX heads."""
    from rage_net.pb import rage_pb2 as pb

    return pb.HeadsAnnouncement(organization=organization, heads=map(head_to_wire, heads)).SerializeToString()


def decode_announcement(data: bytes) -> tuple[str, tuple[Head, ...]] | None:
    """None for what is none, or too large."""
    from rage_net.pb import rage_pb2 as pb

    if len(data) > ANNOUNCEMENT_BYTES_MAX:
        return None
    message = pb.HeadsAnnouncement()
    try:
        _parse(message, data)
        heads = _heads(message.heads)
    except RemoteProtocolError:
        return None
    if not message.organization or not heads or len(heads) > HEADS_ANNOUNCED_MAX:
        return None
    return message.organization, heads


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node tells its own organisation of itself: what placement and policies go by. Claims, all of it."""

    free_bytes: int
    is_full: bool
    policies: bytes
    """Digest of its policies and strategy."""
    usage: tuple[tuple[bytes, int], ...] = ()
    """Documents (16 bytes each) and their uses a day, at most USAGE_MAX."""


def encode_node_report(organization: str, report: NodeReport) -> bytes:
    """For gossip on the organisation's own topic."""
    from rage_net.pb import rage_pb2 as pb

    message = pb.HeadsAnnouncement(organization=organization)
    message.report.free_bytes = report.free_bytes
    message.report.full = report.is_full
    message.report.policies = report.policies
    for doc_id, per_day in report.usage[:USAGE_MAX]:
        message.report.usage.add(doc_id=doc_id, per_day=min(per_day, 0xFFFFFFFF))
    return message.SerializeToString()


def decode_node_report(data: bytes) -> tuple[str, NodeReport] | None:
    """None for what is none, or too large."""
    from rage_net.pb import rage_pb2 as pb

    if len(data) > ANNOUNCEMENT_BYTES_MAX:
        return None
    message = pb.HeadsAnnouncement()
    try:
        _parse(message, data)
    except RemoteProtocolError:
        return None
    report = message.report
    is_sound = len(report.usage) <= USAGE_MAX and len(report.policies) in (0, 16)
    if not message.organization or message.heads or not message.HasField("report") or not is_sound:
        return None
    if any(len(each.doc_id) != 16 for each in report.usage):
        return None
    usage = tuple((each.doc_id, each.per_day) for each in report.usage)
    return message.organization, NodeReport(report.free_bytes, report.full, report.policies, usage)


def _heads(messages: Sequence[Any]) -> tuple[Head, ...]:
    try:
        return heads_from_wire(messages)
    except SegmentError as error:
        raise RemoteProtocolError(str(error)) from None


def _conflict_message(conflict: Conflict) -> Any:
    from rage_net.pb import rage_pb2 as pb

    return pb.AclConflict(resource_id=conflict.resource, strategy=conflict.strategy, winning_acl=conflict.winning)


def _conflicts(messages: Sequence[Any]) -> tuple[Conflict, ...]:
    if len(messages) > CONFLICTS_MAX:
        raise RemoteProtocolError(f"more than {CONFLICTS_MAX} conflicts")
    return tuple(
        Conflict(each.resource_id[:TEXT_BYTES_MAX], each.strategy[:32], each.winning_acl[:32]) for each in messages
    )


def _parse(message: Message, data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(f"no {type(message).__name__}: {error}") from None


def size_of(segment: Segment) -> int:
    """About how many bytes a segment takes in a response."""
    return 128 + sum(len(entry.payload or b"") + 40 for entry in segment.entries)
