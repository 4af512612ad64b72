"""The address parser: what it takes, what it refuses, and that it touches nothing."""

from __future__ import annotations

import copy
import pickle
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from naru.address import EXAMPLES, TRANSPORTS, Address, parse, parse_pair, shorten
from naru.errors import BadAddressError

GOOD: list[tuple[str, Address]] = [
    ("pipe:", Address("pipe")),
    ("fifo:///run/jobs.fifo", Address("fifo", path="/run/jobs.fifo")),
    ("unix:///run/jobs.sock", Address("unix", path="/run/jobs.sock")),
    ("unix:///" + "a" * 106, Address("unix", path="/" + "a" * 106)),
    ("unix:@jobs", Address("unix", name="jobs", abstract=True)),
    ("unix:@a/b c", Address("unix", name="a/b c", abstract=True)),
    ("unix:@" + "a" * 107, Address("unix", name="a" * 107, abstract=True)),
    ("shm://jobs", Address("shm", name="jobs")),
    ("shm://A.b_c-9", Address("shm", name="A.b_c-9")),
    ("shm://" + "a" * 100, Address("shm", name="a" * 100)),
    ("shm:///run/jobs", Address("shm", path="/run/jobs")),
    ("mq:///jobs", Address("mq", name="/jobs")),
    ("mq:///" + "a" * 254, Address("mq", name="/" + "a" * 254)),
    ("mq:///.hidden", Address("mq", name="/.hidden")),
    ("tcp://127.0.0.1:7000", Address("tcp", host="127.0.0.1", port=7000)),
    ("tcp://localhost:0", Address("tcp", host="localhost", port=0)),
    ("tcp://[::1]:65535", Address("tcp", host="::1", port=65535)),
    ("udp://my-host.example:9", Address("udp", host="my-host.example", port=9)),
    ("udp://[fe80::1%25eth0]:9", Address("udp", host="fe80::1%eth0", port=9)),
    ("unix:@a?mode=0660&wait=spin", Address("unix", name="a", abstract=True,
                                            options={"wait": "spin", "mode": "0660"})),
    ("shm://a?allow_uids=*", Address("shm", name="a", options={"allow_uids": "*"})),
    ("fifo:///a%25b%3Fc%23d", Address("fifo", path="/a%b?c#d")),
    ("fifo:///a%FFb", Address("fifo", path="/a\udcffb")),
    ("fifo:///나루/배", Address("fifo", path="/나루/배")),
]  # fmt: skip

OTHER_SPELLINGS: list[tuple[str, str]] = [
    ("unix:////run//./jobs.sock", "unix:///run/jobs.sock"),
    ("fifo:///a b", "fifo:///a%20b"),
    ("fifo:///%61", "fifo:///a"),
    ("fifo:///%eb%82%98", "fifo:///나"),
    ("tcp://LocalHost:1", "tcp://localhost:1"),
    ("tcp://[0:0:0:0:0:0:0:1]:1", "tcp://[::1]:1"),
    ("shm://a?wait=spin&linger_s=2", "shm://a?linger_s=2&wait=spin"),
]

