# SPDX-License-Identifier: GPL-2.0-only
"""The tables of a report. Every cell is a place in the document and a way to write it down.

Renderers differ in layout alone: a number that one shows is the document's at ``Cell.path``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ztrace.replay.advise import SHOWN
from ztrace.replay.report.measured import FIGURES
from ztrace.text import bytes_text, counted

Json = dict[str, Any]
Path = tuple[str | int, ...]

_US, _MIB, _PERCENT = 1e3, 1 << 20, 0.01
_SLOWEST_SHOWN = 3  # of each op


@dataclass(frozen=True)
class Cell:
    """``path`` leads to ``value`` in the document; ``text`` is how people read it.

    ``tone``: ``good``, ``bad`` or ``open``, for a page to colour; empty for most. ``link``: the
    part of a page that has its evidence.
    """

    path: Path
    value: Any
    text: str
    tone: str = ""
    link: str = ""

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer (RFC 6901)."""
        return pointer(self.path)


@dataclass
class Table:
    """``texts``: how many of the first columns are text. ``source`` and ``error`` are of all
    figures in it; ``lead`` stands above, ``notes`` below, and ``rules`` behind them, folded where
    that is possible. ``recording``: the one that it is of, None for one of all. ``folded``: few
    readers want it. ``brief``: how many rows a short text has of it, -1 if it is not in there.
    """

    name: str
    title: str
    headers: tuple[str, ...]
    rows: list[list[Cell]]
    texts: int
    source: str
    error: str
    notes: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    lead: list[str] = field(default_factory=list)
    recording: int | None = None
    folded: bool = False
    brief: int = -1

    @property
    def short(self) -> str:
        """A word for it in a list of contents; empty if it continues the table before it."""
        first = self.name.removesuffix("-0").removeprefix("latency-")
        part = self.folded or first.endswith(("-corrected", "-models", "-sizes"))
        return "" if part or first[-1].isdigit() or first == "limits" else first


def pointer(path: Path) -> str:
    """A JSON pointer."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in path)


def _write(value: Any, number: Callable[[Any], str]) -> str:
    return "-" if value is None else number(value)


def text(value: Any) -> str:
    """As it is."""
    return str(value)


def count(value: float) -> str:
    """1,234,567."""
    return f"{value:,.0f}"


def plain(value: float) -> str:
    """A whole number without separators."""
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """Nanoseconds as seconds."""
    return f"{value / 1e9:,.6f}"


def us(value: float) -> str:
    """Nanoseconds as microseconds."""
    return f"{value / _US:,.2f}"


def mib(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / _MIB:,.2f}"


def percent(value: float) -> str:
    """A share as percent; what would round to nothing keeps two digits."""
    shown = value / _PERCENT
    return f"{shown:.2g}" if 0 < abs(shown) < 0.01 else f"{shown:,.2f}"


def ratio(value: float) -> str:
    """Three digits behind the point."""
    return f"{value:.3f}"


def number(value: float) -> str:
    """Four significant digits, in full."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Row:
    """Makes the cells of one row, all below one place in the document."""

    def __init__(self, document: Json, *base: str | int) -> None:
        self.document = document
        self.base = base

    def cell(self, how: Callable[[Any], str], *keys: str | int) -> Cell:
        """The cell at ``keys`` below the base; a dash where something on the way is null."""
        found: Any = self.document
        for key in (*self.base, *keys):
            found = None if found is None else _at(found, key)
        return Cell((*self.base, *keys), found, _write(found, how))

    def cells(self, how: Callable[[Any], str], *names: str) -> list[Cell]:
        """Cells of several keys."""
        return [self.cell(how, name) for name in names]


def _at(found: Any, key: str | int) -> Any:
    if isinstance(found, list):
        return found[key] if isinstance(key, int) and key < len(found) else None
    return found.get(key)


