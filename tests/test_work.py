# SPDX-License-Identifier: GPL-2.0-only
"""The work counters that all models share, against counts made by hand."""

from __future__ import annotations

import pytest

from ztrace.allocator import Pool, create, names

KEYS = ("pages_allocated", "searched", "objects_moved")


def work(pool: Pool) -> tuple[int, int, int]:
    """Pages allocated, lists or blocks searched, objects moved."""
    stats = pool.stats()
    return stats["pages_allocated"], stats["searched"], stats["objects_moved"]


@pytest.mark.parametrize("name", names())
def test_every_model_counts_its_work(name: str) -> None:
    pool = create(name)
    assert work(pool) == (0, 0, 0)
    handles = [pool.malloc(1500) for _ in range(20)]
    pages, searched, moved = work(pool)
    assert pages * pool.page_bytes == pool.held_bytes
    assert searched > 0
    assert moved == 0
    for handle in handles:
        pool.free(handle)
    assert work(pool)[0] >= pages


def test_ztree_reads_current_and_then_last() -> None:
    pool = create("ztree")
    first = [pool.malloc(4096) for _ in range(8)]
    assert work(pool) == (8, 7, 0)  # the first malloc found no block to look at
    for _ in range(9):  # a block more each time, where current and last were looked at
        pool.malloc(4096)
    assert work(pool) == (24, 7 + 2 + 7 + 2, 0)
    pool.free(first[0])
    pool.free(first[1])  # its block's coeff is now that of the last one: it becomes current
    assert [pool.malloc(4096), pool.malloc(4096)] == first[:2]
    assert work(pool) == (24, 20, 0)
    pool.malloc(4096)  # current is full, last has room
    assert work(pool) == (24, 22, 0)


def test_zbud_goes_from_list_to_list() -> None:
    pool = create("zbud")
    pool.malloc(40 * 64)  # no page: lists 40 to 62
    assert work(pool) == (1, 23, 0)
    pool.malloc(3 * 64)  # 23 chunks are free there: lists 3 to 23
    assert work(pool) == (1, 23 + 21, 0)


def test_z3fold_searches_its_own_lists_and_then_the_other_cpus() -> None:
    pool = create("z3fold:cpus=2")
    pool.malloc(40 * 64)  # no page: lists 40 to 61 of this CPU, then list 40 of both
    assert work(pool) == (1, 22 + 2, 0)
    pool.malloc(2 * 64)  # 22 chunks are free there: lists 2 to 22
    assert work(pool) == (1, 24 + 21, 0)


def test_zsmalloc_looks_at_the_fullest_list_first() -> None:
    for name, lists in (("zsmalloc:6.1", 3), ("zsmalloc:6.12", 11)):
        pool = create(name)
        pool.malloc(2000)  # slots of 2048 less the handle: two a page
        assert work(pool) == (1, lists, 0)
        pool.malloc(2000)  # a half-full one is almost empty in 6.1, of group 6 of 11 in 6.12
        assert work(pool) == (1, lists + (2 if lists == 3 else 5), 0)


def test_zsmalloc_counts_what_compaction_searches_and_moves() -> None:
    pool = create("zsmalloc:6.1")
    handles = [pool.malloc(2000) for _ in range(4)]
    searched = work(pool)[1]
    pool.free(handles[0])
    pool.free(handles[2])
    pool.compact()  # type: ignore[attr-defined]
    # The class: source from almost empty (1), target from there too (almost full: 2), moved;
    # then nothing on either list. The other classes: nothing on either.
    classes = len(pool.stats()["classes"])
    assert work(pool) == (2, searched + 1 + 2 + 2 + 2 * (classes - 1), 1)
