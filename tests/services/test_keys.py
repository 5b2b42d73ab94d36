"""Keys of sealed documents: who gets one, and that nobody else learns whether there is one."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rage_net import messages
from rage_net.acl import AccessList, Entry, Principal, Rules, compile_access
from rage_net.cdn.keyfile import KeyFile
from rage_net.cdn.sealing import Epoch, Sealed
from rage_net.cid import Cid
from rage_net.errors import NotFoundError, RemoteProtocolError, UnavailableError
from rage_net.libp2p import varint
from rage_net.libp2p.errors import Libp2pError
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.swarm import Connection, Stream
from rage_net.messages import KeyRequest, KeyResponse
from rage_net.services.exchange import stranger
from rage_net.services.sealing import Keys, draw_epoch
from rage_net.services.sealing import keys as subject
from tests.services.conftest import Peer, World

pytestmark = pytest.mark.anyio

DOC = "a" * 26
RULES = Rules(is_open=False, organization="acme", public_to_strangers=False)
SCOPES = frozenset({"chunks", "sync", "query"})


@dataclass
class Sealer:
    """A node with keys, and a document whose rights tests set."""

    peer: Peer
    keys: Keys
    file: KeyFile
    access: dict[tuple[str, str], AccessList]
    known: dict[PeerId, Peer]

    def rule(self, visibility: str, *entries: Entry, owner: str = "") -> None:
        said = Entry(b"v", "", "", False, 0.0, visibility, 1, "x")
        found = compile_access((said, *entries), "most-restrictive", owner, "acme")
        self.access["acme", DOC] = found

    def admit(self, other: Sealer, organization: str = "acme", capabilities: Sequence[str] = ("storage",)) -> Principal:
        peer = other.peer.swarm.peer_id
        found = Principal("peer", str(peer), organization, capabilities=frozenset(capabilities), scopes=SCOPES)
        self.peer.principals[peer] = found
        return found

    async def find(self, epoch: Epoch, *holders: Sealer) -> Epoch:
        async with asyncio.timeout(20):
            return await self.keys.find(told(epoch), self.knows(*holders))

    def begin(self) -> Epoch:
        epoch = draw_epoch(self.peer.env.random, "acme", DOC)
        self.file.put(epoch, b"state")
        return epoch

    def knows(self, *holders: Sealer) -> list[PeerId]:
        for holder in holders:
            self.known[holder.peer.swarm.peer_id] = holder.peer
        return [holder.peer.swarm.peer_id for holder in holders]


def told(epoch: Epoch) -> Sealed:
    """What the log says of an epoch."""
    return Sealed(epoch.organization, epoch.doc_id, Cid.of(b"root"), epoch.id, Cid.of(b"page"), epoch.check)


async def sealer(world: World, *, rules: Rules = RULES, path: Path | None = None, logs: Path | None = None) -> Sealer:
    peer = await world.peer(rules=rules, logs=logs)
    access: dict[tuple[str, str], AccessList] = {}
    known: dict[PeerId, Peer] = {}

    async def connect(other: PeerId) -> Connection:
        if other not in known:
            raise UnavailableError("nobody knows where it is")
        return await peer.connect(known[other])

    file = KeyFile(path)
    keys = Keys(
        file,
        peer.env,
        peer.metrics,
        rules,
        principal_of=lambda each: peer.principals.get(each) or stranger(each),
        connect=connect,
        access_of=lambda organization, doc_id: access.get((organization, doc_id)),
        denials=peer.denials,
    )
    peer.swarm.handle(messages.KEY_PROTOCOL, keys.serve)
    return Sealer(peer, keys, file, access, known)


def say(action: str, principal: str, allowed: bool = True) -> Entry:
    return Entry(f"{action}{principal}".encode(), principal, action, allowed, 0.0, "", 2, "x")


async def ask(holder: Sealer, reader: Sealer, request: bytes) -> bytes:
    """The bytes of the answer, as they come."""
    connection = await reader.peer.connect(holder.peer)
    async with asyncio.timeout(5):
        stream = await connection.open_stream([messages.KEY_PROTOCOL], initial=varint.encode(len(request)) + request)
        await stream.close_write()
        return await stream.read_message(messages.KEY_MESSAGE_BYTES_MAX)


def request(id: bytes, doc_id: str = DOC, organization: str = "acme") -> bytes:
    return messages.encode_key_request(KeyRequest(organization, doc_id, id))


@pytest.fixture
async def pair(world: World) -> tuple[Sealer, Sealer]:
    return await sealer(world), await sealer(world)


# --- who may read -----------------------------------------------------------------------------------------------------


async def test_a_member_that_may_read_gets_the_key_and_keeps_it(pair: tuple[Sealer, Sealer]) -> None:
    holder, reader = pair
    epoch = holder.begin()
    holder.rule("org")
    holder.admit(reader)
    assert await reader.find(epoch, holder) == epoch
    assert await reader.find(epoch) == epoch, "nobody is asked twice"


async def test_a_key_that_was_received_is_given_on_by_the_same_rule(world: World) -> None:
    holder, reader, third = [await sealer(world) for _ in range(3)]
    epoch = holder.begin()
    holder.rule("org")
    holder.admit(reader)
    await reader.find(epoch, holder)
    reader.rule("private")
    reader.admit(third)
    with pytest.raises(NotFoundError):
        await third.find(epoch, reader)
    reader.rule("org")
    assert await third.find(epoch, reader) == epoch


async def test_another_organisations_peer_gets_the_key_of_what_it_may_read(pair: tuple[Sealer, Sealer]) -> None:
    holder, reader = pair
    epoch = holder.begin()
    principal = holder.admit(reader, "birch")
    holder.rule("org", say("read", f"peer:{principal.name}"))
    assert await reader.find(epoch, holder) == epoch


async def test_each_epoch_has_a_key_of_its_own(pair: tuple[Sealer, Sealer]) -> None:
    holder, _ = pair
    epochs = [holder.begin() for _ in range(50)]
    assert len({epoch.key for epoch in epochs}) == len({epoch.id for epoch in epochs}) == 50


# --- attacks ----------------------------------------------------------------------------------------------------------


def a_stranger(holder: Sealer, reader: Sealer) -> None:
    holder.rule("org")


def a_denied_member(holder: Sealer, reader: Sealer) -> None:
    principal = holder.admit(reader)
    holder.rule("org", say("read", f"peer:{principal.name}", allowed=False))


def a_member_without_a_right(holder: Sealer, reader: Sealer) -> None:
    holder.admit(reader)
    holder.rule("private")


def a_replica(holder: Sealer, reader: Sealer) -> None:
    """It stores, it may even hold this document: and has no business reading it."""
    principal = holder.admit(reader)
    holder.rule("private", say("replicate", f"peer:{principal.name}"))


def another_organisation(holder: Sealer, reader: Sealer) -> None:
    holder.admit(reader, "birch")
    holder.rule("org")


def one_whose_right_has_ended(holder: Sealer, reader: Sealer) -> None:
    principal = holder.admit(reader)
    over = Entry(b"g", f"peer:{principal.name}", "read", True, 1_000_000.0, "", 2, "x")
    holder.rule("private", over)


def a_reader_of_a_document_that_was_removed(holder: Sealer, reader: Sealer) -> None:
    holder.admit(reader)
    holder.access.clear()


REFUSED = [
    a_stranger,
    a_denied_member,
    a_member_without_a_right,
    a_replica,
    another_organisation,
    one_whose_right_has_ended,
    a_reader_of_a_document_that_was_removed,
]


@pytest.mark.parametrize("who", REFUSED, ids=lambda who: who.__name__)
async def test_who_may_not_read_gets_the_bytes_that_ask_for_what_is_absent(
    pair: tuple[Sealer, Sealer], who: Callable[[Sealer, Sealer], None]
) -> None:
    holder, reader = pair
    epoch = holder.begin()
    who(holder, reader)
    answers = {
        await ask(holder, reader, request(id, doc_id, organization))
        for id, doc_id, organization in (
            (epoch.id, DOC, "acme"),
            (bytes(16), DOC, "acme"),
            (epoch.id, "b" * 26, "acme"),
            (epoch.id, DOC, "birch"),
        )
    }
    assert answers == {messages.encode_key_response(KeyResponse(messages.NOT_FOUND))}
    with pytest.raises(NotFoundError) as caught:
        await reader.find(epoch, holder)
    assert caught.value.id == "key-not-found"


async def test_a_node_whose_certificate_was_revoked_gets_no_key_any_more(pair: tuple[Sealer, Sealer]) -> None:
    holder, reader = pair
    holder.rule("org")
    holder.admit(reader)
    await reader.find(holder.begin(), holder)
    holder.peer.principals.clear()
    with pytest.raises(NotFoundError):
        await reader.find(holder.begin(), holder)


@pytest.mark.parametrize("enforcement", ["permissive", "off"])
async def test_lenient_enforcement_gives_no_key_away(world: World, enforcement: str) -> None:
    """What is let through by mistake today would open what a CDN gives tomorrow."""
    rules = Rules(is_open=False, organization="acme", enforcement=enforcement)  # type: ignore[arg-type]
    holder, reader = await sealer(world, rules=rules), await sealer(world)
    epoch = holder.begin()
    holder.admit(reader)
    holder.rule("private")
    with pytest.raises(NotFoundError):
        await reader.find(epoch, holder)


async def test_an_open_node_gives_no_key(world: World) -> None:
    holder, reader = await sealer(world, rules=Rules()), await sealer(world)
    epoch = holder.begin()
    holder.admit(reader)
    holder.rule("public")
    with pytest.raises(NotFoundError):
        await reader.find(epoch, holder)


async def test_a_denial_is_noted_without_the_key(world: World, tmp_path: Path) -> None:
    holder, reader = await sealer(world, logs=tmp_path / "denials.jsonl"), await sealer(world)
    epoch = holder.begin()
    a_member_without_a_right(holder, reader)
    await ask(holder, reader, request(bytes(16)))
    await ask(holder, reader, request(epoch.id))
    await holder.peer.denials.close()
    text = (tmp_path / "denials.jsonl").read_text()
    (record,) = map(json.loads, text.splitlines())
    assert record["door"] == "key" and record["what"] == f"doc:{DOC}"
    assert epoch.key.hex() not in text


async def test_one_peer_that_asks_without_end_is_told_to_come_back(
    pair: tuple[Sealer, Sealer], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, reader = pair
    now = holder.peer.env.monotonic()
    monkeypatch.setattr(holder.peer.env, "monotonic", lambda: now)
    a_stranger(holder, reader)
    statuses = [
        messages.decode_key_response(await ask(holder, reader, request(bytes(16)))).status
        for _ in range(int(subject.REQUESTS_BURST) + 2)
    ]
    assert statuses[-2:] == [messages.BUSY] * 2 and set(statuses[:-2]) == {messages.NOT_FOUND}


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff",
        bytes(600),
        messages.encode_key_request(KeyRequest("acme", "short", bytes(16))),
        messages.encode_key_request(KeyRequest("acme", DOC, bytes(15))),
        messages.encode_key_request(KeyRequest("", DOC, bytes(16))),
        messages.encode_key_request(KeyRequest("a" * 65, DOC, bytes(16))),
    ],
    ids=["garbage", "too long", "no document", "no epoch", "no organisation", "long organisation"],
)
async def test_what_is_no_request_is_told_so_and_breaks_the_protocol(pair: tuple[Sealer, Sealer], bad: bytes) -> None:
    holder, reader = pair
    with pytest.raises(RemoteProtocolError):
        messages.decode_key_request(bad)
    try:
        answer = await ask(holder, reader, bad)
    except Libp2pError:
        return  # a message too long is not even read
    assert messages.decode_key_response(answer).status == messages.BAD_REQUEST


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff", bytes(200), messages.encode_key_response(KeyResponse(200, bytes(31)))],
    ids=["empty", "garbage", "long", "short key"],
)
async def test_a_holder_that_answers_nonsense_is_passed_over(world: World, answer: bytes) -> None:
    holder, liar, reader = [await sealer(world) for _ in range(3)]
    epoch = holder.begin()
    holder.rule("org")
    holder.admit(reader)

    async def lie(stream: Stream) -> None:
        await stream.read_message(messages.KEY_MESSAGE_BYTES_MAX)
        await stream.write(varint.encode(len(answer)) + answer)
        await stream.close_write()

    liar.peer.swarm.handle(messages.KEY_PROTOCOL, lie)
    assert await reader.find(epoch, liar, holder) == epoch


async def test_a_holder_that_gives_a_wrong_key_is_found_out_and_nothing_is_kept(world: World) -> None:
    holder, liar, reader = [await sealer(world) for _ in range(3)]
    epoch = holder.begin()
    liar.file.put(Epoch("acme", DOC, epoch.id, bytes(32)), b"state")
    for each in (holder, liar):
        each.rule("org")
        each.admit(reader)
    with pytest.raises(NotFoundError) as caught:
        await reader.find(epoch, liar)
    assert "wrong key" in caught.value.why
    assert reader.file.get("acme", DOC, epoch.id) is None
    assert await reader.find(epoch, liar, holder) == epoch


async def test_a_holder_that_says_nothing_is_waited_for_a_while_and_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "ASK_S_MAX", 0.05)
    holder, mute, reader = [await sealer(world) for _ in range(3)]
    epoch = holder.begin()
    holder.rule("org")
    holder.admit(reader)
    silent = asyncio.Event()

    async def wait(stream: Stream) -> None:
        await silent.wait()

    mute.peer.swarm.handle(messages.KEY_PROTOCOL, wait)
    assert await reader.find(epoch, mute, holder) == epoch
    silent.set()


async def test_many_who_need_one_key_ask_once(pair: tuple[Sealer, Sealer]) -> None:
    holder, reader = pair
    epoch = holder.begin()
    holder.rule("org")
    holder.admit(reader)
    asked: list[PeerId] = []
    serve = holder.keys.serve

    async def count(stream: Stream) -> None:
        asked.append(stream.remote_peer)
        await serve(stream)

    holder.peer.swarm.handle(messages.KEY_PROTOCOL, count)
    holders = reader.knows(holder)
    found = await asyncio.gather(*(reader.keys.find(told(epoch), holders) for _ in range(20)))
    assert set(found) == {epoch} and len(asked) == 1


async def test_without_anybody_to_ask_the_error_says_so(pair: tuple[Sealer, Sealer]) -> None:
    with pytest.raises(NotFoundError, match="no node gave the key") as caught:
        await pair[1].find(Epoch("acme", DOC, bytes(16), bytes(32)))
    assert "no other node of its organisation is known" in caught.value.why


async def test_a_node_that_is_out_of_reach_is_passed_over(world: World) -> None:
    holder, gone, reader = [await sealer(world) for _ in range(3)]
    epoch = holder.begin()
    holder.rule("org")
    holder.admit(reader)
    holders = [gone.peer.swarm.peer_id, *reader.knows(holder)]
    assert await reader.keys.find(told(epoch), holders) == epoch


# --- the file ---------------------------------------------------------------------------------------------------------


def epoch_of(rng: random.Random, doc_id: str = DOC) -> Epoch:
    return Epoch("acme", doc_id, rng.randbytes(16), rng.randbytes(32))


def test_keys_are_here_after_a_restart_and_for_their_owner_alone(rng: random.Random, tmp_path: Path) -> None:
    path, epoch = tmp_path / "sealed.db", epoch_of(rng)
    file = KeyFile(path)
    assert file.get("acme", DOC, epoch.id) is None and not file.drop(epoch)
    assert not path.exists(), "who seals nothing has no file"
    file.put(epoch, b"state")
    file.close()
    again = KeyFile(path)
    assert again.get("acme", DOC, epoch.id) == epoch
    assert again.get("acme", "b" * 26, epoch.id) is again.get("birch", DOC, epoch.id) is None
    again.close()
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in tmp_path.iterdir())


def test_a_key_that_is_given_takes_the_place_of_those_that_were_given_and_of_none_that_was_begun(
    rng: random.Random,
) -> None:
    file = KeyFile(None)
    own, first, second, other = (epoch_of(rng, doc_id) for doc_id in (DOC, DOC, DOC, "b" * 26))
    file.put(own, b"state")
    for epoch in (first, other, second, second):
        file.receive(epoch)
    assert [file.get("acme", each.doc_id, each.id) for each in (own, first, second, other)] == [
        own,
        None,
        second,
        other,
    ]
    assert file.begun("acme", DOC, b"state") == (own,) and file.begun("acme", DOC, b"another") == ()


def test_a_key_that_is_here_is_not_replaced(rng: random.Random) -> None:
    file, epoch = KeyFile(None), epoch_of(rng)
    file.put(epoch, b"state")
    file.put(Epoch("acme", DOC, epoch.id, bytes(32)), b"state")
    file.receive(Epoch("acme", DOC, epoch.id, bytes(32)))
    assert file.get("acme", DOC, epoch.id) == epoch


def test_keys_of_old_epochs_go_and_leave_no_byte_behind(rng: random.Random, tmp_path: Path) -> None:
    path = tmp_path / "sealed.db"
    file, old, new, other = KeyFile(path), epoch_of(rng), epoch_of(rng), epoch_of(rng, "b" * 26)
    for epoch in (old, new, other):
        file.put(epoch, b"state")
    assert file.drop(old) and not file.drop(old)
    assert file.get("acme", DOC, old.id) is None
    assert file.get("acme", DOC, new.id) == new and file.get("acme", "b" * 26, other.id) == other
    file.close()
    found = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert new.key in found and old.key not in found
