# SPDX-License-Identifier: GPL-2.0-only
"""Memory over time: the models' and the kernel's, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ztrace.replay.figures.result import Every, Moment, Result
from ztrace.replay.report.statistics import (
    Floats,
    Interval,
    as_dict,
    interval,
    ratio_draws,
    rounded,
    stream_of,
)

BINS, PER_BIN = 300, 8
LOOKS = 96
"""How often it is noted what slots are used for."""

_SLOT_BIN = 128
EVERY = Every(percent=100 / (BINS * PER_BIN))
"""How finely a replay is sampled: PER_BIN moments in each of a page's BINS."""


class Memory:
    """A replay's time series as arrays, one value a moment; bytes, and NaN for no kernel total."""

    def __init__(self, moments: Sequence[Moment], first_ns: int, page_bytes: int) -> None:
        def column(name: str) -> Floats:
            values = [getattr(moment, name) for moment in moments]
            return np.array([np.nan if value is None else value for value in values], np.float64)

        self.page_bytes = page_bytes
        self.t_ns = np.array([moment.t_ns for moment in moments], np.int64)
        self.first_ns = first_ns
        self.objects, self.held = column("objects"), column("held_bytes")
        self.stored = column("stored_bytes")
        self.model, self.kernel = column("model_total"), column("kernel_total")

    @property
    def has_kernel(self) -> bool:
        """Whether the kernel's total is known at any moment."""
        return not bool(np.isnan(self.kernel).all())

    def density(self, name: str, *, kernel: bool = False) -> Interval | None:
        """Mean pages stored over mean pages held, with its interval over stretches of time."""
        held = self.kernel if kernel else self.held
        known = ~np.isnan(held)
        above, below = self.objects[known] * self.page_bytes, held[known]
        if not below.any():
            return None
        value = float(above.sum() / below.sum())
        draws = ratio_draws(above, below, stream_of(name))
        return interval(value, draws) or Interval(value, float("nan"), float("nan"))

    def at_ends(self, values: Floats) -> list[float | None]:
        """The value at the end of each bin; None where it is not known."""
        ends = [float(part[-1]) for part in self._bins(values)]
        return [None if np.isnan(end) else end for end in ends]

    def times_s(self) -> list[float]:
        """The end of each bin, seconds after the first call."""
        ends = [part[-1] for part in self._bins(self.t_ns)]
        return [round((int(end) - self.first_ns) / 1e9, 6) for end in ends]

    def bands(self, values: Floats) -> dict[str, list[float | None]]:
        """Least and greatest value of each bin, and that at its end; None where there is none."""
        low: list[float | None] = []
        high: list[float | None] = []
        for part in self._bins(values):
            known = part[~np.isnan(part)]
            low.append(float(known.min()) if len(known) else None)
            high.append(float(known.max()) if len(known) else None)
        return {"low": low, "high": high, "end": self.at_ends(values)}

    def densities(self, held: Floats) -> list[float | None]:
        """Pages stored over pages held in each bin; None where nothing was held or known."""
        pairs = zip(self._bins(self.objects), self._bins(np.nan_to_num(held)), strict=True)
        found = [(float(a[b > 0].sum()) * self.page_bytes, float(b.sum())) for a, b in pairs]
        return [rounded([above / below])[0] if below else None for above, below in found]

    def size_error(self) -> dict[str, float] | None:
        """Model's pool size minus the kernel's at the moments at which the kernel's is known.

        Absolute differences: bytes, and as a share of what the kernel had. None without any.
        """
        known = ~np.isnan(self.kernel) & (np.nan_to_num(self.kernel) > 0)
        if not known.any():
            return None
        apart = np.abs(self.model[known] - self.kernel[known])
        share = apart / self.kernel[known]
        figures: dict[str, float] = {"moments": int(known.sum())}
        for key, fraction in (("median", 0.5), ("p99", 0.99), ("max", 1.0)):
            figures[f"{key}_bytes"] = float(np.quantile(apart, fraction, method="higher"))
            figures[f"{key}_share"] = float(np.quantile(share, fraction, method="higher"))
        return figures

    def _bins(self, values: Any) -> list[Any]:
        return [values[i : i + PER_BIN] for i in range(0, len(values), PER_BIN)]


def model_dict(result: Result, memory: Memory, name: str) -> dict[str, Any]:
    """One model's replay as plain JSON types."""
    density = memory.density(name)
    return {
        "name": result.backend,
        "held_bytes": {
            "peak": result.held_bytes.peak,
            "mean": result.held_bytes.mean,
            "end": result.held_bytes.end,
        },
        "density": as_dict(_known(density)),
        "mean_density": result.mean_density,
        "density_at_peak": result.at_peak.density,
        "stranded_bytes_near_peak": result.stat("stranded_bytes", "stats_near_peak"),
        "spanning": (found := result.spanning()) and asdict(found),
        "refused": result.count("refused"),
        "hazards": {key: count for key, (count, _) in result.hazards().items()},
        "hazards_first": {key: first for key, (_, first) in result.hazards().items()},
        "stopped": [pool.stopped for pool in result.pools if pool.stopped],
        "band": memory.bands(memory.held),
        "densities": memory.densities(memory.held),
        "classes": [row for row in result.classes("stats_near_peak") if row.get("blocks")],
    }


def use_dict(result: Result) -> dict[str, Any] | None:
    """What slots were used for over time, as plain JSON types; None where that was not noted.

    ``free_bytes``: of all slots that are free, ``stranded_bytes`` of those that malloc does not
    find. ``unused``: a row for each look, of shares of slots that are free, a bin of slot sizes
    each up to ``largest_bytes``; 0 where there is no slot.
    """
    looks = [look for look in result.looks if look.classes]
    if not looks:
        return None
    largest = max(look.classes[-1][0] for look in looks)
    bins = -(-largest // _SLOT_BIN)
    unused, free_bytes = [], []
    for look in looks:
        slots, free = np.zeros(bins), np.zeros(bins)
        for size, count, idle in look.classes:
            at = (size - 1) // _SLOT_BIN
            slots[at] += count * size
            free[at] += idle * size
        unused.append([round(share, 3) for share in (free / np.maximum(slots, 1)).tolist()])
        free_bytes.append(sum(size * idle for size, _, idle in look.classes))
    stranded = [look.stranded_bytes for look in looks]
    return {
        "t_s": [round((look.t_ns - result.first_ns) / 1e9, 6) for look in looks],
        "span_s": (looks[-1].t_ns - result.first_ns) / 1e9,
        "largest_bytes": bins * _SLOT_BIN,
        "free_bytes": free_bytes,
        "stranded_bytes": None if None in stranded else stranded,
        "unused": unused,
    }


def _known(found: Interval | None) -> Interval | None:
    """Without an interval whose bounds are not known, which JSON cannot say."""
    return None if found is None or np.isnan(found.low) else found
