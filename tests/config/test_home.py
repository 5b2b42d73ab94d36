from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import socket
import stat
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from rage_net import config, durable
from rage_net import home as homes
from rage_net.errors import AccessDeniedError, ConfigError, ConflictError, NotFoundError, StorageFullError
from rage_net.home import Home
from rage_net.libp2p.peer_id import PeerId

CONFIG = Path(__file__).parents[2] / "config"
TEMPLATES = {path.name: path.read_text() for path in CONFIG.glob("*.yaml")}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    homes.init(made, generator=random.Random(1))
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- where ------------------------------------------------------------------------------------------------------------


def test_the_flag_wins_over_the_environment_and_that_over_the_platform(tmp_path: Path) -> None:
    environ = {"RAGE_HOME": "/from/variable"}
    assert homes.locate(str(tmp_path), environ).root == tmp_path
    assert homes.locate(None, environ).root == Path("/from/variable")
    assert homes.locate("x", {}).root == Path.cwd() / "x"


@pytest.mark.parametrize("data", [None, "/data", "relative", ""])
def test_the_platforms_place_is_the_one_platformdirs_names(data: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if data is not None:
        monkeypatch.setenv("XDG_DATA_HOME", data)
    if data == "relative":  # the XDG specification says to ignore it; platformdirs does not
        expected = Path("~/.local/share/rage").expanduser()
    else:
        expected = platformdirs.user_data_path("rage", appauthor=False)
    assert homes.locate(None, os.environ).root == expected


def test_the_clients_part_needs_the_standard_library_alone(home: Home) -> None:
    code = (
        "import sys; from rage_net import home; h = home.locate(sys.argv[1], {})\n"
        "home.socket_path(h); home.require(h)\n"
        "with home.lock(h, timeout_s=0, kind='x'): pass\n"
        "heavy = {'yaml', 'msgspec', 'cryptography', 'asyncio', 'platformdirs', 'hashlib', 'rage_net.config'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(home.root)], text=True) == "[]\n"


# --- init -------------------------------------------------------------------------------------------------------------


def test_a_home_is_made_once_and_kept_after(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    first = homes.init(home, templates=TEMPLATES)
    key = home.identity.read_bytes()
    second = homes.init(home, templates=TEMPLATES)
    assert second.created == ()
    assert second.kept == first.created
    assert set(first.created) == {
        *(".", "config/", "certs/", "store/", "logs/", "identity.key"),
        *("config/network.yaml", "config/cdn.yaml", "config/replication.yaml"),
    }
    assert home.identity.read_bytes() == key
    assert (mode(home.root), mode(home.identity)) == (0o700, 0o600)
    assert not list(home.root.rglob(".*"))


def test_the_modes_hold_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        homes.init(Home(tmp_path / "home"))
    finally:
        os.umask(before)
    assert [mode(tmp_path / "home" / name) for name in (".", "identity.key")] == [0o700, 0o600]
    assert {mode(path) for path in (tmp_path / "home" / "config").iterdir()} == {0o600}


def test_what_is_missing_is_made_again(home: Home) -> None:
    home.network_yaml.unlink()
    home.logs.rmdir()
    assert homes.init(home).created == ("logs/", "config/network.yaml")


@pytest.mark.parametrize("templates", [{}, TEMPLATES], ids=["plain", "shipped"])
def test_organisation_and_region_are_set_and_all_else_stays_default(tmp_path: Path, templates: dict[str, str]) -> None:
    home = Home(tmp_path / "home")
    homes.init(home, organization_id="acme", region="eu-west", templates=templates)
    found = config.load(home.root, environ={}).network
    defaults = config.load(tmp_path, environ={}).network
    assert (found.organization_id, found.region) == ("acme", "eu-west")
    plain = found.replace(organization_id="", region="", store=defaults.store, security=defaults.security)
    assert plain.replace(cdn=defaults.cdn, replication=defaults.replication) == defaults


def test_the_shipped_files_set_nothing_once_they_are_in_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home, templates=TEMPLATES)
    found = config.load(home.root, environ={})
    config.load_cdn(found, environ={})
    assert found.origins == {}


def test_a_key_of_the_shipped_file_is_set_by_removing_signs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home, templates=TEMPLATES)
    text = home.network_yaml.read_text()
    for line in ("#network:", "  #http:", '    #listen: "127.0.0.1:4080"'):
        assert line in text
        text = text.replace(line, line.replace("#", ""))
    home.network_yaml.write_text(text)
    assert list(config.load(home.root, environ={}).origins) == ["network", "network.http", "network.http.listen"]


def test_init_with_another_organisation_is_a_conflict(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.init(home, organization_id="acme")
    homes.init(home, organization_id="acme")
    with pytest.raises(ConflictError, match="says organization_id 'acme', not 'other'"):
        homes.init(home, organization_id="other")


def test_a_directory_that_is_no_home_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    tmp_path.chmod(0o755)
    with pytest.raises(ConflictError, match="is not empty and no rage home"):
        homes.init(Home(tmp_path))
    assert mode(tmp_path) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError):
            homes.init(Home(root))


def test_a_full_disk_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    home = Home(tmp_path / "home")
    homes.init(home)
    home.identity.unlink()
    monkeypatch.setattr(durable, "sync_data", full)
    with pytest.raises(StorageFullError) as caught:
        homes.init(home)
    assert caught.value.exit_code == 11
    assert not home.identity.exists()
    assert not list(home.root.glob(".*"))


def test_two_inits_at_once_agree_on_one_key(tmp_path: Path) -> None:
    code = "import sys, pathlib; from rage_net import home; home.init(home.Home(pathlib.Path(sys.argv[1])))"
    run = [sys.executable, "-c", code, str(tmp_path / "home")]
    started = [subprocess.Popen(run) for _ in range(4)]
    assert [process.wait(30) for process in started] == [0, 0, 0, 0]
    homes.load_identity(tmp_path / "home" / "identity.key")
    assert not list((tmp_path / "home").glob(".*"))


def test_a_missing_home_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        homes.require(Home(tmp_path / "none"))
    assert caught.value.mend == (f"rage --home {tmp_path / 'none'} init",)


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_identity_gives_one_peer_id(home: Home) -> None:
    ids = {str(PeerId.from_public_key(homes.load_identity(home.identity).public_key())) for _ in range(2)}
    assert len(ids) == 1
    assert ids.pop().startswith("12D3KooW")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_an_identity_that_others_can_read_is_refused(home: Home, bits: int) -> None:
    home.identity.chmod(bits)
    with pytest.raises(AccessDeniedError, match="others can read") as caught:
        homes.load_identity(home.identity)
    assert caught.value.mend == (f"chmod 600 {home.identity}",)
    assert f"{bits:04o}" in caught.value.why


def test_a_missing_or_broken_identity_is_told_apart(home: Home) -> None:
    home.identity.write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="holds no identity key"):
        homes.load_identity(home.identity)
    home.identity.unlink()
    with pytest.raises(NotFoundError, match="no identity key"):
        homes.load_identity(home.identity)
    home.identity.mkdir()
    with pytest.raises(AccessDeniedError, match="cannot read"):
        homes.load_identity(home.identity)


