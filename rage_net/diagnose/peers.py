"""Whether a peer can be reached, trusts us and is trusted, and how far its copy of the log is from ours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rage_net.checkup.outcomes import span
from rage_net.diagnose.certificates import judged_here, judged_there
from rage_net.diagnose.walk import Walk
from rage_net.errors import AccessDeniedError, CertificateError, NotFoundError, RageError
from rage_net.libp2p.peer_id import PeerId
from rage_net.messages import CHUNK_PROTOCOL
from rage_net.online import Online
from rage_net.services.membership import parse_address
from rage_net.verbs.diagnose import WhyResult

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.libp2p.swarm import Connection
    from rage_net.services.trust import Standing

END_NEAR = 0.2
"""Of a certificate's life."""
IDENTIFY_S_MAX = 3.0
LOOK_S = 0.05


async def explain_peer(engine: Engine, online: Online, peer: PeerId, text: str, walk: Walk) -> WhyResult:
    """Every link from here to a peer."""
    members = online.membership
    if peer == online.swarm.peer_id:
        walk.add("identity", "ok", "this node itself")
        return walk.result(text, "peer", True, f"{peer} is this node")
    walk.add("identity", "ok", str(peer))
    ban = members.ban_on(peer)
    if ban is not None:
        walk.add("ban", "broken", f"banned here: {ban.reason or 'no reason given'}", (f"rage peer unban {peer}",))
        return walk.result(text, "peer", False, f"{peer} is banned here")
    state = members.liveness.state(peer)
    if state is not None:
        walk.add("liveness", "ok" if state == "alive" else "warning", f"the network takes it for {state}")
    if online.swarm.connection(peer) is None:
        refusal = await _dial(online, peer, text, walk)
        if refusal:
            _explain_refusal(engine, online, peer, refusal, walk)
            return walk.result(text, "peer", False, f"{peer} answers, and the two nodes do not trust each other")
        if walk.steps[-1].state == "broken":
            return walk.result(text, "peer", False, f"{peer} cannot be reached")
    connection = online.swarm.connection(peer)
    if connection is None:
        walk.add("connection", "broken", "it broke at once", (f"rage peer connect {text}",))
        return walk.result(text, "peer", False, f"{peer} cannot be reached")
    walk.add("connection", "ok", f"{'from' if connection.inbound else 'to'} {connection.remote_address}")
    try:
        rtt_s = await members.ping(connection)
    except RageError as error:
        walk.add("ping", "broken", error.message, (f"rage peer ping {peer}",))
        return walk.result(text, "peer", False, f"{peer} is connected and does not answer")
    walk.add("ping", "ok", f"{rtt_s * 1000:.1f} ms")
    await _wait_identified(connection)
    _explain_protocols(online, connection, walk)
    if online.trust.is_open:
        walk.add("certificate", "skipped", "no CA is configured: the node is open")
        return walk.result(text, "peer", True, f"{peer} is reached")
    standing = online.trust.standing(peer)
    if standing is None or not standing.is_trusted:  # strangers stay connected where public_access lets them
        _explain_refusal(engine, online, peer, "trust-timeout", walk)
        return walk.result(text, "peer", False, f"{peer} is reached, and is a stranger")
    _explain_certificate(standing, engine.env.now(), walk)
    _explain_trust(online, connection, standing, walk)
    _explain_sync(engine, online, standing, walk)
    return walk.result(text, "peer", True, f"{peer} is reached, and trusted as a peer of {standing.organization}")


async def _dial(online: Online, peer: PeerId, text: str, walk: Walk) -> str:
    """Find where a peer is, and dial it. Returns: the word with which one of the two refuses the other's certificate.

    What else is broken is the last step.
    """
    members = online.membership
    kept = members.peerstore.get(peer)
    addresses = list(kept.addresses) if kept is not None else []
    if text.startswith("/"):
        addresses.insert(0, parse_address(text).without_peer_id())
    if addresses:
        walk.add("addresses", "ok", f"{len(addresses)} known: {addresses[0]}")
    else:
        try:
            found = await online.discovering.find(peer, (), is_connected=False)
        except NotFoundError as error:
            walk.add("addresses", "broken", f"none is known: {error.why}", error.mend)
            return ""
        addresses = [parse_address(one).without_peer_id() for one in found.addresses]
        walk.add("addresses", "ok", f"{found.source} knows {addresses[0]}")
    try:
        await members.reach(peer, addresses, "configured")
    except AccessDeniedError as error:
        if error.id == "peer-not-trusted":
            walk.add("dial", "ok", "it answers, and proves that it is this peer")
            return error.why or "refused"
        walk.add("dial", "broken", error.why or error.message, error.mend)
    except RageError as error:
        mend = ("there: rage node status", "there: rage doctor --only addresses")
        walk.add("dial", "broken", error.why or error.message, mend)
    return ""


async def _wait_identified(connection: Connection) -> None:
    """It says what it speaks a round trip or two after it was met."""
    for _ in range(round(IDENTIFY_S_MAX / LOOK_S)):
        if connection.identify is not None or connection.is_lost:
            return
        await asyncio.sleep(LOOK_S)


