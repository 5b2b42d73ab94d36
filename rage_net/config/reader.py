"""From YAML to sections, keeping where each value stood, so that every complaint names file, line and key.

Several problems are found in one reading. The file is composed into nodes and never constructed: the sections say what
each scalar means, so `region: no` cannot become a boolean behind the operator's back. Opens nothing but `X_FILE`s.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

from rage_net.config.compose import compose
from rage_net.config.section import REQUIRED, Section, fields
from rage_net.config.values import FILE_BYTES_MAX, PARSERS, Between, Bytes, Comparison, Seconds, Secret, Share, Url

if TYPE_CHECKING:
    import yaml

NODES_MAX = 50_000
"""Values read from one file: aliases can repeat a small file into a huge one."""

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value", "seq", "map")
}
_READS_AS = {"int": "a number", "float": "a number", "bool": "true or false", "null": "nothing", "timestamp": "a date"}
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
_ALIASES = {"CLOUDFLARE_TOKEN": "CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_TOKEN": "CLOUDFLARE_TOKEN"}
_OF_CLOUDFLARE = ("CLOUDFLARE_ZONE_ID", "CLOUDFLARE_API_TOKEN")
_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "="}
_QUOTED_OR_PLAIN = (Seconds, Bytes, Share, Comparison)
_NUMBERS = (int, float, bool)
_UNQUOTABLE = (Secret, Url)  # an address may hold a password, which is what may be wrong with it


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One complaint. `line` is 0 where there is none, as for a variable; `mend` may be empty."""

    file: str
    line: int
    key: str
    message: str
    mend: str = ""
    is_error: bool = True

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class Draft(dict[str, Any]):
    """The keys that were given for one section, each value read; nested sections are drafts."""

    def __init__(self, section: type[Section], line: int = 0) -> None:
        super().__init__()
        self.section = section
        self.line = line


_BAD: Any = object()
"""A value that could not be read; its problem is noted."""


