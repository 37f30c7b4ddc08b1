# SPDX-License-Identifier: GPL-2.0-only
"""Hazards met and stranded memory over time, for the console."""

from __future__ import annotations

from rich.console import Console

from ztrace.console import bytes_text, count_text, lost_lines, ns_text, partial_lines, table
from ztrace.replay.figures.qualified import of_result
from ztrace.replay.play.anomalies import Anomalies, Part
from ztrace.traces.metadata import Metadata


def show_anomalies(out: Console, trace: str, found: Anomalies, metadata: Metadata) -> None:
    """Print what a watched replay found."""
    out.print(f"{trace} in {found.backend}", soft_wrap=True)
    for line in (*lost_lines(metadata), *partial_lines(metadata)):
        out.print(line)
    for name, agreement in (("handles", found.handles), ("totals", found.totals)):
        if agreement.compared:
            equal, of = count_text(agreement.equal), count_text(agreement.compared)
            out.print(f"{name} equal to the kernel's: {equal} of {of}")
    for line in of_result(found.result):
        out.print(line, soft_wrap=True)
    out.print()
    if not found.met:
        out.print("hazards met: none")
    for one in found.met:
        out.print(
            f"{one.name}: {count_text(one.count)} x, first in row {count_text(one.row)} at "
            f"{ns_text(one.t_ns)}: {one.what}"
        )
    out.print()
    if not found.parts or found.peak is None:
        out.print(f"stranded: {found.backend} has no slots that malloc cannot find")
        return
    headers = ("from", "held", "stranded", "share", "slots")
    out.print(table(headers, map(_row, found.parts), texts=0))
    peak = found.peak
    out.print(
        "stranded: in free slots that malloc does not find (H10, H11), share of what is held.\n"
        f"Most at {ns_text(peak.from_ns)}: {bytes_text(peak.stranded_bytes)}, "
        f"{100 * peak.share:.1f} %.",
        soft_wrap=True,
    )


def _row(part: Part) -> list[str]:
    return [
        ns_text(part.from_ns),
        bytes_text(part.held_bytes),
        bytes_text(part.stranded_bytes),
        f"{100 * part.share:.1f} %",
        f"{part.stranded_slots:,.0f}",
    ]
