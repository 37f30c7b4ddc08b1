# SPDX-License-Identifier: GPL-2.0-only
"""The figures of docs/case-study.md: ``python -m bench.case_study --summaries FILE MEASURED...``
and ``python -m bench.case_study --plots FOLDER REPORT.json``.

The first writes what guests measured (``ztrace measure -o``, several guests an allocator) as one
file of summaries that ``ztrace report --measured`` takes; curves are kept of each first guest. The
second draws a report's document (``ztrace report --format json``): cost against density, worst
cases of malloc and free, and memory held over what a fresh pool would hold.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.specification import family
from ztrace.replay.report.measured import ALIKE, read_summaries

COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b27a00")
WIDE, TALL, LEFT, BELOW, ABOVE = 230, 200, 44, 34, 22

Json = dict[str, Any]


def write_summaries(path: Path, measured: Sequence[Path]) -> None:
    """Summaries of guests; what only the first of each group is asked for is left out of others."""
    seen = set()
    found = read_summaries(measured)
    for one in found:
        key = tuple(one[name] for name in (*ALIKE, "allocator"))
        if key in seen:
            one["curves"], one["by_size"] = {}, []
        seen.add(key)
    path.write_text(
        "[\n" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in found) + "\n]\n",
        encoding="utf-8",
    )


def colour(backend: str) -> str:
    """The allocator's, as in all plots of reports."""
    return COLOURS[recorded_traits(family(backend)).colour]


class Panel:
    """One of several small plots beside each other."""

    def __init__(self, at: int, title: str, x: Sequence[float], y: Sequence[float]) -> None:
        self.left, self.x, self.y = at * (WIDE + LEFT) + LEFT, x, y
        self.parts = [_text(self.left + WIDE / 2, 14, title, "middle", weight="bold")]

    def px(self, value: float) -> float:
        """Where a value of x is."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * WIDE

    def py(self, value: float) -> float:
        """Where a value of y is."""
        low, high = self.y
        return ABOVE + TALL - (value - low) / (high - low) * TALL

    def line(self, points: Sequence[tuple[float, float]], ink: str, wide: float = 1.6) -> None:
        """A line through points, in values."""
        at = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        self.parts.append(
            f'<polyline fill="none" stroke="{ink}" stroke-width="{wide}" points="{at}"/>'
        )

    def axes(self, x: dict[float, str], y: dict[float, str], label: str) -> None:
        """Rules at values with their names."""
        for value, name in x.items():
            self.line([(value, self.y[0]), (value, self.y[1])], "#8884", 1)
            self.parts.append(_text(self.px(value), ABOVE + TALL + 14, name, "middle"))
        for value, name in y.items():
            self.line([(self.x[0], value), (self.x[1], value)], "#8884", 1)
            self.parts.append(_text(self.left - 4, self.py(value) + 4, name, "end"))
        self.parts.append(_text(self.left + WIDE / 2, ABOVE + TALL + 29, label, "middle"))

    def dot(self, x: float, y: float, name: str, ink: str) -> None:
        """A point with its name."""
        self.parts.append(
            f'<circle cx="{self.px(x):.1f}" cy="{self.py(y):.1f}" r="4" fill="{ink}"/>'
        )
        right = self.px(x) > self.left + WIDE * 0.7
        beside = self.px(x) + (-7 if right else 7)
        self.parts.append(_text(beside, self.py(y) - 5, name, "end" if right else "start", ink=ink))


def _text(
    x: float, y: float, words: str, anchor: str, ink: str = "#777", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def svg(panels: Sequence[Panel], names: Sequence[str] = ()) -> str:
    """The panels as a picture, with a line of names in their colours."""
    wide, tall = len(panels) * (WIDE + LEFT) + 12, ABOVE + TALL + BELOW + (20 if names else 4)
    keys = [
        _text(LEFT + i * 110, tall - 6, f"— {name}", "start", colour(name), "bold")
        for i, name in enumerate(names)
    ]
    body = "\n".join([*(part for panel in panels for part in panel.parts), *keys])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" '
        f'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{wide}" height="{tall}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _histories(document: Json) -> Iterator[tuple[str, list[Json]]]:
    alone = [one for one in document["measured"] if one["cpus"] == 1]
    for label in dict.fromkeys(one["label"] for one in alone):
        yield label, [one for one in alone if one["label"] == label]


def _short(label: str) -> str:
    """A program's name: what was played is what it did under ztree."""
    return label.removesuffix("-ztree")


