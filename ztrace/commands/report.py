# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace report``: what recordings say, for a meeting or a mail."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ztrace.api import report as make_report
from ztrace.console import console, progress
from ztrace.options import backends_option
from ztrace.outputs import OUTPUT, Command
from ztrace.replay.report import FORMATS, Thresholds, labels
from ztrace.replay.sweep import is_results
from ztrace.streams import say, show
from ztrace.traces.writer import AtomicFile
from ztrace.units import share

SUFFIXES = {".html": "html", ".txt": "text", ".md": "md", ".json": "json", ".csv": "csv"}


@click.command(
    "report", cls=Command, epilog="Example: ztrace report a.parquet b.parquet -o report.html"
)
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    help="Write to this file, else to stdout (but not HTML).",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="What to write; else by the output's name, text on stdout.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--label", "given", multiple=True, help="A recording's name in the report; one each, in order."
)
@backends_option(
    "Replay through these models, or all.  [default: zsmalloc, z3fold, zbud, what was recorded]"
)
@click.option(
    "--time/--no-time",
    "timing",
    help="Measure how long the models' own mallocs and frees take in the native core.",
)
@click.option(
    "--measured",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What ztrace measure kept, for the real allocators' times; may be given again.",
)
@click.option(
    "--measure",
    "measures",
    is_flag=True,
    help="Measure the allocators of the TRACES' kernels now, as ztrace measure does.",
)
@click.option(
    "--claims/--no-claims",
    default=None,
    help="Judge the claims made for ztree.  [default: if ztree was recorded, replayed or measured]",
)
@click.option(
    "--min-explained", type=share, metavar="N%", help="Fail below that share of calls explained."
)
@click.option(
    "--max-size-error",
    type=share,
    metavar="N%",
    help="Fail above that error of the model's pool size (99th percentile).",
)
@click.option("--max-lost", type=share, metavar="N%", help="Fail above that share of events lost.")
def command(
    traces: tuple[Path, ...],
    output: Path | None,
    form: str | None,
    force: bool,
    given: tuple[str, ...],
    backends: tuple[str, ...],
    timing: bool,
    measured: tuple[Path, ...],
    measures: bool,
    claims: bool | None,
    min_explained: float | None,
    max_size_error: float | None,
    max_lost: float | None,
) -> int:
    """Say what could be changed for the workloads of the TRACES, what they show, and what models
    make of them.

    The results of a ztrace sweep may take the TRACES' place. The HTML is one page that needs no
    network; perfetto is for ui.perfetto.dev. Exit status 1 if a threshold is not met.
    """
    form = form or _by_name(output)
    if form == "html" and output is None:
        raise click.UsageError("--format html is for a file: name it with -o")
    if given and len(given) != len(traces):
        raise click.UsageError(f"{len(traces)} traces and {len(given)} labels; give one each")
    names = list(given) or labels(traces)
    if len(set(names)) < len(names):
        raise click.UsageError("two recordings have the same --label; choose others")
    limits = Thresholds(min_explained, max_size_error, max_lost)
    sweep = any(map(is_results, traces))
    apart = given or backends or measures or limits != Thresholds()
    if sweep and (len(traces) > 1 or apart):
        raise click.UsageError("results of ztrace sweep are named alone, without such options")
    with ExitStack() as stack:
        file = None
        if output is not None:
            file = stack.enter_context(AtomicFile(output, force=force))
        made = make_report(
            traces,
            labels=names,
            backends=backends,
            timing=timing,
            claims=claims,
            measured=measured,
            measures=measures,
            thresholds=limits,
            progress=progress,
        )
        text = made.render(form)
        if file is not None:
            file.write(text.encode("utf-8", "backslashreplace"))
    if output is None:
        console()  # makes stdout take what its encoding cannot say
        show(text, nl=False)
    for one in made.failed:
        value = "not known" if one["value"] is None else f"{one['value']:.3%}"
        say(f"{one['recording']}: {one['check']} {one['limit']:.3%}: {value}")
    return 1 if made.failed else 0


def _by_name(output: Path | None) -> str:
    """What to write into a file of that name; UsageError for a name that does not tell."""
    if output is None:
        return "text"
    if output.suffix.lower() not in SUFFIXES:
        raise click.UsageError(
            f"{output}: its ending names no format; give {', '.join(SUFFIXES)}, or --format"
        )
    return SUFFIXES[output.suffix.lower()]
