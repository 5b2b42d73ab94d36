"""The rules at the head of `rage_cli/output.py`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest_cli import RAGE, Rage, environment

from rage_cli.options import options
from rage_cli.output import PLIANT_COLUMNS_MIN, Column, _fit, _saying, _widths, human, render, to_tsv
from rage_cli.text import format_clock, format_duration, format_size, parse_duration, safe
from rage_net.verbs.peer import PingPeerResult

AGENT = "tab\there\nline \x1b[31mred\x1b[0m \u202eevil"


@pytest.fixture
def root(rage: Rage) -> str:
    return rage("chunk", "put", "-", "--name", "a.txt", "-q", stdin=b"hello").stdout.decode().strip()


def test_piped_output_is_one_tab_separated_line_a_record_without_header(rage: Rage, root: str) -> None:
    name, size, chunks, visibility, created, doc_id, found, tags = (
        rage("chunk", "list").stdout.decode().rstrip("\n").split("\t")
    )
    assert (name, size, chunks, visibility, found, tags) == ("a.txt", "5", "1", "org", root, "")
    assert float(created) > 1e9 and len(doc_id) == 26


def test_json_is_one_object_with_kind_and_v(rage: Rage, root: str) -> None:
    done = rage("chunk", "list", "--json")
    value = json.loads(done.stdout)
    assert value["kind"] == "ListChunks" and value["v"] == 1
    assert value["documents"][0]["root"] == root
    assert done.stderr == b""


def test_the_keys_of_put_and_get_are_those_of_the_design(rage: Rage, tmp_path: Path) -> None:
    put = json.loads(rage("chunk", "put", "-", "--json", stdin=b"x").stdout)
    assert set(put) >= {"root", "doc_id", "size", "chunks", "new_chunks", "name"}
    assert set(put["chunks"][0]) >= {"cid", "size", "stored"}
    got = json.loads(rage("chunk", "get", put["root"], "-o", tmp_path / "x", "--json").stdout)
    assert set(got) >= {"root", "size", "path", "sources", "seconds"}
    assert set(got["sources"]) == {"local", "cdn", "p2p"} and got["path"] == str(tmp_path / "x")


def test_ndjson_is_one_object_a_line(rage: Rage) -> None:
    for name in ("a", "b"):
        rage("chunk", "put", "-", "--name", name, stdin=name.encode())
    found = [json.loads(line) for line in rage("chunk", "list", "--format", "ndjson").stdout.splitlines()]
    assert [(value["kind"], value["name"]) for value in found] == [("Document", "a"), ("Document", "b")]


def test_q_is_the_identifier_alone(rage: Rage, root: str) -> None:
    assert rage("chunk", "stat", "a.txt", "-q").stdout.decode() == f"{root}\n"
    assert rage("-q", "chunk", "cid", "-", stdin=b"hello").stdout.decode() == f"{root}\n"


@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_global_options_stand_before_or_after_the_command_or_in_the_environment(
    rage: Rage, root: str, where: str
) -> None:
    done = {
        "before": lambda: rage("--format", "json", "chunk", "list"),
        "after": lambda: rage("chunk", "list", "--format=json"),
        "environment": lambda: rage("chunk", "list", env={"RAGE_FORMAT": "json"}),
    }[where]()
    assert json.loads(done.stdout)["kind"] == "ListChunks"


def test_a_flag_wins_over_the_environment(rage: Rage, root: str) -> None:
    assert rage("chunk", "list", "-q", env={"RAGE_FORMAT": "json"}).stdout.count(b"\n") == 1


@pytest.mark.parametrize("form", ["auto", "table", "id", "json", "ndjson"])
def test_words_from_elsewhere_break_no_line_and_drive_no_terminal(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peer says what its agent is called: nobody has checked it."""
    monkeypatch.setattr(options, "format", form)
    result = PingPeerResult(AGENT, AGENT, (), 0)
    render(
        result, (Column("a", lambda it: it.peer_id), Column("b", lambda it: [it.address])), identifier=lambda _: AGENT
    )
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\t\u202e") - (
        {"\t"} if form == "auto" else {"\u202e"} if "json" in form else set()
    )
    assert shown.count("\n") == (2 if form == "table" else 1)
    if "json" in form:
        assert json.loads(shown)["peer_id"] == AGENT


def test_a_table_is_for_people_even_in_a_pipe_when_asked_for(rage: Rage, root: str) -> None:
    head, row = rage("chunk", "list", "--format", "table").stdout.decode().splitlines()
    assert head.split()[:2] == ["NAME", "SIZE"] and row.split()[:3] == ["a.txt", "5", "B"]


def test_colour_is_as_asked_for(rage: Rage, root: str) -> None:
    table = ["chunk", "list", "--format", "table"]
    assert b"\x1b[" not in rage(*table).stdout
    assert b"\x1b[1m" in rage(*table, "--color", "always").stdout
    assert b"\x1b[" not in rage("nosuch", "--color", "never", code=2).stderr


