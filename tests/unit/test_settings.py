"""Options: each one's range, its text when refused, and the table that the docs come from."""

from __future__ import annotations

import dataclasses
import mmap
import pickle
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from naru.address import TRANSPORTS, Address, parse, parse_pair
from naru.errors import BadAddressError
from naru.settings import (
    MqSettings,
    Settings,
    ShmSettings,
    TcpSettings,
    UnixSettings,
    options_table,
    settings_for,
)

PLACES = {
    "pipe": "pipe:",
    "fifo": "fifo:///a",
    "unix": "unix:///a",
    "shm": "shm://a",
    "mq": "mq:///a",
    "tcp": "tcp://h:1",
    "udp": "udp://h:1",
    "auto": "auto://a",
}

ACCEPTED: list[tuple[str, str, str, Any]] = [
    ("shm", "wait", "spin", "spin"),
    ("mq", "wait", "sleep", "sleep"),
    ("tcp", "max_message_bytes", "1", 1),
    ("tcp", "max_message_bytes", "4294967280", 4294967280),
    ("tcp", "max_message_bytes", "1MB", 1_000_000),
    ("tcp", "max_message_bytes", "1MiB", 1 << 20),
    ("tcp", "max_message_bytes", "64KiB", 65536),
    ("tcp", "max_message_bytes", "64kB", 64000),
    ("tcp", "max_message_bytes", "64B", 64),
    ("tcp", "max_message_bytes", "2GiB", 2 << 30),
    ("unix", "framing", "lines", "lines"),
    ("udp", "framing", "raw", "raw"),
    ("tcp", "handshake_timeout_s", "0.5", 0.5),
    ("tcp", "linger_s", "0", 0.0),
    ("shm", "capacity_bytes", "4096", mmap.PAGESIZE),
    ("shm", "capacity_bytes", "64GiB", 2**36),
    ("pipe", "capacity_bytes", "4096", 4096),
    ("fifo", "capacity_bytes", "8192", 8192),
    ("shm", "mode", "0660", 0o660),
    ("shm", "mode", "600", 0o600),
    ("unix", "allow_uids", "*", "*"),
    ("unix", "allow_uids", "1001,0,1001", (0, 1001)),
    ("unix", "backlog", "1", 1),
    ("unix", "send_buffer_bytes", "4MiB", 4 << 20),
    ("unix", "datagram", "0", False),
    ("tcp", "heartbeat_s", "0", 0.0),
    ("tcp", "heartbeat_s", "0.1", 0.1),
    ("udp", "heartbeat_s", "3600", 3600.0),
    ("tcp", "keepalive_s", "0", 0),
    ("tcp", "nodelay", "0", False),
    ("tcp", "coalesce", "off", "off"),
    ("mq", "depth", "10", 10),
    ("mq", "message_bytes", "8KiB", 8192),
]

REFUSED: list[tuple[str, str, str, str]] = [
    ("shm", "wait", "poll", "one of adaptive, spin, sleep"),
    ("shm", "wait", "Spin", "one of"),
    ("tcp", "max_message_bytes", "0", "bytes from 1 to 4294967280"),
    ("tcp", "max_message_bytes", "4294967281", "bytes from"),
    ("tcp", "max_message_bytes", "4GiB", "bytes from"),
    ("tcp", "max_message_bytes", "-1", "bytes from"),
    ("tcp", "max_message_bytes", "1.5MiB", "bytes from"),
    ("tcp", "max_message_bytes", "1 MiB", "bytes from"),
    ("tcp", "max_message_bytes", "1M", "bytes from"),
    ("tcp", "max_message_bytes", "1e6", "bytes from"),
    ("tcp", "max_message_bytes", "٦٤", "bytes from"),
    ("tcp", "max_message_bytes", "9" * 2000, "bytes from"),
    ("udp", "framing", "lines", "one of naru, raw"),
    ("tcp", "handshake_timeout_s", "0", "seconds from"),
    ("tcp", "linger_s", "nan", "seconds from"),
    ("tcp", "linger_s", "inf", "seconds from"),
    ("tcp", "linger_s", "1e3", "seconds from"),
    ("tcp", "linger_s", "2s", "seconds from"),
    ("shm", "capacity_bytes", "4095", "bytes from 4096"),
    ("shm", "capacity_bytes", "68719476737", "bytes from"),
    ("pipe", "capacity_bytes", "2GiB", "bytes from"),
    ("shm", "mode", "0888", "octal"),
    ("shm", "mode", "4755", "octal"),
    ("shm", "mode", "0o600", "octal"),
    ("shm", "mode", "66", "octal"),
    ("unix", "allow_uids", "me", "user ids"),
    ("unix", "allow_uids", "1,,2", "user ids"),
    ("unix", "allow_uids", "-1", "user ids"),
    ("unix", "allow_uids", "4294967295", "user ids"),
    ("unix", "allow_uids", "1,*", "user ids"),
    ("unix", "backlog", "0", "connections from 1"),
    ("unix", "datagram", "yes", "0 or 1"),
    ("tcp", "heartbeat_s", "0.05", "(0: off)"),
    ("tcp", "heartbeat_s", "3601", "seconds from 0.1 to 3600"),
    ("tcp", "keepalive_s", "1.5", "whole number of seconds"),
    ("tcp", "nodelay", "2", "0 or 1"),
    ("tcp", "coalesce", "on", "one of auto, off"),
    ("mq", "depth", "0", "messages from 1"),
    ("mq", "message_bytes", "17MiB", "bytes from"),
]


