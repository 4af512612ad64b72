"""eclipse-zenoh: two sessions over TCP, reliable, blocking when congested."""

from __future__ import annotations

import json
import socket
from typing import Any

from peers.contract import End, Job, Peer
from two_processes import SENDER, Meeting

QUEUE_MESSAGES = 1024


class _End(End):
    wraps = True  # recv gives a sample

    def __init__(self, session: Any, publisher: Any, subscriber: Any) -> None:
        self.send = publisher.put
        self.receive = subscriber.recv
        self._session = session

    def unwrap(self, received: Any) -> bytes:
        data: bytes = received.payload.to_bytes()
        return data

    def close(self) -> None:
        self._session.close()


class Zenoh(Peer):
    name = "zenoh"
    distribution = "eclipse-zenoh"
    transport = "tcp"

    def prepare(self, job: Job) -> Any:
        with socket.create_server(("127.0.0.1", 0)) as probe:  # a port that is free now
            return f"tcp/127.0.0.1:{probe.getsockname()[1]}"

    def bind(self, place: Any, job: Job, meeting: Meeting) -> Any:
        return self._session({"listen/endpoints": [place]})

    def open(self, place: Any, job: Job, side: int, bound: Any, meeting: Meeting) -> End:
        import zenoh

        session = bound or self._session({"connect/endpoints": [place]})
        mine, theirs = ("there", "back") if side == SENDER else ("back", "there")
        subscriber = session.declare_subscriber(
            f"naru/{theirs}", zenoh.handlers.FifoChannel(QUEUE_MESSAGES)
        )
        publisher = session.declare_publisher(
            f"naru/{mine}",
            congestion_control=zenoh.CongestionControl.BLOCK,
            reliability=zenoh.Reliability.RELIABLE,
        )
        while not publisher.matching_status.matching:  # the other side's subscriber is known
            pass
        meeting.meet()
        return _End(session, publisher, subscriber)

    def _session(self, settings: dict[str, list[str]]) -> Any:
        import zenoh

        zenoh.init_log_from_env_or("error")
        config = zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", "false")
        # It would leave names in /dev/shm behind, and TCP is what is measured.
        config.insert_json5("transport/shared_memory/enabled", "false")
        for key in ("listen/endpoints", "connect/endpoints"):
            config.insert_json5(key, json.dumps(settings.get(key, [])))
        return zenoh.open(config)


PEERS = (Zenoh(),)
