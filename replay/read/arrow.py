# SPDX-License-Identifier: GPL-2.0-only
"""Columns of a batch where the native core reads them: Arrow's own memory, nothing copied."""

from __future__ import annotations

from collections.abc import Collection
from ctypes import Structure

import pyarrow as pa


def point_at(columns: Structure, batch: pa.RecordBatch, names: Collection[str]) -> None:
    """Fill in the fields of these columns of a batch, which must outlive what is filled in.

    ``columns`` has a pointer NAME for each, and for one that may have nulls NAME_valid and NAME_at,
    its bitmap and the bit at which that begins; all remain null where every row is. ``op`` stands
    for its codes.
    """
    for name in names:
        array = batch.column(name)
        if name == "op":
            array = array.indices
        nullable = hasattr(columns, f"{name}_valid")
        if nullable and array.null_count == len(array):
            continue
        valid, data = array.buffers()
        setattr(columns, name, data.address + array.offset * (array.type.bit_width // 8))
        if nullable and array.null_count:
            setattr(columns, f"{name}_valid", valid.address)
            setattr(columns, f"{name}_at", array.offset)