def tables(document: Json) -> Iterator[Table]:
    """All tables of a report, in the order in which they are read: answers first, claims last."""
    for i, one in _each(document):
        if one["advice"]:
            yield _answer(document, i, one)
            yield _limits(document, i, one)
    if document["checks"]:
        yield _checks(document)
    yield _memory(document)
    yield from _spanning(document)
    yield _measured(document)
    yield _measured_sizes(document)
    yield _sizes(document)
    yield _cgroups(document)
    timed = [one for _, one in _each(document) if not one["emulated"]]
    for op in sorted({op for one in timed for op in one["latency"]}, key=_op_order):
        yield from _latency(document, op)
    for op in ("malloc", "free"):
        yield _native(document, op)
    yield _recordings(document)
    yield _agreement(document)
    yield _ageing(document)
    yield _losses(document)
    yield _slowest(document)
    yield _claims(document)
    yield _evidence(document)


_FIRST = ("malloc", "free", "map", "store", "load")


def _op_order(op: str) -> tuple[int, str]:
    return (_FIRST.index(op) if op in _FIRST else len(_FIRST)), op


def _each(document: Json) -> Iterator[tuple[int, Json]]:
    yield from enumerate(document["recordings"])


def names_shown(document: Json) -> list[str]:
    """What a page shows one by one: recordings, then traces that were measured and are none."""
    recorded = [one["label"] for one in document.get("recordings", ())]
    measured = [one["label"] for one in document.get("measured", ())]
    return list(dict.fromkeys([*recorded, *measured]))


def lost_count(lost: int | None) -> str:
    """A number of lost events, as text; unknown where nobody counted."""
    return "unknown" if lost is None else f"{lost:,}"


def change(value: float) -> str:
    """A share of difference: +1.2%."""
    return f"{value:+.1%}"


def _answer(document: Json, i: int, one: Json) -> Table:
    """What could be changed, ranked, and what it gives."""
    advice = one["advice"]
    choices = advice["choices"]
    timed = any(choice["timed"] for choice in choices)
    rows, notes = [], []
    for k, choice in enumerate(choices):
        row = Row(document, "recordings", i, "advice", "choices", k)
        backend = replace(row.cell(text, "backend"), link="memory")
        if choice["better"]:
            notes.append(f"to set {k}: {choice['how']}")
            backend = replace(backend, tone="good")
        if choice["failed"]:
            notes.append(f"{k} refuses {counted(choice['failed'], 'object')}, left to the disk")
        mean, peak = row.cells(bytes_text, "mean_bytes", "peak_bytes")
        apart = [row.cell(change, key) for key in ("change", "least", "most")]
        if not k:
            apart = [replace(cell, text="-", value=None) for cell in apart]
        times = [row.cell(number, "timed", f"{op}_ns") for op in ("malloc", "free")]
        rows.append(
            [
                Cell((*row.base, "how"), choice["how"], str(k) if k else "now"),
                *(backend, mean, *apart, peak, row.cell(ratio, "density")),
                *(times if timed else ()),
            ]
        )
    untold = "; ".join(advice["untold"])
    headers = ("", "allocator", "held", "change", "least", "most", "peak", "density")
    return Table(
        *(f"answer-{i}", f"{one['label']}: what would hold it"),
        (*headers, *(("malloc ns", "free ns") if timed else ())),
        rows,
        2,
        "the recorded calls through models that are compared with the kernel's answers; held: mean "
        "over time; change: of it; density: objects a page; times: medians of the real allocators",
        "least, most: of the change, over twenty moments",
        [*notes, *advice.get("qualified", ()), *([f"not told here: {untold}"] if untold else [])],
        lead=[advice["answer"], _trust(one)],
        recording=i,
        brief=SHOWN,
    )


def _trust(one: Json) -> str:
    """Whether the models are right here, in a line."""
    found, lost = one["validation"], lost_count(one["lost_events"])
    if found is None:
        return f"Nothing in it tells whether the models are right; lost events: {lost}."
    return (
        f"Recorded on {one['allocator']}, Linux {one['kernel']}: {found['explained']:,} of "
        f"{found['calls']:,} calls explained by its model; lost events: {lost}."
    )


