# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace compare``: what changed between two recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ztrace.console import console, lost_text, print_json, progress, table
from ztrace.outputs import Command
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
        _show(found)
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


def _show(found: dict[str, Any]) -> None:
    out = console()
    for name in ("a", "b"):
        lost = lost_text(found["lost_events"][name])
        out.print(f"{name.upper()}: {found[name]}, lost events: {lost}", soft_wrap=True)
        for line in found["qualified"][name]:
            out.print(f"{name.upper()}: {line.strip()}", soft_wrap=True)
    if found["not_alike"]:
        out.print(f"A and B are {found['kind']} {found['not_alike']}", soft_wrap=True)
    out.print()
    headers = ("", "A", "B", "change", "low", "high", "p", "")
    out.print(table(headers, map(_row, found["changes"])))
    out.print(
        "durations in us, memory in MiB; change: B / A - 1 in %, with its interval of "
        f"{100 * found['confidence']:.4g} %\nconfidence by stretches of time; p: Mann-Whitney over "
        "all calls, as if independent"
    )
    if found["kind"] == "replays":
        out.print("durations are the C core's on this machine and count for nothing")
    elif not found["durations_count"]:
        out.print("durations under software emulation count for nothing")
    count, limit = found["regressions"], found["threshold"]
    out.print(f"regressions above {100 * limit:.4g} %: {count}")


def _row(change: dict[str, Any]) -> list[str]:
    unit = {"ns": 1000, "bytes": 1 << 20}.get(change["unit"], 1)
    parts = [change[key] for key in ("change", "low", "high")]
    return [
        change["figure"],
        *(f"{change[key] / unit:,.3f}" for key in ("a", "b")),
        *("-" if part is None else f"{part * 100:+.1f}" for part in parts),
        "-" if change["p"] is None else f"{change['p']:.1g}",
        "WORSE" if change["regression"] else "",
    ]
