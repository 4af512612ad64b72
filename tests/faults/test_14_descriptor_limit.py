"""14: RLIMIT_NOFILE is reached at each step of opening: LimitError, nothing leaked, and then it works.

Each case is a fork of a fresh interpreter that has imported naru and done nothing, because what a
module imports late needs descriptors, too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers import files_below

import naru
from naru.testing.children import Child
from naru.testing.descriptors import limited_descriptors, open_descriptors
from naru.testing.events import Events

FREE = range(16)  # numbers that are free; enough for everything at the end

PAIRS = ["pair shm", "pair unix", "pair pipe", "pair tcp", "pair udp"]
OWNERS = [
    "listen shm://limited", "listen shm://{}/s", "listen unix://{}/u", "listen unix:@naru-limited",
    "listen tcp://127.0.0.1:0", "listen udp://127.0.0.1:0", "receiver shm://limited",
    "receiver unix://{}/u", "receiver unix://{}/d?datagram=1", "receiver tcp://127.0.0.1:0",
    "receiver udp://127.0.0.1:0", "receiver fifo://{}/f", "receiver fifo://{}/f?framing=raw",
    "receiver mq:///naru-limited",
]  # fmt: skip

ZYGOTE = """
import contextlib, gc, json, os, resource, sys, warnings
import naru

directory, opening, *numbers = sys.argv[1:]
verb, address = opening.split()
warnings.simplefilter("error")

def fds():
    return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")}

@contextlib.contextmanager
def limited(n_free):
    # naru.testing has it, and would import half of the world before the test begins
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest, fillers = max(map(int, fds())), []
    while not fillers or fillers[-1] <= highest:
        fillers.append(os.open("/dev/null", os.O_RDONLY))
    os.close(fillers.pop())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + n_free, hard[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
        for filler in fillers:
            os.close(filler)

def use():
    ends = getattr(naru, verb)(address)
    for end in ends if isinstance(ends, tuple) else (ends,):
        end.close()

def attempt():
    try:
        use()
        return "open"
    except BaseException as error:
        return type(error).__name__

for number in map(int, numbers):
    pid = os.fork()
    if pid == 0:
        before = sorted(fds().values())
        with limited(number):
            result = attempt()
        gc.collect()
        leaked = len(fds()) - len(before)
        left = [name for _, _, names in os.walk(directory) for name in names]
        print(json.dumps([number, result, leaked, left, attempt()]), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def outcomes(runtime: str, opening: str) -> list[list[Any]]:
    numbers = [str(number) for number in FREE]
    with Child.script(ZYGOTE, runtime, opening, *numbers) as zygote:
        zygote.check()
        return [json.loads(line) for line in zygote.output().splitlines()]


@pytest.mark.parametrize("opening", [*PAIRS, *OWNERS])
def test_14_opening(runtime: str, opening: str) -> None:
    found = outcomes(runtime, opening.format(runtime))
    assert len(found) == len(FREE)
    for number, result, leaked, left, again in found:
        assert result in ("LimitError", "open"), f"{number} free"
        assert leaked == 0, f"{number} free"
        assert left == [], f"{number} free"
        assert again == "open", f"{number} free, and then all"
    results = [result for _, result, *_ in found]
    assert results == sorted(results), "what works with less works with more"
    assert {results[0], results[-1]} == {"LimitError", "open"}


# ---- both sides of a connection ----

SERVERS = {
    "shm": "shm://{}/s", "unix": "unix://{}/u", "abstract": "unix:@naru-limited",
    "tcp": "tcp://127.0.0.1:0", "udp": "udp://127.0.0.1:0",
}  # fmt: skip


def serve(events: Events, address: str, shape: str) -> None:
    """Lets everybody in, for ever."""
    if shape == "receiver":
        with naru.receiver(address) as receiver:
            events.tell("open", address=str(receiver.address))
            while True:
                receiver.receive()
    with naru.listen(address) as listener:
        events.tell("open", address=str(listener.address))
        for channel in listener:
            channel.close()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("verb", ["connect", "sender"])
def test_14_connecting(runtime: str, kind: str, verb: str) -> None:
    shape = "listen" if verb == "connect" else "receiver"
    with Child.run(serve, SERVERS[kind].format(runtime), shape) as server:
        address = server.expect("open")["address"]
        before = files_below(runtime)
        found = outcomes(runtime, f"{verb} {address}")
        assert files_below(runtime) == before
        for number, result, leaked, _, again in found:
            assert result in ("LimitError", "open"), f"{number} free"
            assert leaked == 0, f"{number} free"
            assert again == "open"
        results = [result for _, result, *_ in found]
        assert {results[0], results[-1]} == {"LimitError", "open"}


def connect_and_stay(events: Events, address: str) -> None:
    """A client that insists: whoever has no room for it now may have it later."""
    while True:
        try:
            channel = naru.connect(address, timeout_s=10.0)
            break
        except naru.LimitError:
            continue  # the other side's, it says
    channel.send(b"served")
    events.expect("enough")
    channel.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_14_accepting(runtime: str, kind: str) -> None:
    """A server without a number for its client does not spin, leak or die; later it serves him."""
    with naru.listen(SERVERS[kind].format(runtime)) as listener:
        for free in range(9):
            with Child.run(connect_and_stay, str(listener.address)) as client:
                before = open_descriptors()
                channel = None
                with limited_descriptors(free):
                    try:
                        channel = listener.accept(timeout_s=0.2)
                    except (naru.LimitError, naru.TimedOutError):
                        pass  # as it should: there is none free
                if channel is None:
                    channel = listener.accept(timeout_s=10.0)
                with channel:
                    assert channel.receive(timeout_s=10.0) == b"served"
                    client.tell("enough")
                    with pytest.raises(naru.PeerGoneError):
                        channel.receive(timeout_s=10.0)
                assert sorted(open_descriptors()) == sorted(before)
