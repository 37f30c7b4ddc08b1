# SPDX-License-Identifier: GPL-2.0-only
"""The player in the native core, as ctypes sees it: structures, codes and functions of play.h."""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)

from ztrace.allocator.native.library import Config, Interface, shape
from ztrace.allocator.traits import Tells
from ztrace.replay.figures.timing import BUCKETS, CLASSES
from ztrace.replay.read.rows import FREE, MALLOC, MAP, SHRINK, UNMAP, WRITEBACK
from ztrace.replay.read.source import INSERT
from ztrace.traces.schema import OPS

NULLABLE = ("size", "handle", "total", "place")
"""Columns that may have nulls."""

# Kinds and codes of play.h.
KINDS = {
    MALLOC: 1,
    FREE: 2,
    MAP: 3,
    UNMAP: 4,
    SHRINK: 5,
    INSERT: 6,
    WRITEBACK: 7,
}
COMPACT_KIND = 8
TELLS = {Tells.NOTHING: 0, Tells.HANDLE: 1, Tells.MALLOC: 2, Tells.MAP: 3}
NAMES = {kind: OPS[code] for code, kind in KINDS.items() if code < len(OPS)}
NO_HANDLE_CODE, BAD_SIZE, UNKNOWN, REISSUED, SURVEY = range(16, 21)
COUNT_BITS = 48


class OptionsStruct(Structure):
    """struct zp_options."""

    _fields_ = (
        ("kind_of", c_uint8 * 128),
        ("compared", c_uint8 * 256),
        ("more_bytes", c_int32 * 256),
        ("handles_tell", c_uint8),
        ("whole", c_uint8),
        ("surveyed", c_uint8),
        ("timing", c_uint8),
        ("page_bytes", c_uint32),
        ("patience_rows", c_uint64),
        ("first_ns", c_int64),
        ("moments", c_void_p),
        ("moments_len", c_uint64),
        ("compacts", c_uint8 * 256),
        ("recorded", Config),
        ("tells", c_uint8 * 256),
    )


class ColumnsStruct(Structure):
    """struct zp_columns."""

    _fields_ = (
        ("rows", c_uint64),
        ("first_row", c_uint64),
        *((name, c_void_p) for name in ("op", "pool", "size", "handle", "ret", "ts_ns")),
        *((name, c_void_p) for name in ("dur_ns", "total", "tid", "cpu", "place")),
        *((f"{name}_valid", c_void_p) for name in NULLABLE),
        *((f"{name}_at", c_uint64) for name in NULLABLE),
        ("spans", c_void_p),
        ("spans_len", c_uint64),
    )


class ErrorStruct(Structure):
    """struct zp_error."""

    _fields_ = (("row", c_uint64), ("handle", c_uint64), ("size", c_uint32), ("kind", c_int32))


class PointStruct(Structure):
    """struct zp_point."""

    _fields_ = tuple(
        (name, c_int64) for name in ("end_ns", "objects", "stored", "held", "model", "kernel")
    )


class AgreementStruct(Structure):
    """struct zp_agreement."""

    _fields_ = (("equal", c_uint64), ("compared", c_uint64), ("first", c_char * 200))


class PoolResultStruct(Structure):
    """struct zp_pool_result."""

    _fields_ = (
        ("pool", c_uint32),
        ("has_difference", c_uint32),
        *((name, AgreementStruct) for name in ("handles", "totals", "errors", "shrinks", "places")),
        ("total_difference", c_int64),
        ("unknown", c_uint64 * 9),
        ("unknown_rank", c_uint32 * 9),
        *((name, c_uint64) for name in ("mallocs", "reissued", "refused")),
        *((name, c_uint64) for name in ("shrinks_not_replayed", "shrinks_diverged", "snapshots")),
        *((name, c_uint64) for name in ("compactions", "compactions_unmatched")),
        ("stopped", c_char * 400),
    )


class ResultStruct(Structure):
    """struct zp_result."""

    _fields_ = (
        ("latest", PointStruct),
        ("peaks", PointStruct * 3),
        ("area_low", c_uint64 * 3),
        ("area_high", c_int64 * 3),
        ("counts", c_uint64 * 128),
        ("calls", c_uint64),
        ("rows", c_uint64),
        ("first_ns", c_int64),
        ("last_ns", c_int64),
        ("held_near_peak", c_int64),
        ("pools", c_uint64),
        ("cpus", c_uint8 * 8192),
    )


class TimingStruct(Structure):
    """struct zp_timing."""

    _fields_ = (
        ("ns_per_tick", c_double),
        ("overhead_ticks", c_uint64),
        ("counts", c_uint64 * BUCKETS * CLASSES * 2),
        ("most_ticks", c_uint64 * CLASSES * 2),
    )


PLAYER = Interface(
    "zp_layout",
    {
        "zp_create": (c_void_p, (c_char_p, POINTER(Config), POINTER(OptionsStruct))),
        "zp_destroy": (None, (c_void_p,)),
        "zp_feed": (c_int, (c_void_p, POINTER(ColumnsStruct))),
        "zp_finish": (c_int, (c_void_p, c_int64)),
        "zp_error_of": (None, (c_void_p, POINTER(ErrorStruct))),
        "zp_result_of": (POINTER(ResultStruct), (c_void_p,)),
        "zp_pool_of": (POINTER(PoolResultStruct), (c_void_p, c_uint32)),
        "zp_model_of": (c_void_p, (c_void_p, c_uint32)),
        "zp_near_peak_of": (POINTER(c_int64), (c_void_p, c_uint32)),
        "zp_failed_of": (c_int32, (c_void_p, c_uint32, POINTER(c_uint64), POINTER(c_uint64))),
        "zp_timing_of": (POINTER(TimingStruct), (c_void_p,)),
        "zp_work_of": (None, (c_void_p, c_uint32, POINTER(c_uint64))),
        "zp_series_of": (POINTER(PointStruct), (c_void_p, POINTER(POINTER(c_uint64)))),
    },
    {
        "zp_options": shape(OptionsStruct),
        "zp_columns": shape(ColumnsStruct),
        "zp_error": shape(ErrorStruct),
        "zp_point": shape(PointStruct),
        "zp_agreement": shape(AgreementStruct),
        "zp_pool_result": shape(PoolResultStruct),
        "zp_result": shape(ResultStruct),
        "zp_timing": shape(TimingStruct),
    },
    {
        **{f"ZP_{name.upper()}": kind for kind, name in NAMES.items()},
        **{f"ZP_TELLS_{tells.name}": code for tells, code in TELLS.items()},
        "ZP_INSERT": KINDS[INSERT],
        "ZP_COMPACT": COMPACT_KIND,
        "ZP_NO_HANDLE": NO_HANDLE_CODE,
        "ZP_BAD_SIZE": BAD_SIZE,
        "ZP_UNKNOWN": UNKNOWN,
        "ZP_REISSUED": REISSUED,
        "ZP_SURVEY": SURVEY,
        "ZP_COUNT_BITS": COUNT_BITS,
    },
)
"""What play.h gives."""
