"""Writes the generated parts of `contracts/network-layer.yaml` from the verbs: control paths and their schemas.

Run as `make openapi`; a test fails when the file is stale. What stands outside the marked parts is written by hand.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rage_net import verbs
from rage_net.verbs import Verb

PAGE = Path(__file__).parent.parent / "contracts" / "network-layer.yaml"

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def document(text: str) -> str:
    """The page with its generated parts made anew."""
    registry = dict(sorted(verbs.registry().items()))
    schemas = dict(sorted(_schemas(registry).items()))
    for name, part in (("paths", {f"/v1/{r}": _path(r, kind) for r, kind in registry.items()}), ("schemas", schemas)):
        begin, end = f"# begin generated: {name}\n", f"# end generated: {name}\n"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE}: no part {name!r}")
        indent = " " * (len(head) - len(head.rstrip(" ")))
        lines = "".join(f"{indent}{line}\n" for line in _yaml(part))
        text = f"{head}{begin}{lines}{indent}{end}{tail}"
    return text


def _schemas(registry: dict[str, type[Verb[Any]]]) -> dict[str, Any]:
    """A schema for each verb, its result, its items, and every dataclass within them."""
    found: dict[str, Any] = {}
    waiting: list[Any] = []
    for kind in registry.values():
        waiting += [kind, kind.result, *([kind.item] if kind.item is not None else [])]
    owners: dict[str, Any] = {}
    while waiting:
        kind = waiting.pop()
        if owners.setdefault(kind.__name__, kind) is not kind:
            raise SystemExit(f"two dataclasses are called {kind.__name__}")
        if kind.__name__ not in found:
            found[kind.__name__] = _object(kind, waiting)
    return found


def _object(kind: Any, waiting: list[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    required, properties = [], {}
    for field in dataclasses.fields(kind):
        schema = _schema(hints[field.name], waiting)
        if field.default is not dataclasses.MISSING and "$ref" not in schema:
            schema = {**schema, "default": verbs.encode(field.default)}
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = schema
    described = {"description": _first_line(kind)} if kind.__doc__ else {}
    return {
        "type": "object",
        **described,
        **({"required": required} if required else {}),
        **({"properties": properties} if properties else {}),
    }


def _schema(kind: Any, waiting: list[Any]) -> dict[str, Any]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        options = [_schema(one, waiting) for one in inner]
        if all(set(option) == {"type"} for option in options):
            return {"type": [option["type"] for option in options]}
        return {"oneOf": options}
    if origin is tuple:
        return {"type": "array", "items": _schema(inner[0], waiting)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], waiting)}
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if dataclasses.is_dataclass(kind):
        waiting.append(kind)
        return _reference(kind)
    return dict(_PLAIN[kind])


def _path(route: str, kind: type[Verb[Any]]) -> dict[str, Any]:
    """One verb as a path: the verb in, lines or octets out."""
    noun, _, word = route.partition("/")
    does = (
        "Changes something; runs on when the client leaves." if kind.mutates else "Reads; ends when the client leaves."
    )
    operation: dict[str, Any] = {
        "tags": ["control"],
        "operationId": f"{noun}.{word}",
        "summary": _first_line(kind),
        "description": does,
        "x-rage-mutates": kind.mutates,
    }
    if kind.octets_in:
        operation["parameters"] = [
            {
                "name": "X-Rage-Verb",
                "in": "header",
                "description": f"{kind.__name__} as base64url JSON.",
                "schema": {"type": "string", "contentMediaType": "application/json", "contentEncoding": "base64url"},
            }
        ]
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
        operation["x-rage-verb"] = _reference(kind)
    else:
        operation["requestBody"] = {"content": {"application/json": {"schema": _reference(kind)}}}
    operation["responses"] = {
        "200": _octets(kind) if kind.octets_out else _lines(kind),
        "default": {"$ref": "#/components/responses/Other"},
    }
    return {"servers": [{"url": "http://node", "description": "Over the Unix socket."}], "post": operation}


def _octets(kind: type[Verb[Any]]) -> dict[str, Any]:
    return {
        "description": "The octets; the result is at `/v1/op/{id}`.",
        "headers": {"X-Rage-Op": {"$ref": "#/components/headers/RageOp"}},
        "content": {"application/octet-stream": {}},
        "x-rage-result": _reference(kind.result),
    }


def _lines(kind: type[Verb[Any]]) -> dict[str, Any]:
    """Newline-delimited JSON: OpenAPI 3.1 has no word for the schema of a line, so it stands in an extension."""
    line: list[Any] = [{"$ref": "#/components/schemas/ProgressLine"}]
    if kind.item is not None:
        line += [_line("item", kind.item), {"$ref": "#/components/schemas/DroppedLine"}]
    line += [_line("result", kind.result), {"$ref": "#/components/schemas/Error"}]
    return {
        "description": "Lines of JSON, the last one a result or an error.",
        "headers": {"X-Rage-Op": {"$ref": "#/components/headers/RageOp"}},
        "content": {"application/x-ndjson": {"schema": {"type": "string"}, "x-rage-line": {"oneOf": line}}},
    }


def _line(name: str, kind: Any) -> dict[str, Any]:
    properties = {"type": {"const": name}, name: _reference(kind)}
    return {"type": "object", "required": ["type", name], "properties": properties}


def _reference(kind: Any) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _first_line(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _yaml(value: dict[str, Any]) -> Iterator[str]:
    """Lines of block style down to what fits a line; JSON, which is YAML, from there on."""
    for key, inner in value.items():
        flat = json.dumps(inner, ensure_ascii=False)
        name = json.dumps(key) if not key.replace("_", "").replace("-", "").replace("/", "").isalpha() else key
        if isinstance(inner, dict) and inner and len(flat) > 80:
            yield f"{name}:"
            yield from (f"  {line}" for line in _yaml(inner))
        else:
            yield f"{name}: {flat}"


def main() -> None:
    """Write the page, and say whether it changed."""
    old = PAGE.read_text("utf-8")
    new = document(old)
    if new != old:
        PAGE.write_text(new, "utf-8")
    sys.stderr.write(f"{'wrote' if new != old else 'kept'} {PAGE.name}\n")


if __name__ == "__main__":
    main()
