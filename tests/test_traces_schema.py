# SPDX-License-Identifier: GPL-2.0-only
"""The columns, and what conform() does with batches of other shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ztrace.traces import OP_CODE, OPS, SCHEMA, TraceError, printable
from ztrace.traces.schema import conform


def rows(**columns: Any) -> pa.RecordBatch:
    return conform(columns, where="t")


def test_columns_are_those_of_the_format() -> None:
    assert [(f.name, str(f.type)) for f in SCHEMA] == [
        ("ts_ns", "int64"),
        ("dur_ns", "uint32"),
        ("op", "dictionary<values=string, indices=int8, ordered=0>"),
        ("pool", "uint8"),
        ("key", "uint64"),
        ("size", "uint32"),
        ("handle", "uint64"),
        ("ret", "int32"),
        ("place", "uint64"),
        ("total", "uint64"),
        ("lock_ns", "uint32"),
        ("cpu", "uint16"),
        ("tid", "uint32"),
        ("cgroup", "uint64"),
    ]
    assert OP_CODE["store"] == 0 and OPS[OP_CODE["sample"]] == "sample"


def test_missing_columns_are_null_or_zero() -> None:
    batch = rows(ts_ns=np.array([5]), op=np.array([4], np.int8))
    assert batch.schema.equals(SCHEMA)
    assert batch.to_pylist() == [
        {
            **dict.fromkeys(("key", "size", "handle", "place", "total", "lock_ns", "cgroup")),
            **dict.fromkeys(("dur_ns", "pool", "ret", "cpu", "tid"), 0),
            "ts_ns": 5,
            "op": "malloc",
        }
    ]


@pytest.mark.parametrize(
    "op",
    [
        np.array([5, 4], np.int8),
        np.array([5, 4], np.uint32),
        pa.array(["free", "malloc"]),
        pa.array(["free", "malloc"], pa.large_string()),
        pa.array(["free", "malloc"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(["malloc", "junk", "free"])),
        ["free", "malloc"],
    ],
    ids=str,
)
def test_op_in_any_shape(op: Any) -> None:
    batch = rows(ts_ns=[1, 2], op=op)
    assert batch.column("op").type == SCHEMA.field("op").type
    assert batch.column("op").to_pylist() == ["free", "malloc"]


def test_wide_floating_and_absent_integers() -> None:
    batch = rows(
        ts_ns=[1, 2],
        op=[4, 4],
        size=pa.array([100, None], pa.int64()),
        handle=np.array([2**64 - 1, 2**63], np.uint64),
        key=np.array([7.0, np.nan]),
        total=pa.nulls(2),
        ret=pa.array([-12, None], pa.int64()),
    )
    assert batch.column("size").to_pylist() == [100, None]
    assert batch.column("handle").to_pylist() == [2**64 - 1, 2**63]
    assert batch.column("key").to_pylist() == [7, None]
    assert batch.column("total").to_pylist() == [None, None]
    assert batch.column("ret").to_pylist() == [-12, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"size": [1, -1]}, "row 1: size = -1 is not an exact integer from 0 to 4294967295"),
        ({"cpu": [0, 65536]}, "row 1: cpu = 65536"),
        ({"ret": [2**31, 0]}, "row 0: ret = 2147483648"),
        ({"handle": np.array([1.0, 2.0**60])}, "row 1: handle = 1.15"),
        ({"size": np.array([1.5, 2])}, "row 0: size = 1.5"),
        ({"size": np.array([1, np.inf])}, "row 1: size = inf"),
        ({"size": ["1", "2"]}, "column size is string"),
        ({"size": [True, False]}, "column size is bool"),
        ({"size": [2**70, 1]}, "column size"),
        ({"size": [1]}, "column size has 1 rows, others have 2"),
        ({"ts_ns": [1, None]}, "row 1: ts_ns is null"),
        ({"op": ["malloc", None]}, "row 1: op is null"),
        ({"op": ["malloc", "alloc"]}, "row 1: op is 'alloc'"),
        ({"op": [0, 13]}, "row 1: op is 13"),
        ({"op": [-1, 0]}, "row 0: op is -1"),
        ({"op": [1.0, 2.0]}, "column op is double"),
    ],
    ids=str,
)
def test_values_that_do_not_fit(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError) as caught:
        rows(**{"ts_ns": [1, 2], "op": [0, 0], **columns})
    assert message in str(caught.value)


def test_row_numbers_count_from_the_start_of_the_file() -> None:
    with pytest.raises(TraceError, match="row 1002: op"):
        conform({"ts_ns": [1, 2, 3], "op": [0, 0, 99]}, where="t", first_row=1000)


def test_required_and_duplicate_columns() -> None:
    with pytest.raises(TraceError, match="no column op"):
        rows(ts_ns=[1])
    one = pa.array([1])
    with pytest.raises(TraceError, match="ts_ns occurs twice"):
        conform(pa.table([one, one], names=["ts_ns", "ts_ns"]), where="t")


def test_error_text_is_one_harmless_line() -> None:
    text = str(TraceError("a\nb\x1b[31m\u202e\udcff" + "x" * 5000))
    assert text.startswith(r"a\nb\x1b[31m\u202e\udcffxxx")
    assert len(text) < 1100 and text.isprintable()
    assert printable("plain µ") == "plain µ"