class Reader:
    """Reads one source into drafts. `problems`, `origins` (key -> place) and `lines` (key -> line) fill as it goes."""

    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.origins: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self._environ = environ
        self._nodes = 0

    def complain(self, line: int, key: str, message: str, mend: str = "") -> Any:
        """Note a problem; gives what stands for a value that could not be read."""
        self.problems.append(Problem(self.file, line, key, message, mend))
        return _BAD

    def read(self, data: bytes, roots: Mapping[str, type[Section]]) -> dict[str, Draft]:
        """The drafts of a file by their root keys; what is missing or broken is left out."""
        root = compose(data, self.complain)
        if root is None:
            return {}
        if not _is_mapping(root):
            self.complain(1, "", f"the file must begin with {' or '.join(f'`{name}:`' for name in roots)}")
            return {}
        found: dict[str, Draft] = {}
        for name, line, node in self._pairs(root, ""):
            if name not in roots:
                self._unknown(name, line, "", list(roots), None)
            elif (draft := self._value(roots[name], node, name)) is not _BAD:
                found[name] = draft
        return found

    def _pairs(self, node: yaml.MappingNode, path: str) -> list[tuple[str, int, yaml.Node]]:
        pairs: list[tuple[str, int, yaml.Node]] = []
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not _is_scalar(key) or key.tag == _TAG + "merge":
                self.complain(line, path, "a plain key is wanted", "write the keys out")
            elif key.value in first:
                message = f"the key is there twice, first in line {first[key.value]}"
                self.complain(line, _join(path, key.value), message, "keep one")
            else:
                first[key.value] = line
                pairs.append((key.value, line, value))
        return pairs

    def _value(self, kind: Any, node: yaml.Node, path: str) -> Any:
        line = node.start_mark.line + 1
        self._nodes += 1
        if self._nodes > NODES_MAX:
            if self._nodes == NODES_MAX + 1:
                self.complain(line, path, f"the file has more than {NODES_MAX} values", "remove the aliases (*name)")
            return _BAD
        self.lines[path], self.origins[path] = line, f"{self.file}:{line}"
        if node.tag not in _KNOWN_TAGS:
            return self.complain(line, path, "tags (!name) are not allowed", "remove the tag, or quote the value")
        kind, bounds, optional = unwrap(kind)
        if optional and _is_null(node):
            return None
        if isinstance(kind, type) and issubclass(kind, Section):
            return self._section(kind, node, path)
        if typing.get_origin(kind) is tuple:
            return self._list(typing.get_args(kind)[0], node, path)
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            return self.complain(line, path, "what keys it has is not known", "say which `software` it is")
        if kind is Comparison and _is_mapping(node):
            return self._comparison(node, path)
        if not _is_scalar(node):
            what = "a list" if _is_sequence(node) else "a section"
            return self.complain(line, path, f"one value is wanted, not {what}")
        return self._scalar(kind, bounds, node, path)

    def _section(self, kind: type[Section], node: yaml.Node, path: str) -> Any:
        line = node.start_mark.line + 1
        draft = Draft(kind, line)
        if _is_null(node):  # every key below it is commented out
            return draft
        if not _is_mapping(node):
            return self.complain(line, path, "keys are wanted below it", f"one of {', '.join(list(fields(kind))[:6])}")
        known = fields(kind)
        pairs = self._pairs(node, path)
        assumed, kinds = kind._variants({name: value.value for name, _, value in pairs if _is_scalar(value)})
        draft.update(assumed)
        for name, key_line, value in pairs:
            if name not in known:
                self._unknown(name, key_line, path, list(known), kind)
            else:
                draft[name] = self._value(kinds.get(name, known[name].kind), value, _join(path, name))
        return draft

    def _list(self, kind: Any, node: yaml.Node, path: str) -> Any:
        if _is_null(node):
            return ()
        if _is_scalar(node) and _VARIABLE.search(node.value):
            text = self._substitute(node, path)
            return _BAD if text is None else self.from_text(tuple[kind, ...], text, path, "", quote=False)
        if not _is_sequence(node):
            return self.complain(node.start_mark.line + 1, path, "a list is wanted", "begin each value with `- `")
        values = [self._value(kind, item, f"{path}[{at}]") for at, item in enumerate(node.value)]
        return _BAD if any(value is _BAD for value in values) else tuple(values)

    def _comparison(self, node: yaml.MappingNode, path: str) -> Any:
        pairs = self._pairs(node, path)
        line = node.start_mark.line + 1
        if len(pairs) != 1 or pairs[0][0] not in _SIGNS or not _is_scalar(pairs[0][2]):
            return self.complain(line, path, "one bound is wanted", "such as {gt: 1000/day}; lt, le, gt, ge or eq")
        return self._parsed(Comparison, (), f"{_SIGNS[pairs[0][0]]} {pairs[0][2].value}", path, line, quote=True)

    def _scalar(self, kind: Any, bounds: tuple[Between, ...], node: yaml.ScalarNode, path: str) -> Any:
        line = node.start_mark.line + 1
        is_plain, tag = not node.style, node.tag.removeprefix(_TAG)
        if _VARIABLE.search(node.value):
            text = self._substitute(node, path)
            return _BAD if text is None else self._parsed(kind, bounds, text, path, line, quote=False)
        if tag == "null":
            return self.complain(line, path, "it has no value", "give it one, or remove the key for the default")
        if kind in _NUMBERS and not is_plain:
            return self.complain(line, path, "it is text", "remove the quotes")
        is_text = kind not in _NUMBERS and kind not in _QUOTED_OR_PLAIN and typing.get_origin(kind) is not Literal
        if is_text and is_plain and tag != "str":
            shown = "..." if kind is Secret else node.value
            mend = f'quote it: {path.rpartition(".")[2]}: "{shown}"'
            return self.complain(line, path, f"text is wanted, and this reads as {_READS_AS.get(tag, tag)}", mend)
        if kind is Comparison and node.style in (">", "|"):
            return self.complain(line, path, f"a bare {node.style} begins a block of text in YAML", _quote_bound(path))
        return self._parsed(kind, bounds, node.value, path, line, quote=kind not in _UNQUOTABLE)

    def _parsed(self, kind: Any, bounds: tuple[Between, ...], text: str, path: str, line: int, *, quote: bool) -> Any:
        try:
            value = parse(kind, text)
            for bound in bounds:
                bound.check(value)
        except ValueError as error:
            words = str(error)
            if quote:
                shown = "" if repr(text) in words else f" (found {text[:80]!r})"
                mend = _nearest_option(kind, text)
                return self.complain(line, path, words + shown, mend)
            return self.complain(line, path, words if text not in words else "the value is malformed")
        return value

    def _substitute(self, node: yaml.ScalarNode, path: str) -> str | None:
        """The scalar with its `${VAR}`s filled in; None when one is missing."""
        line = node.start_mark.line + 1
        missing = False

        def fill(match: re.Match[str]) -> str:
            nonlocal missing
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                missing = True
                self.complain(
                    line, path, "a `${` that names no variable", "write ${NAME}, or $${ for the two characters"
                )
                return ""
            value = lookup(match[1], self._environ, lambda message: self.complain(line, path, message))
            if value is None and match[2] is None:
                missing = True
                mend = f"export {match[1]}=..., or {match[1]}_FILE=/path, or write ${{{match[1]}:-default}}"
                self.complain(line, path, f"the variable {match[1]} is not set", mend)
            return value if value is not None else (match[2] or "")

        text = _VARIABLE.sub(fill, node.value)
        return None if missing else text

    def from_text(self, kind: Any, text: str, path: str, origin: str, *, quote: bool) -> Any:
        """A value from a variable or a flag: lists by comma, the rest as in a file. `quote` may show the text."""
        if origin:
            self.origins[path] = origin
        kind, bounds, optional = unwrap(kind)
        if optional and text == "null":
            return None
        line = self.lines.get(path, 0) if not origin else 0
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            parts = [part.strip() for part in text.split(",") if part.strip()]
            quote = quote and item not in _UNQUOTABLE
            values = [self._parsed(*unwrap(item)[:2], part, path, line, quote=quote) for part in parts]
            return _BAD if any(value is _BAD for value in values) else tuple(values)
        return self._parsed(kind, bounds, text, path, line, quote=quote and kind not in _UNQUOTABLE)

    def _unknown(self, name: str, line: int, path: str, known: list[str], section: type[Section] | None) -> None:
        near = difflib.get_close_matches(name, known, 1, 0.6)
        mend = f"did you mean `{near[0]}`?" if near else _belongs(name) or f"known here: {', '.join(known)}"
        self.complain(line, _join(path, name), "unknown key", mend)

    def build(self, draft: Draft, path: str) -> Any:
        """The section of a draft, defaults filled in; a required key that is missing is a problem."""
        values: dict[str, Any] = {}
        for name, field in fields(draft.section).items():
            value = draft.get(name, REQUIRED)
            if isinstance(value, Draft):
                value = self.build(value, _join(path, name))
            elif type(value) is tuple:  # a list; a bound is a named one, and stays what it is
                items = enumerate(value)
                value = tuple(self.build(v, f"{path}.{name}[{at}]") if isinstance(v, Draft) else v for at, v in items)
            if value is REQUIRED:
                value = field.default
            if value is REQUIRED:
                mend = f"add it below line {draft.line}" if draft.line else ""
                self.complain(draft.line, _join(path, name), "this key is missing", mend)
                value = _BAD
            values[name] = value
        return _BAD if any(value is _BAD or _has_bad(value) for value in values.values()) else draft.section(**values)


