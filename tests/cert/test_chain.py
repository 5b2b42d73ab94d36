"""Whom `verify_chain` believes, and each attack that it must not."""

from __future__ import annotations

import pytest
from conftest_cert import DAY, NOW, YEAR, Pki, believe, key_usage
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from rage_net.cert import chain as chains
from rage_net.cert import issue, parse, parse_ca
from rage_net.errors import CertificateError
from rage_net.libp2p.peer_id import PeerId


def refused(chain, *anchors, **more) -> CertificateError:  # type: ignore[no-untyped-def]
    with pytest.raises(CertificateError) as caught:
        believe(chain, *anchors, **more)
    assert caught.value.message
    assert caught.value.why
    assert caught.value.mend
    return caught.value


# --- what is believed -------------------------------------------------------------------------------------------------


def test_a_node_of_a_trusted_ca_is_believed(pki: Pki) -> None:
    ca = pki.ca()
    node = pki.node(ca, "storage", "search")
    anchor = ca.anchor(scopes=frozenset({"chunks"}))
    found = believe([node.der], anchor, peer_id=node.peer_id)
    assert found.certificate == node
    assert found.anchor == anchor
    assert found.path == (node.der, ca.der)
    assert found.hops == 0
    assert (node.organization, node.region, node.capabilities) == ("acme", "eu-west", {"storage", "search"})


def test_an_enrolment_ca_stands_between_in_any_order_beside_others(pki: Pki) -> None:
    ca, stranger = pki.ca(), pki.ca("globex")
    enrol = pki.enrol(ca)
    node = pki.node(enrol)
    chain = [node.der, stranger.der, pki.node(stranger).der, ca.der, enrol.der, enrol.der]
    found = believe(chain, stranger.anchor(), ca.anchor())
    assert found.path == (node.der, enrol.der, ca.der)


def test_two_cas_are_trusted_while_one_replaces_the_other_and_one_once_the_old_is_withdrawn(pki: Pki) -> None:
    old, new = pki.ca(), pki.ca()
    by_old, by_new = pki.node(old), pki.node(new)
    for node in (by_old, by_new):
        assert believe([node.der], old.anchor(), new.anchor()).certificate == node
    assert believe([by_new.der], new.anchor()).certificate == by_new
    assert refused([by_old.der], new.anchor()).id == "cert-untrusted"


def test_who_knows_the_old_ca_alone_believes_the_new_one_by_the_link(pki: Pki) -> None:
    old, new = pki.ca(), pki.ca()
    node = pki.node(new)
    link = issue.link(new.certificate, old.certificate, old.key, now=NOW, serial=pki.serial())
    assert refused([node.der], old.anchor()).id == "cert-untrusted"
    found = believe([node.der, link], old.anchor())
    assert (found.hops, found.anchor) == (0, old.anchor())
    enrol = pki.enrol(new)
    assert believe([pki.node(enrol).der, enrol.der, link], old.anchor()).hops == 0


def test_time_is_judged_with_leeway_or_not_at_all(pki: Pki) -> None:
    ca = pki.ca()
    node = pki.node(ca, days=7)
    for now in (node.not_before - 59, node.not_after + 59):
        believe([node.der], ca.anchor(), now=now)
    assert refused([node.der], ca.anchor(), now=node.not_before - 61).id == "cert-not-yet-valid"
    assert refused([node.der], ca.anchor(), now=node.not_after + 61).id == "cert-expired"
    ended = ca.anchor(until=NOW)
    assert believe([node.der], ended, now=None).certificate == node


def test_a_ca_that_names_no_organisation_speaks_for_the_one_it_is_trusted_for(pki: Pki) -> None:
    ca = pki.forge_ca(uris=())
    node, _ = pki.forge(issuer=ca)
    assert believe([node], ca.anchor(organization="acme")).certificate.organization == "acme"
    assert refused([node], ca.anchor(organization="globex")).id == "cert-wrong-organization"


def test_unknown_extensions_that_are_not_critical_are_no_hindrance(pki: Pki) -> None:
    ca = pki.ca()
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x00")
    node, _ = pki.forge(issuer=ca, extensions=[(extension, False)])
    assert believe([node], ca.anchor()).certificate.organization == "acme"


# --- one test an attack -----------------------------------------------------------------------------------------------


def test_an_expired_certificate(pki: Pki) -> None:
    ca = pki.ca()
    node = pki.node(ca, now=NOW - 8 * DAY)
    error = refused([node.der], ca.anchor())
    assert error.id == "cert-expired"
    assert error.why == "its life ended 24 h ago"


def test_a_certificate_that_is_not_valid_yet(pki: Pki) -> None:
    ca = pki.ca()
    assert refused([pki.node(ca, now=NOW + DAY).der], ca.anchor()).id == "cert-not-yet-valid"


