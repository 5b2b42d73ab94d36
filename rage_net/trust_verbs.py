"""The verbs of the noun trust, and `cert renew`. A plain function a verb; the engine takes `VERBS` into its own table.

What other organisations are trusted for stands in the log, as facts: `TrustLedger` is what is needed of it. Our own
CAs stand in a file. Only `test` and `renew` need the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rage_net import refusals
from rage_net.certfiles import CertFiles
from rage_net.errors import AccessDeniedError, CertificateError, NotFoundError, UnavailableError, UsageError
from rage_net.verbs import Verb
from rage_net.verbs import cert as certs
from rage_net.verbs import trust as verbs

if TYPE_CHECKING:
    from rage_net.cert import CaCertificate
    from rage_net.engine import Engine, Io
    from rage_net.services.trust.credentials import Credentials

CAS_MAX = 16
"""Of one organisation: two while it replaces one."""


@dataclass(frozen=True, slots=True)
class TrustEntry:
    """A fact that is in force: a CA of another organisation, and what it is trusted for."""

    organization: str
    ca: bytes = field(repr=False)
    scopes: frozenset[str]
    until: float | None = None
    by: str = ""
    """Peer id of its author."""


class TrustLedger(Protocol):
    """What is needed of the log. A fact about a CA replaces those that its author has seen about the same one."""

    async def list_trust(self) -> Sequence[TrustEntry]:
        """What is in force and not withdrawn; what has ended is there still."""
        ...

    async def append_trust(self, entry: TrustEntry, *, withdrawn: bool) -> None:
        """Write a fact, durably; `TrustStore.foreign` obeys it when this returns. Raises RageError."""
        ...


async def list_trust(engine: Engine, verb: verbs.ListTrust, io: Io) -> verbs.ListTrustResult:
    """All that is trusted."""
    return verbs.ListTrustResult(await _rows(engine, await _credentials(engine)))


async def show_trust(engine: Engine, verb: verbs.ShowTrust, io: Io) -> verbs.ShowTrustResult:
    """One organisation."""
    rows = await _rows(engine, await _credentials(engine))
    found = tuple(row for row in rows if row.organization == verb.organization)
    if not found:
        raise _not_trusted(verb.organization)
    return verbs.ShowTrustResult(verb.organization, found, await _peers_of(engine, verb.organization))


async def add_trust(engine: Engine, verb: verbs.AddTrust, io: Io) -> verbs.AddTrustResult:
    """Trust an organisation."""
    own = await _credentials(engine)
    cas = _check(verb, own.organization, engine.env.now())
    ledger = _ledger(engine)
    known = {entry.ca: entry for entry in await ledger.list_trust() if entry.organization == verb.organization}
    wanted = [TrustEntry(verb.organization, ca.der, frozenset(verb.scopes), verb.until) for ca in cas]
    if len(known.keys() | {entry.ca for entry in wanted}) > CAS_MAX:
        raise UsageError(
            f"{verb.organization} would have more than {CAS_MAX} CAs", mend=[f"rage trust remove {verb.organization}"]
        )
    new = [entry for entry in wanted if not _is_same(known.get(entry.ca), entry)]
    if not verb.dry_run:
        for entry in new:
            await ledger.append_trust(entry, withdrawn=False)
        await _reconsider(engine)
    rows = await _rows(engine, own) if not verb.dry_run else tuple(_row(entry, engine.env.now()) for entry in wanted)
    items = tuple(row for row in rows if row.organization == verb.organization)
    return verbs.AddTrustResult(verb.organization, items, len(new), _reach(own), verb.dry_run)


async def remove_trust(engine: Engine, verb: verbs.RemoveTrust, io: Io) -> verbs.RemoveTrustResult:
    """Trust an organisation no longer."""
    own = await _credentials(engine)
    ledger = _ledger(engine)
    if verb.organization == own.organization:
        raise UsageError(
            f"{verb.organization} is this node's own organisation",
            why="its CAs stand in the file that network.security.ca_cert names",
            mend=["rage cert ca rotate", "rage cert revoke SERIAL"],
            id="trust-own",
        )
    entries = [entry for entry in await ledger.list_trust() if entry.organization == verb.organization]
    if not entries:
        raise _not_trusted(verb.organization)
    peers = await _peers_of(engine, verb.organization)
    if not verb.dry_run:
        for entry in entries:
            await ledger.append_trust(entry, withdrawn=True)
        await _reconsider(engine)
    return verbs.RemoveTrustResult(verb.organization, len(entries), peers, _reach(own), verb.dry_run)


async def probe_trust(engine: Engine, verb: verbs.ProbeTrust, io: Io) -> verbs.ProbeTrustResult:
    """Meet a peer, and say how each judges the other."""
    await _credentials(engine)
    online = await engine.online()
    peer = online.membership.named(verb.peer)
    with suppress(AccessDeniedError):  # not trusted: that is the answer
        await online.membership.find(verb.peer)
    ban = online.membership.ban_on(peer)
    if ban is not None:
        raise refusals.banned(str(peer), ban.until, ban.reason)
    connection = online.swarm.connection_unoffered(peer)
    if connection is not None:
        await online.trust.meet_again(connection)  # either may have changed its mind
    standing, connection = online.trust.standing(peer), online.swarm.connection_unoffered(peer)
    if standing is None or connection is None:
        raise UnavailableError(
            f"{peer} hung up before the certificates were exchanged",
            mend=[f"rage peer ping {peer}"],
            id="peer-gone",
        )
    certificate = standing.certificate
    return verbs.ProbeTrustResult(
        str(peer),
        standing.is_trusted,
        standing.reason,
        standing.message,
        standing.organization,
        certificate.region if certificate is not None else "",
        tuple(sorted(standing.capabilities)),
        _ordered(standing.scopes),
        certificate.serial if certificate is not None else "",
        certificate.not_after if certificate is not None else None,
        tuple(online.swarm.protocols_for(connection)),
        online.trust.refused_by(peer),
    )


async def renew_certificate(engine: Engine, verb: certs.RenewCertificate, io: Io) -> certs.RenewCertificateResult:
    """Have this node's certificate renewed by a node that enrols."""
    await _credentials(engine)
    online = await engine.online()
    await online.trust.refresh()
    current, by = online.trust.credentials.certificate, ""
    is_wanted = not verb.if_needed or online.renewal.is_due(engine.env.now())
    if current is None or is_wanted:
        renewed = await online.renewal.renew()
        current, by = renewed.certificate, str(renewed.by)
    return certs.RenewCertificateResult(
        is_wanted,
        current.serial,
        current.organization,
        str(current.peer_id),
        tuple(sorted(current.capabilities)),
        current.not_before,
        current.not_after,
        current.renew_until,
        current.fingerprint.hex(),
        by,
    )