def _has_bad(value: Any) -> bool:
    return isinstance(value, tuple) and any(item is _BAD for item in value)


def is_bad(value: Any) -> bool:
    """Whether this stands for a value whose problem is noted."""
    return value is _BAD


def unwrap(kind: Any) -> tuple[Any, tuple[Between, ...], bool]:
    """A type without `Annotated` and `| None`: the type inside, its bounds, whether null is allowed."""
    bounds: tuple[Between, ...] = ()
    optional = False
    while True:
        origin = typing.get_origin(kind)
        if origin is Annotated:
            kind, *extra = typing.get_args(kind)
            bounds += tuple(item for item in extra if isinstance(item, Between))
        elif origin in (typing.Union, types.UnionType) and type(None) in typing.get_args(kind):
            rest = [item for item in typing.get_args(kind) if item is not type(None)]
            kind, optional = (rest[0] if len(rest) == 1 else typing.Union[tuple(rest)]), True  # noqa: UP007
        else:
            return kind, bounds, optional


def parse(kind: Any, text: str) -> Any:
    """A scalar of `kind` from text. Raises ValueError."""
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        if text not in options:
            raise ValueError(f"one of {', '.join(options)} is wanted")
        return text
    if kind is Path:
        if not text or "\0" in text:
            raise ValueError("a path is wanted")
        return Path(text)
    parser: Callable[[str], Any] = PARSERS[kind]
    return parser(text)


