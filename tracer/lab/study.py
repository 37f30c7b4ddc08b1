# SPDX-License-Identifier: GPL-2.0-only
"""The case study: real programs short of memory, each recorded under every allocator of 6.1."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ztrace.allocator.registry import our_traits
from ztrace.tracer.lab.qemu import GuestSize
from ztrace.tracer.lab.session import Setup

PROGRAMS = ("redis", "postgresql", "compile", "java")
KERNEL = "6.1"
"""The only kernel of the lab that has them all."""
ALLOCATORS = tuple(one.name for one in our_traits() if KERNEL in one.kernels)


class Case(NamedTuple):
    """One recording; ``program`` is a workload's name."""

    program: str
    allocator: str

    @property
    def name(self) -> str:
        """What its file is called, without suffix."""
        return f"{self.program}-{self.allocator}"

    def path(self, folder: Path) -> Path:
        """Its file in a folder of recordings."""
        return folder / f"{self.name}.parquet"

    def setup(self, patch: Path | None) -> Setup:
        """Its guest: memory enough that only the program's group is short of it, and zswap with
        the kernel's own settings, same-filled pages and compressor among them."""
        return Setup(
            *(KERNEL, self.allocator, self.program, patch),
            size=GuestSize(cpus=2, memory_mib=1024),
            same_filled_pages=True,
        )


def plan(programs: Iterable[str] = (), allocators: Iterable[str] = ()) -> list[Case]:
    """The study's recordings, only those of some programs or allocators if any are named."""
    chosen = [set(programs) or set(PROGRAMS), set(allocators) or set(ALLOCATORS)]
    return [
        Case(program, allocator)
        for program in PROGRAMS
        for allocator in ALLOCATORS
        if program in chosen[0] and allocator in chosen[1]
    ]


def missing(cases: Iterable[Case], folder: Path) -> list[Case]:
    """Those that a folder has no recording of. A recording appears whole or not at all."""
    return [case for case in cases if not case.path(folder).exists()]
