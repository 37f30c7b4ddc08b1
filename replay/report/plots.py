# SPDX-License-Identifier: GPL-2.0-only
"""The plots of a page: what is drawn, by places in the document. assets/report.js draws it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.specification import family
from ztrace.replay.report.tables import loss_text, lost_count, names_shown, pointer
from ztrace.text import counted

Json = dict[str, Any]

MIB = 1 << 20
_CGROUPS = 6  # lines of a plot
_NO_COLOUR = 5  # where the search for one begins, of an allocator that has none of its own
OPS = ("malloc", "free", "map", "store", "load")


def plots(document: Json) -> Iterator[Json]:
    """Specifications of all plots.

    ``section``: the table that it belongs to. ``kind`` lines, bars, stack, points or heat;
    ``recording``: which of :func:`names_shown` it is of, if of one. ``x`` and ``y``: label, whether
    logarithmic, divisor of the document's unit, ``names`` of positions; ``series``: name, number of
    a colour (else its position), whether ``dashed``, and the places of x and y, or of low and high;
    ``x_point`` and ``y_point`` of a value with low and high; or ``rows`` of objects with the keys
    to take, multiplied.
    ``lanes``: ticks above the plot at the values of a place. ``source`` and ``error`` are of all
    that is drawn.
    """
    recordings = list(enumerate(document["recordings"]))
    if len(recordings) > 1:
        yield from _side_by_side(document)
    for i, one in recordings:
        for plot in _of_one(document, i, one):
            yield {**plot, "recording": i}
    for op in OPS:
        if any(op in one["latency"] and not one["emulated"] for _, one in recordings):
            yield _tails(document, op)
    yield from _measured(document)


def _of_one(document: Json, i: int, one: Json) -> Iterator[Json]:
    """What is drawn of each recording."""
    yield _memory(document, i, one)
    yield _density(document, i, one)
    yield _ageing(document, i, one)
    yield _sizes(document, i, one)
    yield _heat(i, one)
    own = one["own_model"] or next(iter(one["memory"]["models"]))
    if one["use"]:
        yield from _use(document, i, one, own)
    if one["stores"]:
        yield _stores(document, i, one)
    if one["lifetimes"]["objects"]:
        yield _lifetimes(document, i, one)
    if one["cgroups"]:
        yield _cgroups(document, i, one)
    if any("slot_bytes" in row for row in one["memory"]["models"][own]["classes"]):
        yield _classes(document, i, one, own)
    if one["probe_costs"]:
        yield _costs(i, one)
    if one["lost_by_cpu"]:
        yield _lost(i, one)


def _measured(document: Json) -> Iterator[Json]:
    """Times of the real allocators: of each history those that were measured alike, in one plot."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for k, one in enumerate(document["measured"]):
        alike.setdefault((one["label"], one["kernel"], one["cpus"]), []).append(k)
    for at, ((label, kernel, cpus), members) in enumerate(alike.items()):
        where = f"{label}, Linux {kernel}, {counted(cpus, 'CPU')}"
        names = [document["measured"][k]["allocator"] for k in members]
        colours = dict(zip(members, _colours(names), strict=True))
        for plot in _times(document, at, where, colours):
            yield {**plot, "recording": names_shown(document).index(label)}


def _times(document: Json, at: int, where: str, colours: dict[int, int]) -> Iterator[Json]:
    found = document["measured"]
    source = "ztrace measure: least time of each call over the rounds, of the first guest"
    points = [
        {
            "name": found[k]["allocator"],
            "colour": colour,
            "x_point": pointer(("measured", k, "density")),
            "y_point": pointer(("measured", k, "cost_ns")),
        }
        for k, colour in colours.items()
        if found[k]["density"] and found[k]["cost_ns"]["value"] is not None
    ]
    if points:
        yield _plot(
            *("times", "points", f"cost-{at}", f"{where}: cost against density"),
            _axis("pages stored / pages held"),
            _axis("malloc and free, medians (ns)"),
            series=points,
            source="ztrace measure: medians over guests; density over calls, the pool's own figure",
            error="bars: 95 %, of time by guests, of density by stretches of calls",
        )
    for op in ("malloc", "free"):
        here = [k for k in colours if op in found[k]["curves"]]
        if here:
            yield _plot(
                *("times", "lines", f"curve-{op}-{at}", f"{where}: {op}, calls that take longer"),
                _axis("duration (ns)", log=True),
                _axis("share of calls", log=True, quantiles=True),
                series=[
                    _line(
                        found[k]["allocator"],
                        ("measured", k, "curves", op, "duration_ns"),
                        ("measured", k, "curves", op, "share_longer"),
                        colour=colours[k],
                    )
                    for k in here
                ],
                source=source,
                error="one guest's; the table has all",
            )
            yield _plot(
                *("times", "lines", f"size-{op}-{at}", f"{where}: {op} by size, medians"),
                _axis("bytes of the object, at most"),
                _axis("ns"),
                series=[
                    {
                        "name": found[k]["allocator"],
                        "colour": colours[k],
                        "rows": pointer(("measured", k, "by_size")),
                        "x_of": "bytes",
                        "y_of": [f"{op}_ns"],
                    }
                    for k in here
                ],
                source=source,
                error="one guest's",
            )


