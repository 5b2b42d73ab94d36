"""The doctor's checks of certificates, CAs and the log's file, that need no engine: each fault is found and mended."""

from __future__ import annotations

import random
import shutil
import sqlite3
import ssl
from pathlib import Path
from typing import Any

import pytest

from rage_lab.sim.env import EPOCH_S as NOW
from rage_lab.sim.organizations import Organization
from rage_net import checkup, config
from rage_net import home as homes
from rage_net.cert import issue, parse_ca
from rage_net.certfiles import CertFiles
from rage_net.checkup import Answer
from rage_net.checkup.ledger import CHECKED_BYTES_MAX
from rage_net.checkup.outcomes import span
from rage_net.config import Config
from rage_net.home import Home
from rage_net.sync.log import open_log
from rage_net.verbs.diagnose import Check
from tests.services.trust_world import Authority

DAY = 86_400.0
WEEK = 7 * DAY


@pytest.fixture
def acme(rng: random.Random) -> Organization:
    return Organization("acme", rng.getrandbits(32))


@pytest.fixture
def place(home: Path, acme: Organization) -> Home:
    """A home that acme has certified for a week."""
    place = Home(home)
    acme.certify(place, region="eu", capabilities=("storage",), now=NOW, days=7)
    return place


def settings(place: Home, **more: Any) -> Config:
    flags = {"network.organization_id": "acme", "network.security.ca_cert": "certs/ca.crt", **more}
    return config.load(place.root, environ={}, flags={key: value for key, value in flags.items() if value})


def examine(place: Home, now: float = NOW, **more: Any) -> Check:
    return checkup.check_certificate(place, settings(place, **more), now)


def certify(place: Home, authority: Authority, **more: Any) -> None:
    der = authority.certify(homes.load_identity(place.identity), **more)
    (place.certs / "node.crt").write_text(ssl.DER_cert_to_PEM_cert(der))


# --- the certificate --------------------------------------------------------------------------------------------------


def test_a_certificate_that_holds_is_ok_and_says_whose_and_for_how_long(place: Home) -> None:
    check = examine(place)
    assert check.level == "ok", check
    assert check.message == "acme, storage; it ends in 7 d, and is renewed in 5 d"


def test_on_an_open_node_there_is_nothing_to_look_at_unless_a_certificate_lies_there_unused(place: Home) -> None:
    opened = {"network.security.ca_cert": ""}
    check = examine(place, **opened)
    assert check.level == "warning" and "the node is open" in check.message and check.mend
    (place.certs / "node.crt").unlink()
    assert examine(place, **opened).level == "skipped"


@pytest.mark.parametrize(
    ("after", "level", "word"),
    [
        (WEEK * 2 / 3 + 60, "ok", "renewed about now"),
        (WEEK * 0.77, "warning", "it was to be renewed"),
        (WEEK * 0.85, "error", "it was to be renewed"),
    ],
)
def test_a_certificate_that_was_not_renewed_in_time_is_told_before_it_ends(
    place: Home, after: float, level: str, word: str
) -> None:
    check = examine(place, NOW + after)
    assert check.level == level and word in check.message + check.why, check
    assert level == "ok" or check.mend[0] == "rage cert renew"


def test_a_certificate_that_no_node_may_renew_wants_a_person(place: Home, acme: Organization) -> None:
    authority = _authority(acme)
    certify(place, authority, renew_until=NOW + DAY)
    assert examine(place).level == "ok"
    check = examine(place, NOW + WEEK * 0.6)
    assert check.level == "warning" and "sign it again" in check.why
    assert check.mend == ("rage cert request | rage cert sign - | rage cert install -",)
    check = examine(place, NOW + WEEK * 0.77)
    assert check.level == "warning" and "no node may renew it" in check.why


def _authority(acme: Organization) -> Authority:
    """The same CA, as a test signs with it."""
    made = Authority("acme", acme.random, key=acme.key)
    made.der, made.ca = acme.der, parse_ca(acme.der)
    return made