def test_a_clock_ten_years_off_is_named(pki: Pki) -> None:
    ca = pki.ca(years=30)
    node = pki.node(ca)
    early = refused([node.der], ca.anchor(), now=NOW - 10 * YEAR)
    assert early.id == "cert-not-yet-valid"
    assert "clock" in early.why
    assert refused([node.der], ca.anchor(), now=NOW + 10 * YEAR).id == "cert-expired"


def test_a_revoked_certificate(pki: Pki) -> None:
    ca = pki.ca()
    node, other = pki.node(ca), pki.node(ca)

    def is_revoked(organization: str, serial: str, peer: PeerId) -> bool:
        return (organization, serial, peer) == ("acme", node.serial, node.peer_id)

    assert refused([node.der], ca.anchor(), is_revoked=is_revoked).id == "cert-revoked"
    assert refused([node.der], ca.anchor(), is_revoked=is_revoked, now=None).id == "cert-revoked"
    believe([other.der], ca.anchor(), is_revoked=is_revoked)


def test_a_revoked_enrolment_ca_takes_its_certificates_along(pki: Pki) -> None:
    ca = pki.ca()
    enrol = pki.enrol(ca)
    node = pki.node(enrol)
    error = refused([node.der, enrol.der], ca.anchor(), is_revoked=lambda *it: it[1] == enrol.certificate.serial)
    assert error.id == "cert-revoked"
    assert enrol.certificate.name in error.message


def test_a_certificate_of_another_peer(pki: Pki) -> None:
    ca = pki.ca()
    node, other = pki.node(ca), pki.node(ca)
    assert refused([node.der], ca.anchor(), peer_id=other.peer_id).id == "cert-other-peer"


def test_a_certificate_that_names_another_peer_than_its_key(pki: Pki) -> None:
    ca = pki.ca()
    victim = pki.node(ca)
    forged, _ = pki.forge(issuer=ca, uris=["rage:org:acme", f"rage:peer:{victim.peer_id}"])
    assert refused([forged], ca.anchor()).id == "cert-other-peer"


def test_a_ca_outside_its_organisation(pki: Pki) -> None:
    acme, globex = pki.ca("acme"), pki.ca("globex")
    forged, _ = pki.forge(issuer=globex, organization="acme")
    error = refused([forged], acme.anchor(), globex.anchor())
    assert error.id == "cert-wrong-organization"
    assert error.why == "a CA of globex has signed for acme"


def test_an_intermediate_of_another_organisation(pki: Pki) -> None:
    acme = pki.ca("acme")
    between = pki.forge_ca(issuer=acme, organization="globex")
    forged, _ = pki.forge(issuer=between, organization="acme")
    assert refused([forged, between.der], acme.anchor()).id == "cert-wrong-organization"
    nameless = pki.forge_ca(issuer=acme, uris=())
    assert refused([pki.forge(issuer=nameless)[0], nameless.der], acme.anchor()).id == "cert-wrong-organization"


def test_an_anchor_that_is_trusted_under_another_name_than_its_own(pki: Pki) -> None:
    globex = pki.ca("globex")
    assert refused([pki.node(globex).der], globex.anchor(organization="acme")).id == "cert-wrong-organization"


def test_a_self_signed_certificate(pki: Pki) -> None:
    forged, _ = pki.forge()
    assert refused([forged], pki.ca().anchor()).id == "cert-self-signed"


