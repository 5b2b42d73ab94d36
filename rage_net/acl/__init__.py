"""Who may do what: one pure function, `authorize`, that every door calls once before any byte leaves.

    words     principals, actions, visibilities, and how their names are written
    lists     the rights of one document, compiled from the facts in force; which of concurrent facts wins
    payload   a document's rights as people write them in a file
    decide    resources, the configuration's rules, and the decision

Nothing here reads a store, a log or a clock: what counts, and what the time is, come in as arguments.
Source: design D6, D7, 4.4; specification, "ACL Enforcement in P2P", "Conflict Resolution".
"""

from rage_net.acl.decide import (
    STORES,
    ChunkResource,
    Decision,
    DocumentResource,
    OrganizationResource,
    Resource,
    Rules,
    TopicResource,
    authorize,
)
from rage_net.acl.lists import LEEWAY_S, AccessList, Conflict, Entry, Strategy, access_of_row, compile_access, resolve
from rage_net.acl.payload import AclPayload, Change, parse_payloads, payloads_of, plan_changes
from rage_net.acl.words import (
    ACTIONS,
    ANYONE,
    OPERATOR,
    SCOPES,
    VISIBILITIES,
    Action,
    Principal,
    check_name,
    parse_action,
    parse_principal,
)

__all__ = [
    "ACTIONS",
    "ANYONE",
    "LEEWAY_S",
    "OPERATOR",
    "SCOPES",
    "STORES",
    "VISIBILITIES",
    "AccessList",
    "AclPayload",
    "Action",
    "Change",
    "ChunkResource",
    "Conflict",
    "Decision",
    "DocumentResource",
    "Entry",
    "OrganizationResource",
    "Principal",
    "Resource",
    "Rules",
    "Strategy",
    "TopicResource",
    "access_of_row",
    "authorize",
    "check_name",
    "compile_access",
    "parse_action",
    "parse_payloads",
    "parse_principal",
    "payloads_of",
    "plan_changes",
    "resolve",
]
