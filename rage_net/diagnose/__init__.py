"""Why something can or cannot be had, and what a doctor sees of the network: every link looked at, in order.

`explain` walks from here to a chunk, a document or a peer, and names the first link that is broken, with what mends it.
`examine` makes the doctor's checks that need an engine; home and machine are `checkup`'s. Both only look: they dial and
ask, and change nothing.

    walk          the links so far
    contents      a chunk or a document: here, in the catalog, allowed, announced, at peers
    rights        which documents count for it, who may read them, which were removed
    peers         a peer: address, dial, certificates, trust, sync
    certificates  why a certificate is not trusted, in words, with the mend
    doctor        the network's checks
    ledger        those of certificate, trust, rights and log

Source: issue 3, G; issue 4, G; reference of commands, "3 am".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rage_net.diagnose.contents import explain_contents, find_contents
from rage_net.diagnose.doctor import examine
from rage_net.diagnose.peers import explain_peer
from rage_net.diagnose.walk import Walk
from rage_net.errors import NotFoundError, RageError
from rage_net.verbs.diagnose import Why, WhyResult

if TYPE_CHECKING:
    from rage_net.engine import Engine

__all__ = ["examine", "explain"]


async def explain(engine: Engine, verb: Why) -> WhyResult:
    """Every link from here to the subject: a CID, a document's id or name, a peer id or multiaddr.

    Raises: NotFoundError when the subject is none of these; UsageError for a name of several.
    """
    walk = Walk(engine.env.monotonic)
    try:
        contents = await engine.env.blocking(find_contents, engine, verb.subject)
    except NotFoundError as no_document:
        online = await engine.online()
        try:
            peer = online.membership.named(verb.subject)
        except RageError:
            raise no_document from None
        return await explain_peer(engine, online, peer, verb.subject, walk)
    return await explain_contents(engine, contents, verb, walk)
