"""The control API's socket: who may connect, and what lies in its way."""

from __future__ import annotations

import asyncio
import errno
import grp
import multiprocessing
import os
import random
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest_doors import TIMEOUT_S, FakeEngine, Serve, client, raw_request

from rage_net import local_socket
from rage_net.errors import AccessDeniedError, ConfigError, ConflictError
from rage_net.home import Home, claim_socket_path, release_socket_path, socket_path
from rage_net.local_socket import Credentials, bind, file_identity, is_allowed, peer_credentials
from rage_net.metrics import Metrics

NOBODY = 65_534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_socket_is_open_to_its_user_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with bind(tmp_path / "node.sock"):
            assert mode(tmp_path / "node.sock") == 0o600
    finally:
        os.umask(before)


def test_a_group_may_be_let_in(tmp_path: Path) -> None:
    with bind(tmp_path / "node.sock", gid=os.getegid()):
        assert mode(tmp_path / "node.sock") == 0o660
        assert (tmp_path / "node.sock").stat().st_gid == os.getegid()


def test_a_group_that_is_not_ours_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = next(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid not in {os.getegid(), *os.getgroups()})
    if os.geteuid() == 0:  # root may give a file to any group: the kernel's answer to others, then

        def chown(path: object, uid: int, gid: int) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), os.fspath(path))  # type: ignore[call-overload]

        monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(AccessDeniedError):
        bind(tmp_path / "node.sock", gid=other)
    assert not (tmp_path / "node.sock").exists()


