"""`naru probe`: measures this machine for `naru choose`. Must not know: how it is measured."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from naru.bench.files import check_target
from naru.cli.progress import WorkMeter
from naru.cli.streams import write_output
from naru.cli.values import CORES, SECONDS, SIZES, listed
from naru.transports import NAMES

if TYPE_CHECKING:
    from naru.choosing.profile import Profile

__all__ = ["command"]


@click.command("probe", short_help="Measure this machine, for naru choose.")
@click.option("--quick", is_flag=True, help="In ten seconds: fewer sizes, no repeats.")
@click.option("--show", is_flag=True, help="Measure nothing: show the profile that there is.")
@click.option("--json", "as_json", is_flag=True, help="The profile itself, instead of its tables.")
@click.option("--plot", "plot_path", metavar="FILE", help="A chart: .png or .svg.")
@click.option(
    "--file",
    "path",
    metavar="FILE",
    help="The profile's file. Default: naru/profile.json in $XDG_DATA_HOME or ~/.local/share.",
)
@click.option(
    "--transport",
    "transports",
    multiple=True,
    metavar="NAME[,NAME]",
    callback=listed(*NAMES),
    help=f"Of {', '.join(NAMES)}; only with --file. Default: all.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="SIZE[,SIZE]",
    callback=SIZES,
    help="Only with --file. Default: 64,1KiB,64KiB,1MiB,16MiB.",
)
@click.option(
    "--budget", "budget_s", type=SECONDS, metavar="SECONDS", help="Default: 40, --quick 8.5."
)
@click.option(
    "--cores", type=CORES, metavar="A,B", help="CPUs of sender and receiver. Default: two cores."
)
def command(
    quick: bool,
    show: bool,
    as_json: bool,
    plot_path: str | None,
    path: str | None,
    transports: list[str],
    sizes: list[int],
    budget_s: float | None,
    cores: tuple[int, int] | None,
) -> None:
    """Measures every transport of this machine and writes the profile for naru choose.

    Round trips and throughput, one by one and in batches, with ends that spin and ends that sleep;
    in less than a minute. An interrupted probe leaves the old profile as it is.

    \b
        naru probe --quick
        naru probe --show
        naru probe --show --plot machine.svg
    """
    if (transports or sizes) and path is None:
        raise click.UsageError(
            "--transport and --size need --file: the profile of a part would be taken for the whole"
        )
    _check_plot(plot_path)
    if show:
        profile, notes = _load(path)
    else:
        profile, notes = _measure(path, quick, transports, sizes, budget_s, cores)
    if plot_path is not None:
        from naru.bench.profile_plot import write_profile_plot

        write_profile_plot(profile, plot_path)
    _print(profile, as_json)
    for note in notes:
        click.echo(f"naru: {note}", err=True)


def _check_plot(plot_path: str | None) -> None:
    if plot_path is None:
        return
    from naru.bench.plot import check_plot_path

    try:
        check_plot_path(plot_path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    check_target(plot_path)


def _load(path: str | None) -> tuple[Profile, tuple[str, ...]]:
    """A file that is broken is an error here, unlike in naru choose: it is what is to be shown."""
    from naru.choosing.profile import load_profile, profile_path

    place = profile_path()
    return load_profile(path or (place if place.exists() else None))


def _measure(
    path: str | None,
    quick: bool,
    transports: list[str],
    sizes: list[int],
    budget_s: float | None,
    cores: tuple[int, int] | None,
) -> tuple[Profile, tuple[str, ...]]:
    from naru.bench.probe import check_place, probe, save_profile

    place = check_place(path)  # what cannot be written is said before anything is measured
    try:
        with WorkMeter(quiet=False) as meter:
            profile = probe(
                quick=quick, transports=transports or NAMES, sizes_bytes=sizes or None,
                budget_s=budget_s, cores=cores, progress=meter.show,
            )  # fmt: skip
    except ValueError as error:
        raise click.UsageError(f"--cores: {error}") from error
    save_profile(profile, place)
    return profile, (f"written: {place}",)


def _print(profile: Profile, as_json: bool) -> None:
    if as_json:
        from naru.choosing.profile import to_json

        write_output(to_json(profile))
        return
    from naru.bench.profile_table import render_profile
    from naru.bench.table import style_for

    write_output(render_profile(profile, style_for(sys.stdout)).encode())
