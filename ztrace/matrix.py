# SPDX-License-Identifier: GPL-2.0-only
"""What the lab has, recorded and validated: where the lab and the models meet."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ztrace.replay.errors import ReplayError
from ztrace.replay.validate import validate_trace
from ztrace.streams import show
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.matrix import Cell, cells
from ztrace.tracer.lab.together import record_together
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


def wanted_cells(kernels: Collection[str], *, with_out_of_tree: bool) -> list[Sequence[Cell]]:
    """The lab's cells of these kernels, or of all if none is named, kernel by kernel."""
    return [
        row
        for kernel, row in cells(with_out_of_tree=with_out_of_tree)
        if not kernels or kernel in kernels
    ]


def record_matrix(
    wanted: Sequence[Sequence[Cell]],
    workload: str,
    patch: Path | None,
    keep: Path | None,
    advance: Callable[[int], object],
) -> list[Outcome]:
    """Record and examine all cells; ``advance`` gets how many are done.

    Traces are left in ``keep``, if given; TracerError if one is there already.
    """
    if keep is not None:
        for path in (keep / cell.file_name for row in wanted for cell in row):
            if path.exists():
                raise TracerError(f"{path}: exists; give another folder")
        keep.mkdir(parents=True, exist_ok=True)
    done: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="ztrace-matrix-") as scratch:
        for row in wanted:
            done += record_row(row, workload, patch, keep or Path(scratch))
            advance(len(row))
    return done


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
