"""rage cert as an operator meets it; the way through it from nothing is tests/sessions/cert.txt."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest_cli import RAGE, Rage, environment, runner
from conftest_engine import FakeEngine

from rage_net import certfiles, config
from rage_net import home as homes
from rage_net.cert import issue, parse_ca, pem, read_csr
from rage_net.certfiles import CertFiles
from rage_net.verbs.cert import RenewCertificate, RenewCertificateResult, RevokeCertificate, RevokeCertificateResult

PASSPHRASE = "correct horse battery"
KEPT = {"RAGE_CA_PASSPHRASE": PASSPHRASE}


@pytest.fixture
def files(home: Path) -> CertFiles:
    return CertFiles.of(homes.Home(home))


@pytest.fixture
def acme(rage: Rage, files: CertFiles) -> CertFiles:
    """A home with a CA of acme and a certificate of it."""
    rage("cert", "ca", "init", "--org", "acme", env=KEPT)
    csr = rage("cert", "request", "--org", "acme").stdout
    crt = rage("cert", "sign", "-", "--yes", stdin=csr, env=KEPT).stdout
    rage("cert", "install", "-", stdin=crt)
    return files


def second(tmp_path: Path) -> Rage:
    place = homes.Home(tmp_path / "second")
    homes.init(place)
    return runner(place.root)


def error(done: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return found


# --- passphrases ------------------------------------------------------------------------------------------------------


def test_a_passphrase_comes_from_file_environment_file_or_stdin(rage: Rage, acme: CertFiles, tmp_path: Path) -> None:
    (tmp_path / "pass").write_text(f"{PASSPHRASE}\nanother line\n")
    rage("cert", "crl", "--passphrase-file", tmp_path / "pass")
    rage("cert", "crl", env={"RAGE_CA_PASSPHRASE_FILE": str(tmp_path / "pass")})
    rage("cert", "crl", "--passphrase-file", "-", stdin=PASSPHRASE.encode())
    rage("cert", "crl", env=KEPT)


def test_a_wrong_passphrase_is_denied_and_shown_nowhere(rage: Rage, acme: CertFiles) -> None:
    done = rage("cert", "crl", "--json", env={"RAGE_CA_PASSPHRASE": "wrong horse battery"}, code=4)
    assert error(done)["code"] == "passphrase-wrong"
    assert b"horse" not in done.stdout + done.stderr
    assert done.stdout == b""


def test_stdin_cannot_be_both_the_csr_and_the_passphrase(rage: Rage, acme: CertFiles) -> None:
    csr = rage("cert", "request").stdout
    done = rage("cert", "sign", "-", "--yes", "--passphrase-file", "-", "--json", stdin=csr, code=2)
    assert "both want stdin" in error(done)["message"]


@pytest.mark.parametrize(
    ("text", "id"), [("short", "passphrase-length"), ("", "usage"), ("x" * 2000, "passphrase-length")]
)
def test_a_new_passphrase_is_neither_short_nor_empty(rage: Rage, tmp_path: Path, text: str, id: str) -> None:
    (tmp_path / "pass").write_text(text + "\n")
    done = rage("cert", "ca", "init", "--org", "acme", "--passphrase-file", tmp_path / "pass", "--json", code=2)
    assert error(done)["code"] == id
    assert not (tmp_path / "home" / "certs" / "ca").exists()


def test_a_terminal_is_asked_twice_for_a_new_passphrase_which_it_does_not_show(home: Path) -> None:
    words = [*RAGE[1:], "cert", "ca", "init", "--org", "acme"]
    child = pexpect.spawn(RAGE[0], words, env=environment(home), encoding="utf-8", timeout=30)
    child.expect("Passphrase of the new CA of acme: ")
    child.sendline(PASSPHRASE)
    child.expect("The same again: ")
    child.sendline("something else")
    child.expect("passphrases-differ")
    child.expect(pexpect.EOF)
    assert "horse" not in (child.before or "")
    child.close()
    assert child.exitstatus == 2
    assert not (home / "certs" / "ca").exists()


def test_a_terminal_is_asked_before_a_signature(rage: Rage, acme: CertFiles, tmp_path: Path) -> None:
    rage("cert", "request", "-o", tmp_path / "node.csr")
    for answer, status in (("n", 2), ("y", 0)):
        words = [*RAGE[1:], "cert", "sign", str(tmp_path / "node.csr"), "-o", str(tmp_path / "node.crt")]
        child = pexpect.spawn(RAGE[0], words, env=environment(acme.root.parent), encoding="utf-8", timeout=30)
        child.setwinsize(40, 300)
        child.expect(r"Certify 12D3KooW\w+ as a node of acme.*\? \[y/N\] ")
        child.sendline(answer)
        if status == 0:
            child.expect("Passphrase of CN=rage CA")
            child.sendline(PASSPHRASE)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == status
        assert (tmp_path / "node.crt").exists() == (status == 0)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("cert", "crl"), ("cert", "renew"), ("cert", "ca", "rotate", "--yes"), ("cert", "ca", "enrol")]
)
def test_a_ca_key_that_others_can_read_is_refused_with_the_mend(
    rage: Rage, acme: CertFiles, words: tuple[str, ...]
) -> None:
    acme.ca_key.chmod(0o644)
    done = rage(*words, "--json", env=KEPT, code=4)
    assert error(done)["code"] == "key-exposed"
    assert error(done)["mend"] == [f"chmod 600 {acme.ca_key}"]


def test_an_identity_that_others_can_read_is_refused(rage: Rage, acme: CertFiles, home: Path) -> None:
    (home / "identity.key").chmod(0o640)
    assert error(rage("cert", "request", "--json", code=4))["code"] == "identity-exposed"


@pytest.mark.parametrize("words", [("show",), ("verify",), ("needs-renewal",), ("install",), ("sign",)])
def test_what_is_no_certificate_is_said(rage: Rage, acme: CertFiles, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert error(rage("cert", *words, tmp_path / "x", "--json", code=4))["code"] == "pem-invalid"
    assert error(rage("cert", *words, tmp_path / "nothing", "--json", code=5))["code"] == "file-missing"


def test_a_certificate_that_cannot_be_read_is_an_integrity_error_of_verify(
    rage: Rage, acme: CertFiles, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(pem.encode([b"\x30\x03abc"]))
    assert error(rage("cert", "verify", tmp_path / "x", "--json", code=8))["code"] == "cert-unreadable"
    assert error(rage("cert", "show", tmp_path / "x", "--json", code=4))["code"] == "cert-malformed"


def test_installing_sets_the_keys_of_network_yaml_and_leaves_the_rest(rage: Rage, home: Path, acme: CertFiles) -> None:
    found = config.load(home, environ={}).network
    assert (found.security.tls_cert, found.security.ca_cert) == (acme.certificate, acme.bundle)
    assert (found.security.tls_key, found.organization_id) == (None, "acme")
    assert not found.libp2p.mdns.enabled  # what stood there before


def test_a_certificate_of_another_organisation_than_the_configurations(
    rage: Rage, acme: CertFiles, tmp_path: Path
) -> None:
    other = second(tmp_path)
    other("cert", "ca", "init", "--org", "globex", env=KEPT)
    (tmp_path / "globex.crt").write_bytes(other("cert", "ca", "show", "--pem").stdout)
    done = rage("cert", "install", "--ca", tmp_path / "globex.crt", "--json", code=9)
    assert error(done)["code"] == "config-differs"
    assert len(certfiles.read_certificates(acme.bundle)) == 1


def test_installing_verifies_first_and_changes_nothing_where_that_fails(
    rage: Rage, acme: CertFiles, tmp_path: Path
) -> None:
    rng = random.Random(7)
    from rage_net import keys

    key = keys.generate(rng)
    ca = parse_ca(issue.make_ca("acme", key, now=time.time(), serial=1))
    request = read_csr(pem.decode(rage("cert", "request").stdout, pem.CSR)[0])
    node = issue.sign(request, ca, key, now=time.time(), serial=2)
    (tmp_path / "x.crt").write_bytes(pem.encode([node.der]))
    before = {path: path.read_bytes() for path in (acme.certificate, acme.bundle)}
    assert error(rage("cert", "install", tmp_path / "x.crt", "--json", code=4))["code"] == "cert-untrusted"
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "ca.crt").write_bytes(pem.encode([ca.der]))
    done = json.loads(
        rage("cert", "install", tmp_path / "x.crt", "--ca", tmp_path / "ca.crt", "--json", "--dry-run").stdout
    )
    assert done["dry_run"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_dry_run_of_sign_needs_no_passphrase_and_signs_nothing(rage: Rage, acme: CertFiles) -> None:
    before = certfiles.read_issued(acme)
    csr = rage("cert", "request", "--capability", "admin").stdout
    found = json.loads(rage("cert", "sign", "-", "--dry-run", "--json", "--days", "30", stdin=csr).stdout)
    assert (found["kind"], found["capabilities"], found["serial"], found["pem"]) == ("Certificate", ["admin"], "", "")
    assert certfiles.read_issued(acme) == before


def test_json_of_request_and_sign_hold_the_pem(rage: Rage, acme: CertFiles, tmp_path: Path) -> None:
    asked = json.loads(rage("cert", "request", "--read-only", "--json").stdout)
    assert (asked["kind"], asked["organization"], asked["capabilities"]) == ("CertificateRequest", "acme", [])
    signed = json.loads(rage("cert", "sign", "-", "--yes", "--json", stdin=asked["pem"].encode(), env=KEPT).stdout)
    assert (signed["kind"], signed["what"], signed["peer_id"]) == ("Certificate", "node", asked["peer_id"])
    (tmp_path / "x.crt").write_text(signed["pem"])
    shown = json.loads(rage("cert", "show", tmp_path / "x.crt", "--json").stdout)
    assert shown == signed
    check = json.loads(rage("cert", "verify", tmp_path / "x.crt", "--json").stdout)
    assert (check["kind"], check["ok"], check["problems"]) == ("CertificateCheck", True, [])


# --- the CA -----------------------------------------------------------------------------------------------------------


def test_who_was_revoked_for_good_is_not_certified_again(rage: Rage, acme: CertFiles) -> None:
    csr = rage("cert", "request").stdout
    peer = rage("node", "id", "-q").stdout.decode().strip()
    rage("cert", "revoke", peer, "--no-publish", "--yes", "--reason", "key-compromise")
    assert error(rage("cert", "sign", "-", "--yes", "--json", stdin=csr, env=KEPT, code=4))["code"] == "cert-revoked"
    assert error(rage("cert", "renew", "--json", env=KEPT, code=4))["code"] == "cert-revoked"
    assert json.loads(rage("cert", "crl", "--json", env=KEPT).stdout)["revoked"] == 1


def test_a_csr_for_another_organisation_is_not_signed(rage: Rage, acme: CertFiles, tmp_path: Path) -> None:
    csr = second(tmp_path)("cert", "request", "--org", "globex").stdout
    done = rage("cert", "sign", "-", "--yes", "--json", stdin=csr, env=KEPT, code=4)
    assert error(done)["code"] == "cert-wrong-organization"


@pytest.mark.parametrize("words", [("--days", "91"), ("--days", "0.5"), ("--capability", "storrage")])
def test_terms_out_of_range_are_told_before_anybody_is_asked(
    rage: Rage, acme: CertFiles, words: tuple[str, ...]
) -> None:
    csr = rage("cert", "request").stdout
    assert error(rage("cert", "sign", "-", *words, "--json", stdin=csr, code=2))["code"] == "usage"


def test_an_enrolment_ca_is_two_files_that_renew_with_a_passphrase_of_their_own(
    rage: Rage, acme: CertFiles, tmp_path: Path
) -> None:
    own = {"RAGE_ENROL_PASSPHRASE": "staple staple staple"}
    made = json.loads(
        rage("cert", "ca", "enrol", "--capability", "storage", "-o", tmp_path / "out", "--json", env=KEPT | own).stdout
    )
    assert (made["kind"], made["capabilities"]) == ("EnrolmentCa", ["storage"])
    key = certfiles.read_key(Path(made["key"]), b"staple staple staple")
    assert os.stat(made["key"]).st_mode & 0o777 == 0o600
    enrol = parse_ca(certfiles.read_certificates(Path(made["certificate"]))[0])
    old = certfiles.read_certificates(acme.certificate)[0]
    from rage_net.cert import parse

    csr = read_csr(pem.decode(rage("cert", "request").stdout, pem.CSR)[0])
    now = time.time()
    new = issue.renew(csr, parse(old), enrol, key, now=now, serial=9, is_revoked=lambda *_: False)
    (tmp_path / "new.crt").write_bytes(pem.encode([new.der, enrol.der]))
    rage("cert", "verify", tmp_path / "new.crt")
    assert (
        error(rage("cert", "ca", "enrol", "-o", tmp_path / "out", "--json", env=KEPT | own, code=9))["code"]
        == "ca-exists"
    )


def test_a_cross_signature_is_installed_beside_the_nodes_certificate(
    rage: Rage, acme: CertFiles, tmp_path: Path
) -> None:
    other = second(tmp_path)
    other("cert", "ca", "init", "--org", "globex", env=KEPT)
    (tmp_path / "acme.crt").write_bytes(rage("cert", "ca", "show", "--pem").stdout)
    words = ("cert", "ca", "cross", "--ca", tmp_path / "acme.crt", "-o", tmp_path / "cross.crt", "--json")
    assert error(other(*words, env=KEPT, code=2))["code"] == "needs-yes"
    found = json.loads(other(*words, "--yes", env=KEPT).stdout)
    assert (found["what"], found["organization"]) == ("ca", "acme")
    rage("cert", "install", tmp_path / "cross.crt")
    node, cross = certfiles.read_certificates(acme.certificate)
    assert cross == certfiles.read_certificates(tmp_path / "cross.crt")[0]
    rage("cert", "renew", env=KEPT)
    again, still = certfiles.read_certificates(acme.certificate)
    assert again != node
    assert still == cross


# --- the running node -------------------------------------------------------------------------------------------------

RENEWED = RenewCertificateResult(True, "0a", "acme", "12D3KooW", ("storage",), 1.0, 2.0, 3.0, "ff", "12D3KooWenrol")


def test_a_home_without_a_ca_has_its_node_renew(rage: Rage, acme: CertFiles, engine: FakeEngine) -> None:
    import shutil

    shutil.rmtree(acme.ca)
    engine.answer(RenewCertificate, RENEWED)
    found = json.loads(rage("cert", "renew", "--json").stdout)
    assert engine.asked == [RenewCertificate(False)]
    assert (found["kind"], found["by"], found["renewed"]) == ("RenewCertificate", "12D3KooWenrol", True)
    assert rage("cert", "renew", "--if-needed", "-q").stdout != b"0a\n"  # not due: the node is not asked
    assert len(engine.asked) == 1


def test_a_revocation_is_recorded_and_then_published(rage: Rage, acme: CertFiles, engine: FakeEngine) -> None:
    serial = rage("cert", "show", "-q").stdout.decode().strip()
    peer = rage("node", "id", "-q").stdout.decode().strip()
    engine.answer(RevokeCertificate, RevokeCertificateResult(serial, peer, "left", True, "abcd"))
    found = json.loads(rage("cert", "revoke", serial.upper(), "--reason", "left", "--yes", "--json").stdout)
    assert found["published"]
    assert engine.asked == [RevokeCertificate(serial, peer, "left")]
    assert [(line.serial, line.reason) for line in certfiles.read_revoked(acme)] == [(serial, "left")]


def test_a_revocation_that_cannot_be_published_says_that_it_is_recorded(
    rage: Rage, acme: CertFiles, engine: FakeEngine
) -> None:
    from rage_net.errors import UnavailableError

    serial = rage("cert", "show", "-q").stdout.decode().strip()
    engine.answer(RevokeCertificate, UnavailableError("no way"))
    done = error(rage("cert", "revoke", serial, "--yes", "--json", code=7))
    assert "has recorded it" in done["why"]
    assert [line.serial for line in certfiles.read_revoked(acme)] == [serial]


def test_nothing_is_revoked_where_neither_ca_nor_network_is(rage: Rage) -> None:
    assert error(rage("cert", "revoke", "0a", "--yes", "--json", code=5))["code"] == "ca-missing"
