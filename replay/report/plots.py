# SPDX-License-Identifier: GPL-2.0-only
"""The plots of a page: what is drawn, by places in the document. assets/report.js draws it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from replay.report.tables import loss_text, pointer

Json = dict[str, Any]

MIB = 1 << 20
OPS = ("malloc", "free", "map", "store", "load")


def plots(document: Json) -> Iterator[Json]:
    """Specifications of all plots.

    ``kind`` lines, bars or heat; ``x`` and ``y``: label, whether logarithmic, divisor of the
    document's unit; ``series``: name, number of a colour (else its position) and the places of x
    and y, or of low and high; or ``rows`` of objects with the keys to take, multiplied.
    ``marks``: vertical lines at the values of a
    place. ``source`` and ``error`` are of all that is drawn.
    """
    for op in OPS:
        if any(op in one["latency"] for one in document["recordings"]):
            yield _tails(document, op)
    for i, one in enumerate(document["recordings"]):
        yield _memory(document, i, one)
        yield _density(document, i, one)
        yield _ageing(document, i, one)
        yield _sizes(document, i, one)
        yield _heat(i, one)
        for backend, model in one["memory"]["models"].items():
            if any("slot_bytes" in row for row in model["classes"]):
                yield _classes(document, i, one, backend)


def _plot(kind: str, name: str, title: str, x: Json, y: Json, **rest: Any) -> Json:
    return {"kind": kind, "id": name, "title": title, "x": x, "y": y, **rest}


def _axis(label: str, *, log: bool = False, divisor: float = 1) -> Json:
    return {"label": label, "log": log, "divisor": divisor}


def _tails(document: Json, op: str) -> Json:
    series = []
    for i, one in enumerate(document["recordings"]):
        if op in one["latency"]:
            at = ("recordings", i, "latency", op, "tail")
            places = {"x": pointer((*at, "duration_ns")), "y": pointer((*at, "share_longer"))}
            series.append({"name": f"{one['label']} ({one['allocator']})", **places})
    return _plot(
        *("lines", f"tail-{op}", f"Duration of {op}: share of calls that take longer"),
        _axis("duration (us)", log=True, divisor=1e3),
        _axis("share of calls", log=True),
        series=series,
        source=f"recorded: dur_ns of {op} rows; 1e-2 is p99, 1e-4 p99.99, the last point max",
        error=f"probe cost included; {loss_text(document)}",
    )


def _colour(one: Json, name: str) -> int:
    """The same for a model in all plots of a recording; 0 is the kernel's."""
    return 0 if name == "kernel" else 1 + list(one["memory"]["models"]).index(name)


def _memory(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "memory")

    def band(name: str, *keys: str) -> Json:
        places = {key: pointer((*at, *keys, "band", key)) for key in ("low", "high")}
        return {"name": name, "colour": _colour(one, name), "x": pointer((*at, "t_s")), **places}

    series = [band(name, "models", name) for name in one["memory"]["models"]]
    if one["memory"]["kernel"] is not None:
        series.insert(0, band("kernel", "kernel"))
    return _plot(
        *("lines", f"memory-{i}", f"{one['label']}: pool size"),
        _axis("time (s)"),
        _axis("MiB", divisor=MIB),
        series=series,
        source="kernel: recorded totals; others: replay; least to greatest of 8 moments a bin",
        error=loss_text(document),
    )


def _density(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "memory")
    series = [
        {
            "name": name,
            "colour": _colour(one, name),
            "x": pointer((*at, "t_s")),
            "y": pointer((*at, "models", name, "densities")),
        }
        for name in one["memory"]["models"]
    ]
    return _plot(
        *("lines", f"density-{i}", f"{one['label']}: density"),
        *(_axis("time (s)"), _axis("pages stored / pages held")),
        series=series,
        source="replay of the recorded objects through each model",
        error=loss_text(document),
    )


def _ageing(document: Json, i: int, one: Json) -> Json:
    places: dict[str, tuple[str, ...]] = {
        name: ("ageing", name) for name, trend in one["ageing"].items() if trend
    }
    if one["kernel_ageing"] is not None:
        places = {"kernel": ("kernel_ageing",), **places}
    series = [
        {
            "name": name,
            "colour": _colour(one, name),
            "x": pointer(("recordings", i, *path, "at_turnover")),
            "y": pointer(("recordings", i, *path, "ratio")),
        }
        for name, path in places.items()
    ]
    return _plot(
        *("lines", f"ageing-{i}", f"{one['label']}: held / held by a fresh pool"),
        *(_axis("turnovers of the live objects"), _axis("ratio")),
        series=series,
        source="kernel totals and replays over fresh fills with the same live objects",
        error=loss_text(document),
    )


def _sizes(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "sizes")
    places = {"x": pointer((*at, "bytes")), "y": pointer((*at, "mallocs"))}
    return _plot(
        *("bars", f"sizes-{i}", f"{one['label']}: compressed sizes and size classes"),
        *(_axis("bytes"), _axis("mallocs")),
        series=[{"name": "mallocs", **places}],
        marks=[
            {"name": name, "at": pointer(("recordings", i, "class_limits", name))}
            for name, limits in one["class_limits"].items()
            if limits
        ],
        source="recorded mallocs, header taken off; lines: the largest object of each class",
        error=loss_text(document),
    )


def _heat(i: int, one: Json) -> Json:
    at = ("recordings", i, "heat")
    return _plot(
        *("heat", f"heat-{i}", f"{one['label']}: mallocs by time and size"),
        *(_axis("time (s)"), _axis("bytes")),
        cells=pointer((*at, "mallocs")),
        x_most=pointer((*at, "span_s")),
        y_most=pointer((*at, "largest_bytes")),
        source="recorded mallocs, header taken off; darker: more, by logarithm",
        error=f"lost events: {one['lost_total']:,}",
    )


def _classes(document: Json, i: int, one: Json, backend: str) -> Json:
    rows = one["memory"]["models"][backend]["classes"]
    at = pointer(("recordings", i, "memory", "models", backend, "classes"))
    keys = [key for key in ("used_slots", "free_slots", "stranded_slots") if key in rows[0]]
    return _plot(
        *("bars", f"classes-{i}-{backend}", f"{one['label']}: classes of {backend}"),
        *(_axis("slot (bytes)"), _axis("MiB", divisor=MIB)),
        series=[
            {
                "name": key.removesuffix("_slots"),
                "rows": at,
                "x_of": "slot_bytes",
                "y_of": [key, "slot_bytes"],
            }
            for key in keys
        ],
        source="replay, near the peak of what is held; stranded slots are free but not found",
        error=loss_text(document),
    )
