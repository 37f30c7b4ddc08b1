# SPDX-License-Identifier: GPL-2.0-only
"""Tables that set programs against allocators: the same program recorded once under each.

They show a report's document (gather.py) and what :func:`summarise` derives from it; a
recording's program is what it ran, the last word of its command. Durations are given as ratios
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ztrace.allocator.specification import family
from ztrace.replay.report.gather import CLAIMED
from ztrace.replay.report.render import as_markdown
from ztrace.replay.report.tables import (
    Cell,
    Row,
    Table,
    count,
    loss_text,
    mib,
    number,
    percent,
    ratio,
    text,
)
from ztrace.replay.report.tables import tables as report_tables

Json = dict[str, Any]

OURS, *OTHERS = CLAIMED
OPS = ("malloc", "free", "map", "store", "load")
QUANTILES = ("p50", "p99")
SIZE_QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90, 0.99)
PARTS = 10
"""Memory over time is shown at the end of so many equal parts of a recording."""


def study(document: Json) -> str:
    """A report's document as the study's Markdown. ``document`` gets a part ``study``."""
    document["study"] = summarise(document)
    return as_markdown(document, list(tables(document)), "Case study")


def program_of(recording: Json) -> str:
    """What a recording ran."""
    return str(recording["command"][-1]) if recording["command"] else "unknown"


def summarise(document: Json) -> Json:
    """What the tables need and a report does not have.

    ``same_filled``: for each recording, stores that needed no object. ``sizes``: for each
    program, mallocs of all its recordings, their mean and SIZE_QUANTILES, bytes. ``durations``:
    for each program and op, ztree's quantile over each other allocator's.
    """
    recordings = document["recordings"]
    programs = list(dict.fromkeys(map(program_of, recordings)))
    return {
        "same_filled": [_same_filled(one) for one in recordings],
        "sizes": {
            program: _sizes([one for one in recordings if program_of(one) == program])
            for program in programs
        },
        "durations": {program: _durations(recordings, program) for program in programs},
    }


def _same_filled(recording: Json) -> int | None:
    stores, mallocs = (recording["latency"].get(op) for op in ("store", "malloc"))
    if stores is None or mallocs is None:
        return None
    done = [calls["calls"] - calls["failed"] for calls in (stores, mallocs)]
    return int(done[0] - done[1])


def _sizes(recordings: list[Json]) -> Json:
    mallocs = np.sum([one["sizes"]["mallocs"] for one in recordings], axis=0)
    total = int(mallocs.sum())
    if not total:
        return {"mallocs": 0, "mean": None, "quantiles": [None] * len(SIZE_QUANTILES)}
    means = [one["sizes"]["mean_bytes"] or 0 for one in recordings]
    weights = [one["sizes"]["objects"] for one in recordings]
    ranks = np.ceil(np.array(SIZE_QUANTILES) * total)
    bins = np.searchsorted(np.cumsum(mallocs), ranks)
    return {
        "mallocs": total,
        "mean": float(np.average(means, weights=weights)),
        "quantiles": [recordings[0]["sizes"]["bytes"][i] for i in bins.tolist()],
    }


def _durations(recordings: list[Json], program: str) -> Json:
    by_allocator = {one["allocator"]: one for one in recordings if program_of(one) == program}

    def value(allocator: str, op: str, quantile: str) -> float | None:
        found = by_allocator.get(allocator, {"latency": {}})["latency"].get(op)
        return None if found is None else found[f"{quantile}_ns"]

    def over(other: str, op: str, quantile: str) -> float | None:
        ours, theirs = value(OURS, op, quantile), value(other, op, quantile)
        return ours / theirs if ours is not None and theirs else None

    return {
        op: {other: {q: over(other, op, q) for q in QUANTILES} for other in OTHERS} for op in OPS
    }


def tables(document: Json) -> Iterator[Table]:
    """The study's tables, in the order in which they are read."""
    claims = next(table for table in report_tables(document) if table.name == "claims")
    source = "claims of the 2021 posting; ztrace report of the same recordings has the evidence"
    yield replace(claims, source=source)
    yield _recorded(document)
    yield _validated(document)
    yield _objects(document)
    yield _density(document)
    yield _same_objects(document)
    yield _over_time(document)
    yield _ageing(document)
    yield _times(document)


def _rows(document: Json, cells: Callable[[Row, int], list[Cell]]) -> list[list[Cell]]:
    """A row for each recording, which begins with its program and allocator."""
    rows = []
    for i, one in enumerate(document["recordings"]):
        row = Row(document, "recordings", i)
        place = ("recordings", i, "command", len(one["command"]) - 1)
        program = program_of(one)
        begin = [Cell(place, program, program), row.cell(text, "allocator")]
        rows.append([*begin, *cells(row, i)])
    return rows


def _recorded(document: Json) -> Table:
    def cells(row: Row, i: int) -> list[Cell]:
        return [
            row.cell(count, "rows"),
            *(row.cell(count, "latency", op, "calls") for op in ("store", "load", "malloc")),
            Row(document, "study", "same_filled").cell(count, i),
            row.cell(count, "memory", "objects_peak"),
            row.cell(number, "span_s"),
        ]

    headers = ("program", "allocator", "rows", "stores", "loads", "mallocs", "same", "live", "s")
    return Table(
        *("recorded", "What was recorded", headers, _rows(document, cells), 2),
        "recorded rows; same: stores of same-filled pages, which need no object; live: most "
        "objects at once; s: guest's seconds from the first call to the last",
        f"none: counted; {loss_text(document)}",
    )


