"""The verbs of acl: read a document's rights, plan what must change, write facts, and decide as a door would.

What the log knows and writes is behind `Rights`; without one (no CA, or no certificate) reading works from the store's
rows, and changing is refused with what to do. Whether a fact of this node would count is asked before it is written: a
fact that nobody heeds would only mislead who wrote it.

Source: issue 4, C; design 4.4, 4.5.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rage_net import acl, refusals
from rage_net.acl import AccessList, AclPayload, Change, DocumentResource, Entry, Principal, authorize
from rage_net.acl.payload import is_in_force, over
from rage_net.chunk.documents import LIST_MAX, Document
from rage_net.chunk.shelf import Counting
from rage_net.cid import Cid, CidError
from rage_net.errors import NotFoundError, UsageError
from rage_net.verbs import Verb
from rage_net.verbs import acl as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io

LIST_ROWS_MAX = 10_000
DEFAULT_VISIBILITY = "org"
"""Of a document about which no fact says one."""


class Named(NamedTuple):
    """A document, as far as its rights go. `visibility` empty: the facts alone say."""

    doc_id: str
    name: str
    organization: str
    owner: str
    visibility: str
    is_ruled: bool


class Rights(Protocol):
    """The log as these verbs need it. Blocking, and safe from any thread, but for `append`."""

    def find(self, ref: str) -> Sequence[Named]:
        """Documents that an id, a root or a name means in the log, whether they are here or not."""
        ...

    def facts(self, organization: str, resource: str) -> Sequence[Entry]:
        """The Access facts about a resource that count and that no later one has replaced."""
        ...

    def access(self, organization: str, doc_id: str) -> AccessList | None:
        """A document's rights, compiled by the strategy that is configured; None where there are no facts."""
        ...

    def principal(self, peer_id: str) -> Principal | None:
        """Who a peer is by the certificate that is known of it; None for a stranger."""
        ...

    def require_admin(self, organization: str, resource: str) -> None:
        """Pass when facts of this node about the resource would count. Raises AccessDeniedError."""
        ...

    def cdn(self, organization: str, doc_id: str) -> str:
        """How a document may go to CDNs while it is not public: encrypted, or "", not at all."""
        ...

    async def rule_cdn(self, doc_id: str, mode: str) -> int:
        """Write how a document of our organisation may go to CDNs. How many facts that took. As `append`."""
        ...

    async def append(self, organization: str, resource: str, changes: Sequence[Change]) -> None:
        """Write facts in this node's chain, durably; they hold here when it returns, and others are told."""
        ...


async def show(engine: Engine, verb: verbs.ShowAcl, io: Io) -> verbs.ShowAclResult:
    """The rights of one document."""
    return await engine.env.blocking(_show, engine, verb.ref)


async def set_(engine: Engine, verb: verbs.SetAcl, io: Io) -> verbs.ChangeAclResult:
    """Make rights hold."""
    if [bool(verb.visibility), bool(verb.rights), bool(verb.cdn)].count(True) != 1:
        raise UsageError(
            "a visibility, a file of rights, or a way to CDNs is wanted, one of them",
            mend=["--visibility org", "-f rights.yaml", "--cdn encrypted"],
            id="acl-nothing-to-set",
        )
    if verb.cdn:
        return await _rule_cdn(engine, verb)
    if verb.visibility:
        (payload,) = acl.parse_payloads({"visibility": verb.visibility}, engine.env.now())
        return await _change(engine, verb.ref, Change("", "", False, 0, payload.visibility), verb.dry_run)
    plain = [{name: _plain(getattr(one, name)) for name in AclPayload.__slots__} for one in verb.rights]
    return await _change(engine, verb.ref, acl.parse_payloads(plain, engine.env.now()), verb.dry_run)


async def _rule_cdn(engine: Engine, verb: verbs.SetAcl) -> verbs.ChangeAclResult:
    """How the document may go to CDNs: said in the log by whoever rules it."""
    from rage_net.services.ledger.cdns import mode_of_word

    mode, rights = mode_of_word(verb.cdn), engine.rights
    if rights is None:
        raise refusals.no_ca()
    document = await engine.env.blocking(_find, engine, verb.ref)
    resource = f"doc:{document.doc_id}"
    await engine.env.blocking(rights.require_admin, document.organization, resource)
    before = await engine.env.blocking(rights.cdn, document.organization, document.doc_id)
    changes = 0 if before == mode else 1
    if changes and not verb.dry_run:
        changes = await rights.rule_cdn(document.doc_id, mode)
    row = verbs.AclChange("", "cdn", mode != "", 0.0, "", int(before != ""), verb.cdn)
    return verbs.ChangeAclResult(resource, document.name, (row,) if changes else (), verb.dry_run)


async def grant(engine: Engine, verb: verbs.GrantAcl, io: Io) -> verbs.ChangeAclResult:
    """One right."""
    if verb.until and not engine.env.now() < verb.until < 1e11:
        raise UsageError("the right would have ended before it begins", mend=["--until 30d"], id="bad-acl")
    change = Change(acl.parse_principal(verb.principal), acl.parse_action(verb.action), True, float(int(verb.until)))
    return await _change(engine, verb.ref, change, verb.dry_run)