def test_bytes_of_get_are_stdout_and_json_goes_beside_them(rage: Rage, root: str) -> None:
    done = rage("chunk", "get", root, "--json")
    assert done.stdout == b"hello"
    assert json.loads(done.stderr)["size"] == 5


def test_progress_never_touches_stdout(rage: Rage, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 30_000_000)
    for form in ("plain", "json", "bar", "none"):
        done = rage("chunk", "put", tmp_path / "f", "-q", "--progress", form)
        assert done.stdout.count(b"\n") == 1 and b"\x1b" not in done.stdout
        if form == "json":
            first = json.loads(done.stderr.splitlines()[0])
            assert first["type"] == "progress" and first["total"] == 30_000_000 and first["unit"] == "bytes"
        if form == "plain":
            assert b" of 28.6 MiB" in done.stderr
        if form == "none":
            assert done.stderr == b""


def test_a_reader_that_leaves_ends_it_quietly_with_141(home: Path) -> None:
    """Both ways bytes reach stdout: what is rendered, and what `get` copies."""
    data = b"\0" * 3_000_000
    subprocess.run([*RAGE, "chunk", "put", "-", "--name", "z"], input=data, env=environment(home), check=True)
    for words in (["help", "exit-codes"], ["chunk", "get", "z"]):
        for buffered in ("", "1"):
            reader, writer = os.pipe()
            os.close(reader)  # nobody reads, from the start: the same every time
            env = environment(home, PYTHONUNBUFFERED=buffered)
            done = subprocess.run([*RAGE, *words], stdout=writer, stderr=subprocess.PIPE, env=env, check=False)
            os.close(writer)
            assert (done.returncode, done.stderr) == (141, b""), words


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("7d", 604800), ("250ms", 0.25)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1y", "1.2.3", "1e3", "٣", "inf", "nan", "99999999d", "1 h 2 m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|century"):
        parse_duration(text)


def test_sizes_and_times_are_for_people() -> None:
    assert [format_size(size) for size in (0, 1023, 1024, 1536, 200 << 20, 5 << 50, 1 << 60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "200 MiB",
        "5.0 PiB",
        "1024 PiB",
    ]
    assert [format_duration(s) for s in (0.042, 7, 65, 3700, 90000)] == ["42 ms", "7.0 s", "1m 05s", "1h 01m", "1d 01h"]
    assert [format_clock(s) for s in (7, 723, 3723)] == ["0:07", "12:03", "1:02:03"]


def test_safe_text_keeps_what_can_be_shown() -> None:
    assert safe("naïve 文書 🎉") == "naïve 文書 🎉"
    assert safe("a\x1b[2Jb\x9b\u2066\udc80") == "a\\x1b[2Jb\\x9b\\u2066\\udc80"


def test_an_address_is_shown_without_its_scheme_and_written_with_it() -> None:
    assert [human(url, "address") for url in ("https://a.example.org:81", "http://127.0.0.1:6181", "s3://b/c", "")] == [
        *("a.example.org:81", "127.0.0.1:6181", "s3://b/c"),
        "-",
    ]
    column = Column("edge", lambda it: it, "address")
    assert to_tsv("https://a.example.org", [column]) == "https://a.example.org\n"


def test_paths_of_chunks_that_are_cut_keep_the_end_by_which_they_differ() -> None:
    assert _fit("/chunks/bafkr4iaaaaaaaaaaaaxyz", 10) == "…aaaaaaxyz"


def test_prose_and_cids_give_way_before_names_and_prose_that_nobody_has_is_left_out() -> None:
    columns = [
        *(Column("edge", str, "address"), Column("cid", str), Column("evidence", str, "prose")),
        *(Column("time", str, "seconds"), Column("reason", str, "prose")),
    ]
    row = ["127.0.0.1:6181", "bafkr4i" + 52 * "a", "200 x-cache: MISS, age: 0", "4 ms", "-"]
    assert _saying(columns, [row], 120) == columns, "there is room"
    assert _saying(columns, [row], 80) == columns[:-1]
    assert _saying(columns, [[*row[:-1], "why"]], 80) == columns, "it is said"
    wide, narrow = _widths(columns[:-1], [row[:-1]], 80), _widths(columns[:-1], [row[:-1]], 40)
    assert wide[0] == len(row[0]) and wide[3] == 4 and sum(wide) + 2 * len(wide) == 80
    assert wide[1] > PLIANT_COLUMNS_MIN and narrow[0] < len(row[0]), "names are cut last"


def test_a_list_of_a_card_that_is_longer_than_a_line_has_a_line_for_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "format", "table")
    columns = [Column("problems", lambda it: it), Column("more", lambda it: it[:1])]
    render(("a" * 200, "b" * 200), columns, identifier=str)
    assert capsys.readouterr().out == f"problems  {'a' * 200}\n          {'b' * 200}\nmore      {'a' * 200}\n"
