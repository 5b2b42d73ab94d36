"""One place turns errors into words and exit codes."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest_cli import RAGE, TIMEOUT_S, Rage, environment

from rage_cli import app
from rage_cli.commands.help import error_pages
from rage_cli.error_pages import PAGES
from rage_cli.exits import EXITS
from rage_cli.options import options
from rage_net import errors
from rage_net.errors import NotFoundError, PartialError, RageError, UnavailableError


def lines(stderr: bytes) -> list[str]:
    return stderr.decode().splitlines()


def test_an_error_is_three_plain_lines_on_stderr(rage: Rage) -> None:
    done = rage("node", "status", code=7)
    first, why, mend = lines(done.stderr)
    assert first.startswith("error[node-unreachable]: no node runs for /")
    assert why.startswith("  why:  nothing listens at /")
    assert mend == "  mend: rage node start --detach"
    assert done.stdout == b""


def test_with_json_an_error_is_one_line_of_json(rage: Rage) -> None:
    done = rage("node", "status", "--json", code=7)
    plain = json.loads(done.stderr)
    assert len(lines(done.stderr)) == 1 and done.stdout == b""
    assert plain["type"] == "error" and plain["code"] == "node-unreachable" and plain["exit"] == 7
    assert plain["retryable"] is True and plain["mend"] == ["rage node start --detach"]


@pytest.mark.parametrize(
    ("words", "what", "mend"),
    [
        (["chnk"], "'chnk' is no command of rage", "rage chunk"),
        (["chunk", "gte", "a b", "--raw"], "'gte' is no command of rage chunk", "rage chunk get 'a b' --raw"),
        (["chunk", "put", "--nmae", "x", "f"], "no such option: --nmae", "rage chunk put --name x f"),
        (["--jsno"], "no such option: --jsno", "rage --json"),
        (["status", "--format", "jsn"], "--format: 'jsn' is not one of", "rage status --format json"),
        (["status", "--format=jsn", "-v"], "--format: 'jsn' is not one of", "rage status --format=json -v"),
        (["status", "--timeout", "soon"], "--timeout: 'soon' is no duration", "rage status --timeout 30s"),
        (["chunk", "put"], "missing argument 'PATH|-'", "rage chunk put --help"),
        (["chunk", "get"], "missing argument 'CID|DOC'", "rage chunk get --help"),
        (["chunk", "put", "a", "b"], "got unexpected extra argument(s) (b)", "rage chunk put --help"),
        (
            ["chunk", "put", "f", "--visibility", "pubic"],
            "'pubic' is not one of",
            "rage chunk put f --visibility public",
        ),
        (["chunk", "get", "x", "--from", "ipfs", "-o", "f"], "--from: 'ipfs' is not one of", "--from local,p2p"),
        (
            ["chunk", "get", "x", "--peer", "/ip4/127.0.0.1/tcp/1"],
            "not say which peer",
            "--peer /ip4/127.0.0.1/tcp/1/p2p/",
        ),
        (["chunk", "get", "x", "--peer", "/ip4/127.0.0.1/tcp"], "is no multiaddr", "rage chunk get x --peer /ip4/"),
        (["chunk", "verify", "--sample", "0%"], "--sample: '0%' is no share", "--sample 5%"),
        (["chunk", "put", "f", "--retention", "1y"], "--retention: '1y' is no duration", "--retention 30d"),
        (["completion", "tcsh"], "'tcsh' is not one of bash, zsh, fish", "rage completion bash"),
        (["chunk", "pin", "x", "--dry-run"], "chunk pin has no --dry-run", "leave --dry-run out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_usage_error_has_the_same_shape_and_names_what_is_near(
    rage: Rage, words: list[str], what: str, mend: str
) -> None:
    found = lines(rage(*words, code=2).stderr)
    assert found[0].startswith("error[usage]: ") and what in found[0], found
    assert mend in found[-1], found


def test_a_usage_error_is_json_even_where_parsing_had_not_come_to_the_flag(rage: Rage) -> None:
    plain = json.loads(rage("chnk", "--json", code=2).stderr)
    assert plain["code"] == "usage" and plain["mend"] == ["rage chunk --json"]


def test_a_group_without_a_command_prints_its_help_on_stderr(rage: Rage) -> None:
    done = rage("chunk", code=2)
    assert done.stdout == b"" and b"rage chunk [OPTIONS] COMMAND" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"), [("RAGE_FORMAT", "xml"), ("RAGE_TIMEOUT", "soon"), ("RAGE_PROGRESS", "dots")]
)
def test_a_bad_environment_variable_is_named(rage: Rage, variable: str, value: str) -> None:
    assert variable in lines(rage("help", "exit-codes", env={variable: value}, code=2).stderr)[0]


def test_a_home_that_is_missing_says_how_to_make_it(rage: Rage) -> None:
    found = lines(rage("--home", "nowhere", "chunk", "list", code=5).stderr)
    assert found[0].startswith("error[home-missing]") and found[-1].endswith("nowhere init")


class TestInProcess:
    """What no real command does on demand."""

    @pytest.fixture(autouse=True)
    def _options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fresh = vars(type(options)())
        for name, value in fresh.items():
            monkeypatch.setattr(options, name, value)

    def run(self, monkeypatch: pytest.MonkeyPatch, error: BaseException, *words: str) -> int:
        def fail(arguments: object) -> int:
            raise error

        monkeypatch.setattr(app, "_run", fail)
        monkeypatch.setattr(app.signal, "signal", lambda *_: None)
        return app.main(list(words))

    def test_a_bug_exits_1_and_says_where_to_report_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, ZeroDivisionError("secret\x1b[31m")) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("error[bug]: ZeroDivisionError: secret\\x1b[31m\n")
        assert app.ISSUES in shown and "Traceback" not in shown

    def test_vv_shows_the_traceback(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        options.verbose = 2
        assert self.run(monkeypatch, ZeroDivisionError()) == 1
        assert "Traceback (most recent call last)" in capsys.readouterr().err

    def test_what_an_error_says_cannot_drive_the_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(monkeypatch, NotFoundError("no \x1b]0;x\x07 \u202e y", why="a\nb", mend=["c\rd"])) == 5
        assert capsys.readouterr().err == (
            "error[not-found]: no \\x1b]0;x\\x07 \\u202e y\n  why:  a\\nb\n  mend: c\\rd\n"
        )

    def test_a_partial_failure_lists_each_target(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        failures = [("a", NotFoundError("no a")), ("b", UnavailableError("b is away"))]
        assert self.run(monkeypatch, PartialError("2 of 3 failed", failures)) == 3
        shown = capsys.readouterr().err.splitlines()
        assert shown[1:] == ["  a: error[not-found]: no a", "  b: error[unavailable]: b is away"]

    @pytest.mark.parametrize(
        ("error", "code"),
        [(KeyboardInterrupt(), 130), (app.TerminatedError(), 143)],
        ids=["SIGINT", "SIGTERM"],
    )
    def test_a_signal_has_its_own_code_and_no_words(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: BaseException,
        code: int,
    ) -> None:
        assert self.run(monkeypatch, error) == code
        assert capsys.readouterr().err == ""


def test_every_class_of_errors_has_an_exit_code_in_the_table_and_a_page(rage: Rage) -> None:
    pages = error_pages()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RageError)]
    assert {kind.exit_code for kind in kinds} <= set(EXITS)
    for kind in kinds:
        if kind is not RageError:
            assert pages[kind.id].exit == kind.exit_code and pages[kind.id].meaning
    assert rage("help", "error", "denied", "-q").stdout == b"denied\n"


def test_an_unknown_topic_exits_5(rage: Rage) -> None:
    rage("help", "error", "no-such", code=5)
    rage("help", "chunk", "no-such", code=5)


@pytest.mark.parametrize(
    ("redirect", "code"),
    [("> /dev/full", 11), (">&-", 0), ("> /dev/full --json", 11), (">&- --json 2>&-", 0)],
)
def test_an_answer_that_cannot_be_written_is_no_bug(home: Path, redirect: str, code: int) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    line = f"{shlex.join(RAGE)} node id {redirect}"
    done = subprocess.run(["sh", "-c", line], env=environment(home), capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == code and done.stdout == b""
    assert (b"storage-full" in done.stderr) == (code == 11) and b"bug" not in done.stderr


def test_a_closed_stdin_is_not_an_empty_document(home: Path) -> None:
    line = f"{shlex.join(RAGE)} chunk put - --name x <&-"
    done = subprocess.run(["sh", "-c", line], env=environment(home), capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 2 and lines(done.stderr)[0] == "error[usage]: stdin is closed"


@pytest.mark.parametrize("through", ["a node", "no node"])
def test_a_pipe_that_nobody_writes_to_meets_the_timeout(
    rage: Rage, home: Path, tmp_path: Path, through: str, request: pytest.FixtureRequest
) -> None:
    if through == "a node":
        request.getfixturevalue("node")
    os.mkfifo(tmp_path / "quiet")
    found = lines(rage("chunk", "put", tmp_path / "quiet", "--timeout", "300ms", code=124).stderr)
    assert found[0].startswith("error[deadline]: nobody wrote to ")
    assert found[-1] == f"  mend: rage chunk put {tmp_path / 'quiet'} --timeout 1.2s"
    words = [*RAGE, "chunk", "put", "-", "--timeout", "300ms"]
    quiet = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(home))
    assert quiet.wait(TIMEOUT_S) == 124  # its stdin stays open, and silent
    assert quiet.stdin is not None
    quiet.stdin.close()


def ids_in_the_code() -> dict[str, str]:
    """Every literal `id="..."` of a call in the two packages, and the class that is called; errors' own ids too."""
    found = {}
    root = Path(app.__file__).parents[1]
    for path in [*(root / "rage_net").rglob("*.py"), *(root / "rage_cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg == "id" and isinstance(keyword.value, ast.Constant):
                        found[str(keyword.value.value)] = ast.unparse(node.func)
    return found


def test_every_error_id_in_the_code_has_a_page_with_its_exit_code(rage: Rage) -> None:
    pages, used = error_pages(), ids_in_the_code()
    assert len(used) > 40 and set(used) <= set(pages), set(used) - set(pages)
    for name, kind in used.items():
        raised = getattr(errors, kind, None)
        if raised is not None and name != "usage":
            assert PAGES[name][0] is raised, name
    computed = {
        "client-left",
        "chunk-not-found",
        "record-invalid",
        "wrong-bytes",
        "sources-unreachable",
        "token-refused",
        *(f"cdn-{why}" for why in ("credentials", "forbidden", "not-found", "config", "rejected", "rate-limited")),
        "cdn-impossible",
    }
    assert set(PAGES) - set(used) <= computed, "pages of errors that nobody raises"
    assert rage("help", "error", "home-locked", "--json").stdout.count(b'"exit": 9') == 1
    assert lines(rage("help", "error", "home-lokced", code=5).stderr)[-1] == "  mend: rage help error home-locked"
    assert rage("help", "error", "-q").stdout.decode().splitlines() == sorted(pages)
