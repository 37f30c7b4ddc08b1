# SPDX-License-Identifier: GPL-2.0-only
"""Finds and loads the shared object; declares the functions of core.h to ctypes."""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_int,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from pathlib import Path

from ztrace.allocator.protocol import BackendError

ABI = 2
"""ZC_ABI of the core.h that this file was written for."""

FATAL, NO_MEMORY, ABORTED = 1, 2, 3
"""Positive return codes: see core.h."""

OVERRIDE = "ZTRACE_NATIVE"
"""Environment variable: path of another build of the core, for instance one with sanitizers."""

TABLE = 256
"""Entries of a configuration's table of block types: ZC_TABLE."""

_PATTERN = "_core*.so"


class NativeMissing(BackendError):
    """The native core is not there or is of another version."""


class Entry(Structure):
    """One (order, slots) of a table of block types."""

    _fields_ = (("order", c_uint32), ("slots", c_uint32))


class Config(Structure):
    """struct zc_config."""

    _fields_ = (
        ("page_bytes", c_uint32),
        ("long_bytes", c_uint32),
        ("max_index", c_uint64),
        ("table_len", c_uint32),
        ("cpus", c_uint32),
        ("deferred", c_uint32),
        ("variant", c_uint32),
        ("chain_size", c_uint32),
        ("by_ref", c_uint32),
        ("table", Entry * TABLE),
    )


class HazardStruct(Structure):
    """struct zc_hazard."""

    _fields_ = (("name", c_char * 24), ("first", c_char * 200), ("count", c_uint64))


class PlaceStruct(Structure):
    """struct zc_place."""

    _fields_ = (("page", c_uint64), ("position", c_uint64))


EVICT = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64)

_HANDLE = POINTER(c_uint64)
_FIGURE = POINTER(c_int64)

# name -> (result, arguments)
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "zc_create": (c_void_p, (c_char_p, POINTER(Config), POINTER(c_int))),
    "zc_destroy": (None, (c_void_p,)),
    "zc_malloc": (c_int, (c_void_p, c_int64, _HANDLE)),
    "zc_free": (c_int, (c_void_p, c_uint64)),
    "zc_use": (c_int, (c_void_p, c_uint64, c_int)),
    "zc_shrink": (c_int, (c_void_p, c_int64, EVICT, c_void_p, _FIGURE, _FIGURE)),
    "zc_begin": (c_int, (c_void_p, c_int64, _HANDLE)),
    "zc_end": (c_int, (c_void_p, c_uint64, _HANDLE)),
    "zc_place": (c_int, (c_void_p, c_uint64, POINTER(PlaceStruct))),
    "zc_set_cpu": (c_int, (c_void_p, c_uint32)),
    "zc_run_deferred": (c_int64, (c_void_p, c_int64)),
    "zc_compact_page": (c_int, (c_void_p, c_uint64)),
    "zc_compact": (c_int64, (c_void_p,)),
    "zc_figures": (None, (c_void_p, _HANDLE)),
    "zc_hazard_at": (POINTER(HazardStruct), (c_void_p, c_uint32)),
    "zc_stats": (c_uint64, (c_void_p, _FIGURE)),
}


@cache
def library() -> ctypes.CDLL:
    """The loaded core; NativeMissing says in a line why there is none."""
    path = _path()
    if path is None:
        raise NativeMissing(
            "no native core: it was not built (is there a C compiler?); install again to build it"
        )
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.zc_abi.restype = c_uint32
        abi = loaded.zc_abi()
    except (OSError, AttributeError) as error:
        raise NativeMissing(f"native core cannot be loaded: {error}; install again") from error
    if abi != ABI:
        raise NativeMissing(f"{path.name} is of version {abi}, not {ABI}; install again")
    declare(loaded, _FUNCTIONS)
    return loaded


def declare(loaded: ctypes.CDLL, functions: dict[str, tuple[object, tuple[object, ...]]]) -> None:
    """Give functions of the core their types: name -> (result, arguments)."""
    for name, (result, arguments) in functions.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise NativeMissing(f"the native core has no {name}; install again") from error
        function.restype = result
        function.argtypes = arguments


def reason_missing() -> str | None:
    """Why there is no native core, in a line; None if there is one."""
    try:
        library()
    except NativeMissing as missing:
        return str(missing)
    return None


def _path() -> Path | None:
    if override := os.environ.get(OVERRIDE):
        return Path(override)
    return next(iter(sorted(Path(__file__).parent.glob(_PATTERN))), None)
