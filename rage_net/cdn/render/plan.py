"""What both renderers make of cdn.yaml: hosts, paths with their times, and texts that are safe to write. Pure.

Times here are for answers whose origin says nothing of its own: an edge heeds CDN-Cache-Control, then
Surrogate-Control, then Cache-Control, and none of them above `max_ttl`. Source: issue 6, C and E; RFC 9111, 9213.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rage_net.cdn.answers import bases_of
from rage_net.config.cdn import Cdn, Edge, Provider
from rage_net.errors import ConfigError

BROWSER_S_MAX = 60
"""A browser cannot be purged."""
MISSING_S = 5
"""For which an edge keeps "not here": what is published is found soon after."""
OBJECT_BYTES_MAX = 64 * 1024 * 1024
"""Larger answers are passed on without being kept: one must not drive out a thousand chunks."""
OWN_PATTERNS = ("/chunks/*", "/ipfs/*")
"""What a rage node serves to CDNs: always rendered, after the rules."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of the edge's certificate (with its chain) and key, as paths on the edge."""

    cert_file: str
    key_file: str
    listen: str = "443"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one form of path is kept, in whole seconds."""

    pattern: str
    ttl_s: int
    stale_s: int
    is_immutable: bool
    is_kept: bool

    @property
    def regex(self) -> str:
        """The pattern over a path without its query: `*` is anything."""
        return (
            "^" + ".*".join(re.sub(r"[.+?()\[\]{}|^$\\]", r"\\\g<0>", part) for part in self.pattern.split("*")) + "$"
        )

    @property
    def browser(self) -> str:
        """Cache-Control for browsers where the origin gives none."""
        if not self.is_kept:
            return "no-store"
        if self.is_immutable:
            return f"public, max-age={self.ttl_s}, immutable"
        return f"public, max-age={min(self.ttl_s, BROWSER_S_MAX)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rendered."""

    hosts: tuple[str, ...]
    """Names without ports, in lower case: what the edge serves, and the only ones."""
    own_hosts: tuple[str, ...]
    """The edges' own names, likewise: files are put there by WebDAV."""
    rules: tuple[Rule, ...]
    """The first whose pattern matches counts; other paths are not served."""
    max_ttl_s: int
    origin_host: str
    origin_port: int
    origin_netloc: str
    callers: tuple[str, ...]
    """Addresses or networks that may purge."""


def plan(cdn: Cdn, provider: Provider, origin: str, callers: Sequence[str]) -> Plan:
    """Read cdn.yaml for one provider. Raises: ConfigError for what no edge can be told."""
    if not isinstance(provider.config, Edge):
        raise ConfigError(
            f"{provider.name} is no edge of yours: {provider.software}",
            why="Varnish and nginx are rendered",
            mend=["rage config show cdn"],
        )
    if bases_of(provider.public_urls) != ("",):
        raise ConfigError(
            f"public_urls of {provider.name} have a path",
            why="the rendered edge serves rage at the root of a host",
            mend=["name a host of its own in public_urls", "write the edge's configuration by hand"],
        )
    where = urlsplit(origin)
    if where.scheme != "http" or not where.hostname or where.path.strip("/") or where.query:
        raise ConfigError(
            f"an edge cannot fetch from {origin}",
            why="it fetches over plain HTTP, from a host and port without a path",
            mend=("give http://HOST:PORT of the node", "over other people's networks: a tunnel, or TLS by stunnel"),
        )
    policy = cdn.cache_policy
    rules = [
        Rule(
            pattern=checked(rule.pattern, "a rule's pattern"),
            ttl_s=int(min(policy.default_ttl if rule.ttl is None else rule.ttl, policy.max_ttl)),
            stale_s=int(rule.stale_while_revalidate),
            is_immutable=rule.immutable and rule.pattern not in OWN_PATTERNS,
            is_kept=rule.cache and (rule.ttl is None or rule.ttl >= 1),
        )
        for rule in policy.rules
    ]
    ttl_s = int(min(policy.default_ttl, policy.max_ttl))
    rules += [Rule(pattern, ttl_s, 0, False, ttl_s >= 1) for pattern in OWN_PATTERNS if pattern not in _of(rules)]
    return Plan(
        hosts=_hosts(provider.public_urls or provider.config.endpoints),
        own_hosts=_hosts(provider.config.endpoints),
        rules=tuple(rules),
        max_ttl_s=max(1, int(policy.max_ttl)),
        origin_host=checked(where.hostname, "the origin's host"),
        origin_port=where.port or 80,
        origin_netloc=checked(where.netloc.rpartition("@")[2], "the origin's host"),
        callers=tuple(network(caller) for caller in callers),
    )


def _hosts(urls: Sequence[str]) -> tuple[str, ...]:
    names = (urlsplit(url).hostname or "" for url in urls)
    return tuple(dict.fromkeys(checked(f"[{name}]" if ":" in name else name, "a host") for name in names))


def _of(rules: Sequence[Rule]) -> set[str]:
    return {rule.pattern for rule in rules}


def checked(text: str, what: str) -> str:
    """A text that ends no quotation and no line in either language. Raises: ConfigError."""
    if not text or any(not "!" <= char <= "~" or char in "\"'`;\\{}<>#" for char in text):
        raise ConfigError(
            f"{what} cannot be written into an edge's configuration: {text!r}",
            why="printable ASCII is wanted, without blanks, quotes and brackets" if text else "it is empty",
            mend=["rage cdn render --help", "rage config show cdn"],
        )
    return text


def checked_path(path: Path | str, what: str) -> str:
    """A file's absolute path, likewise. Raises: ConfigError."""
    text = str(path)
    if not text.startswith("/") or any(not " " < char <= "~" or char in "\"'`;\\{}<>#$" for char in text):
        raise ConfigError(
            f"{what} is no absolute path that an edge's configuration can hold: {text!r}",
            why="it is a path on the edge: / first, printable ASCII, without blanks, quotes, $ and brackets",
            mend=["rage cdn render --help"],
        )
    return text


def network(text: str) -> str:
    """An address or a network, as both languages take it. Raises: ConfigError."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is no address or network that may purge",
            why=str(error),
            mend=["--caller 10.0.0.5", "--caller 10.0.0.0/24"],
        ) from error


def above(number: int) -> str:
    """A regular expression for decimal numbers, without leading zeros, above `number`: nginx compares no numbers."""
    digits = str(number)
    forms = [f"[1-9][0-9]{{{len(digits)},}}"]
    for at, digit in enumerate(digits):
        if digit != "9":
            rest = len(digits) - at - 1
            forms.append(f"{digits[:at]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return "(?:" + "|".join(forms) + ")"