BAD: list[tuple[str, str]] = [
    ("", "empty"),
    ("jobs", "no transport"),
    ("/run/jobs.sock", "no transport"),
    (":", "not a transport"),
    ("http://127.0.0.1:80", "known: pipe, fifo, unix, shm, mq, tcp, udp"),
    ("UNIX:///a", "not a transport"),
    ("dbus://a", "not a transport"),
    *((name, "alone names no place") for name in TRANSPORTS),
    ("fifo:", "'//' is missing"),
    ("unix:", "'//' is missing"),
    ("shm:", "'//' is missing"),
    ("mq:", "'//' is missing"),
    ("tcp:", "'//' is missing"),
    ("udp:", "'//' is missing"),
    ("unix:/run/a", "'//' is missing"),
    ("pipe://a", "a pipe has no name"),
    ("pipe:/", "a pipe has no name"),
    ("unix://", "relative"),
    ("unix://run/a", "relative"),
    ("fifo://run/a", "relative"),
    ("fifo://./a", "relative"),
    ("unix:///", "directory"),
    ("unix:///run/", "directory"),
    ("unix:///run/.", "directory"),
    ("unix:///run/../etc", "'..'"),
    ("unix:///run/%2e%2E/etc", "'..'"),
    ("fifo:///a/..", "'..'"),
    ("unix:///" + "a" * 107, "108 bytes, at most 107"),
    ("unix:///" + "나" * 36, "109 bytes, at most 107"),
    ("shm:///" + "a" * 107, "108 bytes, at most 107"),
    ("fifo:///" + "a" * 256, "255 bytes"),
    ("fifo:///" + "/".join(["나" * 80] * 20), "at most 4095"),
    ("unix:@", "this one 0"),
    ("unix:@" + "a" * 108, "this one 108"),
    ("unix://@a", "relative"),
    ("unix:///a%00b", "control character"),
    ("unix:@%00a", "control character"),
    ("unix:///a%0A", "control character"),
    ("unix:///a\x00b", "control character"),
    ("unix:///a\nb", "control character"),
    ("unix:///a\x85b", "control character"),
    ("unix:///a%C2%85b", "control character"),
    ("unix:///a%", "two hexadecimal digits"),
    ("unix:///a%2", "two hexadecimal digits"),
    ("unix:///a%zz", "two hexadecimal digits"),
    ("unix:///a\ud800", "not valid Unicode"),
    ("unix:///a ", "white space"),
    (" unix:///a", "white space"),
    ("unix:///a\n", "white space"),
    ("unix:///a\u3000", "white space"),
    ("unix:///a#b", "fragment"),
    ("unix:///" + "a" * 4096, "4104 characters, at most 4096"),
    ("unix:///" + "a" * 2**20, "at most 4096"),
    ("fifo:///" + "/".join([" " * 200 + "a"] * 12), "once percent-encoded"),
    ("shm://", "a shm name"),
    ("shm://.hidden", "a shm name"),
    ("shm://a/b", "a shm name"),
    ("shm://a b", "a shm name"),
    ("shm://나루", "a shm name"),
    ("shm://" + "a" * 101, "a shm name"),
    ("shm://a%FF", "not valid Unicode"),
    ("mq://", "exactly one slash"),
    ("mq://jobs", "exactly one slash"),
    ("mq:///a/b", "exactly one slash"),
    ("mq:////a", "exactly one slash"),
    ("mq:///a%2Fb", "exactly one slash"),
    ("mq:///", "this one 0"),
    ("mq:///" + "a" * 255, "this one 255"),
    ("mq:///" + "a" * 256, "this one 256"),
    ("mq:///" + "나" * 85, "this one 255"),
    ("mq:///.", "cannot be called"),
    ("mq:///..", "cannot be called"),
    ("tcp://", "host is missing"),
    ("tcp://:80", "host is missing"),
    ("tcp://localhost", "port is missing"),
    ("tcp://localhost:", "port is missing"),
    ("tcp://[::1]", "port is missing"),
    ("tcp://[::1]80", "port is missing"),
    ("tcp://localhost:65536", "no port"),
    ("tcp://localhost:-1", "no port"),
    ("tcp://localhost:+1", "no port"),
    ("tcp://localhost:08", "no port"),
    ("tcp://localhost:00", "no port"),
    ("tcp://localhost:0x50", "no port"),
    ("tcp://localhost:8_0", "no port"),
    ("tcp://localhost: 80", "no port"),
    ("tcp://localhost:http", "no port"),
    ("tcp://localhost:٨٠", "no port"),
    ("tcp://localhost:\uff18\uff10", "no port"),
    ("tcp://localhost:80/", "a path after the port"),
    ("tcp://localhost:80/a", "a path after the port"),
    ("tcp://me:secret@localhost:80", "no users"),
    ("tcp://::1:80", "brackets"),
    ("tcp://[::1:80", "']' is missing"),
    ("tcp://[]:80", "no IPv6 number"),
    ("tcp://[127.0.0.1]:80", "no IPv6 number"),
    ("tcp://[::g]:80", "no IPv6 number"),
    ("tcp://[::1%25]:80", "no IPv6 number"),
    ("tcp://127。0。0。1:80", "no host"),
    ("tcp://127.0.0.1.:80", "no host"),
    ("tcp://a..b:80", "no host"),
    ("tcp://-a:80", "no host"),
    ("tcp://a%2eb:80", "no host"),
    ("tcp://*:80", "no host"),
    ("tcp://" + "a" * 64 + ":80", "no host"),
    ("tcp://" + ".".join(["a" * 50] * 6) + ":80", "no host"),
    ("tcp://나루.kr:80", "no host"),
    ("tcp://127.1:80", "no IPv4 number"),
    ("tcp://2130706433:80", "no IPv4 number"),
    ("tcp://0x7f.0.0.1:80", "no IPv4 number"),
    ("tcp://a.0x1:80", "no IPv4 number"),
    ("tcp://256.0.0.1:80", "no IPv4 number"),
    ("tcp://127.0.0.01:80", "no IPv4 number"),
    ("shm://a?", "not an option"),
    ("shm://a?wait", "not an option"),
    ("shm://a?wait=", "not an option"),
    ("shm://a?=spin", "not an option"),
    ("shm://a?wait=spin&", "not an option"),
    ("shm://a?Wait=spin", "not an option"),
    ("shm://a?w%61it=spin", "not an option"),
    ("shm://a?wait=spin&wait=spin", "option 'wait' twice"),
    ("shm://a?wait=%FF", "not valid Unicode"),
    ("shm://a?wait=%00", "control character"),
]