def read(transport: str, /, **options: str) -> Settings:
    place = parse(PLACES[transport])
    return settings_for(dataclasses.replace(place, options=options))


@pytest.mark.parametrize(("transport", "name", "text", "value"), ACCEPTED)
def test_accepted(transport: str, name: str, text: str, value: Any) -> None:
    read_value = getattr(read(transport, **{name: text}), name)
    assert read_value == value
    assert type(read_value) is type(value)


@pytest.mark.parametrize(("transport", "name", "text", "expects"), REFUSED)
def test_refused_with_what_is_expected(transport: str, name: str, text: str, expects: str) -> None:
    with pytest.raises(BadAddressError) as caught:
        read(transport, **{name: text})
    message = str(caught.value)
    assert f"option {name}=" in message
    assert expects in message
    assert len(message) < 400


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unknown_option_lists_the_known_ones(transport: str) -> None:
    with pytest.raises(BadAddressError) as caught:
        read(transport, max_mesage_bytes="1")
    assert "did you mean max_message_bytes?" in str(caught.value)
    for name, _, _ in options_table(transport):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("transport", "name"),
    [
        ("pipe", "mode"),
        ("mq", "framing"),
        ("shm", "framing"),
        ("tcp", "allow_uids"),
        ("fifo", "backlog"),
        ("udp", "nodelay"),
        ("mq", "capacity_bytes"),
        ("shm", "transport"),
        ("shm", "from_address"),
    ],
)
def test_an_option_of_another_transport_is_unknown(transport: str, name: str) -> None:
    with pytest.raises(BadAddressError, match=f"{transport} has no option '{name}'"):
        read(transport, **{name: "1"})


def test_defaults() -> None:
    shm = ShmSettings.from_address(parse("shm://a"))
    assert (shm.wait, shm.max_message_bytes, shm.capacity_bytes) == ("adaptive", 2**30, 2**20)
    assert (shm.mode, shm.allow_uids, shm.backlog) == (0o600, (), 128)
    assert (shm.handshake_timeout_s, shm.linger_s) == (2.0, 1.0)
    tcp = TcpSettings.from_address(parse("tcp://h:1"))
    assert (tcp.heartbeat_s, tcp.keepalive_s, tcp.nodelay, tcp.coalesce) == (0.0, 60, True, "auto")
    queue = MqSettings.from_address(parse("mq:///a"))
    assert (queue.depth, queue.message_bytes) == (None, None)
    assert settings_for(parse_pair("shm")) == shm


@run_with(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(4096, 2**36))
def test_shm_capacity_is_whole_pages_and_never_less(capacity_bytes: int) -> None:
    place = Address("shm", name="a", options={"capacity_bytes": str(capacity_bytes)})
    got = ShmSettings.from_address(place).capacity_bytes
    assert got % mmap.PAGESIZE == 0
    assert capacity_bytes <= got < capacity_bytes + mmap.PAGESIZE


def test_a_datagram_socket_is_raw() -> None:
    place = parse("unix:///dev/log?datagram=1")
    assert UnixSettings.from_address(place).framing == "raw"
    assert UnixSettings.from_address(parse("unix:///a")).framing == "naru"
    for framing in ("naru", "lines"):
        with pytest.raises(BadAddressError, match="datagram=1 goes with framing=raw"):
            UnixSettings.from_address(parse(f"unix:///dev/log?datagram=1&framing={framing}"))


@pytest.mark.parametrize(
    ("option", "uid", "permitted"),
    [(None, 1000, True), (None, 0, False), ("7,8", 8, True), ("7,8", 9, False), ("*", 9, True)],
)
def test_who_may_connect(option: str | None, uid: int, permitted: bool) -> None:
    options = {"allow_uids": option} if option else {}
    settings = ShmSettings.from_address(Address("shm", name="a", options=options))
    assert settings.permits(uid, own_uid=1000) is permitted


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_table_is_complete_and_readable(transport: str) -> None:
    settings = read(transport)
    assert settings.transport == transport
    rows = options_table(transport)
    assert [name for name, _, _ in rows] == [field.name for field in dataclasses.fields(settings)]
    for name, default, doc in rows:
        assert default
        assert "Must be " in doc
        assert doc.endswith(".")
        text = default.split()[0]
        # A default that is a value, and not a description, is the default when it is written out.
        if default == text:
            assert getattr(read(transport, **{name: text}), name) == getattr(settings, name)


@run_with(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(TRANSPORTS).flatmap(
        lambda transport: st.tuples(
            st.just(transport),
            st.sampled_from([name for name, _, _ in options_table(transport)]),
        )
    ),
    st.one_of(st.text(), st.from_regex(r"[0-9]{1,12}([.,][0-9]{0,3})?[A-Za-z]{0,3}")),
)
def test_any_value_is_read_or_refused(option: tuple[str, str], text: str) -> None:
    transport, name = option
    refused = ""
    try:
        value = getattr(read(transport, **{name: text}), name)
    except BadAddressError as error:
        refused = str(error)
    assert refused.isprintable()
    assert refused or value is not None


def test_settings_are_frozen_and_travel() -> None:
    settings = read("unix", allow_uids="1,2")
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.wait = "spin"  # type: ignore[misc]