def test_a_ca_that_nobody_trusts_though_it_has_the_name_of_one(pki: Pki) -> None:
    ca = pki.ca()
    name = x509.load_der_x509_certificate(ca.der).subject
    impostor = pki.forge_ca(name=name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    forged, _ = pki.forge(issuer=impostor)
    assert refused([forged, impostor.der, ca.der], ca.anchor()).id == "cert-untrusted"
    assert refused([pki.node(ca).der]).id == "cert-untrusted"


@pytest.mark.parametrize("where", ["leaf", "intermediate"])
def test_an_unknown_critical_extension(pki: Pki, where: str) -> None:
    ca = pki.ca()
    unknown = [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x00"), True)]
    if where == "leaf":
        forged, _ = pki.forge(issuer=ca, extensions=unknown)
        assert refused([forged], ca.anchor()).id == "cert-unknown-critical"
        return
    der, key = pki.forge(issuer=ca, is_ca=True, name="between", extensions=unknown)
    with pytest.raises(CertificateError) as caught:
        parse_ca(der)
    assert caught.value.id == "cert-unknown-critical"
    between = pki.forge_ca(key=key, name="between")  # the same names and key, for the leaf's sake
    leaf, _ = pki.forge(issuer=between)
    assert refused([leaf, der], ca.anchor()).id == "cert-untrusted"


def test_constraints_that_this_code_does_not_judge_are_refused_where_they_are_critical(pki: Pki) -> None:
    ca = pki.ca()
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    assert refused([pki.forge(issuer=ca, extensions=[(usage, True)])[0]], ca.anchor()).id == "cert-unknown-critical"
    names = x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None)
    with pytest.raises(CertificateError) as caught:
        parse_ca(pki.forge(issuer=ca, is_ca=True, extensions=[(names, True)])[0])
    assert caught.value.id == "cert-unknown-critical"


def test_a_chain_that_loops(pki: Pki) -> None:
    """Two CAs that signed each other, and neither is trusted; then with a way in."""
    one, two = pki.forge_ca(name="one"), pki.forge_ca(name="two")
    one_by_two, _ = pki.forge(issuer=two, key=one.key, is_ca=True, name="one")
    two_by_one, _ = pki.forge(issuer=one, key=two.key, is_ca=True, name="two")
    leaf, _ = pki.forge(issuer=one)
    assert refused([leaf, one_by_two, two_by_one], pki.ca().anchor()).id == "cert-untrusted"
    assert believe([leaf, one_by_two, two_by_one], two.anchor()).path == (leaf, one_by_two, two.der)
    assert refused([leaf, one_by_two, two_by_one], pki.ca().anchor(), path_max=9).id == "cert-untrusted"


def test_a_chain_that_is_100_long(pki: Pki) -> None:
    top = above = pki.ca()
    chain: list[bytes] = []
    for _ in range(99):
        above = pki.forge_ca(issuer=above)
        chain.insert(0, above.der)
    leaf, _ = pki.forge(issuer=above)
    assert refused([leaf, *chain], top.anchor()).id == "cert-too-deep"


def test_a_chain_deeper_than_four_though_all_of_it_was_sent(pki: Pki) -> None:
    top = above = pki.ca()
    chain: list[bytes] = []
    for depth in range(1, 6):
        leaf, _ = pki.forge(issuer=above)
        if depth <= 4:
            assert believe([leaf, *chain], top.anchor()).path == (leaf, *chain, top.der)
        else:
            assert refused([leaf, *chain], top.anchor()).id == "cert-too-deep"
        above = pki.forge_ca(issuer=above)
        chain.insert(0, above.der)


def test_a_path_longer_than_a_ca_allows(pki: Pki) -> None:
    ca = pki.ca()
    enrol = pki.enrol(ca)
    below = pki.forge_ca(issuer=enrol)
    leaf, _ = pki.forge(issuer=below)
    error = refused([leaf, below.der, enrol.der], ca.anchor())
    assert error.id == "cert-too-deep"
    assert enrol.certificate.name in error.why


def test_a_node_that_signs_for_others(pki: Pki) -> None:
    ca = pki.ca()
    der, key = pki.forge(issuer=ca, name="rogue")
    rogue = pki.forge_ca(key=key, name="rogue")
    leaf, _ = pki.forge(issuer=rogue)
    assert refused([leaf, der], ca.anchor()).id == "cert-untrusted"
    with pytest.raises(CertificateError, match="no certificate of a CA"):
        parse_ca(pki.forge(issuer=ca, is_ca=True, usage=key_usage(is_ca=False))[0])


def test_capabilities_that_the_ca_may_not_give(pki: Pki) -> None:
    ca = pki.ca()
    enrol = pki.enrol(ca, "storage")
    leaf, _ = pki.forge(issuer=enrol, capabilities=frozenset({"admin", "storage"}))
    error = refused([leaf, enrol.der], ca.anchor())
    assert error.id == "cert-over-capabilities"
    assert "admin" in error.why


def test_a_downgrade_to_no_certificate(pki: Pki) -> None:
    assert refused([], pki.ca().anchor()).id == "cert-missing"


def test_trust_that_has_ended(pki: Pki) -> None:
    ca = pki.ca()
    node = pki.node(ca)
    believe([node.der], ca.anchor(until=NOW + 1))
    assert refused([node.der], ca.anchor(until=NOW)).id == "cert-trust-ended"


def test_a_key_that_is_not_ed25519(pki: Pki) -> None:
    ca, name = pki.ca(), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa or ec")])
    key = ec.generate_private_key(ec.SECP256R1())
    like = x509.load_der_x509_certificate(ca.der)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 7, like.not_valid_before_utc, like.not_valid_after_utc
    )
    assert refused([builder.sign(key, SHA256()).public_bytes(Encoding.DER)], ca.anchor()).id == "cert-not-ed25519"
    assert refused([builder.sign(ca.key, None).public_bytes(Encoding.DER)], ca.anchor()).id == "cert-not-ed25519"


