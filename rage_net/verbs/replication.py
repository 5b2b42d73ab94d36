"""Verbs of the noun replication: how often each chunk is stored, where, and whether that is proved.

Sizes are bytes, times seconds since the epoch, peers their ids. What moves or deletes data comes as a `Plan` first.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, Literal

from rage_net.verbs import Verb, dataclass

FINDINGS_MAX = 10_000
"""Findings that one result names; the counts are of all."""
MOVES_MAX = 10_000
"""Moves that one plan names; its counts are of all."""
WAIT_S_MAX = 86_400.0

Possession = Literal["proved", "claims", "absent", "lied", "late", "unreachable", "unknown"]
"""What is known of one holder of one chunk. `claims`: says so, not asked for proof. `lied`: signed a wrong digest."""
State = Literal["ok", "under", "over", "misplaced", "unproven", "unreachable"]


@dataclass(frozen=True, slots=True)
class HolderRow:
    """One node and one chunk. `is_home`: placement names it; else it stands in, or has a copy too many."""

    peer_id: str
    region: str
    possession: Possession
    is_home: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A chunk that is not as its policy wants it. `have` counts distinct holders, proved ones where proof was asked."""

    cid: str
    doc_id: str
    policy: str
    want: int
    have: int
    state: State
    is_at_risk: bool
    """Fewer copies than the policy's `min`."""
    reason: str
    holders: tuple[HolderRow, ...]


@dataclass(frozen=True, slots=True)
class AuditResult:
    """Each chunk that was checked counts once, by its worst state; `at_risk` counts beside them.

    `findings` are the first FINDINGS_MAX chunks that are not ok, those at risk first.
    """

    checked: int
    ok: int
    under: int
    over: int
    misplaced: int
    unproven: int
    unreachable: int
    at_risk: int
    lied: int
    """Holders that signed a wrong digest: evidence is kept."""
    proved: bool
    """Whether holders were asked for proof, not for their word."""
    findings: tuple[Finding, ...]
    plan_s: float
    """Of that, finding out what is to be asked of whom."""
    seconds: float


@dataclass(frozen=True, slots=True)
class AuditReplication(Verb[AuditResult]):
    """Ask the holders of chunks whether they have them: of all of our organisation, a document, or a policy."""

    route: ClassVar[str] = "replication/audit"
    result: ClassVar[type] = AuditResult

    ref: str = ""
    policy: str = ""
    sample: float = 1.0
    """Share of the chunks, above 0 to 1, drawn at random."""
    prove: bool = False


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node that placement knows. `chunks` and `bytes` are what its home sets give it."""

    peer_id: str
    organization: str
    region: str
    zone: str
    weight: int
    state: Literal["active", "drained", "lost"]
    liveness: Literal["self", "alive", "suspect", "gone", "unknown"]
    is_full: bool
    free_bytes: int
    chunks: int
    bytes: int
    lag_s: float
    """Since when the oldest chunk waits that this node should hold and has not proved to us; 0 for none."""


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy at work. `wanted` counts copies; the states count chunks as this node's own proofs show them."""

    policy: str
    factor: int
    minimum: int
    documents: int
    chunks: int
    bytes: int
    wanted: int


@dataclass(frozen=True, slots=True)
class ReplicationStatus:
    """Replication at a glance, problems first."""

    enabled: bool
    organization: str
    strategy: str
    nodes: tuple[NodeRow, ...]
    policies: tuple[PolicyRow, ...]
    waiting: int
    """Chunks that this node has still to fetch."""
    waiting_bytes: int
    coordinated: int
    """Chunks whose holders this node audits."""
    proved: int
    """Of these, with proof of every copy."""
    under: int
    at_risk: int
    lied: tuple[str, ...]
    """Peers against whom there is evidence."""
    audited_at: float
    """Of the chunk audited the longest ago; 0 while some never were."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShowReplication(Verb[ReplicationStatus]):
    """Who should hold how much, what waits, and what is at risk."""

    route: ClassVar[str] = "replication/status"
    result: ClassVar[type] = ReplicationStatus


@dataclass(frozen=True, slots=True)
class Move:
    """One copy: `from_peer` has it, `to_peer` will; a drop has no `to_peer`."""

    cid: str
    from_peer: str
    to_peer: str
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What would move, or did. `moves` are the first MOVES_MAX.

    `done` and `failed` count chunks, after it ran; both 0 for a plan.
    """

    kind: Literal["repair", "drain", "replace", "rebalance"]
    plan_id: str
    dry_run: bool
    node: str
    copies: int
    bytes: int
    seconds: float
    """How long it should take at the rate of the replication lane, or took."""
    at_risk: int
    """Chunks with fewer copies than their `min` now."""
    lost: int
    """Chunks of which nobody has a copy, as far as is known."""
    moves: tuple[Move, ...]
    done: int = 0
    failed: int = 0
    waiting: int = 0
    """Copies that are under way still: without `wait_s` the node goes on by itself."""