def _limits(document: Json, i: int, one: Json) -> Table:
    rows = []
    for k in range(len(one["advice"]["limits"])):
        row = Row(document, "recordings", i, "advice", "limits", k)
        share = row.cell(lambda value: f"{value} % of the peak", "share")
        limit = row.cell(bytes_text, "limit_bytes")
        memory = row.cell(lambda value: f"{value:.1%}", "of_memory")
        counts = row.cells(count, "rejected", "written_back", "refaults")
        rows.append([share, limit, memory, *counts])
    headers = ("pool limit", "", "of memory", "rejected", "written back", "refaults")
    return Table(
        *(f"limits-{i}", f"{one['label']}: under a lower pool limit", headers, rows, 1),
        "the recorded calls through the recorded allocator and zswap's own rules, in pages; set by "
        "max_pool_percent, in whole percent of memory",
        "a workload that waits for the disk would have called otherwise",
        recording=i,
    )


def loss_text(document: Json) -> str:
    """One line on losses, for whatever has no more room."""
    lost = [(one["label"], one["lost_events"]) for one in document["recordings"]]
    bad = [f"{label} {lost_count(n)}" for label, n in lost if n != 0]
    return f"lost events: {', '.join(bad)}" if bad else "no event lost"


_TONES = {"supported": "good", "refuted": "bad", "depends": "open", "not decided": "open"}


def _claims(document: Json) -> Table:
    rows = []
    for i, claim in enumerate(document["claims"]):
        row = Row(document, "claims", i)
        number, words, verdict, why = row.cells(text, "claim", "text", "verdict", "why")
        tone = replace(verdict, tone=_TONES[claim["verdict"]], link="evidence")
        rows.append([number, words, tone, why])
    rules: dict[str, list[str]] = {}
    for claim in document["claims"]:
        rules.setdefault(f"Rule of {{}}: {claim['rule']}.", []).append(claim["claim"])
        if claim["verdict"] == "not decided":
            would = f"Would decide {{}}: {claim['would_decide']}."
            rules.setdefault(would, []).append(claim["claim"])
    ordered = sorted(rules.items(), key=lambda item: item[0].startswith("Would"))
    by_verdict: dict[str, list[str]] = {}
    for claim in document["claims"]:
        by_verdict.setdefault(claim["verdict"], []).append(claim["claim"])
    found = "; ".join(f"{verdict}: {', '.join(by_verdict[verdict])}" for verdict in by_verdict)
    return Table(
        *("claims", "The claims made for ztree", ("", "claim", "verdict", "why"), rows, 4),
        "claims of the 2021 posting; evidence in the table at the end",
        f"verdicts use 95 % intervals; {loss_text(document)}",
        rules=[rule.format(", ".join(claims)) for rule, claims in ordered],
        lead=[f"Claims of 2021: {found}."] if found else [],
        brief=0,
    )


def _of_measured(document: Json) -> Iterator[tuple[int, Json]]:
    yield from enumerate(document["measured"])


def _about_measured(document: Json) -> str:
    """Where times were measured, in a line."""
    where = (
        f"{one['where']}, Linux {one['release']}, {counted(one['cpus'], 'CPU')}, "
        f"{counted(one['count'], 'guest')} of {counted(one['rounds'], 'round')}, {one['machine']}"
        for one in document["measured"]
    )
    return f"ztrace measure: the real allocators in a kernel: {'; '.join(dict.fromkeys(where))}"


