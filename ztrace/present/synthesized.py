# SPDX-License-Identifier: GPL-2.0-only
"""Shows what a synthetic trace was made of."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ztrace.console import bytes_text, count_text, pairs
from ztrace.synthetic import Drawn
from ztrace.traces.pages import Pages
from ztrace.traces.synth import Fit


def show_synthesized(out: Console, output: Path, asked: Drawn, churn: str, fit: Fit) -> None:
    """Print what was written, and how far it is from what it was fitted to."""
    plan = asked.plan
    rows = [
        ("trace", str(output)),
        ("rows", f"{count_text(plan.events)}, {bytes_text(output.stat().st_size)}"),
        ("live", f"about {count_text(plan.live)} objects"),
        ("sizes", plan.sizes.text),
        ("churn", churn),
        ("seed", str(plan.seed)),
    ]
    if asked.pages is not None:
        rows.append(("pages", pages_text(asked.pages)))
    for name, value in (("sizes", fit.sizes), ("lifetimes", fit.lifetimes)):
        if value is not None:
            rows.append((f"fit of {name}", f"Kolmogorov-Smirnov distance {value:.4f}"))
    out.print(pairs(rows))
    for line in asked.limits:
        out.print(line, soft_wrap=True)


def pages_text(pages: Pages) -> str:
    """What was compressed and what was left out, in one line."""
    counts = [
        (len(next(iter(pages.sizes.values()))), "compressed"),
        (pages.same_filled, "of one word"),
        (pages.incompressible, "that become no smaller"),
        (pages.skipped, "unreadable"),
    ]
    return ", ".join(f"{count_text(n)} {what}" for n, what in counts if n)
