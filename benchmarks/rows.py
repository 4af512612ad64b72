"""The rows of the message benchmarks and what naru must reach in each.

Holds: a table. A row names its C floors, naru's run, the peers' runs and its
targets; nothing here runs.
Must not know: how anything is run (messages.py) or printed (report.py).

Targets are of three kinds. A share of the C floor or of a peer is taken
between runs next to each other in one session. A plain limit was set on
another machine, where the floor took `reference_floor`; so it is also held as
the ratio limit / reference_floor, which is the one that counts here.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """One bound: exactly one of the three is set."""

    limit: float | None = None
    of_floor: float | None = None
    of_peer: tuple[str, float] | None = None


@dataclass(frozen=True)
class PeerRun:
    """A peer's part of a row; a slow one moves a share of the messages."""

    peer: str
    shape: str = "per-message"
    divisor: int = 1


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `kind` says how it is run and in which unit it is told: a stream in ms per
    million messages, a trip in us at p50, large payloads in GB/s, an idle
    receiver in percent of one CPU.
    """

    key: str
    title: str
    kind: str  # stream | trip | large | idle
    naru: str | None
    floors: tuple[str, ...] = ()
    peers: tuple[PeerRun, ...] = ()
    targets: tuple[Target, ...] = ()
    reference_floor: float | None = None
    shape: str = "per-message"
    wait: str = "default"
    size_bytes: int = 1024
    count: int = 1_000_000
    quick_count: int = 20_000
    rounds: int = 1  # how many times as many as asked: for what is short and drifts
    note: str = ""

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]

    @property
    def unit(self) -> str:
        return UNITS[self.kind]

    @property
    def judged_peers(self) -> frozenset[str]:
        """Peers that a target names: they run in every round."""
        return frozenset(target.of_peer[0] for target in self.targets if target.of_peer)

    @property
    def higher_is_better(self) -> bool:
        return self.kind == "large"


UNITS = {"stream": "ms per million", "trip": "us p50", "large": "GB/s", "idle": "% of a CPU"}

_RING = "shm stream"
_RING_BATCH = "shm stream --shape batch"
_LARGE_1 = f"--size {MIB} --capacity {4 * MIB}"
_LARGE_16 = f"--size {16 * MIB} --capacity {64 * MIB}"

_STREAMS = (
    Row(
        "shm.message", "send, receive", "stream", "naru.shm", rounds=3,
        floors=(_RING, f"{_RING} --read copy", f"{_RING} --capacity {16 * MIB}"),
        reference_floor=50,
        peers=(
            PeerRun("subetha"), PeerRun("python-ring"), PeerRun("cloudtoid"), PeerRun("kickmsg"),
            PeerRun("iceoryx2", divisor=4), PeerRun("faster-fifo", divisor=20),
            PeerRun("mp.Pipe", divisor=10), PeerRun("mp.SimpleQueue", divisor=20),
            PeerRun("mp.Queue", divisor=20),
        ),
        targets=(Target(limit=95), Target(of_peer=("subetha", 0.5))),
    ),
    Row(
        "shm.batch", "send_many, receive_many(64)", "stream", "naru.shm", rounds=3, shape="batch",
        floors=(_RING_BATCH, f"{_RING_BATCH} --read copy", f"{_RING_BATCH} --capacity {16 * MIB}"),
        reference_floor=28,
        peers=(PeerRun("cloudtoid", "batch"), PeerRun("faster-fifo", "batch", divisor=10)),
        targets=(Target(limit=80),),
    ),
    Row(
        "shm.views", "send_many, lease_many(512), every view", "stream", "naru.shm",
        rounds=3, shape="views",
        floors=(_RING_BATCH,), reference_floor=28,
        peers=(PeerRun("python-ring", "views"),),
        targets=(Target(limit=60),),
    ),
    Row(
        "shm.array", "send_many, lease_many(512) as one array", "stream", "naru.shm",
        rounds=3, shape="array",
        floors=(_RING_BATCH,), reference_floor=28,
        targets=(Target(limit=45),),
    ),
    Row(
        "pipe.message", "send, receive", "stream", "naru.pipe", floors=("pipe stream",),
        peers=(PeerRun("os.pipe"), PeerRun("mp.Pipe", divisor=10)),
        targets=(Target(of_floor=1.3),),
    ),
    Row(
        "pipe.batch", "send_many, receive_many(64)", "stream", "naru.pipe", shape="batch",
        floors=("pipe stream --shape batch",), peers=(PeerRun("os.pipe", "batch"),),
        targets=(Target(of_floor=1.2),),
    ),
    Row(
        "unix.message", "send, receive", "stream", "naru.unix", floors=("unix stream",),
        peers=(PeerRun("socket.unix", divisor=2), PeerRun("pyzmq.ipc", divisor=5)),
        targets=(Target(of_floor=1.15),),
    ),
    Row(
        "unix.batch", "send_many, receive_many(64)", "stream", "naru.unix", shape="batch",
        floors=("unix stream --shape batch",), peers=(PeerRun("socket.unix", "batch"),),
        targets=(Target(of_floor=1.3),),
    ),
    Row(
        "mq.message", "send, receive, depth 10", "stream", "naru.mq", floors=("mq stream",),
        peers=(PeerRun("posix_ipc", divisor=2),),
        targets=(Target(of_floor=1.15),),
    ),
    Row(
        "tcp.message", "send, receive, small messages coalesced", "stream", "naru.tcp",
        floors=("tcp stream",),
        peers=(
            PeerRun("socket.tcp", divisor=2), PeerRun("pyzmq.tcp", divisor=5),
            PeerRun("zenoh", divisor=5),
        ),
        targets=(Target(of_peer=("socket.tcp", 0.5)),),
    ),
    Row(
        "tcp.batch", "send_many, receive_many(64)", "stream", "naru.tcp", shape="batch",
        floors=("tcp stream --shape batch",), peers=(PeerRun("socket.tcp", "batch"),),
        targets=(Target(of_floor=1.2),),
    ),
)  # fmt: skip

_TRIPS = (
    Row(
        "trip.spin.64", "round trip, spinning, 64 B", "trip", "naru.shm", rounds=3, wait="spin",
        size_bytes=64, count=200_000, quick_count=5_000,
        floors=("shm trip --wait spin",), reference_floor=0.11,
        peers=(
            PeerRun("subetha", "trip"), PeerRun("python-ring", "trip"),
            PeerRun("cloudtoid", "trip"), PeerRun("iceoryx2", "trip", divisor=4),
            PeerRun("kickmsg", "trip", divisor=2),
        ),
        targets=(Target(limit=0.30),),
    ),
    Row(
        "trip.spin.1024", "round trip, spinning, 1 KB", "trip", "naru.shm", rounds=3, wait="spin",
        count=200_000, quick_count=5_000,
        floors=("shm trip --wait spin",), reference_floor=0.17,
        peers=(PeerRun("subetha", "trip"), PeerRun("iceoryx2", "trip", divisor=4)),
        targets=(Target(limit=0.40),),
    ),
    Row(
        "trip.adaptive", "round trip, adaptive, traffic flows, 64 B", "trip", "naru.shm",
        rounds=3, wait="adaptive", size_bytes=64, count=200_000, quick_count=5_000,
        floors=("shm trip --wait adaptive",), reference_floor=0.34,
        targets=(Target(limit=0.5),),
    ),
    Row(
        "trip.sleep.shm", "round trip, sleeping, 64 B", "trip", "naru.shm", wait="sleep",
        size_bytes=64, count=20_000, quick_count=1_000,
        floors=("shm trip --wait eventfd", "shm trip --wait futex"),
        peers=(PeerRun("os.pipe", "trip"), PeerRun("faster-fifo", "trip")),
        targets=(Target(of_peer=("os.pipe", 1.1)),),
    ),
    Row(
        "trip.sleep.pipe", "round trip, sleeping, 64 B", "trip", "naru.pipe", wait="sleep",
        size_bytes=64, count=20_000, quick_count=1_000,
        floors=("pipe trip",),
        peers=(PeerRun("os.pipe", "trip"), PeerRun("mp.Pipe", "trip")),
        targets=(Target(of_peer=("os.pipe", 1.1)),),
    ),
    Row(
        "trip.sleep.unix", "round trip, sleeping, 64 B", "trip", "naru.unix", wait="sleep",
        size_bytes=64, count=20_000, quick_count=1_000,
        floors=("unix trip",),
        peers=(
            PeerRun("os.pipe", "trip"), PeerRun("socket.unix", "trip"),
            PeerRun("pyzmq.ipc", "trip", divisor=4),
        ),
        targets=(Target(of_peer=("os.pipe", 1.1)),),
    ),
    Row(
        "trip.sleep.mq", "round trip, sleeping, 64 B", "trip", "naru.mq", wait="sleep",
        size_bytes=64, count=20_000, quick_count=1_000,
        floors=("mq trip",),
        peers=(PeerRun("os.pipe", "trip"), PeerRun("posix_ipc", "trip")),
        targets=(Target(of_peer=("os.pipe", 1.1)),),
    ),
    Row(
        "trip.sleep.tcp", "round trip, sleeping, 64 B", "trip", "naru.tcp", wait="sleep",
        size_bytes=64, count=20_000, quick_count=1_000,
        floors=("tcp trip",),
        peers=(
            PeerRun("os.pipe", "trip"), PeerRun("socket.tcp", "trip"),
            PeerRun("pyzmq.tcp", "trip", divisor=4), PeerRun("zenoh", "trip", divisor=4),
        ),
        targets=(Target(of_peer=("os.pipe", 1.1)),),
        note="loopback TCP goes through the whole network stack: see its floor",
    ),
    Row(
        "trip.asyncio", "round trip over asyncio, traffic flows, 64 B", "trip", "naru.aio",
        size_bytes=64, count=20_000, quick_count=500,
        peers=(PeerRun("zmq.asyncio", "trip", divisor=4),),
        targets=(Target(limit=15),),
    ),
)  # fmt: skip

_IDLE = (
    Row(
        "idle.shm", "a blocked receiver, seconds", "idle", "naru.shm", count=5, quick_count=1,
        size_bytes=64, floors=("shm idle",), peers=(PeerRun("os.pipe", "idle"),),
        targets=(Target(limit=0.01),),
    ),
    Row(
        "idle.unix", "a blocked receiver, seconds", "idle", "naru.unix", count=5, quick_count=1,
        size_bytes=64, floors=("unix idle",), peers=(PeerRun("socket.unix", "idle"),),
        targets=(Target(limit=0.01),),
    ),
)  # fmt: skip

_LARGE = (
    Row(
        "large.copy.1MiB", "1 MiB copied in, read in place", "large", "naru.shm",
        rounds=3, shape="copy",
        size_bytes=MIB, count=5_000, quick_count=100,
        floors=(f"shm large --shape copy {_LARGE_1}",), reference_floor=51,
        peers=(PeerRun("iceoryx2", "copy"), PeerRun("kickmsg", "copy")),
        targets=(Target(limit=25),),
    ),
    Row(
        "large.copy.16MiB", "16 MiB copied in, read in place", "large", "naru.shm",
        rounds=3, shape="copy",
        size_bytes=16 * MIB, count=300, quick_count=10,
        floors=(f"shm large --shape copy {_LARGE_16}",), reference_floor=19,
        peers=(PeerRun("iceoryx2", "copy"), PeerRun("kickmsg", "copy")),
        targets=(Target(limit=12),),
    ),
    Row(
        "large.reserve.1MiB", "1 MiB reserved and leased", "large", "naru.shm",
        rounds=3, shape="reserve",
        size_bytes=MIB, count=5_000, quick_count=100,
        floors=(f"shm large --shape reserve {_LARGE_1}",), reference_floor=88,
        peers=(PeerRun("iceoryx2", "reserve"), PeerRun("kickmsg", "reserve")),
        targets=(Target(limit=45),),
        note="the sender writes only the payload's number, the receiver reads every line",
    ),
)  # fmt: skip

ROWS: tuple[Row, ...] = _STREAMS + _TRIPS + _IDLE + _LARGE
