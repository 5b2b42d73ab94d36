"""How a node logs: one line an event, to stderr, as text or as JSON, without secrets and without what terminals obey.

Not here: what is logged, which each module decides with `logging.getLogger("rage.<noun>")`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, TextIO

MASK = "***"

SECRET_CHARS_MIN = 6
"""Shorter secrets would mask half the words of a log; they are no secrets either."""

LINE_CHARS_MAX = 16_000
"""Of one event: what peers send ends up in messages."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def set_up(
    style: Literal["text", "json"] = "text",
    *,
    level: str = "INFO",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send all logging of this process to `stream` (stderr), replacing what was set up before.

    Args: secrets: values that are masked wherever they appear: the configuration knows them.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    masked = sorted({secret for secret in secrets if len(secret) >= SECRET_CHARS_MIN}, key=len, reverse=True)
    handler.setFormatter(_JsonFormatter(masked) if style == "json" else _TextFormatter(masked))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))


class _Formatter(logging.Formatter):
    def __init__(self, secrets: list[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def _words(self, record: logging.LogRecord) -> tuple[str, str]:
        """The message, and the traceback or ''."""
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return self._mask(record.getMessage())[:LINE_CHARS_MAX], self._mask(trace)[-LINE_CHARS_MAX:]

    def _mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message, trace = self._words(record)
        line = _escape(f"{_time(record)} {record.levelname.lower()} {record.name}: {message}").replace("\n", "\\n")
        return f"{line}\n{_escape(trace)}" if trace else line


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        message, trace = self._words(record)
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if trace:
            event["trace"] = trace
        return msgspec.json.encode({key: _printable(text) for key, text in event.items()}).decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escape(text: str) -> str:
    """Control characters, terminal escapes and those that turn writing around, made visible."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", _printable(text))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates, from file names
