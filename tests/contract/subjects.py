"""naru's own transports as subjects of the suite: every shape, address and wait mode."""

from __future__ import annotations

import itertools
import os
import threading
import time
from pathlib import Path
from typing import Any

import naru
from naru.testing import Check, TransportUnderTest

MIB = 1 << 20
MOST = MIB + 4096
MOST_UDP = 65507 - 24
_numbers = itertools.count()


def _with_options(address: str, **options: object) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{address}{'&' if '?' in address else '?'}{query}" if query else address


def _fresh(pattern: str) -> str:
    """An address that nobody has yet: {n} is a number, {d} a directory with a short path."""
    directory = os.environ["XDG_RUNTIME_DIR"]
    return pattern.format(n=f"{os.getpid()}-{next(_numbers)}", d=directory)


def _traits(transport: str) -> dict[str, Any]:
    """What a transport promises, beyond the defaults."""
    traits: dict[str, Any] = {"max_message_bytes": MOST}
    match transport:
        case "shm":
            traits |= {"descriptors": True, "in_place": True}
        case "unix":
            traits |= {"descriptors": True}
        case "udp":
            traits |= {
                "max_message_bytes": MOST_UDP, "order": False, "reliable": False,
                "back_pressure": False,
            }  # fmt: skip
        case "mq":
            limit = int(Path("/proc/sys/fs/mqueue/msgsize_max").read_text())
            traits |= {"max_message_bytes": limit, "priority": True}
    return traits


def _options(transport: str) -> dict[str, object]:
    return {"max_message_bytes": MOST} if transport not in ("udp", "mq") else {}


def _pair(transport: str, **options: object) -> TransportUnderTest:
    address = _with_options(f"{transport}:", **_options(transport), **options)
    shown = ",".join(str(value) for value in options.values())
    traits = _traits(transport)
    if options.get("framing") == "raw":
        traits |= {"boundaries": False}
    return TransportUnderTest(
        name=f"pair-{transport}{'-' if shown else ''}{shown}",
        make_channel_pair=lambda: naru.pair(address),
        **traits,
    )


def _conversation(
    name: str, pattern: str, *, keep_moving: bool = False, **options: object
) -> TransportUnderTest:
    transport = pattern.partition(":")[0]
    traits = _traits(str(options.get("transports", "shm")) if transport == "auto" else transport)
    address = _with_options(pattern, **_options(transport), **options)
    if keep_moving:
        traits |= {"descriptors": False, "in_place": False}

    def make_listener() -> naru.Listener:
        return naru.listen(_fresh(address))

    def make_connection(listener: naru.Listener) -> naru.Channel:
        return naru.connect(listener.address)

    def make_channel_pair() -> tuple[naru.Channel, naru.Channel]:
        with make_listener() as listener:
            made: list[naru.Channel] = []
            connecting = threading.Thread(target=lambda: made.append(make_connection(listener)))
            connecting.start()
            accepted = listener.accept(timeout_s=10)
            connecting.join()
            if keep_moving:
                _start_moving(accepted)
            return made[0], accepted

    return TransportUnderTest(
        name=f"connect-{name}",
        make_channel_pair=make_channel_pair,
        make_listener=make_listener,
        make_connection=make_connection,
        **traits,
    )


def _start_moving(channel: Any) -> None:
    conversation = channel._place.conversation
    mover = threading.Thread(target=_move_about, args=(conversation,), daemon=True)
    mover.start()
    channel._place.add_closer(lambda: (conversation.close(), mover.join()))


def _move_about(conversation: Any) -> None:
    """From one transport to the next, for as long as the channel is open."""
    rounds = itertools.cycle(["unix", "pipe", "tcp", "shm"])
    target = next(rounds)
    while not conversation.closed:
        if conversation.offer(target):
            target = next(rounds)
        # There is no event for "the move is over"; a test decides how often this turns.
        time.sleep(0.001)


def _fan_in(name: str, pattern: str, **options: object) -> TransportUnderTest:
    transport = pattern.partition(":")[0]
    address = _with_options(pattern, **_options(transport), **options)
    return TransportUnderTest(
        name=f"senders-{name}",
        make_receiver=lambda: naru.receiver(_fresh(address)),
        make_sender=lambda receiver: naru.sender(receiver.address),
        tells_end=False,
        **_traits(transport),
    )


SUBJECTS = [
    _pair("shm"),
    _pair("shm", capacity_bytes=4096),
    _pair("shm", wait="spin"),
    _pair("shm", wait="sleep"),
    _pair("pipe"),
    _pair("unix"),
    _pair("tcp"),
    _pair("udp"),
    _pair("unix", framing="raw"),
    _conversation("shm", "shm://t{n}"),
    _conversation("auto", "auto://t{n}"),
    _conversation("auto-unix", "auto://t{n}", transports="unix"),
    _conversation("auto-pipe", "auto://t{n}", transports="pipe"),
    _conversation("auto-tcp", "auto://t{n}", transports="tcp"),
    _conversation("auto-moving", "auto://t{n}", keep_moving=True),
    _conversation("unix-path", "unix://{d}/t{n}.sock"),
    _conversation("unix-abstract", "unix:@naru-test-{n}"),
    _conversation("tcp4", "tcp://127.0.0.1:0"),
    _conversation("tcp6", "tcp://[::1]:0"),
    _conversation("udp", "udp://127.0.0.1:0"),
    _fan_in("shm", "shm://t{n}"),
    _fan_in("unix", "unix://{d}/t{n}.sock"),
    _fan_in("tcp", "tcp://127.0.0.1:0"),
    _fan_in("udp", "udp://127.0.0.1:0"),
    _fan_in("fifo", "fifo://{d}/t{n}.fifo"),
    _fan_in("mq", "mq:///naru-test-{n}"),
]

# Whoever moves a channel about holds it for a moment, it passes descriptors now and then, and its
# descriptor tells of the goodbye of the old connection, too.
IMPOSSIBLE_WHILE_MOVING = {
    "a_forgotten_end_warns_and_closes",
    "a_descriptor_shows_messages",
    "descriptors_are_refused",
}


def is_possible(subject: TransportUnderTest, check: Check) -> bool:
    """False for what a subject cannot be asked, because of how the test treats it."""
    return not (subject.name.endswith("auto-moving") and check.name in IMPOSSIBLE_WHILE_MOVING)
