# SPDX-License-Identifier: GPL-2.0-only
"""Replays and validates traces by both engines and insists that they say the same."""

from __future__ import annotations

from typing import Any

import pytest

from ztrace.allocator import native
from ztrace.replay import Result, replay
from ztrace.replay.play.native import can_replay, replay_native
from ztrace.replay.validate import FoundOrder
from ztrace.replay.validate.ztree_run import explain_trees
from ztrace.replay.validate.ztree_verdict import TreesVerdict
from ztrace.traces import TraceReader


def replay_both(reader: TraceReader, backend: str, **options: Any) -> Result:
    """The Python engine's result, or its error, which must be the core's too."""
    if native.reason_missing() or "make_pool" in options or not can_replay(backend):
        return replay(reader, backend, **options)
    try:
        expected = replay(reader, backend, **options)
    except Exception as error:
        with pytest.raises(type(error)) as refusal:
            replay_native(reader, [backend], **options)
        assert str(refusal.value) == str(error)
        raise
    [answered] = replay_native(reader, [backend], **options)
    assert_same(answered, expected)
    return expected


def validate_both(reader: TraceReader, **options: Any) -> tuple[TreesVerdict, list[FoundOrder]]:
    """The Python checker's verdict and order, which must be the core's too."""
    orders: list[FoundOrder] = []
    expected = explain_trees(reader, engine="python", on_order=orders.append, **options)
    if native.reason_missing() or "tree_class" in options:
        return expected, orders
    found: list[FoundOrder] = []
    answered = explain_trees(reader, engine="native", on_order=found.append, **options)
    assert without_time(answered) == without_time(expected)
    assert steps_of(found) == steps_of(orders)
    # Without an order wanted the core does less.
    assert without_time(explain_trees(reader, engine="native", **options)) == without_time(expected)
    return expected, orders


def without_time(verdict: TreesVerdict) -> dict[str, Any]:
    """All figures of a verdict but those of this machine."""
    document = verdict.to_dict()
    assert set(document.pop("measured_here")) == {"wall_s"}
    return document


def steps_of(orders: list[FoundOrder]) -> list[tuple[int, int, int]]:
    """An order as (at_ns, row, step)."""
    return [
        step
        for part in orders
        for step in zip(part.at_ns.tolist(), part.row.tolist(), part.step.tolist(), strict=True)
    ]


def assert_same(answered: Result, expected: Result) -> None:
    """All figures are equal; means over time are rounded differently."""
    ours, theirs = answered.to_dict(), expected.to_dict()
    for result in (ours, theirs):
        del result["measured_here"]
    for name in ("objects", "stored_bytes", "held_bytes"):
        _assert_near(ours[name].pop("mean"), theirs[name].pop("mean"))
    _assert_near(ours.pop("mean_density"), theirs.pop("mean_density"))
    assert ours == theirs
    for counts in ("unknown", "failed"):  # they are printed in order
        assert list(ours[counts]) == list(theirs[counts])


def _assert_near(mean: float | None, wanted: float | None) -> None:
    assert mean == (None if wanted is None else pytest.approx(wanted, rel=1e-12))