def _explain_protocols(online: Online, connection: Connection, walk: Walk) -> None:
    said = connection.identify
    protocols = said.protocols if said is not None else ()
    if CHUNK_PROTOCOL in protocols:
        walk.add("protocols", "ok", "exchanges chunks")
        return
    agent = (said.agent_version if said is not None else "") or "unknown"
    if not agent.startswith("rage/"):
        walk.add("protocols", "warning", f"does not exchange chunks ({agent})")
    elif online.trust.is_open:
        mend = ("rage cert request    (and have it signed)", "there: rage config show network.security --origin")
        walk.add("protocols", "warning", "a rage node that opens no chunks to this one: it may have a CA", mend)
    else:
        own = online.trust.organization
        mend = (f"there: rage trust add {own} --ca FILE --scope chunks", "there: rage trust list")
        walk.add("protocols", "warning", "it opens no chunks to this node", mend)


# --- certificates -----------------------------------------------------------------------------------------------------


def _explain_refusal(engine: Engine, online: Online, peer: PeerId, refusal: str, walk: Walk) -> None:
    """Which of the two does not trust the other, and why: here we judged, there it said a word."""
    trust, own = online.trust, online.trust.organization
    standing, refused_us = trust.standing(peer), trust.refused_by(peer)
    claimed = _claimed(standing)
    if standing is None and not refused_us:  # the connection is gone; a word of the introduction is left
        standing_reason, message = refusal, ""
    else:
        standing_reason, message = (standing.reason, standing.message) if standing is not None else ("", "")
    if standing is not None and standing.is_trusted:
        _explain_certificate(standing, engine.env.now(), walk)
    elif standing_reason:
        told = judged_here(standing_reason, message, claimed, own, str(peer))
        walk.add("certificate", "broken", told.message, told.mend)
    problem = trust.credentials.problem
    if refused_us:
        told = judged_there(refused_us, own, claimed, str(online.swarm.peer_id))
        walk.add("own certificate", "broken", told.message, told.mend)
    elif problem:
        walk.add("own certificate", "broken", problem, judged_there("cert-missing", own, "", "").mend)
    else:
        walk.add("own certificate", "skipped", "the peer did not say how it judges this node's")


def _claimed(standing: Standing | None) -> str:
    """The organisation that a peer's certificate names, believed or not; empty where it shows none."""
    from rage_net.cert import parse

    if standing is None or not standing.chain:
        return ""
    try:
        return parse(standing.chain[0]).organization
    except CertificateError:
        return ""


def _explain_certificate(standing: Standing, now: float, walk: Walk) -> None:
    """Of a peer that is trusted."""
    certificate = standing.certificate
    assert certificate is not None
    left = certificate.not_after - now
    is_near = left < END_NEAR * (certificate.not_after - certificate.not_before)
    region = f", {certificate.region}" if certificate.region else ""
    capabilities = ", ".join(sorted(certificate.capabilities)) or "no capability"
    said = f"of {certificate.organization}{region}: {capabilities}; it ends in {span(left)}"
    mend = ("there: rage cert renew", "there: rage doctor --only certificate") if is_near else ()
    walk.add("certificate", "warning" if is_near else "ok", said, mend)


# --- trust, sync ------------------------------------------------------------------------------------------------------


def _explain_trust(online: Online, connection: Connection, standing: Standing, walk: Walk) -> None:
    """What each opens to the other."""
    opens = [name for name in online.swarm.protocols_for(connection) if name.startswith("/rage/")]
    shown = ", ".join(name.split("/")[2] for name in opens) or "nothing"
    if standing.organization == online.trust.organization:
        walk.add("trust", "ok", f"of this organisation: it may open {shown}")
        return
    scopes = ", ".join(scope for scope in ("query", "chunks", "sync") if scope in standing.scopes)
    how = "vouched for by an organisation that is trusted" if standing.reason == "vouched" else "trusted"
    mend = (f"rage trust add {standing.organization} --ca FILE --scope query,chunks",)
    if not scopes:
        walk.add("trust", "warning", f"{how}, for nothing: it may open {shown}", mend)
    else:
        walk.add("trust", "ok", f"{how} for {scopes}: it may open {shown}")


def _explain_sync(engine: Engine, online: Online, standing: Standing, walk: Walk) -> None:
    peer, own = standing.peer_id, online.trust.organization
    if online.trust.is_stale():
        why = "no node of this organisation was met for too long: it gets what is public, and nothing else"
        walk.add("staleness", "warning", why, ("rage sync run", "rage sync status"))
    if standing.organization != own and "sync" not in standing.scopes:
        walk.add("sync", "skipped", "trust in its organisation does not open sync")
        return
    rows = [row for row in online.syncing.rows() if row.peer_id == str(peer)] if online.syncing is not None else []
    if not rows:
        since = "this node's start" if engine.serves else "this command's start"
        walk.add("sync", "warning", f"no log was exchanged since {since}", (f"rage sync run --peer {peer}",))
    for row in rows:
        when = f"{span(engine.env.now() - row.synced_at)} ago" if row.synced_at else "never"
        said = f"{row.organization}: compared {when}"
        if row.behind:
            said += f", {row.behind} envelopes behind"
        if row.error:
            mend = (f"rage sync run --peer {peer}", f"rage sync diff {peer}")
            walk.add("sync", "warning", f"{said}; the last exchange failed: {row.error}", mend)
        else:
            walk.add("sync", "ok", said)
