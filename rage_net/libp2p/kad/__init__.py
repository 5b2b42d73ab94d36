"""Kademlia's rules: distances, messages, look-ups, records. Sans-I/O: `now` and randomness come in as values.

    keys      the 256-bit space that keys and peers share
    contact   a peer and where to dial it
    scope     which addresses may be told to whom, and which peers count as one
    messages  libp2p's Kad-DHT messages, checked; a reader of several on one stream
    lookup    the crawl towards a key, as a state machine
    records   who provides what: a bounded store
    values    small values by key, with a validator for each namespace
    answers   what a server says to each request
    rates     how often a peer may ask
    regions   which keys one crawl covers
    schedule  which keys are to be announced again, and when

Not here: the routing table and everything that waits (`dht`).
Source: libp2p/specs kad-dht; Maymounkov and Mazières 2002.
"""
