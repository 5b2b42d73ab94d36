"""The verbs: for each, one frozen dataclass of its arguments and one of its result.

The command line builds a verb and shows its result; whether it runs in a node behind the Unix socket or in an engine
opened by the command, the dataclasses are the same. Standard library only: this is all that a client loads.

A verb class names its route (`chunk/put`), its result class, whether octets go in or come out, and whether it changes
anything: a client that leaves cancels reads only. Source: design D8.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, ClassVar, Generic, Protocol, TypeVar

R = TypeVar("R")

if typing.TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Any:
        """A dataclass whose comparison, hash and repr are shared instead of generated; frozen for type checkers alone.

        To define an ordinary frozen one takes 0.5 ms, and a client defines dozens at every start: 0.14 ms this way.
        """

        def make(kind: type) -> type:
            kind.__eq__, kind.__hash__, kind.__repr__ = _equal, _hash, _repr
            return dataclasses.dataclass(repr=False, eq=False)(kind)

        return make


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, field.name) for field in dataclasses.fields(value))


def _equal(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash((type(self), _values(self)))


def _repr(self: Any) -> str:
    values = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
    return f"{type(self).__qualname__}({', '.join(values)})"


class Verb(Generic[R]):
    """The base of every verb; `R` is its result."""

    __slots__ = ()

    route: ClassVar[str]
    result: ClassVar[type[Any]]
    octets_in: ClassVar[bool] = False
    octets_out: ClassVar[bool] = False
    mutates: ClassVar[bool] = False
    item: ClassVar[type[Any] | None] = None
    """What it tells while it runs, one at a time: hops of a trace, messages of a topic."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long verb is. `total` is None while it is not known; `unit` is bytes, chunks or items."""

    done: int
    total: int | None = None
    unit: str = "bytes"
    label: str = ""


class Source(Protocol):
    """Where a verb's octets come from. Blocking: called from a thread."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:
        """Fill `buffer` with at least one byte, or return 0 at the end. Raises when the giver left before the end."""
        ...


class Sink(Protocol):
    """Where a verb's octets go. Blocking: called from one thread at a time, in order."""

    def begin(self, size: int, /) -> None:
        """Say how many octets will come, once, before the first `write`; till then an error is an answer of its own."""
        ...

    def write(self, data: bytes | bytearray | memoryview, /) -> Any:
        """Write all of `data`. Raises when the taker left."""
        ...


class DecodeError(ValueError):
    """JSON values that do not fit the dataclass; the message begins with the path of the field."""


def encode(value: Any) -> Any:
    """A dataclass as JSON values, nested ones and tuples included. Fields keep their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    return value


def decode(kind: type[R], plain: Any) -> R:
    """The dataclass `kind` from JSON values, strictly typed; unknown fields are ignored (they are a newer peer's).

    Raises: DecodeError, naming the field, when a value is missing or of another type.
    """
    return typing.cast(R, _decode(kind, plain, kind.__name__))


def _decode(kind: Any, plain: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(kind), plain, path)
    if origin is tuple:
        if not isinstance(plain, list):
            raise DecodeError(f"{path}: a list is wanted, not {type(plain).__name__}")
        item = typing.get_args(kind)[0]
        return tuple(_decode(item, value, f"{path}[{at}]") for at, value in enumerate(plain))
    if origin is dict:
        if not isinstance(plain, dict):
            raise DecodeError(f"{path}: an object is wanted, not {type(plain).__name__}")
        item = typing.get_args(kind)[1]
        return {str(key): _decode(item, value, f"{path}.{key}") for key, value in plain.items()}
    if origin is typing.Literal:
        if plain not in typing.get_args(kind):
            raise DecodeError(f"{path}: {plain!r} is not one of {', '.join(map(str, typing.get_args(kind)))}")
        return plain
    if kind is Any:
        return plain
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, plain, path)
    if kind is float and type(plain) is int:
        return float(plain)
    if type(plain) is not kind:
        raise DecodeError(f"{path}: {getattr(kind, '__name__', kind)} is wanted, not {type(plain).__name__}")
    return plain


def _decode_union(kinds: tuple[Any, ...], plain: Any, path: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _decode(kind, plain, path)
            except DecodeError as error:
                errors.append(str(error))
    raise DecodeError(errors[0] if errors else f"{path}: null is wanted")


def _decode_dataclass(kind: Any, plain: Any, path: str) -> Any:
    if not isinstance(plain, dict):
        raise DecodeError(f"{path}: an object is wanted, not {type(plain).__name__}")
    hints = _hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in plain:
            values[field.name] = _decode(hints[field.name], plain[field.name], f"{path}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(f"{path}.{field.name}: missing")
    return kind(**values)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The fields' types: to work them out takes longer than to decode, and a topic tells hundreds of items a second."""
    return typing.get_type_hints(kind)


def registry() -> dict[str, type[Verb[Any]]]:
    """Every verb by its route."""
    from rage_net.verbs import (
        acl,
        cdn,
        cert,
        chunk,
        dht,
        diagnose,
        discovery,
        node,
        peer,
        replication,
        sync,
        topic,
        trust,
    )

    found: dict[str, type[Verb[Any]]] = {}
    for module in (acl, cdn, cert, chunk, dht, diagnose, discovery, node, peer, replication, sync, topic, trust):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Verb) and hasattr(value, "route"):
                found[value.route] = value
    return found
