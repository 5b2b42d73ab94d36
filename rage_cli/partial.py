"""Verbs that ask several at once and answer what those said: rows with errors in them become the errors of a command.

Exit 3 where some failed, the class's own code where all did. The rows themselves have been printed by then.
"""

from __future__ import annotations

from collections.abc import Sequence

from rage_net.errors import EXIT_PARTIAL, PartialError, RageError, UnavailableError


def failure(code: str, message: str) -> RageError:
    """The error that a row tells by its id and words; one that this version does not know is an `UnavailableError`."""
    from rage_cli.error_pages import PAGES, classes

    page = PAGES.get(code)
    kind = page[0] if page is not None else classes().get(code, UnavailableError)
    return kind(message, id=code) if code else kind(message)


def raise_failures(message: str, failures: Sequence[tuple[str, RageError]], total: int, mend: Sequence[str]) -> None:
    """Raise PartialError for the `failures` among `total` targets; nothing happens where there are none."""
    if not failures:
        return
    error = PartialError(message, failures, mend=mend)
    if len(failures) < total:  # though they failed alike, the others did not
        error.exit_code = EXIT_PARTIAL
    raise error
