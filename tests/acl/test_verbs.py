"""The verbs of acl on an engine whose log is a list in memory: plans, refusals, decisions, and what open nodes say."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rage_net import home as homes
from rage_net.acl import AccessList, Change, Entry, Principal, Rules, compile_access
from rage_net.acl_verbs import Named
from rage_net.engine import Engine
from rage_net.errors import AccessDeniedError, ConfigError, NotFoundError, UsageError
from rage_net.verbs import acl as verbs
from rage_net.verbs.chunk import PutChunk

pytestmark = pytest.mark.anyio

SCOPES = frozenset(("chunks", "query", "sync"))
PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


class Log:
    """Facts in memory, as the log would hold them: each takes the place of those it names."""

    def __init__(self, engine: Engine, capabilities: Sequence[str]) -> None:
        self._engine = engine
        self._own = engine.peer_id_text()
        self.capabilities = frozenset(capabilities)
        self.entries: dict[str, list[Entry]] = {}
        self.written = 0
        self.cdns: dict[str, str] = {}

    def cdn(self, organization: str, doc_id: str) -> str:
        return self.cdns.get(doc_id, "")

    async def rule_cdn(self, doc_id: str, mode: str) -> int:
        self.cdns[doc_id] = mode
        return 1

    def facts(self, organization: str, resource: str) -> Sequence[Entry]:
        return self.entries.get(f"{organization} {resource}", [])

    def access(self, organization: str, doc_id: str) -> AccessList | None:
        facts = self.facts(organization, f"doc:{doc_id}")
        owner = self._engine.documents.get(doc_id).owner
        return compile_access(facts, "most-restrictive", owner, organization) if facts else None

    def principal(self, peer_id: str) -> Principal | None:
        if peer_id != self._own:
            return None
        return Principal("peer", peer_id, "acme", capabilities=self.capabilities, scopes=SCOPES)

    def find(self, ref: str) -> list[Named]:
        return []

    def require_admin(self, organization: str, resource: str) -> None:
        owner = self._engine.documents.get(resource.removeprefix("doc:")).owner
        if owner != self._own and "admin" not in self.capabilities:
            raise AccessDeniedError("this node may not", id="not-admin")

    async def append(self, organization: str, resource: str, changes: Sequence[Change]) -> None:
        entries = self.entries.setdefault(f"{organization} {resource}", [])
        for change in changes:
            self.written += 1
            entries[:] = [entry for entry in entries if entry.id not in change.over]
            number = self.written
            entries.append(
                Entry(
                    number.to_bytes(16, "big"),
                    change.principal,
                    change.action,
                    change.allowed,
                    change.expires_at,
                    change.visibility,
                    number,
                    self._own,
                )
            )
        access = self.access(organization, resource.removeprefix("doc:"))
        assert access is not None
        self._engine.documents.set_access(
            organization,
            resource.removeprefix("doc:"),
            access.visibility,  # type: ignore[arg-type]
            is_ruled=True,
        )


@asynccontextmanager
async def open_engine(tmp_path: Path, *capabilities: str, certified: bool = True) -> AsyncIterator[Engine]:
    home = homes.Home(tmp_path / "home")
    homes.init(home, organization_id="acme" if certified else "")
    async with Engine.open(home) as engine:
        if certified:
            engine.rules = engine.gate.rules = Rules(public_to_strangers=False, is_open=False, organization="acme")
            engine.rights = log = Log(engine, capabilities)
            engine.gate.access_of = log.access
        yield engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with open_engine(tmp_path, "storage") as made:
        yield made


async def put(engine: Engine, name: str = "report", **more: Any) -> str:
    return (await engine.run(PutChunk(name, **more), source=io.BytesIO(name.encode()))).doc_id


async def may(engine: Engine, ref: str, principal: str, action: str = "read", **more: Any) -> bool:
    return (await engine.run(verbs.CheckAcl(ref, principal, action, **more))).allowed


async def test_a_grant_is_a_fact_and_a_second_one_alike_is_none(engine: Engine) -> None:
    doc = await put(engine, visibility="private")
    assert not await may(engine, doc, "user:acme/alice")
    done = await engine.run(verbs.GrantAcl("report", "user:acme/alice", "read"))
    said = [(row.principal, row.visibility, row.allowed, row.replaces) for row in done.changes]
    assert said == [("", "private", False, 0), ("user:acme/alice", "", True, 0)], "and the facts say what it was before"
    assert await may(engine, doc, "user:acme/alice")
    assert (await engine.run(verbs.GrantAcl(doc, "user:acme/alice", "read"))).changes == ()


async def test_a_revocation_denies_what_visibility_and_other_grants_would_give_until_it_is_granted_again(
    engine: Engine,
) -> None:
    doc = await put(engine, visibility="org")
    assert await may(engine, doc, "user:acme/alice")
    await engine.run(verbs.RevokeAcl(doc, "user:acme/alice", "read"))
    await engine.run(verbs.GrantAcl(doc, "org:acme", "read"))
    assert not await may(engine, doc, "user:acme/alice")
    done = await engine.run(verbs.GrantAcl(doc, "user:acme/alice", "read"))
    assert done.changes[0].replaces == 1
    assert await may(engine, doc, "user:acme/alice")


async def test_a_dry_run_says_what_would_be_written_and_writes_nothing(engine: Engine) -> None:
    doc = await put(engine, visibility="private")
    planned = await engine.run(verbs.GrantAcl(doc, "org:globex", "read", dry_run=True))
    assert planned.dry_run and len(planned.changes) == 2
    assert engine.rights is not None and engine.rights.facts("acme", f"doc:{doc}") == []
    assert (await engine.run(verbs.GrantAcl(doc, "org:globex", "read"))).changes == planned.changes


async def test_setting_makes_a_file_hold_and_what_show_gives_is_such_a_file(engine: Engine) -> None:
    doc = await put(engine, visibility="org")
    await engine.run(verbs.GrantAcl(doc, "user:acme/old", "read"))
    wanted = (
        verbs.AclRights(visibility="private", users=("acme/alice",), actions=("read", "write")),
        verbs.AclRights(denied=("org:globex",), actions=("read",)),
    )
    await engine.run(verbs.SetAcl(doc, wanted))
    shown = await engine.run(verbs.ShowAcl(doc))
    assert shown.visibility == "private" and shown.conflicts == 0
    assert await may(engine, doc, "user:acme/alice", "write")
    assert not await may(engine, doc, "user:acme/old")
    assert (await engine.run(verbs.SetAcl(doc, shown.rights))).changes == ()
    assert (await engine.run(verbs.SetAcl(doc, visibility="private"))).changes == ()
    assert len((await engine.run(verbs.SetAcl(doc, visibility="public"))).changes) == 1


async def test_show_tells_which_of_concurrent_facts_is_in_force(engine: Engine) -> None:
    doc = await put(engine)
    assert isinstance(engine.rights, Log)
    for change in (Change("org:globex", "read", True), Change("org:globex", "read", False)):
        await engine.rights.append("acme", f"doc:{doc}", [change])
    shown = await engine.run(verbs.ShowAcl(doc))
    assert [(fact.allowed, fact.in_force) for fact in shown.facts] == [(True, False), (False, True)]
    assert shown.conflicts == 1
    done = await engine.run(verbs.RevokeAcl(doc, "org:globex", "read"))
    assert done.changes[0].replaces == 2


@pytest.mark.parametrize("capabilities", [(), ("search",)])
async def test_a_node_that_no_other_would_heed_writes_nothing(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    async with open_engine(tmp_path, *capabilities) as engine:
        doc = await put(engine)
        with engine.store.index.write() as db:
            db.execute("UPDATE document SET owner = ?", (PEER,))
        with pytest.raises(AccessDeniedError) as caught:
            await engine.run(verbs.GrantAcl(doc, "org:globex", "read"))
        assert caught.value.id == "not-admin"
        assert isinstance(engine.rights, Log) and engine.rights.written == 0
        engine.rights.capabilities = frozenset({"admin"})
        assert len((await engine.run(verbs.GrantAcl(doc, "org:globex", "read"))).changes) == 1


async def test_an_open_node_shows_checks_and_says_what_is_missing_to_change(tmp_path: Path) -> None:
    async with open_engine(tmp_path, certified=False) as engine:
        public, org = await put(engine, "open", visibility="public"), await put(engine, "closed")
        assert (await engine.run(verbs.ShowAcl(org))).visibility == "org"
        assert await may(engine, public, "anyone") and not await may(engine, org, "anyone")
        assert (await engine.run(verbs.ListAcl())).items == ()
        for verb in (
            verbs.GrantAcl(org, "org:globex", "read"),
            verbs.RevokeAcl(org, "org:globex", "read"),
            verbs.SetAcl(org, visibility="public"),
        ):
            with pytest.raises(ConfigError) as caught:
                await engine.run(verb)
            assert caught.value.id == "no-ca" and caught.value.exit_code == 10


async def test_a_check_of_a_chunk_goes_through_each_document_that_counts(engine: Engine) -> None:
    await put(engine, "one", visibility="private")
    root = (await engine.run(PutChunk("two", visibility="federated"), source=io.BytesIO(b"one"))).root
    found = await engine.run(verbs.CheckAcl(root, "org:globex", "read"))
    assert found.allowed and found.resource == f"chunk:{root}"
    assert sorted((row.visibility, row.allowed) for row in found.documents) == [("federated", True), ("private", False)]
    assert all("visibility" in row.rules for row in found.documents)
    with pytest.raises(NotFoundError):
        await engine.run(verbs.CheckAcl(root[:-4] + "aaaa", "org:globex", "read"))


async def test_how_a_document_goes_to_cdns_is_ruled_and_shown(engine: Engine) -> None:
    doc = await put(engine, visibility="private")
    assert (await engine.run(verbs.ShowAcl(doc))).cdn == ""
    assert (await engine.run(verbs.SetAcl("report", cdn="none"))).changes == ()
    tried = await engine.run(verbs.SetAcl("report", cdn="encrypted", dry_run=True))
    assert [row.cdn for row in tried.changes] == ["encrypted"]
    assert (await engine.run(verbs.ShowAcl(doc))).cdn == ""
    done = await engine.run(verbs.SetAcl("report", cdn="encrypted"))
    assert [(row.cdn, row.allowed, row.replaces) for row in done.changes] == [("encrypted", True, 0)]
    assert (await engine.run(verbs.ShowAcl(doc))).cdn == "encrypted"
    assert (await engine.run(verbs.SetAcl("report", cdn="encrypted"))).changes == ()
    (row,) = (await engine.run(verbs.SetAcl("report", cdn="none"))).changes
    assert (row.cdn, row.allowed, row.replaces) == ("none", False, 1)


async def test_a_check_knows_groups_owners_and_strangers(engine: Engine) -> None:
    doc = await put(engine, visibility="private")
    await engine.run(verbs.GrantAcl(doc, "group:acme/research", "read"))
    assert await may(engine, doc, "group:acme/research")
    assert await may(engine, doc, "user:acme/alice", groups=("acme/research",))
    assert not await may(engine, doc, "user:acme/alice")
    assert await may(engine, doc, f"peer:{engine.peer_id_text()}", "admin")
    assert not await may(engine, doc, f"peer:{PEER}")
    assert not await may(engine, doc, "org:acme")
    with pytest.raises(UsageError):
        await may(engine, doc, "org:acme", groups=("acme/research",))


async def test_a_check_of_replicate_is_about_a_node_that_stores(engine: Engine) -> None:
    doc = await put(engine, visibility="private")
    assert await may(engine, doc, "org:acme", "replicate")
    for principal in ("org:globex", "user:acme/alice", "anyone", f"peer:{PEER}"):
        assert not await may(engine, doc, principal, "replicate")
    await engine.run(verbs.GrantAcl(doc, "org:globex", "replicate"))
    await engine.run(verbs.RevokeAcl(doc, "org:acme", "replicate"))
    assert await may(engine, doc, "org:globex", "replicate")
    assert not await may(engine, doc, "org:acme", "replicate")
    assert await may(engine, doc, f"peer:{engine.peer_id_text()}", "replicate"), "its owner holds it"


async def test_a_list_has_what_is_in_force_of_all_or_of_one(engine: Engine) -> None:
    now = engine.env.now()
    for name in ("a", "b"):
        doc = await put(engine, name)
        await engine.run(verbs.GrantAcl(doc, "org:globex", "read", until=float(int(now + 3600))))
        await engine.run(verbs.RevokeAcl(doc, "user:acme/bob", "read"))
    everything = await engine.run(verbs.ListAcl())
    assert [(row.name, row.principal, row.allowed) for row in everything.items] == [
        *[("a", "org:globex", True), ("a", "user:acme/bob", False)],
        *[("b", "org:globex", True), ("b", "user:acme/bob", False)],
    ]
    assert everything.items[0].expires_at == int(now + 3600)
    assert [row.name for row in (await engine.run(verbs.ListAcl("user:acme/bob"))).items] == ["a", "b"]
    short = await engine.run(verbs.ListAcl(limit=3))
    assert short.more and len(short.items) == 3


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (verbs.GrantAcl("report", "nobody", "read"), "bad-principal"),
        (verbs.GrantAcl("report", "org:\u0430cme", "read"), "bad-principal"),
        (verbs.GrantAcl("report", "org:acme", "fly"), "bad-action"),
        (verbs.GrantAcl("report", "org:acme", "read", until=1.0), "bad-acl"),
        (verbs.RevokeAcl("absent", "org:acme", "read"), "document-not-found"),
        (verbs.SetAcl("report"), "acl-nothing-to-set"),
        (verbs.SetAcl("report", visibility="galactic"), "bad-acl"),
        (verbs.SetAcl("report", cdn="rot13"), "bad-cdn"),
        (verbs.SetAcl("report", visibility="org", cdn="encrypted"), "acl-nothing-to-set"),
        (verbs.SetAcl("report", (verbs.AclRights(users=("acme/a",) * 10_001, actions=("read",)),)), "bad-acl"),
        (
            verbs.SetAcl("report", (verbs.AclRights(users=("acme/a",), denied=("user:acme/a",), actions=("read",)),)),
            "acl-contradicts-itself",
        ),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_nothing_is_written(engine: Engine, verb: Any, code: str) -> None:
    await put(engine)
    with pytest.raises((UsageError, NotFoundError)) as caught:
        await engine.run(verb)
    assert caught.value.id == code
    assert isinstance(engine.rights, Log) and engine.rights.written == 0


async def test_permissive_tells_what_strict_would_say(engine: Engine) -> None:
    doc = await put(engine, visibility="private")
    engine.gate.rules = replace(engine.gate.rules, enforcement="permissive")
    found = await engine.run(verbs.CheckAcl(doc, "org:acme", "read"))
    assert found.allowed and found.would_deny == "nothing allows it"
