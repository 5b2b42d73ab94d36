"""The doctor, the status and the gauges on nodes with certificates: what the log and the peers say of a node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rage_lab.sim.env import EPOCH_S
from rage_lab.sim.node import Node
from rage_lab.sim.organizations import Organization
from rage_lab.sim.world import World, play
from rage_net.denials import append
from rage_net.diagnose.ledger import recent_denials
from rage_net.errors import RageError
from rage_net.node import Node as RunningNode
from rage_net.pb import rage_pb2 as pb
from rage_net.sync.vocabulary import document_id
from rage_net.verbs.acl import GrantAcl, RevokeAcl
from rage_net.verbs.cert import RevokeCertificate
from rage_net.verbs.diagnose import Check, Doctor
from rage_net.verbs.node import NodeStatus, ShowStatus
from rage_net.verbs.trust import AddTrust
from tests.sync.world import Forger, document, end_of, grant, judge

Play = Callable[[Callable[[World], Awaitable[Any]]], Any]
SETTLE_S = 20.0
SOON_S = 3.0
ADMIN = ("storage", "admin")
MANUAL = {"network.sync.conflicts.doc": "manual"}


@pytest.fixture
def run(rng: random.Random, tmp_path: Path) -> Play:
    """Play a scenario once; a failure names its seed."""
    seed = rng.getrandbits(32)
    return lambda scenario: play(scenario, seed, tmp_path).result


async def check(node: Node, name: str) -> Check:
    (found,) = (await node.run(Doctor(only=(name,)))).checks
    assert found.id == name
    return found  # type: ignore[no-any-return]


async def status(node: Node) -> NodeStatus:
    found: NodeStatus = await node.run(ShowStatus())
    return found


async def two(world: World, **flags: Any) -> tuple[Node, Node]:
    acme = Organization("acme", world.seed)
    alpha = await world.node("alpha", organization=acme, capabilities=ADMIN, flags=flags)
    beta = await world.node("beta", organization=acme, capabilities=ADMIN, bootstrap=[alpha], flags=flags)
    await asyncio.sleep(SETTLE_S)
    return alpha, beta


def test_on_sound_nodes_all_is_well_and_on_an_open_one_there_is_nothing_to_look_at(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, _ = await two(world)
        for name in ("trust", "acl", "sync"):
            found = await check(alpha, name)
            assert found.level == "ok", found
        assert (await check(alpha, "certificate")).level == "skipped", "the files say all there is"
        assert (await check(alpha, "trust")).message == "acme alone is trusted"
        assert "agreed with another node" in (await check(alpha, "sync")).message
        shown = await status(alpha)
        assert shown.is_proven and shown.trusted == () and shown.problems == ()
        assert shown.certificate is not None and shown.certificate.capabilities == ("admin", "storage")
        assert shown.sync is not None and shown.sync.state == "in sync" and shown.sync.facts > 2
        opened = await world.node("opened")
        assert {(await check(opened, name)).level for name in ("certificate", "trust", "acl", "sync")} == {"skipped"}
        shown = await status(opened)
        assert (shown.is_proven, shown.sync, shown.certificate) == (False, None, None)

    run(scenario)


def test_a_certificate_that_was_revoked_and_peers_that_refuse_it_are_told(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await two(world)
        await alpha.run(RevokeCertificate(peer_id=beta.peer_id, reason="stolen"))
        await world.until(lambda: beta.peer_id not in alpha.peers(), within_s=5, what="beta is cut")
        await asyncio.sleep(1)
        await _fail_to_connect(beta, alpha)
        found = await check(beta, "certificate")
        assert found.level == "warning" and "cert-revoked" in found.why, found
        stranger = await world.node("stranger", organization=Organization("dune", world.seed))
        await _fail_to_connect(stranger, alpha)
        assert (await check(stranger, "certificate")).level == "skipped", "strangers are no fault"
        assert f"rage why {alpha.peer_id}" in found.mend
        await beta.run(RevokeCertificate(peer_id=alpha.peer_id, reason="no, you"))
        crow = await world.node("crow", organization=Organization("crow", world.seed))
        (crow.home.certs / "node.crt").write_bytes((alpha.home.certs / "node.crt").read_bytes())
        await crow.do(crow.online.trust.refresh())
        found = await check(crow, "certificate")
        assert found.level == "error" and found.message.startswith("no peer will trust this node: "), found
        assert not (await status(crow)).is_proven

    run(scenario)


async def _fail_to_connect(node: Node, other: Node) -> None:
    with pytest.raises(RageError):
        await node.connect(other)


def test_trust_that_ends_soon_or_has_ended_and_of_which_nobody_was_seen(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, _ = await two(world)
        birch, crow = Organization("birch", world.seed), Organization("crow", world.seed)
        await alpha.run(AddTrust("birch", ca=birch.pem, scopes=("query",), until=alpha.engine.env.now() + 60))
        await alpha.run(AddTrust("crow", ca=crow.pem, scopes=("chunks", "sync")))
        found = await check(alpha, "trust")
        assert found.level == "warning" and "trust in birch ends in 60 s" in found.message, found
        assert "no peer of crow was seen" in found.why and "no peer of birch was seen" in found.why
        assert (await status(alpha)).trusted == ("birch", "crow")
        other = await world.node("other", organization=crow, capabilities=ADMIN)
        await other.run(AddTrust("acme", ca=Organization("acme", world.seed).pem, scopes=("chunks", "sync")))
        await alpha.connect(other)
        assert "no peer of crow" not in (await check(alpha, "trust")).why
        await asyncio.sleep(70)
        found = await check(alpha, "trust")
        assert "trust in birch has ended" in f"{found.message} {found.why}"
        assert any(mend.startswith("rage trust add birch") for mend in found.mend)
        assert (await status(alpha)).trusted == ("crow",)

    run(scenario)


@pytest.mark.parametrize("enforcement", ["permissive", "off"])
def test_rights_that_are_not_enforced_are_a_warning(run: Play, enforcement: str) -> None:
    async def scenario(world: World) -> None:
        acme = Organization("acme", world.seed)
        flags = {"network.security.acl_enforcement": enforcement}
        alpha = await world.node("alpha", organization=acme, flags=flags)
        found = await check(alpha, "acl")
        assert found.level == "warning" and f"acl_enforcement is {enforcement}" in found.message
        assert found.mend[0] == "set network.security.acl_enforcement to strict"

    run(scenario)


def test_a_resource_that_nobody_can_judge_and_denials_of_the_last_hour_are_told(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await two(world)
        root = await alpha.put(world.random.randbytes(30_000), "plan.md", "private")
        log = alpha.engine.metadata.log
        (row,) = log.documents("acme", name="plan.md")
        forger = Forger(world.random, "admin", organization="acme")
        later = pb.Payload(lamport=99, nonce=1, resource=f"doc:{row.doc_id}").SerializeToString()
        later += bytes((0xA2, 0x38, 2)) + b"hi"  # a body of field 900, which this version does not know
        log.take("acme", [forger.certify(), forger.say(later)], authority=judge)
        alpha.engine.metadata.access.forget_all()
        await _fail_to_get(beta, root, alpha)
        await asyncio.sleep(1)
        found = await check(alpha, "acl")
        assert found.level == "warning" and f"doc:{row.doc_id} of acme" in found.message, found
        assert f"the most of peer:{beta.peer_id} on chunk:" in found.why
        assert any(mend.startswith("rage acl check ") for mend in found.mend)

    run(scenario)


async def _fail_to_get(node: Node, root: str, holder: Node) -> None:
    with pytest.raises(RageError):
        await node.get(root, holder)


def test_a_log_that_nobody_was_compared_with_for_too_long_is_an_error(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await two(world, **{"network.security.max_staleness": "60s"})
        await world.leave(beta)
        await asyncio.sleep(120)
        found = await check(alpha, "sync")
        assert found.level == "error" and "only what is public is served" in found.message, found
        assert found.mend[0] == "rage sync run"
        shown = await status(alpha)
        assert shown.sync is not None and shown.sync.state == "stale"
        assert alpha.online.problems(), "which a node shows first"

    run(scenario)


def test_conflicts_that_wait_are_told_in_doctor_status_and_gauge(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await two(world, **MANUAL)
        await alpha.put(world.random.randbytes(30_000), "plan.md", "org")
        await asyncio.sleep(SOON_S)
        world.partition([alpha], [beta])
        await alpha.run(GrantAcl("plan.md", "user:acme/ann", "read"))
        await beta.run(RevokeAcl("plan.md", "user:acme/ann", "read"))
        world.partition()
        await world.until(
            lambda: alpha.engine.metadata.log.digest("acme") == beta.engine.metadata.log.digest("acme"),
            within_s=120,
            what="they agree again",
        )
        found = await check(alpha, "sync")
        assert found.level == "warning" and found.message == "1 conflicts wait for a person", found
        assert found.mend[0] == "rage sync conflicts"
        shown = await status(alpha)
        assert shown.sync is not None and shown.sync.conflicts == 1
        assert "1 conflicts wait for a person (rage sync conflicts)" in shown.problems
        node = RunningNode(alpha.engine, {})
        node._measure_log(alpha.engine.metadata)
        gauges = {
            sample.name: sample.value
            for family in text_string_to_metric_families(alpha.engine.metrics.render()[0].decode())
            for sample in family.samples
            if sample.name.startswith("rage_sync_")
        }
        assert gauges["rage_sync_conflicts"] == 1
        assert gauges["rage_sync_facts"] == shown.sync.facts
        assert EPOCH_S < gauges["rage_sync_agreed_timestamp_seconds"] <= alpha.engine.env.now()

    run(scenario)


def test_forks_refusals_failing_peers_other_strategies_and_clocks_ahead_are_told(run: Play) -> None:
    async def scenario(world: World) -> None:
        alpha, beta = await two(world)
        log = alpha.engine.metadata.log
        forger = Forger(world.random, "storage", organization="acme")
        first = forger.certify()
        after = end_of(first, None, "acme")
        future = int(alpha.engine.env.now() + 3 * 86_400)
        resource = f"doc:{document_id(forger.id, 7)}"
        one = forger.say(forger.payload(resource, document(created_at=future)))
        log.take("acme", [first, one], authority=judge)
        found = await check(alpha, "sync")
        assert found.level == "warning" and f"{forger.id} wrote documents 3 d in the future" in found.message, found
        log.take("acme", [forger.branch(after, forger.payload(resource, grant("anyone")))], authority=judge)
        alpha.online.syncing.refused["author-unknown"] += 3
        alpha.engine.metrics.sync_events.add(2, "resolved_differently")
        found = await check(alpha, "sync")
        told = f"{found.message}; {found.why}"
        assert f"1 authors signed two histories: {forger.id}" in told, told
        assert "3 whose author no CA trusted here has certified" in told
        assert "peers resolved 2 conflicts otherwise" in told
        assert f"rage cert revoke {forger.id}" in found.mend
        assert (await status(alpha)).sync.forks == 1
        alpha.online.syncing._state(beta.engine.metadata.own, "acme").error = "it hung up"
        found = await check(alpha, "sync")
        assert f"failed with 1 peers: {beta.peer_id[-8:]}: it hung up" in f"{found.message}; {found.why}"
        assert (await status(alpha)).sync.failing == 1

    run(scenario)


def test_records_of_denials_are_counted_by_who_and_why_and_garbage_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "denials.jsonl"
    assert recent_denials(path, EPOCH_S) == []
    line = '{"time": "%s", "door": "chunk", "who": "%s", "what": "chunk:x", "why": "no", "count": %d%s}\n'
    at, old = "2027-01-15T07:59:00.000Z", "2027-01-15T06:00:00.000Z"  # EPOCH_S is 08:00
    lines = [
        line % (at, "peer:a", 2, ', "suppressed": 5'),
        line % (at, "peer:b", 3, ', "would_deny": true'),
        line % (old, "peer:b", 100, ""),
        "garbage\n",
        "[1]\n",
        '{"time": 5}\n',
    ]
    append(path, "".join(lines).encode())
    found = recent_denials(path, EPOCH_S)
    assert [(one.who, one.times, one.is_allowed) for one in found] == [("peer:a", 7, False), ("peer:b", 3, True)]