def lookup(name: str, environ: Mapping[str, str], complain: Callable[[str], object]) -> str | None:
    """A variable's value: of NAME, else of the file that NAME_FILE names; None when neither is set."""
    for word in (name, *([_ALIASES[name]] if name in _ALIASES else [])):
        if environ.get(word):
            return environ[word]
        file = environ.get(f"{word}_FILE")
        if file:
            try:
                with Path(file).open(encoding="utf-8") as handle:
                    return handle.read(FILE_BYTES_MAX).rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = (getattr(error, "strerror", None) or "no UTF-8 text").lower()
                complain(f"{word}_FILE names {file}, which cannot be read: {reason}")
                return ""
    return None


def files_of(text: str, environ: Mapping[str, str]) -> list[Path]:
    """Files from which the `${NAME}`s of a file's text, and Cloudflare's own variables, are taken: `NAME_FILE`."""
    named = dict.fromkeys([*(match[1] for match in _VARIABLE.finditer(text) if match[1]), *_OF_CLOUDFLARE])
    words = dict.fromkeys(word for name in named for word in (name, _ALIASES.get(name, name)))
    return [Path(environ[f"{word}_FILE"]) for word in words if environ.get(f"{word}_FILE") and not environ.get(word)]


def _belongs(name: str) -> str:
    from rage_net.config.table import all_keys

    places = [key.path.rpartition(".")[0] for key in all_keys() if key.path.rpartition(".")[2] == name]
    return f"it belongs under `{places[0]}`" if places else ""


def _quote_bound(path: str) -> str:
    return f'quote it: {path.rpartition(".")[2]}: "> 1000/day"'


def _nearest_option(kind: Any, text: str) -> str:
    if typing.get_origin(kind) is not Literal:
        return ""
    near = difflib.get_close_matches(text, typing.get_args(kind), 1, 0.5)
    return f"did you mean `{near[0]}`?" if near else ""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_scalar(node: yaml.Node) -> TypeGuard[yaml.ScalarNode]:
    return getattr(node, "id", "") == "scalar"


def _is_mapping(node: yaml.Node) -> TypeGuard[yaml.MappingNode]:
    return getattr(node, "id", "") == "mapping"


def _is_sequence(node: yaml.Node) -> TypeGuard[yaml.SequenceNode]:
    return getattr(node, "id", "") == "sequence"


def _is_null(node: yaml.Node) -> bool:
    return _is_scalar(node) and node.tag == _TAG + "null" and not node.style
