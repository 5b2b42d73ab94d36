"""Certificates and CA keys in a home: what lies where under `certs/`, read with care and written whole.

    node.crt        this node's certificate, then the CAs that lead from it to its organisation's: what peers are shown
    node.csr        the last request
    ca.crt          the organisation's own CAs that are trusted, two while one replaces the other
    enrol.key .crt  of a node that renews others: its CA, the key encrypted
    issued          every certificate that was signed here, a line of JSON each
    ca/             the organisation's CA, where it is kept: ca.key (encrypted) and ca.crt, new.key and new.crt while it
                    is replaced, link.crt (the new CA signed by the old one), retired/ (CAs before this one), revoked
                    (what must stay refused, a line each)

A private key that others can read is refused, encrypted or not. Lists are appended to and synced: a line that a crash
cut short is skipped. Blocking. Not here: what the certificates say (`cert`), whom to trust (`services.trust`).
Source: design 4.1.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rage_net.durable import SECRET, describe, file_errors, sync_data, sync_directory, write_new, write_replacing
from rage_net.errors import AccessDeniedError, ConflictError, NotFoundError
from rage_net.home import Home

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from rage_net.cert import CaCertificate, NodeCertificate

LIST_BYTES_MAX = 64 << 20
"""Read of `issued` and `revoked`: some 200,000 lines."""
PUBLIC = 0o644


@dataclass(frozen=True, slots=True)
class CertFiles:
    """The paths under a home's `certs/`, there or not; the configuration may name two of them elsewhere."""

    root: Path
    certificate: Path
    """This node's chain."""
    bundle: Path
    """The trusted CAs of the own organisation."""

    @classmethod
    def of(cls, home: Home, certificate: Path | None = None, bundle: Path | None = None) -> CertFiles:
        """Those of a home; `certificate` and `bundle` are what the configuration names, if it does."""
        return cls(home.certs, certificate or home.certs / "node.crt", bundle or home.certs / "ca.crt")

    @property
    def request(self) -> Path:
        """The last CSR."""
        return self.root / "node.csr"

    @property
    def enrol_key(self) -> Path:
        """The enrolment CA's key, encrypted."""
        return self.root / "enrol.key"

    @property
    def enrol_certificate(self) -> Path:
        """The enrolment CA's chain."""
        return self.root / "enrol.crt"

    @property
    def issued(self) -> Path:
        """What was signed here."""
        return self.root / "issued"

    @property
    def ca(self) -> Path:
        """The directory of the organisation's CA."""
        return self.root / "ca"

    @property
    def ca_key(self) -> Path:
        """Its key, encrypted."""
        return self.ca / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        """Its certificate."""
        return self.ca / "ca.crt"

    @property
    def new_key(self) -> Path:
        """The key of the CA that is about to replace it."""
        return self.ca / "new.key"

    @property
    def new_certificate(self) -> Path:
        """Its certificate."""
        return self.ca / "new.crt"

    @property
    def link(self) -> Path:
        """The CA signed by the one before it, for nodes that do not know it yet."""
        return self.ca / "link.crt"

    @property
    def retired(self) -> Path:
        """CAs before this one."""
        return self.ca / "retired"

    @property
    def revoked(self) -> Path:
        """What must stay refused."""
        return self.ca / "revoked"


@dataclass(frozen=True, slots=True)
class IssuedLine:
    """A certificate that was signed here. `what` is node, enrol, cross or ca; times are seconds since the epoch."""

    serial: str
    what: str
    name: str
    """A node's peer id, another CA's subject."""
    organization: str
    region: str
    capabilities: tuple[str, ...]
    not_before: float
    not_after: float
    by: str
    """Serial of the CA that signed."""


@dataclass(frozen=True, slots=True)
class RevokedLine:
    """What was withdrawn. With an empty `serial` it is all of the peer, for good."""

    serial: str
    peer_id: str
    """Empty where nobody knows whose the serial is."""
    at: float
    reason: str


# --- private keys -----------------------------------------------------------------------------------------------------


def read_key(path: Path, passphrase: bytes) -> Ed25519PrivateKey:
    """A CA's private key.

    Raises: NotFoundError `ca-missing`; AccessDeniedError `key-exposed` where others can read it, `passphrase-wrong`;
        ConfigError `key-invalid`.
    """
    from rage_net.cert import secret

    return secret.decode(_read_private(path, secret.KEY_BYTES_MAX), passphrase, str(path))


