"""The doctor's checks that need no network: each finds what is wrong, says why, and what mends it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import LOOPBACK
from conftest_engine import FakeEngine

from rage_net import checkup, config
from rage_net.checkup import Answer, node
from rage_net.errors import NotFoundError
from rage_net.home import Home
from rage_net.verbs.diagnose import DOCTOR_CHECKS, Check
from rage_net.verbs.node import NodeStatus, ShowStatus

NOW = 1_790_000_000.0

STATUS = NodeStatus(
    *("12D3KooWQ7", "ready", ("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWQ7",), ("http://127.0.0.1:4080",)),
    *(0, 0, 0, 0, 1, 1.0, "0.2", 4711, "", ""),
)


@pytest.fixture
def place(home: Path) -> Home:
    return Home(home)


def now_of(place: Home) -> float:
    return max(path.stat().st_mtime for path in (place.identity, place.network_yaml)) + 1


def by_id(checks: list[Check]) -> dict[str, Check]:
    return {check.id: check for check in checks}


def test_a_sound_home_is_ok_in_every_check(place: Home) -> None:
    checks = checkup.check_home(place, {}, now_of(place))
    assert [check.id for check in checks] == [*DOCTOR_CHECKS[:11], "cdn"]
    assert {check.level for check in checks[:8]} == {"ok"}, checks
    assert {check.level for check in checks[8:]} == {"skipped"}, checks


CDN = """\
cdn:
  providers:
    - name: varnish-edge
      type: self-hosted
      config: {endpoints: ["http://127.0.0.1:9"], auth_token: %s}
    - name: cloudfront
      type: commercial
      public_urls: ["https://cdn.example.org"]
      config: {distribution_id: E1, signing_key_id: K1, signing_key_file: %s}