_names = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=100).filter(lambda n: n[0] != ".")
_free = st.text(
    alphabet=st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"),
    min_size=1,
    max_size=20,
).filter(lambda n: n not in (".", ".."))
_paths = st.lists(_free, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
_hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.binary(min_size=16, max_size=16).map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw)),
    st.from_regex(r"[a-z]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True),
)
_options = st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), _free, max_size=3)
_ports = st.integers(0, 65535)
_short = _paths.filter(lambda path: len(path.encode()) <= 107)
_addresses = st.one_of(
    st.builds(Address, st.just("pipe"), options=_options),
    st.builds(Address, st.just("fifo"), path=_paths, options=_options),
    st.builds(Address, st.sampled_from(["unix", "shm"]), path=_short, options=_options),
    st.builds(Address, st.just("unix"), name=_free, abstract=st.just(True), options=_options),
    st.builds(Address, st.just("shm"), name=_names, options=_options),
    st.builds(Address, st.just("mq"), name=_free.map(lambda n: "/" + n), options=_options),
    st.builds(Address, st.sampled_from(["tcp", "udp"]), host=_hosts, port=_ports, options=_options),
)
# Text that comes near to an address reaches more of the parser than any text does.
_pieces = st.sampled_from([
    *TRANSPORTS, ":", "/", "//", "///", "@", "?", "&", "=", "#", "%", "%00", "%2e", "[", "]", "::1",
    "..", ".", "a", "나", "0", "65536", "08", "wait", "spin", " ", "\n", "\ud800", "\udcff",
])  # fmt: skip
_texts = st.one_of(
    st.text(st.characters()),
    st.lists(_pieces, max_size=12).map("".join),
    st.tuples(st.sampled_from(TRANSPORTS), st.text(st.characters())).map(":///".join),
)

_watched: list[str] | None = None


def _watch(event: str, _: tuple[Any, ...]) -> None:
    if _watched is not None and event.split(".")[0] in ("open", "os", "socket", "subprocess"):
        _watched.append(event)


