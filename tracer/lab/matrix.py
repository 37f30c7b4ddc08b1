# SPDX-License-Identifier: GPL-2.0-only
"""Every kernel of the lab with every source of traces that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tracer.lab.session import BACKENDS


class Cell(NamedTuple):
    """One recording of the matrix; ``source`` is zswap or zram, ``backend`` the lab's name."""

    kernel: str
    source: str
    backend: str


def cells() -> Iterator[Cell]:
    """zswap above zsmalloc, which all kernels have, and zram."""
    for kernel, backends in BACKENDS.items():
        yield Cell(kernel, "zswap", "zsmalloc")
        if "zram" in backends:
            yield Cell(kernel, "zram", "zram")
