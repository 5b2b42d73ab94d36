"""Whatever bytes come: CertificateError or an answer, never another exception, and never another answer."""

from __future__ import annotations

import os
import random

import pytest
from conftest_cert import NOW, Pki, believe
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cert import parse, parse_ca, read_csr
from rage_net.errors import CertificateError

ROUNDS = 20_000 if os.environ.get("RAGE_TEST_PROFILE") == "long" else 1500


def damaged(rng: random.Random, der: bytes) -> bytes:
    """Some bits turned, bytes cut out or put in, an end cut off, or two of these."""
    found = bytearray(der)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(found) or 1)
        match rng.randrange(5):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.randrange(256)
            case 2:
                del found[at : at + rng.randrange(1, 9)]
            case 3:
                found[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                del found[at:]
        if not found:
            break
    return bytes(found)


def test_a_damaged_certificate_is_never_believed_and_never_raises_anything_else(pki: Pki, rng: random.Random) -> None:
    ca = pki.ca()
    enrol = pki.enrol(ca)
    node = pki.node(enrol)
    chain = [node.der, enrol.der]
    for _ in range(ROUNDS):
        which = rng.randrange(2)
        bad = damaged(rng, chain[which])
        if bad == chain[which]:
            continue
        with pytest.raises(CertificateError):
            believe([bad, chain[1]] if which == 0 else [chain[0], bad], ca.anchor())


def test_a_damaged_anchor_or_csr_raises_nothing_else(pki: Pki, rng: random.Random) -> None:
    ca, csr = pki.ca(), pki.csr(pki.key(), "acme", "storage", region="eu-west").der
    for _ in range(ROUNDS):
        for read, der in ((parse_ca, ca.der), (read_csr, csr), (parse, ca.der)):
            try:
                read(damaged(rng, der))
            except CertificateError:
                continue


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    for read in (parse, parse_ca, read_csr):
        with pytest.raises(CertificateError):
            read(data)


def test_bytes_beyond_the_limit_are_refused_unread(pki: Pki) -> None:
    for size in (8193, 1 << 20):
        for read in (parse, parse_ca, read_csr):
            with pytest.raises(CertificateError, match="cannot be read") as caught:
                read(b"\x30" * size)
            assert "limit is 8192" in caught.value.why
    with pytest.raises(CertificateError):
        believe([pki.node(pki.ca()).der + b"\0"], pki.ca().anchor(), now=NOW)