# --- what the verbs need ----------------------------------------------------------------------------------------------


async def _credentials(engine: Engine) -> Credentials:
    """Our own organisation and its CAs. Raises UsageError on an open node."""
    from rage_net.services.trust.credentials import Files

    security = engine.config.network.security
    if security.ca_cert is None:
        raise UsageError(
            "this node is open: it has no CA, and trusts nobody in particular",
            why="network.security.ca_cert is not set",
            mend=["rage cert ca init --org ORG", "rage config show network.security --origin"],
            id="no-ca",
        )
    certificate = CertFiles.of(engine.home, security.tls_cert).certificate
    return await engine.env.blocking(Files(security.ca_cert, certificate, engine.organization).load)


def _ledger(engine: Engine) -> TrustLedger:
    if engine.trust_ledger is None:
        raise UnavailableError(
            "this home keeps no log, where trust in others would be written", mend=["rage sync status"], id="no-log"
        )
    return engine.trust_ledger


def _check(verb: verbs.AddTrust, own: str, now: float) -> list[CaCertificate]:
    """The CAs that are to be trusted. Raises UsageError, CertificateError."""
    from rage_net.cert import parse_ca, pem
    from rage_net.cert.words import is_name

    if not is_name(verb.organization):
        raise UsageError(f"{verb.organization!r} is no name of an organisation", mend=["rage trust add acme --ca FILE"])
    if verb.organization == own:
        raise UsageError(
            f"{own} is this node's own organisation",
            why="its CAs stand in the file that network.security.ca_cert names",
            mend=["rage cert ca rotate"],
            id="trust-own",
        )
    unknown = sorted(set(verb.scopes) - set(verbs.SCOPES))
    if unknown or not verb.scopes:
        raise UsageError(
            f"unknown scope {unknown[0]}" if unknown else "trust without a scope opens nothing",
            mend=[f"--scope {','.join(verbs.SCOPES)}"],
        )
    if verb.until is not None and verb.until <= now:
        raise UsageError("--until is in the past", mend=["--until 90d"])
    cas = [parse_ca(der) for der in dict.fromkeys(pem.decode(verb.ca.encode(), name="--ca"))]
    for ca in cas:
        if ca.organization not in ("", verb.organization):
            raise CertificateError(
                f"the CA is that of {ca.organization}, not of {verb.organization}",
                why="a CA is trusted under its own organisation's name alone",
                mend=[f"rage trust add {ca.organization} --ca FILE"],
                id="cert-wrong-organization",
            )
        if ca.not_after <= now:
            raise CertificateError(
                f"the CA {ca.name} has expired", mend=[f"ask {verb.organization} for its new one"], id="cert-expired"
            )
    return cas


