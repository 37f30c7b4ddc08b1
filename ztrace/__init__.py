# SPDX-License-Identifier: GPL-2.0-only
"""Record what Linux's compressed swap asks of its allocator, replay it through exact models.

>>> import ztrace
>>> trace = ztrace.open("trace.parquet")  # doctest: +SKIP
>>> ztrace.replay(trace, "zsmalloc:7.2").held_bytes.peak  # doctest: +SKIP

The names in ``__all__`` are stable; they are described in docs/api.md and imported when they are
first asked for. The command line is here, too; what it works with are the parts linked into this
folder: tracer, traces, allocator and replay.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ztrace.version import __version__ as __version__

if TYPE_CHECKING:
    from ztrace.allocator.protocol import BackendError, Pool
    from ztrace.api import Report, measure, open, report, validate
    from ztrace.errors import ZtraceError
    from ztrace.measuring import Measured
    from ztrace.replay.door import replay, replay_all
    from ztrace.replay.errors import ReplayError
    from ztrace.replay.figures.result import Every, Result
    from ztrace.replay.report import Thresholds
    from ztrace.replay.validate import Verdict
    from ztrace.traces.errors import TraceError
    from ztrace.traces.trace import Trace

__all__ = [
    "BackendError",
    "Every",
    "Measured",
    "Pool",
    "ReplayError",
    "Report",
    "Result",
    "Thresholds",
    "Trace",
    "TraceError",
    "Verdict",
    "ZtraceError",
    "measure",
    "open",
    "replay",
    "replay_all",
    "report",
    "validate",
]

_HOME = {
    "BackendError": "allocator.protocol",
    "Every": "replay.figures.result",
    "Measured": "measuring",
    "Pool": "allocator.protocol",
    "ReplayError": "replay.errors",
    "Report": "api",
    "Result": "replay.figures.result",
    "Thresholds": "replay.report",
    "Trace": "traces.trace",
    "TraceError": "traces.errors",
    "Verdict": "replay.validate",
    "ZtraceError": "errors",
    "measure": "api",
    "open": "api",
    "replay_all": "replay.door",
    "report": "api",
    "validate": "api",
}


if not TYPE_CHECKING:  # or every name would be taken for one that there is

    def __getattr__(name: str) -> Any:
        """A stable name, or the package ``ztrace.replay``, which is called as the function."""
        if name == "replay":
            return import_module("ztrace.replay")
        if name in _HOME:
            return getattr(import_module(f"ztrace.{_HOME[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
