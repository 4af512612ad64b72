"""FAULTS 115, and what each command promises: `naru` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import NARU, ended, environment, naru, read_terminal, running, sent, terminal

from naru import serve
from naru.transports import NAMES, capabilities
from naru.version import __version__

pytestmark = pytest.mark.watchdog(seconds=60)

SEVERAL_SENDERS = ("shm", "unix", "abstract", "tcp", "udp", "fifo", "mq")
CONVERSATIONS = ("shm", "unix", "abstract", "tcp", "udp")


@pytest.fixture
def folder() -> Iterator[str]:
    """Short, because the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="nc-") as name:
        yield name


@pytest.fixture
def places(folder: str) -> dict[str, str]:
    """An address of each kind that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as sock:  # free a moment ago
        port = sock.getsockname()[1]
    return {
        "shm": "shm://cli",
        "unix": f"unix://{folder}/cli.sock",
        "abstract": f"unix:@naru-cli-{os.getpid()}",
        "tcp": f"tcp://127.0.0.1:{port}",
        "udp": f"udp://127.0.0.1:{port}",
        "fifo": f"fifo://{folder}/cli.fifo",
        "mq": f"mq:///naru-cli-{os.getpid()}",
    }


def assert_one_line(errors: bytes, *words: str) -> None:
    """The whole of standard error."""
    text = errors.decode()
    assert text.startswith("naru: "), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text, text
    for word in words:
        assert word in text


def first_line(process: subprocess.Popen[bytes], address: str) -> None:
    """Sends a line and sees it: the receiver is certainly at work."""
    sent(address, b"first\n")
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"


# ---- send and receive ----


@pytest.mark.parametrize("kind", SEVERAL_SENDERS)
def test_the_receiver_may_come_first(kind: str, places: dict[str, str]) -> None:
    with running("receive", "--count", "3", places[kind]) as receiver:
        sent(places[kind], b"one\n\nthree")
        assert ended(receiver) == (0, b"one\n\nthree\n", b"")


@pytest.mark.parametrize("kind", SEVERAL_SENDERS)
def test_the_sender_may_come_first(kind: str, places: dict[str, str]) -> None:
    with running("send", places[kind], stdin=subprocess.PIPE) as sender:
        assert sender.stdin is not None
        sender.stdin.write(b"one\n\nthree")
        sender.stdin.flush()
        with running("receive", "--count", "3", places[kind]) as receiver:
            code, _, errors = ended(sender)  # closes its input, too
            assert (code, errors.replace(waiting(places[kind]), b"")) == (0, b"")
            assert ended(receiver) == (0, b"one\n\nthree\n", b"")


def waiting(address: str) -> bytes:
    return f"naru: waiting for somebody at {address}\n".encode()


def test_who_waits_is_told(places: dict[str, str]) -> None:
    done = naru("send", "--timeout", "1.2", places["shm"], stdin=b"a")
    assert done.returncode == 1
    told, failed = done.stderr.splitlines(keepends=True)
    assert told == waiting(places["shm"])
    assert_one_line(failed, "nobody is there")


@pytest.mark.parametrize(
    ("arguments", "data", "messages"),
    [
        (["--size", "3"], b"abcdefgh", [b"abc", b"def", b"gh"]),
        (["--size", "2KiB"], b"x" * 5000, [b"x" * 2048, b"x" * 2048, b"x" * 904]),
        (["--whole"], b"a\nb\n\0\xff", [b"a\nb\n\0\xff"]),
        (["--whole"], b"", [b""]),
        (["--length"], b"\1\0\0\0\n\0\0\0\0\2\0\0\0\n\n", [b"\n", b"", b"\n\n"]),
        (["--lines"], b"a\r\nb", [b"a\r", b"b"]),
        (["--count", "2"], b"a\nb\nc\nd\n", [b"a", b"b"]),
    ],
)
def test_input_is_cut(
    arguments: list[str], data: bytes, messages: list[bytes], places: dict[str, str]
) -> None:
    with running("receive", "--json", "--count", str(len(messages)), places["unix"]) as receiver:
        sent(places["unix"], data, *arguments)
        code, out, _ = ended(receiver)
    assert code == 0
    import base64

    found = [json.loads(line) for line in out.splitlines()]
    came = [
        one["text"].encode() if "text" in one else base64.b64decode(one["base64"]) for one in found
    ]
    assert came == messages
    assert [one["size_bytes"] for one in found] == [len(message) for message in messages]
    assert [one["number"] for one in found] == list(range(len(messages)))


def test_raw_keeps_every_byte(places: dict[str, str]) -> None:
    data = os.urandom(300_000)
    with running("receive", "--raw", "--timeout", "2", places["shm"]) as receiver:
        sent(places["shm"], data, "--raw")
        assert ended(receiver) == (0, data, b"")


def test_lengths_relay_any_message(places: dict[str, str]) -> None:
    messages = b"".join(len(m).to_bytes(4, "little") + m for m in (b"", b"\n\n", b"\xff" * 70000))
    with running("receive", "--length", "--count", "3", places["tcp"]) as receiver:
        sent(places["tcp"], messages, "--length")
        assert ended(receiver)[:2] == (0, messages)


def test_whole_receives_one(places: dict[str, str]) -> None:
    with running("receive", "--whole", places["shm"]) as receiver:
        sent(places["shm"], b"all\nof\nit", "--whole")
        assert ended(receiver) == (0, b"all\nof\nit", b"")


def test_hex(places: dict[str, str]) -> None:
    with running("receive", "--hex", "--count", "1", places["unix"]) as receiver:
        sent(places["unix"], b"\x00\xff", "--whole")
        assert ended(receiver)[1] == b"00ff\n"


def test_priorities_of_mq(places: dict[str, str]) -> None:
    from naru._native.system import mq_open, mq_unlink

    name = places["mq"].removeprefix("mq://")
    os.close(mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, 5, 100))  # another program's queue
    try:
        for priority in ("1", "9", "5"):
            sent(places["mq"], f"of {priority}\n".encode(), "--priority", priority)
        done = naru("receive", "--json", "--count", "3", places["mq"])
    finally:
        mq_unlink(name)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [
        "of 9",
        "of 5",
        "of 1",
    ]
    assert [json.loads(line)["priority"] for line in done.stdout.splitlines()] == [9, 5, 1]


def test_several_senders_at_once(places: dict[str, str]) -> None:
    with running("receive", "--count", "300", places["tcp"]) as receiver:
        threads = [
            threading.Thread(
                target=sent, args=(places["tcp"], b"".join(b"%d:%d\n" % (n, i) for i in range(100)))
            )
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        code, out, errors = ended(receiver)
        for thread in threads:
            thread.join()
    assert (code, errors) == (0, b"")
    lines = out.splitlines()
    for n in range(3):
        own = [line for line in lines if line.startswith(b"%d:" % n)]
        assert own == [b"%d:%d" % (n, i) for i in range(100)]


def test_an_interactive_line_arrives_at_once(places: dict[str, str]) -> None:
    with (
        running("receive", "--count", "2", places["shm"]) as receiver,
        running("send", places["shm"], stdin=subprocess.PIPE) as sender,
    ):
        assert sender.stdin is not None
        assert receiver.stdout is not None
        for line in (b"one\n", b"two\n"):
            sender.stdin.write(line)
            sender.stdin.flush()
            assert receiver.stdout.readline() == line
        assert ended(sender) == (0, b"", b"")


def test_silence_is_an_end_or_a_failure(places: dict[str, str]) -> None:
    done = naru("receive", "--timeout", "0.1", places["shm"])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = naru("receive", "--timeout", "0.1", "--count", "1", places["shm"])
    assert done.returncode == 1
    assert_one_line(done.stderr, "timed out")


def test_a_fifo_goes_on_between_two_writers(places: dict[str, str]) -> None:
    address = places["fifo"] + "?framing=lines"
    with running("receive", "--count", "3", address) as receiver:
        first_line(receiver, address)
        sent(address, b"second\n")
        sent(address, b"third\n")
        assert ended(receiver) == (0, b"second\nthird\n", b"")


# ---- echo ----


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_echo_answers(kind: str, places: dict[str, str]) -> None:
    lines = b"".join(b"%d\n" % i for i in range(50))
    with running("echo", places[kind]) as echo:
        for _ in range(2):
            done = naru("send", "--answer", "--timeout", "20", places[kind], stdin=lines)
            assert (done.returncode, done.stdout, done.stderr) == (0, lines, b"")
        echo.send_signal(signal.SIGINT)
        assert ended(echo) == (130, b"", b"")


def test_echo_of_more_than_the_buffers_hold(places: dict[str, str]) -> None:
    data = os.urandom(3_000_000).hex().encode()
    with running("echo", places["unix"]) as echo:
        done = naru("send", "--answer", "--size", "100000", places["unix"], stdin=data)
        assert done.returncode == 0, done.stderr
        assert done.stdout.replace(b"\n", b"") == data
        echo.send_signal(signal.SIGTERM)
        assert ended(echo) == (143, b"", b"")


@pytest.mark.parametrize("address", ["mq:///cli", "fifo:///tmp/cli.fifo", "pipe:"])
def test_echo_needs_conversations(address: str) -> None:
    done = naru("echo", address)
    assert done.returncode == 1
    assert_one_line(done.stderr, "has no such shape; it has")


def test_a_port_that_was_chosen_is_told() -> None:
    with running("echo", "tcp://127.0.0.1:0") as echo:
        assert echo.stderr is not None
        words = echo.stderr.readline().decode().split()
        assert words[:3] == ["naru:", "echoing", "at"]
        assert naru("send", "--answer", words[3], stdin=b"hello").stdout == b"hello\n"
        echo.send_signal(signal.SIGINT)
        assert ended(echo)[0] == 130


def test_too_few_answers_are_a_failure(places: dict[str, str]) -> None:
    from naru import listen

    def answer_once() -> None:
        with listener, listener.accept(timeout_s=20) as channel:
            channel.send(channel.receive(timeout_s=20))

    listener = listen(places["shm"])
    thread = threading.Thread(target=answer_once)
    thread.start()
    done = naru("send", "--answer", places["shm"], stdin=b"a\nb\n")
    thread.join()
    assert (done.returncode, done.stdout) == (1, b"a\n")
    assert_one_line(done.stderr)


# ---- Ctrl-C, TERM, and who reads going away ----


@pytest.mark.parametrize("kind", ["shm", "unix", "fifo", "mq"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_ended_receiver_leaves_nothing(
    kind: str, number: int, code: int, places: dict[str, str], folder: str
) -> None:
    with running("receive", places[kind]) as receiver:
        first_line(receiver, places[kind])
        receiver.send_signal(number)
        assert ended(receiver) == (code, b"", b"")
    assert os.listdir(folder) == []
    with running("receive", "--count", "1", places[kind]) as again:
        sent(places[kind], b"again\n")
        assert ended(again) == (0, b"again\n", b"")


def test_ctrl_c_while_nobody_is_there(places: dict[str, str]) -> None:
    with running("send", places["shm"]) as sender:
        assert sender.stderr is not None
        assert sender.stderr.readline() == waiting(places["shm"])
        sender.send_signal(signal.SIGINT)
        assert ended(sender) == (130, b"", b"")


def test_ctrl_c_while_the_receiver_is_full(places: dict[str, str], zeros: int) -> None:
    from naru import receiver

    with (
        receiver(places["unix"]) as full,
        running("send", "--raw", places["unix"], stdin=zeros) as sender,
    ):
        full.receive(timeout_s=20)
        sender.send_signal(signal.SIGINT)
        assert ended(sender)[0] == 130


@pytest.fixture
def zeros() -> Iterator[int]:
    """An input without an end."""
    fd = os.open("/dev/zero", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_head_takes_one_line(places: dict[str, str]) -> None:
    """The rest of the senders' lines has nobody to go to; and none needs to come to notice it."""
    with running("receive", places["shm"]) as receiver:
        first_line(receiver, places["shm"])
        assert receiver.stdout is not None
        receiver.stdout.close()
        assert receiver.wait(timeout=20) == 141
        assert receiver.stderr is not None
        assert receiver.stderr.read() == b""


