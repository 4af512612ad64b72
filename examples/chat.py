"""A chat server over a Unix socket and TCP, in one loop; and three people who use it.

    python examples/chat.py

What one says everybody else hears, whichever way they came. A server like this holds as many
conversations as the process may have descriptors, in one thread and without a lock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial

import naru
from naru import signals

PERSON = """
import sys, naru
name, address, others = sys.argv[1], sys.argv[2], int(sys.argv[3])
with naru.connect(address) as channel:
    channel.send(name.encode())
    for message in channel:
        text = message.decode()
        if text == "* everybody is here":
            channel.send(f"hello from {name}".encode())
        elif ": hello" in text:
            print(f"{name} hears {text}", flush=True)
            others -= 1
            if others == 0:
                break
"""
PEOPLE = {"ann": "unix", "bob": "tcp", "eve": "unix"}


class Room:
    """Who is here."""

    def __init__(self, reactor: naru.Reactor, expected: int) -> None:
        self.reactor = reactor
        self.expected = expected
        self.names: dict[naru.Channel, str] = {}

    def enter(self, channel: naru.Channel) -> None:
        self.reactor.on_message(channel, self.hear)

    def hear(self, channel: naru.Channel, message: bytes | None) -> None:
        if message is None:
            self.leave(channel)
        elif channel in self.names:
            self.say(f"{self.names[channel]}: {message.decode()}", but=channel)
        else:
            self.names[channel] = message.decode()
            if len(self.names) == self.expected:
                self.say("* everybody is here")

    def say(self, text: str, but: naru.Channel | None = None) -> None:
        for channel in list(self.names):
            # Who does not read does not hold up the room: what has no room there is not said.
            if channel is not but and not channel.closed:
                try:
                    channel.try_send(text.encode())
                except naru.PeerGoneError:
                    continue  # its end comes to hear() as well

    def leave(self, channel: naru.Channel) -> None:
        self.names.pop(channel, None)
        channel.close()


def main() -> int:
    with (
        naru.Reactor() as reactor,
        naru.listen(f"unix:@naru-chat-{os.getpid()}") as nearby,
        naru.listen("tcp://127.0.0.1:0") as far,
    ):
        room = Room(reactor, expected=len(PEOPLE))
        codes: dict[str, int | None] = {}

        def gone(name: str, process: subprocess.Popen[bytes], code: int | None) -> None:
            codes[name] = code
            if len(codes) == len(PEOPLE):
                print("nobody is left", flush=True)
                reactor.drain(5)  # nobody may come in any more; who is here may finish

        reactor.on_connection(nearby, room.enter)
        reactor.on_connection(far, room.enter)
        reactor.on_signal({signal.SIGINT, signal.SIGTERM}, lambda came: reactor.drain(5))
        addresses = {"unix": str(nearby.address), "tcp": str(far.address)}
        with signals.unblocked():
            people = {
                name: subprocess.Popen(
                    [sys.executable, "-c", PERSON, name, addresses[way], str(len(PEOPLE) - 1)]
                )
                for name, way in PEOPLE.items()
            }
        for name, person in people.items():
            reactor.on_exit(person, partial(gone, name))
        in_order = reactor.run()
        for channel in list(room.names):
            room.leave(channel)
    print(f"drained: {in_order}")
    return max(code or 0 for code in codes.values())


if __name__ == "__main__":
    sys.exit(main())
