# SPDX-License-Identifier: GPL-2.0-only
"""Reading: our files, other tools' files, and files that are no traces."""

from __future__ import annotations

import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.traces import OPS, SCHEMA, Metadata, PoolInfo, TraceError, TraceReader, TraceWriter

KEY = {b"ztrace": Metadata().to_json().encode()}


def store(path: Path, columns: dict[str, Any], key: dict[bytes, bytes] | None = None) -> Path:
    """Write a Parquet file the way another tool would."""
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(KEY if key is None else key), path)
    return path


def read(path: Path, **how: Any) -> pa.Table:
    with TraceReader(path) as reader:
        return pa.Table.from_batches(reader.batches(**how))


def trace(path: Path, rows: int) -> Path:
    with TraceWriter(path, Metadata(pools=[PoolInfo("zbud")])) as writer:
        writer.write(
            {
                "ts_ns": np.arange(rows) * 1000,
                "op": (np.arange(rows) % len(OPS)).astype(np.int8),
                "handle": np.random.default_rng(1).integers(0, 2**64, rows, np.uint64),
            }
        )
    return path


def test_attributes(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", 23)
    with TraceReader(path) as reader:
        assert reader.num_rows == 23
        assert reader.bytes == path.stat().st_size
        assert reader.schema.equals(SCHEMA)
        assert reader.metadata.pools == [PoolInfo("zbud")]
        (batch,) = reader.batches()
        assert batch.schema.equals(SCHEMA)
        assert batch.column("op").to_pylist() == [OPS[i % len(OPS)] for i in range(23)]


def test_batches_are_bounded_and_in_order(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", 300_000)
    with TraceReader(path) as reader:
        sizes = [batch.num_rows for batch in reader.batches(["op"], rows=1000)]
        assert max(sizes) <= 1000 and sum(sizes) == 300_000
        ts = [v for b in reader.batches(["ts_ns"]) for v in b.column("ts_ns").to_pylist()]
        assert ts == list(range(0, 300_000_000, 1000))


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Eight row groups; the whole file would be 60 MB."""
    path = trace(tmp_path / "t", 1_000_000)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    most = 0
    with TraceReader(path) as reader:
        for _ in reader.batches(rows=16384):
            most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30 << 20 and peak < 30 << 20


def test_columns_are_selected_and_ordered(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", 3)
    assert read(path, columns=["op", "ts_ns"]).column_names == ["op", "ts_ns"]
    with TraceReader(path) as reader:
        with pytest.raises(ValueError, match="nope"):
            reader.batches(["nope"])
        with pytest.raises(ValueError, match="positive"):
            reader.batches(rows=0)


def test_absent_columns_alone(tmp_path: Path) -> None:
    path = store(tmp_path / "t", {"ts_ns": [1, 2], "op": ["free", "free"]})
    assert read(path, columns=["cpu", "size"]).to_pydict() == {"cpu": [0, 0], "size": [None] * 2}


def test_file_from_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "ts_ns": [1, 2, 3],
            "op": ["malloc", "free", "sample"],
            "size": [100.0, None, 4096.0],
            "handle": np.array([1, 2**63 + 1, 2], np.uint64),
            "ret": [0, -12, 0],
            "comment": ["a", "b", "c"],
        }
    )
    table = pa.Table.from_pandas(frame)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **KEY}), tmp_path / "t")
    found = read(tmp_path / "t")
    assert found.schema.equals(SCHEMA)
    assert found.column("size").to_pylist() == [100, None, 4096]
    assert found.column("handle").to_pylist() == [1, 2**63 + 1, 2]
    assert found.column("op").to_pylist() == ["malloc", "free", "sample"]


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("negative size", {"size": [1, -5]}, "row 1: size = -5"),
    ("unknown op", {"op": ["free", "frea"]}, "row 1: op is 'frea'"),
    ("null op", {"op": ["free", None]}, "row 1: op is null"),
    ("null ts", {"ts_ns": [None, 1]}, "row 0: ts_ns is null"),
    ("large cpu", {"cpu": [0, 1 << 16]}, "row 1: cpu = 65536"),
    ("text size", {"size": ["1", "2"]}, "column size is string, not uint32"),
    ("number op", {"op": [1, 2]}, "column op is int64"),
    ("nested ts", {"ts_ns": [{"a": 1}, {"a": 2}]}, "column ts_ns is struct"),
    ("time ts", {"ts_ns": pa.array([1, 2], pa.timestamp("ns"))}, "column ts_ns is timestamp"),
    ("inexact handle", {"handle": [1.0, 2.0**63]}, "row 1: handle"),
]


@pytest.mark.parametrize(
    ("columns", "message"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE]
)
def test_values_that_do_not_fit(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    good = {"ts_ns": [1, 2], "op": ["free", "free"]}
    read(store(tmp_path / "good", good))
    path = store(tmp_path / "t", {**good, **columns})
    with pytest.raises(TraceError, match=message):
        read(path)


def test_row_number_beyond_the_first_batch(tmp_path: Path) -> None:
    size = np.ones(10_000, np.int64)
    size[7777] = -1
    path = store(
        tmp_path / "t", {"ts_ns": np.arange(10_000), "op": ["free"] * 10_000, "size": size}
    )
    with pytest.raises(TraceError, match="row 7777: size"):
        read(path, rows=100)


def test_no_traces(tmp_path: Path) -> None:
    good = {"ts_ns": [1], "op": ["free"]}
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("ts_ns,op\n1,free\n")
    (tmp_path / "short").write_bytes(b"PA")
    (tmp_path / "magic").write_bytes(b"PAR1")
    (tmp_path / "magics").write_bytes(b"PAR1\0\0\0\0PAR1")
    os.mkfifo(tmp_path / "fifo")
    store(tmp_path / "keyless", good, {})
    store(tmp_path / "junk", good, {b"ztrace": b"\xff{"})
    store(tmp_path / "newer", good, {b"ztrace": b'{"schema": 9}'})
    store(tmp_path / "opless", {"ts_ns": [1]})
    pq.write_table(
        pa.table(
            [pa.array([1]), pa.array(["free"]), pa.array([1])], ["ts_ns", "op", "ts_ns"]
        ).replace_schema_metadata(KEY),
        tmp_path / "twice",
    )
    for name, message in {
        "missing": "no such file",
        "a\0b": "cannot read",
        ".": "not a regular file",
        "fifo": "not a regular file",
        "empty": "empty",
        "text": "not a trace .no Parquet file.; ztrace import reads CSV",
        "short": "not a trace",
        "magic": "damaged or cut short",
        "magics": "damaged or cut short",
        "keyless": "no key ztrace in its footer",
        "junk": "metadata is not JSON",
        "newer": "schema version 9, this ztrace reads up to 1",
        "opless": "no column op",
        "twice": "column ts_ns occurs twice",
    }.items():
        with pytest.raises(TraceError, match=message) as caught:
            TraceReader(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = trace(tmp_path / "whole", 5000).read_bytes()
    path = tmp_path / "t"
    for size in [*range(1, 40), *range(40, len(whole), 997), *range(len(whole) - 40, len(whole))]:
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError):
            read(path)
    path.write_bytes(whole)
    assert read(path).num_rows == 5000


def test_corrupt_pages_are_found(tmp_path: Path) -> None:
    whole = trace(tmp_path / "whole", 5000).read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    path = tmp_path / "t"
    expected = read(tmp_path / "whole")
    rng = random.Random(1)
    found = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.randrange(4, footer)] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read(path).equals(expected), "damage that is not seen must not matter"
        except TraceError as error:
            found += 1
            assert "damaged" in str(error)
    assert found > 150


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_anywhere_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    whole = folder / "whole"
    if not folder.exists():
        folder.mkdir()
        trace(whole, 300)
    damaged = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (folder / "t").write_bytes(damaged)
    try:
        read(folder / "t")
    except TraceError as error:
        assert str(error).isprintable()
