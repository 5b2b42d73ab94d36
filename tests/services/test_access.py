"""The chunk exchange once a CA is set: who is served, who is told of a denial, what chunks are said to be for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rage_net import messages
from rage_net.acl import AccessList, Entry, Principal, Rules, compile_access
from rage_net.chunk import manifest
from rage_net.chunk.documents import Document
from rage_net.chunk.shelf import ATTESTED_MAX, Seen, attest, look
from rage_net.cid import DAG_CBOR, Cid
from rage_net.errors import AccessDeniedError, NotFoundError, PeerProtocolError
from rage_net.libp2p import varint
from rage_net.libp2p.swarm import Stream
from rage_net.messages import ChunkHeader, ChunkResponse, DocumentName
from tests.services.conftest import Peer, World

pytestmark = pytest.mark.anyio

ACME = Rules(public_to_strangers=False, is_open=False, organization="acme")
GLOBEX = Rules(public_to_strangers=False, is_open=False, organization="globex")
ALL = frozenset(("chunks", "query", "sync"))


def certify(holder: Peer, peer: Peer, organization: str = "acme", scopes: frozenset[str] = ALL) -> Principal:
    """`holder` has seen the certificate of `peer`."""
    name = peer.swarm.peer_id
    holder.principals[name] = Principal("peer", str(name), organization, scopes=scopes)
    return holder.principals[name]


async def pair(world: World, *, organization: str = "acme", scopes: frozenset[str] = ALL) -> tuple[Peer, Peer]:
    holder = await world.peer(rules=ACME)
    reader = await world.peer(rules=ACME if organization == "acme" else GLOBEX)
    if organization:
        certify(holder, reader, organization, scopes)
    return holder, reader


async def status(holder: Peer, reader: Peer, root: Cid) -> int:
    """200, 403 or 404."""
    connection = await reader.connect(holder)
    try:
        async with asyncio.timeout(10):
            await reader.exchange.fetch(connection, root)
    except AccessDeniedError:
        return 403
    except NotFoundError:
        return 404
    return 200


async def has(holder: Peer, reader: Peer, *roots: Cid) -> tuple[bool, ...]:
    async with asyncio.timeout(10):
        return await reader.exchange.have(await reader.connect(holder), roots)


def rule(holder: Peer, document: Document, *entries: Entry) -> None:
    """Facts about a document, as the log would give them."""
    access = compile_access(entries, "most-restrictive", document.owner, document.organisation)
    before = holder.exchange.gate.access_of
    key = document.organisation, document.doc_id
    holder.exchange.gate.access_of = lambda *asked: access if asked == key else before(*asked)
    assert holder.documents.set_access(*key, access.visibility, is_ruled=True)  # type: ignore[arg-type]


# --- who is served ---


@pytest.mark.parametrize(
    ("organization", "scopes", "readable"),
    [
        ("acme", ALL, {"public", "federated", "org"}),
        ("globex", ALL, {"public", "federated"}),
        ("globex", frozenset({"query", "sync"}), set()),
        ("", frozenset(), set()),
    ],
)
async def test_a_peer_gets_what_its_certificate_and_our_trust_open(
    world: World, organization: str, scopes: frozenset[str], readable: set[str]
) -> None:
    holder, reader = await pair(world, organization=organization, scopes=scopes)
    words = ("public", "federated", "org", "private")
    roots = {word: holder.put(word.encode(), word, organization="acme").root for word in words}
    absent = 403 if organization == "acme" else 404
    for word, root in roots.items():
        assert await status(holder, reader, root) == (200 if word in readable else absent), word
    assert await has(holder, reader, *roots.values()) == tuple(word in readable for word in words)


@pytest.mark.parametrize(("organization", "code"), [("acme", 403), ("globex", 404), ("", 404)])
async def test_denied_is_said_within_the_organisation_alone(world: World, organization: str, code: int) -> None:
    holder, reader = await pair(world, organization=organization)
    hidden = holder.put(b"hidden", "private", organization="acme").root
    assert await status(holder, reader, hidden) == code
    assert await status(holder, reader, Cid.of(b"absent")) == 404


async def test_another_organisations_secret_is_absent_even_to_our_own(world: World) -> None:
    holder, reader = await pair(world)
    theirs = holder.put(b"theirs", "private", organization="globex").root
    assert await status(holder, reader, theirs) == 404


async def test_a_hidden_cid_probed_by_get_and_have_gets_the_bytes_that_an_absent_one_gets(world: World) -> None:
    holder, reader = await pair(world, organization="globex")
    hidden = holder.put(b"hidden" * 100, "private", organization="acme").root
    connection = await reader.connect(holder)

    async def answer(request: messages.GetRequest | messages.HaveRequest) -> bytes:
        stream = await connection.open_stream((messages.CHUNK_PROTOCOL,), timeout_s=5)
        data = messages.encode_request(request)
        await stream.write(varint.encode(len(data)) + data)
        await stream.close_write()
        return b"".join([bytes(part) async for part in _parts(stream)])

    absent = Cid.of(b"absent")
    async with asyncio.timeout(10):
        assert await answer(messages.GetRequest(hidden)) == await answer(messages.GetRequest(absent)) != b""
        assert await answer(messages.HaveRequest((hidden,))) == await answer(messages.HaveRequest((absent,))) != b""


async def _parts(stream: Stream):  # type: ignore[no-untyped-def]
    while parts := await stream.read():
        for part in parts:
            yield part


async def test_facts_decide_where_there_are_some(world: World) -> None:
    holder, reader = await pair(world, organization="globex")
    document = holder.put(b"data", "federated", organization="acme")
    assert await status(holder, reader, document.root) == 200
    rule(holder, document, Entry(b"1", "org:globex", "read", False))
    assert await status(holder, reader, document.root) == 404
    rule(holder, document, Entry(b"2", "", "", False, 0, "private"), Entry(b"3", "org:globex", "read", True))
    assert await status(holder, reader, document.root) == 200


async def test_facts_that_cannot_be_read_leave_the_document_to_its_owner(world: World) -> None:
    holder, reader = await pair(world)
    document = holder.put(b"data", "public", organization="acme")
    holder.documents.set_access("acme", document.doc_id, "public", is_ruled=True)
    assert await status(holder, reader, document.root) == 403


async def test_what_was_put_before_the_node_had_an_organisation_is_its_organisations_now(world: World) -> None:
    holder, reader = await pair(world)
    document = holder.put(b"early", "org", organization="")
    assert await status(holder, reader, document.root) == 200


async def test_setting_rights_of_another_organisations_document_of_the_same_id_changes_nothing(world: World) -> None:
    holder = await world.peer(rules=ACME)
    document = holder.put(b"data", "private", organization="acme")
    assert not holder.documents.set_access("globex", document.doc_id, "public", is_ruled=False)
    assert holder.documents.get(document.doc_id).visibility == "private"


async def test_a_name_that_is_put_again_keeps_its_rights(world: World) -> None:
    holder = await world.peer(rules=ACME)
    document = holder.put(b"one", "org", name="report", organization="acme")
    holder.documents.set_access("acme", document.doc_id, "org", is_ruled=True)
    again = holder.put(b"two", "org", name="report", organization="acme")
    assert again.doc_id == document.doc_id and again.is_ruled


async def test_a_chunk_of_very_many_documents_is_read_by_who_may_read_the_last(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rage_net.chunk.shelf.COUNTING_MAX", 4)
    holder, reader = await pair(world, organization="globex")
    for _ in range(10):
        holder.put(b"shared", "private", organization="acme")
    assert await status(holder, reader, Cid.of(b"shared")) == 404
    holder.put(b"shared", "federated", organization="acme")
    assert await status(holder, reader, Cid.of(b"shared")) == 200


# --- what chunks are said to be for ---


async def test_holders_of_certificates_learn_which_readable_documents_a_chunk_is_for(world: World) -> None:
    holder, reader = await pair(world, organization="globex")
    shared = holder.put(b"shared", "federated", organization="acme")
    holder.put(b"shared", "private", organization="acme")
    received = await reader.exchange.fetch(await reader.connect(holder), shared.root)
    assert received.header.documents == (DocumentName("acme", shared.doc_id),)


async def test_strangers_learn_of_no_document(world: World) -> None:
    holder = await world.peer(rules=Rules(public_to_strangers=True, is_open=False, organization="acme"))
    reader = await world.peer(rules=GLOBEX)
    root = holder.put(b"open", "public", organization="acme").root
    received = await reader.exchange.fetch(await reader.connect(holder), root)
    assert received.header.documents == () and received.header.is_public


async def test_no_more_documents_are_told_than_a_message_takes(world: World) -> None:
    holder, reader = await pair(world)
    for number in range(20):
        document = holder.put(b"shared", "org", organization="acme")
        rule(holder, document, Entry(bytes([number]), "org:acme", "read", True))
    received = await reader.exchange.fetch(await reader.connect(holder), Cid.of(b"shared"))
    assert len(received.header.documents) == messages.DOCUMENTS_MAX


async def test_a_fetched_chunk_is_served_on_to_who_may_read_the_document_its_sender_named(world: World) -> None:
    holder, relay = await pair(world)
    reader = await world.peer(rules=GLOBEX)
    certify(relay, reader, "globex")
    document = holder.put(b"data", "private", organization="acme")
    rule(holder, document, Entry(b"1", "org:acme", "read", True), Entry(b"2", "org:globex", "read", True))
    assert (await relay.fetch(document.root, [holder]))[0] == b"data"
    assert await status(relay, reader, document.root) == 404, "the document is not known here: its organisation's alone"
    rights = compile_access([Entry(b"2", "org:globex", "read", True)], "most-restrictive", document.owner, "acme")
    relay.exchange.gate.access_of = lambda *asked: rights if asked == ("acme", document.doc_id) else None
    assert await status(relay, reader, document.root) == 200


async def test_what_a_sender_calls_public_beside_its_documents_is_not_public_for_good(world: World) -> None:
    holder, relay = await pair(world)
    reader = await world.peer(rules=GLOBEX)
    certify(relay, reader, "globex")
    document = holder.put(b"data", "public", organization="acme")
    await relay.fetch(document.root, [holder])
    rights = AccessList("private", document.owner, "acme")
    relay.exchange.gate.access_of = lambda *asked: rights
    assert await status(relay, reader, document.root) == 404


async def test_an_open_node_notes_no_organisations_claim(world: World) -> None:
    reader = await world.peer()
    holder = await world.peer(rules=ACME)
    certify(holder, reader, "acme")
    document = holder.put(b"data", "org", organization="acme")
    received = await reader.exchange.fetch(await reader.connect(holder), document.root)
    assert received.header.documents == ()


async def test_one_sender_cannot_fill_the_store_with_claims(world: World) -> None:
    relay = await world.peer(rules=ACME)
    root = relay.put(b"data", "private", organization="acme").root
    for number in range(50):
        name = f"{'a' * 24}{chr(97 + number % 26)}{chr(97 + number // 26)}"
        attest(relay.store, [(root, False, [("acme", name)])])
    with relay.store.index.read() as db:
        assert db.execute("SELECT count(*) FROM attested").fetchone() == (ATTESTED_MAX,)
    found = look(relay.store, root, lambda _: True)
    assert isinstance(found, Seen) and any(document.doc_id == name for document in found.documents)


# --- to replicate ---


STORES = frozenset({"storage"})


async def test_a_cached_chunk_is_here_but_not_durable(world: World) -> None:
    holder, writer = await pair(world)
    certify(writer, holder)
    kept, cached = holder.put(b"kept").root, writer.put(b"cached").root
    await holder.fetch(cached, [writer])
    connection = await writer.connect(holder)
    assert await writer.exchange.have(connection, [kept, cached]) == (True, True)
    assert await writer.exchange.have(connection, [kept, cached], durable=True) == (True, False)


async def test_replication_is_asked_for_by_another_right_than_reading(world: World) -> None:
    holder, reader = await pair(world)
    who = certify(holder, reader)
    hidden = holder.put(b"hidden", "private", organization="acme")
    shown = holder.put(b"shown", "org", organization="acme")
    rule(holder, shown, Entry(b"1", "org:acme", "replicate", False))
    connection = await reader.connect(holder)
    roots = hidden.root, shown.root

    async def asked(traffic: messages.Traffic) -> tuple[bool, ...]:
        told = await reader.exchange.have(connection, roots, traffic=traffic)
        for root, is_here in zip(roots, told, strict=True):
            try:
                received = await reader.exchange.fetch(connection, root, traffic=traffic)
                assert is_here and b"".join(received.buffers) in (b"hidden", b"shown")
                document = hidden if root == hidden.root else shown
                assert received.header.documents == (DocumentName("acme", document.doc_id),)
            except AccessDeniedError:
                assert not is_here
        return told

    async with asyncio.timeout(10):
        assert await asked("replication") == (False, False), "its certificate says nothing of storage"
        holder.principals[reader.swarm.peer_id] = replace(who, capabilities=STORES)
        assert await asked("replication") == (True, False)
        assert await asked("user") == await asked("background") == (False, True)


async def test_a_download_says_why_it_asks(world: World) -> None:
    holder, replica = await pair(world)
    who = certify(holder, replica)
    holder.principals[replica.swarm.peer_id] = replace(who, capabilities=STORES)
    data = world.rng.randbytes(200_000)
    root = holder.put(data, "private", organization="acme").root
    with pytest.raises(NotFoundError):
        await replica.fetch(root, [holder])
    assert (await replica.fetch(root, [holder], traffic="replication"))[0] == data


async def test_what_may_not_be_replicated_is_denied_or_absent_as_what_may_not_be_read(world: World) -> None:
    holder, reader = await pair(world, organization="globex")
    document = holder.put(b"data", "public", organization="acme")
    connection = await reader.connect(holder)
    async with asyncio.timeout(10):
        with pytest.raises(NotFoundError):
            await reader.exchange.fetch(connection, document.root, traffic="replication")
        rule(holder, document, Entry(b"1", "org:globex", "replicate", True))
        received = await reader.exchange.fetch(connection, document.root, traffic="replication")
    assert b"".join(received.buffers) == b"data"


# --- attacks ---


async def test_a_manifest_that_names_anothers_secret_cid_opens_nothing(world: World) -> None:
    """The author of a new document names a chunk it may not read, and every node that fetches it asks for that."""
    holder = await world.peer(rules=ACME)
    secret = holder.put(b"secret" * 50, "private", organization="acme")
    thief = await world.peer(rules=GLOBEX)
    author = certify(holder, thief, "globex")
    encoded = manifest.Manifest("cdc-1", 300, 1, (manifest.Link(secret.root, 300),)).encode()
    root = Cid.of(encoded, DAG_CBOR)
    with holder.documents.lease("globex") as lease:
        with holder.store.batch(lease=lease) as batch:
            batch.add(root, encoded)
            batch.commit()
        counts = holder.exchange.gate.may_count([secret.root], author)
        assert counts == []
        lease.hold([secret.root])
        lease.hold(counts, counts=True)
        holder.documents.put(lease, root, size=300, chunks=1, owner=str(thief.swarm.peer_id), visibility="public")
    assert await status(holder, thief, root) == 200
    assert await status(holder, thief, secret.root) == 404
    assert await has(holder, thief, secret.root) == (False,)


async def test_a_document_counts_for_chunks_here_that_its_author_may_read(world: World) -> None:
    holder = await world.peer(rules=ACME)
    reader = await world.peer(rules=GLOBEX)
    author = certify(holder, reader, "globex")
    ours, theirs = (holder.put(word.encode(), word, organization="acme").root for word in ("federated", "org"))
    assert holder.exchange.gate.may_count([ours, theirs, Cid.of(b"absent")], author) == [ours]


async def test_lenient_enforcement_lets_no_author_take_what_it_may_not_read(world: World) -> None:
    holder = await world.peer(rules=Rules(is_open=False, organization="acme", enforcement="off"))
    thief = await world.peer(rules=ACME)
    author = certify(holder, thief)
    root = holder.put(b"secret", "private", organization="acme").root
    assert await status(holder, thief, root) == 200
    assert holder.exchange.gate.may_count([root], author) == []


@pytest.mark.parametrize(
    "documents", [[("acme", "short")], [("acme", "A" * 26)], [("x" * 65, "a" * 26)], [("a\nb", "a" * 26)]]
)
async def test_a_sender_that_names_what_is_no_document_breaks_the_protocol(
    world: World, documents: list[tuple[str, str]]
) -> None:
    liar, reader = await world.peer(), await world.peer(rules=ACME)
    header = ChunkHeader(4, 4, "raw", False, tuple(DocumentName(*name) for name in documents))

    async def lie(stream: Stream) -> None:
        await stream.read_message(1 << 16)
        head = messages.encode_response(ChunkResponse(200, header))
        await stream.write(varint.encode(len(head)) + head + b"data")
        await stream.close_write()

    liar.answer(lie)
    with pytest.raises(PeerProtocolError, match=r"no id of one|a word of"):
        await reader.exchange.fetch(await reader.connect(liar), Cid.of(b"data"))


# --- records ---


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_denial_is_a_record_of_who_what_and_why(world: World, tmp_path: Path) -> None:
    path = tmp_path / "denials.jsonl"
    holder, reader = await world.peer(rules=ACME, logs=path), await world.peer(rules=GLOBEX)
    who = certify(holder, reader, "globex")
    hidden = holder.put(b"hidden", "private", organization="acme")
    rule(holder, hidden, Entry(b"1", "org:globex", "read", False))
    await status(holder, reader, hidden.root)
    await status(holder, reader, Cid.of(b"absent"))
    await has(holder, reader, Cid.of(b"absent"), hidden.root)
    await holder.denials.close()
    get, have = records(path)
    assert get["who"] == have["who"] == str(who)
    assert get["what"] == have["what"] == f"chunk:{hidden.root}"
    assert get["why"] == "org:globex is denied read"
    assert path.stat().st_mode & 0o777 == 0o600
    assert holder.metrics.denied.read() == {("chunk",): [2.0]}


async def test_permissive_serves_and_records_what_strict_would_deny(world: World, tmp_path: Path) -> None:
    path = tmp_path / "denials.jsonl"
    rules = Rules(public_to_strangers=False, is_open=False, organization="acme", enforcement="permissive")
    holder, reader, outsider = await world.peer(rules=rules, logs=path), await world.peer(), await world.peer()
    certify(holder, reader)
    hidden = holder.put(b"hidden", "private", organization="acme").root
    assert await status(holder, reader, hidden) == 200
    assert await status(holder, outsider, hidden) == 404
    await holder.denials.close()
    would, did = records(path)
    assert would["would_deny"] is True and "would_deny" not in did
    assert holder.metrics.denied.read() == {("chunk-permissive",): [1.0], ("chunk",): [1.0]}
