"""What the log comes to on one node: whom to believe, who may do what, which documents there are.

    authority  the CAs of our own organisation and of those it trusts; certificates that were revoked
    access     rights of each resource, compiled from the facts that count
    records    our documents as facts, and facts as our documents

All of it is a function of the set of facts, so nodes that hold the same facts conclude the same. Blocking.
Not here: the log itself (sync), the exchange of logs (services.syncing), who is connected (services.trust).
"""

from __future__ import annotations

from rage_net.services.ledger.access import Access
from rage_net.services.ledger.authority import Authority
from rage_net.services.ledger.records import Records

__all__ = ["Access", "Authority", "Records"]