@dataclass(frozen=True, slots=True)
class PlanReplication(Verb[Plan]):
    """What repair would do now."""

    route: ClassVar[str] = "replication/plan"
    result: ClassVar[type] = Plan


@dataclass(frozen=True, slots=True)
class Planned(Verb[Plan]):
    """Whatever moves copies: looked at with `dry_run`, and carried out as it was looked at by naming its `plan`.

    A plan that would come out otherwise by now is refused. `wait_s`: come back when its copies are proved, or after it.
    """

    result: ClassVar[type] = Plan
    mutates: ClassVar[bool] = True

    dry_run: bool = field(default=False, kw_only=True)
    plan: str = field(default="", kw_only=True)
    wait_s: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class RepairReplication(Planned):
    """Bring back copies that are missing, now."""

    route: ClassVar[str] = "replication/repair"


@dataclass(frozen=True, slots=True)
class RebalanceReplication(Planned):
    """Move copies to where placement wants them, and drop those that are too many, now."""

    route: ClassVar[str] = "replication/rebalance"


@dataclass(frozen=True, slots=True)
class DrainNode(Planned):
    """Place nothing on a node any more; what it holds goes to others, who prove it. `undo` takes it back.

    Refused where chunks would have no other node to go to.
    """

    route: ClassVar[str] = "replication/drain"

    node: str
    undo: bool = False


@dataclass(frozen=True, slots=True)
class ReplaceNode(Planned):
    """A node is gone for good: its copies count no more, and are made anew elsewhere without a grace."""

    route: ClassVar[str] = "replication/replace"

    node: str
    lost: bool = False
    """Say it: nothing is asked of that node, and it counts no more though it comes back."""


@dataclass(frozen=True, slots=True)
class PolicyDefinition:
    """A policy as this node's files have it; `default` is what no selector matches."""

    name: str
    factor: int
    minimum: int
    selector: str
    documents: int
    """Documents of our organisation that are under it now."""


@dataclass(frozen=True, slots=True)
class ListPoliciesResult:
    """In file order, the default last. `disagreeing` are nodes whose files say otherwise."""

    items: tuple[PolicyDefinition, ...]
    strategy: str
    file: str
    disagreeing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListPolicies(Verb[ListPoliciesResult]):
    """The policies in use."""

    route: ClassVar[str] = "replication/policies"
    result: ClassVar[type] = ListPoliciesResult


@dataclass(frozen=True, slots=True)
class ConsideredPolicy:
    """One policy and why it is or is not for a document."""

    name: str
    factor: int
    matches: bool
    why: str


@dataclass(frozen=True, slots=True)
class PolicyMatch:
    """Which policy a document or chunk is under, by which rule, and who should hold it."""

    cid: str
    doc_id: str
    policy: str
    factor: int
    minimum: int
    rule: str
    considered: tuple[ConsideredPolicy, ...]
    per_day: float
    """Uses a day, as nodes report them."""
    holders: tuple[HolderRow, ...]


@dataclass(frozen=True, slots=True)
class TestPolicy(Verb[PolicyMatch]):
    """Explain which policy is for a CID, document or name; or for tags and a retention that no document has yet."""

    __test__: ClassVar[bool] = False

    route: ClassVar[str] = "replication/policy"
    result: ClassVar[type] = PolicyMatch

    ref: str = ""
    tags: tuple[str, ...] = ()
    retention_s: float | None = None
