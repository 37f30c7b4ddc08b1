# SPDX-License-Identifier: GPL-2.0-only
"""What ``import ztrace`` gives: the functions behind the commands, which call the same ones.

The names in ``ztrace.__all__`` are stable (docs/api.md); everything else may change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztrace.replay.door import opened, replay, replay_all, specification
from ztrace.traces.trace import Trace

if TYPE_CHECKING:
    from ztrace.measuring import Measured
    from ztrace.replay.door import AnyTrace, Backend
    from ztrace.replay.report import Thresholds
    from ztrace.replay.validate import Verdict
    from ztrace.tracer.program.allocators import Allocator
    from ztrace.traces.metadata import Metadata

__all__ = ["Report", "measure", "open", "replay", "replay_all", "report", "validate"]

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""``progress(what, total)``: shows a piece of work; gives what is called with amounts done."""


@contextmanager
def quiet(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A Progress that shows nothing."""
    yield lambda done: None


def open(path: str | os.PathLike[str]) -> Trace:
    """Open a trace. TraceError for a path that is none, a damaged one or one that is too new."""
    return Trace(path)


def validate(
    trace: AnyTrace,
    *,
    backend: Backend | None = None,
    engine: Literal["native", "python"] | None = None,
    starts_empty: bool | None = None,
    order: Path | None = None,
    force: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Verdict:
    """Whether the models of a trace's allocators answer its calls as the kernel did.

    ``verdict.agrees`` is the answer. ``backend`` replaces the model of the recorded kernel.
    ``starts_empty``: whether the pools were empty when recording began, default as the trace
    says. ``order``: write the order found for ztree's calls to this file, replaced only with
    ``force``. ``advance`` gets numbers of rows done, in all the trace's.

    Raises ReplayError for a trace that cannot be validated, BackendError for an impossible
    backend, NativeMissing for the engine ``native`` without a core, TraceError for a damaged
    trace or an existing order file.
    """
    from ztrace.replay.validate import validate_trace

    with ExitStack() as stack:
        reader = stack.enter_context(opened(trace))
        writer = None
        if order is not None:
            from ztrace.replay.order.file import OrderWriter

            writer = stack.enter_context(OrderWriter(order, reader.path, force=force))
        return validate_trace(
            reader,
            backend=None if backend is None else specification(backend),
            engine=engine,
            starts_empty=starts_empty,
            on_order=writer.write if writer else None,
            advance=advance,
        )


def measure(
    trace: str | os.PathLike[str],
    allocators: Sequence[str | Allocator],
    *,
    kernel: str = "6.1",
    here: bool = False,
    cpus: int = 1,
    repeat: int = 3,
    by_size: int = 0,
    outputs: Mapping[str, Path] | None = None,
    force: bool = False,
    compare: bool = True,
    progress: Progress = quiet,
) -> list[Measured]:
    """Play a trace into real allocators inside a kernel and time each call, in ns.

    ``allocators``: ``NAME`` of the kernel's own or ``NAME=FILE`` with a source of yours.
    ``kernel``: a release of Debian's or the folder of a kernel tree, built as a program that runs
    without root; the first build takes minutes. ``here``: in the running kernel instead, as root.
    ``repeat`` rounds in fresh pools, a call's time is its least; ``by_size``: also by so many
    ranges of size. ``outputs``: traces to keep, by the allocator's name. ``compare``: whether the
    models are driven with what was answered.

    One Measured each; what failed for one allocator is its ``error``. ZtraceError for the rest.
    """
    from ztrace.measuring import Wish
    from ztrace.measuring import measure as measured
    from ztrace.tracer.program.allocators import parse

    wish = Wish(
        trace=Path(trace),
        allocators=[parse(one) if isinstance(one, str) else one for one in allocators],
        kernel=kernel,
        rounds=repeat,
        threads=cpus,
        sizes=by_size,
        outputs=dict(outputs or {}),
        force=force,
        compare=compare,
        here=here,
    )
    return list(measured(wish, progress))


@dataclass(frozen=True)
class Report:
    """What recordings say: ``document`` is plain JSON types, of which each form is made."""

    document: dict[str, Any]

    def render(self, form: str = "html") -> str:
        """The report as ``html``, ``text`` (the answers), ``full`` (the whole as text), ``md``,
        ``json``, ``csv`` or ``perfetto``."""
        from ztrace.replay.report import render

        return render(self.document, form)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The thresholds that are not met."""
        return [one for one in self.document.get("checks", ()) if not one["passed"]]

    def _repr_html_(self) -> str:
        """A notebook shows the text; the page is a whole one, for a file."""
        from html import escape

        return f"<pre>{escape(self.render('text'))}</pre>"


def report(
    traces: Sequence[str | os.PathLike[str]],
    *,
    labels: Sequence[str] | None = None,
    backends: Sequence[Backend] = (),
    timing: bool = False,
    claims: bool | None = None,
    measured: Sequence[str | os.PathLike[str]] = (),
    measures: bool = False,
    thresholds: Thresholds | None = None,
    progress: Progress = quiet,
) -> Report:
    """Say what could be changed for traces' workloads, what they show and what models make of them.

    ``labels``: the recordings' names, default those of the files. ``backends``: models to replay,
    default those that the kernels have, and ztree if it was recorded or measured. ``timing``:
    whether the core's own calls are timed. ``claims``: whether those made for ztree are judged,
    default if it is among the rest. ``measured``: what :func:`measure` kept, or summaries of that,
    for its times; ``measures``: whether the allocators of the traces' kernels are measured now,
    too. A single file of results of a sweep may take the traces' place.

    Raises ReplayError for a recording that cannot be replayed, BackendError for an unknown
    backend, TraceError for a damaged trace, ValueError for labels that do not fit the traces, and
    ZtraceError for what cannot be measured.
    """
    from ztrace.replay import report as made
    from ztrace.replay.report.measured import groups, read_summaries, times_of
    from ztrace.replay.research.claims import OURS, concerned, judge
    from ztrace.replay.sweep import is_results, read_results

    paths = [Path(path) for path in traces]
    if any(map(is_results, paths)):
        [results] = paths
        rows, _ = read_results(results)
        return Report(made.sweep_document(rows))
    names = made.labels(paths) if labels is None else list(labels)
    if len(names) != len(paths) or len(set(names)) < len(names):
        raise ValueError("give each recording one label, and no two the same")
    named = [specification(one) for one in backends]
    summed = read_summaries([Path(path) for path in measured])
    if measures:
        from ztrace.measuring import summaries

        summed += summaries(paths, progress)
    found = groups(summed)
    wanted = claims
    if wanted is None:
        wanted = concerned([], found) or any(_recorded_on(path, OURS) for path in paths)
    recordings = []
    for path, name in zip(paths, names, strict=True):
        with Trace(path) as reader:
            models = _models(reader.metadata, named, wanted)
            with progress(path.name, made.passes(len(models)) * reader.num_rows) as advance:
                recordings.append(
                    made.gather_one(
                        *(reader, name, models, advance),
                        timing=timing,
                        advises=True,
                        times=times_of(found, path.name),
                    )
                )
    wanted = concerned(recordings, found) if claims is None else claims
    judged = judge(recordings, found) if wanted else []
    return Report(made.assemble(recordings, thresholds or made.Thresholds(), judged, found))


def _recorded_on(path: Path, allocator: str) -> bool:
    with Trace(path) as reader:
        return any(pool.allocator == allocator for pool in reader.metadata.pools)


def _models(metadata: Metadata, backends: Sequence[str], claims: bool) -> list[str]:
    """The backends to replay; BackendError for one that does not exist."""
    from ztrace.allocator import BackendError, create
    from ztrace.replay.play.backends import chosen
    from ztrace.replay.report import default_backends

    if not backends:
        return default_backends(metadata, claims=claims)
    models = chosen(backends, metadata)
    for name in models:
        try:
            create(name)
        except TypeError as error:  # a third party's, with an item it does not take
            raise BackendError(f"{name}: {error}") from error
    return models