sys.addaudithook(_watch)  # cannot be taken back; does nothing outside of touching_nothing()


@contextmanager
def touching_nothing() -> Iterator[None]:
    """Fails when anything in it opens a file or a socket, or makes a name."""
    global _watched
    events = _watched = []
    try:
        yield
    finally:
        _watched = None
    assert events == []


@pytest.mark.parametrize(("text", "address"), GOOD)
def test_good_addresses(text: str, address: Address) -> None:
    with touching_nothing():
        assert parse(text) == address
    assert parse(str(address)) == address
    assert parse(address) is address


@pytest.mark.parametrize(("text", "canonical"), OTHER_SPELLINGS)
def test_one_place_has_one_spelling(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(text) == parse(canonical)
    assert hash(parse(text)) == hash(parse(canonical))


@pytest.mark.parametrize(("text", "wrong"), BAD, ids=lambda value: shorten(value, 40))
def test_bad_addresses_are_refused_with_a_reason_and_an_example(text: str, wrong: str) -> None:
    with touching_nothing(), pytest.raises(BadAddressError) as caught:
        parse(text)
    message = str(caught.value)
    assert wrong in message
    assert f'"{shorten(text)}"' in message
    assert message.isprintable()
    assert len(message) < 400
    shown = message.rpartition("write it like ")[2]
    for correct in shown.split(" or "):
        parse(correct)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_examples_are_addresses(transport: str) -> None:
    for text in EXAMPLES[transport].split(" or "):
        assert parse(text).transport == transport
        assert str(parse(text)) == text


@run_with(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_addresses)
def test_text_of_an_address_parses_to_the_same(address: Address) -> None:
    again = parse(str(address))
    assert again == address
    assert str(again) == str(address)
    assert str(address).isprintable()


@run_with(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_texts)
@example("unix:///a\udcc3\udca9")
def test_any_text_is_an_address_or_a_bad_address(text: str) -> None:
    for read in (parse, parse_pair):
        with touching_nothing():
            try:
                address = read(text)
            except BadAddressError as error:
                refused = str(error)
            else:
                refused = ""
        assert refused.isprintable()
        assert refused or read(str(address)) == address


@pytest.mark.parametrize("thing", [None, 7, b"unix:///a", ["unix:///a"]])
def test_what_is_no_text_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError):
        parse(thing)


@pytest.mark.parametrize("transport", ["shm", "unix", "pipe", "tcp", "udp"])
def test_pairs(transport: str) -> None:
    for text in (transport, f"{transport}:"):
        assert parse_pair(text) == Address(transport)
        assert str(parse_pair(text)) == f"{transport}:"
    with_options = parse_pair(f"{transport}?wait=spin")
    assert with_options == parse_pair(f"{transport}:?wait=spin")
    assert with_options.options == {"wait": "spin"}
    assert parse_pair(with_options) == with_options


@pytest.mark.parametrize(
    "text",
    ["", "mq", "fifo:", "mq:///a", "fifo:///a", "shm://a", "unix:@a", "tcp://h:1", "foo", "shm:?"],
)
def test_what_is_no_pair(text: str) -> None:
    with pytest.raises(BadAddressError, match="write it like"):
        parse_pair(text)


def test_addresses_travel_and_cannot_be_changed() -> None:
    address = parse("unix:@jobs?mode=0660")
    for same in (pickle.loads(pickle.dumps(address)), copy.deepcopy(address)):
        assert same == address
    with pytest.raises(TypeError):
        address.options["mode"] = "0777"  # type: ignore[index]
    with pytest.raises(AttributeError):
        address.name = "other"  # type: ignore[misc]


def test_display_is_short_and_printable() -> None:
    assert parse("shm://jobs?wait=spin").display == "shm://jobs"
    assert len(parse("fifo:///" + "/".join(["a" * 200] * 9)).display) == 80
    assert parse("fifo:///a%FFb").display.isprintable()
