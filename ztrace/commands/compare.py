# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace compare``: what changed between two recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ztrace.console import console, print_json, progress
from ztrace.outputs import Command
from ztrace.present.compared import show_changes
from ztrace.replay.errors import ReplayError
from ztrace.replay.play.backends import chosen, resolve
from ztrace.replay.report import default_backends, gather_one, labels, passes
from ztrace.replay.report.comparison import compare, compare_replays
from ztrace.replay.report.gather import Recording
from ztrace.traces.reader import TraceReader
from ztrace.units import share


@click.command(
    "compare", cls=Command, epilog="Example: ztrace compare before.parquet after.parquet"
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
@click.option("--label", "given", nargs=2, metavar="A B", help="Names of the two recordings.")
@click.option(
    "--replay",
    "backends",
    nargs=2,
    metavar="NAME NAME",
    help="Compare replays: A through one model, B, or A again, through another.",
)
@click.option(
    "--threshold",
    type=share,
    default="5%",
    show_default=True,
    metavar="N%",
    help="A change for the worse by more than this is a regression, if it is significant.",
)
@click.option(
    "--confidence",
    type=share,
    default="99%",
    show_default=True,
    metavar="N%",
    help="Confidence of the intervals; significant: the interval excludes no change.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    a: Path,
    b: Path | None,
    given: tuple[str, str] | None,
    backends: tuple[str, str] | None,
    threshold: float,
    confidence: float,
    as_json: bool,
) -> int:
    """Compare recording B with recording A: durations of calls, and density in the kernel and in
    the models. With --replay, compare two models instead.

    Exit status 1 if something became worse by more than the threshold, significantly.
    """
    if not 0 < confidence < 1:
        raise click.BadParameter("must lie between 0% and 100%", param_hint="--confidence")
    names = given or labels([a] if b is None else [a, b])
    if backends is not None:
        first = _gather(a, names[0], backends)
        second = first if b is None else _gather(b, names[-1], backends)
        # A bare name means the rules of each recording's own kernel.
        ours, theirs = resolve(backends[0], first.metadata), resolve(backends[1], second.metadata)
        found = compare_replays(first, second, (ours, theirs), threshold, confidence)
    elif b is not None:
        found = compare(_gather(a, names[0]), _gather(b, names[-1]), threshold, confidence)
    else:
        raise click.UsageError("give a second recording, or two models with --replay")
    if as_json:
        print_json(found)
    else:
        show_changes(console(), found)
    return 1 if found["regressions"] else 0


def _gather(path: Path, name: str, backends: Sequence[str] = ()) -> Recording:
    """Replay through ``backends``, or the models of the claims; of the former all must work."""
    with TraceReader(path) as reader:
        models = chosen(backends, reader.metadata) or default_backends(reader.metadata)
        with progress(path.name, passes(len(models)) * reader.num_rows) as advance:
            found = gather_one(reader, name, models, advance, timing=bool(backends))
    for backend, why in found.document["not_replayed"].items() if backends else ():
        raise ReplayError(f"{path}: {backend}: {why}")
    return found
