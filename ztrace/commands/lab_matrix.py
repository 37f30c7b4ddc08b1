# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace lab matrix``: what the lab has, recorded and validated."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from ztrace.console import console, count_text, print_json, progress, table
from ztrace.outputs import Command
from ztrace.replay.errors import ReplayError
from ztrace.replay.validate import validate_trace
from ztrace.streams import show
from ztrace.tracer.lab.debian import KERNELS
from ztrace.tracer.lab.matrix import Cell, cells
from ztrace.tracer.lab.together import record_together
from ztrace.tracer.lab.workloads import WORKLOADS
from ztrace.traces import TraceReader


@dataclass
class Outcome:
    """One cell. ``compared`` calls of the model's were compared, ``explained`` are the kernel's.

    ``failed``: why there is no recording, or no comparison.
    """

    kernel: str
    backend: str
    release: str = ""
    probes: list[str] = field(default_factory=list)
    rows: int = 0
    compared: int = 0
    explained: int = 0
    lost_events: int = 0
    counters_agree: bool = False
    model_agrees: bool = False
    failed: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing was lost, the kernel counted the same, and the model answers so."""
        return (
            self.model_agrees and self.counters_agree and not self.lost_events and not self.failed
        )


@click.command(
    cls=Command, epilog="Example: ztrace lab matrix --kernel 6.12 --kernel 7.2 --workload bursts"
)
@click.option(
    "--kernel",
    "kernels",
    type=click.Choice(list(KERNELS)),
    multiple=True,
    help="Only this kernel; may be repeated.",
)
@click.option(
    "--workload", type=click.Choice(list(WORKLOADS)), default="known23", show_default=True
)
@click.option("--patch", type=click.Path(path_type=Path), help="The posted mail, for ztree, too.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the traces in this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def matrix(
    kernels: tuple[str, ...], workload: str, patch: Path | None, keep: Path | None, as_json: bool
) -> int:
    """Record every kernel with every allocator below zswap and with zram; validate all.

    Each kernel is booted once. Exit 1 if a cell fails: an event was lost, the kernel counted
    otherwise, a model does not agree, or there is no recording.
    """
    wanted = {
        kernel: row
        for kernel, row in cells(with_out_of_tree=patch is not None)
        if not kernels or kernel in kernels
    }
    if keep is not None:
        for row in wanted.values():
            for cell in row:
                if (keep / cell.file_name).exists():
                    raise click.ClickException(
                        f"{keep / cell.file_name}: exists; give another folder"
                    )
        keep.mkdir(parents=True, exist_ok=True)
    done: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory(prefix="ztrace-matrix-") as scratch,
        progress("cells", sum(len(row) for row in wanted.values())) as advance,
    ):
        for row in wanted.values():
            done += record_row(row, workload, patch, keep or Path(scratch))
            advance(len(row))
    good = all(one.good for one in done)
    if as_json:
        shown = [asdict(one) | {"agrees": one.good} for one in done]
        print_json({"workload": workload, "agrees": good, "cells": shown})
    else:
        show_cells(done)
    return 0 if good else 1


def record_row(
    row: Sequence[Cell], workload: str, patch: Path | None, folder: Path
) -> list[Outcome]:
    """Record the cells of one kernel in ``folder`` and examine the traces."""
    paths = {folder / cell.file_name: cell for cell in row}
    setups = {path: cell.setup(workload, patch) for path, cell in paths.items()}
    failed = record_together(setups, watch=lambda line: show(line, err=True))
    return [
        Outcome(cell.kernel, cell.backend, failed=str(failed[path]))
        if path in failed
        else examine(cell, path)
        for path, cell in paths.items()
    ]


def examine(cell: Cell, path: Path) -> Outcome:
    """What a recording shows."""
    with TraceReader(path) as trace:
        metadata = trace.metadata
        checks = metadata.counters.check
        outcome = Outcome(
            cell.kernel,
            cell.backend,
            metadata.kernel.release,
            sorted({probe.kind for probe in metadata.probes.values()}),
            trace.num_rows,
            lost_events=metadata.lost_total(),
            counters_agree=bool(checks) and all(one.agrees for one in checks),
        )
        try:
            verdict = validate_trace(trace)
            outcome.compared = verdict.calls
            outcome.explained = verdict.explained
            outcome.model_agrees = verdict.agrees
        except ReplayError as error:
            outcome.failed = str(error)
    return outcome


def show_cells(done: Sequence[Outcome]) -> None:
    """Print the table, and what failed."""
    out = console()
    headers = ("kernel", "backend", "probes", "rows", "explained", "lost", "counters")
    rows = [
        (
            one.kernel,
            one.backend,
            "+".join(one.probes) or "-",
            count_text(one.rows),
            f"{count_text(one.explained)} of {count_text(one.compared)}",
            count_text(one.lost_events),
            "agree" if one.counters_agree else "NO",
        )
        for one in done
    ]
    out.print(table(headers, rows, texts=3))
    releases = dict.fromkeys(one.release for one in done if one.release)
    out.print(f"kernels: {', '.join(releases) or 'none'}", soft_wrap=True)
    for one in done:
        if one.failed:
            out.print(f"{one.kernel} {one.backend}: {one.failed}", soft_wrap=True)
    bad = sum(not one.good for one in done)
    out.print(f"{bad} of {len(done)} cells FAILED" if bad else f"all {len(done)} cells agree")
