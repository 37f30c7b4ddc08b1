# SPDX-License-Identifier: GPL-2.0-only
"""A trace through an allocator model.

>>> from ztrace.replay import replay_trace
>>> result = replay_trace("trace.parquet", "ztree")  # doctest: +SKIP
>>> result.held_bytes.peak, result.handles_equal  # doctest: +SKIP

These names are imported when they are first asked for, so that a part of the package does not
load the whole of it. The package itself is called as :func:`replay.door.replay`: that is
``ztrace.replay(trace, "ztree")``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ztrace.replay.errors import ReplayError
    from ztrace.replay.figures.result import Agreement, Every, Level, Moment, PoolResult, Result
    from ztrace.replay.play.engine import replay, replay_trace

__all__ = [
    "Agreement",
    "Every",
    "Level",
    "Moment",
    "PoolResult",
    "ReplayError",
    "Result",
    "replay",
    "replay_trace",
]

_MODULES = {
    "ReplayError": "ztrace.replay.errors",
    "replay": "ztrace.replay.play.engine",
    "replay_trace": "ztrace.replay.play.engine",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULES.get(name, "ztrace.replay.figures.result"))
    return getattr(module, name)


class _Package(ModuleType):
    """Stands for the function of its name, since ``ztrace.replay`` can be but one of the two."""

    def __call__(self, *given: Any, **options: Any) -> Result:
        from ztrace.replay.door import replay

        return replay(*given, **options)


sys.modules[__name__].__class__ = _Package
