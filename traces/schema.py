# SPDX-License-Identifier: GPL-2.0-only
"""The columns of a trace, and the one function that makes any batch conform to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ztrace.traces.columns import valid, values
from ztrace.traces.errors import TraceError

SCHEMA_VERSION = 1
"""Version of the file format; a reader reads its own version and all earlier ones."""

OPS: tuple[str, ...] = (
    "store",
    "load",
    "invalidate",
    "writeback",
    "malloc",
    "free",
    "map",
    "unmap",
    "shrink",
    "compact",
    "sample",
    "link",
    "unlink",
)
"""Every value of column ``op``. The position is the code, so new ones go to the end."""

OP_CODE: dict[str, int] = {name: code for code, name in enumerate(OPS)}
"""op name -> int8 code, as the recorder emits it."""

ZSWAP_OPS = frozenset({"store", "load", "invalidate", "writeback"})
"""Calls into zswap (or zram), one level above the allocator."""

ALLOCATOR_OPS = frozenset({"malloc", "free", "map", "unmap", "shrink", "compact"})
"""Calls into the allocator of compressed pages."""

LIST_OPS = frozenset({"link", "unlink"})
"""No calls, and without a duration: a page put on a list of the allocator's, and taken off one."""

NOT_BYTES = frozenset({"compact", *LIST_OPS})
"""Ops whose ``size`` is no number of bytes."""

SCHEMA = pa.schema(
    [
        pa.field("ts_ns", pa.int64(), nullable=False),
        pa.field("dur_ns", pa.uint32(), nullable=False),
        pa.field("op", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("pool", pa.uint8(), nullable=False),
        pa.field("key", pa.uint64()),
        pa.field("size", pa.uint32()),
        pa.field("handle", pa.uint64()),
        pa.field("ret", pa.int32(), nullable=False),
        pa.field("place", pa.uint64()),
        pa.field("total", pa.uint64()),
        pa.field("lock_ns", pa.uint32()),
        pa.field("cpu", pa.uint16(), nullable=False),
        pa.field("tid", pa.uint32(), nullable=False),
        pa.field("cgroup", pa.uint64()),
    ]
)
"""The Arrow schema of a trace, one row per finished kernel call."""

COLUMNS: tuple[str, ...] = tuple(SCHEMA.names)
REQUIRED: tuple[str, ...] = ("ts_ns", "op")
"""Columns that no file may lack. A missing nullable column is null, a missing other one 0."""

Batch: TypeAlias = "pa.RecordBatch | pa.Table | Mapping[str, Any]"
"""A batch of rows: an Arrow table, or column name -> numpy or Arrow array of equal lengths."""

_DICTIONARY = pa.array(OPS, pa.string())
_EXACT_FLOAT = 2**53


def integer_range(kind: pa.DataType) -> tuple[int, int]:
    """Return the least and the greatest value of an Arrow integer type."""
    width: int = kind.bit_width
    if pa.types.is_signed_integer(kind):
        return -(1 << (width - 1)), (1 << (width - 1)) - 1
    return 0, (1 << width) - 1


def is_castable(kind: pa.DataType, name: str) -> bool:
    """Say whether a stored column of type ``kind`` may hold the values of column ``name``."""
    if name == "op":
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(value) or pa.types.is_large_string(value))
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def conform(
    batch: Batch,
    *,
    where: str,
    columns: Sequence[str] = COLUMNS,
    first_row: int = 0,
    rows: int | None = None,
) -> pa.RecordBatch:
    """Return ``batch`` as a record batch with exactly ``columns``, typed as in :data:`SCHEMA`.

    ``op`` may hold names, a dictionary of names or integer codes (positions in :data:`OPS`).
    Missing nullable columns become null, missing others 0; so do nulls in columns that have
    no null. Integers of other widths are cast, floating point only while it is exact.
    ``where`` (a path) and ``first_row`` (number of the batch's first row, from 0) serve the
    message of the TraceError raised for a value that fits no column. ``rows`` is needed only
    where none of the columns is given.
    """
    given = _arrays(batch, where)
    if rows is None:
        rows = len(next(iter(given.values()))) if given else 0
    for name, array in given.items():
        if len(array) != rows:
            raise TraceError(
                f"{where}: column {name} has {len(array)} rows, others have {rows}; "
                "make all columns equally long"
            )
    out = []
    for name in columns:
        field = SCHEMA.field(name)
        if name in given:
            if name == "op":
                out.append(_ops(given[name], where, first_row))
            else:
                out.append(_integers(given[name], field, where, first_row))
        elif name in REQUIRED:
            raise TraceError(f"{where}: no column {name}; a trace needs ts_ns and op")
        elif field.nullable:
            out.append(pa.nulls(rows, field.type))
        else:
            out.append(pa.repeat(pa.scalar(0, field.type), rows))
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    return pa.RecordBatch.from_arrays(out, schema=schema)


