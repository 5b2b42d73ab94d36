"""The doctor's checks of what nodes believe of each other: certificate, trust, rights, and the log they share.

Files are `checkup`'s; here is what the log and the peers say. Source: issue 4, G.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rage_net.checkup.outcomes import ok, skipped, span
from rage_net.diagnose.certificates import judged_there
from rage_net.online import Online
from rage_net.verbs.diagnose import Check

if TYPE_CHECKING:
    from rage_net.engine import Engine
    from rage_net.metadata import Metadata

TRUST_NEAR_S = 14 * 86_400.0
"""Before trust, or another organisation's CA, ends: people there have to answer a letter."""
LATELY_S = 3600.0
"""Denials that are told of."""
DENIALS_READ = 256 << 10
"""Of the file's end: some thousand records."""
SKEW_S = 300.0
"""By which a document may be from the future: more than honest clocks differ."""
NEWEST_READ = 500
"""Facts that are looked at for clocks that are off."""
SHOWN_MAX = 3

NO_CA = "no CA is configured: the node is open"

_REFUSED = {
    "author-unknown": "whose author no CA trusted here has certified",
    "author-revoked": "whose author was revoked",
    "bad-signature": "that their authors did not sign",
    "forked": "of authors with two histories",
    "author-full": "of authors that wrote too much",
    "too-many-chains": "of authors with too many chains",
    "too-large": "that are too large",
    "malformed": "that are malformed",
    "gap": "that do not follow what is here",
}


class Finding(NamedTuple):
    """Something to mend."""

    level: str
    message: str
    mend: tuple[str, ...]


def _sum_up(id: str, fine: str, findings: Iterable[Finding]) -> Check:
    """One check of all findings, the gravest first; `fine` where there is none."""
    found = sorted(findings, key=lambda finding: finding.level != "error")
    if not found:
        return ok(id, fine)
    why = "; ".join(finding.message for finding in found[1:])
    mend = tuple(dict.fromkeys(command for finding in found for command in finding.mend))
    return Check(id, found[0].level, found[0].message, why, mend)


# --- certificate ------------------------------------------------------------------------------------------------------


async def check_certificate(online: Online) -> Check:
    """Whether others believe our certificate: what the log revokes, what peers say, how renewal goes.

    Skipped where there is nothing to say beyond what the files do.
    """
    trust = online.trust
    if trust.is_open:
        return skipped("certificate", NO_CA)
    return _certificate(online) or skipped("certificate", "nobody refuses this node's certificate")


def _certificate(online: Online) -> Check | None:
    trust = online.trust
    own = trust.judge(online.swarm.peer_id, trust.credentials.chain)
    if trust.credentials.chain and not own.is_trusted:
        told = judged_there(own.reason, trust.organization, trust.organization, str(online.swarm.peer_id))
        return Check("certificate", "error", f"no peer will trust this node: {own.message}", "", told.mend)
    if online.renewal.problem:
        why = f"the last attempt failed: {online.renewal.problem}"
        mend = ("rage cert renew", "rage peer list --cap enrol")
        return Check("certificate", "warning", "this node's certificate could not be renewed", why, mend)
    refusals = _refusals(online)
    if not refusals:
        return None
    peer, reason = next(iter(refusals.items()))
    told = judged_there(reason, trust.organization, "", str(online.swarm.peer_id))
    why = ", ".join(f"{peer[-8:]}: {reason}" for peer, reason in [*refusals.items()][:SHOWN_MAX])
    mends = (*told.mend, f"rage why {peer}")
    return Check("certificate", "warning", f"{len(refusals)} trusted peers do not trust this node", why, mends)


def _refusals(online: Online) -> dict[str, str]:
    """Connected peers that we trust and that do not trust us, and the word that they gave. Strangers are no fault."""
    peers = [standing.peer_id for standing in online.trust.standings() if standing.is_trusted]
    return {str(peer): reason for peer in peers if (reason := online.trust.refused_by(peer))}


def clock_doubts(online: Online) -> str:
    """Peers that hold a certificate for ended, or not begun, while the other side does not; empty for none."""
    if online.trust.is_open:
        return ""
    of_time = ("cert-expired", "cert-not-yet-valid")
    own = online.trust.judge(online.swarm.peer_id, online.trust.credentials.chain)
    there = [f"{peer[-8:]} says {reason} of this node's" for peer, reason in _refusals(online).items()]
    there = [words for words in there if own.is_trusted and any(word in words for word in of_time)]
    here = [
        f"that of {str(standing.peer_id)[-8:]} is not valid yet by this clock"
        for standing in online.trust.standings()
        if standing.reason == "cert-not-yet-valid"
    ]
    return "; ".join([*there, *here][:SHOWN_MAX])


# --- trust ------------------------------------------------------------------------------------------------------------


