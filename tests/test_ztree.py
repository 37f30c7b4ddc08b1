# SPDX-License-Identifier: GPL-2.0-only
"""The ztree model against known answers, every hazard one flow of control can reach, and
invariants after random histories."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.allocator import BackendError, HazardError, create
from ztrace.allocator.ztree.model import (
    FREE,
    MAPPED,
    OCCUPIED,
    POSTED_TABLE,
    UNMAPPED,
    Ztree,
    block_types,
)

TESTS = Path(__file__).parent
VECTORS = sorted((TESTS / "vectors").glob("ztree_*.txt"))

# type, slots, order, slot bytes, unused tail bytes: 4 KiB pages, 8-byte long
CLASSES_4K = [
    (0, 16, 0, 256, 0),
    (1, 11, 0, 368, 48),
    (2, 8, 0, 512, 0),
    (3, 11, 1, 744, 8),
    (4, 8, 1, 1024, 0),
    (5, 14, 2, 1168, 32),
    (6, 12, 2, 1360, 64),
    (7, 10, 2, 1632, 64),
    (8, 9, 2, 1816, 40),
    (9, 8, 2, 2048, 0),
    (10, 14, 3, 2336, 64),
    (11, 13, 3, 2520, 8),
    (12, 12, 3, 2728, 32),
    (13, 11, 3, 2976, 32),
    (14, 10, 3, 3272, 48),
    (15, 8, 3, 4096, 0),
]
# (slot bytes, unused tail bytes) of each type: larger pages, 8-byte long
CLASSES_16K = [
    *((1024, 0), (1488, 16), (2048, 0), (2976, 32), (4096, 0), (4680, 16), (5456, 64), (6552, 16)),
    *((7280, 16), (8192, 0), (9360, 32), (10080, 32), (10920, 32), (11912, 40), (13104, 32)),
    (16384, 0),
]
CLASSES_64K = [
    *((4096, 0), (5952, 64), (8192, 0), (11912, 40), (16384, 0), (18720, 64), (21840, 64)),
    *((26208, 64), (29120, 64), (32768, 0), (37448, 16), (40328, 24), (43688, 32), (47656, 72)),
    *((52424, 48), (65536, 0)),
]


def refuse(handle: int) -> int:
    """An evict callback that must not be called."""
    raise AssertionError(f"evict({handle:#x}) was called")


def use(pool: Ztree, size: int) -> int:
    """Allocate, map and unmap one object, as zswap's store does."""
    handle = pool.malloc(size)
    pool.map(handle)
    pool.unmap(handle)
    return handle


def met(pool: Ztree) -> set[str]:
    """Names of the hazards met; each must carry a description."""
    assert set(pool.hazards.counts) == set(pool.hazards.first)
    assert all(pool.hazards.first.values())
    return set(pool.hazards.counts)


# -- size classes -----------------------------------------------------------------------------


def test_classes_for_4k_pages() -> None:
    found = [
        (t.number, t.slots, t.order, t.slot_bytes, t.block_bytes - t.slots * t.slot_bytes)
        for t in block_types(4096, 8, POSTED_TABLE)
    ]
    assert found == CLASSES_4K


@pytest.mark.parametrize(("page_bytes", "expected"), [(16384, CLASSES_16K), (65536, CLASSES_64K)])
def test_classes_for_larger_pages(page_bytes: int, expected: list[tuple[int, int]]) -> None:
    found = [
        (t.slot_bytes, t.block_bytes - t.slots * t.slot_bytes)
        for t in block_types(page_bytes, 8, POSTED_TABLE)
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("page_bytes", "differs"),
    [
        (
            4096,
            {1: (372, 4), 6: (1364, 16), 7: (1636, 24), 8: (1820, 4), 10: (2340, 8), 14: (3276, 8)},
        ),
        (16384, {6: (5460, 16 * 1024 * 4 - 12 * 5460)}),
    ],
)
def test_classes_for_4_byte_long(page_bytes: int, differs: dict[int, tuple[int, int]]) -> None:
    short = block_types(page_bytes, 4, POSTED_TABLE)
    long = block_types(page_bytes, 8, POSTED_TABLE)
    found = {
        a.number: (a.slot_bytes, a.block_bytes - a.slots * a.slot_bytes)
        for a, b in zip(short, long, strict=True)
        if a != b
    }
    assert found == differs


