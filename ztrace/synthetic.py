# SPDX-License-Identifier: GPL-2.0-only
"""What people type of a synthetic trace, as a plan; pages of real files, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from ztrace.console import lost_lines, progress
from ztrace.replay.figures.qualified import of_trace
from ztrace.traces.pages import Pages, compress_pages
from ztrace.traces.reader import TraceReader
from ztrace.traces.synth import (
    Lifetimes,
    Observed,
    Plan,
    Sizes,
    equal_lifetimes,
    exponential_lifetimes,
    fitted_lifetimes,
    fitted_sizes,
    gauss_sizes,
    observe,
    page_sizes,
    uniform_lifetimes,
    uniform_sizes,
)
from ztrace.traces.timeorder import check_time_order

DEFAULT_SIZES = "gauss:1500,600"
CHURNS = {
    "exponential": exponential_lifetimes,
    "fifo": equal_lifetimes,
    "uniform": uniform_lifetimes,
}


@dataclass(frozen=True)
class Drawn:
    """A plan, what it is to be compared with where it is fitted, and the pages it is made of.

    ``limits``: what limits a fit, a line each.
    """

    plan: Plan
    sizes_of: Observed | None
    lifetimes_of: Observed | None
    pages: Pages | None
    limits: list[str]


def drawn(
    events: int,
    live: int,
    sizes: str | None,
    folder: Path | None,
    compressor: str,
    page_bytes: int,
    churn: str,
    seed: int,
) -> Drawn:
    """The plan of what was asked for; ``sizes`` and ``folder`` exclude each other.

    click.UsageError for what cannot be read; TraceError for a trace that cannot be fitted.
    """
    if sizes is not None and folder is not None:
        raise click.UsageError("--sizes and --from-files exclude each other")
    observed: dict[str, Observed] = {}
    for text in filter(None, (sizes, churn)):
        kind, _, path = text.partition(":")
        if kind == "fit" and path not in observed:
            observed[path] = observe(Path(path))
    limits = _limits(observed, churn.removeprefix("fit:"))
    pages = None
    if folder is not None:
        pages = take_pages(folder, [compressor], page_bytes, seed)
        chosen = page_sizes(pages, folder.name)
    else:
        chosen = _sizes(sizes or DEFAULT_SIZES, observed, page_bytes)
    return Drawn(
        Plan(events, live, chosen, _lifetimes(churn, observed), seed),
        None if sizes is None else observed.get(sizes.removeprefix("fit:")),
        observed.get(churn.removeprefix("fit:")),
        pages,
        limits,
    )


def _limits(observed: Iterable[str], churn: str) -> list[str]:
    """What limits a fit to traces, a line each. TraceError for one whose lifetimes, as of the trace
    ``churn``, mean nothing because its rows are out of time order."""
    lines = []
    for path in observed:
        with TraceReader(path) as reader:
            if path == churn:
                check_time_order(reader, path)
            metadata = reader.metadata
        lost = lost_lines(metadata) if metadata.lost_events() != 0 else []
        lines += [f"{path}: {line.strip()}" for line in (*lost, *of_trace(metadata))]
    return lines


def take_pages(folder: Path, compressors: list[str], page_bytes: int, seed: int) -> Pages:
    """Compress a folder's pages, with a progress bar."""
    with progress(f"pages of {folder.name}", None) as advance:
        return compress_pages(
            folder, compressors, page_bytes=page_bytes, seed=seed, advance=advance
        )


def _sizes(text: str, observed: dict[str, Observed], page_bytes: int) -> Sizes:
    kind, _, rest = text.partition(":")
    if kind == "fit":
        return fitted_sizes(observed[rest], rest)
    try:
        low, high = map(float, rest.split(","))
    except ValueError:
        low = high = float("nan")
    if kind == "uniform" and 1 <= low <= high:
        return uniform_sizes(int(low), int(high), page_bytes)
    if kind == "gauss" and abs(low) < 1e9 and 0 < high < 1e9:
        return gauss_sizes(low, high, page_bytes)
    raise click.BadParameter(
        f"{text!r} is not fit:TRACE, uniform:LOW,HIGH or gauss:MEAN,DEVIATION", param_hint="--sizes"
    )


def _lifetimes(text: str, observed: dict[str, Observed]) -> Lifetimes:
    kind, _, rest = text.partition(":")
    if kind == "fit":
        return fitted_lifetimes(observed[rest], rest)
    if text not in CHURNS:
        raise click.BadParameter(
            f"{text!r} is not fit:TRACE, {', '.join(CHURNS)}", param_hint="--churn"
        )
    return CHURNS[text]()