def _measured(document: Json) -> Table:
    rows = []
    for i, one in _of_measured(document):
        for op in one["ops"]:
            row = Row(document, "measured", i)
            allocator = row.cell(text, "allocator")
            cells = [row.cell(number, "ops", op, key, "value") for key in FIGURES]
            bounds = [row.cell(number, "ops", op, "max", key) for key in ("low", "high")]
            calls = row.cell(count, "ops", op, "calls")
            where = [row.cell(text, "label"), row.cell(plain, "cpus")]
            names = [where[0], allocator, Cell((*row.base, "ops", op), op, op)]
            rows.append([*names, where[1], calls, *cells, *bounds])
    headers = ("trace", "allocator", "call", "CPUs", "calls", *FIGURES.values(), "low", "high")
    return Table(
        *("times", "Times of the real allocators (ns)", headers, rows, 3),
        f"{_about_measured(document)}; a call's time is its least over the rounds, the worst is "
        "the greatest of these",
        "geometric means over guests; low, high: 95 % of the worst, by guests; the clock's own "
        "time is taken off",
    )


def _measured_sizes(document: Json) -> Table:
    rows = []
    for i, one in _of_measured(document):
        for op in ("malloc", "free"):
            row = Row(document, "measured", i)
            names = [row.cell(text, "label"), row.cell(text, "allocator")]
            sizes = range(len(one["by_size"]))
            cells = [row.cell(number, "by_size", k, f"{op}_ns") for k in sizes]
            if any(cell.value is not None for cell in cells):
                rows.append([*names, Cell((*row.base, "by_size"), op, op), *cells])
    bounds: list[Json] = next((one["by_size"] for one in document["measured"]), [])
    headers = ("trace", "allocator", "call", *(f"to {size['bytes']} B" for size in bounds))
    return Table(
        *("times-sizes", "Times of the real allocators by size (ns)", headers, rows, 3),
        "medians of the first guest's calls; the free of an object of that size",
        "as above",
        folded=True,
    )


def _recordings(document: Json) -> Table:
    rows, notes = [], []
    for i, one in _each(document):
        row = Row(document, "recordings", i)
        rows.append(
            [
                *row.cells(text, "label", "allocator", "user", "kernel"),
                *row.cells(count, "cpus", "rows", "lost_events"),
                row.cell(number, "span_s"),
            ]
        )
        ran = " ".join(one["command"]) or "not known"
        notes.append(f"{one['label']}: {one['machine']}, {one['compressor']}; ran: {ran}")
        if one["emulated"]:
            notes.append(
                f"{one['label']}: software emulation; order, sizes, placement and counts are "
                "the kernel's, durations say nothing"
            )
        if not one["all_objects"]:
            which = f"1 of {one['sample_period']:g}" if one["sample_period"] != 1 else "some"
            notes.append(
                f"{one['label']}: {which} objects of its pools, by choice; counts are theirs, and "
                "memory is that of pools with these alone"
            )
        notes += [f"{one['label']}: {line.strip()}" for line in one["qualified"]]
        notes += [f"{one['label']}: {note}" for note in one["notes"]]
        for backend, why in one["not_replayed"].items():
            notes.append(f"{one['label']}: not replayed through {backend}: {why}")
    headers = ("recording", "allocator", "user", "kernel", "CPUs", "calls", "lost", "span (s)")
    return Table(
        *("recordings", "Recordings", headers, rows, 4),
        "the recordings' metadata and rows",
        "none: counted",
        notes,
    )


def _losses(document: Json) -> Table:
    rows, notes = [], []
    for i, one in _each(document):
        row = Row(document, "recordings", i)
        costs = [row.cell(number, "probe_cost_ns", op) for op in _FIRST]
        lost = [row.cell(count, "lost_events"), row.cell(percent, "lost_share")]
        rows.append([row.cell(text, "label"), *lost, *costs])
        for cause, events in one["lost_by_cause"].items():
            notes.append(f"{one['label']}: lost by {cause}: {events:,}")
    return Table(
        *(
            "losses",
            "Lost events and probe cost (ns a call)",
        ),
        ("recording", "lost", "%", *_FIRST),
        rows,
        1,
        "counted in the kernel by the recorder; - : not measured",
        "each lost malloc or free puts the live objects wrong by one from there on",
        notes,
        folded=all(one["lost_events"] == 0 for one in document["recordings"]),
    )


