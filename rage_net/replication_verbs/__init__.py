"""The verbs of the noun replication: a plain function each. The engine takes `VERBS` into its own table.

    status     how it stands              audit     is it proved
    plans      what moves copies          policies  which is for what
    waiting    a put that waits           asking    what these share

What is done stands in `services.replicating`, what belongs where in `replication`; here chunks are walked a page at a
time, holders asked, and rows made. Source: issue 5, D and E; design D11.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rage_net.replication_verbs.audit import audit
from rage_net.replication_verbs.plans import drain, plan, rebalance, repair, replace_node
from rage_net.replication_verbs.policies import list_policies, test_policy
from rage_net.replication_verbs.status import show_status
from rage_net.replication_verbs.waiting import wait_for_copies
from rage_net.verbs import Verb
from rage_net.verbs import replication as verbs

if TYPE_CHECKING:
    from rage_net.engine import Engine, Io

__all__ = ["VERBS", "wait_for_copies"]

VERBS: dict[type[Verb[Any]], Callable[[Engine, Any, Io], Awaitable[Any]]] = {
    verbs.ShowReplication: show_status,
    verbs.AuditReplication: audit,
    verbs.PlanReplication: plan,
    verbs.RepairReplication: repair,
    verbs.RebalanceReplication: rebalance,
    verbs.DrainNode: drain,
    verbs.ReplaceNode: replace_node,
    verbs.ListPolicies: list_policies,
    verbs.TestPolicy: test_policy,
}
