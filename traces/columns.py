# SPDX-License-Identifier: GPL-2.0-only
"""Integer columns as NumPy arrays, nulls as a value of the caller's.

Arrow's own fill_null() and is_valid() would load its compute functions, which takes as long as the
start of a small command otherwise does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def valid(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether each element has a value."""
    array = _whole(column)
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    bitmap = array.buffers()[0]
    if bitmap is None:  # of the type that is null everywhere
        return np.zeros(len(array), np.bool_)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)


def values(column: pa.Array | pa.ChunkedArray, absent: int = 0) -> npt.NDArray[Any]:
    """The elements in the column's own type, ``absent`` for null; read-only where nothing is."""
    array = _whole(column)
    if not array.null_count:
        whole: npt.NDArray[Any] = array.to_numpy()
        return whole
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    if data is None:
        return np.full(len(array), absent, dtype)
    raw = np.frombuffer(data, dtype, array.offset + len(array))[array.offset :]
    return np.where(valid(array), raw, dtype.type(absent))


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