@pytest.mark.parametrize("command", ["transports", "transports --json", "--help", "bench --help"])
def test_a_pipe_that_is_closed_at_once(command: str) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    done = subprocess.run(
        [*NARU, *command.split()], stdout=write_fd, stderr=subprocess.PIPE, check=False, timeout=30,
        env=environment(),
    )  # fmt: skip
    os.close(write_fd)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", ["transports", "--help", "receive"])
def test_a_full_disk(command: str, places: dict[str, str]) -> None:
    arguments = ["receive", places["shm"]] if command == "receive" else [command]
    with open("/dev/full", "wb") as full, running(*arguments, stdout=full) as process:
        if command == "receive":
            sent(places["shm"], b"a\n")
        code, _, errors = ended(process)
    assert code == 1
    assert_one_line(errors, "No space left on device")


@pytest.mark.parametrize("stream", ["0<&-", ">&-", "2>&-"])
def test_a_stream_that_is_closed(stream: str, places: dict[str, str]) -> None:
    shell = f"exec {subprocess.list2cmdline(NARU)} $COMMAND {stream}"
    command = "send" if stream == "0<&-" else "receive --count 1 --timeout 0.1"
    env = environment(COMMAND=f"{command} {places['unix']}")
    with running("receive", places["unix"]) if command == "send" else running("--version") as other:
        done = subprocess.run(
            ["sh", "-c", shell], env=env, capture_output=True, check=False, timeout=30
        )
        other.terminate()
        ended(other)
    assert done.returncode == 1
    assert done.stdout == b""
    if stream != "2>&-":
        assert_one_line(done.stderr)


