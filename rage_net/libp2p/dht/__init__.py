"""The Kademlia DHT over the swarm: libp2p's messages on `/rage/kad/1.0.0`.

    dht      `Dht`: a node's part in it; tasks
    queries  what is left with others: records and values
    finding  what is asked: the nearest, peers, providers, values; over any `Asking`
    crawl    one look-up, driven
    streams  questions over the swarm, and the handler of those that come
    table    the routing table; the one module that imports `kademlia`

Not here: the rules (`kad`).
"""

from __future__ import annotations

from rage_net.libp2p.dht.crawl import Answer, Asking, Hop
from rage_net.libp2p.dht.dht import BucketView, ContactView, Dht, TableView
from rage_net.libp2p.dht.finding import Found, OnHop
from rage_net.libp2p.dht.queries import Provided, Queries

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