def check_key(path: Path) -> None:
    """Pass when the key is there and private: before anybody is asked for its passphrase."""
    _read_private(path, 1)


def write_key(path: Path, key: Ed25519PrivateKey, passphrase: bytes, salt: bytes) -> bool:
    """Write a new CA key, encrypted; False when there is one, which is left as it is."""
    from rage_net.cert import secret

    pem = secret.encode(key, passphrase, salt)
    _make_directory(path.parent)
    with file_errors(path):
        return write_new(path, pem, mode=SECRET)


def _read_private(path: Path, size_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(size_max + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no key {path}",
            why="this home has no such CA",
            mend=["rage cert ca init", "--home DIR    (where the CA is kept)"],
            id="ca-missing",
        ) from None
    except OSError as error:
        raise AccessDeniedError(f"cannot read the key {path}", why=describe(error)) from None
    if status.st_mode & 0o077:
        raise AccessDeniedError(
            f"others can read the key {path}",
            why=f"its mode is {stat.S_IMODE(status.st_mode):04o}; whoever reads it needs but a passphrase to certify",
            mend=[f"chmod 600 {path}"],
            id="key-exposed",
        )
    return data


# --- certificates -----------------------------------------------------------------------------------------------------


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """DER of every certificate of a PEM file. Raises NotFoundError `cert-file-missing`, CertificateError."""
    from rage_net.cert import pem

    try:
        with path.open("rb") as file:
            data = file.read(pem.FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no certificate {path}",
            mend=["rage cert request | rage cert sign - --yes | rage cert install -"],
            id="cert-file-missing",
        ) from None
    except OSError as error:
        raise AccessDeniedError(f"cannot read {path}", why=describe(error)) from None
    return pem.decode(data, name=str(path))


def read_optional(path: Path) -> tuple[bytes, ...]:
    """The same; none where the file is missing."""
    return read_certificates(path) if path.exists() else ()


def write_certificates(path: Path, ders: Sequence[bytes]) -> None:
    """Write a PEM file, in the place of what was there."""
    from rage_net.cert import pem

    _make_directory(path.parent)
    with file_errors(path):
        write_replacing(path, pem.encode(ders), mode=PUBLIC)


def read_ca(files: CertFiles) -> CaCertificate:
    """The CA that is kept here. Raises NotFoundError `ca-missing`."""
    from rage_net.cert import parse_ca

    settle(files)
    if not files.ca_certificate.exists():
        raise NotFoundError(
            f"no CA is kept in {files.root.parent}",
            mend=["rage cert ca init", "--home DIR    (where the CA is kept)"],
            id="ca-missing",
        )
    return parse_ca(read_certificates(files.ca_certificate)[0])


def read_retired(files: CertFiles) -> tuple[CaCertificate, ...]:
    """The CAs before this one that were not withdrawn, in the order of their serials."""
    from rage_net.cert import parse_ca

    paths = sorted(files.retired.glob("*.crt")) if files.retired.is_dir() else []
    return tuple(parse_ca(read_certificates(path)[0]) for path in paths)


def trust(files: CertFiles, ders: Sequence[bytes]) -> bool:
    """Add CAs to the bundle; whether one was new."""
    known = read_optional(files.bundle)
    added = [der for der in dict.fromkeys(ders) if der not in known]
    if added:
        write_certificates(files.bundle, [*known, *added])
    return bool(added)


def distrust(files: CertFiles, ders: Sequence[bytes]) -> None:
    """Take CAs from the bundle. One stays at least: a node whose CA file is empty does not start."""
    known = read_optional(files.bundle)
    kept = [der for der in known if der not in ders]
    if kept and len(kept) < len(known):
        write_certificates(files.bundle, kept)


def install_chain(files: CertFiles, chain: Sequence[bytes]) -> None:
    """Make `chain` what peers are shown: the node's certificate first, CAs after it.

    CAs of an earlier chain (others may have cross-signed ours) come along while there is room.
    """
    from rage_net.cert.words import CERTIFICATES_MAX

    earlier = read_optional(files.certificate)[1:]
    write_certificates(files.certificate, tuple(dict.fromkeys((*chain, *earlier)))[:CERTIFICATES_MAX])


# --- the CA's own files -----------------------------------------------------------------------------------------------


def replace_ca(
    files: CertFiles, key: Ed25519PrivateKey, certificate: bytes, link: bytes, passphrase: bytes, salt: bytes
) -> None:
    """Put the CA aside and a new one in its place. What a crash cuts short, the next `read_ca` finishes or leaves."""
    from rage_net.cert import parse_ca, secret

    serial = parse_ca(read_certificates(files.ca_certificate)[0]).serial
    write_certificates(files.link, [link])
    _make_directory(files.retired)
    with file_errors(files.ca):
        write_replacing(files.new_key, secret.encode(key, passphrase, salt), mode=SECRET)
        write_certificates(files.new_certificate, [certificate])
        files.ca_key.rename(files.retired / f"{serial}.key")
        sync_directory(files.retired)
    settle(files)


def settle(files: CertFiles) -> None:
    """Finish a replacement that has begun. It begins when the old key is put aside; the new certificate goes last.

    So a new certificate without a new key is one whose key stands in its place already.
    """
    from rage_net.cert import parse_ca

    if not files.new_certificate.exists() or (files.new_key.exists() and files.ca_key.exists()):
        return
    with file_errors(files.ca):
        if files.ca_certificate.exists():
            serial = parse_ca(read_certificates(files.ca_certificate)[0]).serial
            files.ca_certificate.rename(files.retired / f"{serial}.crt")
        sync_directory(files.retired)
        if files.new_key.exists():
            files.new_key.rename(files.ca_key)
        files.new_certificate.rename(files.ca_certificate)
        sync_directory(files.ca)


def remove_retired(files: CertFiles, serial: str) -> None:
    """Forget a CA that was put aside, its key first."""
    with file_errors(files.retired):
        for suffix in (".key", ".crt"):
            (files.retired / f"{serial}{suffix}").unlink(missing_ok=True)
        files.link.unlink(missing_ok=True)
        sync_directory(files.retired)


def record_issued(files: CertFiles, line: IssuedLine) -> None:
    """Remember what was signed, durably."""
    _append(files.issued, asdict(line))


def record_revoked(files: CertFiles, line: RevokedLine) -> bool:
    """Remember what was withdrawn, durably; False where it is known already."""
    if any((one.serial, one.peer_id) == (line.serial, line.peer_id) for one in read_revoked(files)):
        return False
    _append(files.revoked, asdict(line))
    return True


def read_issued(files: CertFiles) -> tuple[IssuedLine, ...]:
    """What was signed here, oldest first."""
    return tuple(
        IssuedLine(**{**line, "capabilities": tuple(line.get("capabilities", ()))})
        for line in _lines(files.issued, IssuedLine)
    )


def read_revoked(files: CertFiles) -> tuple[RevokedLine, ...]:
    """What was withdrawn, oldest first."""
    return tuple(RevokedLine(**line) for line in _lines(files.revoked, RevokedLine))


def line_of(certificate: NodeCertificate, by: str) -> IssuedLine:
    """The line for a node's certificate."""
    return IssuedLine(
        certificate.serial,
        "node",
        str(certificate.peer_id),
        certificate.organization,
        certificate.region,
        tuple(sorted(certificate.capabilities)),
        certificate.not_before,
        certificate.not_after,
        by,
    )


def line_of_ca(ca: CaCertificate, what: str, by: str) -> IssuedLine:
    """The line for a CA that was signed here."""
    return IssuedLine(
        ca.serial,
        what,
        ca.name,
        ca.organization,
        "",
        tuple(sorted(ca.capabilities or ())),
        ca.not_before,
        ca.not_after,
        by,
    )


def _lines(path: Path, kind: type[Any]) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            data = file.read(LIST_BYTES_MAX + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AccessDeniedError(f"cannot read {path}", why=describe(error)) from None
    if len(data) > LIST_BYTES_MAX:
        raise ConflictError(f"{path} is longer than {LIST_BYTES_MAX} bytes", mend=[f"wc -l {path}"], id="list-too-long")
    names = kind.__dataclass_fields__
    for line in data.splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # a crash cut it short: the next line began on its own
        if isinstance(values, dict) and values.keys() >= names.keys():
            yield {name: values[name] for name in names}


def _append(path: Path, values: Mapping[str, Any]) -> None:
    _make_directory(path.parent)
    line = json.dumps(values, sort_keys=True).encode() + b"\n"
    with file_errors(path), _locked(path) as handle:
        end = os.fstat(handle).st_size
        if end and os.pread(handle, 1, end - 1) != b"\n":
            line = b"\n" + line
        os.write(handle, line)
        sync_data(handle)
        sync_directory(path.parent)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, SECRET)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _make_directory(path: Path) -> None:
    with file_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
