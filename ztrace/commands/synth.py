# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace synth``: a synthetic trace."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace import units
from ztrace.console import console, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.present.synthesized import show_synthesized
from ztrace.synthetic import DEFAULT_SIZES, drawn
from ztrace.traces.compressors import COMPRESSORS
from ztrace.traces.synth import synthesize

PAGES = ("4096", "16384", "65536")


@click.command(
    "synth",
    cls=Command,
    epilog="Example: ztrace synth --events 1e7 --live 1e6 -o synthetic.parquet",
)
@click.option(
    "--events", type=units.whole, required=True, help="Calls to write: mallocs and frees."
)
@click.option(
    "--live", type=units.whole, default=10000, show_default=True, help="Objects kept alive."
)
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
    asked = drawn(events, live, sizes, folder, compressor, int(page_bytes), churn, seed)
    with progress(output.name, events) as advance:
        fit = synthesize(
            asked.plan,
            output,
            force=force,
            sizes_of=asked.sizes_of,
            lifetimes_of=asked.lifetimes_of,
            advance=advance,
        )
    show_synthesized(console(), output, asked, churn, fit)
    return 0