def _checks(document: Json) -> Table:
    rows = []
    for i in range(len(document["checks"])):
        row = Row(document, "checks", i)
        rows.append(
            [
                *row.cells(text, "recording", "check"),
                *row.cells(percent, "value", "limit"),
                row.cell(lambda passed: "yes" if passed else "NO", "passed"),
            ]
        )
    headers = ("recording", "check", "value (%)", "limit (%)", "passed")
    return Table(*("checks", "Thresholds", headers, rows, 2), "the tables below", "see there")


def _agreement(document: Json) -> Table:
    rows, notes = [], []
    for i, one in _each(document):
        row = Row(document, "recordings", i)
        sizes = [
            row.cell(percent, "size_error", f"{key}_share") for key in ("median", "p99", "max")
        ]
        rows.append(
            [
                *row.cells(text, "label", "own_model"),
                *(row.cell(count, "validation", k) for k in ("calls", "explained", "undetermined")),
                *sizes,
            ]
        )
        if one["validation"] is None:
            notes.append(f"{one['label']}: nothing in it can be validated")
        else:
            notes.append(f"{one['label']}: {one['validation']['method']}")
            races = one["validation"]["races"]
            if races:
                met = ", ".join(f"{name} {n:,} x" for name, n in races.items())
                notes.append(f"{one['label']}: races met: {met}")
    headers = ("recording", "model", "calls", "explained", "undet.", "median", "p99", "max")
    return Table(
        *("agreement", "Model against kernel (pool size error in %)", headers, rows, 2),
        "explained: an order of all calls gives the kernel's answers; undet.: the recording "
        "does not tell; size: model's total against the kernel's, by moments",
        "the kernel reads its total after other CPUs' calls; counts are exact",
        notes,
        folded=True,
    )


def _memory(document: Json) -> Table:
    rows, notes = [], []
    for i, one in _each(document):
        name = Row(document, "recordings", i).cell(text, "label")
        if one["memory"]["kernel"] is not None:
            row = Row(document, "recordings", i, "memory", "kernel")
            source = Cell(("recordings", i, "allocator"), one["allocator"], "kernel")
            bounds = [row.cell(ratio, "density", key) for key in ("low", "high")]
            held = [row.cell(mib, "peak_bytes"), row.cell(mib, "mean_bytes")]
            density, stranded = row.cell(ratio, "mean_density"), row.cell(mib, "stranded_bytes")
            rows.append([name, source, *held, density, *bounds, stranded])
        for backend, model in one["memory"]["models"].items():
            row = Row(document, "recordings", i, "memory", "models", backend)
            key = Cell((*row.base, "name"), model["name"], model["name"])
            held = [row.cell(mib, "held_bytes", part) for part in ("peak", "mean")]
            bounds = [row.cell(ratio, "density", part) for part in ("low", "high")]
            density = row.cell(ratio, "mean_density")
            stranded = row.cell(mib, "stranded_bytes_near_peak")
            rows.append([name, key, *held, density, *bounds, stranded])
            for hazard, times in model["hazards"].items():
                first = model["hazards_first"][hazard]
                notes.append(f"{one['label']}, {backend}: {hazard} met {times:,} x; first: {first}")
            for stop in model["stopped"]:
                notes.append(f"{one['label']}, {backend}: replay ended early at {stop}")
    headers = ("recording", "held by", "peak", "mean", "density", "low", "high", "stranded")
    return Table(
        *("memory", "Memory (MiB) and density", headers, rows, 2),
        "kernel: the recorded totals; others: replay of the same objects. density: pages stored "
        "/ pages held, over time; stranded: free slots malloc does not find, near the peak",
        f"low, high: 95 %, block bootstrap over time; {loss_text(document)}",
        notes,
    )


