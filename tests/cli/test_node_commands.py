"""The node as the command line starts, finds and stops it; and a verb with and without one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest_cli import LOOPBACK, RAGE, Rage, environment, runner

from rage_cli import client, daemon
from rage_net import home as homes
from rage_net.errors import AccessDeniedError


def test_a_node_starts_answers_and_stops(rage: Rage) -> None:
    started = json.loads(rage("node", "start", "--detach", "--json").stdout)
    assert started["listen"][0].endswith(f"/p2p/{started['peer_id']}")
    status = json.loads(rage("node", "status", "--json").stdout)
    assert status["pid"] == started["pid"] and status["state"] == "ready"
    assert json.loads(rage("status", "--json").stdout)["state"] == "ready"
    assert rage("node", "stop", "-q").stdout.decode().strip() == str(started["pid"])
    rage("node", "stop", code=7)
    rage("node", "start", "--detach")  # at once: nothing of the first is left
    rage("node", "stop")


def test_stop_returns_when_the_process_has_ended(rage: Rage, home: Path) -> None:
    rage("node", "start", "--detach")
    pid = json.loads(rage("status", "--json").stdout)["pid"]
    rage("node", "stop")
    assert not daemon._is_running(pid)


def test_a_second_start_is_refused_by_the_lock_and_names_the_process(rage: Rage, node: str) -> None:
    pid = json.loads(rage("node", "status", "--json").stdout)["pid"]
    for detach in ([], ["--detach"]):
        refused = rage("node", "start", *detach, code=9).stderr.decode()
        assert "error[home-locked]" in refused and f"pid {pid}" in refused, refused


def test_a_detached_node_that_cannot_start_hands_over_its_error(rage: Rage, home: Path) -> None:
    (home / "config" / "network.yaml").write_text("network:\n  version: 1\n  regoin: here\n")
    refused = rage("node", "start", "--detach", code=10).stderr.decode()
    assert "regoin" in refused and "network.yaml" in refused


def test_a_node_in_front_prints_one_line_when_ready_and_ends_on_sigterm(home: Path) -> None:
    node = subprocess.Popen(
        [*RAGE, "node", "start"], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert node.stdout is not None and node.stderr is not None
    peer_id, listen = node.stdout.readline().decode().split()
    assert listen.endswith(f"/p2p/{peer_id}")
    node.send_signal(signal.SIGTERM)
    rest, _ = node.communicate(timeout=20)
    assert (rest, node.returncode) == (b"", 0)


def test_octets_pass_through_a_node_as_they_do_without_one(rage: Rage, node: str, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    (tmp_path / "f").write_bytes(data)
    root = rage("chunk", "put", tmp_path / "f", "-q").stdout.decode().strip()
    assert rage("chunk", "get", root).stdout == data
    rage("chunk", "get", "f", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert rage("chunk", "get", "missing", "-o", tmp_path / "none", code=5).stdout == b""
    assert not (tmp_path / "none").exists()
    rage("node", "stop")
    assert rage("chunk", "get", root).stdout == data


@pytest.mark.parametrize("kind", ["listener gone", "no socket at all"])
def test_a_stale_socket_is_no_node(rage: Rage, home: Path, kind: str) -> None:
    path = homes.Home(home).socket
    here = Path.cwd()
    os.chdir(home)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path.name)
    os.chdir(here)
    if kind == "no socket at all":
        path.unlink()
        path.mkdir()
    assert client.connect(path) is None or kind == "no socket at all"
    if kind == "listener gone":
        rage("chunk", "list")
        rage("node", "start", "--detach")
        rage("node", "stop")


def test_a_killed_node_leaves_a_home_that_works(rage: Rage, node: str) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=b"x")
    pid = json.loads(rage("node", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert rage("chunk", "get", "a").stdout == b"x"
    rage("node", "status", code=7)


def test_a_home_with_a_long_path_has_a_node_too(tmp_path: Path) -> None:
    home = tmp_path / ("d" * 100) / ("e" * 100)
    rage = runner(home)
    rage("init", cwd=tmp_path)
    (home / "config" / "network.yaml").write_text(LOOPBACK)
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    rage("node", "start", "--detach", env=runtime)
    assert json.loads(rage("status", "--json", env=runtime).stdout)["state"] == "ready"
    rage("node", "stop", env=runtime)


def test_twenty_parallel_puts_on_one_home_without_a_node_all_succeed(rage: Rage) -> None:
    def put(number: int) -> str:
        return rage("chunk", "put", "-", "--name", f"n{number}", "-q", stdin=b"%d" % number).stdout.decode().strip()

    with ThreadPoolExecutor(20) as pool:
        roots = list(pool.map(put, range(20)))
    assert len(set(roots)) == 20
    assert len(rage("chunk", "list").stdout.splitlines()) == 20


def test_a_home_in_use_is_waited_for_as_long_as_timeout_says(rage: Rage, home: Path) -> None:
    with homes.lock(homes.Home(home), timeout_s=1, kind="test"):
        refused = rage("chunk", "list", "--timeout", "200ms", code=None)
    assert refused.returncode == 9 and b"error[home-locked]" in refused.stderr


def test_a_node_that_never_answers_meets_the_timeout(rage: Rage, home: Path) -> None:
    here = Path.cwd()
    os.chdir(home)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("node.sock")
        silent.listen()
        os.chdir(here)
        late = rage("chunk", "list", "--timeout", "200ms", "--json", code=124)
    assert json.loads(late.stderr)["code"] == "deadline"


def test_something_else_on_the_socket_is_no_bug_of_ours(rage: Rage, home: Path) -> None:
    here = Path.cwd()
    os.chdir(home)
    with socket.socket(socket.AF_UNIX) as other, ThreadPoolExecutor(1) as pool:
        other.bind("node.sock")
        other.listen()
        os.chdir(here)

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-hello\r\n\r\n")

        answered = pool.submit(answer)
        assert b"no rage node" in rage("chunk", "list", code=7).stderr
        answered.result()


def test_init_is_idempotent_and_prints_the_peer_id(tmp_path: Path) -> None:
    rage = runner(tmp_path / "new")
    first, second = (json.loads(rage("init", "--org", "acme", "--json").stdout) for _ in range(2))
    assert first["peer_id"] == second["peer_id"] and second["created"] == []
    assert set(first) >= {"home", "peer_id", "config"}
    assert rage("node", "id", "-q").stdout.decode().strip() == first["peer_id"]
    assert b"error[config-differs]" in rage("init", "--org", "other", code=9).stderr


def test_the_unit_is_one_that_systemd_would_read(rage: Rage, home: Path) -> None:
    unit = rage("node", "service", "print").stdout.decode()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["ExecStart"].endswith(f"--home {home} node start")
    assert settings["ReadWritePaths"] == str(home) and settings["NoNewPrivileges"] == "yes"
    assert {"ProtectSystem", "PrivateTmp", "RestrictAddressFamilies", "SystemCallFilter"} <= set(settings)


@pytest.mark.parametrize(
    ("words", "data"), [(["chunk", "cid", "-"], b""), (["chunk", "cid", "-"], b"hello"), (["chunk", "cid", "-"], None)]
)
def test_cid_is_the_root_that_put_gives(rage: Rage, words: list[str], data: bytes | None) -> None:
    data = os.urandom(9_000_000) if data is None else data
    said = rage(*words, "-q", stdin=data).stdout
    assert said == rage("chunk", "put", "-", "-q", stdin=data).stdout


def test_cid_needs_no_home(tmp_path: Path) -> None:
    said = json.loads(runner(tmp_path / "none")("chunk", "cid", "-", "--spec", "--json", stdin=b"").stdout)
    assert said["cid"] == "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi"
    assert said["spec_cid"].startswith("bafk") and not said["spec_cid"].startswith("bafkr4i")


def test_a_document_goes_out_as_a_car_and_comes_in_elsewhere(rage: Rage, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    root = rage("chunk", "put", "-", "--name", "a", "-q", stdin=data).stdout.decode().strip()
    rage("chunk", "export", "a", "-o", tmp_path / "a.car")
    other = runner(tmp_path / "other")
    other("init")
    assert other("chunk", "import", tmp_path / "a.car", "--name", "b", "-q").stdout.decode().strip() == root
    assert other("chunk", "get", "b").stdout == data


def test_verify_finds_rot_with_exit_6(rage: Rage, home: Path) -> None:
    rage("chunk", "put", "-", "--name", "a", stdin=os.urandom(200_000))
    rage("chunk", "verify")
    (victim,) = (home / "store").rglob("bafkr4i*")
    data = bytearray(victim.read_bytes())
    data[1000] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(data)
    found = rage("chunk", "verify", "--json", code=6)
    assert json.loads(found.stdout)["bad"][0]["reason"] == "rot"


def test_pins_hold_what_its_document_let_go(rage: Rage) -> None:
    root = rage("chunk", "put", "-", "--name", "a", "-q", stdin=b"x").stdout.decode().strip()
    rage("chunk", "pin", root)
    rage("chunk", "rm", "a", "--yes")
    rage("chunk", "gc", "--yes", "--grace", "0s")
    assert rage("chunk", "get", root).stdout == b"x"
    rage("chunk", "unpin", root)
    rage("chunk", "gc", "--yes", "--grace", "0s")
    rage("chunk", "get", root, "--from", "local", code=5)


def test_a_second_node_on_one_machine_starts_as_the_error_says(rage: Rage, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = rage("node", "start", "--http", f"127.0.0.1:{port}", code=7).stderr.decode()
    assert "error[listen-failed]: the HTTP door cannot listen on" in refused
    assert "mend: rage node start --http 127.0.0.1:0  |  rage node start --http off" in refused
    try:
        rage("node", "start", "--detach", "--http", "off")
        assert json.loads(rage("status", "--json").stdout)["http"] == []
        rage("node", "stop")
        rage("node", "start", "--detach", "--http", "127.0.0.1:0")
        [address] = json.loads(rage("status", "--json").stdout)["http"]
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            assert b"rage_network_peers_total" in answer.read()
    finally:
        rage("node", "stop", code=None)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--listen", "x"), ("--bootstrap", "/ip4/127.0.0.1/tcp/1"), ("--bootstrap", "x"), ("--http", "x")],
)
def test_a_bad_address_of_node_start_is_usage_and_no_configuration(rage: Rage, option: str, value: str) -> None:
    found = rage("node", "start", option, value, code=2).stderr.decode()
    assert found.startswith(f"error[usage]: {option}: ") and f"mend: rage node start {option} " in found


def test_root_leaves_nothing_in_the_home_of_another(
    rage: Rage, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = homes.Home(home)
    owner = place.identity.stat().st_uid
    homes.require(place)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(homes, "_owner", lambda path: 4711)
    with pytest.raises(AccessDeniedError) as caught:
        homes.require(place)
    assert caught.value.id == "home-owner" and caught.value.mend == (f"sudo -u '#4711' rage --home {home} status",)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    homes.require(place)
    assert place.identity.stat().st_uid == owner


def test_a_name_that_cannot_be_is_refused_before_the_file_is_read(rage: Rage, tmp_path: Path) -> None:
    (tmp_path / "new\nline").write_bytes(b"x" * 100_000)
    found = rage("chunk", "put", tmp_path / "new\nline", code=2).stderr.decode()
    assert found.endswith("--name newline\n") and rage("chunk", "list", "--chunks").stdout == b""


def test_status_says_that_nothing_can_be_put_without_a_node_too(rage: Rage, home: Path) -> None:
    (home / "config" / "network.yaml").write_text("network: {version: 1, store: {reserve: 8000TiB}}\n")
    done = rage("status", "--json", code=6)
    assert "nothing can be put" in json.loads(done.stdout)["problems"][0]


def test_removing_what_is_not_here_says_where_to_look(rage: Rage) -> None:
    found = rage("chunk", "rm", "no-such", "--yes", code=5).stderr.decode()
    assert found.startswith("error[document-not-found]: ") and found.endswith("mend: rage chunk list\n")