@pytest.mark.parametrize("what", ["missing", "expired", "early", "another peer's", "garbage", "another CA's"])
def test_a_certificate_that_no_peer_will_trust_is_an_error_with_its_mend(
    place: Home, acme: Organization, rng: random.Random, tmp_path: Path, what: str
) -> None:
    path, now = place.certs / "node.crt", NOW
    match what:
        case "missing":
            path.unlink()
            word = "there is no certificate"
        case "expired":
            now, word = NOW + WEEK + 120, "has expired"
        case "early":
            now, word = NOW - DAY, "not valid yet"
        case "another peer's":
            other = Home(tmp_path / "other")
            homes.init(other)
            acme.certify(other, region="eu", capabilities=("storage",), now=NOW)
            shutil.copy(other.certs / "node.crt", path)
            word = "another peer's"
        case "garbage":
            path.write_text("garbage")
            word = "certificate"
        case _:
            certify(place, Authority("acme", rng))
            word = "trusted"
    check = examine(place, now)
    assert check.level == "error" and check.message.startswith("no peer will trust this node: "), check
    assert word in f"{check.message} {check.why}" and check.mend


@pytest.mark.parametrize("what", ["missing", "garbage", "another organisation's", "no organisation"])
def test_a_ca_file_that_cannot_be_used_is_an_error(place: Home, rng: random.Random, what: str) -> None:
    bundle = place.certs / "ca.crt"
    found = settings(place)
    match what:
        case "missing":  # a configuration that names one is no longer valid: it may have gone since it was read
            bundle.unlink()
        case "garbage":
            bundle.write_text("garbage")
        case "another organisation's":
            bundle.write_text(ssl.DER_cert_to_PEM_cert(Authority("birch", rng).der))
        case _:
            found = settings(place, **{"network.organization_id": ""})
    check = checkup.check_certificate(place, found, NOW)
    assert check.level == "error" and check.mend, check
    assert "CA" in check.message and ("ca.crt" in check.message or "organization_id" in check.message)


@pytest.mark.parametrize("name", ["identity.key", "certs/enrol.key", "certs/ca/ca.key", "certs/ca/retired/0a.key"])
def test_a_private_key_that_others_can_read_is_an_error(place: Home, name: str) -> None:
    path = place.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(0o600)
    path.chmod(0o640)
    check = examine(place)
    assert (check.level, check.why) == ("error", f"{path} has mode 0640") and check.mend == (f"chmod 600 {path}",)
    path.chmod(0o600)
    assert examine(place).level == "ok"


# --- CAs --------------------------------------------------------------------------------------------------------------


def look(place: Home, now: float = NOW, *, runs: bool = False, **more: Any) -> Check:
    return checkup.check_ca(place, settings(place, **more), now, runs=runs)


def test_a_ca_that_lasts_is_ok_and_none_is_nothing(place: Home) -> None:
    check = look(place)
    assert check.level == "ok" and check.message.startswith("1 trusted, the last ends in "), check
    assert look(place, **{"network.security.ca_cert": ""}).level == "skipped"


def test_a_ca_that_ends_soon_without_a_successor_is_a_warning_and_expired_ones_an_error(
    place: Home, acme: Organization
) -> None:
    end = parse_ca(acme.der).not_after
    check = look(place, end - 80 * DAY)
    assert check.level == "warning" and "none follows it" in check.why and check.mend == ("rage cert ca rotate",)
    assert look(place, end - 100 * DAY).level == "ok"
    check = look(place, end + 1)
    assert check.level == "error" and check.message == "every CA of this organisation has expired"


def test_a_ca_that_has_expired_beside_its_successor_is_to_be_withdrawn(
    place: Home, acme: Organization, rng: random.Random
) -> None:
    end = parse_ca(acme.der).not_after
    new = issue.make_ca("acme", acme.key, now=end - DAY, serial=issue.draw_serial(rng))
    with (place.certs / "ca.crt").open("a") as file:
        file.write(ssl.DER_cert_to_PEM_cert(new))
    assert look(place, end - DAY / 2).level == "ok"
    check = look(place, end + DAY)
    assert check.level == "warning" and "trusted still" in check.why and "--withdraw" in check.mend[0]


def test_a_cas_key_in_the_home_of_a_running_node_is_a_warning(place: Home, acme: Organization) -> None:
    files = CertFiles.of(place)
    files.ca.mkdir()
    files.ca_certificate.write_text(acme.pem)
    files.ca_key.touch(0o600)
    assert look(place).level == "ok"
    check = look(place, runs=True)
    assert check.level == "warning" and "running node" in check.why and str(files.ca) in check.mend[0]


