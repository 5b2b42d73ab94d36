"""What every command is made of: global options anywhere, help with examples first, members loaded when entered.

Typer reads the functions; the classes here replace how it groups, parses globals and writes help. A command is a plain
function under `@app.command()` and `@page(...)`, which adds its examples and the exit codes it adds to the common ones.

Not here: the table of nouns (`app`), what the options mean (`options`).
"""

from __future__ import annotations

import difflib
import importlib
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup, TyperOption

from rage_cli.options import COLORS, FORMATS, LOG_FORMATS, PROGRESS, options
from rage_cli.text import parse_duration
from rage_net.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

WIDTH_MAX = 100
"""Columns of help: longer lines are harder to read."""


# --- a command's page -------------------------------------------------------------------------------------------------


def page(*, examples: Sequence[str], exits: Sequence[int] = ()) -> Callable[[F], F]:
    """Give a command its examples (whole lines, copyable) and the exit codes it adds to 0, 1, 2, 124 and 130."""

    def mark(function: F) -> F:
        function.__dict__.update(examples=tuple(examples), exits=tuple(exits))
        return function

    return mark


def _columns(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Two columns, the second wrapped; a long first one takes its own line."""
    left = min(max(len(first) for first, _ in rows), 30) + 4
    lines: list[str] = []
    for first, second in rows:
        wrapped = _wrap(second, max(width - left, 20)) or [""]
        head = f"  {first}"
        if len(head) > left - 2:
            lines.append(head)
        else:
            lines.append(f"{head:<{left}}{wrapped.pop(0)}".rstrip())
        lines += [" " * left + line for line in wrapped]
    return lines


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, break_on_hyphens=False)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *lines] if lines else []


def _beside(*hints: str) -> list[str]:
    """Hints on one line, or where there is no room a line each: what is typed is never broken."""
    line = "    ".join(hints)
    return [line] if len(line) <= _help_width() else list(hints)


def _help_width() -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, WIDTH_MAX)


# --- global options ---------------------------------------------------------------------------------------------------


def _set(name: str, convert: Callable[[Any], Any] | None = None) -> Callable[..., None]:
    def take(ctx: typer.Context, param: Any, value: Any) -> None:
        if value not in (None, False, 0, ""):
            setattr(options, name, convert(value) if convert else value)

    return take


def _choice(option: str, choices: Sequence[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            raise not_one_of(option, value, choices)
        return value

    return check


def not_one_of(option: str, value: str, choices: Sequence[str]) -> UsageError:
    """The error for a word that is none of an option's; its mend is the nearest, else the first."""
    near = difflib.get_close_matches(value, choices, 1) or choices[:1]
    return UsageError(f"{option}: {value!r} is not one of {', '.join(choices)}", mend=[f"{option} {near[0]}"])


def words_of(option: str, value: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The words of `a,b`, each one of `choices`. Raises UsageError for another, or for none at all."""
    words = tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
    for word in words or (value,):
        if word not in choices:
            raise not_one_of(option, word, choices)
    return words


def duration_of(option: str, value: str, example: str) -> float | None:
    """Seconds of a duration; None where it is empty. Raises UsageError, whose mend is the example."""
    try:
        return parse_duration(value) if value else None
    except ValueError as error:
        raise UsageError(f"{option}: {error}", mend=[f"{option} {example}"]) from error


def share_of(option: str, value: str) -> float:
    """`5%` or `0.05` as a share, above 0 to 1. Raises UsageError for anything else."""
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"{option}: {value!r} is no share above 0 and up to 100%", mend=[f"{option} 5%"])
    return share


def _timeout(value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}", mend=["--timeout 30s"]) from error


def _show_version(ctx: typer.Context, param: Any, value: bool) -> None:
    if value:
        from rage_net import __version__

        sys.stdout.write(f"rage {__version__}\n")
        raise typer.Exit


def _option(declarations: str, help: str, callback: Callable[..., None], metavar: str = "") -> TyperOption:
    return TyperOption(
        param_decls=["_global_" + declarations.split()[0].strip("-").replace("-", "_"), *declarations.split()],
        help=help,
        callback=callback,
        expose_value=False,
        metavar=metavar or None,
        type=str if metavar else None,
        is_flag=not metavar,
        default=None if metavar else False,
    )


def _pick(name: str, choices: Sequence[str], help: str) -> TyperOption:
    return _option(f"--{name}", help, _set(name.replace("-", "_"), _choice(f"--{name}", choices)), "|".join(choices))


GLOBALS: tuple[TyperOption, ...] = (
    _option("--home", "The home of keys, configuration and store [RAGE_HOME].", _set("home"), "DIR"),
    _option("--config", "The network.yaml to read [RAGE_CONFIG].", _set("config"), "FILE"),
    _pick("format", FORMATS, "How to print the answer; auto is a table on a terminal and tab-separated when piped."),
    _option("--json", "Short for --format json.", _set("format", lambda _: "json")),
    _option("-q", "Short for --format id: the identifier alone.", _set("format", lambda _: "id")),
    _pick("color", COLORS, "When to colour; NO_COLOR is honoured."),
    _pick("progress", PROGRESS, "How to show progress, on stderr; auto is a bar on a terminal and nothing elsewhere."),
    _option("--timeout", "Give up after this long: 30s, 5m [RAGE_TIMEOUT].", _set("timeout_s", _timeout), "DURATION"),
    _option("--dry-run", "Say what would change, and change nothing.", _set("dry_run")),
    _option("-y --yes", "Answer yes to questions.", _set("yes")),
    TyperOption(
        param_decls=["_global_v", "-v"],
        help="Say more on stderr; -vv with tracebacks.",
        callback=_set("verbose"),
        expose_value=False,
        count=True,
        default=0,
    ),
    _pick("log-format", LOG_FORMATS, "How log lines look."),
    _option("--version", "Print the version.", _show_version),
)


# --- commands and groups ----------------------------------------------------------------------------------------------

_CONTEXT = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """One command: takes the global options too, and writes its own help."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        settings["context_settings"] = {**_CONTEXT, **(settings.get("context_settings") or {})}
        super().__init__(name, **settings)

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters and the global ones; its own win where a name is taken."""
        own = super().get_params(ctx)
        return own + _free_globals(own)

    def get_help(self, ctx: Any) -> str:
        """One sentence, examples, usage, arguments, options, exit codes."""
        from rage_cli.exits import EXITS

        width = _help_width()
        own: list[Any] = list(super().get_params(ctx))
        marks = getattr(self.callback, "__dict__", {})
        exits = [(str(code), EXITS[code][0]) for code in marks.get("exits", ())]
        lines = [*_wrap(_summary(self.help), width)]
        lines += _section("Examples", [f"  {line}" for line in marks.get("examples", ())])
        lines += _section("Usage", [f"  {ctx.command_path} {' '.join(self._usage(ctx, own))}"])
        rows = [_row(param, ctx) for param in own if param.param_type_name == "argument" and param.help]
        lines += _section("Arguments", _columns(rows, width) if rows else [])
        rows = [_row(param, ctx) for param in own if param.param_type_name == "option" and not param.hidden]
        lines += _section("Options", _columns(rows, width) if rows else [])
        lines += _section("Exit codes it adds", _columns(exits, width) if exits else [])
        return "\n".join([*lines, "", *_beside("Global options: rage --help", "All exit codes: rage help exit-codes")])

    def _usage(self, ctx: Any, own: Sequence[Any]) -> list[str]:
        pieces = [_metavar(param, ctx) for param in own if param.param_type_name == "argument"]
        return ["[OPTIONS]", *pieces]


class Member(NamedTuple):
    """A member of a group: its line in the group's help, and how to get it when it is entered."""

    summary: str
    load: Callable[[], Any]


class Group(TyperGroup):
    """Commands under one word. Help needs the members' summaries alone; a member is built when it is entered."""

    members: dict[str, Member]
    examples: Sequence[str] = ()

    def __init__(self, name: str, summary: str, members: dict[str, Member], examples: Sequence[str] = ()) -> None:
        super().__init__(name=name, help=summary, context_settings=dict(_CONTEXT), rich_markup_mode=None)
        self.members = members
        self.examples = examples

    def get_params(self, ctx: Any) -> list[Any]:
        """The global options."""
        own = super().get_params(ctx)
        return own + _free_globals(own)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of help."""
        return list(self.members)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Build a member. None for an unknown name."""
        member = self.members.get(cmd_name)
        return member.load() if member else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the member that `args` begins with. Raises UsageError with the nearest names."""
        command = self.get_command(ctx, args[0])
        if command is None:
            near = difflib.get_close_matches(args[0], self.members, 2)
            mend = [f"{ctx.command_path} {shlex.join([name, *args[1:]])}" for name in near]
            mend = mend or [f"{ctx.command_path} --help"]
            raise UsageError(f"{args[0]!r} is no command of {ctx.command_path}", mend=mend)
        return args[0], command, args[1:]

    def invoke(self, ctx: Any) -> Any:
        """Enter the member; without one, print the help where it spoils no pipe, and exit 2."""
        if not ctx._protected_args:
            sys.stderr.write(self.get_help(ctx) + "\n")
            raise typer.Exit(2)
        return super().invoke(ctx)

    def get_help(self, ctx: Any) -> str:
        """One sentence, examples, the members, and at the root the global options."""
        width = _help_width()
        lines = [*_wrap(_summary(self.help), width)]
        lines += _section("Examples", [f"  {line}" for line in self.examples])
        lines += _section("Usage", [f"  {ctx.command_path} [OPTIONS] COMMAND"])
        lines += _section("Commands", _columns([(name, _short(m.summary)) for name, m in self.members.items()], width))
        if ctx.parent is None:
            lines += _section("Global options, before or after the command", _columns(_global_rows(ctx), width))
            return "\n".join([*lines, "", "Exit codes: rage help exit-codes"])
        hints = _beside(f"Each command: {ctx.command_path} COMMAND --help", "Global options: rage --help")
        return "\n".join([*lines, "", *hints])


def _free_globals(own: Sequence[Any]) -> list[TyperOption]:
    taken = {name for param in own for name in param.opts}
    return [option for option in GLOBALS if taken.isdisjoint(option.opts)]


def _global_rows(ctx: Any) -> list[tuple[str, str]]:
    return [_row(option, ctx) for option in GLOBALS]


def _summary(help: str | None) -> str:
    """The first paragraph of a docstring."""
    return " ".join((help or "").strip().split("\n\n")[0].split())


def _short(summary: str) -> str:
    """Its first clause: a line in a group's list."""
    return summary.split("; ")[0].split(": ")[0].removesuffix(".")


def _metavar(param: Any, ctx: Any) -> str:
    name = param.metavar or (param.name or "").upper()
    if name.startswith("["):  # says itself that it may be left out
        return name
    name += "..." if param.nargs == -1 and not name.endswith("...") else ""
    return name if param.required else f"[{name}]"


def _row(param: Any, ctx: Any) -> tuple[str, str]:
    if param.param_type_name == "argument":
        return param.metavar or (param.name or "").upper(), param.help or ""
    names = ", ".join([*sorted(param.opts, key=len), *param.secondary_opts])  # -h, --help come as a set
    if not param.is_flag and not param.count:
        names += " " + (param.metavar or param.make_metavar(ctx))
    text = param.help or ""
    if param.show_default and param.default not in (None, False, "", (), []):
        text += f" Default: {param.default}."
    return names, text


# --- from modules -----------------------------------------------------------------------------------------------------


def load(module: str, examples: Sequence[str] = ()) -> Any:
    """The command or group of a module's `app`, a `typer.Typer`; with one nameless function it is a plain command."""
    app: typer.Typer = importlib.import_module(module).app
    infos = app.registered_commands
    if len(infos) == 1 and infos[0].name is None:
        return _build(infos[0])
    summary = str(app.info.help)
    members = {_name(info): Member(_summary(info.callback.__doc__), _builder(info)) for info in infos if info.callback}
    for group in app.registered_groups:
        nested = group.typer_instance
        if nested is not None and isinstance(group.name, str):
            members[group.name] = Member(str(group.help), _group_builder(group.name, nested, str(group.help)))
    return Group(module.rpartition(".")[2], summary, members, examples)


def _name(info: Any) -> str:
    return str(info.name or info.callback.__name__.replace("_", "-"))


def _builder(info: Any) -> Callable[[], Any]:
    return lambda: _build(info)


def _group_builder(name: str, app: typer.Typer, summary: str) -> Callable[[], Any]:
    infos = app.registered_commands
    members = {_name(info): Member(_summary(info.callback.__doc__), _builder(info)) for info in infos if info.callback}
    return lambda: Group(name, summary, members)


def _build(info: Any) -> Any:
    """One Typer function as a click command: only the one that runs is inspected, which keeps start-up short."""
    one = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    info.cls = Command
    one.registered_commands.append(info)
    return typer.main.get_command(one)


def noun(summary: str) -> typer.Typer:
    """The application of one noun, or of one command at the top."""
    return typer.Typer(help=summary, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
