# SPDX-License-Identifier: GPL-2.0-only
"""All interleavings of a few calls, for the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ztrace.console import count_text, pairs, table
from ztrace.replay.research.explore import (
    BUILTIN,
    GAPS,
    Exploration,
    confirm,
    schedule_lines,
    sorted_names,
)


def _steps(result: Exploration, name: str) -> str:
    if name not in result.found:
        return "not reached" if result.complete else "not found"
    steps = count_text(len(result.found[name]))
    return steps if confirm(result, name).confirms(name) else f"{steps}, NOT CONFIRMED"


def show_exploration(out: Console, result: Exploration, names: Sequence[str]) -> None:
    """Print one exploration: its states, its hazards, and a shortest schedule to each."""
    scenario = result.scenario
    kind = scenario.type
    facts = [
        ("set-up", scenario.setup or "none"),
        ("calls", scenario.calls),
        ("objects", f"{scenario.size} bytes: type {kind.number}, {kind.slots} slots a block"),
        *((f"no gap {gap}", GAPS[gap]) for gap in sorted(scenario.closed)),
        ("states", count_text(result.states)),
        ("interleavings", _interleavings(result)),
        ("hazards", ", ".join(sorted_names(result.found)) or "none"),
    ]
    out.print(pairs(facts))
    if not result.complete:
        out.print(
            f"NOT COMPLETE: gave up after {count_text(result.states)} states; what was not found "
            "may still\nbe there. Take fewer calls or a larger --max-states."
        )
    for name in names or sorted_names(result.found):
        out.print()
        if name not in result.found:
            out.print(f"{name}: {'not reached' if result.complete else 'not found so far'}")
            continue
        run = confirm(result, name)
        sure = "replayed on a fresh model" if run.confirms(name) else "NOT CONFIRMED by a replay"
        title = f": {BUILTIN[name].title}" if name in BUILTIN else ""
        out.print(f"{name}{title}\n{len(run.rows)} steps, {sure}\n")
        for line in schedule_lines(run, len(scenario.programs)):
            out.print(line, soft_wrap=True)


def _interleavings(result: Exploration) -> str:
    least = "" if result.complete else "at least "
    text = f"{least}{count_text(result.interleavings)}"
    if result.undefined:
        text += f", {count_text(result.undefined)} of them end in released memory"
    if result.deadlocks:
        text += f", {count_text(result.deadlocks)} in a deadlock"
    return text


def show_scenarios(out: Console, names: Sequence[str], results: Sequence[Exploration]) -> None:
    """Print all built-in scenarios, each for its hazard."""
    rows = [
        [
            name,
            BUILTIN[name].title,
            "; ".join(filter(None, (one.scenario.setup, f"[{one.scenario.calls}]"))),
            _steps(one, name),
            count_text(one.states),
        ]
        for name, one in zip(names, results, strict=True)
    ]
    out.print(
        table(["hazard", "reached when", "set-up; [calls]", "steps", "states"], rows, texts=3)
    )
    out.print()
    out.print("steps: of a shortest schedule, which was replayed on a fresh model; to see it:")
    out.print("ztrace explore ztree --hazard H1")
