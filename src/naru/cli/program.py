"""The group of commands, and the one place where an error becomes a line and an exit code.

    0    done
    1    it could not be done
    2    it was asked for wrongly: an option, an address
    130  Ctrl-C (128 + SIGINT); 143 SIGTERM, 129 SIGHUP: names are given up first
    141  whoever read the output has gone (128 + SIGPIPE), as `naru receive ... | head -1`

Must not know: what the commands do. Joins: a command is a click command named `command` in the
module that COMMANDS names.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from naru.errors import BadAddressError, NaruError
from naru.version import __version__

__all__ = ["COMMANDS", "module_of", "run"]

COMMANDS: Mapping[str, str] = {
    "bench": "Measure every transport of this machine, side by side.",
    "cache": "Keys and values that all processes of this machine share.",
    "choose": "Which transport is the best for these needs, and why.",
    "copy": "Bytes from a file or a socket to another, without copying them.",
    "count": "The lines of huge files, quickly.",
    "echo": "Listen, and send every message back.",
    "map-reduce": "A Python function over a huge file, in several processes.",
    "probe": "Measure this machine, for naru choose.",
    "proxy": "Bytes from one address to another, both ways.",
    "receive": "Messages to standard output.",
    "request": "Send a request, print the reply.",
    "send": "Standard input to messages.",
    "transports": "What each transport can, on this machine.",
}
"""Their one-line help, so that `naru --help` imports none of them."""


def module_of(name: str) -> str:
    """Where a command is."""
    return f"naru.cli.{name.replace('-', '_')}"


BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT


class _Commands(click.Group):
    """Imports a command when it is called for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(module_of(name)).command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="naru", message="%(prog)s %(version)s")
@click.pass_context
def _program(context: click.Context) -> None:
    """Messages between the processes of this machine, over every mechanism that Linux has.

    An ADDRESS is such as shm://jobs, unix:///run/jobs.sock, unix:@jobs, fifo:///run/jobs.fifo,
    mq:///jobs, tcp://127.0.0.1:7000, udp://127.0.0.1:7000; options follow as
    ?name=value&name=value.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def run(arguments: Sequence[str]) -> int:
    """Runs one command. Returns: the exit code; what went wrong is one line on standard error."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup(1) ignores SIGHUP: so it stays
            signal.signal(number, _leave)
    try:
        return _finish_output(_invoke(arguments))
    except KeyboardInterrupt:  # while the last of the output was written
        return INTERRUPTED


def _leave(number: int, frame: object) -> NoReturn:
    """As an exception, so that every `with` closes what it holds."""
    raise SystemExit(128 + number)


def _invoke(arguments: Sequence[str]) -> int:
    try:
        # Not _program.main(): it takes an EPIPE for a closed standard output, and exits silently.
        with _program.make_context("naru", list(arguments)) as context:
            _program.invoke(context)
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "naru"
        return _say(f"{error.format_message().rstrip('.')} ({path} --help tells more)", 2)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BadAddressError as error:
        return _say(str(error), 2)
    except NaruError as error:
        return _say(str(error), 1)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        return _say(_describe(error), 1)
    except MemoryError:
        return _say("no memory for a message of this size", 1)


def _describe(error: OSError) -> str:
    said = error.strerror or str(error) or type(error).__name__
    name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    return f"{name}{said}"


def _say(text: str, code: int) -> int:
    """One line, whatever is in the text; lone surrogates of undecodable names are escaped."""
    line = "naru: " + " ".join(text.split())
    if sys.stderr is not None:
        try:
            sys.stderr.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
            sys.stderr.flush()
        except OSError:
            return code  # nobody listens there; the code says it too
    return code


def _finish_output(code: int) -> int:
    """Flushes; after a failure the interpreter must not try again and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if error.errno == errno.EPIPE:
            return code or BROKEN_PIPE
        return code or _say(f"standard output: {_describe(error)}", 1)
    return code
