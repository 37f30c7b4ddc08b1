# SPDX-License-Identifier: GPL-2.0-only
"""The report on a sweep: which model was densest for each workload, and what parameters change.

The document holds every row of the sweep; tables and plots are places in it, as in any report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from ztrace.replay.report.tables import Cell, Path, Table, count, mib, pointer, ratio, text

Json = dict[str, Any]

VERSION = 1
MEASURE = "density_mean"
"""What the best model has most of: pages stored / pages held, over time. Not the memory held: a
model that refuses objects holds less, too."""

MOST_ROWS = 200
"""Rows of the table of all runs; the others are in the JSON."""

SHOWN = ("density_mean", "held_bytes_mean", "stranded_bytes_near_peak", "spanning_share")
"""Figures drawn against each numeric parameter."""


def sweep_document(rows: Sequence[Json]) -> Json:
    """The document on a sweep's rows (:func:`replay.sweep.read_results`)."""
    names = _short(sorted({row["trace"] for row in rows}))
    runs = [{**row, "workload": names[row["trace"]], "setting": _setting(row)} for row in rows]
    return {
        "ztrace_sweep_report": VERSION,
        "runs": runs,
        "best": _best(runs),
        "fleet": fleet(runs),
        "sensitivity": list(_sensitivity(runs)),
        "failed": sum(run["error"] is not None for run in runs),
    }


def is_sweep(document: Json) -> bool:
    """Whether a report's document is on a sweep."""
    return "ztrace_sweep_report" in document


def _short(traces: Sequence[str]) -> dict[str, str]:
    """File names where they tell the traces apart, else all of the path."""
    short = {trace: PurePath(trace).name.removesuffix(".parquet") for trace in traces}
    return short if len(set(short.values())) == len(traces) else {t: t for t in traces}


def _parameters(run: Json) -> dict[str, Any]:
    return {
        key.removeprefix("param."): value
        for key, value in run.items()
        if key.startswith("param.") and value is not None
    }


def _setting(run: Json) -> str:
    return ", ".join(f"{name}={_plain(value)}" for name, value in _parameters(run).items())


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _good(run: Json) -> bool:
    return run["error"] is None and run["stopped"] is None and bool(run.get(MEASURE))


def _best(runs: Sequence[Json]) -> list[Json]:
    """For each workload and value of the replay's own parameters: models by their density.

    Items of a backend are part of what is compared; ``scale`` and a limit ask something else.
    """
    groups: dict[tuple[str, Any, str], list[tuple[int, Json]]] = {}
    for number, run in enumerate(runs):
        if _good(run):
            asked = (run["workload"], run.get("param.scale"), _limit(run))
            groups.setdefault(asked, []).append((number, run))
    found = []
    for (workload, scale, limit), members in groups.items():
        ranked = sorted(members, key=lambda member: (-member[1][MEASURE], member[0]))
        most = ranked[0][1][MEASURE]
        found.append(
            {
                "workload": workload,
                "scale": scale,
                "limit": limit or None,
                "ranking": [
                    {"run": number, "model": run["model"], "of_best": run[MEASURE] / most}
                    for number, run in ranked
                ],
            }
        )
    return found


def _limit(run: Json) -> str:
    """What was asked of a pool limit; empty if nothing was."""
    given = ((name, run.get(f"param.{name}")) for name in ("limit", "accept", "rules"))
    return ", ".join(f"{name}={_plain(value)}" for name, value in given if value is not None)


FLEET = (MEASURE, "held_bytes_mean", "limit_rejected", "limit_refaults")
"""Figures whose spread over traces is told."""

QUANTILES = (0.1, 0.5, 0.9)


