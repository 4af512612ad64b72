"""`naru choose`: which transport, and why. Must not know: how it is chosen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from naru.choosing.needs import WORDS, parse_rate, parse_sizes, parse_words
from naru.choosing.policy import Candidate, Choice, show_rate, show_us
from naru.cli.streams import write_output
from naru.cli.values import listed

if TYPE_CHECKING:
    from naru.choosing.prediction import Prediction

__all__ = ["command"]


def _parsed(parse: Any) -> Any:
    def read(context: click.Context, option: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), context, option) from error

    return read


@click.command("choose", short_help="Which transport is the best for these needs, and why.")
@click.option(
    "--size",
    "size_bytes",
    default="1KiB",
    show_default=True,
    metavar="SIZE[:WEIGHT][,...]",
    callback=_parsed(parse_sizes),
    help="Of a message; or several with weights, such as 64:9,64KiB:1.",
)
@click.option(
    "--rate",
    "rate_per_s",
    metavar="RATE",
    callback=_parsed(parse_rate),
    help="Messages a second, such as 20000/s, 20k/s, 30/min. Default: as many as go.",
)
@click.option("--batch", is_flag=True, help="By the dozen: send_many and receive_many.")
@click.option(
    "--goal",
    type=click.Choice(["latency", "throughput"]),
    default="latency",
    show_default=True,
    help="The shortest round trip, or the highest throughput.",
)
@click.option(
    "--needs",
    "words",
    multiple=True,
    metavar="WORD[,WORD]",
    callback=listed(*WORDS),
    help="; ".join(f"{name}: {word.meaning}" for name, word in WORDS.items()) + ".",
)
@click.option(
    "--wait",
    type=click.Choice(["adaptive", "spin", "sleep"]),
    default="adaptive",
    show_default=True,
    help="How the ends wait.",
)
@click.option(
    "--policy",
    type=click.Choice(["measured", "textbook"]),
    default="measured",
    show_default=True,
    help="By the profile, or by the fixed rule that is shown beside it anyway.",
)
@click.option("--profile", metavar="FILE", help="Another profile than this machine's.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(words: list[str], as_json: bool, **asked: Any) -> None:
    """Says which transport is the best for these needs on this machine, and why.

    It goes by what `naru probe` has measured; without that, by a profile that came with naru.

    \b
        naru choose --size 1KB --rate 20000/s
        naru choose --size 64:9,64KiB:1 --batch --goal throughput --needs related
        naru choose --needs fds,several-senders --json
    """
    from naru.choosing.front import choose

    needs: dict[str, Any] = {**asked, **parse_words(words)}
    choice = choose(**needs)
    if as_json:
        text = json.dumps(asdict(choice), indent=1) + "\n"
    else:
        text = "".join(line + "\n" for line in describe(choice))
    write_output(text.encode("utf-8", "backslashreplace"))


def describe(choice: Choice) -> Iterable[str]:
    """The lines for people."""
    best = choice.candidates[0]
    yield f"{choice.transport}    {choice.address_template}    ({choice.opened_by})"
    yield f"  {show_prediction(best.prediction)}"
    yield from (f"  {reason}" for reason in choice.reasons)
    others = choice.candidates[1:]
    if others:
        yield ""
        yield "would do, too"
        yield from _rows((one.transport, _words_of(one)) for one in others)
    if choice.rejected:
        yield ""
        yield "would not"
        yield from _rows((one.transport, one.reason) for one in choice.rejected)
    yield ""
    textbook = choice.textbook
    verdict = textbook.objection or show_prediction(textbook.prediction)
    agreed = "the same" if textbook.transport == choice.transport else verdict
    yield f"the textbook's rule: {textbook.transport} ({textbook.rule}): {agreed}"
    yield f"profile: {choice.profile_source}"
    yield from (f"note: {warning}" for warning in choice.warnings)


def _rows(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    return (f"  {name:5} {words}" for name, words in pairs)


def _words_of(candidate: Candidate) -> str:
    return f"{show_prediction(candidate.prediction)}    {candidate.address_template}"


def show_prediction(prediction: Prediction) -> str:
    """In a line."""
    p50, p99 = prediction.latency_us_p50, prediction.latency_us_p99
    parts = []
    if p50 is not None:
        parts.append(f"there and back {show_us(p50)}")
    if p99 is not None:
        parts.append(f"p99 {show_us(p99)}")
    if prediction.throughput_per_s is not None:
        parts.append(f"{show_rate(prediction.throughput_per_s)}/s one way")
    return ", ".join(parts) or "not measured"