def _validated(document: Json) -> Table:
    def cells(row: Row, i: int) -> list[Cell]:
        keys = ("calls", "explained", "undetermined", "sizes_equal", "sizes_compared")
        known = [row.cell(count, "validation", key) for key in keys]
        apart = row.cell(percent, "size_error", "p99_share")
        return [*known, apart, row.cell(count, "lost_events")]

    headers = (
        *("program", "allocator", "calls", "explained", "undet.", "sizes", "of", "off %"),
        "lost",
    )
    return Table(
        *("validated", "Model against kernel", headers, _rows(document, cells), 2),
        "ztrace validate: explained: calls whose answer by the kernel the model gives; undet.: "
        "the recording does not tell; sizes: pool sizes equal, of those compared after each call "
        "(ztree's follow from the order found); "
        "off: model's pool size against the kernel's, 99th percentile of moments",
        "none: counted; the kernel reads its total after other CPUs' calls",
    )


def _objects(document: Json) -> Table:
    rows = []
    for program in document["study"]["sizes"]:
        row = Row(document, "study", "sizes", program)
        quantiles = [row.cell(count, "quantiles", i) for i in range(len(SIZE_QUANTILES))]
        name = Cell(row.base, program, program)
        rows.append([name, row.cell(count, "mallocs"), row.cell(number, "mean"), *quantiles])
    headers = ("program", "mallocs", "mean", *(f"p{q * 100:.0f}" for q in SIZE_QUANTILES))
    return Table(
        *("sizes", "Compressed sizes (bytes)", headers, rows, 1),
        "mallocs of all recordings of a program, zswap's header taken off",
        "quantiles: at most 15 bytes above",
    )


def _density(document: Json) -> Table:
    def cells(row: Row, i: int) -> list[Cell]:
        below = ("memory", "kernel")
        return [
            *(row.cell(mib, *below, key) for key in ("peak_bytes", "mean_bytes")),
            row.cell(ratio, *below, "mean_density"),
            *(row.cell(ratio, *below, "density", key) for key in ("low", "high")),
        ]

    headers = ("program", "allocator", "peak MiB", "mean MiB", "density", "low", "high")
    return Table(
        *("density", "Memory held in the kernel", headers, _rows(document, cells), 2),
        "the kernel's own totals; density: pages stored / pages held, mean over time",
        "low, high: 95 %, block bootstrap over time; ztree's own total leaves out what is wasted "
        "at the end of a block, up to 1.2 %",
    )


def _same_objects(document: Json) -> Table:
    def cells(row: Row, i: int) -> list[Cell]:
        models = document["recordings"][i]["memory"]["models"]
        found = {family(backend): backend for backend in models}
        return [
            row.cell(ratio, "memory", "models", found.get(name, name), "mean_density")
            for name in CLAIMED
        ]

    headers = ("program", "recorded", *CLAIMED)
    return Table(
        *("same-objects", "Density on the same objects", headers, _rows(document, cells), 2),
        "each recording replayed through the models of all; pages really held",
        "exact for the recorded calls; another allocator would have had others",
    )


def _over_time(document: Json) -> Table:
    bins = len(document["recordings"][0]["memory"]["t_s"])
    ends = [round(bins * (i + 1) / PARTS) - 1 for i in range(PARTS)]

    def cells(row: Row, i: int) -> list[Cell]:
        return [row.cell(short_mib, "memory", "kernel", "band", "high", end) for end in ends]

    headers = ("program", "allocator", *(f"{100 * (i + 1) // PARTS}%" for i in range(PARTS)))
    return Table(
        *("over-time", "Held in the kernel over time (MiB)", headers, _rows(document, cells), 2),
        "the kernel's total after each tenth of the recording; at its end the program has exited",
        "none: counted",
    )


def short_mib(value: float) -> str:
    """Bytes as MiB, one digit behind the point."""
    return f"{value / 2**20:,.1f}"


def _ageing(document: Json) -> Table:
    def cells(row: Row, i: int) -> list[Cell]:
        below = "kernel_ageing"
        return [
            *(row.cell(how, below, key) for how, key in ((number, "turnovers"), _RATIO)),
            *(row.cell(percent, below, "slope", key) for key in ("value", "low", "high")),
            row.cell(percent, below, "growth", "value"),
        ]

    headers = ("program", "allocator", "turnov.", "ratio", "slope", "low", "high", "growth")
    return Table(
        *("ageing", "Ageing in the kernel", headers, _rows(document, cells), 2),
        "held / held by a fresh pool with the same objects; slope in % per turnover (mallocs / "
        "mean live objects), growth in % over all of them",
        "low, high: 95 %, moving blocks of residuals",
    )


_RATIO = (ratio, "mean_ratio")


def _times(document: Json) -> Table:
    rows = []
    for program, ops in document["study"]["durations"].items():
        for op in ops:
            row = Row(document, "study", "durations", program, op)
            begin = [Cell(row.base, program, program), Cell(row.base, op, op)]
            ratios = [row.cell(ratio, other, q) for other in OTHERS for q in QUANTILES]
            rows.append([*begin, *ratios])
    headers = ("program", "op", *(f"{other} {q}" for other in OTHERS for q in QUANTILES))
    return Table(
        *("times", "Durations, ztree's / the other's", headers, rows, 2),
        "recorded durations of all calls, probe cost included; one recording each",
        "under software emulation only a hint: instructions are slow alike, caches and "
        "contention are not those of a machine",
    )