def fleet(rows: Sequence[Json]) -> list[Json]:
    """For each backend and setting that several traces have: quantiles over these, a host each.

    ``figures``: name -> least, the values of :data:`QUANTILES`, most; a value is a trace's own, the
    smallest that at least so many of the traces do not exceed. Of figures that all of them have.
    """
    groups: dict[tuple[str, str], list[Json]] = {}
    for row in filter(_good, rows):
        groups.setdefault((row["backend"], _setting(row)), []).append(row)
    found = []
    for (backend, setting), members in groups.items():
        figures = {}
        for name in FLEET:
            values = sorted(row[name] for row in members if row.get(name) is not None)
            if len(values) != len(members):
                continue
            ranks = [max(0, math.ceil(share * len(values)) - 1) for share in QUANTILES]
            figures[name] = [values[0], *(values[rank] for rank in ranks), values[-1]]
        if len({row["trace"] for row in members}) > 1:
            hosts = len(members)
            found.append(
                {"backend": backend, "setting": setting, "traces": hosts, "figures": figures}
            )
    return found


def _sensitivity(runs: Sequence[Json]) -> Iterator[Json]:
    """Each figure against each numeric parameter: a series for each backend and rest of a setting.

    ``x``, ``y``: the parameter's values, ascending, and the figure.
    """
    numeric = {
        name
        for run in runs
        for name, value in _parameters(run).items()
        if isinstance(value, int | float)
    }
    for parameter in sorted(numeric):
        for figure in SHOWN:
            series: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for run in filter(_good, runs):
                own = _parameters(run)
                if parameter not in own or run.get(figure) is None:
                    continue
                rest = {k: v for k, v in own.items() if k != parameter}
                name = ", ".join([run["backend"], *(f"{k}={_plain(v)}" for k, v in rest.items())])
                points = series.setdefault((run["workload"], name), [])
                points.append((own[parameter], run[figure]))
            drawn = [
                {
                    "workload": workload,
                    "name": name,
                    "x": [x for x, _ in sorted(points)],
                    "y": [y for _, y in sorted(points)],
                }
                for (workload, name), points in series.items()
                if len(points) > 1
            ]
            if drawn:
                yield {"parameter": parameter, "figure": figure, "series": drawn}


# -- tables ------------------------------------------------------------------------------------

_SOURCE = "replay of each trace through each model; traces' own losses are in column lost"
_EXACT = "none of the models'; a trace that lost events is wrong by as many objects"


def sweep_tables(document: Json) -> Iterator[Table]:
    """The tables on a sweep, in the order in which they are read."""
    yield _best_table(document)
    if document["fleet"]:
        yield _fleet_table(document)
    yield _runs_table(document)
    if document["failed"]:
        yield _failed_table(document)


def _cell(document: Json, path: Path, how: Any) -> Cell:
    found: Any = document
    for key in path:
        found = found[key]
    return Cell(path, found, "-" if found is None else how(found))


def _best_table(document: Json) -> Table:
    rows = []
    for i, group in enumerate(document["best"]):
        for k, entry in enumerate(group["ranking"][:3]):
            at: Path = ("best", i, "ranking", k)
            run: Path = ("runs", entry["run"])
            rows.append(
                [
                    _cell(document, ("best", i, "workload"), text),
                    _cell(document, ("best", i, "scale"), _plain),
                    _cell(document, ("best", i, "limit"), text),
                    _cell(document, (*at, "model"), text),
                    _cell(document, (*run, "density_mean"), ratio),
                    _cell(document, (*at, "of_best"), ratio),
                    _cell(document, (*run, "held_bytes_mean"), mib),
                    _cell(document, (*run, "refused"), count),
                ]
            )
    headers = (
        *("workload", "scale", "limit", "model", "density", "of best", "held (MiB)", "refused"),
    )
    return Table(
        *("best", "Densest for each workload: the first three", headers, rows, 4),
        _SOURCE,
        _EXACT,
        [
            "density: pages stored / pages held, held: both means over time; "
            "refused: objects the model did not take"
        ],
    )


_FLEET_CELLS = {
    MEASURE: ("density", ratio),
    "held_bytes_mean": ("held (MiB, mean)", mib),
    "limit_rejected": ("rejected", count),
    "limit_refaults": ("refaults", count),
}


