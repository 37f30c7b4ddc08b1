# SPDX-License-Identifier: GPL-2.0-only
"""Finds and loads the shared object; declares what is used of it to ctypes.

The C headers decide what structures and codes look like. A module that uses some of them says in
an :class:`Interface` what it takes them for, which is compared with what the compiler made of the
headers (allocator/native/layout.h) before anything is called.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
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
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from ztrace.allocator.protocol import BackendError

ABI = 4
"""ZC_ABI of the core.h that this file was written for."""

CHAIN_USED, CHAIN_WASTE = 0, 1
"""enum zc_chain of core.h."""

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
    """struct zc_block_type: an entry of a table of block types."""

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
        ("chain_rule", c_uint32),
        ("chain_saving", c_uint32),
        ("class_step", c_uint32),
        ("by_ref", c_uint32),
        ("has_pages", c_uint32),
        ("table", Entry * TABLE),
    )


class HazardStruct(Structure):
    """struct zc_hazard."""

    _fields_ = (("name", c_char * 24), ("first", c_char * 200), ("count", c_uint64))


class PlaceStruct(Structure):
    """struct zc_place."""

    _fields_ = (("page", c_uint64), ("position", c_uint64))


class Figures(Structure):
    """struct zc_figures."""

    _fields_ = tuple(
        (name, c_uint64) for name in ("total_bytes", "held_bytes", "objects", "hazards", "broken")
    )


EVICT = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64)

_HANDLE = POINTER(c_uint64)
_FIGURE = POINTER(c_int64)

Functions = Mapping[str, tuple[object, tuple[object, ...]]]
"""Name -> (result, arguments)."""

Shape = Mapping[str, tuple[int, int]]
"""Of a structure: field -> (offset, bytes), and its own bytes under the empty name."""


@dataclass(frozen=True, eq=False)
class Interface:
    """What a module uses of the core, as it takes it to be.

    ``layout`` is the function that gives the headers' own ``structures`` and ``codes``.
    """

    layout: str
    functions: Functions
    structures: Mapping[str, Shape]
    codes: Mapping[str, int]


def shape(structure: type[Structure]) -> Shape:
    """The shape of a structure as ctypes lays it out."""
    found = {"": (0, ctypes.sizeof(structure))}
    for name, *_ in structure._fields_:
        field = getattr(structure, name)
        found[name] = (field.offset, field.size)
    return found


def codes_of(prefix: str, *enums: type[IntEnum]) -> dict[str, int]:
    """The names in C of enums that have the same names but for the prefix."""
    return {f"{prefix}{one.name}": one.value for each in enums for one in each}


class _Layout(Structure):
    """struct zc_layout of layout.h."""

    _fields_ = (("name", c_char_p), ("at", c_int64), ("bytes", c_uint64))


POOLS = Interface(
    "zc_layout",
    {
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
        "zc_figures": (None, (c_void_p, POINTER(Figures))),
        "zc_hazard_at": (POINTER(HazardStruct), (c_void_p, c_uint32)),
        "zc_stats": (c_uint64, (c_void_p, _FIGURE)),
    },
    {
        "zc_block_type": shape(Entry),
        "zc_config": shape(Config),
        "zc_figures": shape(Figures),
        "zc_hazard": shape(HazardStruct),
        "zc_place": shape(PlaceStruct),
    },
    {
        "ZC_CHAIN_USED": CHAIN_USED,
        "ZC_CHAIN_WASTE": CHAIN_WASTE,
        "ZC_FATAL": FATAL,
        "ZC_NO_MEMORY": NO_MEMORY,
        "ZC_ABORTED": ABORTED,
    },
)
"""What core.h gives: pools, call by call."""


@cache
def library(interface: Interface = POOLS) -> ctypes.CDLL:
    """The core with this interface and pools; NativeMissing says in a line why there is none."""
    loaded = _core() if interface is POOLS else library()
    _compare(loaded, interface)
    for name, (result, arguments) in interface.functions.items():
        function = _function(loaded, name)
        function.restype = result
        function.argtypes = arguments
    return loaded


def reason_missing(interface: Interface = POOLS) -> str | None:
    """Why there is no native core with this interface, in a line; None if there is one."""
    try:
        library(interface)
    except NativeMissing as missing:
        return str(missing)
    return None


def _core() -> ctypes.CDLL:
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
    return loaded


def _compare(loaded: ctypes.CDLL, interface: Interface) -> None:
    """NativeMissing where the core is not what the interface takes it for."""
    layout = _function(loaded, interface.layout)
    layout.restype = POINTER(_Layout)
    built = {}
    for one in layout():
        if one.name is None:
            break
        built[one.name.decode()] = (one.at, one.bytes)
    for name, here in _expected(interface):
        there = built.pop(name, None)
        if there != here:
            raise NativeMissing(_mismatch(name, there, here))
    for name, there in built.items():
        raise NativeMissing(_mismatch(name, there, None))


def _expected(interface: Interface) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, fields in interface.structures.items():
        for field, at in fields.items():
            yield f"{name}.{field}" if field else name, at
    for name, value in interface.codes.items():
        yield name, (value, 0)


def _mismatch(name: str, there: tuple[int, int] | None, here: tuple[int, int] | None) -> str:
    def said(found: tuple[int, int] | None) -> str:
        if found is None:
            return "missing"
        at, size = found
        return f"{size} bytes at {at}" if size else str(at)

    return (
        f"the native core is not of this version: {name} is {said(there)} there, {said(here)} "
        "here; install again"
    )


def _function(loaded: ctypes.CDLL, name: str) -> Any:
    try:
        return getattr(loaded, name)
    except AttributeError as error:
        raise NativeMissing(f"the native core has no {name}; install again") from error


def _path() -> Path | None:
    if override := os.environ.get(OVERRIDE):
        return Path(override)
    built = Path(__file__).parent.glob(_PATTERN)
    return max(built, key=lambda path: path.stat().st_mtime_ns, default=None)
