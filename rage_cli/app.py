"""The root of the command line, and the one place that catches errors and turns them into words and exit codes.

Not here: options (`options`, `command`), how results look (`output`). Source: design 4.5.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType

import typer
from typer.exceptions import TyperException

from rage_cli.command import Group, Member, load
from rage_cli.options import options
from rage_cli.text import safe
from rage_net.errors import (
    EXIT_BUG,
    EXIT_INTERRUPT,
    EXIT_OK,
    EXIT_PIPE,
    EXIT_TERMINATED,
    RageError,
    StorageFullError,
    UsageError,
)

NOUNS: dict[str, str] = {
    "init": "Make a home: identity, configuration, store.",
    "node": "Run the background node, stop it, look at it.",
    "chunk": "Put, get and look after documents and their chunks.",
    "peer": "Look at peers, find them, connect to them, ping and ban them.",
    "cert": "Make, sign, check and revoke certificates.",
    "trust": "Say which other organisations are trusted, and for what.",
    "acl": "See and change who may do what with documents.",
    "discovery": "Ask discovery servers, register there, run one.",
    "dht": "Look into the DHT: its table, look-ups, each hop of one.",
    "topic": "List topics, listen to one, publish to one.",
    "sync": "Exchange metadata with peers, see who agrees, decide conflicts.",
    "replication": "See how often chunks are stored, and where; prove it, repair it, move it.",
    "cdn": "Purge CDNs and prove it, fill them, see how they do.",
    "config": "Show, check and migrate the configuration.",
    "status": "How this home and its node are, problems first.",
    "why": "Why a document, chunk or peer can or cannot be had, link by link.",
    "doctor": "Look at everything a node needs, one line a check.",
    "lab": "Harm nodes on purpose, and see whether what rage promises holds.",
    "demo": "Four nodes, real documents, one death: see it work in half a minute.",
    "completion": "Print the completion script of a shell.",
    "help": "Explain exit codes, an error or a command.",
}
"""Name -> its line in `rage --help`. The module is `rage_cli.commands.<name>`, loaded only when entered."""

EXAMPLES = (
    "rage init && rage chunk put report.md",
    "rage chunk get report.md -o copy.md",
    "root=$(rage chunk put report.md -q --timeout 60s)    # in CI: no node, no terminal needed",
)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

ISSUES = "https://github.com/rage-network/rage/issues"


class TerminatedError(BaseException):
    """SIGTERM, raised where the main thread stands so that every `finally` runs."""


def root() -> Group:
    """The whole tree, nothing of it loaded."""
    members = {name: Member(text, partial(load, f"rage_cli.commands.{name}")) for name, text in NOUNS.items()}
    return Group("rage", "Turn single RAG platforms into one knowledge network.", members, EXAMPLES)


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    _fill_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            code = _run(arguments)
        except RageError:
            sys.stdout.flush()  # what was answered before the error is an answer, and nobody flushes after us
            raise
        sys.stdout.flush()
        return code
    except RageError as error:
        return _report(error, arguments)
    except TyperException as error:
        return _report(_usage_error(error, arguments), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", EXIT_INTERRUPT)
    except TerminatedError:
        return _say("terminated", EXIT_TERMINATED)
    except BrokenPipeError:
        return _leave_pipe()
    except OSError as error:
        if error.errno not in NO_ROOM:
            return _report_bug(error)
        # Whatever else has no room says so itself: this is the answer, on its way to a file.
        return _report(StorageFullError("no room to write stdout", why=str(error.strerror).lower()), arguments)
    except Exception as error:
        return _report_bug(error)


def _run(arguments: Sequence[str]) -> int:
    options.read_environment(os.environ)
    tree = root()
    try:
        # Not `tree.main()`, which would turn a broken pipe into exit 1 before we see it.
        with tree.make_context("rage", list(arguments)) as context:
            result = tree.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    return result if isinstance(result, int) else EXIT_OK


def _fill_closed_streams() -> None:
    """Where the caller closed a stream (`>&-`), the null device: else the next file opened would be stdout."""
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            if number:
                setattr(sys, ("stdin", "stdout", "stderr")[number], os.fdopen(null, mode, closefd=False))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


def _usage_error(error: TyperException, arguments: Sequence[str]) -> RageError:
    """Typer's own complaints in our shape, with the nearest option where one was mistyped."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "rage"
    near = getattr(error, "possibilities", None) or ()
    message = error.message if near else error.format_message()
    message = message[:1].lower() + message[1:].rstrip(".")
    wrong = getattr(error, "option_name", "")
    mended = [shlex.join(["rage", *(right if word == wrong else word for word in arguments)]) for right in near]
    return UsageError(message, mend=[*mended, f"{path} --help"])


