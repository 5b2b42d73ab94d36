"""Verbs at the top: `why` something cannot be had, and the `doctor`."""

from __future__ import annotations

from typing import ClassVar

from rage_net.verbs import Verb, dataclass


@dataclass(frozen=True, slots=True)
class WhyStep:
    """One link of the chain. `state` is ok, broken, warning or skipped; `mend` are commands to copy."""

    name: str
    state: str
    message: str
    mend: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class WhyResult:
    """The walk over all links. `is_ok` when the subject can be had; `broken` names the first link that is not whole."""

    subject: str
    kind: str
    """chunk, document or peer."""
    is_ok: bool
    verdict: str
    broken: str
    mend: tuple[str, ...]
    steps: tuple[WhyStep, ...]


@dataclass(frozen=True, slots=True)
class Why(Verb[WhyResult]):
    """Why a CID, document or peer can or cannot be had here."""

    route: ClassVar[str] = "diagnose/why"
    result: ClassVar[type] = WhyResult

    subject: str
    peers: tuple[str, ...] = ()
    """Multiaddrs to ask besides."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `level` is ok, warning, error or skipped."""

    id: str
    level: str
    message: str
    why: str
    mend: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DoctorResult:
    """All checks, in a fixed order, and how many were not ok."""

    checks: tuple[Check, ...]
    errors: int
    warnings: int


DOCTOR_CHECKS = (
    "home",
    "permissions",
    "config",
    "clock",
    "disk",
    "files",
    "node",
    "ports",
    "certificate",
    "ca",
    "log",
    "addresses",
    "bootstrap",
    "discovery",
    "dht",
    "mdns",
    "trust",
    "acl",
    "sync",
    "cdn",
    "purges",
)
"""The ids, in the order in which they are made."""


@dataclass(frozen=True, slots=True)
class Doctor(Verb[DoctorResult]):
    """Look at everything a node needs; `only` names some of DOCTOR_CHECKS."""

    route: ClassVar[str] = "diagnose/doctor"
    result: ClassVar[type] = DoctorResult

    only: tuple[str, ...] = ()