# ---- request ----


@contextlib.contextmanager
def answering(address: str) -> Iterator[None]:
    def handler(data: bytes) -> bytes:
        if data == b"bad":
            raise ValueError("two\nlines")
        return data.upper()

    with serve(address, handler) as server:
        server.start()
        yield


@pytest.mark.parametrize("kind", ["shm", "unix"])
def test_request_prints_the_reply(kind: str, places: dict[str, str]) -> None:
    with answering(places[kind]):
        done = naru("request", "--timeout", "10", places[kind], "what is it")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"WHAT IS IT\n", b"")
        data = b"from a pipe\n" * 10_000
        done = naru("request", "--raw", "--repeat", "2", places[kind], stdin=data)
        assert (done.returncode, done.stdout, done.stderr) == (0, data.upper() * 2, b"")


def test_a_request_that_fails_is_one_line(places: dict[str, str]) -> None:
    with answering(places["unix"]):
        done = naru("request", places["unix"], "bad")
        assert (done.returncode, done.stdout) == (1, b"")
        assert_one_line(done.stderr, "the handler raised ValueError: two lines")
    done = naru("request", "--timeout", "0.1", places["unix"], "nobody")
    assert (done.returncode, done.stdout) == (1, b"")
    assert_one_line(done.stderr, "nobody is there")
    done = naru("request", "udp://127.0.0.1:9", "x")
    assert done.returncode == 1
    assert_one_line(done.stderr, "udp loses messages")


