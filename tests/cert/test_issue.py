"""What a CA makes, and what it refuses to make."""

from __future__ import annotations

import pytest
from conftest_cert import DAY, NOW, Pki, believe, nobody
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from rage_net.cert import issue, parse, parse_ca, read_csr
from rage_net.cert.renewal import renewal_due, renewal_time
from rage_net.cert.words import BACKDATE_S, CAPABILITIES, read_serial, serial_text
from rage_net.errors import CertificateError, RageError, UsageError


def renewed(
    pki: Pki,
    old,
    ca,
    key,
    *capabilities: str,
    now: float = NOW + DAY,
    organization="acme",
    region="eu-west",
    is_revoked=nobody,
):  # type: ignore[no-untyped-def]
    request = pki.csr(key, organization, *capabilities, region=region)
    return issue.renew(request, old, ca.certificate, ca.key, now=now, serial=pki.serial(), is_revoked=is_revoked)


def test_a_csr_says_what_the_node_wants_and_proves_its_key(pki: Pki) -> None:
    request = pki.csr(pki.key(), "acme", "storage", "search", region="eu-west")
    assert (request.organization, request.region, request.capabilities) == ("acme", "eu-west", {"storage", "search"})


def test_a_csr_that_was_changed_on_its_way_is_refused(pki: Pki) -> None:
    der = pki.csr(pki.key(), "acme", "storage").der
    at = der.index(b"storage")
    for changed in (der[:at] + b"st0rage" + der[at + 7 :], der[:-1] + bytes([der[-1] ^ 1])):
        with pytest.raises(CertificateError) as caught:
            read_csr(changed)
        assert caught.value.id in ("csr-signature", "cert-malformed")


def test_names_that_configuration_would_refuse_are_not_certified(pki: Pki) -> None:
    for name in ("", "ac me", "acm\u00e9", "a/b", "-acme", "a" * 65, "\u0430cme"):
        with pytest.raises(UsageError):
            issue.make_ca(name, pki.key(), now=NOW, serial=1)
        with pytest.raises(UsageError):
            issue.make_csr(pki.key(), name)


@pytest.mark.parametrize("days", [0.9, 0, -1, 90.1, 1e9])
def test_a_life_is_one_to_ninety_days(pki: Pki, days: float) -> None:
    with pytest.raises(UsageError):
        pki.node(pki.ca(), days=days)


def test_a_certificate_never_outlives_its_ca(pki: Pki) -> None:
    ca = pki.ca(now=NOW - 363 * DAY, years=1)
    assert pki.node(ca, days=30).not_after == ca.certificate.not_after


def test_a_ca_signs_for_its_own_organisation_alone_and_only_while_it_holds(pki: Pki) -> None:
    ca = pki.ca("globex")
    request = pki.csr(pki.key(), "acme")
    with pytest.raises(CertificateError) as caught:
        issue.sign(request, ca.certificate, ca.key, now=NOW, serial=1)
    assert caught.value.id == "cert-wrong-organization"
    with pytest.raises(CertificateError) as caught:
        pki.node(ca, now=ca.certificate.not_after + 61)
    assert caught.value.id == "cert-expired"


def test_whoever_signs_may_give_less_or_other_than_was_asked(pki: Pki) -> None:
    ca = pki.ca()
    assert pki.node(ca, "storage", "admin", capabilities=frozenset({"search"})).capabilities == {"search"}
    assert pki.node(ca, "storage", capabilities=frozenset()).capabilities == frozenset()


def test_a_misspelt_capability_is_told_with_the_nearest(pki: Pki) -> None:
    with pytest.raises(UsageError) as caught:
        issue.make_csr(pki.key(), "acme", "", frozenset({"storrage"}))
    assert caught.value.mend == ("--capability storage",)


def test_a_renewal_keeps_who_it_is_and_until_when(pki: Pki) -> None:
    ca, key = pki.ca(), pki.key()
    enrol = pki.enrol(ca, "storage", "search")
    old = pki.node(ca, "storage", "search", key=key, renew_until=NOW + 30 * DAY)
    new = renewed(pki, old, enrol, key, "storage", now=NOW + 5 * DAY)
    assert (new.peer_id, new.organization, new.region) == (old.peer_id, "acme", "eu-west")
    assert new.capabilities == {"storage"}
    assert (new.renew_until, new.not_after) == (NOW + 30 * DAY, NOW + 12 * DAY)
    assert new.serial != old.serial
    believe([new.der, enrol.der], ca.anchor(), now=NOW + 5 * DAY)


