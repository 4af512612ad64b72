"""`naru bench`: what each transport of this machine costs. Must not know: how it is measured."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

import naru
from naru.address import parse_pair
from naru.bench import plan
from naru.bench.files import check_target
from naru.cli.progress import WorkMeter
from naru.cli.streams import write_output
from naru.cli.values import CORES, SECONDS, SIZES, listed
from naru.settings import settings_for
from naru.transports import NAMES

if TYPE_CHECKING:
    from naru.bench.result import Report

__all__ = ["command", "contenders_for"]

DEFAULT_REPEATS = 3
DEFAULT_BUDGET_S = 100.0

# name: (module, its command there, what it measures)
OTHERS = {
    "connections": ("naru.cli.bench_engine", "connections", "What an idle connection costs."),
    "files": ("naru.cli.bench_files", "command", "Transfers, and looking through huge files."),
    "scaling": ("naru.cli.bench_engine", "scaling", "Waiting for one of many descriptors."),
}


class _Benches(click.Group):
    """Imports another benchmark when it is called for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(OTHERS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in OTHERS:
            return None
        module, attribute, _ = OTHERS[name]
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Other things to measure"):
            formatter.write_dl([(name, words) for name, (_, _, words) in sorted(OTHERS.items())])


@click.group(
    "bench",
    cls=_Benches,
    invoke_without_command=True,
    subcommand_metavar="[connections|files|scaling]",
    short_help="Measure every transport of this machine, side by side.",
)
@click.option(
    "--transport",
    "transports",
    multiple=True,
    metavar="NAME[,NAME]",
    callback=listed(),
    help=f"Of {', '.join(NAMES)}; with options such as shm?capacity_bytes=16MiB. Default: "
    f"{','.join(plan.SEED_TRANSPORTS)}.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="SIZE[,SIZE]",
    callback=SIZES,
    help="Bytes of a message, such as 64,1KiB,64KiB. Default: 1KiB.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    metavar="MODE[,MODE]",
    callback=listed(*plan.MODES, "all"),
    help=f"Of {', '.join(plan.MODES)}, all. Default: {','.join(plan.DEFAULT_MODES)}.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 10**12),
    metavar="N",
    help="Messages a run, exactly. Default: 1,000,000 (20,000 round trips), fewer of large "
    "messages, and as many as fit into --budget.",
)
@click.option(
    "--repeat",
    "repeats",
    type=click.IntRange(1, 1000),
    default=DEFAULT_REPEATS,
    show_default=True,
    metavar="N",
    help="Runs of each; the table shows their median.",
)
@click.option(
    "--budget",
    "budget_s",
    type=SECONDS,
    default=DEFAULT_BUDGET_S,
    show_default=True,
    metavar="SECONDS",
    help="How long all of it may take when no --count is given.",
)
@click.option(
    "--wait",
    type=click.Choice(["adaptive", "spin", "sleep"]),
    default="adaptive",
    show_default=True,
    help="How naru's ends wait.",
)
@click.option(
    "--cores", type=CORES, metavar="A,B", help="CPUs of sender and receiver. Default: two cores."
)
@click.option("--compare", is_flag=True, help="Also the same mechanisms in plain Python.")
@click.option("--json", "json_path", metavar="FILE", help="Everything as JSON; '-': to stdout.")
@click.option("--plot", "plot_path", metavar="FILE", help="A chart: .png or .svg.")
@click.option("--quiet", is_flag=True, help="No table and no progress, for --json and --plot.")
@click.pass_context
def command(
    context: click.Context,
    transports: list[str],
    sizes: list[int],
    modes: list[str],
    count: int | None,
    repeats: int,
    budget_s: float,
    wait: str,
    cores: tuple[int, int] | None,
    compare: bool,
    json_path: str | None,
    plot_path: str | None,
    quiet: bool,
) -> None:
    """Sends the same messages over every transport, between two processes on two cores.

    \b
        naru bench                              1 KiB, a million times, and what C took elsewhere
        naru bench --compare                    and what plain Python takes
        naru bench --mode all --size 64,1KiB,64KiB --plot here.png
        naru bench --transport shm,pipe --mode round-trip --wait spin
    """
    if context.invoked_subcommand is not None:
        return
    from naru.bench.runner import largest_messages, pick_cores, run_plan

    _check_files(json_path, plot_path)
    try:
        pinned, notes = pick_cores(cores)
    except ValueError as error:
        raise click.UsageError(f"--cores: {error}") from error
    wanted = plan.make_plan(
        contenders_for(transports or list(plan.SEED_TRANSPORTS), compare=compare),
        _modes(modes),
        sizes or [plan.SEED_SIZE_BYTES],
        count=count,
        repeats=repeats,
        budget_s=budget_s,
        largest_bytes=largest_messages(),
    )
    with WorkMeter(quiet) as meter:
        report = run_plan(
            wanted,
            cores=pinned,
            wait=wait,
            notes=notes,
            command=["naru", *sys.argv[1:]],
            progress=meter.show,
        )
    _deliver(report, json_path, plot_path, quiet)
    if not report.records or any(gap.failed for gap in report.gaps):
        raise click.exceptions.Exit(1)


def contenders_for(texts: Sequence[str], *, compare: bool) -> list[plan.Contender]:
    """naru's transports as asked, and plain Python's ways of the same mechanisms.

    Raises: UsageError for an unknown transport, BadAddressError for an option.
    """
    found = []
    for text in texts:
        name, _, options = text.partition("?")
        if name not in NAMES:
            raise click.UsageError(f"--transport: {name!r} is none of {', '.join(NAMES)}")
        if name in ("mq", "fifo"):  # queues have names; any will do to check the options
            settings_for(naru.parse(f"{name}:///bench" + ("?" + options if options else "")))
        else:
            settings_for(parse_pair(text))
        found.append(plan.Contender(text, name, options=options))
    own = {contender.transport for contender in found}
    if compare:
        found += [
            plan.Contender(name, transport, naive=True)
            for name, transport in plan.NAIVE.items()
            if transport in own
        ]
    return found


def _modes(modes: list[str]) -> list[str]:
    if "all" in modes:
        return list(plan.MODES)
    return [mode for mode in plan.MODES if mode in modes] or list(plan.DEFAULT_MODES)


def _check_files(json_path: str | None, plot_path: str | None) -> None:
    """What cannot be written is said before anything is measured."""
    if plot_path is not None:
        from naru.bench.plot import check_plot_path

        try:
            check_plot_path(plot_path)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    for path in (json_path, plot_path):
        if path is not None and path != "-":
            check_target(path)


def _deliver(report: Report, json_path: str | None, plot_path: str | None, quiet: bool) -> None:
    from naru.bench.result import to_json, write_report

    if json_path == "-":
        write_output(to_json(report))
    elif not quiet:
        from naru.bench.table import render, style_for

        write_output(render(report, style_for(sys.stdout)).encode())
    if json_path is not None and json_path != "-":
        write_report(report, json_path)
    if plot_path is not None:
        from naru.bench.plot import write_plot

        write_plot(report, plot_path)