async def check_trust(engine: Engine, online: Online) -> Check:
    """Other organisations that are trusted: which of that ends soon or has ended, and of whom nobody was seen."""
    metadata = engine.metadata
    if metadata is None:
        return skipped("trust", NO_CA)
    trusted = await engine.env.blocking(metadata.authority.trusted)
    trusted = {organization: given for organization, given in trusted.items() if organization != metadata.organization}
    if not trusted:
        return ok("trust", f"{metadata.organization} alone is trusted")
    findings = list(_endings(trusted, engine.env.now()))
    if engine.serves:
        seen = _seen(online, metadata)
        findings += [
            Finding(
                "warning",
                f"no peer of {organization} was seen since this node's start",
                (f"rage peer list --known --org {organization}", "rage trust test MULTIADDR"),
            )
            for organization in trusted
            if organization not in seen
        ]
    shown = ", ".join(
        f"{organization} ({', '.join(sorted({scope for one in given for scope in one.scopes})) or 'nothing'})"
        for organization, given in trusted.items()
    )
    return _sum_up("trust", f"{metadata.organization} and {shown}", findings)


def _endings(trusted: dict[str, list[Any]], now: float) -> Iterator[Finding]:
    """Of an organisation the CA that lasts longest counts: others are on their way out."""
    from rage_net.cert import parse_ca

    for organization, given in trusted.items():
        ends = [(min(one.until or float("inf"), parse_ca(one.ca).not_after), bool(one.until)) for one in given]
        end, is_chosen = max(ends)
        what = "trust in" if is_chosen else "the CA of"
        mend = (f"rage trust add {organization} --ca FILE --scope {','.join(given[-1].scopes) or 'query'}",)
        if end <= now:
            yield Finding("warning", f"{what} {organization} has ended, {span(now - end)} ago", mend)
        elif end - now < TRUST_NEAR_S:
            yield Finding("warning", f"{what} {organization} ends in {span(end - now)}", mend)


def _seen(online: Online, metadata: Metadata) -> set[str]:
    """Organisations of which a peer is, or was, here: connected, or in the logs that it gave."""
    connected = {standing.organization for standing in online.trust.standings() if standing.is_trusted}
    return connected | {
        organization for organization in metadata.log.organizations() if metadata.log.heads(organization)
    }


# --- rights -----------------------------------------------------------------------------------------------------------


async def check_acl(engine: Engine) -> Check:
    """Whether rights are enforced, which documents nobody can judge, and whom this node denied something lately."""
    metadata = engine.metadata
    if metadata is None:
        return skipped("acl", NO_CA)
    findings = []
    enforcement = engine.rules.enforcement
    if enforcement != "strict":
        what = "what would be denied is served, and noted" if enforcement == "permissive" else "nothing is denied"
        mend = ("set network.security.acl_enforcement to strict", "rage config show network.security --origin")
        findings.append(Finding("warning", f"acl_enforcement is {enforcement}: {what}, to every certified peer", mend))
    flawed = await engine.env.blocking(_flawed, metadata)
    if flawed:
        organization, resource, flaw = flawed[0]
        message = f"{len(flawed)} resources are their owners' alone, such as {resource} of {organization}: {flaw}"
        findings.append(
            Finding("warning", message, (f"rage acl show {resource.removeprefix('doc:')}", "rage --version"))
        )
    denied = await engine.env.blocking(recent_denials, engine.home.logs / "denials.jsonl", engine.env.now())
    if denied:
        findings.append(_tell_denials(denied))
    return _sum_up("acl", f"{enforcement}; nothing was denied in the last {span(LATELY_S)}", findings)


def _flawed(metadata: Metadata) -> list[tuple[str, str, str]]:
    for organization in metadata.log.organizations():
        for resource in metadata.log.unread(organization):
            metadata.access.rights(organization, resource)  # compiled, it is among the flawed if that counts
    return metadata.access.flawed()


class Denied(NamedTuple):
    """What the records of denials say of one principal and one reason."""

    who: str
    what: str
    why: str
    times: int
    is_allowed: bool
    """Strict enforcement alone would have denied it."""


