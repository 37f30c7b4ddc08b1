# SPDX-License-Identifier: GPL-2.0-only
"""Recorded plus lost against the kernel's counters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ztrace.tracer.crosscheck import check_counters
from ztrace.tracer.ring import OP_INVALIDATE, OP_LOAD, OP_STORE
from ztrace.traces import Metadata

OUT = "vmstat.zswpout"


def check(
    readings: tuple[int, int, int, int],
    recorded: int,
    lost: int = 0,
    unknown: int = 0,
    left_out: int = 0,
) -> bool:
    by_op = np.zeros((4, 32), np.int64)
    by_op[:, OP_STORE] = recorded, lost, unknown, left_out
    before, opened, closing, closed = ({OUT: reading} for reading in readings)
    found = check_counters(
        (before, opened, closing, closed), by_op[0], by_op[3], (by_op[1], by_op[2]), skipped=0
    )
    document = Metadata().to_dict() | {"counters": {"check": found}}
    [made] = Metadata.from_json(json.dumps(document)).counters.check
    return made.agrees


@pytest.mark.parametrize(
    ("recorded", "lost", "unknown", "agrees"),
    [
        (100, 0, 0, True),
        (99, 1, 0, True),
        (99, 0, 1, True),  # one that may have been a store
        (99, 0, 0, False),  # one is missing and was not counted
        (101, 0, 0, False),  # more than there were
        (100, 1, 0, False),
    ],
)
def test_quiet_beginning_and_end(recorded: int, lost: int, unknown: int, agrees: bool) -> None:
    assert check((7, 7, 107, 107), recorded, lost, unknown) == agrees


def test_what_happens_while_the_gate_moves_may_be_in_or_out() -> None:
    readings = (0, 3, 103, 105)
    assert [check(readings, n) for n in (99, 100, 105, 106)] == [False, True, True, False]


def test_a_counter_that_the_kernel_lacks_is_not_checked() -> None:
    nothing: dict[str, int] = {}
    ops = np.zeros(32, np.int64)
    assert check_counters((nothing,) * 4, ops, ops, (ops, ops), 0) == []


def test_what_was_left_out_by_choice_belongs_to_the_sum() -> None:
    readings = (7, 7, 107, 107)
    assert [check(readings, 20, left_out=n) for n in (79, 80, 81)] == [False, True, False]
    assert check(readings, 20, lost=5, left_out=75)


def test_a_counter_of_calls_that_were_not_recorded_is_not_checked() -> None:
    ops = np.zeros(32, np.int64)
    readings = ({OUT: 7, "vmstat.zswpin": 7},) * 4
    found = check_counters(readings, ops, ops, (ops, ops), 0, ops=["store", "malloc"])
    assert [one["counter"] for one in found] == [OUT]


def zram_check(
    recorded: dict[int, int], counted: dict[str, int], ops: tuple[str, ...] = ("load", "invalidate")
) -> dict[str, bool]:
    """Which of zram's counters agree; ``counted`` while recording, from a quiet beginning."""
    before = dict.fromkeys(counted, 7)
    after = {name: 7 + count for name, count in counted.items()}
    by_op, nothing = np.zeros(32, np.int64), np.zeros(32, np.int64)
    for op, count in recorded.items():
        by_op[op] = count
    found = check_counters(
        (before, before, after, after), by_op, nothing, (nothing, nothing), 0, "zram", ops
    )
    document = Metadata().to_dict() | {"counters": {"check": found}}
    made = Metadata.from_json(json.dumps(document)).counters.check
    return {one.counter: one.agrees for one in made}


ZRAM = {
    "zram0.pages_read": 30,
    "zram0.pages_written": 20,
    "zram0.notify_free": 9,
    "zram0.miss_free": 1,
    "vmstat.zswpin": 0,
}


def test_zram_is_held_against_its_own_counters() -> None:
    """A slot is freed for each page written and when told to be, but for those that were busy."""
    good = {"zram.pages_read": True, "zram.slots_freed": True}
    assert zram_check({OP_LOAD: 30, OP_INVALIDATE: 28}, ZRAM) == good
    assert zram_check({OP_LOAD: 29, OP_INVALIDATE: 28}, ZRAM) == good | {"zram.pages_read": False}
    assert zram_check({OP_LOAD: 30, OP_INVALIDATE: 29}, ZRAM) == good | {"zram.slots_freed": False}


def test_several_zram_devices_count_together() -> None:
    second = {name.replace("zram0", "zram1"): count for name, count in ZRAM.items()}
    found = zram_check({OP_LOAD: 60, OP_INVALIDATE: 56}, ZRAM | second)
    assert found == {"zram.pages_read": True, "zram.slots_freed": True}


def test_what_is_not_probed_or_not_counted_is_not_checked() -> None:
    # 6.1's reads of zram cannot be probed.
    assert zram_check({OP_INVALIDATE: 28}, ZRAM, ("invalidate",)) == {"zram.slots_freed": True}
    without = {name: count for name, count in ZRAM.items() if "miss_free" not in name}
    assert list(zram_check({OP_LOAD: 30}, without)) == ["zram.pages_read"]
