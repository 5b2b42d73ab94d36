"""The global options: what they are, where they come from, and the one value of them a process has.

Precedence: flag > environment (`RAGE_*`) > default. Not here: the configuration of node and store (`rage_net.config`).
Source: design 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from rage_net.errors import UsageError

FORMATS = ("auto", "table", "json", "ndjson", "id")
COLORS = ("auto", "always", "never")
PROGRESS = ("auto", "bar", "plain", "json", "none")
LOG_FORMATS = ("text", "json")

ENVIRONMENT = {
    "RAGE_HOME": ("home", None),
    "RAGE_CONFIG": ("config", None),
    "RAGE_FORMAT": ("format", FORMATS),
    "RAGE_COLOR": ("color", COLORS),
    "RAGE_PROGRESS": ("progress", PROGRESS),
    "RAGE_LOG_FORMAT": ("log_format", LOG_FORMATS),
}


class Options:
    """The globals of one invocation. Empty `home` and `config` mean the default places."""

    def __init__(self) -> None:
        self.home = ""
        self.config = ""
        self.format = "auto"
        self.color = "auto"
        self.progress = "auto"
        self.timeout_s: float | None = None
        self.dry_run = False
        self.yes = False
        self.verbose = 0
        self.log_format: Literal["text", "json"] = "text"

    def read_environment(self, environment: Mapping[str, str]) -> None:
        """Take what `RAGE_*` says. Raises UsageError naming the variable."""
        from rage_cli.text import parse_duration

        for variable, (name, choices) in ENVIRONMENT.items():
            value = environment.get(variable, "")
            if value and choices is not None and value not in choices:
                raise UsageError(f"{variable}={value} is not one of {', '.join(choices)}", mend=[f"unset {variable}"])
            if value:
                setattr(self, name, value)
        if timeout := environment.get("RAGE_TIMEOUT", ""):
            try:
                self.timeout_s = parse_duration(timeout)
            except ValueError as error:
                raise UsageError(f"RAGE_TIMEOUT: {error}", mend=["export RAGE_TIMEOUT=30s"]) from error
        if environment.get("NO_COLOR") and not environment.get("RAGE_COLOR"):
            self.color = "never"

    @contextmanager
    def timed(self) -> Iterator[None]:
        """End a wait that has no deadline of its own, for a pipe or whoever reads one, with TimeoutError in time."""
        if self.timeout_s is None:
            yield
            return
        import signal

        def end(number: int, frame: object) -> None:
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, max(self.timeout_s, 0.001))  # 0 would be no timer
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def longer_timeout(self) -> str:
        """The mend of a deadline: the option that gives the command four times as long."""
        return f"--timeout {max(4 * (self.timeout_s or 0), 1):g}s"


options = Options()
"""This process's globals: set by the entry, read by session and output. One invocation, one process."""
