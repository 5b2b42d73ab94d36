"""Certificates and CSRs as text and back: PEM, several in one file, or plain DER. Source: RFC 7468."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from rage_net.errors import CertificateError

FILE_BYTES_MAX = 1 << 20
"""Of a file of certificates: a bundle of some hundred CAs."""
BUNDLE_MAX = 256
"""Certificates in one file."""

CERTIFICATE, CSR, CRL = "CERTIFICATE", "CERTIFICATE REQUEST", "X509 CRL"

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END \1-----")


def encode(ders: Sequence[bytes], label: str = CERTIFICATE) -> bytes:
    """PEM of all of them, in order, lines of 64 characters."""
    lines: list[bytes] = []
    for der in ders:
        body = base64.b64encode(der)
        lines += [f"-----BEGIN {label}-----".encode(), *(body[at : at + 64] for at in range(0, len(body), 64))]
        lines += [f"-----END {label}-----".encode()]
    return b"\n".join([*lines, b""])


def decode(data: bytes, label: str = CERTIFICATE, *, name: str = "the file") -> tuple[bytes, ...]:
    """DER of every block of `label` in `data`, at least one; text between blocks is ignored. DER is taken as it is.

    Raises: CertificateError `pem-invalid`, saying what `name` holds instead; private keys are never quoted.
    """
    if len(data) > FILE_BYTES_MAX:
        raise _invalid(name, label, f"it is longer than {FILE_BYTES_MAX} bytes")
    if data[:1] == b"\x30" and b"-----BEGIN" not in data:
        return (bytes(data),)
    blocks = _BLOCK.findall(data)
    wanted = {label.encode(), b"NEW " + label.encode()}  # older tools say NEW CERTIFICATE REQUEST
    bodies = [body for found, body in blocks if found in wanted]
    if not bodies:
        others = sorted({found.decode() for found, _ in blocks})
        raise _invalid(name, label, f"it holds {', '.join(others)}" if others else "it holds no PEM block")
    if len(bodies) > BUNDLE_MAX:
        raise _invalid(name, label, f"it holds {len(bodies)}, the limit is {BUNDLE_MAX}")
    try:
        return tuple(base64.b64decode(b"".join(body.split()), validate=True) for body in bodies)
    except binascii.Error:
        raise _invalid(name, label, "a block is no base64") from None


def _invalid(name: str, label: str, why: str) -> CertificateError:
    what = "CSR" if label == CSR else "certificate"
    return CertificateError(
        f"{name} holds no {what}", why=why, mend=[f"a file that begins -----BEGIN {label}-----"], id="pem-invalid"
    )
