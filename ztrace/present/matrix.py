# SPDX-License-Identifier: GPL-2.0-only
"""Shows what became of the lab's cells."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ztrace.console import count_text, table
from ztrace.matrix import Outcome


def show_cells(out: Console, done: Sequence[Outcome]) -> None:
    """Print the table, and what failed."""
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