@pytest.mark.parametrize(
    ("uris", "id"),
    [
        (["rage:org:acme"], "cert-not-a-node"),
        (["rage:peer:{peer}"], "cert-not-a-node"),
        (["rage:org:acme", "rage:org:globex", "rage:peer:{peer}"], "cert-malformed"),
        (["rage:org:acme", "rage:peer:{peer}", "rage:peer:{peer}"], "cert-malformed"),
        (["rage:org:acme", "rage:peer:nobody"], "cert-malformed"),
        (["rage:org:ac me", "rage:peer:{peer}"], "cert-malformed"),
        (["rage:org:xn--acm-/..", "rage:peer:{peer}"], "cert-malformed"),
        (["rage:org:acme", "rage:peer:{peer}", "rage:region:"], "cert-malformed"),
        (["rage:org:acme", "rage:peer:{peer}", "rage:god:yes"], "cert-malformed"),
    ],
)
def test_names_that_are_missing_doubled_or_no_names(pki: Pki, uris: list[str], id: str) -> None:
    ca, key = pki.ca(), pki.key()
    peer = str(PeerId.from_public_key(key.public_key()))
    forged, _ = pki.forge(issuer=ca, key=key, uris=[uri.format(peer=peer) for uri in uris])
    assert refused([forged], ca.anchor()).id == id


# --- web of trust -----------------------------------------------------------------------------------------------------


def test_a_cross_signed_organisation_is_believed_by_web_of_trust_alone(pki: Pki) -> None:
    acme, globex = pki.ca("acme"), pki.ca("globex")
    cross = pki.cross(globex, acme)
    enrol = pki.enrol(globex)
    for chain in ([pki.node(globex).der, cross], [pki.node(enrol).der, enrol.der, cross]):
        assert refused(chain, acme.anchor()).id == "cert-wrong-organization"
        found = believe(chain, acme.anchor(), path_max=1)
        assert (found.certificate.organization, found.anchor.organization, found.hops) == ("globex", "acme", 1)
        assert believe(chain, acme.anchor(), globex.anchor()).hops == 0


def test_two_steps_of_web_of_trust_want_both_signatures_to_allow_it(pki: Pki) -> None:
    acme, globex, initech = pki.ca("acme"), pki.ca("globex"), pki.ca("initech")
    node = pki.node(initech)
    onward = pki.cross(initech, globex)
    far = [node.der, onward, pki.cross(globex, acme, path=2)]
    assert believe(far, acme.anchor(), path_max=2).hops == 2
    assert refused(far, acme.anchor(), path_max=1).id == "cert-wrong-organization"
    near = [node.der, onward, pki.cross(globex, acme, path=0)]
    assert refused(near, acme.anchor(), path_max=2).id == "cert-too-deep"


def test_a_cross_signature_is_revoked_by_whoever_gave_it(pki: Pki) -> None:
    acme, globex = pki.ca("acme"), pki.ca("globex")
    cross = pki.cross(globex, acme)
    serial = parse_ca(cross).serial
    chain = [pki.node(globex).der, cross]
    own = refused(chain, acme.anchor(), path_max=1, is_revoked=lambda org, s, _: (org, s) == ("acme", serial))
    assert own.id == "cert-revoked"
    believe(chain, acme.anchor(), path_max=1, is_revoked=lambda org, s, _: (org, s) == ("globex", serial))


def test_a_hostile_cross_signed_ca_with_a_web_of_its_own_costs_a_signature_a_pair(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All eight certificates have one key and one name, so that each could have signed each: no explosion of paths."""
    checked = []
    is_issued = chains._is_issued
    monkeypatch.setattr(chains, "_is_issued", lambda *pair: checked.append(pair) or is_issued(*pair))
    acme, key = pki.ca("acme"), pki.key()
    evil = pki.forge_ca(key=key, name="evil")
    first, _ = pki.forge(issuer=acme, key=key, is_ca=True, name="evil")
    web = [pki.forge(issuer=evil, key=key, is_ca=True, name="evil")[0] for _ in range(6)]
    leaf, _ = pki.forge(issuer=evil, organization="globex")
    assert refused([leaf, first, *web], acme.anchor(), path_max=1).id == "cert-wrong-organization"
    assert len(checked) <= 8 * 8


def test_what_comes_along_and_is_no_ca_neither_helps_nor_harms(pki: Pki) -> None:
    ca = pki.ca()
    node = pki.node(ca)
    assert believe([node.der, b"", b"garbage", bytes(9000), pki.node(ca).der], ca.anchor()).certificate == node


def test_parse_gives_what_was_signed(pki: Pki) -> None:
    ca = pki.ca()
    node = pki.node(ca, "storage", "admin", renew_until=NOW + 99 * DAY)
    again = parse(node.der)
    assert again == node
    assert again.renew_until == NOW + 99 * DAY
    assert len(again.fingerprint) == 32
    assert again.serial == again.serial.lower()