# ---- names, limits, other people ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "frobnicate"),
        (["send"], "ADDRESS"),
        (["receive", "x" * 100_000], "100000 characters"),
        (["bench", "--transport", "carrier-pigeon"], "carrier-pigeon"),
    ],
)
def test_wrong_words(arguments: list[str], words: str) -> None:
    """More of them in tests/unit/test_cli_program.py."""
    done = naru(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert_one_line(done.stderr, words)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "no_SUCH.locale"])
def test_undecodable_and_foreign_names(locale: str, folder: str) -> None:
    env = environment(LC_ALL=locale, PYTHONUTF8=None, PYTHONIOENCODING=None)
    for name in (b"\xff\xfe.sock", "\N{HANGUL SYLLABLE NA}.sock".encode()):
        address = b"unix://" + os.fsencode(folder) + b"/" + name
        with running("receive", "--count", "1", os.fsdecode(address), env=env) as receiver:
            done = naru("send", address, stdin="\N{HANGUL SYLLABLE RU}\n".encode(), env=env)
            assert (done.returncode, done.stderr) == (0, b"")
            assert ended(receiver)[:2] == (0, "\N{HANGUL SYLLABLE RU}\n".encode())
    done = naru("receive", b"unix://\xff", env=env)
    assert done.returncode == 2
    assert_one_line(done.stderr)
    done = naru("send", "--timeout", "0", b"unix:///\xff/\xfe", env=env)
    assert done.returncode == 1
    assert_one_line(done.stderr)


