# SPDX-License-Identifier: GPL-2.0-only
"""Thresholds on a report, for machines that only want to know whether to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Thresholds:
    """Limits as shares (0.01 is 1 %); None: not checked.

    ``least_explained``: calls the model explains; ``most_size_error``: the 99th percentile of
    the model's pool size against the kernel's; ``most_lost``: events lost.
    """

    least_explained: float | None = None
    most_size_error: float | None = None
    most_lost: float | None = None


@dataclass(frozen=True)
class Check:
    """One threshold on one recording. ``value`` None: not known, which does not pass."""

    recording: str
    check: str
    value: float | None
    limit: float
    passed: bool


def check(recordings: Sequence[dict[str, Any]], limits: Thresholds) -> list[dict[str, Any]]:
    """Compare each recording's part of a document with the limits; plain JSON types."""
    return [asdict(one) for recording in recordings for one in _checks(recording, limits)]


def _checks(recording: dict[str, Any], limits: Thresholds) -> Iterator[Check]:
    label = recording["label"]
    if limits.least_explained is not None:
        found = recording["validation"]
        value = None
        if found and found["calls"]:
            value = (found["explained"] + found["undetermined"]) / found["calls"]
        passed = value is not None and value >= limits.least_explained
        yield Check(label, "calls explained, at least", value, limits.least_explained, passed)
    if limits.most_size_error is not None:
        error = recording["size_error"]
        value = None if error is None else error["p99_share"]
        passed = value is not None and value <= limits.most_size_error
        yield Check(label, "pool size error p99, at most", value, limits.most_size_error, passed)
    if limits.most_lost is not None:
        value = recording["lost_share"]  # None: nobody counted
        passed = value is not None and value <= limits.most_lost
        yield Check(label, "lost events, at most", value, limits.most_lost, passed)