def recent_denials(path: Path, now: float) -> list[Denied]:
    """Denials of the last LATELY_S, by principal and reason, the most frequent first. Blocking."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - DENIALS_READ))
            lines = file.read(DENIALS_READ).splitlines()
    except OSError:  # nothing was ever denied
        return []
    counts: Counter[tuple[str, str, bool]] = Counter()
    last: dict[tuple[str, str, bool], str] = {}
    for line in lines:
        try:
            record = json.loads(line)
            at = datetime.fromisoformat(record["time"]).timestamp()
            key = str(record["who"]), str(record["why"]), bool(record.get("would_deny"))
            count, what = int(record["count"]) + int(record.get("suppressed", 0)), str(record["what"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # cut short, by a crash or by where we began to read
        if now - LATELY_S <= at:
            counts[key] += count
            last[key] = what
    return [Denied(who, last[who, why, flag], why, count, flag) for (who, why, flag), count in counts.most_common()]


def _tell_denials(denied: list[Denied]) -> Finding:
    most = denied[0]
    total = sum(one.times for one in denied)
    verb = "would have been denied" if all(one.is_allowed for one in denied) else "were denied"
    message = f"{total} requests {verb} in the last {span(LATELY_S)}, the most of {most.who} on {most.what}: {most.why}"
    kind, _, resource = most.what.partition(":")
    mend = [f"rage acl check {resource} {most.who} read --explain"] if kind in ("chunk", "doc") else []
    if most.who.startswith("peer:"):
        mend.append(f"rage why {most.who.removeprefix('peer:')}")
    return Finding("warning", message, tuple(mend))


# --- the log ----------------------------------------------------------------------------------------------------------


async def check_sync(engine: Engine, online: Online) -> Check:
    """How far this node's log agrees with others', and what keeps it from doing so."""
    metadata = engine.metadata
    if metadata is None:
        return skipped("sync", NO_CA)
    findings = [*_sync_findings(engine, online, metadata), *await engine.env.blocking(_log_findings, engine, metadata)]
    own = metadata.organization
    facts = sum(head.sequence for head in metadata.log.heads(own))
    at = metadata.agreed_at
    agreed = f"agreed with another node {span(engine.env.now() - at)} ago" if at else f"no other node of {own} was met"
    return _sum_up("sync", f"{agreed}; {facts} facts, state {metadata.log.digest(own)}", findings)


def _sync_findings(engine: Engine, online: Online, metadata: Metadata) -> Iterator[Finding]:
    """Of the exchange of logs, since the start of whoever asks."""
    if online.trust.is_stale():
        limit = span(engine.config.network.security.max_staleness)
        message = f"the log was compared with no other node's of {metadata.organization} for more than {limit}"
        mend = ("rage sync run", "rage peer discover --connect", "rage doctor --only bootstrap")
        yield Finding("error", f"{message}: only what is public is served", mend)
    syncing = online.syncing
    if syncing is None:
        return
    failing = [row for row in syncing.rows() if row.error]
    if failing:
        shown = ", ".join(f"{row.peer_id[-8:]}: {row.error}" for row in failing[:SHOWN_MAX])
        again = (f"rage sync run --peer {failing[0].peer_id}", f"rage why {failing[0].peer_id}")
        yield Finding("warning", f"the last exchange failed with {len(failing)} peers: {shown}", again)
    if syncing.refused:
        shown = ", ".join(f"{count} {_REFUSED.get(why, why)}" for why, count in syncing.refused.most_common(SHOWN_MAX))
        yield Finding("warning", f"envelopes were refused: {shown}", ("rage sync status", "rage trust list"))
    differently = engine.metrics.sync_events.read().get(("resolved_differently",))
    if differently:
        message = f"peers resolved {differently[0]:.0f} conflicts otherwise than this node"
        equal = (
            "rage config show network.sync.conflicts --origin    (equal on all nodes)",
            "rage sync conflicts --all",
        )
        yield Finding("warning", message, equal)


def _log_findings(engine: Engine, metadata: Metadata) -> list[Finding]:
    """Of what the log holds. Blocking."""
    from rage_net.sync import facts as kinds

    found = []
    waiting = sum(metadata.access.waiting(organization) for organization in metadata.log.organizations())
    if waiting:
        found.append(Finding("warning", f"{waiting} conflicts wait for a person", ("rage sync conflicts",)))
    forked = list(dict.fromkeys(str(one.chain.author) for one in metadata.log.evidence()))
    if forked:
        message = f"{len(forked)} authors signed two histories: {', '.join(forked[:SHOWN_MAX])}"
        found.append(Finding("warning", message, ("rage sync conflicts", f"rage cert revoke {forked[0]}")))
    now = engine.env.now()
    ahead: dict[str, float] = {}
    for organization in metadata.log.organizations():
        for _, fact in metadata.log.log(organization, limit=NEWEST_READ):
            if isinstance(fact.body, kinds.Document) and fact.body.created_at > now + SKEW_S:
                by_s = fact.body.created_at - now
                ahead[str(fact.author)] = max(by_s, ahead.get(str(fact.author), 0.0))
    if ahead:
        author, by_s = max(ahead.items(), key=lambda each: each[1])
        message = f"{author} wrote documents {span(by_s)} in the future: its clock is ahead, or this one is behind"
        found.append(Finding("warning", message, ("date -u", "there: date -u")))
    return found
