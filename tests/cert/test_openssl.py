"""Beside openssl: what it shows of our certificates; and it believes what we believe, where both are meant to agree."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from conftest_cert import DAY, NOW, Authority, Pki, believe, key_usage
from cryptography import x509

from rage_net.cert import issue, pem
from rage_net.errors import CertificateError

CHAINS = 60


def openssl(*words: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *words], input=stdin, cwd=cwd, capture_output=True, check=False, timeout=60)


def test_openssl_shows_who_it_is_in_words(pki: Pki, tmp_path: Path) -> None:
    node = pki.node(pki.ca(), "storage", "search", renew_until=1_900_000_000.0)
    done = openssl("x509", "-text", "-noout", cwd=tmp_path, stdin=pem.encode([node.der]))
    shown = done.stdout.decode()
    assert f"URI:rage:org:acme, URI:rage:peer:{node.peer_id}, URI:rage:region:eu-west" in shown
    assert f"Subject: O = acme, CN = {node.peer_id}" in shown
    assert "search,storage" in shown
    assert "20300317174640Z" in shown
    assert "ED25519" in shown
    assert node.serial in shown.replace(":", "").lower()


def test_openssl_reads_the_csr_and_the_crl(pki: Pki, tmp_path: Path) -> None:
    csr = pki.csr(pki.key(), "acme", "storage").der
    done = openssl("req", "-verify", "-noout", "-text", cwd=tmp_path, stdin=pem.encode([csr], pem.CSR))
    assert done.returncode == 0
    assert b"rage:org:acme" in done.stdout
    ca = pki.ca()
    crl = issue.make_crl(ca.certificate, ca.key, (issue.Revoked("0a0b", NOW),), now=NOW, number=7)
    (tmp_path / "ca.crt").write_bytes(pem.encode([ca.der]))
    done = openssl("crl", "-CAfile", "ca.crt", "-noout", "-text", cwd=tmp_path, stdin=pem.encode([crl], pem.CRL))
    assert b"verify OK" in done.stderr
    assert b"0A0B" in done.stdout


def make_chain(pki: Pki, rng: random.Random) -> tuple[str, list[bytes], Authority]:
    """A chain of up to three CAs under an anchor, with at most one thing wrong with it, which is named."""
    wrong = rng.choice(
        [
            "nothing",
            "nothing",
            "nothing",
            "expired leaf",
            "early leaf",
            "expired ca",
            "missing ca",
            "other signer",
            "no ca",
            "no certsign",
            "path length",
            "critical",
            "critical ca",
            "expired anchor",
            "unknown anchor",
        ]
    )
    anchor = pki.forge_ca(begin=NOW - 9 * DAY, end=NOW + (-1 if wrong == "expired anchor" else 9) * DAY)
    depth = rng.randrange(1 if "ca" in wrong.split() or wrong in ("no certsign", "path length") else 0, 4)
    bad_at = rng.randrange(depth) if depth else 0
    unknown = [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x00"), True)]
    above, chain = anchor, []
    for at in range(depth):
        is_bad = at == bad_at
        key, name = pki.key(), f"CA {at}"
        der, _ = pki.forge(
            issuer=above,
            key=key,
            name=name,
            organization="acme",
            is_ca=not (is_bad and wrong == "no ca"),
            uris=["rage:org:acme"],
            path=depth - at - 2 if is_bad and wrong == "path length" and at < depth - 1 else None,
            begin=NOW - 5 * DAY,
            end=NOW + (-DAY if is_bad and wrong == "expired ca" else 5 * DAY),
            usage=key_usage(is_ca=not (is_bad and wrong in ("no certsign", "no ca"))),
            extensions=unknown if is_bad and wrong == "critical ca" else (),
        )
        twin = pki.forge_ca(key=key, name=name)  # the same name and key: what signs below
        above = twin
        if not (is_bad and wrong == "missing ca"):
            chain.append(der)
    leaf, _ = pki.forge(
        issuer=above,
        begin=NOW + (DAY if wrong == "early leaf" else -DAY),
        end=NOW + (-DAY / 2 if wrong == "expired leaf" else 2 * DAY),
        signer=pki.key() if wrong == "other signer" else None,
        extensions=unknown if wrong == "critical" else (),
    )
    rng.shuffle(chain)
    return wrong, [leaf, *chain], pki.forge_ca() if wrong == "unknown anchor" else anchor


def test_openssl_verify_agrees(pki: Pki, rng: random.Random, tmp_path: Path) -> None:
    believed = 0
    for _ in range(CHAINS):
        wrong, chain, anchor = make_chain(pki, rng)
        (tmp_path / "leaf.crt").write_bytes(pem.encode(chain[:1]))
        (tmp_path / "others.crt").write_bytes(pem.encode(chain[1:]) if chain[1:] else b"")
        (tmp_path / "anchor.crt").write_bytes(pem.encode([anchor.der]))
        untrusted = ["-untrusted", "others.crt"] if chain[1:] else []
        words = ["verify", "-attime", str(int(NOW)), "-CAfile", "anchor.crt", *untrusted, "leaf.crt"]
        done = openssl(*words, cwd=tmp_path)
        try:
            believe(chain, anchor.anchor())
            is_ours = True
        except CertificateError:
            is_ours = False
        assert is_ours == (done.returncode == 0), (wrong, len(chain), done.stderr.decode())
        believed += is_ours
    assert 0 < believed < CHAINS


@pytest.mark.parametrize("path_max", [0, 1])
def test_openssl_believes_a_cross_signature_that_rage_believes_by_web_of_trust_alone(
    pki: Pki, tmp_path: Path, path_max: int
) -> None:
    """Where we are meant to differ: openssl knows no organisation."""
    acme, globex = pki.ca("acme"), pki.ca("globex")
    chain = [pki.node(globex).der, pki.cross(globex, acme)]
    for name, ders in (("leaf.crt", chain[:1]), ("others.crt", chain[1:]), ("anchor.crt", [acme.der])):
        (tmp_path / name).write_bytes(pem.encode(ders))
    words = ["verify", "-attime", str(int(NOW)), "-CAfile", "anchor.crt", "-untrusted", "others.crt", "leaf.crt"]
    assert openssl(*words, cwd=tmp_path).returncode == 0
    if path_max:
        assert believe(chain, acme.anchor(), path_max=path_max).hops == 1
    else:
        with pytest.raises(CertificateError):
            believe(chain, acme.anchor())