def _arrays(batch: Batch, where: str) -> dict[str, Any]:
    """Split a batch into name -> one contiguous Arrow array."""
    if isinstance(batch, Mapping):
        named = [(name, column) for name, column in batch.items()]
    else:
        named = list(zip(batch.schema.names, batch.columns, strict=True))
    found: dict[str, Any] = {}
    for name, column in named:
        if name in found:
            raise TraceError(f"{where}: column {name} occurs twice; remove one")
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        elif not isinstance(column, pa.Array):
            try:
                column = pa.array(column)
            except (pa.ArrowException, OverflowError) as error:
                raise TraceError(f"{where}: column {name}: {error}; give integers") from error
        found[name] = column
    return found


def _integers(array: Any, field: pa.Field, where: str, first_row: int) -> Any:
    """Cast one column to the type of ``field``; TraceError names the first row that fails."""
    if not is_castable(array.type, field.name):
        raise TraceError(
            f"{where}: column {field.name} is {array.type}, not {field.type}; convert it"
        )
    if pa.types.is_floating(array.type):
        import pyarrow.compute as pc

        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
        exact = pc.and_(
            pc.equal(pc.floor(array), array), pc.less_equal(pc.abs(array), _EXACT_FLOAT)
        )
        inexact = pc.invert(exact).fill_null(False).to_numpy(zero_copy_only=False)
        _refuse_first(inexact, array, field, where, first_row)
        array = array.cast(pa.int64())
    if array.type != field.type:
        try:
            array = array.cast(field.type)
        except pa.ArrowInvalid:
            low, high = integer_range(field.type)
            bad = [v is not None and not low <= v <= high for v in array.to_pylist()]
            _refuse_first(np.array(bad), array, field, where, first_row)
            raise
    if not field.nullable and array.null_count:
        if field.name in REQUIRED:
            row = first_row + int(np.argmin(valid(array)))
            raise TraceError(f"{where}: row {row}: {field.name} is null; give every row one")
        array = array.fill_null(0)
    return array


def _refuse_first(
    bad: npt.NDArray[np.bool_], array: Any, field: pa.Field, where: str, first_row: int
) -> None:
    """Raise for the first true element of ``bad``, if there is one."""
    positions = np.flatnonzero(bad)
    if not len(positions):
        return
    at = int(positions[0])
    low, high = integer_range(field.type)
    raise TraceError(
        f"{where}: row {first_row + at}: {field.name} = {array[at].as_py()} is not an exact "
        f"integer from {low} to {high}; correct it"
    )


def _ops(array: Any, where: str, first_row: int) -> Any:
    """Bring column ``op`` to dictionary<int8, string> over :data:`OPS`."""
    limit = len(OPS)
    if pa.types.is_integer(array.type):
        codes = array
    else:
        if not is_castable(array.type, "op"):
            raise TraceError(f"{where}: column op is {array.type}, not string; convert it")
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        # Of a file that knew fewer ops, as new ones go to the end: its codes are ours.
        if array.dictionary.equals(_DICTIONARY.slice(0, len(array.dictionary))):
            codes, limit = array.indices, len(array.dictionary)
        else:
            names = array.dictionary.cast(pa.string()).to_pylist()
            known = pa.array([OP_CODE.get(name) for name in names], pa.int8())
            codes = known.take(array.indices)
    numbers = values(codes)
    outside = len(numbers) and (numbers.min() < 0 or numbers.max() >= limit)
    if codes.null_count or outside:
        at = int(np.argmax(~valid(codes) | (numbers < 0) | (numbers >= limit)))
        raise TraceError(
            f"{where}: row {first_row + at}: op is {_shown(array[at])}, not one of "
            f"{' '.join(OPS)}; correct it"
        )
    if codes.type != pa.int8():
        codes = codes.cast(pa.int8())
    return pa.DictionaryArray.from_arrays(codes, _DICTIONARY)


def _shown(value: Any) -> str:
    """A scalar for an error message; bytes of a corrupt file need not be UTF-8."""
    try:
        plain = value.as_py()
    except UnicodeDecodeError:
        return "not text"
    return "null" if plain is None else repr(plain)
