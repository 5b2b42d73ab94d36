"""The Kademlia DHT over the swarm: libp2p's messages on `/rage/kad/1.0.0`.

    dht      `Dht`: a node's part in it; tasks
    queries  finding and leaving: the operations, over any `Asking`
    crawl    one look-up, driven
    streams  questions over the swarm, and the handler of those that come
    table    the routing table; the one module that imports `kademlia`

Not here: the rules (`kad`).
"""

from __future__ import annotations

from rage_net.libp2p.dht.crawl import Answer, Asking, Hop
from rage_net.libp2p.dht.dht import BucketView, ContactView, Dht, TableView
from rage_net.libp2p.dht.queries import Found, OnHop, Provided, Queries

__all__ = [
    "Answer",
    "Asking",
    "BucketView",
    "ContactView",
    "Dht",
    "Found",
    "Hop",
    "OnHop",
    "Provided",
    "Queries",
    "TableView",
]
