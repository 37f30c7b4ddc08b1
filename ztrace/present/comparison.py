# SPDX-License-Identifier: GPL-2.0-only
"""Replays of one trace through several models, side by side; and time series as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from rich.console import Console

from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.specification import family
from ztrace.allocator.traits import Compacts
from ztrace.console import bytes_text, count_text, lost_lines, partial_lines, table
from ztrace.replay.figures.qualified import of_results
from ztrace.replay.figures.result import Moment, Result
from ztrace.text import counted
from ztrace.traces.metadata import Metadata

_BACKENDS_A_TABLE = 6  # columns of a series that fit 80 columns
_MIB = 1 << 20


def ratio(value: float | None) -> str:
    """Three digits behind the point; ``-`` for None."""
    return "-" if value is None else f"{value:.3f}"


def show_comparison(out: Console, results: Sequence[Result], metadata: Metadata) -> None:
    """Print memory, work and, if there is one, the time series of each result."""
    recorded = ", ".join(pool.allocator for pool in metadata.pools)
    out.print(
        f"{results[0].trace}: recorded on {recorded}, kernel {metadata.kernel.release}",
        soft_wrap=True,
    )
    for line in (*lost_lines(metadata), *partial_lines(metadata)):
        out.print(line)
    out.print()
    out.print(table(_MEMORY, map(_memory, results)))
    out.print(
        "peak, mean, end: memory held. density: pages stored / pages held, at the peak\n"
        "and over time. stranded: free slots that malloc does not find, near the peak\n"
        "(-: no such thing)."
    )
    out.print()
    out.print(table(_WORK, map(_work, results)))
    out.print(
        "pages: allocated in all. searched: lists or blocks looked at for room. Both\n"
        "also per malloc. moved: objects, by compaction. refused: objects that the model\n"
        "did not take. Sizes are what zswap of the recorded kernel gives each allocator,\n"
        "its header included; what the recorded allocator refused is in no model."
    )
    lines = (*map(_compaction, results), *map(spanning_line, results))
    for line in (*lines, *of_results({one.backend: one for one in results})):
        if line:
            out.print(line, soft_wrap=True)
    for first in range(0, len(results) if results[0].series else 0, _BACKENDS_A_TABLE):
        part = results[first : first + _BACKENDS_A_TABLE]
        out.print()
        out.print(table(_series_headers(part), _series_rows(part), texts=0))


_MEMORY = ("backend", "peak", "mean", "end", "density", "mean", "stranded")


def _memory(result: Result) -> list[str]:
    stranded = result.stat("stranded_bytes", "stats_near_peak")
    return [
        result.backend,
        bytes_text(result.held_bytes.peak),
        bytes_text(result.held_bytes.mean or 0),
        bytes_text(result.held_bytes.end),
        ratio(result.at_peak.density),
        ratio(result.mean_density),
        "-" if stranded is None else bytes_text(stranded),
    ]


_WORK = ("backend", "pages", "/malloc", "searched", "/malloc", "moved", "refused")


def _work(result: Result) -> list[str]:
    work = result.work()

    def count(number: int | None) -> str:
        return "-" if number is None else count_text(number)

    return [
        result.backend,
        count(work.pages),
        ratio(work.per_malloc(work.pages)),
        count(work.searched),
        ratio(work.per_malloc(work.searched)),
        count(work.moved),
        count_text(result.count("refused")),
    ]


def _compaction(result: Result) -> str:
    """What a model that compacts did about it; empty for the others."""
    done, not_done = result.count("compactions"), result.count("compactions_unmatched")
    how = recorded_traits(family(result.backend)).compacts
    if done or not_done:
        rest = f", {count_text(not_done)} not matched" if not_done else ""
        return f"{result.backend}: {counted(done, 'compaction')} as recorded{rest}"
    if how is Compacts.PAGES and "work=deferred" not in result.backend:
        return f"{result.backend}: compacts at once, as if its worker never waited"
    return "" if how is Compacts.NEVER else f"{result.backend}: never compacted"


def spanning_line(result: Result) -> str:
    """How many objects lay in two pages; empty for models that know of no such thing."""
    found = result.spanning()
    if found is None or found.share is None:
        return ""
    return (
        f"{result.backend}: {100 * found.share:.1f} % of objects span two pages; "
        f"{counted(found.maps, 'map')} copied {bytes_text(found.copied_bytes)}"
    )


def _series_headers(results: Sequence[Result]) -> list[str]:
    names = [result.backend.replace(":", ":\n").replace(",", ",\n") for result in results]
    return ["time (s)", "calls", *(f"{name}\nMiB" for name in names)]


def _series_rows(results: Sequence[Result]) -> list[list[str]]:
    """What each backend holds at each moment."""
    first_ns = results[0].first_ns
    return [
        [
            f"{(moments[0].t_ns - first_ns) / 1e9:.3f}",
            count_text(moments[0].calls or 0),
            *(f"{moment.held_bytes / _MIB:,.2f}" for moment in moments),
        ]
        for moments in zip(*(result.series for result in results), strict=True)
    ]


def series_csv(series: Mapping[str, Sequence[Moment]]) -> str:
    """Time series of backends, with the field names of Moment; None is empty.

    Of several backends the first column, ``backend``, says whose the row is.
    """
    text = io.StringIO()
    names = [field.name for field in fields(Moment)]
    if len(series) > 1:
        names.insert(0, "backend")
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for backend, moments in series.items():
        writer.writerows({"backend": backend, **asdict(moment)} for moment in moments)
    return text.getvalue()