def test_two_receivers_of_one_name(places: dict[str, str]) -> None:
    with running("receive", places["unix"]) as receiver:
        first_line(receiver, places["unix"])
        done = naru("receive", places["unix"])
        assert done.returncode == 1
        assert_one_line(done.stderr)
        receiver.send_signal(signal.SIGINT)
        assert ended(receiver)[0] == 130


def test_what_does_not_fit_is_refused(places: dict[str, str]) -> None:
    with running("receive", places["mq"]) as receiver:
        done = naru("send", "--whole", places["mq"], stdin=b"x" * 100_000)
        assert done.returncode == 1
        assert_one_line(done.stderr, "100000 bytes", "nothing was sent")
        receiver.send_signal(signal.SIGINT)
        ended(receiver)


def test_the_receiver_dies(places: dict[str, str], zeros: int) -> None:
    with (
        running("receive", "--raw", places["unix"]) as receiver,
        running("send", "--raw", places["unix"], stdin=zeros) as sender,
    ):
        assert receiver.stdout is not None
        receiver.stdout.read(100_000)
        receiver.kill()
        code, _, errors = ended(sender)
    assert code == 1
    assert_one_line(errors.replace(waiting(places["unix"]), b""), "the peer is gone")
    assert naru("receive", "--timeout", "0", places["unix"]).returncode == 0  # takes the name over


# ---- help, version, the capability table ----


def test_version_and_help() -> None:
    assert naru("--version").stdout == f"naru {__version__}\n".encode()
    text = naru("--help").stdout.decode()
    for name in ("bench", "echo", "receive", "send", "transports"):
        assert f"  {name} " in text
        assert naru(name, "--help").returncode == 0


def test_help_imports_no_command_and_nothing_heavy() -> None:
    program = (
        "import sys; from naru.cli.program import run; run(['--help']); "
        "found = [m for m in sys.modules if m.split('.')[0] in ('rich', 'matplotlib', 'msgspec', "
        "'numpy', 'multiprocessing') or m in ('naru.cli.bench', 'naru.cli.send')]; "
        "sys.exit(repr(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_capability_table() -> None:
    text = naru("transports").stdout.decode()
    assert all(len(line) <= 80 for line in text.splitlines())
    rows = json.loads(naru("transports", "--json").stdout)
    assert [row["transport"] for row in rows] == list(NAMES)
    for row, own in zip(rows, capabilities(), strict=True):
        assert row["order"] is own.order
        assert row["max_message_bytes"] == own.max_message_bytes()
        assert row["boundaries"] in ("kernel", "naru")
    markdown = naru("transports", "--markdown").stdout.decode().splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert [line.split("`")[1] for line in markdown[2:]] == list(NAMES)


def test_no_escape_codes_without_a_terminal() -> None:
    for arguments in (
        ["--help"],
        ["transports"],
        ["bench", "--count", "64", "--transport", "pipe"],
    ):
        done = naru(*arguments)
        assert done.returncode == 0
        assert b"\x1b" not in done.stdout + done.stderr


def test_a_listener_tells_its_place_on_a_terminal(places: dict[str, str]) -> None:
    with terminal() as (ours, theirs), running("receive", places["shm"], stderr=theirs) as receiver:
        told = read_terminal(ours, until=b"(Ctrl-C ends)")
        assert f"naru: receiving at {places['shm']}".encode() in told
        receiver.send_signal(signal.SIGINT)
        assert receiver.wait(timeout=20) == 130


def test_progress_of_a_long_input(places: dict[str, str], folder: str) -> None:
    """On a terminal, and only there, for what takes more than a second."""
    import naru as library

    file = Path(folder, "data")
    file.write_bytes(b"x" * 4_000_000)
    with (
        terminal() as (ours, theirs),
        library.receiver(places["unix"]) as receiver,
        file.open("rb") as data,
        running("send", "--size", "65536", places["unix"], stdin=data, stderr=theirs) as sender,
    ):
        assert b"\x1b[" not in read_terminal(ours)
        receiver.receive(timeout_s=20)
        first_s = threading.Event()
        first_s.wait(1.3)  # the moment after which the bar appears
        received = 65536
        while received < 4_000_000:
            received += len(receiver.receive(timeout_s=20))
        assert sender.wait(timeout=20) == 0
        assert b"MB" in read_terminal(ours)
