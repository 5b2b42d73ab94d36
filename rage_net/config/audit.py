"""What `rage config show` and `rage config check` answer: every value with its place, every problem of every file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rage_net import config
from rage_net.config.reader import Problem
from rage_net.config.section import Section
from rage_net.config.values import Comparison, Secret
from rage_net.errors import ConfigError, NotFoundError

ROOTS = ("network", "cdn", "replication")


@dataclass(frozen=True, slots=True)
class Row:
    """One key that holds; `value` is plain JSON with secrets masked, `origin` is `default`, `file:line`, `env X`."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file that was looked at. `keys` counts what it sets."""

    path: str
    exists: bool
    keys: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The files and all their problems; those with `is_error` false are warnings."""

    files: tuple[CheckedFile, ...]
    problems: tuple[Problem, ...]

    @property
    def is_valid(self) -> bool:
        """Whether there are warnings at most."""
        return not any(problem.is_error for problem in self.problems)


def show(
    home: Path,
    *,
    environ: Mapping[str, str],
    file: Path | None,
    prefix: str = "",
    flags: Mapping[str, str] | None = None,
) -> tuple[Row, ...]:
    """Every key whose dotted name begins with `prefix`, as it holds. Files that have no such key are not read.

    Raises: ConfigError when a file that is read is invalid, NotFoundError when no key begins so.
    """
    found = config.load(home, environ=environ, file=file, flags=flags, files=False)
    rows: list[Row] = []
    for root in ROOTS:
        if not (root.startswith(prefix) or _is_below(prefix, root)):
            continue
        section, origins = _load(root, found, environ)
        for key, value in _flatten(section, root):
            if not prefix or _is_below(key, prefix):
                rows.append(Row(key, _plain(value), origins.get(key, "default")))
    if not rows:
        raise NotFoundError(f"no key {prefix!r}", mend=_like(prefix), id="config-key-unknown")
    return tuple(rows)


def check(home: Path, *, environ: Mapping[str, str], file: Path | None) -> CheckResult:
    """All three files of a home, all their problems at once. A missing file holds defaults and is no problem."""
    network = file or home / "config" / "network.yaml"
    files: list[CheckedFile] = []
    problems: list[Problem] = []
    found = config.defaults(home)  # where the other two files are looked for when this one is invalid
    named: dict[str, bool] = {}
    try:
        found = config.load(home, environ=environ, file=file)
        problems += found.warnings
        files.append(CheckedFile(str(network), network.exists(), _count(found.origins, str(network))))
        named = {
            "cdn": "network.cdn.providers_config_file" in found.origins,
            "replication": "network.replication.policies_file" in found.origins,
        }
    except ConfigError as error:
        problems += _problems(error, network)
        files.append(CheckedFile(str(network), network.exists(), 0))
    places = (
        ("cdn", found.network.cdn.providers_config_file),
        ("replication", found.network.replication.policies_file),
    )
    for root, path in places:
        one = check_file(path, None, home=home, environ=environ, root=root, must_exist=named.get(root, False))
        files += one.files
        problems += one.problems
    return CheckResult(tuple(files), tuple(problems))


def check_file(
    path: Path,
    data: bytes | None,
    *,
    home: Path,
    environ: Mapping[str, str],
    root: str = "",
    must_exist: bool = True,
) -> CheckResult:
    """One file by itself; `data` instead of reading it. Without `root`, its first key says which of the three it is."""
    read = {"network": config.read_network, "cdn": config.read_cdn, "replication": config.read_replication}
    try:
        exists = data is not None or path.exists()
        data = config.read_bytes(path, must_exist=must_exist) if data is None else data
        _, warnings, origins = read[root or _sniff(data)](path, data, environ, home)
    except ConfigError as error:
        return CheckResult((CheckedFile(str(path), path.exists(), 0),), tuple(_problems(error, path)))
    return CheckResult((CheckedFile(str(path), exists, _count(origins, str(path))),), warnings)


def _sniff(data: bytes) -> str:
    for line in data.splitlines():
        for root in ROOTS:
            if line.startswith(f"{root}:".encode()):
                return root
    return "network"


def _problems(error: ConfigError, path: Path) -> Sequence[Problem]:
    if isinstance(error, config.InvalidConfigError):
        return error.problems
    return [Problem(str(path), 0, "", error.message.removeprefix(f"{path}: "), error.mend[0] if error.mend else "")]


def _count(origins: Mapping[str, str], path: str) -> int:
    """Keys with a value of their own: those below which there is no other."""
    keys = [key for key, origin in origins.items() if origin.startswith(f"{path}:")]
    above = {key[: len(key) - len(rest)] for key in keys for rest in _tails(key)}
    return sum(key not in above for key in keys)


def _load(root: str, found: config.Config, environ: Mapping[str, str]) -> tuple[Section, Mapping[str, str]]:
    network = found.network
    if root == "network":
        return network, found.origins
    if root == "cdn":
        path, read = network.cdn.providers_config_file, config.read_cdn
        section: Section = config.load_cdn(found, environ=environ)
        return section, read(path, config.read_bytes(path, must_exist=False), environ, found.home)[2]
    path = network.replication.policies_file
    replication = config.load_replication(found, environ=environ)
    data = config.read_bytes(path, must_exist=False)
    alone, _, origins = config.read_replication(path, data, environ, found.home)
    if alone.default_factor != replication.default_factor:  # it is network.yaml's, or the environment's
        outer = found.origins.get("network.replication.default_factor", "default")
        origins = {**origins, "replication.default_factor": outer}
    return replication, origins


def _flatten(section: Section, path: str) -> Iterator[tuple[str, Any]]:
    """Every key with its value, dotted; sections in lists are numbered."""
    for name, value in section.items():
        here = f"{path}.{name}"
        if isinstance(value, Section):
            yield from _flatten(value, here)
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            for at, item in enumerate(value):
                yield from _flatten(item, f"{here}[{at}]")
        else:
            yield here, value


def _like(prefix: str) -> list[str]:
    import difflib

    from rage_net.config.table import all_keys

    near = difflib.get_close_matches(prefix, [key.path for key in all_keys()], 1, 0.5)
    near = near or [key.path for key in all_keys() if key.path.rpartition(".")[2] == prefix]
    return [f"rage config show {key}" for key in near] or ["rage config show"]


def _plain(value: Any) -> Any:
    if isinstance(value, Secret | Comparison | Path):
        return str(value)
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tails(key: str) -> Iterator[str]:
    return (key[at:] for at, char in enumerate(key) if char in ".[")


def _is_below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith((f"{prefix}.", f"{prefix}["))
