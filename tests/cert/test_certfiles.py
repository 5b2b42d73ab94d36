"""Certificates and keys in a home: who may read them, and what a crash leaves."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from conftest_cert import NOW, Authority, Pki

from rage_net import certfiles
from rage_net.cert import issue, parse_ca, secret
from rage_net.certfiles import CertFiles, IssuedLine, RevokedLine
from rage_net.errors import AccessDeniedError, ConflictError, NotFoundError
from rage_net.home import Home

PASSPHRASE = b"correct horse battery"
LINE = IssuedLine("0a", "node", "12D3KooW", "acme", "eu", ("admin", "storage"), 1.0, 2.0, "0b")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CertFiles:
    monkeypatch.setattr(secret, "_N", 16)  # a guess takes microseconds, as a test should
    return CertFiles.of(Home(tmp_path))


def keep(files: CertFiles, ca: Authority, rng: random.Random) -> None:
    assert certfiles.write_key(files.ca_key, ca.key, PASSPHRASE, rng.randbytes(32))
    certfiles.write_certificates(files.ca_certificate, [ca.der])
    certfiles.trust(files, [ca.der])


def test_a_key_is_kept_private_and_never_overwritten(files: CertFiles, pki: Pki, rng: random.Random) -> None:
    ca = pki.ca()
    keep(files, ca, rng)
    assert files.ca_key.stat().st_mode & 0o777 == 0o600
    assert files.ca.stat().st_mode & 0o777 == 0o700
    assert not certfiles.write_key(files.ca_key, pki.key(), PASSPHRASE, rng.randbytes(32))
    assert certfiles.read_key(files.ca_key, PASSPHRASE).private_bytes_raw() == ca.key.private_bytes_raw()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_read_is_refused_with_the_mend(
    files: CertFiles, pki: Pki, rng: random.Random, mode: int
) -> None:
    keep(files, pki.ca(), rng)
    files.ca_key.chmod(mode)
    for use in (lambda: certfiles.check_key(files.ca_key), lambda: certfiles.read_key(files.ca_key, PASSPHRASE)):
        with pytest.raises(AccessDeniedError) as caught:
            use()
        assert caught.value.id == "key-exposed"
        assert caught.value.mend == (f"chmod 600 {files.ca_key}",)
    files.ca_key.chmod(0o600)
    certfiles.check_key(files.ca_key)


def test_what_is_missing_is_told(files: CertFiles) -> None:
    for use, id in (
        (lambda: certfiles.read_ca(files), "ca-missing"),
        (lambda: certfiles.check_key(files.ca_key), "ca-missing"),
        (lambda: certfiles.read_certificates(files.certificate), "cert-file-missing"),
    ):
        with pytest.raises(NotFoundError) as caught:
            use()
        assert caught.value.id == id
    assert certfiles.read_optional(files.bundle) == ()
    assert certfiles.read_issued(files) == ()


def test_the_bundle_takes_each_ca_once_and_never_becomes_empty(files: CertFiles, pki: Pki) -> None:
    one, two = pki.ca().der, pki.ca().der
    assert certfiles.trust(files, [one, one])
    assert not certfiles.trust(files, [one])
    assert certfiles.trust(files, [two, one])
    assert certfiles.read_certificates(files.bundle) == (one, two)
    certfiles.distrust(files, [one])
    certfiles.distrust(files, [one, two])
    assert certfiles.read_certificates(files.bundle) == (two,)


def test_a_new_chain_keeps_the_cas_that_came_with_the_old_one(files: CertFiles, pki: Pki) -> None:
    ca, globex = pki.ca(), pki.ca("globex")
    cross, enrol = pki.cross(ca, globex), pki.enrol(ca)
    first, second = pki.node(ca), pki.node(enrol)
    certfiles.install_chain(files, [first.der, cross])
    certfiles.install_chain(files, [second.der, enrol.der])
    assert certfiles.read_certificates(files.certificate) == (second.der, enrol.der, cross)
    certfiles.install_chain(files, [second.der, *(pki.ca().der for _ in range(9))])
    assert len(certfiles.read_certificates(files.certificate)) == 8


def test_lists_survive_a_line_that_a_crash_cut_short(files: CertFiles) -> None:
    certfiles.record_issued(files, LINE)
    with files.issued.open("ab") as file:
        file.write(b'{"serial": "0c", "what": "no')
    other = replace(LINE, serial="0d", capabilities=())
    certfiles.record_issued(files, other)
    assert certfiles.read_issued(files) == (LINE, other)


def test_lists_ignore_what_a_newer_version_adds_and_lines_that_are_none(files: CertFiles) -> None:
    certfiles.record_revoked(files, RevokedLine("0a", "", 1.0, "left"))
    with files.revoked.open("ab") as file:
        file.write(b'{"serial": "0b", "peer_id": "", "at": 2.0, "reason": "", "more": 1}\n[]\n7\n\xff\n')
    assert [line.serial for line in certfiles.read_revoked(files)] == ["0a", "0b"]


def test_a_revocation_is_recorded_once_and_survives_a_second_one(files: CertFiles) -> None:
    assert certfiles.record_revoked(files, RevokedLine("0a", "", 1.0, "left"))
    assert not certfiles.record_revoked(files, RevokedLine("0a", "", 2.0, "again"))
    assert certfiles.record_revoked(files, RevokedLine("", "12D3KooW", 2.0, ""))
    assert [(line.serial, line.at) for line in certfiles.read_revoked(files)] == [("0a", 1.0), ("", 2.0)]


def test_a_list_beyond_its_limit_is_refused(files: CertFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    certfiles.record_issued(files, LINE)
    monkeypatch.setattr(certfiles, "LIST_BYTES_MAX", 10)
    with pytest.raises(ConflictError) as caught:
        certfiles.read_issued(files)
    assert caught.value.id == "list-too-long"


class CrashError(Exception):
    pass


@pytest.mark.parametrize("crash_at", range(1, 12))
def test_a_crash_while_the_ca_is_replaced_leaves_one_that_works(
    files: CertFiles, pki: Pki, rng: random.Random, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    old, new = pki.ca(), pki.ca()
    keep(files, old, rng)
    link = issue.link(new.certificate, old.certificate, old.key, now=NOW, serial=pki.serial())
    steps = 0

    def step(real):  # type: ignore[no-untyped-def]
        def run(*arguments, **more):  # type: ignore[no-untyped-def]
            nonlocal steps
            steps += 1
            if steps == crash_at:
                raise CrashError
            return real(*arguments, **more)

        return run

    with monkeypatch.context() as patched:
        for owner, name in ((certfiles, "write_replacing"), (certfiles, "sync_directory"), (Path, "rename")):
            patched.setattr(owner, name, step(getattr(owner, name)))
        try:
            certfiles.replace_ca(files, new.key, new.der, link, PASSPHRASE, rng.randbytes(32))
        except CrashError:
            assert steps == crash_at
        else:
            assert steps < crash_at
    found = certfiles.read_ca(files)
    key = certfiles.read_key(files.ca_key, PASSPHRASE)
    assert found in (old.certificate, new.certificate)
    assert key.private_bytes_raw() == (old if found == old.certificate else new).key.private_bytes_raw()
    retired = certfiles.read_retired(files)
    assert retired == ((old.certificate,) if found == new.certificate else ())
    if retired:
        assert certfiles.read_key(files.retired / f"{retired[0].serial}.key", PASSPHRASE)
        certfiles.remove_retired(files, retired[0].serial)
        assert certfiles.read_retired(files) == ()
    else:  # and it can be done again
        certfiles.replace_ca(files, new.key, new.der, link, PASSPHRASE, rng.randbytes(32))
        assert certfiles.read_ca(files) == parse_ca(new.der)