def _fleet_table(document: Json) -> Table:
    rows = []
    for i, one in enumerate(document["fleet"]):
        for name in one["figures"]:
            label, how = _FLEET_CELLS[name]
            at: Path = ("fleet", i, "figures", name)
            rows.append(
                [
                    _cell(document, ("fleet", i, "backend"), text),
                    _cell(document, ("fleet", i, "setting"), text),
                    Cell(at, label, label),
                    _cell(document, ("fleet", i, "traces"), count),
                    *(_cell(document, (*at, k), how) for k in range(len(QUANTILES) + 2)),
                ]
            )
    shares = [f"{share:.0%}" for share in QUANTILES]
    headers = ("model", "setting", "figure", "traces", "least", *shares, "most")
    return Table(
        *("fleet", "Over the traces", headers, rows, 3),
        _SOURCE,
        _EXACT,
        ["a column is the value that so many of the traces do not exceed"],
    )


def _runs_table(document: Json) -> Table:
    rows = []
    good = [number for number, run in enumerate(document["runs"]) if run["error"] is None]
    for number in good[:MOST_ROWS]:
        at: Path = ("runs", number)
        rows.append(
            [
                *(_cell(document, (*at, key), text) for key in ("workload", "backend", "setting")),
                _cell(document, (*at, "density_mean"), ratio),
                *(_cell(document, (*at, f"held_bytes_{key}"), mib) for key in ("mean", "peak")),
                _cell(document, (*at, "stranded_bytes_near_peak"), mib),
                _cell(document, (*at, "lost"), count),
            ]
        )
    notes = [
        f"{run['workload']}, {run['model']}: replay ended early at {run['stopped']}"
        for run in document["runs"]
        if run["error"] is None and run["stopped"]
    ]
    notes += dict.fromkeys(
        f"{run['workload']}, {run['backend']}: {run['qualified']}"
        for run in document["runs"]
        if run.get("qualified")
    )
    if len(good) > MOST_ROWS:
        notes.append(f"{len(good) - MOST_ROWS:,} more runs are in the JSON")
    headers = ("workload", "model", "setting", "density", "mean", "peak", "stranded", "lost")
    return Table(*("runs", "Runs (MiB held)", headers, rows, 3), _SOURCE, _EXACT, notes)


def _failed_table(document: Json) -> Table:
    failed = [number for number, run in enumerate(document["runs"]) if run["error"] is not None]
    rows = [
        [
            _cell(document, ("runs", number, key), text)
            for key in ("workload", "backend", "setting", "error")
        ]
        for number in failed[:MOST_ROWS]
    ]
    headers = ("workload", "model", "setting", "error")
    return Table(*("failed", "Runs that failed", headers, rows, 4), "the sweep", "none: counted")


# -- plots -------------------------------------------------------------------------------------

_LABELS: dict[str, tuple[str, float]] = {
    "density_mean": ("pages stored / pages held", 1),
    "held_bytes_mean": ("held (MiB, mean)", 1 << 20),
    "stranded_bytes_near_peak": ("stranded (MiB, near the peak)", 1 << 20),
    "spanning_share": ("objects stored in two pages (share)", 1),
}


def sweep_plots(document: Json) -> Iterator[Json]:
    """Specifications of the plots, as in :mod:`replay.report.plots`: one a workload."""
    for i, one in enumerate(document["sensitivity"]):
        label, divisor = _LABELS[one["figure"]]
        for workload in dict.fromkeys(series["workload"] for series in one["series"]):
            yield {
                "section": "runs",
                "kind": "lines",
                "id": f"plot-sensitivity-{i}-{workload}",
                "title": f"{workload}: {label} by {one['parameter']}",
                "x": {"label": one["parameter"], "log": False, "divisor": 1},
                "y": {"label": label, "log": False, "divisor": divisor},
                "series": [
                    {
                        "name": series["name"],
                        "x": pointer(("sensitivity", i, "series", k, "x")),
                        "y": pointer(("sensitivity", i, "series", k, "y")),
                    }
                    for k, series in enumerate(one["series"])
                    if series["workload"] == workload
                ],
                "source": _SOURCE,
                "error": _EXACT,
            }
