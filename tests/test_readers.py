# SPDX-License-Identifier: GPL-2.0-only
"""Every reader that we name reads every number of a trace exactly, by its plainest call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ztrace.traces import SCHEMA, Metadata, TraceReader, TraceWriter
from ztrace.traces.frames import read_pandas
from ztrace.traces.schema import integer_range

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "traces" / "samples"
FOLDERS = (SAMPLES, SAMPLES / "case-study")
OLD = ROOT / "tests" / "data" / "version-1.parquet"

Values = dict[str, list[Any]]


def _values(frame: pd.DataFrame) -> Values:
    return {
        str(name): [None if value is pd.NA else value for value in frame[name].tolist()]
        for name in frame
    }


def by_pandas(path: Path) -> Values:
    return _values(pd.read_parquet(path))


def by_read_pandas(path: Path) -> Values:
    return _values(read_pandas(path))


def by_pyarrow(path: Path) -> Values:
    return _values(pq.read_table(path).to_pandas())


def by_polars(path: Path) -> Values:
    return pl.read_parquet(path).to_dict(as_series=False)


def by_duckdb(path: Path) -> Values:
    found = duckdb.execute(f"select * from '{path}'")
    names = [column[0] for column in found.description or ()]
    return dict(zip(names, map(list, zip(*found.fetchall(), strict=True)), strict=True))


READERS = (by_pandas, by_read_pandas, by_pyarrow, by_polars, by_duckdb)


@pytest.fixture(scope="module")
def extremes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Values]:
    """A trace with the least and the greatest value of every column, and null where it may be."""
    values: Values = {}
    for field in SCHEMA:
        if field.name == "op":
            values["op"] = ["malloc", "free", "sample", "store"]
            continue
        low, high = integer_range(field.type)
        last = None if field.nullable else 1
        values[field.name] = [high, last, low, high - 1]
    path = tmp_path_factory.mktemp("readers") / "extremes.parquet"
    with TraceWriter(path, Metadata()) as writer:
        writer.write({f.name: pa.array(values[f.name], _stored(f)) for f in SCHEMA})
    return path, values


def _stored(field: pa.Field) -> pa.DataType:
    return pa.string() if field.name == "op" else field.type


@pytest.mark.parametrize("read", READERS)
def test_every_column_is_exact(
    read: Callable[[Path], Values], extremes: tuple[Path, Values]
) -> None:
    path, values = extremes
    assert read(path) == values


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recordings_of_a_folder_have_one_schema(folder: Path) -> None:
    paths = sorted(folder.glob("*.parquet"))
    found = duckdb.execute(f"select count(*) from (select * from '{folder}/*.parquet')")
    [(rows,)] = found.fetchall()
    assert rows == sum(pq.read_metadata(path).num_rows for path in paths)
    assert {str(pq.read_schema(path)) for path in paths} == {str(pq.read_schema(paths[0]))}


def test_handles_of_a_recording_in_pandas() -> None:
    """5,668 of these were told apart while they were floating point."""
    frame = pd.read_parquet(SAMPLES / "ztree-6.1-1cpu.parquet")
    mallocs = frame[frame.op == "malloc"]
    with TraceReader(SAMPLES / "ztree-6.1-1cpu.parquet") as reader:
        table = pa.Table.from_batches(reader.batches(["op", "handle"]))
    given = table.filter(pa.compute.equal(table["op"].cast(pa.string()), "malloc"))
    assert mallocs.handle.nunique() == len(set(given["handle"].to_pylist())) == 56_205


def test_an_older_file_is_exact_by_the_documented_call() -> None:
    with TraceReader(OLD) as reader:
        expected = pa.Table.from_batches(reader.batches()).to_pydict()
    assert by_read_pandas(OLD) == expected
    assert by_pandas(OLD) != expected  # what the call is for
