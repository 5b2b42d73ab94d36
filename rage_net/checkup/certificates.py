"""A home's certificates as its files have them: whether peers will believe this node, and how long its CAs last.

Revocations stand in the log, and who trusts us the others know: both are the engine's to look at. Source: design D7;
issue 4, A and G.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rage_net import certfiles
from rage_net import home as homes
from rage_net.certfiles import CertFiles
from rage_net.checkup.outcomes import ok, skipped, span
from rage_net.config import Config
from rage_net.errors import ConfigError, RageError
from rage_net.home import Home
from rage_net.libp2p.peer_id import PeerId
from rage_net.verbs.diagnose import Check

if TYPE_CHECKING:
    from rage_net.cert import Anchor, CaCertificate, NodeCertificate

END_NEAR = 0.2
"""Of a certificate's life: renewal is due at a third of it, and has failed for long."""
CA_NEAR_S = 90 * 86_400.0
"""Before a CA ends: its successor has to reach every node, and every organisation that trusts it."""
CAS_READ_MAX = 16
"""Of one file, as the node takes them."""

_SIGN = "rage cert request | rage cert sign - | rage cert install -"


def check_certificate(home: Home, config: Config, now: float) -> Check:
    """Whether this node's certificate leads to a CA that it trusts itself, is its own, and lasts; and keys are private.

    Args: now: seconds since the epoch.
    """
    from rage_net.cert import verify_chain

    security = config.network.security
    files = CertFiles.of(home, security.tls_cert, security.ca_cert)
    exposed = [found for path in _keys(config, files) if (found := _exposure(path))]
    if exposed:
        paths = [path for path, _ in exposed]
        message = f"others can read {len(paths)} private keys" if len(paths) > 1 else "others can read a private key"
        why = "; ".join(why for _, why in exposed)
        return Check("certificate", "error", message, why, tuple(f"chmod 600 {path}" for path in paths))
    if security.ca_cert is None:
        if not files.certificate.exists():
            return skipped("certificate", "no CA is configured: the node is open")
        why = "network.security.ca_cert is not set, so nobody's certificate is asked for"
        again = (f"rage cert install {files.certificate} --ca FILE", "rage config show network.security --origin")
        return Check("certificate", "warning", "there is a certificate, and the node is open", why, again)
    try:
        anchors = _anchors(security.ca_cert, config.network.organization_id)
        chain = certfiles.read_certificates(files.certificate)
        own = PeerId.from_public_key(homes.load_identity(security.peer_key).public_key())
        verified = verify_chain(chain, anchors, now, peer_id=own, is_revoked=_unknown)
    except RageError as error:
        mend = error.mend or (_SIGN,)
        return Check("certificate", "error", f"no peer will trust this node: {error.message}", error.why, mend)
    return _judge_life(verified.certificate, now)


def _judge_life(certificate: NodeCertificate, now: float) -> Check:
    """Of a certificate that is believed: whether it was renewed in time, and can be."""
    from rage_net.cert.renewal import DUE_AT, renewal_time

    life, left = certificate.not_after - certificate.not_before, certificate.not_after - now
    said = f"{certificate.organization}, {', '.join(sorted(certificate.capabilities)) or 'no capability'}"
    message = f"{said}; it ends in {span(left)}"
    late_s = now - renewal_time(certificate, 1.0)
    can = certificate.renew_until > certificate.not_after  # else the next one would end no later
    if late_s > 0 or left < END_NEAR * life:
        why = f"it was to be renewed {span(late_s)} ago" if can else "no node may renew it beyond that"
        mend = ("rage cert renew", "rage peer list --cap enrol") if can else (_SIGN,)
        return Check("certificate", "error" if left < END_NEAR * life else "warning", message, why, mend)
    due_s = certificate.not_before + life * DUE_AT - now
    if not can and left < life / 2:
        why = "no node may renew it beyond that: whoever signs has to sign it again"
        return Check("certificate", "warning", message, why, (_SIGN,))
    if not can:
        return ok("certificate", f"{message}, for good")
    return ok("certificate", f"{message}, and is renewed {f'in {span(due_s)}' if due_s > 0 else 'about now'}")


