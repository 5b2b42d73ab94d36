"""A document's record, what people edit together: name, tags, policy, retention. A small pycrdt document each.

The record is rebuilt from the edits that count, in an order all nodes share. An edit is read here, byte by byte, before
pycrdt sees it: it may set and delete keys of the one map `record` and nothing else. So garbage, nested structures and
updates for other documents end here; what advances another author's client id, or a clock that is taken, is refused.

pycrdt takes 122 ms to import, so it is imported when first needed. A panic in it is a BaseException, and is caught.

Source: step 3, "Catalog"; design D6; the update format (v1) of Yjs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rage_net.sync.updates import Update, UpdateError, read_update
from rage_net.sync.vocabulary import is_text

if TYPE_CHECKING:
    from pycrdt import Doc, Map

NAME_BYTES_MAX = 512
TAG_BYTES_MAX = 128
TAGS_MAX = 256
"""Of one record: the first ones in order are shown, more are left out."""
POLICY_BYTES_MAX = 64
RETENTION_MAX = (1 << 53) - 1
EDITS_MAX = 4096
"""Of one document: more are refused, the last in order. Authors merge theirs when they compact."""

_MAP = "record"
_TAG = "tag/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """What the edits of a document come to."""

    name: str = ""
    tags: tuple[str, ...] = ()
    policy: str = ""
    retention_until: int = 0
    """Seconds since the epoch; 0 for good."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What an edit changes; None leaves a field as it is."""

    name: str | None = None
    policy: str | None = None
    retention_until: int | None = None
    tags_added: tuple[str, ...] = ()
    tags_removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CountedEdit:
    """An edit that counts, and the client ids it may advance: its author's own."""

    id: bytes
    lamport: int
    clients: frozenset[int]
    update: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """An edit that changes nothing, and why: a stable id (malformed, client, clock-taken, incomplete, too-many)."""

    id: bytes
    reason: str


class ChangeError(ValueError):
    """A name, tag, policy or time that no record takes."""


def make_edit(client: int, earlier: Iterable[CountedEdit], changes: Changes) -> bytes:
    """The update that makes `changes` to the record of `earlier`, by the author with this client id.

    Give it all edits that count, and of this client id all there are: clocks must not be taken twice.
    Returns: b"" when nothing would change. Raises: ChangeError.
    """
    check(changes)
    from pycrdt import Doc

    document: Doc[Any] = Doc(client_id=client)
    record = _map(document)
    _apply_all(document, earlier)
    before = document.get_state()
    values, is_changed = record.to_py() or {}, False
    with document.transaction():
        for key, value in _wanted(changes).items():
            if value is None and key in values:
                del record[key]
            elif value is not None and values.get(key) != value:
                record[key] = value
            else:
                continue
            is_changed = True
    return document.get_update(before) if is_changed else b""


def build(edits: Iterable[CountedEdit]) -> tuple[Record, tuple[Refused, ...]]:
    """The record that these edits come to, in whatever order they are given, and those that were refused."""
    edits = tuple(edits)
    if not edits:
        return Record(), ()
    from pycrdt import Doc

    document: Doc[Any] = Doc()
    refused = _apply_all(document, edits)
    return _read(_map(document).to_py() or {}), refused


def merge(edits: Iterable[CountedEdit]) -> bytes:
    """One update in the place of all these: what was overwritten is left out. b"" when one of them is refused."""
    from pycrdt import Doc

    document: Doc[Any] = Doc()
    _map(document)
    return b"" if _apply_all(document, edits) else document.get_update()


