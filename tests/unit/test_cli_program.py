"""What is asked for wrongly: exit code 2 and one line that names it. (As processes: test_cli.)"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from naru.cli.program import COMMANDS, run


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """run() takes some over, as the whole of a program may."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "frobnicate"),
        (["--frobnicate"], "--frobnicate"),
        (["send"], "ADDRESS"),
        (["send", "shm://a", "--frobnicate"], "--frobnicate"),
        (["send", "shm://a", "--count", "-1"], "-1"),
        (["send", "shm://a", "--timeout", "nan"], "nan"),
        (["send", "shm://a", "--timeout", "-1"], "-1"),
        (["send", "shm://a", "--timeout", "soon"], "soon"),
        (["send", "shm://a", "--size", "0"], "'0' is no size"),
        (["send", "shm://a", "--size", "1", "--whole"], "exclude"),
        (["send", "shm://a", "--priority", "1"], "mq"),
        (["receive", "shm://a", "--whole", "--count", "2"], "--whole"),
        (["receive", "a", "b"], "b"),
        (["receive", "smh://a"], "'smh' is not a transport"),
        (["receive", "shm://a?wiat=spin"], "did you mean wait?"),
        (["receive", "x\ny\nshm://a"], "control character"),
        (["echo", "tcp://127.0.0.1"], "the port is missing"),
        (["echo", ""], "it is empty"),
        (["receive", "x" * 100_000], "100000 characters"),
        (["receive", "unix:///" + "x" * 200], "bytes"),
        (["receive", "unix://\udcff"], "relative"),
        (["bench", "--transport", "carrier-pigeon"], "carrier-pigeon"),
        (["bench", "--transport", ""], "''"),
        (["bench", "--transport", "shm?x=1"], "has no option 'x'"),
        (["bench", "--transport", "mq?depth=none"], "depth='none' must be"),
        (["bench", "--mode", "sideways"], "sideways"),
        (["bench", "--size", "1KiB,0"], "'0' is no size"),
        (["bench", "--cores", "one"], "one"),
        (["bench", "--cores", "0,4095"], "4095"),
        (["bench", "--plot", "chart.gif"], ".png and .svg"),
        (["bench", "--count", "0"], "0"),
        (["bench", "--repeat", "0"], "0"),
        (["bench", "--budget", "nan"], "nan"),
        (["transports", "--markdwon"], "--markdwon"),
    ],
)
def test_wrong_words(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("naru: ")
    assert errors.count("\n") == 1
    assert words in errors


def test_no_command_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert "Commands:" in errors


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    out, errors = capsys.readouterr()
    assert f"Usage: naru {command}" in out
    assert errors == ""


@pytest.mark.parametrize("option", ["--plot", "--json"])
def test_a_file_that_cannot_be_written_is_told_before(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", option, "/missing/chart.svg"]) == 1
    assert capsys.readouterr().err == "naru: /missing: No such file or directory\n"
