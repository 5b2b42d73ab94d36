"""Documents that go to CDNs encrypted: their keys, and the way back to plain bytes.

    keys    who gets a key, and how a node asks for one
    source  a CDN's ciphertexts as a source of plain chunks

Not here: the cryptography (cdn.sealing), what the log says of sealed documents (ledger), when one is published and
purged. Source: issue 6, C; ADR 24.
"""

from rage_net.services.sealing.keys import Keys, draw_epoch
from rage_net.services.sealing.source import SealedSource

__all__ = ["Keys", "SealedSource", "draw_epoch"]
