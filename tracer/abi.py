# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel functions are probed for which call, chosen by what this kernel has.

Never by its version: symbols are tried, and a comment says which release changed them. Where
members lie comes from the kernel's type information.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ztrace.allocator.registry import our_traits
from ztrace.text import UNPROBED
from ztrace.tracer.btf import Btf
from ztrace.tracer.symbols import Symbols


@dataclass(frozen=True)
class Probe:
    """One kernel function, the call it stands for in a trace, and the probes put on it.

    ``enter`` and ``exit`` are functions of probes/zswap.c; ``op`` is None for helpers that
    make no row of their own. A function that is not ``essential`` may be missing.
    """

    symbol: str
    op: str | None
    enter: str | None
    exit: str | None
    essential: bool = True


# zswap behind frontswap, until 6.5 (mm/zswap.c; frontswap was removed in 6.6).
FRONTSWAP = (
    Probe("zswap_frontswap_store", "store", "enter_store", "exit_store"),
    Probe("zswap_frontswap_load", "load", "enter_load", "exit_load"),
    Probe("zswap_frontswap_invalidate_page", "invalidate", "enter_invalidate", "exit_invalidate"),
    Probe("zswap_frontswap_invalidate_area", None, "enter_invalidate_area", "exit_invalidate"),
    Probe("zswap_writeback_entry", "writeback", "enter_writeback", "exit_writeback"),
)

# zswap called by the swap code itself, from 6.6; it takes folios.
ZSWAP = (
    Probe("zswap_store", "store", "enter_store_folio", "exit_store_bool"),
    Probe("zswap_load", "load", "enter_load_folio", "exit_load_bool"),
    Probe("zswap_invalidate", "invalidate", "enter_invalidate_entry", "exit_invalidate"),
    # From 6.8 on it takes the zswap entry; inlined in 7.2.
    Probe("zswap_writeback_entry", "writeback", "enter_writeback_entry", "exit_writeback", False),
)

# mm/zpool.c, until 6.17 (zpool was removed in 6.18).
ZPOOL = (
    Probe("zpool_malloc", "malloc", "enter_malloc", "exit_malloc"),
    Probe("zpool_free", "free", "enter_free", "exit_free"),
    Probe("zpool_map_handle", "map", "enter_map", "exit_map"),
    Probe("zpool_unmap_handle", "unmap", "enter_unmap", "exit_unmap"),
    Probe("zpool_create_pool", None, None, "exit_create"),
    # Reclaim by the driver, and the pool's size in bytes, until 6.4 and 6.9.
    Probe("zpool_shrink", "shrink", "enter_shrink", "exit_shrink", False),
    Probe("zpool_get_total_size", None, "enter_total", "exit_total", False),
)

# zsmalloc called directly (zswap from 6.18 on). Since 6.15 objects are read and written by
# zs_obj_… calls instead of being mapped.
ZSMALLOC = (
    Probe("zs_malloc", "malloc", "enter_malloc_direct", "exit_malloc_direct"),
    Probe("zs_free", "free", "enter_free", "exit_free"),
    Probe("zs_obj_read_sg_begin", "map", "enter_map", "exit_begin"),
    Probe("zs_obj_read_sg_end", "unmap", "enter_unmap", "exit_unmap"),
    Probe("zs_create_pool", None, None, "exit_create"),
)

# zram above zsmalloc (drivers/block/zram/zram_drv.c). Its write path is inlined everywhere: a
# store shows as its malloc, which learns its slot from the zram_free_page() that follows it.
ZRAM = (
    Probe("zs_malloc", "malloc", "enter_malloc_direct", "exit_malloc_direct"),
    Probe("zs_free", "free", "enter_free", "exit_free"),
    Probe("zs_create_pool", None, None, "exit_create"),
    # Mapped and unmapped until 6.14, read in one piece from 6.15 on.
    Probe("zs_map_object", "map", "enter_map", "exit_map", False),
    Probe("zs_unmap_object", "unmap", "enter_unmap", "exit_unmap", False),
    Probe("zs_obj_read_begin", "map", "enter_map", "exit_map", False),
    Probe("zs_obj_read_end", "unmap", "enter_unmap", "exit_unmap", False),
    # Renamed between 6.12 and 7.2; the reading one is no function of its own in 6.1.
    Probe("zram_free_page", "invalidate", "enter_zram_free", "exit_invalidate", False),
    Probe("slot_free", "invalidate", "enter_zram_free", "exit_invalidate", False),
    Probe("zram_read_from_zspool", "load", "enter_zram_read", "exit_load", False),
    Probe("read_from_zspool", "load", "enter_zram_read", "exit_load", False),
)

# What decides placement inside an allocator beside its calls.
INNER = (
    Probe("obj_malloc", None, "enter_obj_malloc", None, False),  # zsmalloc
    Probe("obj_free", None, "enter_obj_free", None, False),
    Probe("zs_compact", "compact", "enter_compact_pool", "exit_compact", False),
    Probe("do_compact_page", "compact", "enter_compact_page", "exit_compact", False),  # z3fold
)

# Where a page goes on one of an allocator's lists, or is taken off: z3fold's malloc takes one off
# right after it has locked it. That is the kernel's own function, and most of its locks are not
# z3fold's. The other places are calls within z3fold's functions, to what checks a list's links.
LISTS = (Probe("_raw_spin_trylock", "unlink", None, "exit_trylock", False),)
LIST_CALLS = (
    ("z3fold_zpool_malloc", "__list_add_valid", "enter_list_add"),
    ("do_compact_page", "__list_add_valid", "enter_list_add"),
    ("do_compact_page", "__list_del_entry_valid", "enter_list_del"),
    ("z3fold_zpool_free", "__list_del_entry_valid", "enter_list_del"),
)
"""Calls in a function to another, and the handler of probes/zswap.c that is put on them."""

