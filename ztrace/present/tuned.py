# SPDX-License-Identifier: GPL-2.0-only
"""What allocators could be for traces, and what that is worth, for the console."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ztrace.allocator import create
from ztrace.allocator.specification import Specification
from ztrace.allocator.table import table_text
from ztrace.console import bytes_text, lost_text, table
from ztrace.replay.tune import Held, Trial, Tuned, Tuning
from ztrace.streams import show
from ztrace.text import counted


def show_tuned(out: Console, tuned: Tuned, output: Path | None) -> None:
    """Print each backend's choices with what they hold, and what to set, if it is worth that."""
    if tuned.lost_events != 0:
        out.print(f"lost events: {lost_text(tuned.lost_events)}")
    for line in tuned.qualified:
        out.print(line)
    for number, one in enumerate(tuned.tunings):
        if number:
            out.print()
        _show_tuning(out, one, len(tuned.traces))
    if output is not None:
        name = Specification.parse(tuned.tunings[0].now.backend)
        show(f"\n{output}: written; ztrace replay TRACE --backend {name.name}:table={output}")


def _show_tuning(out: Console, one: Tuning, traces: int) -> None:
    rows = [_row(one.now, one.now.backend, one.now.mean_bytes)]
    rows += [_row(trial.held, trial_name(one, trial), one.now.mean_bytes) for trial in one.trials]
    rows += [_row(held, held.backend, one.now.mean_bytes) for held in one.others]
    headers = ("backend", "held (mean)", "gain", "peak", "spanning", "refused")
    out.print(table(headers, rows))
    out.print(
        f"held: by replay, over {counted(traces, 'trace')}, without what was refused; blocks and "
        "zspages that are partly full are in it. spanning: objects stored in two pages."
    )
    for trial in one.trials:
        gain = trial.second_half
        name = trial_name(one, trial)
        out.print(f"{name}: chosen for {_percent(trial.first_half)} in the first half")
        text = f"  gain on what it has not seen: {_percent(gain.value)} of held bytes"
        if gain.low is not None and gain.high is not None:
            text += f", 95 %: {100 * gain.low:+.2f} to {_percent(gain.high)}"
        out.print(text)
        out.print(f"  by tenths of it: {', '.join(f'{100 * s:+.1f}' for s in gain.slices)} %")
    best = one.best
    if best is None:
        out.print("Keep what you have: nothing is known to hold less on what it has not seen.")
        return
    out.print(f"To set, for {_percent(best.second_half.value)} of memory:")
    for line in best.how:
        show(line)


def _percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


def trial_name(one: Tuning, trial: Trial) -> str:
    """What is other than now: items, or how many types its table has."""
    if trial.table is not None:
        return f"a table of {counted(len(trial.table), 'type')}"
    own = Specification.parse(one.now.backend).items
    items = Specification.parse(trial.held.backend).items.items()
    return ", ".join(f"{name}={value}" for name, value in items if own.get(name) != value)


def _row(held: Held, name: str, before: float) -> list[str]:
    return [
        name,
        bytes_text(held.mean_bytes),
        _percent(1 - held.mean_bytes / before) if before else "-",
        bytes_text(held.peak_bytes),
        "-" if held.spanning is None else f"{100 * held.spanning:.1f} %",
        f"{held.refused:,}",
    ]


def recommended_text(one: Tuning, traces: Sequence[Path]) -> str:
    """The file of the table that is recommended, which is the one there is if no other is."""
    best, pool = one.best, create(one.now.backend)
    if best is not None and best.table is not None:
        return table_text(best.table, [f"fitted to {path.name}" for path in traces])
    own = [(kind.order, kind.slots) for kind in getattr(pool, "types", ())]
    return table_text(own, [f"{one.now.backend}'s own: none fits {p.name} better" for p in traces])