def check_ca(home: Home, config: Config, now: float, *, runs: bool) -> Check:
    """How long the CAs last that this home trusts as its own or keeps. Args: runs: a node runs here."""
    security = config.network.security
    files = CertFiles.of(home, security.tls_cert, security.ca_cert)
    try:
        trusted = _cas(security.ca_cert) if security.ca_cert is not None else []
        kept = _cas(files.ca_certificate) if files.ca_certificate.exists() else []
        enrols = security.enrol.ca_cert
        enrolling = _cas(enrols)[:1] if enrols.exists() else []
    except RageError as error:
        return Check("ca", "error", error.message, error.why, error.mend)
    if not (trusted or kept or enrolling):
        return skipped("ca", "no CA is configured, and none is kept here")
    living = [ca for ca in trusted if ca.not_after > now]
    if trusted and not living:
        why = f"{trusted[-1].name} ended {span(now - trusted[-1].not_after)} ago"
        return Check("ca", "error", "every CA of this organisation has expired", why, ("rage cert ca rotate",))
    if enrolling and enrolling[0].not_after <= now:
        mend = ("rage cert ca enrol    (where the CA is kept)",)
        why = f"it ended {span(now - enrolling[0].not_after)} ago"
        return Check("ca", "error", "the CA with which this node renews others' certificates has expired", why, mend)
    problems = list(_ends(living or kept, enrolling, now))
    if len(living) < len(trusted):
        gone = next(ca for ca in trusted if ca.not_after <= now)
        problems.append(
            (
                f"{gone.name} has expired, and is trusted still",
                "rage cert ca rotate --withdraw    (where the CA is kept)",
            )
        )
    if runs and kept and files.ca_key.exists():
        said = "the CA's key lies in the home of a running node: who takes the node takes the organisation"
        problems.append((said, f"keep {files.ca} on a machine that runs none"))
    shown = living or kept or enrolling
    last = max(ca.not_after for ca in shown)
    message = f"{len(living)} trusted, the last ends in {span(last - now)}" if living else f"kept here: {shown[0].name}"
    if problems:
        return Check(
            "ca", "warning", message, "; ".join(why for why, _ in problems), tuple(mend for _, mend in problems)
        )
    return ok("ca", message)


def _ends(own: Sequence[CaCertificate], enrolling: Sequence[CaCertificate], now: float) -> Iterator[tuple[str, str]]:
    """CAs that end soon without a successor, each with the mend."""
    last = max(own, key=lambda ca: ca.not_after, default=None)
    if last is not None and last.not_after - now < CA_NEAR_S:
        yield f"{last.name} ends in {span(last.not_after - now)}, and none follows it", "rage cert ca rotate"
    for ca in enrolling:
        if ca.not_after - now < CA_NEAR_S / 6:
            yield f"the enrolment CA ends in {span(ca.not_after - now)}", "rage cert ca enrol    (where the CA is kept)"


# --- parts ------------------------------------------------------------------------------------------------------------


def _anchors(bundle: Path, organization: str) -> list[Anchor]:
    """The CAs of our own organisation. Raises RageError."""
    from rage_net.cert import Anchor

    mend = ("rage config show network --origin", f"openssl x509 -noout -text -in {bundle}")
    if not organization:
        raise ConfigError("network.organization_id is not set, and a CA is", mend=mend)
    try:
        cas = _cas(bundle)
    except RageError as error:
        raise ConfigError(f"the CA file {bundle} cannot be used", why=f"{error.message}", mend=mend) from None
    strange = [ca for ca in cas if ca.organization not in ("", organization)]
    if strange:
        why = f"it holds a CA of {strange[0].organization}, and network.organization_id is {organization}"
        raise ConfigError(f"the CA file {bundle} cannot be used", why=why, mend=mend)
    return [Anchor(organization, ca.der) for ca in cas]


def _cas(path: Path) -> list[CaCertificate]:
    """The CAs of a PEM file. Raises RageError."""
    from rage_net.cert import parse_ca

    return [parse_ca(der) for der in certfiles.read_certificates(path)[:CAS_READ_MAX]]


def _unknown(organization: str, serial: str, peer: PeerId) -> bool:
    """Revocations stand in the log."""
    return False


def _keys(config: Config, files: CertFiles) -> list[Path]:
    """Private keys of this home, wherever they lie."""
    security = config.network.security
    named = [security.peer_key, security.tls_key, security.enrol.ca_key, files.ca_key, files.new_key]
    return [*dict.fromkeys(path for path in named if path is not None), *sorted(files.retired.glob("*.key"))]


def _exposure(path: Path) -> tuple[Path, str] | None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # what is not there is open to nobody
        return None
    return (path, f"{path} has mode {mode:04o}") if mode & 0o077 else None
