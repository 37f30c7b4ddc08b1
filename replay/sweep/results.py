# SPDX-License-Identifier: GPL-2.0-only
"""A sweep's Parquet file: one row a run, a column for each parameter and figure."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ztrace.replay.errors import ReplayError
from ztrace.replay.sweep.run import Row
from ztrace.traces.errors import printable
from ztrace.traces.parquet import open_parquet

FOOTER_KEY = b"ztrace_sweep"
VERSION = 1

_FIRST = ("trace", "backend", "model")
_LAST = ("wall_s", "engine", "error")


def write_results(rows: Sequence[Row], file: BinaryIO, about: dict[str, Any]) -> None:
    """Write rows as Parquet; ``about``: what made them, for the footer.

    A figure that a run does not have is null. Parameters that are numbers everywhere are stored
    as such.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    parameters = sorted(name for name in names if name.startswith("param."))
    rest = [n for n in names if n not in (*_FIRST, *parameters, *_LAST)]
    ordered = [*_FIRST, *parameters, *rest, *(name for name in _LAST if name in names)]
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in ordered}
    table = pa.table(columns).replace_schema_metadata(
        {FOOTER_KEY: json.dumps({"version": VERSION, **about}).encode()}
    )
    pq.write_table(table, file, compression="zstd")


def _column(name: str, values: list[Any]) -> pa.Array:
    if name.startswith("param."):
        given = [value for value in values if value is not None]
        for kind in (int, float):
            if all(_is(kind, value) for value in given):
                return pa.array([None if value is None else kind(value) for value in values])
    if all(value is None for value in values):
        texts = ("error", "stopped", "qualified")
        return pa.array(values, pa.string() if name in texts else pa.float64())
    # A name of a file need not be text; what is not is shown as everywhere.
    return pa.array([printable(value) if isinstance(value, str) else value for value in values])


def _is(kind: type[int] | type[float], value: str) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True


def is_results(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a sweep's; False for whatever cannot be read."""
    try:
        return FOOTER_KEY in (open_parquet(path).schema_arrow.metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_results(path: str | os.PathLike[str]) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a sweep's file, and what made them. ReplayError for any other file."""
    if not is_results(path):
        raise ReplayError(f"{path}: not the results of a sweep; name a file of ztrace sweep")
    try:
        table = open_parquet(path).read(use_threads=False)
        about = json.loads(table.schema.metadata[FOOTER_KEY])
        version = about["version"]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{path}: damaged ({error}); run the sweep again") from error
    if version != VERSION:
        raise ReplayError(f"{path}: version {version} of sweep results; update ztrace")
    rows: list[Row] = table.to_pylist()
    return rows, about


def in_plan_order(rows: Iterable[tuple[int, Row]]) -> list[Row]:
    """Rows by the position of their run, so that two sweeps of one plan give the same file."""
    return [row for _, row in sorted(rows, key=lambda item: item[0])]
