# SPDX-License-Identifier: GPL-2.0-only
"""Recorded plus lost against the kernel's counters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tracer.crosscheck import check_counters
from tracer.ring import OP_STORE
from traces import Metadata

OUT = "vmstat.zswpout"


def check(
    readings: tuple[int, int, int, int], recorded: int, lost: int = 0, unknown: int = 0
) -> bool:
    by_op = np.zeros((3, 32), np.int64)
    by_op[:, OP_STORE] = recorded, lost, unknown
    before, opened, closing, closed = ({OUT: reading} for reading in readings)
    found = check_counters(
        (before, opened, closing, closed), by_op[0], (by_op[1], by_op[2]), skipped=0
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
    assert check_counters((nothing,) * 4, ops, (ops, ops), 0) == []