def _plot(section: str, kind: str, name: str, title: str, x: Json, y: Json, **rest: Any) -> Json:
    found = {"section": section, "kind": kind, "id": f"plot-{name}", "title": title}
    return {**found, "x": x, "y": y, **rest}


def _axis(label: str, *, log: bool = False, divisor: float = 1, **rest: Any) -> Json:
    return {"label": label, "log": log, "divisor": divisor, **rest}


def _line(name: str, x: tuple[Any, ...], y: tuple[Any, ...], **rest: Any) -> Json:
    return {"name": name, "x": pointer(x), "y": pointer(y), **rest}


def _tails(document: Json, op: str) -> Json:
    series = []
    colours = _recording_colours(document)
    for i, one in enumerate(document["recordings"]):
        if op in one["latency"] and not one["emulated"]:
            at = ("recordings", i, "latency", op, "tail")
            name = f"{one['label']} ({one['allocator']})"
            series.append(
                _line(name, (*at, "duration_ns"), (*at, "share_longer"), colour=colours[i])
            )
    seen: set[str] = set()
    for i, one in enumerate(document["recordings"]):
        for backend, timed in (one["native"] or {"models": {}})["models"].items():
            if op in timed and backend not in seen:
                seen.add(backend)  # one recording is enough to see it beside the kernel's
                model = ("recordings", i, "native", "models", backend, op, "tail")
                name = f"model {backend}, C core here"
                places = (*model, "duration_ns"), (*model, "share_longer")
                series.append(_line(name, *places, colour=_colour(one, backend), dashed=True))
    models = "; models: timed in the C core on this machine, no kernel" if seen else ""
    return _plot(
        *(f"latency-{op}", "lines", f"tail-{op}", f"Duration of {op}: calls that take longer"),
        _axis("duration (us)", log=True, divisor=1e3),
        _axis("share of calls", log=True, quantiles=True),
        series=series,
        source=f"recorded: dur_ns of {op} rows; the last point is the longest call{models}",
        error=f"probe cost included; {loss_text(document)}",
    )


def _colours(allocators: Sequence[str]) -> list[int]:
    """The same number for an allocator and for its model in all plots; 0 is the kernel's."""
    taken: list[int] = []
    for allocator in allocators:
        number = recorded_traits(family(allocator)).colour or _NO_COLOUR
        while number in taken and len(taken) < 8:
            number = number % 8 + 1
        taken.append(number)
    return taken


def _recording_colours(document: Json) -> list[int]:
    return _colours([one["allocator"] for one in document["recordings"]])


def _colour(one: Json, name: str) -> int:
    if name == "kernel":
        return 0
    models = list(one["memory"]["models"])
    return _colours(models)[models.index(name)]


def _side_by_side(document: Json) -> Iterator[Json]:
    """What the kernels of all recordings did, in one plot."""
    colours = _recording_colours(document)
    measured = [
        (i, one)
        for i, one in enumerate(document["recordings"])
        if one["memory"]["kernel"] is not None
    ]
    for name, title, label, divisor, *keys in (
        ("memory", "pool size", "MiB", MIB, "band", "end"),
        ("density", "density", "pages stored / pages held", 1, "densities"),
    ):
        series = [
            _line(
                f"{one['label']} ({one['allocator']})",
                ("recordings", i, "memory", "t_s"),
                ("recordings", i, "memory", "kernel", *keys),
                colour=colours[i],
            )
            for i, one in measured
        ]
        if series:
            yield _plot(
                *("memory", "lines", f"all-{name}", f"All recordings: {title} in the kernel"),
                *(_axis("time since the first call (s)"), _axis(label, divisor=divisor)),
                series=series,
                source="recorded totals of each recording's own allocator",
                error=loss_text(document),
            )