def test_class_choice_at_every_size() -> None:
    pool = Ztree()
    slots = [slot for *_, slot, _ in CLASSES_4K]
    for size in range(1, 4097):
        first_fit = next(i for i, slot in enumerate(slots) if size <= slot)
        assert pool.type_of(size) == first_fit


def test_coeff_is_largest_half_way() -> None:
    tree = Ztree().trees[15]
    block = tree.insert()
    found = []
    for free in range(9):
        block.free_slots = free
        tree.weigh(block)
        found.append(block.coeff)
    assert found == [0, 7, 12, 15, 16, 15, 12, 7, 0]


def test_impossible_tables_are_refused() -> None:
    for table in ([], [(0, 17)], [(11, 8)], [(0, 0)], [(0, 8), (0, 16)], [(0, 8)], [(3, 8)] * 17):
        with pytest.raises(BackendError, match="ztree table"):
            Ztree(table=table)


def test_unknown_backend_is_named() -> None:
    with pytest.raises(BackendError, match=r"'zthree'.*ztree"):
        create("zthree")


# -- known answers ----------------------------------------------------------------------------


def test_first_handle_of_every_class() -> None:
    sizes = [1, 256, 257, 368, 369, 512, 744, 745, 1024, 1168, 1360, 1632, 1816, 2048]
    sizes += [2336, 2520, 2728, 2976, 3272, 3273, 4096]
    kinds = [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15]
    slots = [int(a == b) for a, b in pairwise([-1, *kinds])]
    pool = Ztree()
    handles = [pool.malloc(size) for size in sizes]
    assert handles == [kind << 60 | slot for kind, slot in zip(kinds, slots, strict=True)]


def test_hole_in_the_older_block_is_not_used() -> None:
    top = 0xF << 60
    pool = Ztree()
    handles = [pool.malloc(4000) for _ in range(9)]
    assert handles == [*(top + slot for slot in range(8)), top + 0x10]
    pool.free(top + 0x03)
    assert pool.malloc(4000) == top + 0x11
    pool.free(top + 0x10)
    assert pool.held_bytes == 2 * 32768
    assert pool.malloc(4000) == top + 0x10


def fill(blocks: int, size: int = 4096) -> tuple[Ztree, list[int]]:
    """A pool with that many full blocks of class 15, every object mapped and unmapped once."""
    pool = Ztree()
    return pool, [use(pool, size) for _ in range(8 * blocks)]


def test_fourth_block_beside_a_free_slot() -> None:
    top = 0xF << 60
    pool, _ = fill(3)
    pool.free(top)
    assert pool.malloc(4096) == top
    pool.free(top + 0x10)
    pool.free(top + 0x01)
    assert pool.malloc(4096) == top + 0x10
    assert pool.malloc(4096) == top + 0x30
    assert met(pool) == {"H11"}


