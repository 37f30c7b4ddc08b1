# SPDX-License-Identifier: GPL-2.0-only
"""What qualifies figures: in one place, so that it stands beside them wherever they are shown.

Losses of events are said by all outputs in their own words; here is the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ztrace.replay.figures.result import Agreement, Result
from ztrace.traces.metadata import Metadata

BEGAN_LATE = "pools not known to be empty at the start: older objects are missing here"

_COUNTS = (
    ("reissued", "handles given out again without a free: old objects dropped"),
    ("refused", "objects the model refused"),
    ("shrinks_not_replayed", "shrinks not replayed, their frees played as plain ones"),
    ("shrinks_diverged", "shrinks diverged: the model chose other objects than the kernel"),
)


def of_trace(metadata: Metadata) -> list[str]:
    """What qualifies all figures that are made of a trace, a line each."""
    return [] if metadata.starts_empty() else [BEGAN_LATE]


def of_result(result: Result) -> list[str]:
    """What limits a replay's figures; nothing for a whole trace of one CPU."""
    lines = []
    if len(result.cpus) > 1 and result.order == "ring":
        lines.append(
            f"recorded on {len(result.cpus)} CPUs and played in recorded order, which is not that "
            "of the allocator's lock: handles may differ (ztrace validate says more)"
        )
    elif len(result.cpus) > 1:
        lines.append(
            f"recorded on {len(result.cpus)} CPUs and played in the order that ztrace validate "
            "finds; totals were read by the kernel a moment later, after calls of other CPUs"
        )
    if not result.starts_empty:
        lines.append(BEGAN_LATE)
    for name in ("unknown", "failed"):
        counts = result.merged(name)
        if counts:
            what = {"unknown": "unknown handles", "failed": "failed mallocs"}[name]
            lines.append(f"{what}: " + ", ".join(f"{k} {n:,}" for k, n in counts.items()))
    for name, what in _COUNTS:
        if result.count(name):
            lines.append(f"{what}: {result.count(name):,}")
    lines += [
        f"pool {pool.pool}: figures end at {pool.stopped}" for pool in result.pools if pool.stopped
    ]
    return lines


def agreements(result: Result) -> list[str]:
    """How often the model gave the kernel's answers, for those of which there are any."""
    lines = []
    for name in ("handles", "totals", "errors", "shrinks"):
        agreement = result.agreement(name)
        if agreement.compared:
            lines += agreement_lines(name, agreement)
    return lines


def differences(result: Result) -> list[str]:
    """The same for outputs with a line per trace: of answers that are not all the kernel's."""
    return [
        line
        for name in ("handles", "totals", "errors", "shrinks")
        for line in agreement_lines(name, result.agreement(name))[:1]
        if result.agreement(name).equal < result.agreement(name).compared
    ]


def agreement_lines(name: str, agreement: Agreement) -> list[str]:
    """The count, and the first difference if there is one."""
    lines = [f"{name} equal: {agreement.equal:,} of {agreement.compared:,}"]
    if agreement.first is not None:
        lines.append(f"  first difference: {agreement.first}")
    return lines


def of_results(results: Mapping[str, Result]) -> list[str]:
    """The same of several replays of one trace, label -> result: once what is true of all."""
    lines = {label: [*agreements(one), *of_result(one)] for label, one in results.items()}
    shared = _shared(list(lines.values()))
    return shared + [
        f"{label}: {line.strip()}"
        for label, own in lines.items()
        for line in own
        if line not in shared
    ]


def _shared(lines: Sequence[Sequence[str]]) -> list[str]:
    return [line for line in (lines[0] if lines else []) if all(line in own for own in lines)]