def test_nobody_can_connect_before_the_mode_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tried = tmp_path / "node.sock", []
    real = Path.chmod

    def chmod(self: Path, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as early:
            tried.append(early.connect_ex(os.fspath(path)))
        real(self, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    with bind(path):
        assert tried
        assert 0 not in tried


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    bind(tmp_path / "node.sock").close()  # as after kill -9: the file stays, nobody listens
    assert (tmp_path / "node.sock").exists()
    with bind(tmp_path / "node.sock"), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(os.fspath(tmp_path / "node.sock"))


def test_a_socket_that_somebody_serves_is_a_conflict(tmp_path: Path) -> None:
    with bind(tmp_path / "node.sock"):
        with pytest.raises(ConflictError) as caught:
            bind(tmp_path / "node.sock")
        assert caught.value.exit_code == 9
        with socket.socket(socket.AF_UNIX) as probe:  # and it still answers
            probe.connect(os.fspath(tmp_path / "node.sock"))


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "node.sock")
    with pytest.raises(ConflictError):
        bind(tmp_path / "node.sock")
    assert os.path.lexists(tmp_path / "node.sock")


def test_a_path_of_200_characters_is_refused_here_and_led_elsewhere_by_the_home(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(tmp_path / ("n" * 200))
    assert caught.value.exit_code == 10
    home = Home(tmp_path / ("h" * 200))
    home.root.mkdir(mode=0o700)
    runtime = Path(f"/tmp/rage-test-{os.getpid()}-{random.randrange(1 << 30)}")
    runtime.mkdir(mode=0o700)
    try:
        path = claim_socket_path(home, {"XDG_RUNTIME_DIR": str(runtime)})
        with bind(path), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(os.fspath(socket_path(home)))
            assert mode(path) == 0o600
        release_socket_path(home)
        assert not path.exists()
    finally:
        (runtime / "rage").rmdir()
        runtime.rmdir()


def test_a_directory_that_is_missing_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        bind(tmp_path / "none" / "node.sock")


def test_a_socket_that_another_node_has_made_since_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with bind(path):
        mine = file_identity(path)
    (tmp_path / "keep").symlink_to(path)
    path.rename(tmp_path / "moved")  # keeps the inode in use, so that the next one differs
    with bind(path):
        local_socket.unlink(path, mine)
        assert path.exists()
    local_socket.unlink(path, file_identity(path))
    assert not path.exists()
    local_socket.unlink(path, mine)


def test_the_kernel_tells_who_connected() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        who = peer_credentials(one)
        assert who.uid == os.geteuid()
        assert {os.getegid(), *os.getgroups()} == set(who.groups) | {os.getegid()}


@pytest.mark.parametrize(
    ("who", "gid", "allowed"),
    [
        (Credentials(1000, frozenset({1000})), None, True),
        (Credentials(0, frozenset({0})), None, True),
        (Credentials(1001, frozenset({1000})), None, False),
        (Credentials(1001, frozenset({50})), 50, True),
        (Credentials(1001, frozenset({51})), 50, False),
    ],
)
def test_the_nodes_user_root_and_the_group_may_operate_it(who: Credentials, gid: int | None, allowed: bool) -> None:
    assert is_allowed(who, uid=1000, gid=gid) is allowed


def test_a_platform_that_does_not_tell_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other, pytest.raises(Exception, match="does not tell"):
        peer_credentials(one)


@pytest.mark.anyio
async def test_another_user_is_refused_before_the_verb_is_read(serve: Serve, engine: FakeEngine) -> None:
    metrics = Metrics()
    stranger = Credentials(os.geteuid() + 4321, frozenset({4321}))
    async with serve(credentials=lambda _: stranger, metrics=metrics) as control, client(control.path) as session:
        async with session.post("/v1/test/change", json={}) as response:
            assert (response.status, (await response.json())["exit"]) == (403, 4)
        async with session.get("/v1/op/1") as response:
            assert response.status == 403
    assert metrics.denied.read() == {("control",): [2.0]}
    assert not engine.began.is_set()


@pytest.mark.anyio
async def test_a_member_of_the_group_is_let_in(serve: Serve) -> None:
    gid = os.getegid()
    member = Credentials(os.geteuid() + 4321, frozenset({gid}))
    async with serve(credentials=lambda _: member, gid=gid) as control, client(control.path) as session:
        async with session.post("/v1/test/echo", json={"text": "ho"}) as response:
            assert response.status == 200
        assert mode(control.path) == 0o660


def _ask_as(path: str, uid: int, groups: list[int], answer: multiprocessing.Queue[bytes]) -> None:
    os.setgroups(groups)
    os.setgid(groups[0])
    os.setuid(uid)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(path)
            connection.sendall(raw_request("test/echo", b'{"text": "ho"}'))
            answer.put(connection.recv(4096))
    except OSError as error:
        answer.put(type(error).__name__.encode())


async def ask_as(path: Path, uid: int, groups: list[int]) -> bytes:
    """The beginning of what a process of that user and those groups is answered."""
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[bytes] = context.Queue()
    process = context.Process(target=_ask_as, args=(str(path), uid, groups, answer))
    process.start()
    try:
        return await asyncio.to_thread(answer.get, True, TIMEOUT_S)
    finally:
        await asyncio.to_thread(process.join, TIMEOUT_S)
        answer.close()
        answer.join_thread()


@root_only
@pytest.mark.anyio
async def test_a_real_process_of_another_user_is_kept_out_by_the_mode_and_by_us(serve: Serve) -> None:
    directory = Path(f"/tmp/rage-test-{os.getpid()}-{random.randrange(1 << 30)}")
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    group = 61_234
    try:
        path = directory / "node.sock"
        async with serve(path=path):
            assert await ask_as(path, NOBODY, [NOBODY]) == b"PermissionError"
            path.chmod(0o666)  # somebody opened it up: the kernel's word on the peer still counts
            assert b" 403 " in await ask_as(path, NOBODY, [NOBODY])
            assert b" 200 " in await ask_as(path, os.geteuid(), [NOBODY])
        async with serve(path=path, gid=group):
            assert b" 200 " in await ask_as(path, NOBODY, [NOBODY, group])  # a supplementary group
            assert await ask_as(path, NOBODY, [NOBODY]) == b"PermissionError"
            path.chmod(0o666)
            assert b" 403 " in await ask_as(path, NOBODY, [NOBODY, 5])
    finally:
        directory.rmdir()
