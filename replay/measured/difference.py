# SPDX-License-Identifier: GPL-2.0-only
"""One allocator in two kernels: what differs, by pairs of guests that ran one after the other.

A guest's layout in memory is its own and colours all its times; so the same history is played in
guests of A and B in turn, and what is compared is pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.replay.errors import ReplayError
from ztrace.replay.measured.calls import Calls
from ztrace.replay.measured.figures import (
    NOT_PLAYED,
    OPS,
    SHARES,
    Answers,
    least_cycles,
    middle,
    own_cycles,
    percentiles,
)

MEAN, WAITED = "mean", "waited"

# Student's t, 97.5 %, by degrees of freedom: what so few pairs have to be widened by.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_T975_BEYOND = 2.179  # an upper bound for more pairs

Sample = dict[tuple[str, str], float]
"""(op, figure) -> cycles of the clock, of one guest."""


@dataclass(frozen=True)
class Difference:
    """``figure`` (mean, a percentile, or the mean time waited for the allocator's own locks, where
    several threads play) of the times of ``op``: means over the guests of A and of
    B, and of B - A by pairs with its 95 % interval, all in ns."""

    op: str
    figure: str
    a_ns: float
    b_ns: float
    difference_ns: float
    low_ns: float
    high_ns: float

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low_ns > 0 or self.high_ns < 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "is_told": self.is_told}


def sample(calls: Calls, answers: Answers) -> Sample:
    """The figures of one guest: of each call's least time over its rounds, or, where several
    threads played, the middle ones of its rounds."""
    found: Sample = {}
    least = least_cycles(calls, answers)
    played, alone = answers.ret < NOT_PLAYED, len(calls.first) == 2
    for op, code in OPS.items():
        chosen = played & (calls.op == code)
        if chosen.any():
            # The mean is finer than a step of the clock, a percentile is not.
            own = own_cycles(answers, least, chosen, alone)
            figures = middle([{MEAN: float(one.mean()), **percentiles(one)} for one in own])
            found |= {(op, name): cycles for name, cycles in figures.items()}
            if answers.waited_cycles is not None:
                of_all = answers.waited_cycles[1:, chosen]
                found[op, WAITED] = float(of_all.mean())
    return found


def differences(a: Sequence[Sample], b: Sequence[Sample], ns_per_cycle: float) -> list[Difference]:
    """B against A; ``a[i]`` and ``b[i]`` are a pair. ReplayError for fewer than two pairs.

    One length of a cycle for all: measured in each guest, it differs in the seventh digit, and
    equal figures would not be.
    """
    pairs = len(a)
    if pairs < 2 or len(b) != pairs:
        raise ReplayError("a difference has an interval from two pairs on")
    t = student(pairs)
    found = []
    for op in OPS:
        for figure in (MEAN, *SHARES, WAITED):
            key = op, figure
            if any(key not in one for one in (*a, *b)):
                continue
            first, second = (_values(one, key) * ns_per_cycle for one in (a, b))
            by_pair = second - first
            middle = float(by_pair.mean())
            wide = t * float(by_pair.std(ddof=1)) / math.sqrt(pairs)
            found.append(
                Difference(
                    *(op, figure, float(first.mean()), float(second.mean())),
                    *(middle, middle - wide, middle + wide),
                )
            )
    return found


def student(count: int) -> float:
    """Student's t, 97.5 %, of a mean of so many, at least two."""
    return _T975[count - 2] if count - 2 < len(_T975) else _T975_BEYOND


def _values(samples: Sequence[Sample], key: tuple[str, str]) -> NDArray[np.float64]:
    return np.array([one[key] for one in samples])


def equal_sizes(a: Answers, b: Answers) -> tuple[int, int]:
    """After how many calls the pools had one size and the calls one result; of how many."""
    same = (a.total_bytes == b.total_bytes) & (a.ret == b.ret)
    return int(same.sum()), len(same)