def _spanning(document: Json) -> Iterator[Table]:
    """One table, or none where no model tells how its objects lie."""
    rows = []
    for i, one in _each(document):
        for backend, model in one["memory"]["models"].items():
            if model["spanning"] is None:
                continue
            row = Row(document, "recordings", i, "memory", "models", backend)
            rows.append(
                [
                    Row(document, "recordings", i).cell(text, "label"),
                    Cell((*row.base, "name"), model["name"], model["name"]),
                    row.cell(count, "spanning", "mallocs"),
                    row.cell(percent, "spanning", "share"),
                    row.cell(count, "spanning", "maps"),
                    row.cell(mib, "spanning", "copied_bytes"),
                ]
            )
    if rows:
        headers = ("recording", "model", "stored so", "of all (%)", "mapped", "copied (MiB)")
        yield Table(
            *("spanning", "Objects in two pages", headers, rows, 2),
            "replay of the same objects; copied: what maps of such objects put together, by the "
            "rules of the model's kernel",
            loss_text(document),
        )


def _ageing(document: Json) -> Table:
    rows = []
    for i, one in _each(document):
        name = Row(document, "recordings", i).cell(text, "label")
        found: list[tuple[str, Path]] = []
        if one["kernel_ageing"] is not None:
            found.append(("kernel", ("kernel_ageing",)))
        found += [(key, ("ageing", key)) for key, trend in one["ageing"].items() if trend]
        for key, path in found:
            row = Row(document, "recordings", i, *path)
            rows.append(
                [
                    name,
                    Cell((*row.base, "name"), key, key),
                    row.cell(number, "turnovers"),
                    row.cell(ratio, "mean_ratio"),
                    *(row.cell(percent, "slope", part) for part in ("value", "low", "high")),
                    row.cell(percent, "growth", "value"),
                ]
            )
    headers = ("recording", "held by", "turnov.", "ratio", "slope", "low", "high", "growth")
    return Table(
        *("ageing", "Ageing: memory held / held by a fresh pool, same objects", headers, rows, 2),
        "slope in % per turnover (mallocs / mean live objects), growth in % over all of them",
        f"low, high: 95 %, moving blocks of residuals; {loss_text(document)}",
    )


def _sizes(document: Json) -> Table:
    rows = []
    for i, _ in _each(document):
        row = Row(document, "recordings", i)
        figures = [row.cell(count, "sizes", "objects"), row.cell(number, "sizes", "mean_bytes")]
        rows.append([row.cell(text, "label"), *figures, row.cell(count, "memory", "objects_peak")])
    return Table(
        *("sizes", "Objects", ("recording", "mallocs", "mean (bytes)", "most live"), rows, 1),
        "recorded mallocs that succeeded, zswap's header taken off; live by replay",
        loss_text(document),
    )


def _cgroups(document: Json) -> Table:
    """Empty where no recording has several."""
    rows = []
    for i, one in _each(document):
        for k in range(len(one["cgroups"]["groups"]) if one["cgroups"] else 0):
            row = Row(document, "recordings", i, "cgroups", "groups", k)
            rows.append(
                [
                    Row(document, "recordings", i).cell(text, "label"),
                    row.cell(text, "cgroup"),
                    *row.cells(count, "stored", "loaded", "objects"),
                    *row.cells(mib, "mean_bytes", "peak_bytes"),
                ]
            )
    headers = ("recording", "cgroup", "stored", "loaded", "mallocs", "mean (MiB)", "peak (MiB)")
    return Table(
        *("cgroups", "By cgroup", headers, rows, 2),
        "recorded: a call is its task's cgroup's, an object its malloc's; bytes are the objects' "
        "compressed sizes, the mean over all the time, the peak of 96 moments",
        f"objects from before the recording are left out; {loss_text(document)}",
    )


_QUANTILES = ("p50", "p90", "p99", "p99_9", "p99_99", "max")


