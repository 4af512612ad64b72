"""Everything that can happen to a process, in one loop and one thread.

    python examples/one_loop.py

A pipe, a Unix socket, a message queue, a channel over shared memory, a timer, a child's exit, a file
that changes and Ctrl-C: each gets a function, and nothing is polled. Children do the talking; the
last thing that happens is a SIGINT, as if you had pressed Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import naru
from naru import signals

TALKER = """
import sys, naru
with naru.connect(sys.argv[1]) as channel, naru.sender(sys.argv[2]) as queue:
    channel.send(b"over shared memory")
    queue.send(b"over a message queue", priority=5)
    channel.receive()      # so that nothing has to be guessed: it is told when to go
raise SystemExit(7)
"""


class Everything:
    """What came, and the end when all of it has."""

    def __init__(self, reactor: naru.Reactor) -> None:
        self.reactor = reactor
        self.seen: set[str] = set()
        self.wanted = {"pipe", "socket", "queue", "channel", "timer", "child", "file"}

    def note(self, kind: str, text: object) -> None:
        if kind not in self.seen:
            print(f"{kind}: {text}", flush=True)
        self.seen.add(kind)
        if self.seen == self.wanted:
            self.seen.add("all")
            os.kill(os.getpid(), signal.SIGINT)  # your Ctrl-C


def main() -> int:
    name = f"one-loop-{os.getpid()}"
    with (
        naru.Reactor() as reactor,
        naru.listen(f"shm://{name}") as listener,
        naru.receiver(f"mq:///{name}") as queue,
        tempfile.TemporaryDirectory() as folder,
    ):
        everything = Everything(reactor)
        channels: list[naru.Channel] = []
        near, far = socket.socketpair()
        log = Path(folder) / "log"

        def read_pipe(pipe: object) -> None:
            data = os.read(reading.fileno(), 4096)
            if data:
                everything.note("pipe", data.decode().strip())
            else:
                from_pipe.cancel()

        def welcome(channel: naru.Channel) -> None:
            channels.append(channel)
            reactor.on_message(channel, talk)

        def talk(channel: naru.Channel, message: bytes | None) -> None:
            if message is None:
                channel.close()
                return
            everything.note("channel", message.decode())
            channel.send(b"go")

        def tick() -> None:
            everything.note("timer", "a tenth of a second")
            far.send(b"over a Unix socket")
            log.write_text("something happened\n")

        def leave(came: signals.Signal) -> None:
            print(f"{came.name}: good-bye", flush=True)
            reactor.stop()

        reactor.on_signal({signal.SIGINT, signal.SIGTERM}, leave)
        reactor.on_connection(listener, welcome)
        reactor.on_message(queue, lambda _, message: everything.note("queue", message.decode()))
        reactor.on_readable(near, lambda s: everything.note("socket", s.recv(4096).decode()))
        reactor.on_change(log, lambda change: everything.note("file", f"log was {change.kind}"))
        reactor.every(0.1, tick)
        with signals.unblocked():  # they shall hear Ctrl-C, which is blocked here from now on
            shell = subprocess.Popen(["echo", "through a pipe"], stdout=subprocess.PIPE)
            talker = subprocess.Popen(
                [sys.executable, "-c", TALKER, str(listener.address), str(queue.address)]
            )
        assert shell.stdout is not None
        reading = shell.stdout
        from_pipe = reactor.on_readable(reading, read_pipe)
        reactor.on_exit(shell, lambda process, code: None)
        reactor.on_exit(talker, lambda process, code: everything.note("child", f"exit {code}"))

        reactor.run()

        facts = reactor.statistics()
        print(f"{facts.callbacks} callbacks, {facts.errors} errors, in one thread")
        reading.close()
        near.close()
        far.close()
        for channel in channels:
            channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