async def revoke(engine: Engine, verb: verbs.RevokeAcl, io: Io) -> verbs.ChangeAclResult:
    """One denial."""
    change = Change(acl.parse_principal(verb.principal), acl.parse_action(verb.action), False)
    return await _change(engine, verb.ref, change, verb.dry_run)


async def _change(
    engine: Engine, ref: str, wanted: Change | tuple[AclPayload, ...], dry_run: bool
) -> verbs.ChangeAclResult:
    """Write `wanted` where it does not hold: one change, or payloads, beside which nothing else is to hold."""
    if engine.rights is None:
        raise refusals.no_ca()
    document, changes = await engine.env.blocking(_plan, engine, engine.rights, ref, wanted)
    resource = f"doc:{document.doc_id}"
    if changes and not dry_run:
        await engine.rights.append(document.organization, resource, changes)
    rows = tuple(
        verbs.AclChange(one.principal, one.action, one.allowed, one.expires_at, one.visibility, len(one.over))
        for one in changes
    )
    return verbs.ChangeAclResult(resource, document.name, rows, dry_run)


async def check(engine: Engine, verb: verbs.CheckAcl, io: Io) -> verbs.CheckAclResult:
    """A decision, as a door would make it."""
    return await engine.env.blocking(_check, engine, verb)


async def list_(engine: Engine, verb: verbs.ListAcl, io: Io) -> verbs.ListAclResult:
    """Rights in force on documents here."""
    principal = acl.parse_principal(verb.principal) if verb.principal else ""
    if not 1 <= verb.limit <= LIST_ROWS_MAX:
        raise UsageError(f"a limit is 1 to {LIST_ROWS_MAX}", mend=["--limit 1000"])
    return await engine.env.blocking(_list, engine, principal, verb.limit)


# --- blocking halves ---


def _show(engine: Engine, ref: str) -> verbs.ShowAclResult:
    document = _find(engine, ref)
    facts, access = _facts(engine, document), _access(engine, document)
    winners = {entry.id for entry in _winners(facts, access)}
    rows = tuple(
        verbs.AclFact(
            entry.principal,
            entry.action,
            entry.allowed,
            entry.expires_at,
            entry.visibility,
            entry.id in winners,
            entry.author,
            entry.lamport,
            entry.id.hex(),
        )
        for entry in sorted(facts, key=lambda entry: (entry.key, entry.lamport, entry.id))
    )
    in_force = [entry for entry in facts if entry.id in winners]
    rights = tuple(_rights(one) for one in acl.payloads_of(in_force, access.visibility))
    return verbs.ShowAclResult(
        f"doc:{document.doc_id}",
        document.name,
        access.organization,
        access.owner,
        access.visibility,
        rights,
        rows,
        len(access.conflicts),
        engine.rights.cdn(document.organization, document.doc_id) if engine.rights is not None else "",
        access.flaw,
    )


def _plan(
    engine: Engine, rights: Rights, ref: str, wanted: Change | tuple[AclPayload, ...]
) -> tuple[Named, tuple[Change, ...]]:
    """The facts that would make it so, and count."""
    document = _find(engine, ref)
    resource = f"doc:{document.doc_id}"
    rights.require_admin(document.organization, resource)
    facts = rights.facts(document.organization, resource)
    changes = _single(wanted, facts, document) if isinstance(wanted, Change) else acl.plan_changes(facts, wanted)
    is_said = any(entry.visibility for entry in facts) or any(change.visibility for change in changes)
    if changes and not is_said and document.visibility not in ("", DEFAULT_VISIBILITY):
        changes = (Change("", "", False, 0, document.visibility), *changes)  # else a first right would widen it
    return document, changes


def _single(change: Change, facts: Iterable[Entry], document: Named) -> tuple[Change, ...]:
    """The change over what it replaces; none where all says so already."""
    key = ("", "visibility") if change.visibility else (change.principal, change.action)
    same = [entry for entry in facts if entry.key == key]
    if is_in_force(change, same) or (change.visibility == document.visibility and not same and change.visibility):
        return ()
    return (over(change, same),)


def _check(engine: Engine, verb: verbs.CheckAcl) -> verbs.CheckAclResult:
    principal, action = _principal(engine, verb), acl.parse_action(verb.action)
    name = acl.parse_principal(verb.principal)
    now = engine.env.now()

    def row(doc_id: str, access: AccessList) -> verbs.AclReason:
        found = authorize(DocumentResource(doc_id, access), principal, action, engine.gate.rules, now)  # type: ignore[arg-type]
        return verbs.AclReason(doc_id, access.organization, access.visibility, found.allowed, found.reason, found.rules)

    try:
        cid = Cid.parse(verb.ref)
    except CidError:
        document = _find(engine, verb.ref)
        access = _access(engine, document)
        resource: acl.Resource = DocumentResource(document.doc_id, access)
        documents: tuple[verbs.AclReason, ...] = (row(document.doc_id, access),)
    else:
        counting = engine.gate.counting(cid)
        if counting is None:
            raise NotFoundError(f"{cid} is not here", mend=[f"rage chunk get {cid}"], id="chunk-not-found")
        resource = acl.ChunkResource(cid, tuple(access for _, access in counting))
        documents = tuple(row(doc_id, access) for doc_id, access in counting)
    decision = authorize(resource, principal, action, engine.gate.rules, now)  # type: ignore[arg-type]
    return verbs.CheckAclResult(
        str(resource),
        name,
        action,
        decision.allowed,
        decision.reason,
        decision.rules,
        documents,
        decision.would_deny,
    )