# --- lock -------------------------------------------------------------------------------------------------------------


class Sleeper:
    """A clock that sleeping moves, and that may do something after a while."""

    def __init__(self, after_s: float = 1e9, then: object = None) -> None:
        self.now = 0.0
        self._after_s, self._then = after_s, then

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._after_s and callable(self._then):
            self._then()
            self._then = None


def test_a_second_holder_is_told_who_the_first_is(home: Home) -> None:
    clock = Sleeper()
    with homes.lock(home, timeout_s=0, kind="node", now=lambda: 1000.0):
        holder = homes.read_holder(home)
        assert holder == homes.Holder(os.getpid(), "node", 1000.0)
        with pytest.raises(ConflictError) as caught:
            waiting = homes.lock(
                home, timeout_s=5, kind="x", now=lambda: 1090.0, monotonic=clock.monotonic, sleep=clock.sleep
            )
            with waiting:
                pytest.fail("two holders")
    assert caught.value.exit_code == 9
    assert caught.value.message == f"{home.root} is in use by node (pid {os.getpid()}, for 90 s)"
    assert caught.value.mend == (f"rage --home {home.root} node stop",)
    assert clock.now == pytest.approx(5)
    assert homes.read_holder(home) is None


def test_the_lock_is_taken_as_soon_as_it_is_free(home: Home) -> None:
    handle = os.open(home.lock_file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    clock = Sleeper(2.0, lambda: os.close(handle))
    with homes.lock(home, timeout_s=30, kind="put", monotonic=clock.monotonic, sleep=clock.sleep):
        assert clock.now < 2.1


def test_a_lock_is_free_after_an_error_and_in_the_next_block(home: Home) -> None:
    with pytest.raises(RuntimeError), homes.lock(home, timeout_s=0, kind="x"):
        raise RuntimeError
    with homes.lock(home, timeout_s=0, kind="x"):
        assert homes.read_holder(home) is not None


def test_a_lock_dies_with_its_process(home: Home) -> None:
    code = (
        "import os, sys, pathlib; from rage_net import home\n"
        "with home.lock(home.Home(pathlib.Path(sys.argv[1])), timeout_s=0, kind='node'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(home.root)], check=False).returncode == -9
    assert homes.read_holder(home) is not None, "a note may stay behind"
    with homes.lock(home, timeout_s=0, kind="x"):
        holder = homes.read_holder(home)
        assert holder is not None
        assert holder.pid == os.getpid()


def _count_up(root: Path, file: Path, times: int) -> None:
    for _ in range(times):
        with homes.lock(Home(root), timeout_s=60, kind="test"):
            file.write_text(str(int(file.read_text()) + 1))


def test_processes_take_turns(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count_up, args=(home.root, file, 25)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert file.read_text() == "75"


def test_a_garbled_note_still_gives_a_conflict(home: Home) -> None:
    with homes.lock(home, timeout_s=0, kind="x"):
        for garbage in (b"", b"\xff", b"[]", json.dumps({"pid": "x"}).encode()):
            home.lock_file.write_bytes(garbage)
            with (
                pytest.raises(ConflictError, match="in use by another process"),
                homes.lock(home, timeout_s=0, kind="y"),
            ):
                pytest.fail("two holders")


def test_a_lock_needs_a_home(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), homes.lock(Home(tmp_path), timeout_s=0, kind="x"):
        pytest.fail("locked nothing")


# --- socket -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_home(tmp_path: Path) -> Home:
    root = tmp_path / ("n" * 200)
    homes.init(Home(root))
    return Home(root)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short runtime directory, away from the user's own."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def serve(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def test_a_short_path_is_the_socket_itself(runtime: Path) -> None:
    home = Home(runtime)
    path = homes.claim_socket_path(home, {})
    assert path == home.socket
    with serve(path):
        assert homes.socket_path(home) == path
        assert homes.claim_socket_path(home, {}) == path, "a stale socket is removed"
        assert not path.exists()


def test_a_home_with_a_path_of_200_characters_has_its_socket_elsewhere(long_home: Home, runtime: Path) -> None:
    path = homes.claim_socket_path(long_home, {"XDG_RUNTIME_DIR": str(runtime)})
    assert path.parent == runtime / "rage"
    assert (mode(path.parent), mode(long_home.socket)) == (0o700, 0o600)
    with serve(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(homes.socket_path(long_home)))
    homes.release_socket_path(long_home)
    assert not path.exists()
    assert not long_home.socket.exists()


def test_homes_with_long_paths_have_sockets_of_their_own(long_home: Home, runtime: Path) -> None:
    other = Home(long_home.root.with_name("m" * 200))
    homes.init(other)
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    assert homes.claim_socket_path(long_home, environ) != homes.claim_socket_path(other, environ)


@pytest.mark.parametrize("directory", ["", "/nonexistent", "relative", "/tmp/" + "x" * 100])
def test_without_a_usable_runtime_directory_it_is_one_below_tmp(long_home: Home, directory: str) -> None:
    path = homes.claim_socket_path(long_home, {"XDG_RUNTIME_DIR": directory})
    assert path.parent == Path(f"/tmp/rage-{os.getuid()}")
    homes.release_socket_path(long_home)


def test_a_runtime_directory_that_others_could_have_made_is_refused(long_home: Home, runtime: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    (runtime / "rage").mkdir()
    (runtime / "rage").chmod(0o777)
    with pytest.raises(AccessDeniedError, match="is not private"):
        homes.claim_socket_path(long_home, environ)
    (runtime / "rage").chmod(0o700)
    path = homes.claim_socket_path(long_home, environ)
    path.parent.chmod(0o777)
    with pytest.raises(AccessDeniedError, match="is not private"):
        homes.socket_path(long_home)


def test_a_runtime_directory_that_is_a_link_is_refused(long_home: Home, runtime: Path, tmp_path: Path) -> None:
    (runtime / "rage").symlink_to(tmp_path)
    with pytest.raises(AccessDeniedError, match="is not private"):
        homes.claim_socket_path(long_home, {"XDG_RUNTIME_DIR": str(runtime)})


def test_a_note_that_holds_no_path_is_refused(home: Home) -> None:
    home.socket.write_text("somewhere\n")
    with pytest.raises(ConfigError, match="holds no path"):
        homes.socket_path(home)


def test_no_node_has_ever_run_here(home: Home) -> None:
    assert homes.socket_path(home) == home.socket
    homes.release_socket_path(home)
