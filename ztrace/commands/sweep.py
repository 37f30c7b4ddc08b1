# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace sweep``: many traces through many models, with many parameters."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace import options
from ztrace.console import console, progress
from ztrace.outputs import OUTPUT, Command, refuse_same_file
from ztrace.present.swept import show_swept
from ztrace.replay.sweep import is_url, sweep, traces_of
from ztrace.streams import say


@click.command(
    "sweep",
    cls=Command,
    epilog="Example: ztrace sweep traces/*.parquet --backend all --param scale=0.8,1,1.2 "
    "-o results.parquet",
)
@click.argument("traces", nargs=-1, required=True, type=options.TRACE_OR_URL)
@options.backends_option("Give several, or all.", required=True)
@click.option(
    "--param",
    "parameters",
    multiple=True,
    type=options.values,
    metavar="NAME=V,V…",
    help="Values of scale (times every compressed size), of limit, accept or rules (as of ztrace "
    "replay), or of an item of the backends.",
)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The results (Parquet).")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--workers", type=click.IntRange(1), help="Processes here; else one a core.")
@click.option(
    "--scheduler", metavar="tcp://HOST:PORT", help="A Dask scheduler whose workers do the runs."
)
def command(
    traces: tuple[str, ...],
    backends: tuple[str, ...],
    parameters: tuple[tuple[str, list[str]], ...],
    output: Path,
    force: bool,
    workers: int | None,
    scheduler: str | None,
) -> int:
    """Replay each of the TRACES through each model with each parameter; one row of figures each.

    TRACES are files or fsspec URLs (s3://…). Finished runs are kept in OUTPUT.runs until all
    are: the same command goes on where it was interrupted. A run that fails does not stop the
    others; exit status 1 says that there was one.
    """
    if scheduler is not None and workers is not None:
        raise click.UsageError("--workers are of this machine: leave it out with --scheduler")
    if len({name for name, _ in parameters}) < len(parameters):
        raise click.UsageError("--param: the same name twice; list all its values in one")
    kept = traces_of(traces, output, say)
    for trace in kept:
        if not is_url(trace):
            refuse_same_file(output, [Path(trace)])
    swept = sweep(
        kept,
        backends,
        dict(parameters),
        output,
        force=force,
        workers=workers,
        scheduler=scheduler,
        progress=progress,
        tell=say,
    )
    show_swept(console(), output, swept)
    return 1 if swept.failed else 0
