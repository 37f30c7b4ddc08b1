# SPDX-License-Identifier: GPL-2.0-only
"""A picture of the calls around a refused one: bars by CPU, and the order that was tried."""

from __future__ import annotations

from html import escape
from itertools import pairwise

from ztrace.replay.validate.window import Bar, Window, lanes
from ztrace.text import counted
from ztrace.units import ns_text

_LEFT, _LANE, _STEP, _TOP, _BAR, _LETTER = 70, 46, 34, 92, 26, 6
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.small{font-size:10px;fill:#555}"
    ".title{font-size:15px;font-weight:600}.bar{fill:#cfe0f5;stroke:#3b6ea8}"
    ".beside{fill:#f6f6f6;stroke:#ccc}.open{fill:#eee;stroke:#999;stroke-dasharray:3 2}"
    ".refused{fill:#f8c9c4;stroke:#b3261e}"
    ".moment{stroke:#1a1a1a;stroke-width:2}.grid{stroke:#e4e4e4}.number{font-weight:600}"
    "@media(prefers-color-scheme:dark){svg{background:#16181c}text{fill:#e6e6e6}.small{fill:#a5a5a5}"
    ".beside{fill:#202328;stroke:#444}.bar{fill:#23405f;stroke:#7fb0e6}.open{fill:#2a2a2a;stroke:#888}.grid{stroke:#333}"
    ".refused{fill:#5f2320;stroke:#ff8a80}.moment{stroke:#fff}}"
)


def picture(window: Window, trace: str) -> str:
    """An SVG of a window, complete in itself.

    Times are in order and not to scale: a call may last a thousand times as long as its neighbours.
    """
    moments = {bar.moment for bar in window.bars if bar.moment is not None}
    times = sorted(moments | {time for bar in window.bars for time in (bar.ts, bar.end)})
    rows = list(lanes(window))
    height = _TOP + _LANE * len(rows) + 70
    numbers: dict[int, list[str]] = {}
    for number, (row, step) in enumerate(window.order, 1):
        part = f" {step}" if step not in ("", "whole") else ""
        numbers.setdefault(row, []).append(f"{number}{part}")
    labels = {bar: _label(bar, numbers.get(bar.row)) for bar in window.bars}
    across = _spread(times, [bars for _, bars in rows], labels)
    width = max(across[times[-1]] + 260, 640)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>Calls around row {window.refused} of {escape(trace)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="12" y="24">Row {window.refused} is not what the model does</text>',
        f'<text x="12" y="44">The model: {escape(window.answer)}</text>',
        f'<text class="small" x="12" y="62">{counted(len(window.bars), "call")} of pool '
        f"{window.pool} in {escape(trace)}; the numbers are those of the calls {window.said}; "
        "dashed: not reached, pale: before and after these</text>",
    ]
    for time in (times[0], times[-1]):
        x = across[time]
        parts.append(
            f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP - 12}" y2="{height - 46}"/>'
            f'<text class="small" x="{x}" y="{_TOP - 16}">{ns_text(time - times[0])}</text>'
        )
    for lane, (cpu, bars) in enumerate(rows):
        y = _TOP + _LANE * lane
        parts.append(f'<text x="12" y="{y + 17}">CPU {cpu}</text>')
        parts += [_bar(bar, labels[bar], across, y, window.refused, numbers) for bar in bars]
    parts.append(
        f'<text class="small" x="12" y="{height - 24}">Time runs from left to right, each begin '
        "and end one step further: not to scale. Point at a bar for its row and times."
        "</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _label(bar: Bar, numbers: list[str] | None) -> str:
    return bar.what if not numbers else f"{', '.join(numbers)}: {bar.what}"


def _spread(times: list[int], rows: list[list[Bar]], labels: dict[Bar, str]) -> dict[int, int]:
    """Where each time is across: in order, and no label runs into the next bar of its lane."""
    needs: dict[int, list[tuple[int, int]]] = {}
    for bars in rows:
        for bar, following in pairwise(bars):
            room = _LETTER * len(labels[bar]) + 12
            needs.setdefault(following.ts, []).append((bar.ts, room))
    across: dict[int, int] = {}
    at = _LEFT - _STEP
    for time in times:
        at += _STEP
        at = max([at, *(across[before] + room for before, room in needs.get(time, []))])
        across[time] = at
    return across


def _bar(
    bar: Bar,
    label: str,
    across: dict[int, int],
    y: int,
    refused: int,
    numbers: dict[int, list[str]],
) -> str:
    left, right = across[bar.ts], across[bar.end]
    kind = "bar" if bar.row in numbers else "beside" if bar.beside else "open"
    if bar.row == refused:
        kind = "refused"
    moment = ""
    if bar.moment is not None:
        at = across[bar.moment]
        moment = f'<line class="moment" x1="{at}" x2="{at}" y1="{y}" y2="{y + _BAR}"/>'
    told = f"row {bar.row}, task {bar.tid}, {ns_text(bar.end - bar.ts)}: {bar.what}"
    return (
        f'<g><title>{escape(told)}</title><rect class="{kind}" x="{left}" y="{y}" rx="3" '
        f'width="{max(right - left, 6)}" height="{_BAR}"/>{moment}'
        f'<text class="small" x="{left + 4}" y="{y + _BAR + 11}">{escape(label)}</text></g>'
    )
