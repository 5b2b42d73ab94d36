"""Operators' files: what is no file, what changes while it is read, and nothing left behind."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from pathlib import Path

import pytest
from conftest_cli import RAGE, Rage, environment

from rage_cli import files
from rage_cli.files import FileSink, FileSource
from rage_net.errors import (
    AccessDeniedError,
    ConflictError,
    NotFoundError,
    RageError,
    StorageFullError,
    UsageError,
)


def read_all(source: FileSource) -> bytes:
    data, buffer = bytearray(), bytearray(1000)
    while size := source.readinto(buffer):
        data += buffer[:size]
    return bytes(data)


def test_a_file_is_read_whole_and_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 2500)
    with FileSource(str(tmp_path / "f")) as source:
        assert (source.name, source.size) == ("f", 2500)
        assert read_all(source) == b"x" * 2500


@pytest.mark.parametrize("change", ["append", "truncate", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_found_out_before_its_end_is_told(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 2500)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ConflictError) as caught, FileSource(str(path)) as source:
        source.readinto(bytearray(1000))
        match change:
            case "append":
                with path.open("ab") as file:
                    file.write(b"y")
            case "truncate":
                os.truncate(path, 100)
            case "rewrite":
                path.write_bytes(b"y" * 2500)
        read_all(source)
    assert caught.value.id == "source-changed"


def test_a_file_that_changes_during_a_put_records_nothing(rage: Rage, home: Path, tmp_path: Path) -> None:
    """The real command, with a file that grows under it: the writer writes until the put has ended."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * 40_000_000)
    put = subprocess.Popen([*RAGE, "chunk", "put", path], env=environment(home), stderr=subprocess.PIPE)
    with path.open("ab", buffering=0) as file:
        while put.poll() is None:
            file.write(b"y")
    assert put.stderr is not None
    assert b"error[source-changed]" in put.stderr.read() and put.returncode == 9
    put.stderr.close()
    assert rage("chunk", "list").stdout == b""


@pytest.mark.parametrize(
    ("name", "kind"),
    [("directory", UsageError), ("missing", NotFoundError), ("socket", UsageError), ("f/x", NotFoundError)],
)
def test_what_is_no_file_is_a_clear_error(tmp_path: Path, name: str, kind: type[Exception]) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "f").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path is short
        listener.bind("socket")
        os.chdir(here)
        with pytest.raises(kind):
            FileSource(str(tmp_path / name))


def test_a_device_is_refused_before_it_is_opened(rage: Rage) -> None:
    assert b"error[source-device]" in rage("chunk", "put", "/dev/zero", code=2).stderr


def test_a_file_that_may_not_be_read_is_exit_4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a stand-in, because root may read anything."""
    (tmp_path / "f").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AccessDeniedError) as caught:
        FileSource(str(tmp_path / "f"))
    assert caught.value.exit_code == 4
    with pytest.raises(AccessDeniedError):
        FileSink(str(tmp_path / "g"))


def test_a_pipe_is_a_file_of_unknown_size(rage: Rage, home: Path) -> None:
    script = '"$@" chunk put <(printf hello) --name p -q'
    done = subprocess.run(["bash", "-c", script, "bash", *RAGE], capture_output=True, env=environment(home), check=True)
    assert rage("chunk", "get", done.stdout.decode().strip()).stdout == b"hello"


def test_a_sink_shows_its_file_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with FileSink(str(path)) as sink:
        sink.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_sink_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), FileSink(str(path)) as sink:
        sink.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_sink_follows_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/target")
    with FileSink(str(tmp_path / "link")) as sink:
        sink.write(b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "deep" / "target").read_bytes() == b"x"


def test_a_sink_writes_to_a_device_directly() -> None:
    with FileSink("/dev/null") as sink:
        sink.write(b"x")
    assert Path("/dev/null").is_char_device()


def test_an_output_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        FileSink(str(tmp_path))
    with pytest.raises(NotFoundError, match="no such directory"):
        FileSink(str(tmp_path / "none" / "out"))


def test_an_output_beyond_the_disk_is_exit_11_and_leaves_nothing(rage: Rage, home: Path, tmp_path: Path) -> None:
    rage("chunk", "put", "-", "--name", "z", stdin=b"\0" * 3_000_000)
    done = subprocess.run(
        [*RAGE, "chunk", "get", "z", "-o", tmp_path / "out"],
        env=environment(home),
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        check=False,
    )
    assert done.returncode == 11 and b"no room to write" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_sinks_own_error_wins_over_what_carried_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, data: object) -> int:
        raise OSError(28, "No space left on device")

    sink = FileSink(str(tmp_path / "out"))
    sink._file.close()
    monkeypatch.setattr(sink, "_file", type("Full", (), {"write": full, "close": lambda self: None})())
    with pytest.raises(StorageFullError), sink:
        try:
            sink.write(b"x")
        except StorageFullError as error:
            raise RuntimeError("something between") from error


def test_a_get_that_fails_leaves_no_file(rage: Rage, tmp_path: Path) -> None:
    rage("chunk", "get", "nothing-like-it", "-o", tmp_path / "out", code=5)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_words_of_the_system_stand_in_why() -> None:
    assert files._words(OSError(28, "No space left on device")) == "no space left on device"


def test_a_link_that_waits_under_the_name_of_the_part_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.os, "urandom", lambda size: bytes(size))
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".out.00000000.part").symlink_to(tmp_path / "victim")
    with pytest.raises(RageError):
        FileSink(str(tmp_path / "out"))
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_name_of_a_part_cannot_be_foretold(tmp_path: Path) -> None:
    with FileSink(str(tmp_path / "out")), FileSink(str(tmp_path / "out")):
        assert len(list(tmp_path.glob(".out.*.part"))) == 2
