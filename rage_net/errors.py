"""The whole tree of errors, with both codes: the exit code of the command line and the status on the wire.

Grouped by what the caller does next, not by where it happened. Each error says what failed (`message`), `why`, and
how to mend it (`mend`, commands to copy). `id` is a stable word that scripts may compare; a class has a default, a
raise may narrow it. Any exception outside this tree is a bug and shows its traceback.

Source: design 4.5 and style, "Errors".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rage_net.libp2p.errors import LocalProtocolError, ProtocolError, RemoteProtocolError

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 3
EXIT_FINDINGS = 6
EXIT_INTERRUPT = 130
EXIT_TERMINATED = 143
EXIT_PIPE = 141


class RageError(Exception):
    """The root: only its children are raised."""

    id = "failed"
    exit_code = EXIT_BUG
    wire_code = 500
    retryable = False

    def __init__(self, message: str, *, why: str = "", mend: Sequence[str] = (), id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.mend = tuple(mend)
        if id is not None:
            self.id = id

    def to_plain(self) -> dict[str, Any]:
        """The error as JSON values: what `--json` prints and what the control API sends."""
        return {
            "type": "error",
            "code": self.id,
            "exit": self.exit_code,
            "message": self.message,
            "why": self.why,
            "mend": list(self.mend),
            "retryable": self.retryable,
        }


class UsageError(RageError):
    """The caller's words are off: an argument, a flag, a missing `--yes`."""

    id, exit_code, wire_code = "usage", EXIT_USAGE, 400


class ConfigError(RageError):
    """Configuration is invalid; names file, line, key and the nearest valid key."""

    id, exit_code, wire_code = "config-invalid", 10, 500


class NotFoundError(RageError):
    """No such chunk, document, peer or file."""

    id, exit_code, wire_code = "not-found", 5, 404


class AccessDeniedError(RageError):
    """An ACL, trust or a permission forbids it."""

    id, exit_code, wire_code = "denied", 4, 403


class CertificateError(RageError):
    """A certificate is expired, untrusted or revoked."""

    id, exit_code, wire_code = "certificate", 4, 403


class ConflictError(RageError):
    """A lock is held, a version is stale, a store is newer than this program."""

    id, exit_code, wire_code = "conflict", 9, 409


class IntegrityError(RageError):
    """Bytes do not match their CID, signature or schema."""

    id, exit_code, wire_code = "integrity", 8, 422


class FindingsError(RageError):
    """A check worked, and its answer is no."""

    id, exit_code, wire_code = "findings", EXIT_FINDINGS, 404


class UnavailableError(RageError):
    """A node, peer or provider does not answer or is busy; try again."""

    id, exit_code, wire_code, retryable = "unavailable", 7, 503, True


class DeadlineError(RageError):
    """The caller's time ran out."""

    id, exit_code, wire_code, retryable = "deadline", 124, 504, True


class StorageFullError(RageError):
    """Disk, inodes or quota are full; free space and try again."""

    id, exit_code, wire_code, retryable = "storage-full", 11, 507, True


class PeerProtocolError(RageError):
    """A peer broke a protocol. Stands for libp2p's own `ProtocolError` above the stack."""

    id, exit_code, wire_code = "protocol", 7, 400


class PartialError(RageError):
    """Some of several independent targets failed; `failures` lists each."""

    id, exit_code, wire_code = "partial", EXIT_PARTIAL, 500

    def __init__(self, message: str, failures: Sequence[tuple[str, RageError]], **more: Any) -> None:
        super().__init__(message, **more)
        self.failures = tuple(failures)
        codes = {error.exit_code for _, error in self.failures}
        if len(codes) == 1:  # all alike: that class's own code tells the caller more than "partial"
            self.exit_code = codes.pop()

    def to_plain(self) -> dict[str, Any]:
        """As for every error, with `partial`: one {target, code, exit, message} for each failure."""
        partial = [
            {"target": name, "code": error.id, "exit": error.exit_code, "message": error.message}
            for name, error in self.failures
        ]
        return {**super().to_plain(), "partial": partial}


_BY_ID: dict[str, type[RageError]] = {
    kind.id: kind
    for kind in (
        UsageError,
        ConfigError,
        NotFoundError,
        AccessDeniedError,
        CertificateError,
        ConflictError,
        IntegrityError,
        FindingsError,
        UnavailableError,
        DeadlineError,
        StorageFullError,
        PeerProtocolError,
    )
}
_BY_EXIT: dict[int, type[RageError]] = {kind.exit_code: kind for kind in reversed(_BY_ID.values())}
_BY_WIRE: dict[int, type[RageError]] = {
    400: PeerProtocolError,
    403: AccessDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: IntegrityError,
    503: UnavailableError,
    504: DeadlineError,
    507: StorageFullError,
}


def from_wire(code: int, message: str) -> RageError:
    """The class that a peer's status stands for; an unknown status is `UnavailableError`."""
    return _BY_WIRE.get(code, UnavailableError)(message)


def from_plain(plain: dict[str, Any]) -> RageError:
    """Rebuild an error from `to_plain`: the client's side of the control API."""
    kind = _BY_ID.get(str(plain.get("code")), _BY_EXIT.get(int(plain.get("exit", 1)), RageError))
    message, why = str(plain.get("message", "")), str(plain.get("why", ""))
    mend = [str(line) for line in plain.get("mend", ())]
    id = str(plain.get("code", kind.id))
    if "partial" in plain:
        failures = [(str(one.get("target", "")), from_plain(one)) for one in plain["partial"]]
        error: RageError = PartialError(message, failures, why=why, mend=mend, id=id)
    else:
        error = kind(message, why=why, mend=mend, id=id)
    error.exit_code = int(plain.get("exit", kind.exit_code))
    error.retryable = bool(plain.get("retryable", kind.retryable))
    return error


__all__ = [
    "EXIT_BUG",
    "EXIT_FINDINGS",
    "EXIT_INTERRUPT",
    "EXIT_OK",
    "EXIT_PARTIAL",
    "EXIT_PIPE",
    "EXIT_TERMINATED",
    "EXIT_USAGE",
    "AccessDeniedError",
    "CertificateError",
    "ConfigError",
    "ConflictError",
    "DeadlineError",
    "FindingsError",
    "IntegrityError",
    "LocalProtocolError",
    "NotFoundError",
    "PartialError",
    "PeerProtocolError",
    "ProtocolError",
    "RageError",
    "RemoteProtocolError",
    "StorageFullError",
    "UnavailableError",
    "UsageError",
    "from_plain",
    "from_wire",
]