def _apply_all(document: Doc[Any], edits: Iterable[CountedEdit]) -> tuple[Refused, ...]:
    """Apply edits in order, those that wait for others after these, until no more apply."""
    unique = {edit.id: edit for edit in edits}
    ordered = sorted(unique.values(), key=lambda edit: (edit.lamport, edit.id))
    refused = [Refused(edit.id, "too-many") for edit in ordered[EDITS_MAX:]]
    waiting: list[tuple[CountedEdit, Update]] = []
    for edit in ordered[:EDITS_MAX]:
        try:
            update = read_update(edit.update, _MAP, _is_key)
        except UpdateError:
            refused.append(Refused(edit.id, "malformed"))
            continue
        if update.runs.keys() <= edit.clients:
            waiting.append((edit, update))
        else:
            refused.append(Refused(edit.id, "client"))
    clocks: dict[int, int] = {}
    is_moving = True
    while waiting and is_moving:
        is_moving, later = False, []
        for edit, update in waiting:
            match _fit(update, clocks):
                case "now" if _apply(document, edit.update):
                    clocks.update({client: end for client, (_, end) in update.runs.items()})
                    is_moving = True
                case "now":
                    refused.append(Refused(edit.id, "malformed"))
                case "taken":
                    refused.append(Refused(edit.id, "clock-taken"))
                case _:
                    later.append((edit, update))
        waiting = later
    refused += [Refused(edit.id, "incomplete") for edit, _ in waiting]
    return tuple(sorted(refused, key=lambda one: one.id))


def _fit(update: Update, clocks: Mapping[int, int]) -> str:
    """Whether the update follows what was applied: now, later (something lacks), or never (a clock is taken)."""
    starts = {client: begin for client, (begin, _) in update.runs.items()}
    if any(begin < clocks.get(client, 0) for client, begin in starts.items()):
        return "taken"
    if any(begin > clocks.get(client, 0) for client, begin in starts.items()):
        return "later"
    ends = {**clocks, **{client: end for client, (_, end) in update.runs.items()}}
    return "now" if all(clock < ends.get(client, 0) for client, clock in update.needs.items()) else "later"


def _apply(document: Doc[Any], update: bytes) -> bool:
    try:
        document.apply_update(update)
    except Exception:
        return False
    except BaseException as error:  # a panic of the library, which derives from BaseException alone
        if type(error).__name__ != "PanicException":
            raise
        return False
    return True


def _map(document: Doc[Any]) -> Map[Any]:
    from pycrdt import Map

    record: Map[Any] = document.get(_MAP, type=Map)
    return record


def _is_key(key: str) -> bool:
    return key in ("name", "policy", "retention_until") or (
        key.startswith(_TAG) and is_text(key.removeprefix(_TAG), TAG_BYTES_MAX)
    )


def check(changes: Changes) -> None:
    """Pass for what a record takes. Raises: ChangeError."""
    if changes.name and not is_text(changes.name, NAME_BYTES_MAX):
        raise ChangeError(f"a name is visible text in NFC of at most {NAME_BYTES_MAX} bytes, without blanks around it")
    if changes.policy and not is_text(changes.policy, POLICY_BYTES_MAX):
        raise ChangeError(f"a policy's name is visible text of at most {POLICY_BYTES_MAX} bytes")
    if changes.retention_until is not None and not 0 <= changes.retention_until <= RETENTION_MAX:
        raise ChangeError("a retention ends at a time in seconds since the epoch")
    for tag in (*changes.tags_added, *changes.tags_removed):
        if not is_text(tag, TAG_BYTES_MAX):
            raise ChangeError(f"a tag is visible text in NFC of at most {TAG_BYTES_MAX} bytes")


def _wanted(changes: Changes) -> dict[str, str | float | bool | None]:
    wanted: dict[str, str | float | bool | None] = {}
    if changes.name is not None:
        wanted["name"] = changes.name
    if changes.policy is not None:
        wanted["policy"] = changes.policy
    if changes.retention_until is not None:
        wanted["retention_until"] = float(changes.retention_until)
    wanted.update({_TAG + tag: None for tag in changes.tags_removed})
    wanted.update({_TAG + tag: True for tag in changes.tags_added})
    return wanted


def _read(values: Mapping[str, Any]) -> Record:
    """What the map holds, as far as it is what it should be: a field that is not, is as if it were not set."""
    name, policy, until = values.get("name"), values.get("policy"), values.get("retention_until")
    tags = sorted(key.removeprefix(_TAG) for key, value in values.items() if key.startswith(_TAG) and value is True)
    is_time = isinstance(until, float | int) and not isinstance(until, bool) and 0 <= until <= RETENTION_MAX
    return Record(
        name=name if isinstance(name, str) and is_text(name, NAME_BYTES_MAX) else "",
        tags=tuple(tags[:TAGS_MAX]),
        policy=policy if isinstance(policy, str) and is_text(policy, POLICY_BYTES_MAX) else "",
        retention_until=int(until) if is_time and until is not None else 0,
    )