def _is_same(known: TrustEntry | None, wanted: TrustEntry) -> bool:
    return known is not None and (known.scopes, known.until) == (wanted.scopes, wanted.until)


async def _rows(engine: Engine, own: Credentials) -> tuple[verbs.TrustRow, ...]:
    now = engine.env.now()
    rows = [_row(TrustEntry(one.organization, one.certificate, one.scopes), now, own=True) for one in own.anchors]
    entries = await engine.trust_ledger.list_trust() if engine.trust_ledger is not None else ()
    others = [_row(entry, now) for entry in entries if entry.organization != own.organization]
    return (*rows, *sorted(others, key=lambda row: (row.organization, row.ca_sha256)))


def _row(entry: TrustEntry, now: float, *, own: bool = False) -> verbs.TrustRow:
    from rage_net.cert import parse_ca

    ca = parse_ca(entry.ca)
    state = "own" if own else "trusted"
    if entry.until is not None and entry.until <= now:
        state = "ended"
    elif ca.not_after <= now:
        state = "expired"
    return verbs.TrustRow(
        entry.organization,
        _ordered(entry.scopes),
        entry.until,
        state,
        hashlib.sha256(entry.ca).hexdigest(),
        ca.name,
        ca.not_after,
        entry.by,
    )


async def _peers_of(engine: Engine, organization: str) -> tuple[str, ...]:
    """Connected peers of an organisation; none where the network was not started."""
    if not engine.is_online:
        return ()
    standings = (await engine.online()).trust.standings()
    return tuple(str(one.peer_id) for one in standings if one.is_trusted and one.organization == organization)


async def _reconsider(engine: Engine) -> None:
    """What was written holds at once."""
    if engine.is_online:
        (await engine.online()).trust.reconsider()


def _reach(own: Credentials) -> str:
    is_admin = own.certificate is not None and "admin" in own.certificate.capabilities
    return "organization" if is_admin else "node"


def _ordered(scopes: frozenset[str]) -> tuple[str, ...]:
    return tuple(scope for scope in verbs.SCOPES if scope in scopes)


def _not_trusted(organization: str) -> NotFoundError:
    return NotFoundError(
        f"{organization} is not trusted here",
        mend=["rage trust list", f"rage trust add {organization} --ca FILE"],
        id="trust-not-found",
    )


VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.ListTrust: list_trust,
    verbs.ShowTrust: show_trust,
    verbs.AddTrust: add_trust,
    verbs.RemoveTrust: remove_trust,
    verbs.ProbeTrust: probe_trust,
    certs.RenewCertificate: renew_certificate,
}
