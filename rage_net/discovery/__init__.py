"""Discovery: how a node that knows nobody meets the first peers, and how servers learn of them.

    scope      1  from where an IP address can be reached
    records    1  a registration and a listed peer, as JSON
    proofs     1  signatures over them, and what makes one good
    selection  1  which peers a stranger is told of
    rates      1  how often an address may ask
    found      1  what several servers said, united, and kept in a file
    schedule   1  when the next heartbeat is due
    api        1  requests and answers, without HTTP
    database   2  the server's SQLite file
    registry   2  the registrations in it
    dial_back  2  whether a peer can be reached
    server     2  what answers
    client     2  what asks: all configured servers at once

Not here: the HTTP door (`http`), the process behind `rage discovery serve` (`discoverer`), dialling (the swarm).
Source: specification, "Discovery Server API"; design D7, 4.3.
"""