def fnv1a64(numbers: Iterator[int] | list[int]) -> int:
    digest = 0xCBF29CE484222325
    for number in numbers:
        for byte in number.to_bytes(8, "little"):
            digest = (digest ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return digest


def draws(seed: int) -> Iterator[int]:
    state = seed
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state >> 16


@pytest.mark.parametrize(
    ("ops", "cap", "seed", "counts", "digest", "total", "pages", "blocks", "counters"),
    [
        (
            *(1_000, 300, 1, (650, 350, 300), 0x820AE5A87972EEFD, 949_352, 232),
            "2 1 3 2 3 1 1 3 2 3 2 1 2 3 4 10",
            "2 1 4 2 5 2 3 3 3 3 2 1 2 3 4 12",
        ),
        (
            *(20_000, 1_000, 12345, (10500, 9500, 1000), 0xF7720C8F2BE5DCF3, 3_486_376, 852),
            "7 4 7 9 14 4 7 11 8 11 8 6 7 9 10 38",
            "11 7 11 11 30 9 8 14 17 18 10 7 9 13 14 49",
        ),
        (
            *(200_000, 5_000, 2021, (102499, 97501, 4998), 0x033A2A2E0C436F79, 17_030_976, 4162),
            "28 18 36 42 68 19 29 54 43 52 37 27 33 44 56 187",
            "32 32 75 61 157 24 40 94 81 114 43 36 40 66 90 375",
        ),
    ],
)
def test_random_history(
    ops: int,
    cap: int,
    seed: int,
    counts: tuple[int, int, int],
    digest: int,
    total: int,
    pages: int,
    blocks: str,
    counters: str,
) -> None:
    pool, draw = Ztree(), draws(seed)
    given_out: list[int] = []
    live: list[int] = []
    for _ in range(ops):
        r = next(draw)
        if not live or (r & 3 and len(live) < cap):
            live.append(pool.malloc(1 + next(draw) % 4096))
            given_out.append(live[-1])
        else:
            at = next(draw) % len(live)
            live[at], live[-1] = live[-1], live[at]
            pool.free(live.pop())
    assert (len(given_out), len(given_out) - len(live), len(live)) == counts
    assert fnv1a64(given_out) == digest
    assert pool.total_bytes == total
    assert pool.held_bytes == pages * 4096
    classes = pool.stats()["classes"]
    assert [c["blocks"] for c in classes] == [int(word) for word in blocks.split()]
    assert [c["blocks_ever"] for c in classes] == [int(word) for word in counters.split()]
    assert met(pool) <= {"H10", "H11", "H27"}


def test_shrink_by_eviction() -> None:
    pool, _ = fill(3)

    def evict(handle: int) -> int:
        pool.free(handle)
        return 0

    assert pool.shrink(0, refuse) == (-22, 0)
    assert pool.shrink(1, evict) == (8, 8)
    assert pool.held_bytes == 2 * 32768
    assert pool.shrink(1, evict) == (8, 8)
    assert pool.held_bytes == 32768
    assert met(pool) == {"H23"}
    with pytest.raises(HazardError, match="H12"):
        pool.shrink(1, evict)
    assert met(pool) == {"H12", "H23"}


def test_errors_of_malloc() -> None:
    pool = Ztree()
    for size, code in ((0, 22), (4097, 28)):
        with pytest.raises(OSError) as refused:
            pool.malloc(size)
        assert refused.value.errno == code
    assert pool.held_bytes == pool.total_bytes == 0


# -- vector files -----------------------------------------------------------------------------


def load_conformance() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance", TESTS / "conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conformance = load_conformance()
    lines = sum(1 for line in path.read_text().splitlines() if line and line[0] != "#")
    passed, failed = conformance.check_file(path, lambda: conformance.Driver(create("ztree")))
    assert (passed, failed) == (lines, 0), capsys.readouterr().out


def test_vectors_are_there() -> None:
    assert len(VECTORS) == 4


def conform(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TESTS / "conformance.py"), "ztree", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_conformance_command_passes() -> None:
    done = conform(*VECTORS)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith(" passed, 0 failed")


def test_conformance_command_fails_on_one_altered_answer(tmp_path: Path) -> None:
    lines = VECTORS[0].read_text().splitlines()[:500]
    at = next(i for i, line in enumerate(lines) if i > 300 and line.startswith("A "))
    lines[at] = lines[at][:-1] + str((int(lines[at][-1]) + 1) % 10)
    altered = tmp_path / "altered.txt"
    altered.write_text("\n".join(lines) + "\n")
    done = conform(altered)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "499 passed, 1 failed"
    assert f"altered.txt:{at + 1}:" in done.stdout


# -- hazards ----------------------------------------------------------------------------------


def test_harmless_history_meets_no_hazard() -> None:
    pool = Ztree()
    live = [use(pool, size) for size in range(300, 4097, 7)]
    for handle in reversed(live):
        pool.map(handle)
        pool.unmap(handle)
        pool.free(handle)
    for _ in range(1000):  # one in, one out
        pool.free(use(pool, 1000))
    assert pool.shrink(0, refuse).ret == -22
    assert met(pool) == set()
    assert pool.held_bytes == pool.total_bytes == pool.objects == 0


def test_h2_slot_past_the_end() -> None:
    pool, live = fill(1)
    pool.free(live[3])
    pool.map(live[3])
    assert pool.malloc(4096) == (0xF << 60) + 8
    assert met(pool) == {"H2", "H24"}


def test_h2_of_class_0_is_the_next_blocks_object() -> None:
    pool = Ztree()
    live = [use(pool, 100) for _ in range(16)]
    pool.free(live[0])
    pool.map(live[0])
    assert pool.malloc(100) == 0x10  # slot 16 of block 0 and slot 0 of block 1: one handle (H29)
    assert "H2" in met(pool)


def test_h8_double_free() -> None:
    pool, live = fill(1)
    pool.free(live[0])
    pool.free(live[0])
    assert met(pool) == {"H8"}
    assert pool.trees[15].blocks[0].free_slots == 2


def test_h8_bogus_frees_release_a_live_block() -> None:
    pool = Ztree()
    use(pool, 4096)
    use(pool, 4096)
    pool.free((0xF << 60) + 5)
    pool.free((0xF << 60) + 5)
    assert pool.held_bytes == 0
    assert met(pool) == {"H8"}
    assert pool.hazards.counts["H8"] == 4  # two frees of nothing, two live objects lost


def test_h8_free_in_a_block_that_is_gone() -> None:
    pool, _ = fill(1)
    pool.free((0xF << 60) + 0x10)
    assert met(pool) == {"H8"}


def test_h8_type_outside_the_table() -> None:
    pool = Ztree(table=[(3, 8)])
    for call in (pool.free, pool.map, pool.unmap):
        with pytest.raises(HazardError, match="H8"):
            call(1 << 60)
    with pytest.raises(HazardError, match="H8"):
        pool.free(1 << 64)
    assert met(pool) == {"H8"}


def test_h10_emptied_block_displaces_a_partial_current() -> None:
    pool, live = fill(3)
    for handle in (*live[0:2], *live[8:15], live[2]):
        pool.free(handle)
    assert pool.trees[15].current is pool.trees[15].blocks[0]
    assert met(pool) == set()
    pool.free(live[15])  # the last object of block 1
    assert pool.trees[15].current is pool.trees[15].blocks[2]
    assert met(pool) == {"H10"}
    assert pool.malloc(4096) == (0xF << 60) + 0x30
    assert met(pool) == {"H10", "H11"}


def test_h10_emptied_current_leaves_free_slots_unseen() -> None:
    pool, live = fill(3)
    for handle in (*live[0:3], *live[8:16]):
        pool.free(handle)
    assert met(pool) == {"H10"}
    assert pool.malloc(4096) == (0xF << 60) + 0x30
    assert met(pool) == {"H10", "H11"}


def test_h11_stranded_slots_are_counted() -> None:
    pool, live = fill(3)
    pool.free(live[0])
    pool.malloc(4096)
    pool.free(live[8])
    pool.free(live[1])
    pool.malloc(4096)
    pool.malloc(4096)
    assert met(pool) == {"H11"}
    assert pool.stats()["stranded_slots"] == 1
    assert pool.stats()["stranded_bytes"] == 4096


@pytest.mark.parametrize("objects", [0, 1])
def test_h12_no_block_to_reclaim(objects: int) -> None:
    pool = Ztree()
    for _ in range(objects):
        use(pool, 4096)
    with pytest.raises(HazardError, match="H12"):
        pool.shrink(1, refuse)
    assert met(pool) == {"H12"}


def test_h13_current_in_the_oldest_block_hides_the_others() -> None:
    pool, live = fill(3)
    pool.free(live[0])
    with pytest.raises(HazardError, match="H12"):
        pool.shrink(1, refuse)
    assert met(pool) == {"H12", "H13"}


def test_h14_stuck_on_a_block_never_mapped() -> None:
    pool = Ztree()
    for _ in range(24):
        pool.malloc(4096)
    for _ in range(64):
        use(pool, 300)  # a lower class, fully evictable, which is never reached
    assert pool.shrink(1, refuse) == (-11, 0)
    assert met(pool) == set()
    assert pool.shrink(1, refuse) == (-11, 0)
    assert met(pool) == {"H14"}


def test_h15_free_of_another_object_of_the_block() -> None:
    pool, live = fill(3)
    for handle in live[1:8]:
        pool.map(handle)  # in use: reclaim passes by

    def evict(handle: int) -> int:
        pool.free(live[7])
        pool.free(handle)
        return 0

    assert pool.shrink(1, evict) == (1, 1)
    assert met(pool) == {"H15", "H23"}
    block = pool.trees[15].blocks[0]
    assert block.slots[7] == MAPPED  # without an owner for ever
    assert block.free_slots == 1


def test_h16_evict_said_yes_but_freed_nothing() -> None:
    pool, _ = fill(3)
    assert pool.shrink(1, lambda handle: 0) == (8, 8)
    assert met(pool) == {"H16", "H23"}
    assert pool.hazards.counts["H16"] == 8
    assert pool.held_bytes == 2 * 32768


def test_h17_evict_freed_then_failed() -> None:
    pool, _ = fill(3)

    def evict(handle: int) -> int:
        pool.map(handle)
        pool.free(handle)
        return -12

    assert pool.shrink(1, evict) == (-11, 0)
    assert met(pool) == {"H17"}
    assert pool.trees[15].blocks[0].slots[0] == MAPPED
    assert pool.objects == 23


def test_h17_evict_failed_and_left_the_slot_mapped() -> None:
    pool, live = fill(3)

    def evict(handle: int) -> int:
        pool.map(handle)
        return -17

    assert pool.shrink(1, evict) == (-11, 0)
    assert met(pool) == {"H17"}
    assert pool.trees[15].blocks[0].slots[0] == MAPPED
    pool.unmap(live[0])


def test_refused_eviction_with_unmap_is_no_hazard() -> None:
    pool, _ = fill(3)

    def evict(handle: int) -> int:
        pool.map(handle)
        pool.unmap(handle)
        return -17

    assert pool.shrink(1, evict) == (-11, 0)
    assert met(pool) == set()


def test_h18_late_free_after_eviction() -> None:
    pool, live = fill(3)
    for handle in live[1:8]:
        pool.map(handle)
    assert pool.shrink(1, lambda handle: 0) == (1, 1)
    pool.free(live[0])
    assert met(pool) == {"H16", "H18", "H23"}
    assert pool.trees[15].blocks[0].free_slots == 2  # counted twice


def test_h23_slots_are_counted_as_pages() -> None:
    pool, live = fill(3)
    for handle in live[1:8]:
        pool.map(handle)

    def evict(handle: int) -> int:
        pool.free(handle)
        return 0

    held = pool.held_bytes
    assert pool.shrink(1, evict) == (1, 1)  # "one page", though no page came back
    assert pool.held_bytes == held
    assert met(pool) == {"H23"}


@pytest.mark.parametrize(("call", "state"), [("map", MAPPED), ("unmap", UNMAPPED)])
def test_h24_use_after_free(call: str, state: int) -> None:
    pool, live = fill(1)
    pool.free(live[2])
    getattr(pool, call)(live[2])
    assert met(pool) == {"H24"}
    assert pool.trees[15].blocks[0].slots[2] == state


@pytest.mark.parametrize("call", ["map", "unmap"])
def test_h26_block_not_found(call: str) -> None:
    pool, _ = fill(1)
    getattr(pool, call)((0xF << 60) + 0x70)
    assert met(pool) == {"H26"}


def test_h27_handle_0() -> None:
    pool = Ztree()
    assert pool.malloc(257) != 0
    assert met(pool) == set()
    assert pool.malloc(256) == 0
    assert met(pool) == {"H27"}


def test_h28_index_wraps_onto_a_live_block() -> None:
    pool = Ztree(max_index=4)
    for _ in range(32):
        pool.malloc(4096)
    with pytest.raises(HazardError, match="H28") as raised:
        pool.malloc(4096)
    assert raised.value.name == "H28"
    assert met(pool) == {"H28"}


def test_wrap_onto_free_indices_is_no_hazard() -> None:
    pool = Ztree(max_index=4)
    for _ in range(9):
        pool.free(pool.malloc(4096))
    assert met(pool) == set()


def test_h30_total_wraps_at_4_gib() -> None:
    pool = Ztree(page_bytes=65536)
    for _ in range(8191 * 8):
        pool.malloc(65536)
    assert pool.total_bytes == pool.held_bytes == 8191 << 19
    assert met(pool) == set()
    pool.malloc(65536)
    assert pool.total_bytes == 0
    assert pool.held_bytes == 1 << 32
    assert met(pool) == {"H30"}


def test_total_leaves_out_tails() -> None:
    pool = Ztree()
    pool.malloc(368)
    assert (pool.total_bytes, pool.held_bytes) == (11 * 368, 4096)


def test_h31_no_pages_of_that_order() -> None:
    pool = Ztree(pages_available=lambda order: order < 3)
    use(pool, 2048)
    assert met(pool) == set()
    with pytest.raises(OSError) as refused:
        pool.malloc(2049)
    assert refused.value.errno == 12
    assert met(pool) == {"H31"}
    assert pool.held_bytes == 16384


# -- invariants after random histories --------------------------------------------------------


def check(pool: Ztree, live: dict[int, int]) -> None:
    """Everything that must hold between calls; ``live`` is handle -> size, kept by the test."""
    held = total = stranded = 0
    busy: dict[int, int] = {}
    for tree in pool.trees:
        kind, free_total = tree.kind, 0
        assert list(tree.blocks) == sorted(tree.blocks)
        for near in (tree.current, tree.last):
            assert near is None or tree.blocks.get(near.index) is near
        for index, block in tree.blocks.items():
            states = list(block.slots)
            assert block.index == index
            assert not block.under_reclaim
            assert block.free_slots == states[: kind.slots].count(FREE)
            assert 0 <= block.free_slots < kind.slots
            assert block.coeff == block.free_slots * (kind.slots - block.free_slots)
            assert not any(states[kind.slots :])
            busy |= {
                pool.encode(kind.number, index, slot): kind.slot_bytes
                for slot, state in enumerate(states)
                if state != FREE
            }
            free_total += block.free_slots
            if block is not tree.current and block is not tree.last:
                stranded += block.free_slots
        assert tree.free_total == free_total
        held += len(tree.blocks) * (pool.page_bytes << kind.order)
        total += len(tree.blocks) * kind.slots * kind.slot_bytes
    assert set(busy) == set(live)
    assert all(live[handle] <= busy[handle] for handle in live)
    assert pool.objects == len(live)
    assert pool.held_bytes == held
    assert pool.total_bytes == total
    stats = pool.stats()
    assert stats["stranded_slots"] == stranded
    assert stats["blocks_inserted"] - stats["blocks_deleted"] == sum(
        c["blocks"] for c in stats["classes"]
    )
    assert sum(c["used_slots"] for c in stats["classes"]) == len(live)


class History:
    """Drives a pool as a correct user does and remembers what is live."""

    def __init__(self, pool: Ztree) -> None:
        self.pool = pool
        self.live: dict[int, int] = {}

    def malloc(self, size: int, choice: int) -> None:
        handle = self.pool.malloc(size)
        assert handle not in self.live
        self.live[handle] = size
        if choice % 4:
            self.pool.map(handle)
            self.pool.unmap(handle)

    def free(self, size: int, choice: int) -> None:
        if self.live:
            handle = list(self.live)[choice % len(self.live)]
            del self.live[handle]
            self.pool.free(handle)

    def map(self, size: int, choice: int) -> None:
        if self.live:
            handle = list(self.live)[choice % len(self.live)]
            self.pool.map(handle)
            if choice & 1:
                self.pool.unmap(handle)

    def shrink(self, size: int, choice: int) -> None:
        held = self.pool.held_bytes

        def evict(handle: int) -> int:
            self.pool.map(handle)
            self.pool.unmap(handle)
            if (handle + choice) % 5 == 0:
                return -17
            del self.live[handle]
            self.pool.free(handle)
            return 0

        try:
            ret, reclaimed = self.pool.shrink(1, evict)
        except HazardError as hazard:
            assert hazard.name == "H12"
            assert self.pool.held_bytes == held
            return
        assert (ret, reclaimed) == (-11, 0) or 1 <= ret == reclaimed <= 16

    def burst(self, size: int, choice: int) -> None:
        for number in range(choice % 40):
            self.malloc(size, number)


OPS: dict[str, Callable[[History, int, int], None]] = {
    "malloc": History.malloc,
    "free": History.free,
    "map": History.map,
    "shrink": History.shrink,
    "burst": History.burst,
}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["malloc", "free", "free", "map", "shrink", "burst"]),
            st.one_of(st.sampled_from([256, 257, 2000, 4096]), st.integers(1, 4096)),
            st.integers(0, 2**16),
        ),
        max_size=120,
    )
)
def test_invariants_hold_after_every_call(calls: list[tuple[str, int, int]]) -> None:
    history = History(Ztree())
    for name, size, choice in calls:
        OPS[name](history, size, choice)
        check(history.pool, history.live)
    # A correct user with one flow of control meets no memory corruption.
    assert not met(history.pool) & {"H2", "H8", "H15", "H16", "H17", "H18", "H24", "H26", "H28"}
    for handle in list(history.live):
        history.pool.free(handle)
    assert history.pool.held_bytes == history.pool.total_bytes == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([4096, 16384, 65536]), st.sampled_from([4, 8]))
def test_same_history_same_answers(seed: int, page_bytes: int, long_bytes: int) -> None:
    first, second = (
        Ztree(page_bytes=page_bytes, long_bytes=long_bytes),
        Ztree(page_bytes=page_bytes, long_bytes=long_bytes),
    )
    live: list[int] = []
    draw = draws(seed)
    for _ in range(300):
        if next(draw) % 3 or not live:
            size = 1 + next(draw) % page_bytes
            handle = first.malloc(size)
            assert second.malloc(size) == handle
            assert first.decode(handle).kind == first.type_of(size)
            assert first.encode(*first.decode(handle)) == handle < 1 << 8 * long_bytes
            live.append(handle)
        else:
            handle = live.pop(next(draw) % len(live))
            first.free(handle)
            second.free(handle)
    assert first.stats() == second.stats()


def test_states_follow_the_calls() -> None:
    pool = Ztree()
    handle = pool.malloc(4096)
    block = pool.trees[15].blocks[0]
    assert block.slots[0] == OCCUPIED
    pool.map(handle)
    assert block.slots[0] == MAPPED
    pool.unmap(handle)
    assert block.slots[0] == UNMAPPED
    pool.malloc(4096)
    pool.free(handle)
    assert block.slots[0] == FREE