SOURCES = ("zswap", "zram")

# Built in or not, depending on the kernel.
MODULES = tuple(one.module for one in our_traits() if one.module is not None)

# Define of probes/zswap.c -> the member whose offset it is.
MEMBERS = {
    "ZPOOL_DRIVER": ("zpool", "driver"),
    "ZPOOL_PRIVATE": ("zpool", "pool"),
    "ZPOOL_DRIVER_TYPE": ("zpool_driver", "type"),
    "ZPOOL_EVICTABLE": ("zpool", "evictable"),  # until 6.4: zswap puts a header before objects
    "FOLIO_SWAP": ("folio", "swap"),
    "ENTRY_HANDLE": ("zswap_entry", "handle"),
    **{name: at for one in our_traits() for name, at in one.members.items()},
}

# swp_entry_t keeps the swap type above bit 58 on 64-bit machines (include/linux/swapops.h).
SWP_TYPE_SHIFT = 58

# Without type information: struct zpool and struct zpool_driver as they were from 5.12 to 6.4,
# the place of folio.swap from 6.6 to 7.2.
WITHOUT_BTF = {
    "frontswap": {"ZPOOL_EVICTABLE": 24},
    "zpool": {"ZPOOL_DRIVER": 0, "ZPOOL_PRIVATE": 8, "ZPOOL_DRIVER_TYPE": 0},
    "folio": {"FOLIO_SWAP": 40},
}

# sizeof(struct zswap_header), which zswap put before each object of an evictable pool until 6.4.
ZSWAP_HEADER_BYTES = 8


@dataclass(frozen=True)
class Lack:
    """A probe that is not there, and why; ``exists``: the kernel has the function in some form."""

    probe: Probe
    reason: str
    exists: bool = False

    @property
    def matters(self) -> bool:
        """Whether a trace should tell: more was to be expected of this kernel."""
        return self.probe.essential or self.exists

    def __str__(self) -> str:
        op = self.probe.op
        return f"{self.probe.symbol}{f' ({op})' if op else ''}{UNPROBED}{self.reason}"


@dataclass(frozen=True)
class Abi:
    """How this kernel is probed; ``defines`` are for the C file.

    ``names``: the kernel's own names of the probed functions, by that in the source. ``typed``:
    those of which the kernel has type information, for fentry and fexit. Modules' are not among
    them: bcc before 0.27 cannot attach to these. ``notes``: what the probes do not see.
    """

    probes: tuple[Probe, ...]
    missing: tuple[Lack, ...]
    names: dict[str, str]
    typed: frozenset[str]
    defines: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def wanted_probes(functions: frozenset[str], source: str = "zswap") -> tuple[Probe, ...]:
    """The probes that fit a kernel's interfaces, whether it has every symbol or not.

    ``source``: what is recorded, one of SOURCES.
    """
    if source == "zram":
        return (*ZRAM, *INNER)
    zswap = FRONTSWAP if "zswap_frontswap_store" in functions else ZSWAP
    allocator = ZPOOL if "zpool_malloc" in functions else ZSMALLOC
    return (*zswap, *allocator, *INNER, *LISTS)


def choose_probes(symbols: Symbols, source: str = "zswap") -> tuple[list[Probe], list[Lack]]:
    """Split the wanted probes into (attachable, missing) by the kernel's functions."""
    present, missing = [], []
    for probe in wanted_probes(symbols.plain, source):
        found = symbols.resolve(probe.symbol)
        if found.name:
            present.append(probe)
        else:
            missing.append(Lack(probe, found.reason, found.exists))
    return present, missing


def examine_kernel(symbols: Symbols, source: str = "zswap") -> Abi:
    """Probes and defines for the running kernel and one of SOURCES."""
    probes, missing = choose_probes(symbols, source)
    resolved = {probe.symbol: symbols.resolve(probe.symbol) for probe in probes}
    btf = Btf(MODULES)
    structs: dict[str, list[str]] = {}
    for struct, member in MEMBERS.values():
        structs.setdefault(struct, []).append(member)
    offsets = btf.members(structs)
    defines = {name: offsets[at] for name, at in MEMBERS.items() if at in offsets}
    if not offsets:
        if "zswap_frontswap_store" in resolved:
            defines |= WITHOUT_BTF["frontswap"]
        defines |= WITHOUT_BTF["zpool" if "zpool_malloc" in resolved else "folio"]
    if any(probe.symbol == "zpool_malloc" for probe in probes):
        defines["HAVE_ZPOOL"] = 1
    if "zswap_load" in resolved and btf.returns("zswap_load") == "int":  # bool until 6.14
        probes = list(_with_exit(probes, "zswap_load", "exit_load"))
    defines["SWP_TYPE_SHIFT"] = SWP_TYPE_SHIFT
    names = {symbol: found.name for symbol, found in resolved.items()}
    # A name that a compiler made is none in C, so no trampoline can be written for it.
    typed = btf.functions(symbol for symbol, name in names.items() if symbol == name)
    notes = tuple(
        f"calls of {symbol} that were compiled as {found.unseen} are not seen"
        for symbol, found in resolved.items()
        if found.unseen
    )
    return Abi(tuple(probes), tuple(missing), names, typed, defines, notes)


def _with_exit(probes: Iterable[Probe], symbol: str, exit_: str) -> Iterable[Probe]:
    for probe in probes:
        same = Probe(probe.symbol, probe.op, probe.enter, exit_, probe.essential)
        yield same if probe.symbol == symbol else probe