def _list(engine: Engine, principal: str, limit: int) -> verbs.ListAclResult:
    rows: list[verbs.AclRow] = []
    after = ""
    now = engine.env.now()
    while True:
        page, after = engine.documents.list(after=after, limit=LIST_MAX)
        for document in page:
            if document.is_ruled:
                rows += _rows(document, _access(engine, _named(engine, document)), principal, now)
                if len(rows) > limit:
                    return verbs.ListAclResult(tuple(rows[:limit]), True)
        if not after:
            return verbs.ListAclResult(tuple(rows), False)


def _rows(document: Document, access: AccessList, principal: str, now: float) -> Iterable[verbs.AclRow]:
    found = [
        (name, action, allowed, until)
        for allowed, by_action in ((True, access.grants), (False, access.denials))
        for action, by_name in by_action.items()
        for name, until in by_name.items()
        if now <= until and principal in ("", name)
    ]
    for name, action, allowed, until in sorted(found):
        end = 0.0 if math.isinf(until) else until - acl.LEEWAY_S
        resource = f"doc:{document.doc_id}"
        yield verbs.AclRow(resource, document.name, access.organization, name, action, allowed, end)


def _find(engine: Engine, ref: str) -> Named:
    """The one document that `ref` means: an id, with or without `doc:`, a name, or a root. Raises NotFoundError."""
    ref = ref.removeprefix("doc:")
    try:
        found = [_named(engine, document) for document in engine.documents.resolve(ref)]
    except NotFoundError:
        found = list(engine.rights.find(ref)) if engine.rights is not None else []
        if not found:
            raise
    if len(found) > 1:
        raise UsageError(
            f"{ref!r} means {len(found)} documents",
            mend=[f"rage acl show {document.doc_id}" for document in found[:3]],
        )
    return found[0]


def _named(engine: Engine, document: Document) -> Named:
    organization = document.organisation or engine.organization  # put here before this node belonged to any
    owner, visibility = document.owner, document.visibility
    return Named(document.doc_id, document.name, organization, owner, visibility, document.is_ruled)


def _facts(engine: Engine, document: Named) -> Sequence[Entry]:
    if engine.rights is None:
        return ()
    return engine.rights.facts(document.organization, f"doc:{document.doc_id}")


def _access(engine: Engine, document: Named) -> AccessList:
    """As a door sees it."""
    return engine.gate.rights(
        Counting(document.organization, document.doc_id, document.owner, document.visibility, document.is_ruled)
    )


def _winners(facts: Iterable[Entry], access: AccessList) -> Iterable[Entry]:
    """One of each key: that of a conflict by its strategy; of those that agree, the latest stands for all."""
    by_key = {entry.key: entry for entry in sorted(facts, key=lambda entry: (entry.lamport, entry.id))}
    by_key |= {conflict.key: conflict.winner for conflict in access.conflicts}
    return by_key.values()


def _principal(engine: Engine, verb: verbs.CheckAcl) -> Principal:
    """Somebody of whom a door would know this much.

    An organisation stands for a peer of it that stores chunks, and that trust lets ask.
    """
    name = acl.parse_principal(verb.principal)
    kind, _, rest = name.partition(":")
    if verb.groups and kind != "user":
        raise UsageError("only users are in groups", mend=["--group is for user:ORG/NAME"])
    groups = frozenset(acl.parse_principal(f"group:{group}").partition(":")[2] for group in verb.groups)
    if kind == "peer":
        known = engine.rights.principal(rest) if engine.rights is not None else None
        return known or Principal("peer", rest)
    if kind == "user":
        return Principal("user", rest, rest.partition("/")[0], groups)
    if kind == "group":
        return Principal("user", "", rest.partition("/")[0], frozenset({rest}))
    if kind == "org":
        return Principal("peer", "", rest, capabilities=frozenset({acl.STORES}), scopes=acl.SCOPES)
    return acl.ANYONE


def _rights(payload: AclPayload) -> verbs.AclRights:
    return verbs.AclRights(*(getattr(payload, name) for name in AclPayload.__slots__))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.ShowAcl: show,
    verbs.SetAcl: set_,
    verbs.GrantAcl: grant,
    verbs.RevokeAcl: revoke,
    verbs.CheckAcl: check,
    verbs.ListAcl: list_,
}
