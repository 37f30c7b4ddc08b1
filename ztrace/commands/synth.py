# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace synth``: a synthetic trace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from ztrace.console import bytes_text, console, count_text, lost_lines, pairs, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.replay.figures.qualified import of_trace
from ztrace.traces.compressors import COMPRESSORS
from ztrace.traces.pages import Pages, compress_pages
from ztrace.traces.reader import TraceReader
from ztrace.traces.synth import (
    Lifetimes,
    Observed,
    Plan,
    Sizes,
    equal_lifetimes,
    exponential_lifetimes,
    fitted_lifetimes,
    fitted_sizes,
    gauss_sizes,
    observe,
    page_sizes,
    synthesize,
    uniform_lifetimes,
    uniform_sizes,
)
from ztrace.traces.timeorder import check_time_order

DEFAULT_SIZES = "gauss:1500,600"
PAGES = ("4096", "16384", "65536")
CHURNS = {
    "exponential": exponential_lifetimes,
    "fifo": equal_lifetimes,
    "uniform": uniform_lifetimes,
}


class Count(click.ParamType[int]):
    """A whole number from 1: ``10000000``, ``10_000_000`` or ``1e7``."""

    name = "count"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 1 <= number <= 1e12 or number != int(number):
            self.fail(f"{value!r} is no whole number from 1; write for instance 1e6", param, ctx)
        return int(number)


@click.command(
    "synth",
    cls=Command,
    epilog="Example: ztrace synth --events 1e7 --live 1e6 -o synthetic.parquet",
)
@click.option("--events", type=Count(), required=True, help="Calls to write: mallocs and frees.")
@click.option("--live", type=Count(), default=10000, show_default=True, help="Objects kept alive.")
@click.option(
    "--sizes",
    metavar="fit:TRACE|uniform:LOW,HIGH|gauss:MEAN,DEVIATION",
    help=f"Sizes in bytes.  [default: {DEFAULT_SIZES}]",
)
@click.option(
    "--from-files",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Sizes to which pages of the files in DIR compress.",
)
@click.option(
    "--compressor",
    type=click.Choice(COMPRESSORS),
    default="lzo",
    show_default=True,
    help="What compresses them.",
)
@click.option(
    "--page-bytes",
    type=click.Choice(PAGES),
    default="4096",
    show_default=True,
    help="Size of a page; of fit:TRACE it is that trace's.",
)
@click.option(
    "--churn",
    default="exponential",
    show_default=True,
    metavar="fit:TRACE|exponential|uniform|fifo",
    help="How long objects live, in mallocs; the mean is --live.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    required=True,
    help="The trace to write.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def command(
    events: int,
    live: int,
    sizes: str | None,
    folder: Path | None,
    compressor: str,
    page_bytes: str,
    churn: str,
    seed: int,
    output: Path,
    force: bool,
) -> int:
    """Write a trace of an allocator that nobody ran.

    Memory does not depend on its length. Where a distribution is fitted to a trace, the
    Kolmogorov-Smirnov distance of the two is printed: 0 is the same, 1 is nothing in common.
    """
    if sizes is not None and folder is not None:
        raise click.UsageError("--sizes and --from-files exclude each other")
    observed: dict[str, Observed] = {}
    for text in filter(None, (sizes, churn)):
        kind, _, path = text.partition(":")
        if kind == "fit" and path not in observed:
            observed[path] = observe(Path(path))
    limits = _limits(observed, churn.removeprefix("fit:"))
    pages = None
    if folder is not None:
        pages = take_pages(folder, [compressor], int(page_bytes), seed)
        drawn = page_sizes(pages, folder.name)
    else:
        drawn = _sizes(sizes or DEFAULT_SIZES, observed, int(page_bytes))
    plan = Plan(events, live, drawn, _lifetimes(churn, observed), seed)
    sizes_of = None if sizes is None else observed.get(sizes.removeprefix("fit:"))
    lifetimes_of = observed.get(churn.removeprefix("fit:"))
    with progress(output.name, events) as advance:
        fit = synthesize(
            plan,
            output,
            force=force,
            sizes_of=sizes_of,
            lifetimes_of=lifetimes_of,
            advance=advance,
        )
    rows = [
        ("trace", str(output)),
        ("rows", f"{count_text(events)}, {bytes_text(output.stat().st_size)}"),
        ("live", f"about {count_text(live)} objects"),
        ("sizes", plan.sizes.text),
        ("churn", churn),
        ("seed", str(seed)),
    ]
    if pages is not None:
        rows.append(("pages", pages_text(pages)))
    for name, value in (("sizes", fit.sizes), ("lifetimes", fit.lifetimes)):
        if value is not None:
            rows.append((f"fit of {name}", f"Kolmogorov-Smirnov distance {value:.4f}"))
    console().print(pairs(rows))
    for line in limits:
        console().print(line, soft_wrap=True)
    return 0


def _limits(observed: Iterable[str], churn: str) -> list[str]:
    """What limits a fit to traces, a line each. TraceError for one whose lifetimes, as of the trace
    ``churn``, mean nothing because its rows are out of time order."""
    lines = []
    for path in observed:
        with TraceReader(path) as reader:
            if path == churn:
                check_time_order(reader, path)
            metadata = reader.metadata
        lost = lost_lines(metadata) if metadata.lost_events() != 0 else []
        lines += [f"{path}: {line.strip()}" for line in (*lost, *of_trace(metadata))]
    return lines


def take_pages(folder: Path, compressors: list[str], page_bytes: int, seed: int) -> Pages:
    """Compress a folder's pages, with a progress bar."""
    with progress(f"pages of {folder.name}", None) as advance:
        return compress_pages(
            folder, compressors, page_bytes=page_bytes, seed=seed, advance=advance
        )


def pages_text(pages: Pages) -> str:
    """What was compressed and what was left out, in one line."""
    counts = [
        (len(next(iter(pages.sizes.values()))), "compressed"),
        (pages.same_filled, "of one word"),
        (pages.incompressible, "that become no smaller"),
        (pages.skipped, "unreadable"),
    ]
    return ", ".join(f"{count_text(n)} {what}" for n, what in counts if n)


def _sizes(text: str, observed: dict[str, Observed], page_bytes: int) -> Sizes:
    kind, _, rest = text.partition(":")
    if kind == "fit":
        return fitted_sizes(observed[rest], rest)
    try:
        low, high = map(float, rest.split(","))
    except ValueError:
        low = high = float("nan")
    if kind == "uniform" and 1 <= low <= high:
        return uniform_sizes(int(low), int(high), page_bytes)
    if kind == "gauss" and abs(low) < 1e9 and 0 < high < 1e9:
        return gauss_sizes(low, high, page_bytes)
    raise click.BadParameter(
        f"{text!r} is not fit:TRACE, uniform:LOW,HIGH or gauss:MEAN,DEVIATION", param_hint="--sizes"
    )


def _lifetimes(text: str, observed: dict[str, Observed]) -> Lifetimes:
    kind, _, rest = text.partition(":")
    if kind == "fit":
        return fitted_lifetimes(observed[rest], rest)
    if text not in CHURNS:
        raise click.BadParameter(
            f"{text!r} is not fit:TRACE, {', '.join(CHURNS)}", param_hint="--churn"
        )
    return CHURNS[text]()
