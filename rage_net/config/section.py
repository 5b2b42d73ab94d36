"""A section of configuration: a frozen record of keys with defaults, made without generating code.

Like a frozen, keyword-only dataclass, and typed as one; but a dataclass costs 0.6 ms each to define and msgspec 10 ms
to import, which every one-shot command would pay. The classes are also the one table of all keys: `fields` reads it
for the reader, for `config show` and for the documentation.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "(required)"})()
"""The default of a key that must be given."""


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
class Section:
    """The base of every section. Equal when all values are; `replace` gives a copy with some values changed."""

    _defaults: ClassVar[dict[str, Any]]

    def __init_subclass__(cls) -> None:
        names = [name for name in cls.__annotations__ if not name.startswith("_")]
        cls._defaults = {name: cls.__dict__.get(name, REQUIRED) for name in names}

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - self._defaults.keys()
        merged = {**self._defaults, **values}
        missing = [name for name, value in merged.items() if value is REQUIRED]
        if unknown or missing:
            raise TypeError(f"{type(self).__name__}: unknown {sorted(unknown)}, missing {missing}")
        self.__dict__.update(merged)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    @classmethod
    def _variants(cls, words: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where keys depend on each other: values to assume and types to read by, from the section's plain words."""
        return {}, {}

    def replace(self, **values: Any) -> Self:
        """A copy with these values instead."""
        return type(self)(**{**self.__dict__, **values})

    def items(self) -> Iterator[tuple[str, Any]]:
        """Every key with its value, in the order of the class."""
        return iter(self.__dict__.items())


class Field(NamedTuple):
    """One key of a section: its type with `Annotated` kept, its default or REQUIRED."""

    name: str
    kind: Any
    default: Any


_fields: dict[type[Section], dict[str, Field]] = {}


def fields(section: type[Section]) -> dict[str, Field]:
    """The keys of a section by name."""
    if section not in _fields:
        kinds = typing.get_type_hints(section, include_extras=True)
        _fields[section] = {name: Field(name, kinds[name], default) for name, default in section._defaults.items()}
    return _fields[section]


def docstrings(section: type[Section]) -> dict[str, str]:
    """What stands under each key in the source; for documentation and tests, which have the source."""
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for key, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(text, ast.Expr):
            value = getattr(text.value, "value", None)
            if isinstance(value, str):
                found[key.target.id] = inspect.cleandoc(value).replace("\n", " ")
    return found
