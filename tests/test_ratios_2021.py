# SPDX-License-Identifier: GPL-2.0-only
"""The rebuilt ratios of 2021: zram's order of calls, and fio's job on the block device."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.ratios_2021 import LOOPS, PAGE, rebuild, rows, run_fio, write_trace
from ztrace.traces import OP_CODE, TraceReader

MALLOC, FREE = OP_CODE["malloc"], OP_CODE["free"]


def test_a_page_is_allocated_anew_before_the_old_one_is_freed() -> None:
    assert list(rows([0, 1, 0, 0], [10, 20, 30, 40])) == [
        (MALLOC, 1, 10),
        (MALLOC, 2, 20),
        (MALLOC, 3, 30),
        (FREE, 1, 0),
        (MALLOC, 4, 40),
        (FREE, 3, 0),
    ]


def test_the_first_phase_ends_after_all_its_writes(tmp_path: Path) -> None:
    writes = [page for _ in range(4 * LOOPS) for page in (0, 1)] + [0]
    path = tmp_path / "t.parquet"
    ends_ns = write_trace(path, writes, [100] * len(writes), 50)
    with TraceReader(path) as reader:
        calls = [op for b in reader.batches(["op"]) for op in b.column("op").indices.to_pylist()]
    before = calls[: ends_ns // 1000]
    assert before.count(MALLOC) == 8 * LOOPS and before[-1] == MALLOC
    assert calls.count(MALLOC) == 8 * LOOPS + 1


@pytest.mark.skipif(shutil.which("fio") is None, reason="no fio")
def test_fio_writes_what_was_posted(tmp_path: Path) -> None:
    pages, sizes = run_fio("fio", 50, 16 * PAGE)
    assert set(pages) == set(range(16))
    # Write, and half of both mixed phases, which are random.
    assert len(pages) == pytest.approx(2 * 4 * LOOPS * 16, rel=0.1)
    assert min(sizes) > 2000 and max(sizes) < 2150
    found = rebuild("fio", 25, 16 * PAGE, tmp_path)
    assert found.end["z3fold"] == 1  # two pages of more than 3000 bytes do not fit in one
    assert 3000 < found.least_bytes <= found.most_bytes < 3200


def test_without_fio(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_fio(str(tmp_path / "fio"), 50, PAGE)
