# SPDX-License-Identifier: GPL-2.0-only
"""The case study: what recordings of real programs under every allocator show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ztrace.console import progress
from ztrace.replay.report import Thresholds, assemble, default_backends, gather_one, passes
from ztrace.replay.report.study import study
from ztrace.replay.research.claims import judge
from ztrace.tracer.lab.study import Case
from ztrace.traces import TraceReader


def study_of(cases: Sequence[Case], folder: Path) -> str:
    """The study of recordings in a folder, as Markdown; progress is shown."""
    found = []
    for case in cases:
        with TraceReader(case.path(folder)) as reader:
            models = default_backends(reader.metadata)
            with progress(case.name, passes(len(models)) * reader.num_rows) as advance:
                found.append(gather_one(reader, case.name, models, advance))
    return study(assemble(found, Thresholds(), judge(found)))