def _memory(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "memory")

    def band(name: str, *keys: str) -> Json:
        places = {key: pointer((*at, *keys, "band", key)) for key in ("low", "high")}
        style = {"colour": _colour(one, name), "dashed": name == one["own_model"]}
        return {"name": name, **style, "x": pointer((*at, "t_s")), **places}

    series = [band(name, "models", name) for name in one["memory"]["models"]]
    if one["memory"]["kernel"] is not None:
        series.insert(0, band("kernel", "kernel"))
    stored = _line("compressed bytes", (*at, "t_s"), (*at, "stored_bytes"), colour=7)
    return _plot(
        *("memory", "lines", f"memory-{i}", f"{one['label']}: pool size, kernel and models"),
        *(_axis("time since the first call (s)"), _axis("MiB", divisor=MIB)),
        series=[*series, stored],
        source="kernel: recorded totals; others: replay; least to greatest of 8 moments a bin. "
        "Dashed: the model of what ran. Compressed bytes: the live objects' sizes",
        error=loss_text(document),
    )


def _density(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "memory")
    series = [
        _line(
            *(name, (*at, "t_s"), (*at, "models", name, "densities")),
            colour=_colour(one, name),
            dashed=name == one["own_model"],
        )
        for name in one["memory"]["models"]
    ]
    if one["memory"]["kernel"] is not None:
        kernel = _line("kernel", (*at, "t_s"), (*at, "kernel", "densities"), colour=0)
        series.insert(0, kernel)
    return _plot(
        *("memory", "lines", f"density-{i}", f"{one['label']}: density"),
        *(_axis("time since the first call (s)"), _axis("pages stored / pages held")),
        series=series,
        source="kernel: live objects over recorded totals; others: replay of the same objects. "
        "Dashed: the model of what ran",
        error=loss_text(document),
    )


def _ageing(document: Json, i: int, one: Json) -> Json:
    places: dict[str, tuple[str, ...]] = {
        name: ("ageing", name) for name, trend in one["ageing"].items() if trend
    }
    if one["kernel_ageing"] is not None:
        places = {"kernel": ("kernel_ageing",), **places}
    series = [
        _line(
            name,
            ("recordings", i, *path, "at_turnover"),
            ("recordings", i, *path, "ratio"),
            colour=_colour(one, name),
            dashed=name == one["own_model"],
        )
        for name, path in places.items()
    ]
    return _plot(
        *("ageing", "lines", f"ageing-{i}", f"{one['label']}: held / held by a fresh pool"),
        *(_axis("turnovers of the live objects"), _axis("ratio")),
        series=series,
        source="kernel totals and replays over fresh fills with the same live objects",
        error=loss_text(document),
    )


def _sizes(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "sizes")
    return _plot(
        *("sizes", "bars", f"sizes-{i}", f"{one['label']}: compressed sizes and size classes"),
        *(_axis("bytes"), _axis("mallocs")),
        series=[_line("mallocs", (*at, "bytes"), (*at, "mallocs"), colour=6)],
        lanes=[
            {
                "name": name,
                "colour": _colour(one, name),
                "at": pointer(("recordings", i, "class_limits", name)),
            }
            for name, limits in one["class_limits"].items()
            if limits
        ],
        source="recorded mallocs, header taken off; ticks: the largest object of each class, of "
        "zbud and z3fold of each number of chunks",
        error=loss_text(document),
    )


def _heat(i: int, one: Json) -> Json:
    at = ("recordings", i, "heat")
    return _plot(
        *("sizes", "heat", f"heat-{i}", f"{one['label']}: mallocs by time and size"),
        *(_axis("time since the first call (s)"), _axis("bytes")),
        cells=pointer((*at, "mallocs")),
        x_most=pointer((*at, "span_s")),
        y_most=pointer((*at, "largest_bytes")),
        source="recorded mallocs, header taken off",
        error=f"lost events: {lost_count(one['lost_events'])}",
    )


def _use(document: Json, i: int, one: Json, own: str) -> Iterator[Json]:
    """Slots of the recorded allocator's model that nothing is in."""
    at = ("recordings", i, "use")
    series = [_line("free slots", (*at, "t_s"), (*at, "free_bytes"), colour=8)]
    if one["use"]["stranded_bytes"] is not None:
        places = (*at, "t_s"), (*at, "stranded_bytes")
        series.append(_line("of these stranded", *places, colour=1))
    source = f"replay through {own}; slots are looked at after equal numbers of rows"
    yield _plot(
        *("memory", "lines", f"stranded-{i}", f"{one['label']}: held and of no use, {own}"),
        *(_axis("time since the first call (s)"), _axis("MiB", divisor=MIB)),
        series=series,
        source=f"{source}; stranded: malloc does not find them",
        error=loss_text(document),
    )
    yield _plot(
        *(
            "memory",
            "heat",
            f"unused-{i}",
            f"{one['label']}: unused slots by class, {own}",
        ),
        *(_axis("time since the first call (s)"), _axis("slot (bytes)")),
        cells=pointer((*at, "unused")),
        x_most=pointer((*at, "span_s")),
        y_most=pointer((*at, "largest_bytes")),
        share="of slots are free",
        source=f"{source}; classes by 128 bytes",
        error=loss_text(document),
    )


