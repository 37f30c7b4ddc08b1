# SPDX-License-Identifier: GPL-2.0-only
"""Columns as NumPy arrays are what Arrow's own functions give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrace.traces.columns import valid, values

TYPES = {pa.uint64(): 2**64 - 1, pa.uint32(): 2**32 - 1, pa.int32(): 2**31 - 1, pa.int8(): 127}


@given(
    type_=st.sampled_from(list(TYPES)),
    given_=st.lists(st.integers(0, 127) | st.none() | st.just(-1), max_size=40),
    cut=st.integers(0, 20),
    chunks=st.booleans(),
)
def test_as_arrow_gives_them(type_: Any, given_: list[int | None], cut: int, chunks: bool) -> None:
    most = TYPES[type_]
    column: Any = pa.array([most if one == -1 else one for one in given_], type_)[cut:]
    if chunks:
        column = pa.chunked_array([column[:3], column[3:]], type_)
    assert valid(column).tolist() == column.is_valid().to_pylist()
    for absent in (0, most):
        found = values(column, absent)
        assert found.dtype == np.dtype(type_.to_pandas_dtype())
        assert found.tolist() == column.fill_null(pa.scalar(absent, type_)).to_pylist()


@pytest.mark.parametrize("type_", list(TYPES))
def test_all_null(type_: Any) -> None:
    assert values(pa.nulls(3, type_), 7).tolist() == [7, 7, 7]
    assert not valid(pa.nulls(3, type_)).any() and len(values(pa.nulls(0, type_))) == 0
