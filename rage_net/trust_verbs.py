"""The verbs of the noun trust. A plain function a verb; the engine takes `VERBS` into its own table.

What other organisations are trusted for stands in the log, as facts; our own CAs stand in a file. Only `test` needs the
network. Source: issue 4, B.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rage_net import refusals, sharing
from rage_net.errors import AccessDeniedError, CertificateError, NotFoundError, UnavailableError, UsageError
from rage_net.verbs import Verb
from rage_net.verbs import trust as verbs

if TYPE_CHECKING:
    from rage_net.cert import CaCertificate
    from rage_net.engine import Engine, Io
    from rage_net.metadata import Metadata
    from rage_net.sync.facts import Trust

CAS_MAX = 16
"""Of one organisation: two while it replaces one."""


async def list_trust(engine: Engine, verb: verbs.ListTrust, io: Io) -> verbs.ListTrustResult:
    """All that is trusted."""
    return verbs.ListTrustResult(await _rows(engine, _metadata(engine)))


async def show_trust(engine: Engine, verb: verbs.ShowTrust, io: Io) -> verbs.ShowTrustResult:
    """One organisation."""
    rows = await _rows(engine, _metadata(engine))
    found = tuple(row for row in rows if row.organization == verb.organization)
    if not found:
        raise _not_trusted(verb.organization)
    return verbs.ShowTrustResult(verb.organization, found, await _peers_of(engine, verb.organization))


async def add_trust(engine: Engine, verb: verbs.AddTrust, io: Io) -> verbs.AddTrustResult:
    """Trust an organisation."""
    from rage_net.sync.facts import Trust

    metadata, now = _metadata(engine), engine.env.now()
    cas = _check(verb, metadata.organization, now)
    known = {trust.ca: trust for trust in (await _trusted(engine, metadata)).get(verb.organization, ())}
    until = int(verb.until) if verb.until is not None else 0
    wanted = [Trust(ca.der, tuple(sorted(verb.scopes)), until) for ca in cas]
    if len(known.keys() | {trust.ca for trust in wanted}) > CAS_MAX:
        raise UsageError(
            f"{verb.organization} would have more than {CAS_MAX} CAs", mend=[f"rage trust remove {verb.organization}"]
        )
    new = [trust for trust in wanted if known.get(trust.ca) != trust]
    if verb.dry_run:
        items = tuple(_row(verb.organization, trust, now) for trust in wanted)
    else:
        await _append(engine, metadata, verb.organization, new)
        items = tuple(row for row in await _rows(engine, metadata) if row.organization == verb.organization)
    return verbs.AddTrustResult(verb.organization, items, len(new), await _reach(engine, metadata), verb.dry_run)


async def remove_trust(engine: Engine, verb: verbs.RemoveTrust, io: Io) -> verbs.RemoveTrustResult:
    """Trust an organisation no longer."""
    from rage_net.sync.facts import Trust

    metadata = _metadata(engine)
    if verb.organization == metadata.organization:
        raise _own(verb.organization, ["rage cert ca rotate", "rage cert revoke SERIAL"])
    held = (await _trusted(engine, metadata)).get(verb.organization, ())
    if not held:
        raise _not_trusted(verb.organization)
    peers = await _peers_of(engine, verb.organization)
    if not verb.dry_run:
        gone = [Trust(trust.ca, withdrawn=True) for trust in held]
        await _append(engine, metadata, verb.organization, gone)
    reach = await _reach(engine, metadata)
    return verbs.RemoveTrustResult(verb.organization, len(held), peers, reach, verb.dry_run)


async def probe_trust(engine: Engine, verb: verbs.ProbeTrust, io: Io) -> verbs.ProbeTrustResult:
    """Meet a peer, and say how each judges the other."""
    _metadata(engine)
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


# --- what the verbs need ----------------------------------------------------------------------------------------------


def _metadata(engine: Engine) -> Metadata:
    """Raises ConfigError on an open node."""
    if engine.metadata is None:
        raise refusals.no_ca()
    return engine.metadata


async def _trusted(engine: Engine, metadata: Metadata) -> dict[str, list[Trust]]:
    """What is in force and not withdrawn, by organisation; what has ended is there still."""
    return await engine.env.blocking(metadata.authority.trusted)


async def _append(engine: Engine, metadata: Metadata, organization: str, facts: Sequence[Trust]) -> None:
    """Write facts, durably; they hold when this returns."""
    from rage_net.sync.facts import New

    news = [New(f"org:{organization}", fact) for fact in facts]
    if news:
        written = await engine.env.blocking(metadata.log.append, metadata.organization, news)
        await sharing.written(engine, metadata.organization, written)


def _check(verb: verbs.AddTrust, own: str, now: float) -> list[CaCertificate]:
    """The CAs that are to be trusted. Raises UsageError, CertificateError."""
    from rage_net.cert import parse_ca, pem
    from rage_net.cert.words import is_name

    if not is_name(verb.organization):
        raise UsageError(f"{verb.organization!r} is no name of an organisation", mend=["rage trust add acme --ca FILE"])
    if verb.organization == own:
        raise _own(own, ["rage cert ca rotate"])
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


async def _rows(engine: Engine, metadata: Metadata) -> tuple[verbs.TrustRow, ...]:
    """Our own CAs, then those of others by name."""
    now = engine.env.now()
    own = [
        _row(anchor.organization, _as_fact(anchor.certificate, anchor.scopes), now, state="own")
        for anchor in metadata.authority.anchors
    ]
    others = await _trusted(engine, metadata)
    rows = [_row(organization, trust, now) for organization in sorted(others) for trust in others[organization]]
    return (*own, *(row for row in rows if row.organization != metadata.organization))


def _as_fact(ca: bytes, scopes: Collection[str]) -> Trust:
    from rage_net.sync.facts import Trust

    return Trust(ca, tuple(scopes))


def _row(organization: str, trust: Trust, now: float, *, state: str = "trusted") -> verbs.TrustRow:
    from rage_net.cert import parse_ca

    ca = parse_ca(trust.ca)
    until = trust.until or None
    if until is not None and until <= now:
        state = "ended"
    elif ca.not_after <= now:
        state = "expired"
    return verbs.TrustRow(
        organization,
        _ordered(trust.scopes),
        until,
        state,
        hashlib.sha256(trust.ca).hexdigest(),
        ca.name,
        ca.not_after,
    )


async def _peers_of(engine: Engine, organization: str) -> tuple[str, ...]:
    """Connected peers of an organisation; none where the network was not started."""
    if not engine.is_online:
        return ()
    standings = (await engine.online()).trust.standings()
    return tuple(str(one.peer_id) for one in standings if one.is_trusted and one.organization == organization)


async def _reach(engine: Engine, metadata: Metadata) -> str:
    is_admin = await engine.env.blocking(metadata.authority.is_admin, metadata.organization, metadata.own)
    return "organization" if is_admin else "node"


def _ordered(scopes: Collection[str]) -> tuple[str, ...]:
    return tuple(scope for scope in verbs.SCOPES if scope in scopes)


def _own(organization: str, mend: Sequence[str]) -> UsageError:
    return UsageError(
        f"{organization} is this node's own organisation",
        why="its CAs stand in the file that network.security.ca_cert names",
        mend=mend,
        id="trust-own",
    )


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
}
