"""Limits, object identifiers and words of certificates. Standard library only."""

from __future__ import annotations

import re

CERTIFICATE_BYTES_MAX = 8192
"""Of one certificate or CSR in DER; a real one has some 500."""
CERTIFICATES_MAX = 8
"""In one chain as it is sent: the node's own, enrolment CA, CA, and cross-signed ones for rotation and federation."""
DEPTH_MAX = 4
"""Steps from a node's certificate up to its anchor: cross-signed twice, with an enrolment CA, takes four."""
PATHS_MAX = 64
"""Paths from the anchors that are followed for one chain; only holders of trusted CA keys can make many."""
LEEWAY_S = 60.0
"""Between two honest clocks (design D6)."""
BACKDATE_S = 300
"""A new certificate begins this long before it is made: for nodes whose clock is behind."""

DAYS_MIN, DAYS_MAX, DAYS = 1, 90, 7
"""Life of a node's certificate."""
RENEW_DAYS = 365
"""How long a node may renew by itself, where whoever signs says nothing else."""
CA_YEARS_MIN, CA_YEARS_MAX, CA_YEARS = 1, 30, 10
ENROL_DAYS_MAX, ENROL_DAYS = 1095, 365
"""Life of an enrolment CA."""
CROSS_DAYS_MAX, CROSS_DAYS = 1095, 365
"""Life of a cross-signature."""
CRL_DAYS = 7
"""A CRL says that the next one comes within this time."""

SERIAL_BITS = 64
"""Drawn for a serial; the first is set, so that all have 16 hexadecimal digits."""
SERIAL_BYTES_MAX = 20
"""RFC 5280."""

CAPABILITIES = ("admin", "discovery", "enrol", "federation", "search", "storage")
"""What a node may be certified for (design 4.4). Others, of a newer version, are kept, and mean nothing."""
CAPABILITIES_MAX = 16

OID_CAPABILITIES = "2.25.200239225124610934788521272421993076714"
"""2.25.<UUID 96a4ac06-47e7-484a-a4de-18dd45aad7ea>: a UTF8String, sorted, separated by commas. In a node's certificate
what it may do; in a CA's the most that it may certify."""
OID_RENEW_UNTIL = "2.25.131198781385231163152318803501800178499"
"""2.25.<UUID 62b3f757-28be-473f-8967-265718334343>: a GeneralizedTime, until which the node may renew by itself."""

URI_ORG, URI_PEER, URI_REGION = "rage:org:", "rage:peer:", "rage:region:"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CAPABILITY = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SERIAL = re.compile(r"(?:[0-9a-f]{2}){1,20}")


def is_name(text: str) -> bool:
    """Whether `text` may name an organisation or region: the configuration's rule. ASCII: no two look alike."""
    return _NAME.fullmatch(text) is not None


def is_capability(text: str) -> bool:
    """Whether `text` has the form of a capability, known here or not."""
    return _CAPABILITY.fullmatch(text) is not None


def serial_text(serial: int) -> str:
    """A serial as people name it: lower-case hexadecimal, an even number of digits."""
    digits = f"{serial:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def read_serial(text: str) -> str | None:
    """A serial as someone typed it (openssl's upper case and colons too) in our form, or None when it is none."""
    plain = text.strip().lower().replace(":", "")
    plain = plain.zfill(len(plain) + len(plain) % 2)
    return plain if _SERIAL.fullmatch(plain) else None