"""


def test_secrets_of_cdns_are_for_no_stranger_of_this_machine(
    place: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> Check:
        return by_id(checkup.check_home(place, {"EDGE_TOKEN_FILE": str(token)}, now_of(place)))["cdn"]

    monkeypatch.setattr(checkup.cdn, "_is_reached", lambda file: True)  # a test's folders are its user's alone
    token, key = tmp_path / "token", tmp_path / "signing.pem"
    yaml = place.config / "cdn.yaml"
    for path, text in ((token, "a-token"), (key, "PEM"), (yaml, CDN % ('"${EDGE_TOKEN}"', key))):
        path.write_text(text)
        path.chmod(0o640)
    assert (found().level, found().message) == ("ok", "2 in cdn.yaml, 2 files with secrets, open to no stranger")
    token.chmod(0o644)
    check = found()
    assert check.level == "error" and f"{token}: it has mode 0644" in check.why
    assert check.mend == (f"chmod o-rwx {token}",) and "a-token" not in str(check)
    token.chmod(0o600)
    yaml.chmod(0o644)
    assert found().level == "ok", "it holds no secret itself"
    yaml.write_text(CDN % ('"a-token"', key))
    assert found().mend == (f"chmod o-rwx {yaml}",)
    key.unlink()
    check = found()
    assert check.message == "a file with secrets of CDNs cannot be read" and check.mend[0] == f"ls -l {key}"
    assert f"chmod o-rwx {yaml}" in check.mend
    yaml.unlink()
    assert found().level == "skipped"


def test_a_file_behind_a_closed_folder_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "token").touch(0o644)
    assert not checkup.cdn._is_reached(tmp_path / "closed" / "token")
    assert checkup.cdn._is_reached(Path(os.devnull))


def test_without_a_home_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    found = by_id(checkup.check_home(Home(tmp_path / "none"), {}, NOW))
    assert (found["home"].level, found["permissions"].level, found["config"].level) == ("error", "skipped", "skipped")
    assert found["home"].mend == (f"rage --home {tmp_path / 'none'} init",)
    assert found["clock"].level == found["files"].level == found["node"].level == "ok"
    assert found["disk"].level in ("ok", "warning")


@pytest.mark.parametrize("what", ["key missing", "key garbage", "key open", "a file"])
def test_a_home_that_cannot_be_used_is_a_finding(place: Home, what: str) -> None:
    match what:
        case "key missing":
            place.identity.unlink()
        case "key garbage":
            place.identity.write_bytes(b"garbage")
        case "key open":
            place.identity.chmod(0o644)
        case "a file":
            shutil.rmtree(place.root)
            place.root.touch()
    found = by_id(checkup.check_home(place, {}, NOW))
    assert found["home"].level == "error" and found["home"].message and found["home"].mend


def test_a_home_that_cannot_be_written_to(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere, whatever the mode
    check = checkup.check_place(place)
    assert check.level == "error" and "cannot be written to" in check.message


@pytest.mark.parametrize(
    ("name", "mode", "mend"),
    [
        ("", 0o755, "chmod g-w,o-rwx"),
        ("", 0o720, "chmod g-w,o-rwx"),
        ("config", 0o777, "chmod go-w"),
        ("certs/node.key", 0o640, "chmod go-rwx"),
    ],
)
def test_what_is_open_to_others_is_named(place: Home, name: str, mode: int, mend: str) -> None:
    path = place.root / name
    if not path.exists():
        path.touch()
    path.chmod(mode)
    check = checkup.check_permissions(place)
    assert check.level == "error"
    assert check.why == f"{path} has mode {mode:04o}" and check.mend == (f"{mend} {path}",)
    path.chmod(0o700)


def test_a_group_may_pass_through_the_home(place: Home) -> None:
    place.root.chmod(0o710)
    assert checkup.check_permissions(place).level == "ok"


def test_an_invalid_configuration_is_an_error_and_the_defaults_are_looked_at(place: Home) -> None:
    place.network_yaml.write_text("network:\n  version: 1\n  regoin: here\n")
    settings, check = checkup.check_config(place, {}, None)
    assert check.level == "error" and "regoin" in check.why and check.mend[-1] == "rage config check"
    assert settings.network == config.defaults(place.root).network


def test_a_configuration_that_is_named_and_missing_is_an_error(place: Home) -> None:
    _, check = checkup.check_config(place, {}, place.root / "other.yaml")
    assert check.level == "error" and "other.yaml" in check.why


def test_what_is_not_obeyed_yet_is_a_warning(place: Home) -> None:
    place.network_yaml.write_text(LOOPBACK + "  geo: europe\n")
    _, check = checkup.check_config(place, {}, None)
    assert check.level == "warning" and "not built yet: geo" in check.why


@pytest.mark.parametrize(
    ("now", "written", "level"),
    [
        (0.0, [], "error"),
        (-1e18, [], "error"),
        (1e18, [], "error"),
        (NOW, [], "ok"),
        (NOW, [("a", NOW + 299)], "ok"),
        (NOW, [("a", 0.0), ("b", NOW + 301), ("c", NOW)], "warning"),
    ],
)
def test_a_clock_that_cannot_be_right_is_found(now: float, written: list[tuple[str, float]], level: str) -> None:
    check = checkup.check_clock(now, written)
    assert check.level == level
    assert level != "warning" or check.why.startswith("b was written 301 s later")
    assert level == "ok" or check.mend


class Disk:
    f_frsize = 4096
    f_flag = 0
    f_files = 1_000_000

    def __init__(self, free: int, files: int = 500_000, flag: int = 0, total: int = 1_000_000) -> None:
        self.f_bavail, self.f_favail, self.f_flag, self.f_files = free // 4096, files, flag, total


GIB = 1 << 30


@pytest.mark.parametrize(
    ("disk", "level", "word"),
    [
        (Disk(50 * GIB), "ok", "50.0 GiB"),
        (Disk(50 * GIB, 0, total=0), "ok", ""),  # a file system that counts no inodes
        (Disk(64 << 20), "error", "nothing can be put"),
        (Disk(0), "error", "nothing can be put"),
        (Disk(1 * GIB), "warning", "little"),
        (Disk(50 * GIB, 0), "error", "no inode"),
        (Disk(50 * GIB, 9_999), "warning", "little"),
        (Disk(50 * GIB, flag=os.ST_RDONLY), "error", "read-only"),
    ],
)
def test_room_is_counted_in_bytes_and_in_files(
    place: Home, disk: Disk, level: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    check = checkup.check_disk(place, place.store, 64 << 20)
    assert check.level == level and word in check.message + check.why
    assert level == "ok" or check.mend


def test_a_disk_that_cannot_be_looked_at_is_a_finding(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fail)
    assert checkup.check_disk(place, place.store, 0).level == "error"


@pytest.mark.parametrize(
    ("limit", "level"), [(resource.RLIM_INFINITY, "ok"), (1256, "ok"), (1255, "warning"), (256, "warning")]
)
def test_files_are_compared_with_what_connections_need(limit: int, level: str) -> None:
    check = checkup.check_files(limit, 1000)
    assert check.level == level
    assert level == "ok" or check.mend[0] == "ulimit -n 1256"


# --- the node ---------------------------------------------------------------------------------------------------------


def test_a_node_that_answers_is_ok_and_says_where_it_listens(place: Home, engine: FakeEngine) -> None:
    engine.answer(ShowStatus, STATUS)
    answer = checkup.ask_node(place)
    assert answer == Answer(4711, STATUS.listen, STATUS.http)
    assert checkup.check_node(place, answer, NOW).message == "runs (pid 4711)"


def test_a_node_that_answers_with_an_error_is_one_that_does_not(place: Home, engine: FakeEngine) -> None:
    engine.answer(ShowStatus, NotFoundError("the index is gone"))
    check = checkup.check_node(place, checkup.ask_node(place), NOW)
    assert check.level == "error" and check.why == "the index is gone"


@contextmanager
def listener(place: Home, answer: bytes | None) -> Iterator[None]:
    """Something at the node's socket that says `answer`, or nothing at all."""
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as door:
        os.chdir(place.root)  # a path that is short enough
        door.bind(place.socket.name)
        os.chdir(here)
        door.listen()
        over = threading.Event()

        def serve() -> None:
            client, _ = door.accept()
            with client:
                client.recv(4096)  # else closing would reset the connection, and the answer be lost
                if answer is None:
                    over.wait(20)
                else:
                    with contextlib.suppress(BrokenPipeError):
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        over.set()
        thread.join(20)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "does not answer within"),
        (b"", "it is no JSON"),
        (b"SSH-2.0\r\n", "it is no JSON"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "what answers at its socket is no node"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "it is no JSON"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"type":"result","result":{"pid":"x"}}', "it says nothing of a node"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"type":"result","result":7}', "it says nothing of a node"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000, "it is nested too deeply"),
        (b"x" * (node.ANSWER_BYTES_MAX + 1), "it does not end"),
    ],
    ids=["silence", "nothing", "ssh", "html", "list", "no pid", "no status", "nested", "endless"],
)
def test_what_answers_and_is_no_node_is_a_finding_and_no_crash(
    place: Home, answer: bytes | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        monkeypatch.setattr(node, "ANSWER_S", 0.1)
    with listener(place, answer):
        found = checkup.ask_node(place)
    assert found.pid == 0 and why in found.error
    assert checkup.check_node(place, found, NOW).level == "error"


@pytest.mark.parametrize("left", ["nothing", "a stale socket", "a note of a dead node"])
def test_no_node_is_well(place: Home, left: str) -> None:
    if left == "a stale socket":
        with listener(place, b""):
            checkup.ask_node(place)
    if left == "a note of a dead node":
        place.lock_file.write_text(json.dumps({"pid": 2**22 + 1, "kind": "node", "since": NOW}))
    answer = checkup.ask_node(place)
    assert answer == Answer(0)
    assert checkup.check_node(place, answer, NOW).level == "ok"


def test_a_node_that_holds_the_home_and_has_no_socket_does_not_answer(place: Home) -> None:
    place.lock_file.write_text(json.dumps({"pid": os.getpid(), "kind": "node", "since": NOW - 90}))
    with place.lock_file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check = checkup.check_node(place, checkup.ask_node(place), NOW)
    assert check.level == "error" and check.why == f"process {os.getpid()}, for 90 s"
    assert check.mend[-1] == f"kill -9 {os.getpid()}"


# --- ports ------------------------------------------------------------------------------------------------------------


def settings(place: Home, *listen: str, http: str | None = None) -> Any:
    found = config.defaults(place.root)
    libp2p = replace_section(found.network.libp2p, listen_addresses=listen)
    doors = replace_section(found.network.http, listen=http, metrics_listen=http)
    return replace(found, network=replace_section(found.network, libp2p=libp2p, http=doors))


def replace_section(section: Any, **values: Any) -> Any:
    return type(section)(**{**{name: getattr(section, name) for name in fields_of(section)}, **values})


def fields_of(section: Any) -> list[str]:
    from rage_net.config.section import fields

    return list(fields(type(section)))


def test_ports_that_are_free_are_ok_whatever_needs_none(place: Home) -> None:
    found = settings(place, "/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/memory/x", "/dns4/a/tcp/1", http="[::1]:0")
    check = checkup.check_ports(found, Answer(0), lambda host, port: None)
    assert check.level == "ok" and check.message == "/ip4/127.0.0.1/tcp/0, /ip6/::1/tcp/0, [::1]:0: free"


def test_a_port_that_another_holds_is_found(place: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        alone = checkup.check_ports(settings(place, f"/ip4/127.0.0.1/tcp/{port}"), Answer(0))
        beside = checkup.check_ports(settings(place, f"/ip4/127.0.0.1/tcp/{port}", "/ip4/127.0.0.1/tcp/0"), Answer(0))
        door = checkup.check_ports(settings(place, "/ip4/127.0.0.1/tcp/0", http=f"127.0.0.1:{port}"), Answer(0))
    assert (alone.level, beside.level, door.level) == ("error", "warning", "error")
    assert "in use" in alone.why
    assert alone.mend == ("rage node start --listen /ip4/0.0.0.0/tcp/0", f"ss -ltnp 'sport = :{port}'")
    assert door.mend[0] == "rage node start --http off"
    assert checkup.check_ports(settings(place, f"/ip4/127.0.0.1/tcp/{port}"), Answer(0)).level == "ok"


def test_an_address_of_another_machine_is_found(place: Home) -> None:
    check = checkup.check_ports(settings(place, "/ip4/192.0.2.1/tcp/4001"), Answer(0))
    assert check.level == "error" and "192.0.2.1" in check.why


def test_ports_that_the_node_holds_are_ok_and_others_are_not(place: Home) -> None:
    found = settings(place, "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/tcp/0")
    held = Answer(1, ("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWQzxvvnGCQCirhig2H2tGeHopQ2roer1gAhLHF3pxqBeD",))
    assert checkup.check_ports(found, held).level == "ok"
    assert checkup.check_ports(found, replace(held, listen=("/ip4/192.0.2.7/tcp/9",))).level == "warning"
    assert checkup.check_ports(found, replace(held, listen=())).level == "error"
