"""Request and reply over channels: a server with a handler, clients that ask it.

    frames         the messages, byte by byte
    conversation   both sides as state machines without I/O
    link           one connection of a client: who reads, who waits
    pending        one open request
    blocked        a reader for a link that has no room
    client         naru.client(): which connection, and when a new one
    guests         one client as its server sees it
    workers        threads that run handlers, clients in turn
    loop           one thread over the listener and every client
    server         naru.serve()
    records        what they count

Knows channels, not transports. An asyncio client needs conversation and frames, and a loop of its own.
"""