def test_the_enrolment_cas_end_is_told(place: Home, acme: Organization, rng: random.Random) -> None:
    der = issue.make_intermediate(
        parse_ca(acme.der),
        acme.key,
        acme.key.public_key(),
        now=NOW,
        serial=issue.draw_serial(rng),
        capabilities=frozenset({"storage"}),
        days=30,
    )
    CertFiles.of(place).enrol_certificate.write_text(ssl.DER_cert_to_PEM_cert(der))
    assert look(place).level == "ok"
    check = look(place, NOW + 20 * DAY)
    assert check.level == "warning" and "enrolment CA ends in 10 d" in check.why
    check = look(place, NOW + 31 * DAY)
    assert check.level == "error" and "enrol" in check.mend[0]


def test_a_ca_file_that_cannot_be_read_is_an_error_of_the_ca_too(place: Home) -> None:
    (place.certs / "ca.crt").write_text("garbage")
    assert look(place).level == "error"


# --- the log ----------------------------------------------------------------------------------------------------------


class Env:
    def __init__(self, rng: random.Random) -> None:
        self.random = rng

    def now(self) -> float:
        return NOW


@pytest.fixture
def log_file(place: Home, rng: random.Random) -> Path:
    open_log(place.log, key=homes.load_identity(place.identity), env=Env(rng)).close()
    return place.log


def test_a_sound_log_is_ok_with_its_size_closed_or_open(place: Home, log_file: Path, rng: random.Random) -> None:
    check = checkup.check_log(place, has_ca=True)
    assert check.level == "ok" and check.message.endswith("MiB, 0 chains"), check
    log = open_log(log_file, key=homes.load_identity(place.identity), env=Env(rng))
    assert checkup.check_log(place, has_ca=True).level == "ok"
    log.close()


def test_no_log_is_nothing_to_look_at(place: Home) -> None:
    assert checkup.check_log(place, has_ca=True).message == "none yet: it begins with the node"
    assert "no CA" in checkup.check_log(place, has_ca=False).message


@pytest.mark.parametrize("what", ["garbage", "another program's", "newer", "torn", "a directory"])
def test_a_log_that_cannot_be_used_is_an_error(place: Home, log_file: Path, what: str) -> None:
    match what:
        case "garbage":
            log_file.write_bytes(b"garbage" * 1000)
            word = "not a database"
        case "another program's":
            log_file.unlink()
            db = sqlite3.connect(log_file)
            db.execute("CREATE TABLE other (id)")
            db.close()
            word = "another program"
        case "newer":
            db = sqlite3.connect(log_file)
            db.execute("PRAGMA user_version = 99")
            db.close()
            word = "version 99"
        case "torn":
            data = bytearray(log_file.read_bytes())
            assert len(data) < CHECKED_BYTES_MAX
            data[8192:] = bytes(len(data) - 8192)
            log_file.write_bytes(data)
            word = ""
        case _:
            log_file.unlink()
            log_file.mkdir()
            word = ""
    check = checkup.check_log(place, has_ca=True)
    assert check.level == "error" and check.mend and word in f"{check.message} {check.why}", check


# --- all of it --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_known_is_skipped_with_its_reason(place: Home) -> None:
    found = {check.id: check for check in checkup.check_home(place, {}, NOW)}
    assert found["certificate"].level == "warning", "this home's network.yaml names no CA"
    place.network_yaml.write_text("network:\n  version: 1\n  regoin: here\n")
    found = {check.id: check for check in checkup.check_home(place, {}, NOW)}
    assert {found[name].message for name in ("certificate", "ca", "log")} == {"not looked at: config comes first"}
    place.identity.unlink()
    found = {check.id: check for check in checkup.check_home(place, {}, NOW)}
    assert found["certificate"].level == "skipped" and Answer(0).pid == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (150, "2 min"), (7200, "2 h"), (3 * DAY, "3 d"), (-3 * DAY, "-3 d"), (0, "0 s")]
)
def test_times_are_said_in_their_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text
