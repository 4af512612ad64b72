"""naru.aio: every verb for asyncio, on the standard loop and on uvloop.

    from naru import aio

    async with aio.listen("shm://orders") as listener:             # one process
        async with await listener.accept() as channel:
            async for message in channel:
                ...

    async with await aio.connect("shm://orders") as channel:       # another
        await channel.send(b"hello")

Map of the folder:

    opening     connect, listen, pair, sender, receiver
    listener    what listen() gives
    cache       the shared cache: naru.Cache with what waits awaited
    remote      a cache on a server
    ends        the ends and their verbs
    end         what they share: the slow half of a verb, closing
    blocks      async with: lease, lease_many, reserve
    waiting     one end in one loop: spinning, sleeping, waking
    lookout     all waits of one loop: looking before sleeping
    turns       who is next, when several tasks want the same

Every verb tries before it waits, and waits without a thread: for one descriptor, which stays with
the loop. Must not know: any transport, any loop but asyncio's interface.
"""

from __future__ import annotations

from naru.aio.cache import Cache
from naru.aio.ends import Channel, Receiver, Sender
from naru.aio.listener import Listener
from naru.aio.opening import connect, listen, pair, receiver, sender
from naru.aio.remote import RemoteCache

__all__ = [
    "Cache",
    "Channel",
    "Listener",
    "Receiver",
    "RemoteCache",
    "Sender",
    "connect",
    "listen",
    "pair",
    "receiver",
    "sender",
]