def test_a_renewal_works_after_expiry_but_never_past_renew_until(pki: Pki) -> None:
    ca, key = pki.ca(), pki.key()
    old = pki.node(ca, "storage", key=key, renew_until=NOW + 20 * DAY)
    late = renewed(pki, old, ca, key, "storage", now=NOW + 15 * DAY)
    assert late.not_after == NOW + 20 * DAY  # capped
    with pytest.raises(CertificateError) as caught:
        renewed(pki, old, ca, key, "storage", now=NOW + 20 * DAY)
    assert caught.value.id == "renew-refused"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capabilities": ("storage", "admin")}, "admin"),
        ({"organization": "globex"}, "organisation"),
        ({"region": "us-east"}, "region"),
        ({"other_key": True}, "peer id"),
    ],
)
def test_a_renewal_that_wants_to_be_another(pki: Pki, change: dict, words: str) -> None:  # type: ignore[type-arg]
    ca, key = pki.ca(), pki.key()
    old = pki.node(ca, "storage", key=key)
    asker = pki.key() if change.pop("other_key", False) else key
    with pytest.raises(CertificateError) as caught:
        renewed(pki, old, ca, asker, *change.pop("capabilities", ("storage",)), **change)
    assert caught.value.id == "renew-refused"
    assert words in caught.value.why


def test_a_revoked_certificate_is_not_renewed(pki: Pki) -> None:
    ca, key = pki.ca(), pki.key()
    old = pki.node(ca, "storage", key=key)
    with pytest.raises(CertificateError) as caught:
        renewed(pki, old, ca, key, "storage", is_revoked=lambda *it: it == ("acme", old.serial, old.peer_id))
    assert caught.value.id == "cert-revoked"


def test_an_enrolment_ca_renews_no_admin_unless_it_was_made_for_that(pki: Pki) -> None:
    ca, key = pki.ca(), pki.key()
    old = pki.node(ca, "admin", key=key)
    with pytest.raises(CertificateError) as caught:
        renewed(pki, old, pki.enrol(ca, "storage"), key, "admin")
    assert caught.value.id == "cert-over-capabilities"
    assert renewed(pki, old, pki.enrol(ca, "storage", "admin"), key, "admin").capabilities == {"admin"}


def test_our_own_ca_and_one_without_a_name_are_not_cross_signed(pki: Pki) -> None:
    ca = pki.ca()
    for theirs in (pki.ca("acme"), pki.forge_ca(uris=())):
        with pytest.raises(UsageError):
            pki.cross(theirs, ca)


def test_a_crl_lists_serials_with_reasons(pki: Pki) -> None:
    ca = pki.ca()
    entries = (issue.Revoked("0a0b", NOW - DAY, "key-compromise"), issue.Revoked("ff", NOW, "he left"))
    crl = x509.load_der_x509_crl(issue.make_crl(ca.certificate, ca.key, entries, now=NOW, number=7))
    assert crl.is_signature_valid(ca.key.public_key())
    assert {one.serial_number for one in crl} == {0x0A0B, 0xFF}
    one = crl.get_revoked_certificate_by_serial_number(0x0A0B)
    assert one is not None
    assert one.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise


def test_renewal_is_due_at_two_thirds_each_at_a_moment_of_its_own(pki: Pki) -> None:
    node = pki.node(pki.ca(), days=6)
    life = node.not_after - node.not_before
    assert renewal_time(node, 0.0) == pytest.approx(node.not_before + life * 2 / 3)
    assert not renewal_due(node, renewal_time(node, 0.0) - 1)
    assert renewal_due(node, renewal_time(node, 0.0))
    assert not renewal_due(node, renewal_time(node, 0.0), jitter=1.0)
    assert renewal_time(node, 1.0) < node.not_after - 86_400
    assert renewal_due(node, node.not_after + 1e9)


@given(st.integers(1, (1 << 159) - 1))
def test_serials_read_as_they_are_written_by_us_and_by_openssl(serial: int) -> None:
    text = serial_text(serial)
    assert int(text, 16) == serial
    assert read_serial(text) == text
    assert read_serial(text.upper()) == text
    assert read_serial(":".join(text[at : at + 2] for at in range(0, len(text), 2)).upper()) == text


@given(
    seed=st.integers(0, 1 << 32),
    capabilities=st.frozensets(st.sampled_from(CAPABILITIES)),
    given_=st.frozensets(st.sampled_from(CAPABILITIES)),
    days=st.floats(1, 90),
    after=st.floats(0, 400 * DAY),
)
def test_no_sequence_of_signing_and_renewing_gains_anything(
    seed: int, capabilities: frozenset[str], given_: frozenset[str], days: float, after: float
) -> None:
    import random

    pki = Pki(random.Random(seed))
    ca, key = pki.ca(), pki.key()
    old = pki.node(ca, key=key, days=days, capabilities=capabilities)
    assert parse(old.der) == old
    assert old.not_after - old.not_before <= 90 * DAY + BACKDATE_S + 1
    try:
        new = renewed(pki, old, ca, key, *given_, now=NOW + after)
    except RageError as error:
        assert error.id == "renew-refused"
        assert not given_ <= capabilities or NOW + after >= old.renew_until
        return
    assert new.capabilities == given_ <= old.capabilities
    assert (new.peer_id, new.organization, new.region) == (old.peer_id, old.organization, old.region)
    assert new.not_after <= old.renew_until == new.renew_until
    assert new.not_after - new.not_before <= old.not_after - old.not_before + 1
    assert parse_ca(ca.der) == ca.certificate
