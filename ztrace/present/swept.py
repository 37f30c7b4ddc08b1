# SPDX-License-Identifier: GPL-2.0-only
"""Shows what became of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from ztrace.console import count_text, pairs, table
from ztrace.present.comparison import ratio
from ztrace.replay.report.sweep import MEASURE, QUANTILES, fleet
from ztrace.replay.sweep import Swept
from ztrace.streams import say

SHOWN = 10  # failed runs that are named; the results have all


def show_swept(out: Console, output: Path, swept: Swept) -> None:
    """Say which runs failed, print the counts, and what limits the figures."""
    failed = swept.failed
    for row in failed[:SHOWN]:
        say(f"{_name(row)}: {row['error']}")
    if len(failed) > SHOWN:
        say(f"and {len(failed) - SHOWN} more runs failed (column error)")
    done = f"{count_text(len(swept.rows) - swept.done_before)} in {swept.spent_s:.1f} s"
    more = f", {count_text(swept.done_before)} done before" if swept.done_before else ""
    shown = [
        ("results", str(output)),
        ("runs", f"{done}{more}"),
        ("failed", count_text(len(failed))),
        ("next", f"ztrace report {output}"),
    ]
    out.print(pairs(shown))
    hosts = fleet(swept.rows)
    if hosts:
        out.print(table(_FLEET, map(_of_fleet, hosts), texts=2))
        out.print("density over the traces: the value that so many of them do not exceed")
    for line in swept.qualified:
        out.print(line, soft_wrap=True)


_FLEET = ("backend", "setting", "traces", "least", *(f"{q:.0%}" for q in QUANTILES), "most")


def _of_fleet(one: dict[str, Any]) -> list[str]:
    figures = one["figures"][MEASURE]
    return [one["backend"], one["setting"], count_text(one["traces"]), *map(ratio, figures)]


def _name(row: dict[str, Any]) -> str:
    values: Iterable[str] = (f"{k[6:]}={v}" for k, v in row.items() if k.startswith("param."))
    return ", ".join([row["trace"], row["backend"], *values])