def _stores(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "stores")
    return _plot(
        *("sizes", "lines", f"stores-{i}", f"{one['label']}: stores that need no object, or fail"),
        *(_axis("time since the first call (s)"), _axis("stores until then")),
        series=[
            _line("same-filled", (*at, "t_s"), (*at, "same_filled"), colour=3),
            _line("refused for their size", (*at, "t_s"), (*at, "refused"), colour=1),
            _line("failed otherwise", (*at, "t_s"), (*at, "failed"), colour=7),
        ],
        source="recorded stores and mallocs; same-filled: stores done without a malloc",
        error=loss_text(document),
    )


def _lifetimes(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "lifetimes")
    return _plot(
        *("sizes", "lines", f"lifetimes-{i}", f"{one['label']}: objects that live longer"),
        _axis("lifetime (s)", log=True, divisor=1e9),
        _axis("share of objects freed", log=True, quantiles=True),
        series=[_line("objects", (*at, "duration_ns"), (*at, "share_longer"), colour=6)],
        source="recorded: from the malloc's return to the free's begin",
        error=f"objects that were not freed are left out; {loss_text(document)}",
    )


def _cgroups(document: Json, i: int, one: Json) -> Json:
    at = ("recordings", i, "cgroups")
    groups = one["cgroups"]["groups"][:_CGROUPS]
    return _plot(
        *("cgroups", "lines", f"cgroups-{i}", f"{one['label']}: bytes of objects by cgroup"),
        *(_axis("time since the first call (s)"), _axis("MiB", divisor=MIB)),
        series=[
            _line(
                f"cgroup {group['cgroup']}",
                (*at, "t_s"),
                (*at, "groups", k, "held_bytes"),
                colour=k + 1,
            )
            for k, group in enumerate(groups)
        ],
        source="recorded mallocs and frees; an object is its malloc's cgroup's",
        error=f"those that hold most; {loss_text(document)}",
    )


def _classes(document: Json, i: int, one: Json, backend: str) -> Json:
    rows = one["memory"]["models"][backend]["classes"]
    at = pointer(("recordings", i, "memory", "models", backend, "classes"))
    parts = (
        ("used_slots", "used", 6),
        ("stranded_slots", "stranded", 1),
        ("free_slots", "free", 8),
    )
    stranded = ["stranded_slots"] if "stranded_slots" in rows[0] else []
    series = [
        {
            "name": name,
            "colour": colour,
            "rows": at,
            "x_of": "slot_bytes",
            "y_of": [key, "slot_bytes"],
            "less": stranded if key == "free_slots" else [],
        }
        for key, name, colour in parts
        if key in rows[0]
    ]
    return _plot(
        *("memory", "stack", f"classes-{i}-{backend}", f"{one['label']}: classes of {backend}"),
        *(_axis("slot (bytes)"), _axis("MiB", divisor=MIB)),
        series=series,
        source="replay, near the peak of what is held; stranded: free slots that malloc does not "
        "find, free: the others",
        error=loss_text(document),
    )


def _costs(i: int, one: Json) -> Json:
    at = pointer(("recordings", i, "probe_costs"))
    return _plot(
        *("losses", "bars", f"costs-{i}", f"{one['label']}: probe cost beside the median call"),
        _axis("call", names=[row["op"] for row in one["probe_costs"]]),
        _axis("us", divisor=1e3),
        series=[
            {"name": name, "colour": colour, "rows": at, "x_of": "position", "y_of": [key]}
            for key, name, colour in (
                ("cost_ns", "cost of the probe", 1),
                ("p50_ns", "median, probe included", 6),
            )
        ],
        source="probe: measured by the recorder; median: recorded",
        error="the cost is a mean; a store contains the probes of the calls within it",
    )


def _lost(i: int, one: Json) -> Json:
    at = pointer(("recordings", i, "lost_by_cpu"))
    return _plot(
        *("losses", "bars", f"lost-{i}", f"{one['label']}: lost events"),
        _axis("CPU", names=[row["cpu"] for row in one["lost_by_cpu"]]),
        _axis("events"),
        series=[
            {"name": cause, "rows": at, "x_of": "position", "y_of": [f"lost by {cause}"]}
            for cause in one["lost"]
        ],
        source="counted in the kernel by the recorder, by cause",
        error="none: counted",
    )
