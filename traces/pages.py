# SPDX-License-Identifier: GPL-2.0-only
"""Real pages from files, really compressed: sizes for synthetic traces and other compressors.

What zswap would never ask its allocator for is left out and counted: pages of one repeated word
(mm/zswap.c, zswap_is_page_same_filled()), and those that the first compressor does not make
smaller.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ztrace.traces.compressors import Compress, compressor
from ztrace.traces.errors import TraceError

Ints = npt.NDArray[np.int64]

MOST_PAGES = 200_000
_WORD = 8


@dataclass(frozen=True)
class Pages:
    """Compressed sizes of the same pages, shape (n,) each, in bytes, by compressor.

    What another than the first compressor does not make smaller has the size of a page.
    ``same_filled`` and ``incompressible`` pages are not among them; ``skipped`` files could not
    be read.
    """

    sizes: dict[str, Ints]
    page_bytes: int
    same_filled: int
    incompressible: int
    skipped: int


def compress_pages(
    folder: Path,
    compressors: Sequence[str],
    *,
    page_bytes: int = 4096,
    most: int = MOST_PAGES,
    seed: int = 0,
    advance: Callable[[int], object] = lambda pages: None,
) -> Pages:
    """Compress the whole pages of all regular files below ``folder`` with each compressor.

    Of more than ``most`` pages that many are drawn, seeded; ``advance`` gets pages done. Links
    are not followed. TraceError if there is no page to take.
    """
    squeeze = {name: compressor(name) for name in compressors}
    files, skipped = _files(folder, page_bytes)
    counts = np.array([pages for _, pages in files], np.int64)
    total = int(counts.sum())
    if not total:
        raise TraceError(f"{folder}: no file there has a page of {page_bytes} bytes")
    chosen = np.arange(total)
    if total > most:
        chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    same_filled = incompressible = 0
    sizes: list[list[int]] = []
    for page in _read(files, np.cumsum(counts), chosen, page_bytes):
        advance(1)
        if page is None:
            skipped += 1
        elif page == page[:_WORD] * (page_bytes // _WORD):
            same_filled += 1
        elif (found := _compressed(page, squeeze)) is None:
            incompressible += 1
        else:
            sizes.append(found)
    if not sizes:
        raise TraceError(f"{folder}: no page there becomes smaller; name other files")
    columns = np.array(sizes, np.int64).T
    return Pages(
        dict(zip(squeeze, columns, strict=True)), page_bytes, same_filled, incompressible, skipped
    )


def _compressed(page: bytes, squeeze: dict[str, Compress]) -> list[int] | None:
    """The page's size by each compressor; None if the first makes it no smaller."""
    sizes = [min(compress(page), len(page)) for compress in squeeze.values()]
    return None if sizes[0] == len(page) else sizes


def _files(folder: Path, page_bytes: int) -> tuple[list[tuple[Path, int]], int]:
    """Files in a fixed order with their whole pages, and how many could not be looked at."""
    if not folder.is_dir():
        raise TraceError(f"{folder}: not a folder; name one with files to take pages from")
    found, skipped = [], 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            try:
                if path.is_symlink() or not path.is_file():
                    continue
                pages = path.stat().st_size // page_bytes
            except OSError:
                skipped += 1
                continue
            if pages:
                found.append((path, pages))
    return found, skipped


def _read(
    files: Sequence[tuple[Path, int]], ends: Ints, chosen: Ints, page_bytes: int
) -> Iterator[bytes | None]:
    """The chosen pages, numbered over all files; None for each that cannot be read."""
    places = np.searchsorted(ends, chosen, side="right")
    for number in np.unique(places).tolist():
        path, pages = files[number]
        first = int(ends[number]) - pages
        wanted = chosen[places == number] - first
        try:
            with path.open("rb") as file:
                for page in wanted.tolist():
                    file.seek(page * page_bytes)
                    data = file.read(page_bytes)
                    yield data if len(data) == page_bytes else None
        except OSError:
            yield None
