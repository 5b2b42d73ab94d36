"""Commands of the network, in each form, against a node whose engine says what it is told to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Rage
from conftest_engine import (
    ADDRESS,
    ALICE,
    BOB,
    CID,
    FOUND,
    LOOK_UP,
    MESSAGES,
    REGISTERED,
    SERVERS,
    STEPS,
    TABLE,
    WAYS,
    WHY,
    FakeEngine,
    answer_all,
)

from rage_net import refusals
from rage_net.errors import NotFoundError, RageError
from rage_net.verbs import chunk, dht, diagnose, discovery, peer, topic


def rows(stdout: bytes) -> list[list[str]]:
    return [line.split("\t") for line in stdout.decode().splitlines()]


def lines(stderr: bytes) -> list[str]:
    return stderr.decode().splitlines()


@pytest.fixture(autouse=True)
def _answers(engine: FakeEngine) -> None:
    answer_all(engine)


ROWS: list[tuple[list[str], list[list[str]], list[str]]] = [
    (
        ["peer", "list"],
        [
            [
                *(ALICE, "connected", "1.5", "65.0", "outbound", "1000", "2000", "2", "rage/0.2", ADDRESS),
                *("alive", "acme", "eu-west", "storage", "dht", ""),
            ]
        ],
        [ALICE],
    ),
    (
        ["peer", "discover"],
        [
            [ALICE, "server,dht", "acme", "eu-west", "false", "storage", ADDRESS, ""],
            [BOB, "mdns", "", "", "false", "", "/ip4/192.0.2.8/tcp/4001", ""],
        ],
        [ALICE, BOB],
    ),
    (
        ["peer", "find", ALICE],
        [[ALICE, ADDRESS, "dht", "false", "0.75", "server: nobody,dht: 1 address"]],
        [ALICE],
    ),
    (["peer", "ban", ALICE], [[ALICE, "true", "1790000000.0", "rude", "true"]], [ALICE]),
    (["peer", "unban", ALICE], [[ALICE, "false", "", "", "false"]], [ALICE]),
    (
        ["chunk", "providers", CID],
        [[ALICE, "has", "connected,dht", "1.5", ADDRESS, ""], [BOB, "unreachable", "dht", "", "", "no answer"]],
        [ALICE, BOB],
    ),
    (["dht", "table"], [["240", ALICE, "12.5", ADDRESS], ["251", BOB, "", ""]], [ALICE, BOB]),
    (["dht", "table", "--buckets"], [["240", "1", "3"], ["251", "1", "0"]], ["240", "251"]),
    (["dht", "find", ALICE], [["240", ALICE, "12.5", ADDRESS], ["251", BOB, "", ""]], [ALICE, BOB]),
    (["dht", "providers", CID], [["240", ALICE, "12.5", ADDRESS]], [ALICE]),
    (
        ["dht", "trace", CID],
        [
            ["1", "1", "answered", "12.3", "250", "4", "0", ALICE, ADDRESS, ""],
            ["2", "2", "timeout", "1000.0", "243", "0", "0", BOB, "/ip4/192.0.2.8/tcp/4001", "no answer within 1 s"],
        ],
        [ALICE, BOB],
    ),
    (
        ["topic", "list"],
        [
            ["rage.global", "true", "5", "4", "100", "20", "1", "3"],
            ["team.talk", "false", "1", "0", "0", "0", "0", "0"],
        ],
        ["rage.global", "team.talk"],
    ),
    (
        ["topic", "tail", "t"],
        [["1790000000.0", ALICE, "heartbeat", "5", "free 3 GiB"], ["1790000001.0", BOB, "unknown", "2", ""]],
        [f"{ALICE}/7", f"{BOB}/8"],
    ),
    (["topic", "publish", "t", "-"], [["abcd", "t", "5", "4"]], ["abcd"]),
    (
        ["discovery", "list"],
        [["https://a.example", "true", "12.3", "40", "true", "81.0", "true", ""]],
        ["https://a.example"],
    ),
    (
        ["discovery", "list", "--peers"],
        [[ALICE, "acme", "false", "eu-west", "true", "storage", ADDRESS, "https://a.example"]],
        [ALICE],
    ),
    (
        ["discovery", "register"],
        [["https://a.example", "true", "12.3", "40", "true", "81.0", "true", ""]],
        ["https://a.example"],
    ),
]


@pytest.mark.parametrize(("words", "tsv", "ids"), ROWS, ids=[" ".join(words) for words, *_ in ROWS])
def test_piped_it_is_tab_separated_and_with_q_the_identifiers(
    rage: Rage, words: list[str], tsv: list[list[str]], ids: list[str]
) -> None:
    done = rage(*words)
    assert rows(done.stdout) == tsv
    assert done.stderr == b""
    assert rage(*words, "-q").stdout.decode().splitlines() == ids


KINDS = [
    ("peer list", "ListPeers", {"items"}),
    ("peer discover", "DiscoverPeers", {"items", "ways"}),
    ("peer find x", "FindPeer", {"peer_id", "addresses", "source", "asked"}),
    ("peer ban x", "Ban", {"is_banned", "until"}),
    ("peer unban x", "Ban", {"is_banned", "until"}),
    ("chunk providers x", "ChunkProviders", {"root", "items", "asked"}),
    ("dht table", "ShowTable", {"mode", "buckets", "contacts"}),
    ("dht find x", "LookUp", {"target", "what", "found", "asked"}),
    ("dht providers x", "LookUp", {"providers"}),
    ("dht trace x", "Trace", {"target", "what", "hops", "found", "providers", "depth"}),
    ("topic list", "ListTopics", {"items"}),
    ("topic publish t -", "PublishTopic", {"message_id", "peers"}),
    ("discovery list", "ListServers", {"items"}),
    ("discovery list --peers", "ListRegistered", {"items", "errors"}),
    ("discovery register", "Register", {"items"}),
]


@pytest.mark.parametrize(("line", "kind", "fields"), KINDS, ids=[line for line, *_ in KINDS])
def test_json_is_one_object_with_its_kind(rage: Rage, line: str, kind: str, fields: set[str]) -> None:
    done = rage(*line.split(), "--json")
    assert done.stdout.count(b"\n") == 1 and done.stderr == b""
    value = json.loads(done.stdout)
    assert (value["kind"], value["v"]) == (kind, 1)
    assert fields <= set(value)


@pytest.mark.parametrize(("words", "tsv", "ids"), ROWS, ids=[" ".join(words) for words, *_ in ROWS])
def test_a_table_has_a_head_and_cuts_no_identifier(
    rage: Rage, words: list[str], tsv: list[list[str]], ids: list[str]
) -> None:
    shown = rage(*words, "--format", "table").stdout.decode()
    head = shown.splitlines()[0]
    assert head == head.upper() or len(tsv) == 1
    assert all(identifier.partition("/")[0] in shown or "://" in identifier for identifier in ids)
    assert "…" not in shown


# --- what is told as it comes -----------------------------------------------------------------------------------------


def test_a_topic_tail_is_ndjson_for_json_too(rage: Rage) -> None:
    for form in (["--json"], ["--format", "ndjson"]):
        found = [json.loads(line) for line in rage("topic", "tail", "t", *form).stdout.splitlines()]
        assert [(value["kind"], value["what"], value["sequence"]) for value in found] == [
            ("TopicMessage", "heartbeat", 7),
            ("TopicMessage", "unknown", 8),
        ]
        assert found[0]["data"] == "aGVsbG8="


def test_a_trace_is_hops_and_then_the_look_up_as_ndjson_and_one_object_as_json(rage: Rage) -> None:
    found = [json.loads(line) for line in rage("dht", "trace", CID, "--format", "ndjson").stdout.splitlines()]
    assert [value["kind"] for value in found] == ["Hop", "Hop", "LookUp"]
    whole = json.loads(rage("dht", "trace", CID, "--json").stdout)
    assert [hop["peer_id"] for hop in whole["hops"]] == [ALICE, BOB]
    assert whole["depth"] == 3


def test_peers_that_are_discovered_are_ndjson_as_they_come(rage: Rage) -> None:
    found = [json.loads(line) for line in rage("peer", "discover", "--format", "ndjson").stdout.splitlines()]
    assert [(value["kind"], value["peer_id"]) for value in found] == [("FoundPeer", ALICE), ("FoundPeer", BOB)]


# --- what the commands ask --------------------------------------------------------------------------------------------

ASKED = [
    ("peer list", peer.ListPeers()),
    ("peer list --known", peer.ListPeers(True)),
    ("peer list --state connected", peer.ListPeers(False, "connected")),
    ("peer list --state banned", peer.ListPeers(True, "banned")),
    ("peer list --org a --region r --cap storage", peer.ListPeers(False, "", "a", "r", "storage")),
    ("peer discover", peer.DiscoverPeers()),
    (
        "peer discover --via mdns,dht,mdns --for 3s --connect --org a --region r",
        peer.DiscoverPeers(("mdns", "dht"), 3.0, True, "a", "r"),
    ),
    ("peer ban x --for 1h --reason rude", peer.BanPeer("x", 3600.0, "rude")),
    ("peer ban x", peer.BanPeer("x", None, "")),
    ("chunk providers x --limit 3", chunk.ChunkProviders("x", 3)),
    ("dht providers x --limit 3", dht.FindProviders("x", 3)),
    ("topic tail t --count 5 --for 1m", topic.TailTopic("t", 5, 60.0)),
    ("topic tail t", topic.TailTopic("t", 0, 0.0)),
    ("discovery list --org a --region r --cap c", discovery.ListRegistered("a", "r", "c")),
    ("why x --peer 12D3KooWQ7", diagnose.Why("x", ("12D3KooWQ7",))),
]


@pytest.mark.parametrize(("line", "verb"), ASKED, ids=[line for line, _ in ASKED])
def test_options_become_the_verb(rage: Rage, engine: FakeEngine, line: str, verb: Any) -> None:
    rage(*line.split(), code=6 if line.startswith("why") else 0)
    assert engine.asked == [verb]


def test_a_message_is_published_as_it_is(rage: Rage, engine: FakeEngine, tmp_path: Path) -> None:
    rage("topic", "publish", "t", "-", stdin=b"a\0b\n")
    assert engine.octets == b"a\0b\n" and engine.asked == [topic.PublishTopic("t", None)]
    (tmp_path / "note").write_bytes(b"x" * topic.MESSAGE_BYTES_MAX)
    rage("topic", "publish", "t", tmp_path / "note")
    assert len(engine.octets) == topic.MESSAGE_BYTES_MAX
    assert engine.asked[-1] == topic.PublishTopic("t", topic.MESSAGE_BYTES_MAX)


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_message_that_is_too_large_is_refused_before_it_is_published(
    rage: Rage, engine: FakeEngine, tmp_path: Path, how: str
) -> None:
    data = b"x" * (topic.MESSAGE_BYTES_MAX + 1)
    (tmp_path / "note").write_bytes(data)
    path = tmp_path / "note" if how == "file" else "-"
    found = lines(rage("topic", "publish", "t", path, stdin=data, code=2).stderr)
    assert found[0].startswith("error[message-too-large]: a message has at most 65536 bytes")
    assert engine.octets == b""


# --- bad words --------------------------------------------------------------------------------------------------------

BAD = [
    ("peer discover --via serv", "--via: 'serv' is not one of server, dht, mdns", "peer discover --via server"),
    ("peer discover --via ,", "--via: ',' is not one of", "--via server"),
    ("peer discover --for soon", "--for: 'soon' is no duration", "rage peer discover --for 10s"),
    ("peer list --state gon", "--state: 'gon' is not one of", "rage peer list --state gone"),
    ("peer ban x --for ever", "--for: 'ever' is no duration", "rage peer ban x --for 1h"),
    ("topic tail t --for x", "--for: 'x' is no duration", "rage topic tail t --for 1m"),
    ("topic tail t --count -1", "--count", "rage topic tail --help"),
    ("why x --peer /ip4/192.0.2.7/tcp/1", "does not say which peer", "rage why x --peer /ip4/192.0.2.7/tcp/1/p2p/"),
    ("doctor --only clok", "--only: 'clok' is not one of home, permissions", "rage doctor --only clock"),
    ("doctor --fail-on warn", "--fail-on: 'warn' is not one of", "rage doctor --fail-on warning"),
    ("discovery serve --listen x", "--listen: HOST:PORT is wanted", "rage discovery serve --listen 127.0.0.1:4090"),
    ("dht trac x", "'trac' is no command of rage dht", "rage dht trace x"),
    ("peer ban x --dry-run", "peer ban has no --dry-run", "leave --dry-run out"),
    ("discovery register --dry-run", "discovery register has no --dry-run", "leave --dry-run out"),
]


@pytest.mark.parametrize(("line", "what", "mend"), BAD, ids=[line for line, *_ in BAD])
def test_a_bad_word_is_named_with_the_right_one(
    rage: Rage, engine: FakeEngine, line: str, what: str, mend: str
) -> None:
    found = lines(rage(*line.split(), code=2).stderr)
    assert found[0].startswith("error[usage]: ") and what in found[0], found
    assert mend in found[-1], found
    assert not engine.asked


# --- nothing found, some failed, all failed ---------------------------------------------------------------------------


def test_discovery_that_finds_nobody_is_a_finding(rage: Rage, engine: FakeEngine) -> None:
    ways = tuple(replace(way, found=0) for way in WAYS)
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult((), ways))
    done = rage("peer", "discover", code=6)
    assert done.stdout == b""
    assert lines(done.stderr) == [
        "error[no-peers-found]: no peers were found",
        "  why:  server: nobody in 200 ms, dht: nobody in 500 ms, mdns: nobody in 3.0 s",
        "  mend: rage peer discover --for 1m  |  rage doctor",
    ]
    done = rage("peer", "discover", "--json", code=6)
    assert json.loads(done.stdout)["items"] == []
    assert json.loads(done.stderr)["code"] == "no-peers-found"


def test_ways_that_failed_are_partial_and_what_the_others_found_is_printed(rage: Rage, engine: FakeEngine) -> None:
    ways = (replace(WAYS[0], found=0, code="no-servers", error="no discovery server is configured"), *WAYS[1:])
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND, ways), *FOUND)
    done = rage("peer", "discover", "--via", "server,dht,mdns", code=3)
    assert len(rows(done.stdout)) == 2
    assert lines(done.stderr) == [
        "error[partial]: 1 of 3 ways to discover peers failed",
        "  server: error[no-servers]: no discovery server is configured",
        "  mend: rage doctor --only discovery",
    ]
    plain = json.loads(rage("peer", "discover", "--via", "server,dht,mdns", "--json", code=3).stderr)
    assert plain["partial"] == [
        {"target": "server", "code": "no-servers", "exit": 5, "message": "no discovery server is configured"}
    ]
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult((), ways))
    rage("peer", "discover", "--via", "server,dht,mdns", code=3)  # nobody found, but not everybody asked


def test_a_way_that_is_switched_off_has_failed_only_where_it_was_named(rage: Rage, engine: FakeEngine) -> None:
    """A fresh home names no discovery server: `rage peer discover` is well all the same."""
    off = replace(WAYS[0], found=0, code="no-servers", error="no discovery server is configured")
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND, (off, *WAYS[1:])), *FOUND)
    assert rage("peer", "discover").stderr == b""
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult((), (off, *WAYS[1:])))
    found = lines(rage("peer", "discover", code=6).stderr)
    assert found[1] == "  why:  server: no discovery server is configured, dht: nobody in 500 ms, mdns: nobody in 3.0 s"
    broken = replace(WAYS[1], found=0, code="dht-empty", error="the DHT knows nobody to ask")
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND, (off, broken, WAYS[2])), *FOUND)
    assert lines(rage("peer", "discover", code=3).stderr)[0] == ("error[partial]: 1 of 2 ways to discover peers failed")
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult((), (off,)))
    assert b"1 of 1 ways" in rage("peer", "discover", code=5).stderr  # nothing is switched on at all


def test_when_all_ways_failed_alike_the_exit_code_says_how(rage: Rage, engine: FakeEngine) -> None:
    way = replace(WAYS[2], found=0, code="mdns-off", error="there is no multicast here")
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult((), (way,)))
    found = lines(rage("peer", "discover", "--via", "mdns", code=7).stderr)
    assert found[1] == "  mdns: error[mdns-off]: there is no multicast here"
    assert found[2] == "  mend: rage doctor --only mdns"


def test_an_error_of_a_newer_node_is_shown_by_its_id(rage: Rage, engine: FakeEngine) -> None:
    way = replace(WAYS[2], found=0, code="no-such-id-yet", error="something new")
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND[:1], (way, WAYS[1])), FOUND[0])
    assert "error[no-such-id-yet]: something new" in rage("peer", "discover", code=3).stderr.decode()


@pytest.mark.parametrize("words", [["discovery", "list"], ["discovery", "register"]], ids=" ".join)
def test_servers_that_fail_are_partial_and_all_of_them_unreachable(
    rage: Rage, engine: FakeEngine, words: list[str]
) -> None:
    def answer(*servers: discovery.ServerRow) -> None:
        engine.answer(discovery.ListServers, discovery.ListServersResult(servers))
        engine.answer(discovery.Register, discovery.RegisterResult(servers))

    answer(*SERVERS)
    done = rage(*words, code=3)
    assert [row[0] for row in rows(done.stdout)] == ["https://a.example", "https://b.example"]
    assert lines(done.stderr)[1] == "  https://b.example: error[server-unreachable]: refused"
    answer(SERVERS[1])
    rage(*words, code=7)
    answer(replace(SERVERS[1], code="wrong-audience", error="it was signed for another server"))
    assert b"error[wrong-audience]: it was signed" in rage(*words, code=4).stderr
    answer()
    done = rage(*words, "--json", code=5)
    assert json.loads(done.stdout)["items"] == [] and json.loads(done.stderr)["code"] == "no-servers"


def test_peers_of_servers_of_which_some_do_not_answer_are_partial(rage: Rage, engine: FakeEngine) -> None:
    result = discovery.ListRegisteredResult(REGISTERED, ("https://b.example: timed out",))
    engine.answer(discovery.ListRegistered, result)
    done = rage("discovery", "list", "--peers", code=3)
    assert len(rows(done.stdout)) == 1
    assert "  https://b.example: error[server-unreachable]: timed out" in lines(done.stderr)
    engine.answer(discovery.ListRegistered, replace(result, items=()))
    rage("discovery", "list", "--peers", code=3)  # the others answered, and list nobody


def test_nobody_who_has_it_is_not_found_with_what_was_asked(rage: Rage, engine: FakeEngine) -> None:
    engine.answer(chunk.ChunkProviders, chunk.ChunkProvidersResult(CID, (), ("connected: 0 of 3", "dht: nobody")))
    found = lines(rage("chunk", "providers", CID, code=5).stderr)
    assert found == [
        f"error[no-providers]: nobody is known to have {CID}",
        "  why:  connected: 0 of 3; dht: nobody",
        f"  mend: rage why {CID}",
    ]
    nobody = replace(LOOK_UP, providers=())
    engine.answer(dht.FindProviders, nobody)
    engine.answer(dht.TraceLookUp, nobody)
    for words in (["dht", "providers", CID], ["dht", "trace", CID]):
        done = rage(*words, "--json", code=5)
        assert json.loads(done.stdout)["providers"] == []
        assert json.loads(done.stderr)["why"] == "the DHT was asked: 12 peers, of which 1 did not answer"
    engine.answer(dht.TraceLookUp, replace(nobody, kind="peer"))
    rage("dht", "trace", ALICE)  # a peer needs no providers


def test_a_dht_that_knows_nobody_is_unreachable(rage: Rage, engine: FakeEngine) -> None:
    empty = replace(LOOK_UP, found=(), providers=(), asked=0, failed=0, depth=0)
    engine.answer(dht.FindNearest, empty)
    engine.answer(dht.TraceLookUp, empty)
    for words in (["dht", "find", ALICE], ["dht", "trace", ALICE]):
        assert lines(rage(*words, code=7).stderr)[0] == "error[dht-empty]: the DHT knows nobody to ask"
    engine.answer(dht.ShowTable, replace(TABLE, contacts=0, buckets=(), mode="client"))
    assert rage("dht", "table").stdout == b""


REFUSALS: list[tuple[str, RageError, int, str]] = [
    ("peer connect /x", refusals.banned(ALICE, 1_790_000_000.0, "rude"), 4, f"rage peer unban {ALICE}"),
    ("peer unban x", refusals.not_banned(ALICE), 5, "rage peer list --state banned"),
    ("peer find x", refusals.peer_id_needed("x"), 2, "rage peer list --known"),
    ("dht table", refusals.dht_off(), 7, "rage config show network.libp2p.dht --origin"),
    ("discovery list", refusals.discovery_off(), 7, "rage config show network.discovery --origin"),
    ("discovery list", refusals.no_servers(), 5, "rage discovery serve"),
    ("discovery register", refusals.no_node(), 7, "rage node start"),
    ("peer discover", refusals.mdns_off("no multicast"), 7, "rage doctor --only mdns"),
    ("topic tail t", refusals.topic_invalid("t", "it is empty"), 2, "rage topic list"),
    ("topic publish t -", refusals.topic_not_joined("t"), 4, "rage topic list"),
    ("why x", NotFoundError("nothing here is called x", id="document-not-found"), 5, ""),
]
VERBS = {
    "peer connect": peer.ConnectPeer,
    "peer unban": peer.UnbanPeer,
    "peer find": peer.FindPeer,
    "peer discover": peer.DiscoverPeers,
    "dht table": dht.ShowTable,
    "discovery list": discovery.ListServers,
    "discovery register": discovery.Register,
    "topic tail": topic.TailTopic,
    "topic publish": topic.PublishTopic,
    "why x": diagnose.Why,
}


@pytest.mark.parametrize(("line", "error", "code", "mend"), REFUSALS, ids=[error.id for _, error, *_ in REFUSALS])
def test_a_refusal_has_its_exit_code_its_mend_and_its_page(
    rage: Rage, engine: FakeEngine, line: str, error: RageError, code: int, mend: str
) -> None:
    engine.answer(VERBS[" ".join(line.split()[:2])], error)
    found = lines(rage(*line.split(), code=code).stderr)
    assert found[0] == f"error[{error.id}]: {error.message}"
    assert mend in found[-1]
    assert json.loads(rage("help", "error", error.id, "--json").stdout)["exit"] == code


# --- why --------------------------------------------------------------------------------------------------------------


def test_why_names_the_first_broken_link_and_its_mend(rage: Rage) -> None:
    shown = rage("why", CID, "--format", "table", code=6).stdout.decode()
    assert shown.splitlines() == [
        f"document {CID}",
        "✓ here       the store holds 3 of 5 chunks",
        "✗ providers  the DHT names nobody",
        f"             mend: rage dht providers {CID}",
        "- dial       nobody to dial",
        "cannot be had: the DHT names nobody",
        f"mend: rage dht providers {CID}",
    ]
    assert rage("why", CID, "-q", code=6).stdout == b"providers\n"
    assert rows(rage("why", CID, code=6).stdout)[1] == [
        *("broken", "providers", "the DHT names nobody", "1.2", f"rage dht providers {CID}")
    ]
    value = json.loads(rage("why", CID, "--json", code=6).stdout)
    assert (value["kind"], value["what"], value["broken"], len(value["steps"])) == ("Why", "document", "providers", 3)


def test_why_of_what_can_be_had_is_0(rage: Rage, engine: FakeEngine) -> None:
    engine.answer(diagnose.Why, replace(WHY, is_ok=True, broken="", mend=(), steps=STEPS[:1], verdict="can be had"))
    assert rage("why", CID, "--format", "table").stdout.decode().splitlines()[-1] == "can be had"
    assert rage("why", CID, "-q").stdout == b"ok\n"


def test_marks_are_ascii_where_the_terminal_is_and_coloured_when_asked(rage: Rage) -> None:
    shown = rage("why", CID, "--format", "table", code=6, env={"PYTHONIOENCODING": "ascii"}).stdout
    assert shown.splitlines()[1].startswith(b"+ here") and shown.splitlines()[2].startswith(b"x providers")
    shown = rage("why", CID, "--format", "table", "--color", "always", code=6).stdout
    assert b"\x1b[32m" in shown and b"\x1b[31m" in shown


# --- words from elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["auto", "table", "id", "ndjson"])
def test_what_a_peer_says_drives_no_terminal_and_breaks_no_line(rage: Rage, engine: FakeEngine, form: str) -> None:
    evil = "\x1b[2J\r\n\tx\u202e"
    engine.answer(
        topic.TailTopic, topic.TailTopicResult("t", 1, 0), replace(MESSAGES[0], text=evil, from_peer=evil, kind=evil)
    )
    engine.answer(peer.DiscoverPeers, peer.DiscoverPeersResult(FOUND[:1], WAYS), replace(FOUND[0], organization=evil))
    engine.answer(
        diagnose.Why, replace(WHY, subject=evil, verdict=evil, steps=(replace(STEPS[1], name=evil, message=evil),))
    )
    for words in (["topic", "tail", "t"], ["peer", "discover"], ["why", "x"]):
        shown = rage(*words, "--format", form, code=None).stdout.decode()
        assert not set(shown) & set("\x1b\r") and ("\u202e" not in shown or form == "ndjson")
        assert shown.count("\n") <= 5
