"""Typed, checked configuration: flag over environment over file over default, with where each value came from.

`load` gives network.yaml; `load_cdn` and `load_replication` read their files only for verbs that use them. Not here:
what the values do. Source: design 4.2; specification, "Configuration".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rage_net.config.network import VERSION, Network
from rage_net.config.section import Section
from rage_net.config.values import FILE_BYTES_MAX, Comparison, Secret, split_endpoint
from rage_net.errors import ConfigError

if TYPE_CHECKING:
    from rage_net.config.cdn import Cdn
    from rage_net.config.reader import Draft, Problem, Reader
    from rage_net.config.replication import Replication

ENVIRONMENT: Mapping[str, str] = {
    "RAGE_NODE_ID": "network.node_id",
    "RAGE_PEER_KEY_PATH": "network.security.peer_key",
    "RAGE_LISTEN_ADDRESS": "network.libp2p.listen_addresses",
    "RAGE_DISCOVERY_SERVERS": "network.discovery.servers",
    "RAGE_AUTO_REGISTER": "network.discovery.registration.auto_register",
    "RAGE_CDN_ENABLED": "network.cdn.enabled",
    "RAGE_REPLICATION_FACTOR": "network.replication.default_factor",
    "RAGE_SYNC_INTERVAL": "network.sync.interval",
    "RAGE_ORG_ID": "network.organization_id",
    "RAGE_TLS_CERT": "network.security.tls_cert",
    "RAGE_TLS_KEY": "network.security.tls_key",
}
"""Variable -> the key it sets; lists by comma, an empty variable is none. CLOUDFLARE_ZONE_ID and CLOUDFLARE_API_TOKEN
(or CLOUDFLARE_TOKEN) set the keys of every provider whose software is cloudflare."""


class InvalidConfigError(ConfigError):
    """Configuration with problems; says the first and lists all in `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first, *others = self.problems
        more = f"{len(others)} more: " + "; ".join(str(other) for other in others[:5]) if others else ""
        mend = [first.mend] if first.mend else []
        super().__init__(str(first), why=more, mend=[*mend, "rage config check"])


@dataclasses.dataclass(frozen=True, eq=False)
class Config:
    """What holds for a node. Paths are absolute. `origins` names the place of every key that is not at its default."""

    home: Path
    network: Network
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


def defaults(home: Path) -> Config:
    """What holds where nothing is configured; reads nothing."""
    return Config(home, _absolute(Network(), home))


def load(
    home: Path,
    *,
    environ: Mapping[str, str],
    file: Path | None = None,
    flags: Mapping[str, str | Sequence[str]] | None = None,
    files: bool = True,
) -> Config:
    """network.yaml, the environment and the flags of a command as one configuration.

    Args:
        home: the data directory, for relative paths and `config/network.yaml`, which may be missing.
        environ: environment variables, also for `${VAR}`.
        file: another network.yaml (`--config`), which must exist.
        flags: values by dotted key, such as {"network.libp2p.listen_addresses": ["/ip4/127.0.0.1/tcp/0"]}.
        files: check that certificates which are set can be read; a missing CA must never mean an open node.
    Raises: InvalidConfigError (ConfigError, exit 10) naming file, line, key and the mend of every problem.
    """
    path = file or home / "config" / "network.yaml"
    data = read_bytes(path, must_exist=file is not None)
    variables = {name: environ[name] for name in ENVIRONMENT if environ.get(name)}
    if _is_empty(data) and not variables and not flags:
        return defaults(home)
    from rage_net.config import network as module
    from rage_net.config.reader import Reader

    reader = Reader(str(path), environ)
    draft = _read_network(reader, data)
    _override(reader, draft, variables, flags or {})
    network, warnings = _finish(reader, draft, "network", module.check, home)
    config = Config(home, network, reader.origins, (*warnings, *_not_built(reader, module.NOT_BUILT)))
    if files:
        check_files(config, reader.lines, str(path))
    return config


def load_cdn(config: Config, *, environ: Mapping[str, str]) -> Cdn:
    """cdn.yaml as it holds for this node: `enabled` only where network.yaml enables CDNs too.

    Raises: InvalidConfigError. A file that network.yaml names must exist.
    """
    from rage_net.config import cdn as module

    path = config.network.cdn.providers_config_file
    data = read_bytes(path, must_exist="network.cdn.providers_config_file" in config.origins)
    cdn = read_cdn(path, data, environ, config.home)[0] if not _is_empty(data) else module.Cdn()
    return cdn.replace(enabled=cdn.enabled and config.network.cdn.enabled)


def load_replication(config: Config, *, environ: Mapping[str, str]) -> Replication:
    """replication.yaml as it holds for this node: `default_factor` is the one that counts, never None.

    Environment and flags win over replication.yaml's factor, and that over network.yaml's. Raises: InvalidConfigError.
    """
    from rage_net.config import replication as module

    path = config.network.replication.policies_file
    data = read_bytes(path, must_exist="network.replication.policies_file" in config.origins)
    found = read_replication(path, data, environ, config.home)[0] if not _is_empty(data) else module.Replication()
    outer = config.network.replication
    is_forced = config.origins.get("network.replication.default_factor", "").startswith(("env ", "flag "))
    factor = outer.default_factor if is_forced or found.default_factor is None else found.default_factor
    return found.replace(enabled=found.enabled and outer.enabled, default_factor=factor)


def read_network(
    path: Path, data: bytes, environ: Mapping[str, str], home: Path
) -> tuple[Network, tuple[Problem, ...], Mapping[str, str]]:
    """One network.yaml alone, without environment or flags: the section, its warnings, its origins."""
    from rage_net.config import network as module
    from rage_net.config.reader import Reader

    reader = Reader(str(path), environ)
    return *_finish(reader, _read_network(reader, data), "network", module.check, home), reader.origins


def read_cdn(
    path: Path, data: bytes, environ: Mapping[str, str], home: Path
) -> tuple[Cdn, tuple[Problem, ...], Mapping[str, str]]:
    """One cdn.yaml, with Cloudflare's variables: the section, its warnings, its origins."""
    from rage_net.config import cdn as module
    from rage_net.config.reader import Reader

    reader = Reader(str(path), environ)
    draft = _root(reader, data, "cdn", module.Cdn)
    _set_cloudflare(reader, draft, environ)
    return *_finish(reader, draft, "cdn", module.check, home), reader.origins


def read_replication(
    path: Path, data: bytes, environ: Mapping[str, str], home: Path
) -> tuple[Replication, tuple[Problem, ...], Mapping[str, str]]:
    """One replication.yaml alone: the section, its warnings, its origins."""
    from rage_net.config import replication as module
    from rage_net.config.reader import Reader

    reader = Reader(str(path), environ)
    draft = _root(reader, data, "replication", module.Replication)
    return *_finish(reader, draft, "replication", module.check, home), reader.origins


def check_files(config: Config, lines: Mapping[str, int], path: str) -> None:
    """Pass when every certificate and key that is set can be read. Raises: InvalidConfigError."""
    from rage_net.config.reader import Problem

    problems: list[Problem] = []
    for section, names in (("security", ("ca_cert", "tls_cert", "tls_key")), ("http", ("tls_cert", "tls_key"))):
        for name in names:
            key = f"network.{section}.{name}"
            target: Path | None = getattr(getattr(config.network, section), name)
            if target is None:
                continue
            try:
                with target.open("rb") as handle:
                    handle.read(1)
            except OSError as error:
                place = path if key in lines else config.origins.get(key, path)
                message = f"{target} cannot be read: {(error.strerror or 'unknown').lower()}"
                mend = "put the file there, or remove the key"
                if name == "ca_cert":  # without it the node would be open
                    mend = "put the file there: rage cert install --ca FILE"
                problems.append(Problem(place, lines.get(key, 0), key, message, mend))
    if problems:
        raise InvalidConfigError(problems)


def read_bytes(path: Path, *, must_exist: bool) -> bytes:
    """A file's bytes, at most FILE_BYTES_MAX and one; empty when it is missing and may be. Raises: ConfigError."""
    try:
        with path.open("rb") as handle:
            return handle.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        if not must_exist:
            return b""
        raise ConfigError(f"{path}: no such file", mend=["rage config path"], id="config-missing") from None
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}", mend=[f"ls -l {path}"]) from None


def _is_empty(data: bytes) -> bool:
    return len(data) <= FILE_BYTES_MAX and all(
        not line.strip() or line.lstrip().startswith(b"#") for line in data.splitlines()
    )


def _root(reader: Reader, data: bytes, name: str, section: type[Section]) -> Draft:
    from rage_net.config.reader import Draft

    return reader.read(data, {name: section}).get(name) or Draft(section)


def _read_network(reader: Reader, data: bytes) -> Draft:
    from rage_net.config.network import Bandwidth
    from rage_net.config.reader import Draft

    found = reader.read(data, {"network": Network, "bandwidth": Bandwidth})
    draft = found.get("network")
    if draft is None:
        draft = Draft(Network)
    beside = found.get("bandwidth")
    if beside is not None:  # where the specification prints it
        if "bandwidth" in draft:
            reader.complain(beside.line, "bandwidth", "it is there twice, also under `network:`", "keep one")
        draft["bandwidth"] = beside
    return draft


def _override(
    reader: Reader, draft: Draft, variables: Mapping[str, str], flags: Mapping[str, str | Sequence[str]]
) -> None:
    file = reader.file
    for name, text in variables.items():
        reader.file = f"environment variable {name}"
        _set(reader, draft, ENVIRONMENT[name], text, f"env {name}")
    for key, given in flags.items():
        reader.file = "command line"
        _set(reader, draft, key, given if isinstance(given, str) else ",".join(given), f"flag {key}")
    reader.file = file


def _set(reader: Reader, draft: Draft, key: str, text: str, origin: str) -> None:
    from rage_net.config.reader import Draft, unwrap
    from rage_net.config.section import fields

    *sections, name = key.split(".")[1:]
    for step in sections:
        kind = unwrap(fields(draft.section)[step].kind)[0]
        below = draft.get(step)
        if not isinstance(below, Draft):
            below = draft[step] = Draft(kind)
        draft = below
    draft[name] = reader.from_text(fields(draft.section)[name].kind, text, key, origin, quote=True)
    reader.lines.pop(key, None)


def _set_cloudflare(reader: Reader, draft: Draft, environ: Mapping[str, str]) -> None:
    from rage_net.config.reader import Draft, lookup

    providers = draft.get("providers", ())
    for at, provider in enumerate(providers if isinstance(providers, tuple) else ()):
        config = provider.get("config")
        if provider.get("software") != "cloudflare" or not isinstance(config, Draft):
            continue
        for variable, name in (("CLOUDFLARE_ZONE_ID", "zone_id"), ("CLOUDFLARE_API_TOKEN", "api_token")):
            complain = functools.partial(reader.complain, 0, variable)
            text = lookup(variable, environ, complain)
            if text:
                kind: Any = Secret if name == "api_token" else str
                key = f"cdn.providers[{at}].config.{name}"
                config[name] = reader.from_text(kind, text, key, f"env {variable}", quote=name == "zone_id")


def _finish(reader: Reader, draft: Draft, root: str, rules: Any, home: Path) -> tuple[Any, tuple[Problem, ...]]:
    from rage_net.config.reader import Problem, is_bad

    version = draft.get("version", VERSION)
    if isinstance(version, int) and not 0 <= version <= VERSION:  # other complaints would only mislead
        message = f"version {version} is newer than this rage, which reads up to {VERSION}"
        line = reader.lines.get(f"{root}.version", 0)
        raise InvalidConfigError([Problem(reader.file, line, f"{root}.version", message, "upgrade rage")])
    section = reader.build(draft, root)
    if reader.problems or is_bad(section):
        raise InvalidConfigError(sorted(reader.problems, key=lambda problem: problem.line))
    found: Iterable[tuple[str, str, str, bool]] = rules(section)
    noted = [Problem(*_place(reader, key), key, message, mend, is_error) for key, message, mend, is_error in found]
    errors = [problem for problem in noted if problem.is_error]
    if errors:
        raise InvalidConfigError(errors)
    return _absolute(section, home), tuple(noted)


def _not_built(reader: Reader, names: Sequence[str]) -> Iterator[Problem]:
    """One warning for all that was set and does nothing yet."""
    from rage_net.config.reader import Problem

    found = {name: key for name in names for key in reader.origins if key == name or key.startswith(f"{name}.")}
    if found:
        file, line = _place(reader, min(found.values(), key=lambda key: _place(reader, key)[1]))
        words = ", ".join(name.removeprefix("network.") for name in found)
        yield Problem(file, line, "", f"checked, but not built yet: {words}", is_error=False)


def _place(reader: Reader, key: str) -> tuple[str, int]:
    while key:
        if key in reader.lines:
            return reader.file, reader.lines[key]
        if key in reader.origins:
            return reader.origins[key], 0
        key = key.rpartition("[")[0] if key.endswith("]") else key.rpartition(".")[0]
    return reader.file, 0


def _absolute(section: Any, home: Path) -> Any:
    """The section with every path resolved against the home."""
    changed: dict[str, Any] = {}
    for name, value in section.items():
        if isinstance(value, Path):
            changed[name] = home / value.expanduser()
        elif isinstance(value, Section):
            below = _absolute(value, home)
            if below is not value:
                changed[name] = below
        elif isinstance(value, tuple):
            rows = tuple(_absolute(row, home) if isinstance(row, Section) else row for row in value)
            if any(row is not before for row, before in zip(rows, value, strict=True)):
                changed[name] = rows
    return section.replace(**changed) if changed else section


__all__ = [
    "ENVIRONMENT",
    "Comparison",
    "Config",
    "InvalidConfigError",
    "Network",
    "Secret",
    "check_files",
    "defaults",
    "load",
    "load_cdn",
    "load_replication",
    "split_endpoint",
]
