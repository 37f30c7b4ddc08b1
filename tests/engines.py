# SPDX-License-Identifier: GPL-2.0-only
"""Replays and validates traces by both engines and insists that they say the same."""

from __future__ import annotations

from typing import Any

import pytest

from ztrace.allocator import native
from ztrace.replay import Result, replay
from ztrace.replay.play.native import can_replay, replay_native
from ztrace.replay.validate import FoundOrder, Verdict, recorded_native, validate_trace
from ztrace.replay.validate.calls import windows
from ztrace.replay.validate.lock_native import NativeLocks
from ztrace.replay.validate.lock_order import OPS, LockOrder
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
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


def validate_places(reader: TraceReader, **options: Any) -> Verdict:
    """The verdict of the models in Python, and what the core says of the pools by itself."""
    verdict = validate_trace(reader, engine="python", **options)
    found = validate_trace(reader, **options)
    assert [one.to_dict() for one in found.pools] == [one.to_dict() for one in verdict.pools]
    for pool in verdict.pools:
        if pool.order not in (Way.RECORDED, Way.LOCK) or native.reason_missing():
            continue  # the core searches an order itself, and says what differs
        seen = _in_core(reader, pool)
        agrees = pool.agrees and not (pool.undetermined or pool.unknown)
        assert (seen is not None) == agrees
        assert seen is None or seen.to_dict() == pool.to_dict()
    return verdict


def _in_core(reader: TraceReader, pool: PoolPlacement) -> PoolPlacement | None:
    """None where the model in Python is to be asked."""
    result = PoolPlacement(pool.pool, pool.allocator, pool.backend, pool.starts_empty, pool.order)
    if pool.order == Way.RECORDED:
        result.notes = list(pool.notes)
        pools = {pool.pool: result} if recorded_native.can_play(result) else {}
        return recorded_native.agreeing(reader, pools, lambda rows: None).get(pool.pool)
    run = LockOrder(result, NativeLocks(result))
    for window in windows(reader, ops=OPS, also=("total", "place", "lock_ns")):
        run.feed(window.calls, window.until)
    return run.finish()


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