def _command_line(mend: str, arguments: Sequence[str]) -> str:
    """A mend as a command to copy: `--option VALUE` is this command line with that option set so."""
    if not mend.startswith("--"):
        return mend
    name, *value = mend.split(" ", 1)
    for at, word in enumerate(arguments):
        if word == name:
            words = [*arguments[: at + 1], *value, *arguments[at + 1 + len(value) :]]
            break
        if word.startswith(f"{name}="):
            words = [*arguments[:at], f"{name}={value[0]}", *arguments[at + 1 :]]
            break
    else:
        words = [*arguments, name, *value]
    return shlex.join(["rage", *words])


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are JSON; parsing may have failed before the options were set, so the words are looked at too."""
    return options.format in ("json", "ndjson") or "--json" in arguments or "--format=json" in arguments


def _report(error: RageError, arguments: Sequence[str]) -> int:
    """Three plain lines on stderr, or one line of JSON; the error's own exit code."""
    if options.verbose > 1:
        _print_traceback(error)
    error.mend = tuple(_command_line(line, arguments) for line in error.mend)
    if _wants_json(arguments):
        _write(json.dumps(error.to_plain(), ensure_ascii=False))
        return error.exit_code
    _write(f"{_red(f'error[{error.id}]')}: {safe(error.message)}")
    if error.why:
        _write(f"  why:  {safe(error.why)}")
    for name, failure in getattr(error, "failures", ()):
        _write(f"  {safe(name)}: error[{failure.id}]: {safe(failure.message)}")
    if error.mend:
        _write(f"  mend: {safe('  |  '.join(error.mend))}")
    return error.exit_code


def _report_bug(error: Exception) -> int:
    """A bug: say so, and where to report it; the traceback only when asked for."""
    if options.verbose > 1:
        _print_traceback(error)
    what = f"{type(error).__name__}: {error}"
    if options.format in ("json", "ndjson"):
        bug = RageError(what, why="this is a bug in rage", mend=[f"report it at {ISSUES}"], id="bug")
        _write(json.dumps(bug.to_plain(), ensure_ascii=False))
        return EXIT_BUG
    _write(f"{_red('error[bug]')}: {safe(what)}")
    _write("  why:  this is a bug in rage, not a mistake of yours")
    _write(f"  mend: repeat with -vv and report what it prints at {ISSUES}")
    return EXIT_BUG


def _print_traceback(error: BaseException) -> None:
    import traceback

    _write("".join(traceback.format_exception(error)).rstrip())


def _red(text: str) -> str:
    colored = options.color == "always" or (options.color == "auto" and sys.stderr.isatty())
    return f"\x1b[1;31m{text}\x1b[0m" if colored else text


def _say(what: str, code: int) -> int:
    if options.verbose:
        _write(what)
    return code


def _write(line: str) -> None:
    """A line on stderr. That it cannot be written is no reason to fail once more."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        pass


def _leave_pipe() -> int:
    """The reader is gone: end quietly, and keep the interpreter from complaining when it flushes."""
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    return EXIT_PIPE
