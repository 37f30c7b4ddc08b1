# SPDX-License-Identifier: GPL-2.0-only
"""Late ztree and zblock of 2022 and 2025: their tables, the rules that tell them apart, each by
a history whose answer follows from the rule, and what must hold after any history."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance import Driver, check_file
from ztrace.allocator import BackendError, HazardError, create
from ztrace.allocator.zblock.model import LateZtree, Zblock2022, Zblock2025
from ztrace.allocator.ztree.model import FREE, Ztree

VECTORS = Path(__file__).parent / "vectors"
VARIANTS = ("ztree:late", "zblock:2022", "zblock:2025")
SLOTS = {  # published bytes of each type's slot, 4 KiB pages and 8-byte long
    "ztree:late": "248 336 448 576 672 808 1016 1160 1360 1632 1808 2040 2336 2512 2720 2968 3264 "
    "3632 4672",
    "zblock:2022": "120 176 232 304 360 448 504 576 672 736 808 896 1016 1088 1160 1248 1360 1480 "
    "1632 1808 2040 2176 2336 2512 2720 2968 3264 3632 4672",
    "zblock:2025": "64 120 192 264 336 400 448 504 560 624 672 736 808 904 1016 1128 1256 1360 "
    "1480 1632 1816 1920 2040 2176 2336 2512 2720 2968 3272 3632 4080",
}
HEADER = {"ztree:late": 64, "zblock:2022": 64, "zblock:2025": 40}
EAGAIN, EINVAL, ENOSPC = 11, 22, 28


def made(name: str, page_bytes: int = 4096) -> LateZtree:
    pool = create(f"{name}{',' if ':' in name else ':'}page_bytes={page_bytes}")
    assert isinstance(pool, LateZtree)
    return pool


def slots_in_largest(pool: LateZtree) -> int:
    return pool.types[-1].slots


def fill(pool: LateZtree, blocks: int) -> list[int]:
    """Fill that many blocks of the largest type."""
    return [pool.malloc(4000) for _ in range(blocks * slots_in_largest(pool))]


def blocks_and_slots(pool: LateZtree, handles: list[int]) -> list[tuple[int, int]]:
    """Which block of its type each handle is in, counted from the oldest ever, and which slot."""
    per_block = pool.types[-1].block_bytes // pool.page_bytes
    return [(p.block // per_block, p.slot) for p in map(pool.decode, handles)]


def refuse(handle: int) -> int:
    raise AssertionError(f"evict({handle:#x}) was called")


# -- tables and handles -----------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_slots_of_every_type(name: str) -> None:
    pool = made(name)
    assert [kind.slot_bytes for kind in pool.types] == [int(n) for n in SLOTS[name].split()]
    for kind in pool.types:
        rest = kind.block_bytes - HEADER[name] - kind.slots * kind.slot_bytes
        assert 0 <= rest < 8 * kind.slots  # no slot could be a long larger


def test_16k_pages_of_zblock_2025() -> None:
    pool = made("zblock:2025", 16384)
    assert len(pool.types) == 40
    assert max(kind.slots for kind in pool.types) == 255
    handle = [pool.malloc(60) for _ in range(200)][-1]
    assert handle == 16384 + 199
    with pytest.raises(BackendError, match="has tables for 4096 and 16384"):
        made("zblock:2025", 65536)


@pytest.mark.parametrize(
    ("name", "slot_bits", "last"),
    [(VARIANTS[0], 4, 18), (VARIANTS[1], 5, 28), (VARIANTS[2], 7, 30)],
)
def test_a_handle_is_an_address(name: str, slot_bits: int, last: int) -> None:
    pool = made(name)
    assert [pool.malloc(4000), pool.malloc(4000)] == [
        4096 + (last << slot_bits),
        4096 + (last << slot_bits) + 1,
    ]
    pages = pool.types[-1].block_bytes // 4096
    assert pool.malloc(1) == (1 + pages) * 4096  # the next page: type 0, slot 0
    assert pool.held_bytes == pool.total_bytes == (pages + 1) * 4096


def test_an_object_as_large_as_a_slot() -> None:
    for name in VARIANTS[:2]:
        pool = made(name)
        for kind in pool.types[:-1]:
            assert pool.type_of(kind.slot_bytes) == kind.number
            assert pool.type_of(kind.slot_bytes + 1) == kind.number + 1
        pool.malloc(4096)
        with pytest.raises(OSError) as refused:
            pool.malloc(4097)
        assert refused.value.errno == ENOSPC
    pool = made("zblock:2025")
    for kind in pool.types[:-1]:
        assert pool.type_of(kind.slot_bytes - 1) == kind.number
        assert pool.type_of(kind.slot_bytes) == kind.number + 1
    pool.malloc(4079)
    for size, code in ((0, EINVAL), (4080, ENOSPC), (4095, ENOSPC), (4096, EINVAL), (4097, ENOSPC)):
        with pytest.raises(OSError) as refused:
            pool.malloc(size)
        assert refused.value.errno == code


# -- what the authors' code answered ----------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("ztree:late", "late_ztree"),
        ("zblock:2022", "zblock_2022"),
        ("zblock:2025", "zblock_2025"),
        ("zblock:2025,page_bytes=16384", "zblock_2025_16k"),
    ],
)
def test_vector_file(spec: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = VECTORS / f"{name}.txt"
    answers = len(path.read_text().splitlines())
    assert answers >= 2500
    assert check_file(path, lambda: Driver(create(spec))) == (answers, 0), capsys.readouterr().out


# -- which block malloc takes -----------------------------------------------------------------


def test_a_hole_in_an_older_block() -> None:
    for name in VARIANTS:
        pool = made(name)
        n = slots_in_largest(pool)
        old = fill(pool, 1)
        pool.malloc(4000)
        pool.free(old[2])
        given = blocks_and_slots(pool, [pool.malloc(4000) for _ in range(n)])
        # All stay with the newer block first. Then ztree forgets the hole and zblock does not.
        assert given[:-1] == [(1, slot) for slot in range(1, n)]
        assert given[-1] == ((2, 0) if name == "ztree:late" else (0, 2)), name
        assert pool.hazards.counts == ({"H11": 1} if name == "ztree:late" else {}), name


def test_an_emptied_block_and_the_room_elsewhere() -> None:
    for name in VARIANTS:
        pool = made(name)
        n = slots_in_largest(pool)
        handles = fill(pool, 3)
        for handle in [*handles[:3], *handles[n : 2 * n]]:
            pool.free(handle)
        assert len(pool.trees[-1].blocks) == 2
        given = blocks_and_slots(pool, [pool.malloc(4000)])
        assert given == [(3, 0) if name == "ztree:late" else (0, 0)], name
        assert ("H10" in pool.hazards.counts) == (name == "ztree:late")


def test_2022_remembers_32_blocks() -> None:
    pool = made("zblock:2022")
    handles = fill(pool, 34)
    for block in range(33):
        pool.free(handles[7 * block])
    # The 33rd pushed out the first of those with the least room: the oldest.
    assert pool.stats()["stranded_slots"] == 1
    given = blocks_and_slots(pool, [pool.malloc(4000) for _ in range(33)])
    assert given == [(32, 0), *((block, 0) for block in range(1, 32)), (34, 0)]
    assert pool.hazards.counts == {"H11": 1}
    pool.free(handles[1])  # which brings it back, in place of a full one
    assert pool.stats()["stranded_slots"] == 0
    assert blocks_and_slots(pool, [pool.malloc(4000)])[0] != (35, 0)


def test_2022_pushes_out_the_block_with_least_room() -> None:
    pool = made("zblock:2022")
    handles = fill(pool, 34)
    for block in range(32):
        for slot in range(1 + (block != 20)):
            pool.free(handles[7 * block + slot])
    pool.free(handles[7 * 32])
    tree = pool.trees[-1]
    assert tree.stranded_slots() == 1
    assert tree.blocks[20 * 8].free_slots == 1
    assert tree.blocks[20 * 8] not in tree.cache  # type: ignore[attr-defined]


def test_2025_reaches_every_hole_oldest_free_first() -> None:
    pool = made("zblock:2025")
    handles = fill(pool, 40)
    order = [(7 * i) % 40 for i in range(40)]
    for block in order:
        pool.free(handles[4 * block + 1])
    given = blocks_and_slots(pool, [pool.malloc(4000) for _ in range(40)])
    assert given == [(block, 1) for block in order]
    assert pool.hazards.counts == {}


def test_2025_takes_a_slot_before_others_see_the_block() -> None:
    for name in VARIANTS:
        pool = made(name)
        begun = pool.begin_malloc(4000)
        between, ended = blocks_and_slots(pool, [pool.malloc(4000), pool.end_malloc(begun)])
        assert (between[1], ended[1]) == ((1, 0) if name == "zblock:2025" else (0, 1)), name


# -- reclaim ----------------------------------------------------------------------------------


def evictor(pool: LateZtree, refused: int = -1):  # type: ignore[no-untyped-def]
    """Frees what it is asked for, except for one slot."""

    def evict(handle: int) -> int:
        if pool.decode(handle).slot == refused:
            return -EAGAIN
        pool.free(handle)
        return 0

    return evict


def test_only_2022_evicts_what_was_never_mapped() -> None:
    late = made("ztree:late")
    fill(late, 2)
    assert late.shrink(1, refuse) == (-EAGAIN, 0)
    pool = made("zblock:2022")
    handles = fill(pool, 2)
    pool.map(handles[3])  # in use
    assert pool.shrink(1, evictor(pool)) == (6, 6)
    assert pool.held_bytes == 2 * 32768
    assert pool.objects == 8
    # What is left of the block is remembered, so that malloc finds the room.
    assert blocks_and_slots(pool, [pool.malloc(4000)]) == [(0, 0)]


def test_2022_reclaims_the_oldest_block() -> None:
    pool = made("zblock:2022")
    fill(pool, 3)
    assert pool.shrink(1, evictor(pool, refused=2)) == (2, 2)
    # Now that the oldest block is remembered it hides the others; other types have no block.
    with pytest.raises(HazardError, match="empty-list"):
        pool.shrink(1, evictor(pool))
    assert pool.hazards.counts["H13"] == 1


def test_a_search_for_a_block_that_finds_none() -> None:
    late = made("ztree:late")
    late.malloc(4000)
    with pytest.raises(HazardError, match="H12"):
        late.shrink(1, refuse)
    pool = made("zblock:2022")
    for kind in pool.types:
        pool.malloc(min(kind.slot_bytes, 4096))
    assert pool.shrink(1, refuse) == (-EINVAL, 0)
    assert pool.hazards.counts == {}
    assert made("zblock:2025").shrink(1, refuse) == (-EINVAL, 0)


def test_a_free_under_reclaim_is_dropped() -> None:
    for name in VARIANTS[:2]:
        pool = made(name)
        handles = fill(pool, 2)
        for handle in handles:
            pool.map(handle)
            pool.unmap(handle)
        n = slots_in_largest(pool)

        def evict(handle: int, pool: LateZtree = pool, handles: list[int] = handles) -> int:
            pool.free(handle)
            if handle == handles[1]:
                pool.free(handles[0])  # its slot has been visited: nothing will count it
            return 0 if handle != handles[0] else -EAGAIN

        pool.map(handles[0])
        assert pool.shrink(1, evict) == (n - 1, n - 1)
        assert pool.hazards.counts["H15"] == 1
        assert pool.trees[-1].blocks[0].free_slots == n - 1  # one leaked


# -- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_no_live_object_is_fatal(name: str) -> None:
    for call, handle, hazard in (
        ("free", 0, "double-free"),
        ("map", 0, "use-after-free"),
        ("unmap", 0, "use-after-free"),
        ("free", 1 << 40, "unknown-handle"),
        ("free", 15, "unknown-handle"),
        ("map", 4095, "unknown-handle"),
    ):
        pool = made(name)
        first, _ = pool.malloc(4000), pool.malloc(4000)
        pool.free(first)
        with pytest.raises(HazardError, match=hazard):
            getattr(pool, call)(first + handle)
        assert pool.hazards.counts == {hazard: 1}


def test_a_free_after_reclaim_took_the_slot() -> None:
    pool = made("zblock:2022")
    handles = fill(pool, 2)
    pool.map(handles[6])
    assert pool.shrink(1, lambda handle: 0) == (6, 6)
    assert pool.hazards.counts["H16"] == 6
    with pytest.raises(HazardError, match="H18"):
        pool.free(handles[0])


def test_the_posted_ztree_is_none_of_these() -> None:
    assert type(create("ztree")) is Ztree
    assert type(create("zblock")) is Zblock2025
    assert type(create("zblock:2022")) is Zblock2022
    with pytest.raises(BackendError, match="ztree takes late, page_bytes"):
        create("ztree:early")


# -- any history ------------------------------------------------------------------------------


def check(pool: LateZtree, sizes: dict[int, int]) -> None:
    """What must hold whenever no call is under way."""
    held = used = 0
    spans = []
    for tree in pool.trees:
        for block in tree.blocks.values():
            held += tree.kind.block_bytes
            start = block.index * pool.page_bytes
            spans.append((start, start + pool.header_bytes))
            states = block.slots[: tree.kind.slots]
            assert block.free_slots == states.count(FREE)
            assert 0 <= block.free_slots < tree.kind.slots
            used += tree.kind.slots - block.free_slots
        assert tree.free_total == sum(block.free_slots for block in tree.blocks.values())
        assert 0 <= tree.stranded_slots() <= tree.free_total
    assert pool.held_bytes == pool.total_bytes == held
    assert used == len(sizes) == pool.objects
    for handle, size in sizes.items():
        kind, page, slot = pool.decode(handle)
        assert pool.encode(kind, page, slot) == handle
        block_type = pool.types[kind]
        block = pool.trees[kind].blocks[page]
        assert block.slots[slot] != FREE
        at = page * pool.page_bytes + pool.header_bytes + slot * block_type.slot_bytes
        assert at + size <= page * pool.page_bytes + block_type.block_bytes
        assert size <= block_type.slot_bytes
        spans.append((at, at + size))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*VARIANTS, "zblock:2025,page_bytes=16384", "ztree:late,page_bytes=16384"]),
    st.lists(
        st.tuples(
            st.sampled_from(("malloc", "malloc", "burst", "free", "drop", "use", "shrink")),
            st.integers(1, 4079),
            st.integers(0, 2**20),
        ),
        max_size=80,
    ),
)
def test_any_history(spec: str, calls: list[tuple[str, int, int]]) -> None:
    pool = create(spec)
    assert isinstance(pool, LateZtree)
    sizes: dict[int, int] = {}

    def malloc(size: int) -> None:
        handle = pool.malloc(size)
        assert handle not in sizes
        sizes[handle] = size

    def evict(handle: int) -> int:
        pool.free(handle)
        del sizes[handle]
        return 0

    for call, size, choice in calls:
        live = list(sizes)
        if call == "malloc":
            malloc(size)
        elif call == "burst":
            for _ in range(choice % 120):
                malloc(size)
        elif call == "shrink":
            try:
                pool.shrink(1 + choice % 3, evict)
            except HazardError as fatal:
                assert fatal.name in ("H12", "empty-list")
                break
        elif live:
            at = choice % len(live)
            if call == "use":
                pool.map(live[at])
                pool.unmap(live[at])
            else:
                for handle in live[at : at + (1 if call == "free" else 100)]:
                    evict(handle)
        check(pool, sizes)
    check(pool, sizes)
    if spec.startswith("zblock:2025"):
        assert pool.stats()["stranded_slots"] == 0
        assert pool.hazards.counts == {}
    for handle in list(sizes):
        evict(handle)
    assert pool.held_bytes == pool.total_bytes == pool.objects == 0
