# SPDX-License-Identifier: GPL-2.0-only
"""What changed between two recordings, or replays, for the console."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ztrace.console import lost_text, table


def show_changes(out: Console, found: dict[str, Any]) -> None:
    """Print every figure of both, and what of them became worse."""
    for name in ("a", "b"):
        lost = lost_text(found["lost_events"][name])
        out.print(f"{name.upper()}: {found[name]}, lost events: {lost}", soft_wrap=True)
        for line in found["qualified"][name]:
            out.print(f"{name.upper()}: {line.strip()}", soft_wrap=True)
    if found["not_alike"]:
        out.print(f"A and B are {found['kind']} {found['not_alike']}", soft_wrap=True)
    out.print()
    headers = ("", "A", "B", "change", "low", "high", "p", "")
    out.print(table(headers, map(_row, found["changes"])))
    out.print(
        "durations in us, memory in MiB; change: B / A - 1 in %; low, high: its interval of "
        f"{100 * found['confidence']:.4g} % confidence by stretches of time; p: Mann-Whitney over "
        "all calls, as if independent"
    )
    if found["kind"] == "replays":
        out.print("durations are the C core's on this machine and count for nothing")
    elif not found["durations_count"]:
        out.print("durations under software emulation count for nothing")
    count, limit = found["regressions"], found["threshold"]
    out.print(f"regressions above {100 * limit:.4g} %: {count}")


def _row(change: dict[str, Any]) -> list[str]:
    unit = {"ns": 1000, "bytes": 1 << 20}.get(change["unit"], 1)
    parts = [change[key] for key in ("change", "low", "high")]
    return [
        change["figure"],
        *(f"{change[key] / unit:,.3f}" for key in ("a", "b")),
        *("-" if part is None else f"{part * 100:+.1f}" for part in parts),
        "-" if change["p"] is None else f"{change['p']:.1g}",
        "WORSE" if change["regression"] else "",
    ]
