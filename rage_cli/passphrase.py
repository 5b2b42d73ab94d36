"""Passphrases of CA keys: from a file, stdin, the environment or a terminal; never from an argument, never shown.

The first of these that is given: `--passphrase-file FILE` (`-` is stdin), `RAGE_CA_PASSPHRASE`,
`RAGE_CA_PASSPHRASE_FILE`, a question on the terminal. An enrolment CA's has variables of its own, `RAGE_ENROL_...`.
Source: design 4.5.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rage_cli.files import FileSource
from rage_net.errors import UsageError

FILE_BYTES_MAX = 4096
"""Read of a file or stdin; the first line counts."""


def ask(
    what: str,
    file: str,
    *,
    variable: str = "RAGE_CA_PASSPHRASE",
    option: str = "--passphrase-file",
    is_new: bool = False,
    stdin_is_free: bool = True,
) -> bytes:
    """The passphrase of `what`. A new one is asked for twice, and must be long enough.

    Raises: UsageError `passphrase-missing` where nobody gives one and there is no terminal, `passphrase-length`,
        `passphrases-differ`; what `FileSource` raises.
    """
    from rage_net.cert.secret import check_passphrase

    given = _given(file, variable, option, stdin_is_free)
    if given is None:
        given = _prompt(what, is_new, variable, option)
    if is_new:
        check_passphrase(given)
    return given


def _given(file: str, variable: str, option: str, stdin_is_free: bool) -> bytes | None:
    if file == "-" and not stdin_is_free:
        raise UsageError(
            f"{option} - and another - both want stdin", mend=[f"{option} FILE", f"export {variable}_FILE=FILE"]
        )
    if file:
        return _first_line(file, option)
    if value := os.environ.get(variable):
        return value.encode("utf-8", "surrogateescape")
    if path := os.environ.get(f"{variable}_FILE"):
        return _first_line(path, f"{variable}_FILE")
    return None


def _first_line(path: str, named_by: str) -> bytes:
    with FileSource(path) as source:
        found, block = bytearray(), bytearray(FILE_BYTES_MAX)
        while len(found) < FILE_BYTES_MAX and (size := source.readinto(block)):
            found += block[:size]
    line = bytes(found).split(b"\n", 1)[0].removesuffix(b"\r")
    if not line:
        raise UsageError(f"{named_by}: {path} begins with an empty line", mend=[f"{named_by} FILE"])
    return line


def _prompt(what: str, is_new: bool, variable: str, option: str) -> bytes:
    if not (sys.stderr.isatty() and _has_terminal()):
        raise UsageError(
            f"the passphrase of {what} is wanted",
            why="there is no terminal to ask on",
            mend=[f"{option} FILE", f"export {variable}_FILE=FILE"],
            id="passphrase-missing",
        )
    from getpass import getpass

    first = getpass(f"Passphrase of {what}: ")
    if is_new and getpass("The same again: ") != first:
        raise UsageError("the two passphrases differ; nothing was changed", id="passphrases-differ")
    return first.encode("utf-8", "surrogateescape")


def _has_terminal() -> bool:
    try:
        os.close(os.open(Path("/dev/tty"), os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
