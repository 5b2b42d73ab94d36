"""A document's rights as people write them in a file, and what must change for them to hold.

    visibility: org
    users: [acme/alice]              # ORG/SUBJECT
    groups: [acme/research]          # ORG/NAME
    organizations: [globex]
    peers: [12D3KooW...]
    anyone: false
    denied: ["user:acme/mallory"]    # any principal; denied the same actions
    actions: [read]
    expires_at: 2027-01-01T00:00:00Z

One such object gives all whom it names all its actions, until `expires_at`; a list of them gives different ones. Read
strictly: a word that is not known is refused, as is what contradicts itself. Counts are checked first.
Source: specification, "Conflict Resolution" (AclPayload).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from rage_net.acl.lists import LEEWAY_S, Entry
from rage_net.acl.words import ACTIONS, VISIBILITIES, parse_principal
from rage_net.errors import UsageError

PRINCIPALS_MAX = 10_000
"""Named in one file, all its objects together: each becomes a signed fact of up to 1 KiB for every node."""
OBJECTS_MAX = 256
"""In one file."""
OVER_MAX = 64
"""Facts that one fact can replace."""
ENDED = 1.0
"""The end of a denial that is over before it begins: a right taken back without anything denied in its place."""

_KINDS = {"users": "user", "groups": "group", "organizations": "org", "peers": "peer"}


@dataclass(frozen=True, slots=True)
class AclPayload:
    """Rights that many hold alike; `visibility` empty says nothing of it, `expires_at` 0 never ends."""

    visibility: str = ""
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    anyone: bool = False
    denied: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    expires_at: float = 0

    def rights(self) -> Iterable[tuple[str, str, bool]]:
        """Principal, action, and whether it is allowed."""
        allowed = [f"{kind}:{name}" for key, kind in _KINDS.items() for name in getattr(self, key)]
        allowed += ["anyone"] if self.anyone else []
        for action in self.actions:
            yield from ((principal, action, True) for principal in allowed)
            yield from ((principal, action, False) for principal in self.denied)


@dataclass(frozen=True, slots=True)
class Change:
    """An Access fact to write: as `Entry`, and the ids of those it replaces."""

    principal: str
    action: str
    allowed: bool
    expires_at: float = 0
    visibility: str = ""
    over: tuple[bytes, ...] = ()


def parse_payloads(plain: object, now: float) -> tuple[AclPayload, ...]:
    """Read what a file holds: one object or a list of them. Raises: UsageError, saying where and what is wrong."""
    objects = plain if isinstance(plain, list) else [plain]
    if len(objects) > OBJECTS_MAX:
        raise _bad("", f"{len(objects)} objects", f"{OBJECTS_MAX} are the most")
    named = 0
    for at, one in enumerate(objects):
        if not isinstance(one, dict):
            raise _bad(_place(objects, at), f"is {_kind(one)}", "an object with visibility, users, actions is wanted")
        named += sum(len(one[key]) for key in (*_KINDS, "denied") if isinstance(one.get(key), (list, str)))
    if named > PRINCIPALS_MAX:
        raise _bad("", f"{named} principals", f"{PRINCIPALS_MAX} are the most: name a group or an organisation")
    payloads = tuple(_parse(one, _place(objects, at), now) for at, one in enumerate(objects))
    _check(payloads)
    return payloads


def _parse(plain: dict[object, object], place: str, now: float) -> AclPayload:
    known = [field.name for field in fields(AclPayload)]
    for key in plain:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:80], known, 1)
            raise _bad(place, f"{str(key)[:80]!r} is no key", f"is {near[0]} meant?" if near else ", ".join(known))
    visibility = plain.get("visibility") or ""
    if visibility and visibility not in VISIBILITIES:
        raise _bad(place, f"visibility {str(visibility)[:80]!r}", f"there are {', '.join(VISIBILITIES)}")
    lists = {key: _names(plain.get(key), key, place) for key in (*_KINDS, "denied", "actions")}
    for key, kind in _KINDS.items():
        lists[key] = tuple(parse_principal(f"{kind}:{name}").partition(":")[2] for name in lists[key])
    lists["denied"] = tuple(map(parse_principal, lists["denied"]))
    for action in lists["actions"]:
        if action not in ACTIONS:
            raise _bad(place, f"action {action[:80]!r}", f"there are {', '.join(ACTIONS)}")
    anyone = plain.get("anyone") or False
    if not isinstance(anyone, bool):
        raise _bad(place, f"anyone is {_kind(anyone)}", "true or false is wanted")
    payload = AclPayload(
        str(visibility),
        **{key: tuple(sorted(set(names))) for key, names in lists.items()},
        anyone=anyone,
        expires_at=_moment(plain.get("expires_at"), place),
    )
    is_somebody = anyone or any(lists[key] for key in (*_KINDS, "denied"))
    if is_somebody and not payload.actions:
        raise _bad(place, "it names principals and no actions", f"actions: [{ACTIONS[0]}]")
    if payload.actions and not is_somebody:
        raise _bad(place, "it names actions and nobody who may", "users, groups, organizations, peers, anyone, denied")
    if payload.expires_at and payload.expires_at <= now:
        raise _bad(place, "its rights have ended before they begin", f"expires_at is {_time(payload.expires_at)}")
    return payload


def _check(payloads: Sequence[AclPayload]) -> None:
    """Raise for payloads that contradict each other, or themselves."""
    stated = sorted({payload.visibility for payload in payloads if payload.visibility})
    if len(stated) > 1:
        raise _contradiction(f"visibility is both {stated[0]} and {stated[1]}")
    effects: dict[tuple[str, str], tuple[bool, float]] = {}
    for payload in payloads:
        for principal, action, allowed in payload.rights():
            effect = allowed, payload.expires_at
            before = effects.setdefault((principal, action), effect)
            if before[0] != allowed:
                raise _contradiction(f"{principal} is both granted and denied {action}")
            if before != effect:
                raise _contradiction(f"{action} of {principal} ends at two moments")
    anyone = effects.get(("anyone", "read"))
    if anyone is not None and anyone[0] and stated and stated[0] != "public":
        raise _contradiction(f"visibility is {stated[0]}, and anyone may read")
    if anyone is not None and not anyone[0] and stated == ["public"]:
        raise _contradiction("visibility is public, and anyone is denied read")


def payloads_of(entries: Iterable[Entry], visibility: str) -> tuple[AclPayload, ...]:
    """Facts in force, one of each key, as a file would have them: `parse_payloads` reads them back.

    `visibility` stands in the first. What has ended already is left out.
    """
    groups: dict[tuple[float, tuple[str, ...]], dict[str, list[str]]] = {}
    actions: dict[tuple[str, bool, float], set[str]] = {}
    for entry in entries:
        if not entry.visibility and entry.action in ACTIONS and entry.expires_at != ENDED:
            actions.setdefault((entry.principal, entry.allowed, entry.expires_at), set()).add(entry.action)
    for (principal, allowed, expires_at), given in sorted(actions.items()):
        lists = groups.setdefault((expires_at, tuple(sorted(given))), {})
        kind, _, name = principal.partition(":")
        key = next((key for key, word in _KINDS.items() if word == kind), "anyone") if allowed else "denied"
        lists.setdefault(key, []).append(name if allowed else principal)
    found = []
    for (expires_at, words), lists in sorted(groups.items(), key=lambda group: (group[0][0] or math.inf, group[0][1])):
        anyone = bool(lists.pop("anyone", ()))
        kept = {key: tuple(names) for key, names in lists.items()}
        found.append(AclPayload("", **kept, anyone=anyone, actions=words, expires_at=expires_at))
    return (AclPayload(visibility), *found) if visibility else tuple(found)


def plan_changes(current: Iterable[Entry], wanted: Sequence[AclPayload]) -> tuple[Change, ...]:
    """The facts that make `wanted` hold, and nothing besides, where `current` are in force.

    What is as it should be is left alone; what is not wanted ends without a denial in its place; concurrent facts of a
    key are replaced by one. Visibility is left alone where `wanted` does not say it. In the order of their keys.
    """
    by_key: dict[tuple[str, str], list[Entry]] = {}
    for entry in current:
        by_key.setdefault(entry.key, []).append(entry)
    changes = {}
    for payload in wanted:
        if payload.visibility:
            changes["", "visibility"] = Change("", "", False, 0, payload.visibility)
        for principal, action, allowed in payload.rights():
            changes[principal, action] = Change(principal, action, allowed, payload.expires_at)
    for key, entries in by_key.items():
        is_over = all(entry.expires_at == ENDED for entry in entries)
        if key not in changes and key != ("", "visibility") and not is_over:
            changes[key] = Change(*key, allowed=False, expires_at=ENDED)
    return tuple(
        change
        for key, change in ((key, over(change, by_key.get(key, ()))) for key, change in sorted(changes.items()))
        if not is_in_force(change, by_key.get(key, ()))
    )


def over(change: Change, current: Iterable[Entry]) -> Change:
    """The change as one that replaces the current facts of its key: the latest OVER_MAX, where there are more."""
    latest = sorted(current, key=lambda entry: (entry.lamport, entry.id), reverse=True)[:OVER_MAX]
    ids = tuple(sorted(entry.id for entry in latest))
    return Change(change.principal, change.action, change.allowed, change.expires_at, change.visibility, ids)


def is_in_force(change: Change, current: Sequence[Entry]) -> bool:
    """Whether the current facts of its key say this already, all of them."""
    if change.visibility:
        return bool(current) and all(entry.visibility == change.visibility for entry in current)
    effect = change.allowed, change.expires_at
    return bool(current) and all((entry.allowed, entry.expires_at) == effect for entry in current)


def _names(value: object, key: str, place: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _bad(place, f"{key} is {_kind(value)}", "a list of texts is wanted")
    return tuple(value)


def _moment(value: object, place: str) -> float:
    """Seconds since the epoch, of a number or an RFC 3339 text; 0 for nothing."""
    if value is None or value == 0:
        return 0
    if isinstance(value, datetime):  # YAML reads it so
        value = value.isoformat()
    if isinstance(value, (int, float)) and not isinstance(value, bool) and LEEWAY_S < value < 1e11:
        return float(int(value))
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None and moment.year >= 1971:
            return float(int(moment.timestamp()))
    raise _bad(place, f"expires_at {str(value)[:80]!r}", "a moment with its time zone is wanted: 2027-01-01T00:00:00Z")


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def _place(objects: Sequence[object], at: int) -> str:
    return f"object {at + 1}: " if len(objects) > 1 else ""


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}.get(type(value), repr(value)[:40])


def _bad(place: str, what: str, why: str) -> UsageError:
    return UsageError(f"these rights cannot be read: {place}{what}", why=why, mend=["rage help acl"], id="bad-acl")


def _contradiction(what: str) -> UsageError:
    return UsageError(
        f"these rights contradict themselves: {what}", mend=["keep one of the two"], id="acl-contradicts-itself"
    )


__all__ = ["AclPayload", "Change", "is_in_force", "over", "parse_payloads", "payloads_of", "plan_changes"]
