# SPDX-License-Identifier: GPL-2.0-only
"""Fresh fills of the models against the published static densities (docs/density.md).

    python tests/test_static_density.py 1000000

prints the document's tables, filled with that many objects.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from functools import cache
from math import erf, sqrt
from pathlib import Path

import pytest

from ztrace.allocator import Pool, create
from ztrace.allocator.zsmalloc.model import Zsmalloc
from ztrace.allocator.ztree.model import Ztree

DOCUMENT = Path(__file__).parents[1] / "docs" / "density.md"
PAGE_BYTES = 4096
TEST_OBJECTS = 200_000  # with fewer, partly filled blocks weigh more than the tolerance
TOLERANCE = 0.01

COLUMNS = ("ideal", "ztree v1", "zsmalloc 6.1, chain 4", "zsmalloc 6.12, chain 8")
MODELS: tuple[Callable[[], Pool], ...] = (
    Ztree,
    lambda: Zsmalloc(variant="6.1", chain_size=4),
    lambda: Zsmalloc(variant="6.12", chain_size=8),
)
# Mean and standard deviation of the sizes, None for uniform -> the published columns.
PUBLISHED: dict[tuple[int, int] | None, tuple[float, float, float, float]] = {
    None: (2.002, 1.842, 1.861, 1.941),
    (700, 300): (5.852, 5.034, 5.614, 5.687),
    (1000, 400): (4.083, 3.666, 3.911, 3.985),
    (1500, 700): (2.724, 2.521, 2.581, 2.660),
    (2000, 700): (2.049, 1.919, 1.927, 2.001),
    (2500, 700): (1.640, 1.535, 1.528, 1.599),
}

SUCCESSORS = ("ztree:late", "zblock:2022", "zblock:2025")
SUCCESSORS_TEST_OBJECTS = 100_000
PUBLISHED_SUCCESSORS: dict[tuple[int, int] | None, tuple[float, float, float]] = {
    None: (1.823, 1.842, 1.902),
    (1000, 400): (3.708, 3.853, 3.856),
    (1500, 700): (2.527, 2.583, 2.596),
}


def title(shape: tuple[int, int] | None) -> str:
    return "uniform 1–4096" if shape is None else f"gauss({shape[0]}, {shape[1]})"


def sample(shape: tuple[int, int] | None, objects: int) -> list[int]:
    """Sizes of ``objects`` pages: cut to whole bytes, those outside 1 to 4096 set to the limit."""
    draw = random.Random(f"static density of {title(shape)}")
    if shape is None:
        return [draw.randint(1, PAGE_BYTES) for _ in range(objects)]
    return [min(max(int(draw.gauss(*shape)), 1), PAGE_BYTES) for _ in range(objects)]


def density(pool: Pool, sizes: list[int]) -> float:
    """Fill an empty pool; pages of objects per page held. What is refused takes a page."""
    refused = 0
    for size in sizes:
        try:
            pool.malloc(size)
        except OSError:
            refused += 1
    return len(sizes) * PAGE_BYTES / (pool.held_bytes + refused * PAGE_BYTES)


@cache
def replayed(shape: tuple[int, int] | None, objects: int) -> tuple[float, ...]:
    """The columns of one row."""
    sizes = sample(shape, objects)
    ideal = objects * PAGE_BYTES / sum(sizes)
    return (ideal, *(density(model(), sizes) for model in MODELS))


@cache
def replayed_successors(shape: tuple[int, int] | None, objects: int) -> tuple[float, ...]:
    """The same of the successors."""
    sizes = sample(shape, objects)
    return tuple(density(create(name), sizes) for name in SUCCESSORS)


def slot_shares() -> list[list[float]]:
    """For each column, bytes that an object of each size (from 1) takes in full blocks."""
    tree = Ztree()
    kinds = [tree.types[tree.type_of(size)] for size in range(1, PAGE_BYTES + 1)]
    shares = [
        [float(size) for size in range(1, PAGE_BYTES + 1)],
        [kind.block_bytes / kind.slots for kind in kinds],
    ]
    for variant, chain_size in (("6.1", 4), ("6.12", 8)):
        pool = Zsmalloc(variant=variant, chain_size=chain_size)
        classes = [pool.class_of(size) for size in range(1, PAGE_BYTES + 1)]
        shares.append([kind.pages * PAGE_BYTES / kind.slots for kind in classes])
    return shares


def expected(shape: tuple[int, int], *, clamp: bool) -> list[float]:
    """The columns for endless fills; without ``clamp`` sizes outside are drawn anew."""

    def below(size: int) -> float:
        return 0.5 * (1 + erf((size - shape[0]) / shape[1] / sqrt(2)))

    weights = [below(size + 1) - below(size) for size in range(1, PAGE_BYTES + 1)]
    if clamp:
        weights[0] += below(1)
        weights[-1] += 1 - below(PAGE_BYTES + 1)
    return [
        PAGE_BYTES * sum(weights) / sum(w * b for w, b in zip(weights, share, strict=True))
        for share in slot_shares()
    ]


def off_by(found: float, published: float) -> float:
    return found / published - 1


@pytest.mark.parametrize("shape", PUBLISHED, ids=title)
def test_fresh_fills_reach_the_published_density(shape: tuple[int, int] | None) -> None:
    found = replayed(shape, TEST_OBJECTS)
    for column, value, published in zip(COLUMNS, found, PUBLISHED[shape], strict=True):
        assert abs(off_by(value, published)) < TOLERANCE, (column, value, published)


@pytest.mark.parametrize("shape", PUBLISHED_SUCCESSORS, ids=title)
def test_successors_reach_the_published_density(shape: tuple[int, int] | None) -> None:
    found = replayed_successors(shape, SUCCESSORS_TEST_OBJECTS)
    for name, value, published in zip(SUCCESSORS, found, PUBLISHED_SUCCESSORS[shape], strict=True):
        assert abs(off_by(value, published)) < TOLERANCE, (name, value, published)


def test_sizes_outside_a_page_are_clamped_in_the_published_table() -> None:
    shapes = [shape for shape in PUBLISHED if shape is not None]
    for clamp, missed in ((True, 0), (False, 7)):
        off = [
            abs(off_by(value, published))
            for shape in shapes
            for value, published in zip(expected(shape, clamp=clamp), PUBLISHED[shape], strict=True)
        ]
        assert sum(difference > TOLERANCE for difference in off) == missed
        assert max(off) < 0.003 if clamp else max(off) > 0.015


def document_rows(table: int) -> list[tuple[str, str]]:
    """Titles and cells of the document's first (0) or second table."""
    rows = re.findall(r"^\| (uniform.*?|gauss.*?) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == 2 * len(PUBLISHED)
    return rows[table * len(PUBLISHED) :][: len(PUBLISHED)]


def test_the_documents_table_of_successors() -> None:
    rows = document_rows(1)
    assert [name for name, _ in rows] == [title(shape) for shape in PUBLISHED]
    for (_, text), shape in zip(rows, PUBLISHED, strict=True):
        figures = PUBLISHED_SUCCESSORS.get(shape, (None,) * len(SUCCESSORS))
        again = replayed_successors(shape, SUCCESSORS_TEST_OBJECTS)
        for cell, figure, value in zip(text.split(" | "), figures, again, strict=True):
            assert cell == successor_cell(figure, float(cell.split()[0 if figure is None else 2]))
            assert float(cell.split()[0 if figure is None else 2]) == pytest.approx(
                value, rel=TOLERANCE
            )


def successor_cell(published: float | None, found: float) -> str:
    """A cell, with what is published if anything is."""
    if published is None:
        return f"{found:.3f}"
    return f"{published:.3f} → {found:.3f}"


def test_the_documents_table() -> None:
    rows = document_rows(0)
    assert [name for name, _ in rows] == [title(shape) for shape in PUBLISHED]
    for (_, text), (shape, published) in zip(rows, PUBLISHED.items(), strict=True):
        cells = text.split(" | ")
        assert len(cells) == len(COLUMNS)
        for cell, figure, again in zip(
            cells, published, replayed(shape, TEST_OBJECTS), strict=True
        ):
            numbers = re.fullmatch(r"([\d.]+) → ([\d.]+) \(([+−][\d.]+) %\)", cell)
            assert numbers is not None, cell
            found = float(numbers[2])
            assert float(numbers[1]) == figure
            difference = float(numbers[3].replace("−", "-"))
            assert difference == pytest.approx(100 * off_by(found, figure), abs=0.06)
            assert abs(difference) < 100 * TOLERANCE
            assert found == pytest.approx(again, rel=TOLERANCE)


def main() -> None:
    """Print the document's tables."""
    objects = int(sys.argv[1])
    print("| sizes |", " | ".join(COLUMNS), "|")
    print("|---|--:|--:|--:|--:|")
    for shape, published in PUBLISHED.items():
        cells = [
            f"{figure:.3f} → {found:.3f} ({100 * off_by(found, figure):+.1f} %)".replace("-", "−")
            for figure, found in zip(published, replayed(shape, objects), strict=True)
        ]
        print(f"| {title(shape)} |", " | ".join(cells), "|")
    print("\n| sizes |", " | ".join(SUCCESSORS), "|")
    print("|---|--:|--:|--:|")
    for shape in PUBLISHED:
        figures = PUBLISHED_SUCCESSORS.get(shape, (None,) * len(SUCCESSORS))
        found = replayed_successors(shape, objects)
        cells = [successor_cell(*pair) for pair in zip(figures, found, strict=True)]
        print(f"| {title(shape)} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
