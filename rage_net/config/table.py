"""The one table of all keys, read from the sections: what documentation, tests and `config show` go by."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rage_net.config.cdn import Cdn
from rage_net.config.network import Network
from rage_net.config.reader import unwrap
from rage_net.config.replication import Replication
from rage_net.config.section import REQUIRED, Section, docstrings, fields
from rage_net.config.values import Bytes, Comparison, Seconds, Secret, Share

ROOTS: dict[str, tuple[str, type[Section]]] = {
    "network": ("network.yaml", Network),
    "cdn": ("cdn.yaml", Cdn),
    "replication": ("replication.yaml", Replication),
}
"""Root key -> the file where it stands by default, and its section."""

_WORDS = {Seconds: "duration", Bytes: "size", Share: "share", Secret: "secret", Path: "path", bool: "true or false"}


class Key(NamedTuple):
    """One key: dotted path (`[]` for the items of a list), file, type in words, default as text, meaning."""

    path: str
    file: str
    kind: str
    default: str
    doc: str


@functools.cache
def all_keys() -> tuple[Key, ...]:
    """Every key that holds a value, in the order of the files."""
    return tuple(key for root, (file, section) in ROOTS.items() for key in _keys(section, root, file))


def _keys(section: type[Section], path: str, file: str) -> Iterator[Key]:
    docs = docstrings(section)
    for name, field in fields(section).items():
        here = f"{path}.{name}"
        kind, _, _ = unwrap(field.kind)
        inner = _sections(kind)
        default = "(required)" if field.default is REQUIRED else show(field.default)
        if not inner or typing.get_origin(kind) is tuple:
            yield Key(here, file, _words(kind), default, docs.get(name, ""))
        for nested in inner:
            yield from _keys(nested, f"{here}[]" if typing.get_origin(kind) is tuple else here, file)


def _sections(kind: Any) -> list[type[Section]]:
    arguments = typing.get_args(kind) if typing.get_origin(kind) is not Literal else ()
    return [one for one in (arguments or (kind,)) if isinstance(one, type) and issubclass(one, Section)]


def _words(kind: Any) -> str:
    kind = unwrap(kind)[0]
    if typing.get_origin(kind) is Literal:
        return " | ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"list of {_words(typing.get_args(kind)[0])}"
    if _sections(kind):
        return "section"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)).lower())


def show(value: Any) -> str:
    """A value as it would be written in a file; secrets as `<set>`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(show(item) for item in value)}]"
    if isinstance(value, Section):
        return f"{{{', '.join(f'{name}: {show(item)}' for name, item in value.items())}}}"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    return str(value) if isinstance(value, Secret | Comparison | Path) or value != "" else '""'