def cost(document: Json) -> str:
    """Malloc and free together against density, a panel for each history."""
    panels = []
    for i, (label, found) in enumerate(_histories(document)):
        title = _short(label)
        most = max(one["density"]["value"] for one in found) * 1.15
        dear = max(one["cost_ns"]["high"] or one["cost_ns"]["value"] for one in found) * 1.15
        panel = Panel(i, title, (0, most), (0, dear))
        step = 1 if most < 4 else 2
        xs = {float(v): str(v) for v in range(0, int(most) + 1, step)}
        ys = {float(v): str(v) for v in range(0, int(dear) + 1, 50)}
        panel.axes(xs, ys, "pages stored / held; ns")
        for one in found:
            ink, x, y = colour(one["allocator"]), one["density"], one["cost_ns"]
            panel.line([(x["low"], y["value"]), (x["high"], y["value"])], ink)
            if y["low"] is not None:
                panel.line([(x["value"], y["low"]), (x["value"], y["high"])], ink)
            panel.dot(x["value"], y["value"], one["allocator"], ink)
        panels.append(panel)
    return svg(panels)


def tails(document: Json) -> str:
    """Share of calls that take longer, malloc and free, of the programs' histories."""
    panels: list[Panel] = []
    names: dict[str, None] = {}
    for label, found in list(_histories(document))[:2]:
        for op in ("malloc", "free"):
            panel = Panel(len(panels), f"{_short(label)}: {op}", (0.6, 4.2), (-4, 0))
            xs = {float(v): f"{10**v:,}" for v in range(1, 5)}
            ys = {0.0: "all", -1.0: "p90", -2.0: "p99", -3.0: "p99.9", -4.0: "p99.99"}
            panel.axes(xs, ys, "ns")
            for one in found:
                names[one["allocator"]] = None
                curve = one["curves"][op]
                points = zip(curve["duration_ns"], curve["share_longer"], strict=True)
                logs = [(math.log10(max(4, ns)), math.log10(share)) for ns, share in points]
                panel.line(logs, colour(one["allocator"]))
            panels.append(panel)
    return svg(panels, list(names))


def ageing(document: Json) -> str:
    """Held over held by a fresh pool with the same objects, by turnovers."""
    panels: list[Panel] = []
    names: dict[str, None] = {}
    measured = {one["label"] for one in document["measured"]}
    for one in document["recordings"]:
        trends = {name: trend for name, trend in one["ageing"].items() if trend}
        most = max((trend["turnovers"] for trend in trends.values()), default=0)
        if most < 1 or one["label"] not in measured:
            continue
        top = max(max(trend["ratio"]) for trend in trends.values()) * 1.05
        panel = Panel(len(panels), _short(one["label"]), (0, most), (0.9, top))
        xs = {float(v): str(v) for v in range(0, int(most) + 1, max(1, int(most) // 4))}
        ys = {v / 10: f"{v / 10:.1f}" for v in range(9, int(top * 10) + 1, 2 if top > 1.5 else 1)}
        panel.axes(xs, ys, "turnovers of the live objects")
        for name, trend in trends.items():
            names[family(name)] = None
            points = list(zip(trend["at_turnover"], trend["ratio"], strict=True))
            panel.line(points, colour(name))
        panels.append(panel)
    return svg(panels, list(names))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--summaries", type=Path)
    parser.add_argument("--plots", type=Path)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    if given.summaries:
        write_summaries(given.summaries, given.files)
    if given.plots:
        document = json.loads(given.files[0].read_text(encoding="utf-8"))
        for name, draw in (("cost", cost), ("tails", tails), ("ageing", ageing)):
            (given.plots / f"case-study-{name}.svg").write_text(draw(document), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
