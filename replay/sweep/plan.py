# SPDX-License-Identifier: GPL-2.0-only
"""What a sweep runs: traces x backends x values of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from ztrace.allocator import BackendError, create
from ztrace.allocator.registry import load
from ztrace.replay.errors import ReplayError
from ztrace.replay.limit.asked import AskedLimit
from ztrace.replay.limit.zswap import Rules

REPLAY_PARAMETERS = ("scale", "limit", "accept", "rules")
"""Parameters of the replay itself; any other one is an item of a backend's specification.

``scale``: every compressed size times this (:class:`replay.read.scaled.Scaled`). ``limit``: zswap
with that pool limit is played above the model (:class:`replay.limit.AskedLimit`); ``accept``: the
percentage of it where a full pool accepts again; ``rules``: the release whose rules of it are
meant. Without a limit the latter two are no parameters.
"""

MOST_RUNS = 1_000_000


@dataclass(frozen=True)
class Run:
    """One replay: the trace (path or URL), the backend's name as given, and name -> value."""

    trace: str
    backend: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def specification(self) -> str:
        """The backend with those parameters that are its own."""
        items = [f"{k}={v}" for k, v in self.parameters if k not in REPLAY_PARAMETERS]
        if not items:
            return self.backend
        return f"{self.backend}{',' if ':' in self.backend else ':'}{','.join(items)}"

    def parameter(self, name: str) -> str | None:
        """A parameter's value, None where the run has none of that name."""
        return dict(self.parameters).get(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the way back."""
        return {
            "trace": self.trace,
            "backend": self.backend,
            "parameters": dict(self.parameters),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Run:
        """KeyError, TypeError or ValueError for what :meth:`to_dict` did not make."""
        parameters = tuple((str(k), str(v)) for k, v in dict(plain["parameters"]).items())
        return cls(str(plain["trace"]), str(plain["backend"]), parameters)


def plan_runs(
    traces: Sequence[str], backends: Sequence[str], parameters: Mapping[str, Sequence[str]]
) -> list[Run]:
    """All runs, those of a trace together; no run twice.

    A parameter that a backend does not have makes no difference to it: it runs once without it.
    Raises BackendError for an unknown backend, ReplayError for a parameter that is none of any
    backend, a value that is impossible for all of them, or more than MOST_RUNS runs.
    """
    for backend in backends:
        load(backend)
        create(backend)
    for name, values in parameters.items():
        _check(name, values, backends)
    count = len(traces) * len(backends) * prod(map(len, parameters.values()))
    if count > MOST_RUNS:
        raise ReplayError(f"{count:,} runs, more than {MOST_RUNS:,}: fewer values or traces")
    for name in ("accept", "rules"):
        if name in parameters and "limit" not in parameters:
            raise ReplayError(f"--param {name} is of a pool limit: give --param limit too")
    runs: dict[Run, None] = {}
    names = list(parameters)
    for trace, backend, values in product(traces, backends, product(*parameters.values())):
        given = [
            (name, value)
            for name, value in zip(names, values, strict=True)
            if name in REPLAY_PARAMETERS or _takes(backend, name, parameters[name])
        ]
        runs[Run(trace, backend, tuple(given))] = None
    return list(runs)


def _check(name: str, values: Sequence[str], backends: Sequence[str]) -> None:
    if name == "scale":
        for value in values:
            try:
                good = 0 < float(value) < float("inf")
            except ValueError:
                good = False
            if not good:
                raise ReplayError(f"--param scale={value}: not a number above 0")
    elif name == "limit":
        for value in values:
            AskedLimit.parse(value)
    elif name == "accept":
        if not all(value.isdigit() and int(value) <= 100 for value in values):
            raise ReplayError(f"--param accept={','.join(values)}: 0 to 100 percent each")
    elif name == "rules":
        known_rules = [one.value for one in Rules]
        if not set(values) <= set(known_rules):
            raise ReplayError(
                f"--param rules={','.join(values)}: each one of {', '.join(known_rules)}"
            )
    elif not any(_takes(backend, name, values) for backend in backends):
        known = ", ".join(REPLAY_PARAMETERS)
        raise ReplayError(
            f"--param {name}={','.join(values)}: no such item of {', '.join(backends)}, or no "
            f"such value; of the replay itself there are: {known}"
        )


def _takes(backend: str, name: str, values: Sequence[str]) -> bool:
    """Whether any of the values is possible: a backend that has the item refuses a bad value."""
    for value in values:
        try:
            create(Run("", backend, ((name, value),)).specification)
        except (BackendError, TypeError):  # TypeError: a third party's that has no such item
            continue
        return True
    return False
