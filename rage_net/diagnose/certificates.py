"""Why one node does not trust another's certificate, in words for people, with the commands that mend it.

Each side judges for itself: what is wrong here we know whole, what is wrong there the other end tells as one stable
word. Pure. Source: design D7; `cert.verify_chain`, which gives the words.
"""

from __future__ import annotations

from typing import NamedTuple

SIGN = "rage cert request | rage cert sign - | rage cert install -"
CLOCK = ("date -u", "timedatectl set-ntp true")
SCOPES = "query,chunks,sync"


class Told(NamedTuple):
    """What is wrong, and what to do."""

    message: str
    mend: tuple[str, ...]


_THEIRS = {
    "cert-missing": Told("it shows no certificate", (f"there: {SIGN}",)),
    "cert-expired": Told("its certificate has expired, or this clock is ahead", ("there: rage cert renew", *CLOCK)),
    "cert-not-yet-valid": Told("its certificate is not valid yet: one of the two clocks is wrong", CLOCK),
    "cert-revoked": Told(
        "its organisation has withdrawn its certificate", ("rage cert list", f"there: {SIGN}    (with a new key)")
    ),
    "cert-other-peer": Told("the certificate that it shows is another peer's", ("there: rage cert show",)),
    "cert-self-signed": Told("its certificate is signed by itself alone", (f"there: {SIGN}",)),
    "trust-timeout": Told("it showed no certificate in time", ("rage trust test PEER",)),
}
"""Their certificate, as judged here."""

_OURS = {
    "cert-missing": Told("this node shows it no certificate", (SIGN,)),
    "cert-expired": Told(
        "by its clock this node's certificate has expired", ("rage cert renew", "there: date -u", *CLOCK)
    ),
    "cert-not-yet-valid": Told(
        "by its clock this node's certificate is not valid yet: one of the two clocks is wrong",
        ("there: date -u", *CLOCK),
    ),
    "cert-revoked": Told(
        "it knows that this node's certificate was withdrawn", ("rage cert verify", f"{SIGN}    (with a new key)")
    ),
    "cert-other-peer": Told("this node shows it a certificate of another peer", ("rage cert show", SIGN)),
    "cert-self-signed": Told("this node's certificate is signed by itself alone", (SIGN,)),
    "refused": Told("it does not trust this node, and did not say why", ("there: rage trust test PEER",)),
}
"""Our certificate, as judged there."""


def judged_here(reason: str, message: str, claimed: str, own: str, peer: str) -> Told:
    """Why a peer is not trusted here.

    Args: reason, message: of its `Standing`. claimed: the organisation that its certificate names, own: ours.
    """
    if reason in ("cert-untrusted", "cert-wrong-organization") and claimed == own:
        why = f"no CA of {own} that is trusted here has signed its certificate"
        return Told(why, ("rage cert install --ca FILE    (where the CA was replaced)", "there: rage cert show"))
    if reason == "cert-untrusted" and claimed:
        mend = (f"rage trust add {claimed} --ca FILE --scope {SCOPES}", "rage trust list")
        return Told(f"{claimed}, as it says, is not trusted here", mend)
    if reason == "cert-trust-ended":
        mend = (f"rage trust add {claimed or 'ORG'} --ca FILE --scope {SCOPES}", "rage trust list")
        return Told(f"trust in {claimed or 'its organisation'} has ended", mend)
    told = _THEIRS.get(reason) or Told(message or reason, ("there: rage cert show", "there: rage cert verify"))
    return Told(told.message, tuple(each.replace("PEER", peer) for each in told.mend))


def judged_there(reason: str, own: str, their: str, own_peer: str) -> Told:
    """Why a peer does not trust us, by the word that it gave. Args: own, their: organisations, the other's if known."""
    if reason == "cert-untrusted" and their == own:
        why = f"it trusts no CA of {own} that has signed this node's certificate"
        return Told(why, ("rage cert show", "there: rage cert install --ca FILE"))
    if reason in ("cert-untrusted", "cert-trust-ended"):
        ended = "no longer" if reason == "cert-trust-ended" else "not"
        mend = (f"there: rage trust add {own} --ca FILE --scope {SCOPES}", "rage cert ca show --pem > FILE")
        return Told(f"{own} is {ended} trusted there", mend)
    told = _OURS.get(reason) or Told(f"it does not trust this node: {reason}", ("rage cert show", "rage cert verify"))
    return Told(told.message, tuple(each.replace("PEER", own_peer) for each in told.mend))
