# SPDX-License-Identifier: GPL-2.0-only
"""Shows the histograms that the probes kept in the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from ztrace.console import count_text, ns_text, table

BAR = 40


def show_histograms(out: Console, state: dict[str, Any]) -> None:
    """Print the document of a recording with ``histograms`` (tracer/histogram.py)."""
    found = state["histograms"]
    rows = [
        [
            op,
            count_text(one["calls"]),
            count_text(one["failed"]),
            *(ns_text(one[key]) for key in ("p50_ns", "p99_ns", "max_ns")),
        ]
        for op, one in found["ops"].items()
    ]
    out.print(table(["call", "calls", "failed", "p50 <=", "p99 <=", "max <="], rows))
    for op, one in found["ops"].items():
        _show(out, op, one["buckets_ns"], ns_text)
    if found["malloc_bytes"]:
        _show(out, "malloc (bytes)", found["malloc_bytes"], count_text)


def _show(out: Console, name: str, buckets: list[list[int]], text: Callable[[int], str]) -> None:
    """One histogram, a bar for each bucket that is not empty."""
    most = max(count for _, _, count in buckets)
    rows = [
        [f"{text(low)} to {text(high)}", "#" * max(1, BAR * count // most), count_text(count)]
        for low, high, count in buckets
    ]
    out.print()
    out.print(table([name, "", "calls"], rows, texts=2))
