"""What faulty_libc does to a whole life of ends: a story is told again and again, each time with
another call failing, and must end well each time.

Run as a script: stories.py SHAPE KIND DIRECTORY [CALL... | short]; prints what was wrong as JSON.
Holds: the stories and their judgement. Source of the pattern: SQLite's malloc_common.tcl.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import itertools
import json
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import faulty_libc
from helpers import files_below, fresh_address

import naru
from naru.testing.faults import open_descriptors

TIMEOUT_S = 2.0
SHORT_S = 0.15
SMALL = [bytes([number]) * (number * 40 + 1) for number in range(5)]

LOCAL = ("ENOMEM", "EINTR")
OPENING = ("EMFILE", "ENFILE", "ENOMEM")
SENDING = ("EINTR", "EAGAIN", "ENOBUFS", "ENOMEM", "EPIPE", "ECONNRESET")
RECEIVING = ("EINTR", "EAGAIN", "ENOMEM", "ECONNRESET", "EIO")

ERRORS_OF_CALL = {
    "send": SENDING, "sendmsg": SENDING, "pwritev2": SENDING, "mq_send": ("EINTR", "EAGAIN", "ENOMEM"),
    "recv": RECEIVING, "recvmsg": RECEIVING, "read": RECEIVING, "preadv2": RECEIVING,
    "mq_receive": ("EINTR", "EAGAIN", "ENOMEM"),
    "poll": LOCAL, "ppoll": LOCAL, "epoll_wait": ("EINTR",), "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_create1": OPENING, "eventfd": OPENING, "socket": OPENING, "socketpair": OPENING,
    "pipe2": OPENING, "dup": ("EMFILE",), "memfd_create": OPENING, "accept4": (*OPENING, "ECONNABORTED"),
    "open": (*OPENING, "EACCES"), "mq_open": (*OPENING, "ENOSPC", "EACCES"), "mkfifo": ("ENOSPC", "EACCES"),
    "posix_fallocate": ("ENOSPC", "ENOMEM", "EINTR"), "ftruncate": ("ENOSPC",), "mmap": ("ENOMEM",),
    "fcntl": ("ENOLCK", "EPERM", "ENOMEM"), "setsockopt": ("ENOMEM", "ENOPROTOOPT"),
    "getsockopt": ("ENOBUFS",), "bind": ("EADDRINUSE", "EACCES", "ENOSPC"), "listen": ("EADDRINUSE",),
    "none": (),
    "connect": ("ECONNREFUSED", "EAGAIN", "EADDRNOTAVAIL"), "mq_getattr": ("ENOMEM",),
}  # fmt: skip


class Story:
    """One telling: what was accepted, what came, and what went wrong on the way."""

    big = bytearray(bytes(range(256)) * 1200)
    """300 KB: more than a socket's buffer."""

    def __init__(self) -> None:
        self.bugs: list[str] = []
        self.errors: list[naru.NaruError] = []

    def attempt(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[bool, Any]:
        """(it worked, its value); only naru's errors may come out."""
        try:
            return True, function(*args, **kwargs)
        except naru.NaruError as error:
            self.errors.append(error)
        except Exception:
            self.bugs.append(traceback.format_exc())
        return False, None

    def bug(self, text: str) -> None:
        self.bugs.append(f"{text}; naru's errors: {[str(error) for error in self.errors]}")


def exchange(story: Story, sender: Any, receiver: Any, messages: list[bytes]) -> bool:
    """Each message: accepted means received, refused means never seen. False at the end of either."""
    for message in messages:
        accepted, _ = story.attempt(sender.send, message, timeout_s=TIMEOUT_S)
        if accepted and not take(story, receiver, [message]):
            return False
        if not accepted and isinstance(story.errors[-1], naru.PeerGoneError):
            return False
    return True


def take(story: Story, receiver: Any, expected: list[bytes]) -> bool:
    """Receives these messages; False when the receiver is at its end."""
    for message in expected:
        worked, got = receive(story, receiver)
        if not worked:
            if isinstance(story.errors[-1], naru.TimedOutError) and not has_lost_a_peer(
                story, receiver
            ):
                story.bug(f"an accepted message of {len(message)} bytes never came")
            return False
        if got != message:
            story.bug(f"{len(got)} bytes came instead of {len(message)}")
            return False
    return True


def receive(story: Story, receiver: Any) -> tuple[bool, Any]:
    """A message. An end that fails four times in a row is at its end."""
    for _ in range(4):
        worked, got = story.attempt(receiver.receive, timeout_s=SHORT_S)
        if not worked and isinstance(story.errors[-1], naru.TimedOutError):
            if not has_lost_a_peer(story, receiver):
                worked, got = story.attempt(receiver.receive, timeout_s=TIMEOUT_S)
            break
        if worked:
            break
    return worked, got


def has_lost_a_peer(story: Story, receiver: Any) -> bool:
    """A receiver of many goes on without the one whose connection failed, or never came about."""
    statistics = receiver.statistics()
    refused = any(error.operation == "add a sender" for error in story.errors)
    return bool(statistics.peers_lost or statistics.strangers or refused)


def exchange_batch(story: Story, sender: Any, receiver: Any) -> bool:
    accepted, _ = story.attempt(sender.send_many, SMALL, timeout_s=TIMEOUT_S)
    return take(story, receiver, SMALL) if accepted else settle(story, receiver)


def settle(story: Story, receiver: Any) -> bool:
    """After a batch that failed half-way: some of it may have come, in order."""
    came = []
    for _ in range(len(SMALL) + 4):
        worked, got = story.attempt(receiver.receive, timeout_s=0.02)
        if worked:
            came.append(got)
    if came != SMALL[: len(came)]:
        story.bug("a failed batch came out of order")
    return True


def exchange_in_place(story: Story, sender: Any, receiver: Any) -> bool:
    def reserve() -> None:
        with sender.reserve(100, timeout_s=TIMEOUT_S) as view:
            view[:] = b"r" * 100

    def lease() -> bytes:
        with receiver.lease(timeout_s=SHORT_S) as view:
            return bytes(view)

    accepted, _ = story.attempt(reserve)
    if not accepted:
        return True
    for _ in range(4):
        worked, got = story.attempt(lease)
        if worked or has_lost_a_peer(story, receiver):
            break
    if worked and got != b"r" * 100:
        story.bug("another message in the lease")
    return worked


def exchange_big(story: Story, sender: Any, receiver: Any) -> bool:
    def send() -> None:
        sent.append(story.attempt(sender.send, story.big, timeout_s=TIMEOUT_S)[0])

    sent: list[bool] = []
    thread = threading.Thread(target=send)
    thread.start()
    came, refused = None, 0
    for _ in range(20):
        worked, got = story.attempt(receiver.receive, timeout_s=0.05)
        if worked:
            came = got
            break
        if has_lost_a_peer(story, receiver):
            break
        if not isinstance(story.errors[-1], naru.TimedOutError):
            refused += 1
            if refused == 4:
                receiver.close()  # it is at its end: else the sender would wait for it
                break
        elif sent and not sent[0]:
            break
    thread.join()
    if came not in (None, story.big):
        story.bug("another message instead of the big one")
    if came is not None and not sent[0]:
        story.bug("the refused big message came")
    kept = sent[0] and came is None and not receiver.closed
    # Its rest was kept when the sender could not wait; it goes out with what follows.
    if (
        kept
        and not has_lost_a_peer(story, receiver)
        and story.attempt(sender.send, b"next", timeout_s=TIMEOUT_S)[0]
    ):
        return take(story, receiver, [bytes(story.big), b"next"])
    return not receiver.closed


def talk(story: Story, sender: Any, receiver: Any, *, with_big: bool) -> bool:
    """False when the conversation came to its end on the way."""
    return (
        exchange(story, sender, receiver, SMALL)
        and exchange_batch(story, sender, receiver)
        and exchange_in_place(story, sender, receiver)
        and (not with_big or exchange_big(story, sender, receiver))
        and exchange(story, sender, receiver, SMALL[:2])
    )


def roomy_address(kind: str, directory: str, **options: object) -> str:
    # A Unix socket charges 1,280 bytes for a byte that travels alone: room for a whole message.
    if kind == "unix":
        options["send_buffer_bytes"] = "4MiB"
    return fresh_address(kind, directory, **options)


def tell_of_a_pair(story: Story, kind: str, directory: str) -> None:
    # A Unix socket charges 1,280 bytes for a byte that travels alone: room for a whole message.
    text = "unix:?send_buffer_bytes=4MiB" if kind == "unix" else kind
    worked, ends = story.attempt(naru.pair, text)
    if not worked:
        return
    if talk(story, *ends, with_big=kind != "udp"):
        exchange(story, ends[1], ends[0], SMALL[:2])
    for end in ends:
        story.attempt(end.close)
        if not end.closed:
            story.bug("open after close()")


def tell_of_a_conversation(story: Story, kind: str, directory: str) -> None:
    worked, listener = story.attempt(naru.listen, roomy_address(kind, directory))
    if not worked:
        return
    made: list[Any] = []
    thread = threading.Thread(
        target=lambda: made.append(
            story.attempt(naru.connect, listener.address, timeout_s=SHORT_S)[1]
        )
    )
    thread.start()
    accepted = None
    while accepted is None and (thread.is_alive() or made[-1] is not None):
        worked, accepted = story.attempt(listener.accept, timeout_s=0.05)
        if made and not worked and not thread.is_alive():
            break
    thread.join()
    ends = [end for end in (made[0], accepted) if end is not None]
    if len(ends) == 2:
        talk(story, *ends, with_big=kind != "udp")
    for end in [*ends, listener]:
        story.attempt(end.close)


def tell_of_a_queue(story: Story, kind: str, directory: str) -> None:
    worked, receiver = story.attempt(naru.receiver, roomy_address(kind, directory))
    if not worked:
        return
    made: list[Any] = []
    thread = threading.Thread(
        target=lambda: made.append(
            story.attempt(naru.sender, receiver.address, timeout_s=SHORT_S)[1]
        )
    )
    thread.start()
    while thread.is_alive():
        story.attempt(receiver.try_receive)
        thread.join(0.001)
    if made[0] is not None:
        talk(story, made[0], receiver, with_big=kind not in ("udp", "mq"))
        story.attempt(made[0].close)
    story.attempt(receiver.close)


TELLERS = {"pair": tell_of_a_pair, "channel": tell_of_a_conversation, "queue": tell_of_a_queue}


def tell(teller: Any, kind: str, directory: str) -> tuple[list[str], bool]:
    """One telling: what was wrong, and whether a call failed in it."""
    before = len(open_descriptors())
    story = Story()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        teller(story, kind, directory)
        fired = faulty_libc.is_here() and faulty_libc.disarm()[1] > 0
        if len(open_descriptors()) > before:
            gc.collect()
    for warning in caught:
        story.bug(f"warning: {warning.message}")
    after = open_descriptors()
    if len(after) > before:
        story.bug(
            f"{len(after) - before} descriptors left: {list(after.items())[before - len(after) :]}"
        )
    left = files_below(directory)
    # The file of a lock that could not be taken stays: it may be another process's by now.
    if any(os.path.getsize(path) or not path.endswith(".lock") for path in left):
        story.bug(f"left behind: {left}")
    for path in left:
        os.unlink(path)
    real = [error for error in story.errors if not isinstance(error, naru.TimedOutError)]
    if real and not fired and faulty_libc.is_here():
        story.bug("an error without a fault")
    return story.bugs, fired


def later(number: int, step: int) -> int:
    """Each of the first calls, then fewer: the pieces of a large message are much alike."""
    return number + max(step, number // 8)


def main(shape: str, kind: str, directory: str, *calls: str) -> None:
    os.environ["XDG_RUNTIME_DIR"] = directory
    faulthandler.dump_traceback_later(100, exit=True)
    teller = TELLERS[shape]
    wrong: dict[str, list[str]] = {}
    told = failed = 0
    for _ in range(2):  # late imports, the heartbeat's thread
        bugs, _ = tell(teller, kind, directory)
        if bugs:
            wrong["without a fault"] = bugs
    if calls == ("short",):
        del Story.big[40000:]  # still a large one, which waits its turn
        for most_bytes in (1, 3, 7):
            faulty_libc.shorten(most_bytes)
            bugs, _ = tell(teller, kind, directory)
            told += 1
            if bugs:
                wrong[f"at most {most_bytes} bytes"] = bugs
        calls = ("none",)
    for call in calls or ERRORS_OF_CALL:
        for name in ERRORS_OF_CALL[call]:
            for number in itertools.accumulate(itertools.repeat(1), later):
                faulty_libc.arm(call, getattr(errno, name), number)
                bugs, fired = tell(teller, kind, directory)
                told, failed = told + 1, failed + fired
                if bugs:
                    wrong[f"{call} {number}: {name}"] = bugs
                if not fired:
                    break
    print(json.dumps({"told": told, "failed": failed, "wrong": wrong}))


if __name__ == "__main__":
    main(*sys.argv[1:])