def _latency(document: Json, op: str) -> Iterator[Table]:
    """Recorded, and where the probe's cost is known, with it taken off."""
    names = tuple(key.replace("_", ".") for key in _QUANTILES)
    headers = ("recording", "allocator", "calls", *names)
    error = "buckets: at most 1/64 above; probe cost "
    for corrected in (False, True):
        rows = []
        for i, one in _each(document):
            found = None if one["emulated"] else one["latency"].get(op)
            if found is None or (corrected and found["corrected"] is None):
                continue
            row = Row(document, "recordings", i)
            below = ("latency", op, *(("corrected",) if corrected else ()))
            figures = [row.cell(us, *below, f"{key}_ns") for key in _QUANTILES]
            calls = row.cell(count, "latency", op, "calls")
            rows.append([*row.cells(text, "label", "allocator"), calls, *figures])
        if rows:
            state = "taken off" if corrected else "included"
            yield Table(
                f"latency-{op}{'-corrected' if corrected else ''}",
                f"Duration of {op} (us), probe cost {state}",
                *(headers, rows, 2),
                f"recorded: column dur_ns of {op} rows, all calls",
                f"{error}{state}; {loss_text(document)}",
            )


def _native(document: Json, op: str) -> Table:
    """What the same op costs the models, without a kernel."""
    rows, machines = [], []
    for i, one in _each(document):
        native = one["native"]
        for backend, timed in native["models"].items() if native else ():
            if op in timed:
                row = Row(document, "recordings", i, "native", "models", backend)
                name = Row(document, "recordings", i).cell(text, "label")
                key = Cell((*row.base, "name"), timed["name"], timed["name"])
                figures = [row.cell(number, op, f"{quantile}_ns") for quantile in _QUANTILES]
                rows.append([name, key, row.cell(count, op, "calls"), *figures])
                machines.append(native["machine"])
    names = tuple(key.replace("_", ".") for key in _QUANTILES)
    return Table(
        *(f"latency-{op}-models", f"{op} in the models (ns): the C core, no kernel"),
        ("recording", "model", "calls", *names),
        rows,
        2,
        f"measured here, on {', '.join(dict.fromkeys(machines))}, in user space, as one thread",
        "buckets: within 1/16; the clock's cost is taken off, interruptions are not; not "
        "comparable with a kernel's",
        folded=True,
    )


def _slowest(document: Json) -> Table:
    rows = []
    for i, one in _each(document):
        if one["emulated"]:
            continue
        shown: dict[str, int] = {}
        for k, call in enumerate(one["slowest"]):
            shown[call["op"]] = shown.get(call["op"], 0) + 1
            if call["op"] in _FIRST and shown[call["op"]] <= _SLOWEST_SHOWN:
                row = Row(document, "recordings", i, "slowest", k)
                name = Row(document, "recordings", i).cell(text, "label")
                times = [row.cell(us, "dur_ns"), row.cell(seconds, "at_ns")]
                whose = row.cells(plain, "size", "cpu", "tid", "ret")
                rows.append([name, row.cell(text, "op"), *times, *whose])
    headers = ("recording", "call", "took (us)", "at (s)", "bytes", "CPU", "tid", "result")
    return Table(
        *("slowest", "The slowest calls", headers, rows, 2),
        "recorded rows; at: since the first call; more of them in JSON and in Perfetto's form",
        f"probe cost included; {loss_text(document)}",
        folded=True,
    )


def _evidence(document: Json) -> Table:
    rows = []
    for i, claim in enumerate(document["claims"]):
        for k in range(len(claim["evidence"])):
            row = Row(document, "claims", i, "evidence", k)
            rows.append(
                [
                    Cell(("claims", i, "claim"), claim["claim"], claim["claim"]),
                    *row.cells(text, "kind", "what", "recording"),
                    *row.cells(number, "value", "low", "high"),
                    row.cell(text, "unit"),
                ]
            )
    headers = ("", "kind", "what", "recording", "value", "low", "high", "unit")
    return Table(
        *("evidence", "Evidence for the claims", headers, rows, 4),
        "native: real allocators, ztrace measure; measured: in the recorded kernel; modelled: by "
        "replay of the same objects",
        f"low, high: 95 %, guests or stretches of time; {loss_text(document)}",
        folded=True,
    )
