# SPDX-License-Identifier: GPL-2.0-only
"""The one door to a replay: a trace, models by name or as classes, and the order of the calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ztrace.replay.play.backends import chosen_or_own
from ztrace.traces.reader import TraceReader

if TYPE_CHECKING:
    from ztrace.allocator.traits import Maker
    from ztrace.replay.figures.result import Every, Result
    from ztrace.replay.read.source import Source

    AnyTrace = TraceReader | str | os.PathLike[str]
    Backend = str | Maker

RECORDED: Literal["recorded"] = "recorded"
"""For ``order``: the calls as they returned, also those of several CPUs."""


@contextmanager
def opened(trace: AnyTrace) -> Iterator[TraceReader]:
    """A trace that is open already, or one by its path, open while the block runs."""
    if isinstance(trace, TraceReader):
        yield trace
        return
    with TraceReader(trace) as reader:
        yield reader


def specification(backend: Backend) -> str:
    """A backend's name; a class of one's own becomes one."""
    if isinstance(backend, str):
        return backend
    from ztrace.allocator.own import add

    return add(backend)


def in_asked_order(
    reader: TraceReader, backend: str, order: Path | Literal["recorded"] | None
) -> Source:
    """The trace in the order asked for; of ztree, if nothing is said, in the one found."""
    if order == RECORDED or (order is None and reader.metadata.machine.cpus == 1):
        return reader
    # Searching an order takes all that validation needs, which one CPU's calls do not.
    from ztrace.replay.order.file import read_order
    from ztrace.replay.order.found import InOrder, in_order

    if order is not None:
        return InOrder(reader, list(read_order(order, reader.num_rows)))
    return in_order(reader, backend)


def replay(
    trace: AnyTrace,
    backend: Backend | None = None,
    *,
    order: Path | Literal["recorded"] | None = None,
    engine: Literal["native", "python"] | None = None,
    every: Every | None = None,
    timing: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Result:
    """Drive an allocator model with the calls of a trace and measure its memory.

    ``trace``: one of :func:`ztrace.open`, or a path. ``backend``: a specification as
    ``zsmalloc:7.2`` or ``mymodule:Class``, or a class that makes a :class:`allocator.Pool`;
    default the recorded allocator's own model. ``order``: a file of ``ztrace validate --order``,
    or ``recorded``; default the order found for ztree on several CPUs, the recorded one else.
    ``engine``: the C core or the models in Python, default the core where it can. ``every`` asks
    for a time series, ``timing`` for the ns of the core's own calls. ``advance`` gets numbers of
    rows done, in all twice the trace's.

    Sizes in the result are in bytes, times in ns. Raises BackendError for an unknown or impossible
    backend, ReplayError for a trace that cannot be replayed, TraceError for a damaged one.
    """
    [result] = replay_all(
        trace,
        [] if backend is None else [backend],
        order=order,
        engine=engine,
        every=every,
        timing=timing,
        advance=advance,
    )
    return result


def replay_all(
    trace: AnyTrace,
    backends: Iterable[Backend] = ("all",),
    *,
    order: Path | Literal["recorded"] | None = None,
    engine: Literal["native", "python"] | None = None,
    every: Every | None = None,
    timing: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
    slower: Callable[[str], object] = lambda why: None,
) -> list[Result]:
    """As :func:`replay` through several models, decoding the trace once.

    ``all`` stands for the models that fit the recorded machine; none means the recorded
    allocator's own. ``slower`` is told why the core is not used.
    """
    from ztrace.replay.play.fastest import replay_each

    with opened(trace) as reader:
        models = chosen_or_own(map(specification, backends), reader.metadata)
        return replay_each(
            in_asked_order(reader, models[0], order),
            models,
            engine=engine,
            every=every,
            timing=timing,
            advance=advance,
            slower=slower,
        )
