# SPDX-License-Identifier: GPL-2.0-only
"""Every kernel of the lab with every allocator and source of traces that it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ztrace.tracer.lab.session import BACKENDS, Setup, is_out_of_tree


class Cell(NamedTuple):
    """One recording of the matrix: zswap above ``backend``, or ``zram``."""

    kernel: str
    backend: str

    @property
    def file_name(self) -> str:
        """Of its trace."""
        return f"{self.kernel}-{self.backend}.parquet"

    def setup(self, workload: str, patch: Path | None = None) -> Setup:
        """What to boot and record."""
        return Setup(self.kernel, self.backend, workload, patch)


def cells(*, with_out_of_tree: bool = True) -> Iterator[tuple[str, list[Cell]]]:
    """Each kernel with its cells, or only those of the allocators that it comes with."""
    for kernel, backends in BACKENDS.items():
        wanted = [name for name in backends if with_out_of_tree or not is_out_of_tree(name)]
        yield kernel, [Cell(kernel, name) for name in wanted]
