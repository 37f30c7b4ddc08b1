# SPDX-License-Identifier: GPL-2.0-only
"""Whether the durations of two recordings may be compared."""

from __future__ import annotations

from ztrace.replay.report.gather import Recording

MOST_LOST = 0.001
"""Share of lost events above which a recording's tail is not trusted."""


def incomparable(one: Recording, other: Recording) -> str | None:
    """Why two recordings cannot be compared in time; None if they can."""
    a, b = one.metadata, other.metadata
    for name, left, right in (
        ("machines", a.machine.cpu_model, b.machine.cpu_model),
        ("numbers of CPUs", a.machine.cpus, b.machine.cpus),
        ("kernels", a.kernel.release, b.kernel.release),
        ("workloads", a.command, b.command),
        ("users", one.document["user"], other.document["user"]),
        ("selections of objects", a.selection(), b.selection()),
    ):
        if left != right:
            return f"of different {name}"
    if one.emulated or other.emulated:
        return "under software emulation, where durations say nothing"
    if max(one.document["lost_share"] or 0, other.document["lost_share"] or 0) > MOST_LOST:
        return f"with more than {MOST_LOST:.1%} of events lost"
    return None
