# SPDX-License-Identifier: GPL-2.0-only
"""A block table fitted to traces, and what it is worth, for the console."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ztrace.allocator.table import c_initialiser
from ztrace.console import bytes_text, count_text, lost_text, table
from ztrace.replay.tune import Tuning
from ztrace.streams import show
from ztrace.text import counted


def show_tuning(out: Console, tuned: Tuning, output: Path | None) -> None:
    """Print the table, what is held with it and with others, and what the gain is worth."""
    if tuned.lost_events != 0:
        out.print(f"lost events: {lost_text(tuned.lost_events)}")
    for line in tuned.qualified:
        out.print(line)
    posted = next(one for one in tuned.held if one.backend == "posted").mean_bytes
    rows = [
        [
            one.backend,
            bytes_text(one.mean_bytes),
            f"{100 * (1 - one.mean_bytes / posted):+.2f} %" if posted else "-",
            bytes_text(one.peak_bytes),
            count_text(one.refused),
        ]
        for one in tuned.held
    ]
    out.print(table(("block table", "held (mean)", "gain", "peak", "refused"), rows))
    static = [bytes_text(tuned.static[name]) for name in ("tuned", "posted")]
    out.print(
        f"held: by replay, over {counted(len(tuned.traces), 'trace')}, without what was refused. "
        f"In full blocks\nalone the tuned table takes {static[0]}, the posted one {static[1]}: "
        f"{100 * tuned.static_gain:+.2f} %,\nthe most there is.",
        soft_wrap=True,
    )
    out.print()
    gain = tuned.gain
    text = f"gain on what it has not seen: {100 * gain.value:+.2f} % of held bytes"
    if gain.low is not None and gain.high is not None:
        text += f", 95 %: {100 * gain.low:+.2f} to {100 * gain.high:+.2f} %"
    out.print(text)
    out.print("  (fitted to the first half of the time, measured on the second)")
    out.print(f"  by tenths of it: {', '.join(f'{100 * one:+.1f}' for one in gain.slices)} %")
    out.print()
    show(f"tree_desc[] = {c_initialiser(tuned.table)};")
    if output is not None:
        show(f"\n{output}: written; ztrace replay TRACE --backend ztree:table={output}")
