"""The main job and the node's life, with real processes: what an operator would do, and what goes wrong at 3 am."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .conftest import RAGE, Homes


def text(rng: random.Random, size: int) -> bytes:
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 9))) for _ in range(2000)]
    out = bytearray()
    while len(out) < size:
        out += b" ".join(rng.choices(words, k=rng.randrange(5, 20))) + rng.choice([b". ", b".\n\n", b"? "])
    return bytes(out[:size])


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, {name.lower(): text for name, text in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {name.lower(): text for name, text in error.headers.items()}, error.read()


def test_a_document_goes_in_on_one_node_and_comes_out_on_another(
    homes: Homes, rng: random.Random, tmp_path: Path
) -> None:
    a, b = homes.new(), homes.new()
    document = tmp_path / "report.md"
    document.write_bytes(text(rng, 6_000_000))
    a.start()
    put = a.ok("chunk", "put", str(document), "--visibility", "public", "--tag", "q3")
    assert put["root"].startswith("bafyr4i") and put["size"] == 6_000_000 and put["name"] == "report.md"
    address = a.ok("node", "status")["listen"][0]
    # a one-shot command on b, then b's own node, whose peers come from its bootstrap list
    got = b.ok("chunk", "get", put["root"], "--peer", address, "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == document.read_bytes()
    assert got["sources"]["p2p"] > 0
    b.run("chunk", "gc", "--cache", "--yes")
    b.start("--bootstrap", address)
    done = b.run("chunk", "get", put["root"])
    assert done.returncode == 0, done.stderr.decode()
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(document.read_bytes()).digest()


def test_the_default_visibility_keeps_strangers_out(homes: Homes) -> None:
    a, b = homes.new(), homes.new()
    root = a.ok("chunk", "put", "-", data=b"ours alone")["root"]
    address = a.start()["listen"][0]
    refused = b.run("chunk", "get", root, "--peer", address)
    assert refused.returncode == 5
    assert b"not found" in refused.stderr and b"denied" not in refused.stderr


def test_security_trusted_peers_opens_the_store_to_one_peer(homes: Homes) -> None:
    b = homes.new()
    trusted = b.ok("node", "id")["peer_id"]
    a = homes.new(f"  security: {{trusted_peers: [{trusted}]}}\n")
    root = a.ok("chunk", "put", "-", data=b"ours alone")["root"]
    address = a.start()["listen"][0]
    assert b.run("chunk", "get", root, "--peer", address).stdout == b"ours alone"


def test_a_second_start_says_who_holds_the_home(homes: Homes) -> None:
    home = homes.new()
    home.start()
    second = home.run("node", "start")
    assert second.returncode == 9
    assert f"pid {home.node.pid}" in second.stderr.decode()  # type: ignore[union-attr]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_cleanly_and_removes_its_socket(homes: Homes, number: int) -> None:
    home = homes.new()
    home.start()
    began = time.monotonic()
    assert home.stop(number) == 0
    assert time.monotonic() - began < 10
    assert not (home.path / "node.sock").exists()
    assert home.ok("status")["state"] == "stopped"


def test_sigterm_amid_a_put_ends_the_node_and_the_store_is_sound(homes: Homes, rng: random.Random) -> None:
    home = homes.new()
    home.start()
    command = [*RAGE, "--home", str(home.path), "chunk", "put", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as put:
        assert put.stdin is not None
        put.stdin.write(rng.randbytes(3_000_000))
        put.stdin.flush()
        assert home.stop() == 0
        put.stdin.close()
        put.wait(20)
        assert put.returncode != 0
    assert home.ok("chunk", "verify")["bad"] == []
    assert home.ok("chunk", "list")["documents"] == []


def test_after_kill_9_the_socket_is_stale_and_everything_works(homes: Homes) -> None:
    home = homes.new()
    home.start()
    root = home.ok("chunk", "put", "-", data=b"acknowledged")["root"]
    home.stop(signal.SIGKILL)
    assert (home.path / "node.sock").exists()
    assert home.run("chunk", "get", root).stdout == b"acknowledged"
    home.start()
    assert home.run("chunk", "get", root).stdout == b"acknowledged"


def test_a_home_with_a_path_of_200_characters_works(homes: Homes) -> None:
    home = homes.new(name="x" * (200 - len(str(homes._directory))))
    assert len(str(home.path)) >= 200
    home.start()
    root = home.ok("chunk", "put", "-", data=b"deep")["root"]
    assert home.run("chunk", "get", root).stdout == b"deep"
    assert (home.path / "node.sock").is_file()


def test_two_commands_at_once_wait_and_a_short_timeout_is_a_conflict(homes: Homes) -> None:
    home = homes.new()
    command = [*RAGE, "--home", str(home.path), "chunk", "put", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        assert holder.stdin is not None
        deadline = time.monotonic() + 20
        while not (home.path / "node.lock").exists() or not (home.path / "node.lock").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        refused = home.run("chunk", "list", "--timeout", "0.3s")
        assert refused.returncode in (9, 124), refused.stderr
        assert str(holder.pid) in refused.stderr.decode() or refused.returncode == 124
        holder.stdin.close()
        holder.wait(20)


def test_the_socket_is_private_and_answers_within_a_second(homes: Homes) -> None:
    home = homes.new()
    command = [*RAGE, "--home", str(home.path), "node", "start", "--listen", "/ip4/127.0.0.1/tcp/0"]
    home.node = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=home.environ
    )
    began = time.monotonic()
    path = str(home.path / "node.sock")
    while True:
        with socket.socket(socket.AF_UNIX) as door:
            try:
                door.connect(path)
                break
            except OSError:
                assert time.monotonic() - began < 20, "the socket never answered"
                time.sleep(0.005)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(home.path).st_mode & 0o777 == 0o700
    assert os.stat(home.path / "index.db").st_mode & 0o777 == 0o600


def test_the_http_door_serves_public_chunks_and_hides_the_rest(homes: Homes) -> None:
    home = homes.new()
    public = home.ok("chunk", "put", "-", "--visibility", "public", data=b"for everybody")["root"]
    private = home.ok("chunk", "put", "-", data=b"for us")["root"]
    home.start()
    url = home.ok("node", "status")["http"][0]
    status, headers, body = fetch(f"{url}/chunks/{public}")
    assert (status, body, headers["etag"]) == (200, b"for everybody", f'"{public}"')
    assert headers["cache-control"] == "public, max-age=60"
    assert fetch(f"{url}/chunks/{public}", Range="bytes=4-7")[2] == b"ever"
    assert fetch(f"{url}/chunks/{public}", **{"If-None-Match": headers["etag"]})[0] == 304
    hidden, absent = fetch(f"{url}/chunks/{private}"), fetch(f"{url}/chunks/{public[:-1]}a")
    assert hidden[0] == absent[0] == 404 or absent[0] == 400
    assert fetch(f"{url}/healthz")[0] == fetch(f"{url}/readyz")[0] == 200
    assert fetch(f"{url}/v1/node/status")[0] == 404, "control routes exist on the Unix socket alone"


def test_a_node_with_a_cdn_tells_it_how_long_and_by_which_tags_and_a_broken_file_makes_that_a_minute(
    homes: Homes,
) -> None:
    home = homes.new()
    put = home.ok("chunk", "put", "-", "--visibility", "public", "--tag", "news", data=b"for everybody")
    kept = home.ok("chunk", "put", "-", "--visibility", "public", "--tag", "permanent", data=b"for ever")["root"]
    (home.path / "config").mkdir(exist_ok=True)
    file = home.path / "config" / "cdn.yaml"
    provider = "{name: varnish, type: self-hosted, config: {endpoints: ['http://127.0.0.1:1']}}"
    for text, is_broken, control in (
        (f"cdn: {{version: 1, providers: [{provider}]}}\n", False, "public, max-age=60, s-maxage=86400"),
        ("cdn: {version: 1, providers: 7}\n", True, "public, max-age=60"),
    ):
        file.write_text(text)
        home.start()
        status = home.ok("node", "status")
        url = status["http"][0]
        headers = fetch(f"{url}/chunks/{put['root']}")[1]
        assert headers["cache-control"] == control
        assert headers.get("xkey") == (None if is_broken else f"rage cid:{put['root']} doc:{put['doc_id']} tag:news")
        assert any("cdn.yaml" in problem for problem in status["problems"]) is is_broken, status["problems"]
        assert fetch(f"{url}/ipfs/{kept}?format=raw")[1]["cache-control"] == "public, max-age=29030400, immutable"
        assert home.stop() == 0


def test_metrics_carry_the_specifications_names(homes: Homes, rng: random.Random) -> None:
    a, b = homes.new(), homes.new()
    root = a.ok("chunk", "put", "-", "--visibility", "public", data=rng.randbytes(2_000_000))["root"]
    address = a.start()["listen"][0]
    b.start("--bootstrap", address)
    assert b.run("chunk", "get", root).returncode == 0
    text = fetch(b.ok("node", "status")["http"][0] + "/metrics")[2].decode()
    assert 'rage_chunk_retrieval_duration_seconds_count{source_type="p2p"}' in text
    assert "rage_build_info{version=" in text and "rage_swarm_events_total" in text
    assert "rage_network_bytes_received_total{" in text and "rage_network_peers_total{" in text


def test_peers_are_listed_pinged_and_named_by_a_part_of_their_id(homes: Homes) -> None:
    a, b = homes.new(), homes.new()
    address = a.start()["listen"][0]
    b.start()
    row = b.ok("peer", "connect", address)
    assert row["agent"].startswith("rage/") and row["rtt_ms"] > 0 and "/rage/chunk/1.0.0" in row["protocols"]
    peer = row["peer_id"]
    assert [item["peer_id"] for item in b.ok("peer", "list")["items"]] == [peer]
    assert b.ok("peer", "info", peer[-8:])["peer_id"] == peer
    assert b.ok("peer", "ping", peer, "--count", "3")["lost"] == 0
    assert b.run("peer", "info", "12D3KooWNobody").returncode == 5
    wrong = address.rsplit("/", 1)[0] + "/" + b.ok("node", "id")["peer_id"]
    assert b.run("peer", "connect", wrong).returncode == 7


def test_a_peer_that_is_not_the_one_dialled_is_refused(homes: Homes) -> None:
    a, b, c = homes.new(), homes.new(), homes.new()
    address = a.start()["listen"][0]
    impostor = address.rsplit("/", 1)[0] + "/" + c.ok("node", "id")["peer_id"]
    done = b.run("peer", "ping", impostor)
    assert done.returncode == 7
    assert b"peer-mismatch" in done.stderr


def test_garbage_at_every_door_leaves_the_node_alive(homes: Homes, rng: random.Random) -> None:
    home = homes.new()
    home.start()
    root = home.ok("chunk", "put", "-", data=b"kept")["root"]
    status = home.ok("node", "status")
    doors = [int(status["listen"][0].split("/")[4]), int(status["http"][0].rsplit(":", 1)[1])]
    for port in doors:
        for junk in (b"", b"\x00\xff garbage\r\n\r\n", rng.randbytes(70_000), b"\x13/multistream/1.0.0\n" * 50):
            # it may hang up on us while we write
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
                raw.sendall(junk)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
    assert home.run("chunk", "get", root).stdout == b"kept"
    assert home.node is not None and home.node.poll() is None


def test_a_key_that_others_can_read_is_refused(homes: Homes) -> None:
    home = homes.new()
    (home.path / "identity.key").chmod(0o644)
    done = home.run("node", "start")
    assert done.returncode == 4
    assert b"chmod 600" in done.stderr


def test_no_listener_at_all_ends_the_start(homes: Homes) -> None:
    home = homes.new()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = home.run("node", "start", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
    assert done.returncode == 7
    assert b"listen-failed" in done.stderr


def test_a_newer_store_is_refused_and_left_as_it_is(homes: Homes) -> None:
    import sqlite3

    home = homes.new()
    home.ok("chunk", "put", "-", data=b"x")
    with sqlite3.connect(home.path / "index.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    done = home.run("chunk", "list")
    assert done.returncode == 9
    assert b"newer-store" in done.stderr


def test_the_control_socket_refuses_garbage_and_lives(homes: Homes) -> None:
    home = homes.new()
    home.start()
    for junk in (b"\x16\x03\x01\x02\x00", b"POST /v1/chunk/get HTTP/1.1\r\nContent-Length: 5\r\n\r\n{}{}{"):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(home.path / "node.sock"))
            door.sendall(junk)
            door.shutdown(socket.SHUT_WR)
            while door.recv(65536):
                pass
    assert home.ok("node", "status")["state"] == "ready"


def test_status_of_a_running_node_is_plain_json(homes: Homes) -> None:
    home = homes.new()
    ready = home.start()
    status = home.ok("node", "status")
    for key in ("peer_id", "listen", "peers", "chunks", "bytes", "uptime_s", "version"):
        assert key in status
    assert status["peer_id"] == ready["peer_id"]
    assert json.dumps(status)


def test_a_stopped_node_is_exit_7(homes: Homes) -> None:
    assert homes.new().run("node", "status").returncode == 7
