# SPDX-License-Identifier: GPL-2.0-only
"""The zsmalloc models against known answers, their class tables in full, and invariants after
random histories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.allocator import BackendError
from ztrace.allocator.zsmalloc.model import (
    EMPTY,
    SizeClass,
    SizeClass61,
    SizeClass612,
    Zsmalloc,
    Zspage,
    layout,
    least_waste,
    most_used,
    pages_of,
)

VECTORS = Path(__file__).parent / "vectors"
KNOWN = [
    ("6.1", VECTORS / "zsmalloc_6.1.txt", 2529),
    ("6.12", VECTORS / "zsmalloc_6.12_7.2_chain8.txt", 3273),
    ("7.2", VECTORS / "zsmalloc_6.12_7.2_chain8.txt", 3273),
]
VARIANTS = ["6.1", "6.12", "7.2"]

# Every class as index:size/pages/objects.
CLASSES_61 = """
0:32/1/128 1:48/3/256 2:64/1/64 3:80/1/51 4:96/3/128 5:112/2/73 6:128/1/32 7:144/3/85
8:160/2/51 9:176/4/93 10:192/3/64 11:208/2/39 12:224/4/73 13:240/1/17 14:256/1/16 15:272/1/15
16:288/1/14 17:304/3/40 18:320/4/51 19:336/1/12 20:352/2/23 21:368/1/11 22:384/3/32 23:400/1/10
24:416/4/39 25:432/3/28 26:448/1/9 27:464/4/35 28:480/2/17 29:496/4/33 30:512/1/8 31:528/4/31
32:544/2/15 33:560/4/29 34:576/1/7 35:592/4/27 36:608/3/20 37:624/2/13 38:640/3/19 40:672/1/6
42:704/4/23 43:720/3/17 44:736/2/11 46:768/3/16 49:816/1/5 51:848/4/19 52:864/3/14 54:896/2/9
57:944/3/13 58:960/4/17 62:1024/1/4 66:1088/4/15 67:1104/3/11 71:1168/2/7 74:1216/3/10
76:1248/4/13 83:1360/1/3 91:1488/4/11 94:1536/3/8 100:1632/2/5 107:1744/3/7 111:1808/4/9
126:2048/1/2 144:2336/4/7 151:2448/3/5 168:2720/2/3 190:3072/3/4 202:3264/4/5 254:4096/1/1
"""
CLASSES_612 = """
0:32/1/128 1:48/3/256 2:64/1/64 3:80/5/256 4:96/3/128 5:112/7/256 6:128/1/32 7:144/7/199
8:160/5/128 9:176/4/93 10:192/3/64 11:208/3/59 12:224/7/128 13:240/1/17 14:256/1/16 15:272/1/15
16:288/5/71 17:304/7/94 18:320/5/64 19:336/6/73 20:352/8/93 21:368/8/89 22:384/3/32 23:400/5/51
24:416/6/59 25:432/7/66 26:448/7/64 27:464/5/44 28:480/2/17 29:496/4/33 30:512/1/8 31:528/4/31
32:544/2/15 33:560/7/51 34:576/1/7 35:592/8/55 36:608/7/47 37:624/2/13 38:640/5/32 39:656/5/31
40:672/1/6 41:688/8/47 42:704/5/29 43:720/3/17 44:736/2/11 45:752/7/38 46:768/3/16 47:784/5/26
49:816/1/5 50:832/8/39 51:848/5/24 52:864/7/33 53:880/8/37 54:896/7/32 55:912/7/31 56:928/5/22
57:944/3/13 58:960/4/17 59:976/6/25 60:992/8/33 62:1024/1/4 64:1056/8/31 65:1072/5/19
66:1088/4/15 67:1104/3/11 68:1120/8/29 69:1136/5/18 71:1168/2/7 72:1184/7/24 73:1200/5/17
74:1216/3/10 75:1232/7/23 76:1248/4/13 78:1280/5/16 79:1296/7/22 83:1360/1/3 87:1424/8/23
88:1440/6/17 89:1456/5/14 91:1488/4/11 92:1504/7/19 94:1536/3/8 95:1552/8/21 96:1568/5/13
97:1584/7/18 100:1632/2/5 103:1680/7/17 104:1696/5/12 105:1712/8/19 107:1744/3/7 110:1792/7/16
111:1808/4/9 114:1856/5/11 116:1888/6/13 117:1904/7/15 118:1920/8/17 126:2048/1/2 134:2176/8/15
135:2192/7/13 137:2224/6/11 140:2272/5/9 144:2336/4/7 147:2384/7/12 151:2448/3/5 155:2512/8/13
158:2560/5/8 160:2592/7/11 168:2720/2/3 177:2864/7/10 180:2912/5/7 184:2976/8/11 190:3072/3/4
197:3184/7/9 202:3264/4/5 211:3408/5/6 217:3504/6/7 222:3584/7/8 225:3632/8/9 254:4096/1/1
"""


def refuse(handle: int) -> int:
    """An evict callback that must not be called."""
    raise AssertionError(f"evict({handle}) was called")


def met(pool: Zsmalloc) -> dict[str, int]:
    """Hazards met, by count; each must carry a description."""
    assert set(pool.hazards.counts) == set(pool.hazards.first)
    assert all(pool.hazards.first.values())
    return pool.hazards.counts


def pages(pool: Zsmalloc) -> int:
    return pool.total_bytes // pool.page_bytes


# -- size classes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "table", "number", "huge_class_bytes"),
    [
        ("6.1", CLASSES_61, 69, 3257),
        ("6.12", CLASSES_612, 119, 3625),
        ("7.2", CLASSES_612, 119, 3625),
    ],
)
def test_class_table(variant: str, table: str, number: int, huge_class_bytes: int) -> None:
    pool = Zsmalloc(variant=variant)
    found = [f"{k.number}:{k.slot_bytes}/{k.pages}/{k.slots}" for k in pool.kinds]
    assert found == table.split()
    assert len(found) == number
    assert pool.huge_class_bytes == huge_class_bytes
    assert [size_class.kind for size_class in pool.classes] == list(pool.kinds)


@pytest.mark.parametrize("variant", VARIANTS)
def test_class_of_every_size(variant: str) -> None:
    pool = Zsmalloc(variant=variant)
    for size in range(1, 4097):
        fitting = [kind for kind in pool.kinds if kind.slot_bytes >= size + 8]
        assert pool.class_of(size) == (fitting or pool.kinds)[0 if fitting else -1]
    assert pool.class_of(24).number == 0
    assert pool.class_of(25).number == 1
    assert pool.class_of(4088) == pool.class_of(4096) == (254, 4096, 1, 1)


def test_number_of_classes_by_chain_size() -> None:
    # The kernel's documentation has these numbers for the rule of 6.1 (zsmalloc.rst, 2023).
    documented = {4: 69, 5: 86, 6: 93, 7: 112, 8: 123, 16: 191}
    assert {c: len(layout(most_used, c, 4096).kinds) for c in documented} == documented
    # The two rules give 69 classes each with chains of 4, but not the same.
    newer = layout(least_waste, 4, 4096).kinds
    assert len(newer) == 69
    assert newer != layout(most_used, 4, 4096).kinds


@pytest.mark.parametrize("page_bytes", [4096, 16384, 65536])
@pytest.mark.parametrize("chain_size", [4, 5, 8, 16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_machines(variant: str, chain_size: int, page_bytes: int) -> None:
    pool = Zsmalloc(variant=variant, chain_size=chain_size, page_bytes=page_bytes)
    sizes = [kind.slot_bytes for kind in pool.kinds]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == page_bytes
    for kind in pool.kinds:
        assert 1 <= kind.pages <= chain_size
        assert kind.slots == kind.pages * page_bytes // kind.slot_bytes
        assert kind.slot_bytes == min(32 + (page_bytes >> 8) * kind.number, page_bytes)
        power_of_two = kind.slot_bytes & (kind.slot_bytes - 1) == 0
        assert kind.pages == 1 or not power_of_two
    for size in range(1, page_bytes + 1, page_bytes // 4096):
        assert min(size + 8, page_bytes) <= pool.class_of(size).slot_bytes
        pool.malloc(size)
    check(pool)


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(BackendError, match=r"variant '5\.15'.*6\.12"):
        Zsmalloc(variant="5.15")
    for chain_size in (3, 17):
        with pytest.raises(BackendError, match="chain size"):
            Zsmalloc(chain_size=chain_size)
    for page_bytes in (2048, 5000):
        with pytest.raises(BackendError, match="page"):
            Zsmalloc(page_bytes=page_bytes)
    for step in (4, 12, 1032):
        with pytest.raises(BackendError, match=f"{step}: a multiple of 8 from 8 to 1024"):
            Zsmalloc(class_step=step)
    with pytest.raises(BackendError, match=r"class step 8: .* from 32 to 4096"):
        Zsmalloc(class_step=8, page_bytes=16384)
    with pytest.raises(BackendError, match="chain rule 'best': used, waste"):
        Zsmalloc(chain_rule="best")
    with pytest.raises(BackendError, match="chain saving 101"):
        Zsmalloc(chain_saving=101)


# -- the design space -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_defaults_are_the_kernels(variant: str) -> None:
    """Each constant, given as the kernel has it, changes nothing."""
    used, size = ("used", 4) if variant == "6.1" else ("waste", 8)
    plain = Zsmalloc(variant=variant)
    given = Zsmalloc(
        variant=variant, chain_rule=used, chain_size=size, chain_saving=0, class_step=16
    )
    assert given.kinds == plain.kinds
    assert Zsmalloc(variant=variant, page_bytes=16384, class_step=64).kinds == (
        Zsmalloc(variant=variant, page_bytes=16384).kinds
    )


def test_finer_classes_and_other_chains() -> None:
    """A class of 208 bytes: 144 bytes left over in a page, 80 in two, 16 in three."""
    assert [pages_of(208, least_waste, 8, 4096, saving) for saving in (0, 1, 3, 4)] == [3, 2, 3, 1]
    assert pages_of(208, most_used, 8, 4096) == 2
    sizes = [kind.slot_bytes for kind in Zsmalloc(class_step=8).kinds]
    assert 40 in sizes and len(sizes) > len(Zsmalloc().kinds)
    coarse = [kind.slot_bytes for kind in Zsmalloc(class_step=128).kinds]
    assert {size % 128 for size in coarse} == {32, 0}


def test_objects_in_two_pages_and_what_reading_them_copies() -> None:
    """Three slots of 2,720 bytes in two pages: the second spans them. Until 6.12 a reader copies
    the slot; of 7.2 the object's own bytes, if these span the pages."""
    for variant, copied in (("6.1", 2720), ("6.12", 2720), ("7.2", 2700)):
        pool = Zsmalloc(variant=variant)
        handles = [pool.malloc(2700) for _ in range(4)]
        assert pool.class_of(2700)[1:] == (2720, 2, 3)
        for handle in handles[:3]:
            pool.map(handle)
            pool.unmap(handle)
        told = pool.stats()
        assert (told["spanning_objects"], told["spanning_mallocs"]) == (1, 1)
        assert (told["spanning_maps"], told["copied_bytes"]) == (1, copied)
        pool.free(handles[1])
        assert pool.stats()["spanning_objects"] == 0
    # With classes 64 bytes apart slot 42 of 96 bytes begins at 4,032: the 33 bytes of an object
    # and its handle are within the page, the slot is not.
    for variant, spanning in (("6.12", 1), ("7.2", 0)):
        pool = Zsmalloc(variant=variant, class_step=64)
        for _ in range(43):
            pool.malloc(25)
        assert pool.stats()["spanning_objects"] == spanning


def test_a_compaction_moves_objects_into_two_pages() -> None:
    pool = Zsmalloc()
    handles = [pool.malloc(2700) for _ in range(6)]
    for handle in (handles[1], handles[3], handles[4]):
        pool.free(handle)
    before = pool.stats()["spanning_objects"]
    assert pool.compact() == 2
    places = [pool.place(handle) for handle in (handles[0], handles[2], handles[5])]
    assert sorted(place.position for place in places) == [0, 1, 2]
    assert (before, pool.stats()["spanning_objects"]) == (0, 1)


# -- known answers ----------------------------------------------------------------------------


class Driver:
    """Answers the operations of a vector file from a pool."""

    def __init__(self, pool: Zsmalloc) -> None:
        self.pool = pool
        self.handles: dict[int, int] = {}

    def answer(self, op: str) -> str:
        kind, *words = op.split()
        numbers = [int(word) for word in words]
        if kind == "A":
            name, size = numbers
            try:
                handle = self.handles[name] = self.pool.malloc(size)
            except OSError as refused:
                return f"A {name} {-(refused.errno or 0)} {pages(self.pool)}"
            page, position = self.pool.place(handle)
            return f"A {name} 0 {pages(self.pool)} {page} {position}"
        if kind == "F":
            self.pool.free(self.handles.pop(numbers[0]))
            return f"F {numbers[0]} {pages(self.pool)}"
        if kind == "L":
            page, position = self.pool.place(self.handles[numbers[0]])
            return f"L {numbers[0]} {page} {position}"
        assert op == "Z"
        return f"Z {self.pool.compact()} {pages(self.pool)}"


def differing(pool: Zsmalloc, lines: list[str]) -> list[int]:
    """Indices of the lines whose answer is another."""
    driver = Driver(pool)
    wrong = []
    for at, line in enumerate(lines):
        op, _, expected = line.partition(" => ")
        if driver.answer(op) != expected:
            wrong.append(at)
    return wrong


@pytest.mark.parametrize(("variant", "path", "answers"), KNOWN)
def test_known_answers(variant: str, path: Path, answers: int) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) == answers
    pool = Zsmalloc(variant=variant)
    assert differing(pool, lines) == []
    assert met(pool) == {}
    check(pool)


@pytest.mark.parametrize(("variant", "path", "answers"), KNOWN[:2])
@pytest.mark.parametrize("kind", ["A", "F", "L", "Z"])
def test_an_altered_answer_is_noticed(variant: str, path: Path, answers: int, kind: str) -> None:
    lines = path.read_text().splitlines()
    at = max(i for i, line in enumerate(lines) if line.startswith(kind))
    lines[at] = lines[at][:-1] + str((int(lines[at][-1]) + 1) % 10)
    assert differing(Zsmalloc(variant=variant), lines) == [at]


def test_the_variants_answer_differently() -> None:
    for (variant, _, _), (_, path, _) in zip(KNOWN[:2], reversed(KNOWN[:2]), strict=True):
        assert differing(Zsmalloc(variant=variant), path.read_text().splitlines()[:100])


# -- single rules -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_refused_sizes(variant: str) -> None:
    pool = Zsmalloc(variant=variant)
    for size, code in ((0, 22), (-1, 22), (4097, 22 if variant == "6.1" else 28)):
        with pytest.raises(OSError) as refused:
            pool.malloc(size)
        assert refused.value.errno == code
    assert pool.held_bytes == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_shrink(variant: str) -> None:
    pool = Zsmalloc(variant=variant)
    pool.malloc(100)
    assert pool.shrink(1, refuse) == (-22, 0)
    assert pool.objects == 1


def test_groups_of_61() -> None:
    group = SizeClass61.group_of
    assert [group(n, 4) for n in range(5)] == [0, 1, 1, 1, 3]
    assert [group(n, 5) for n in range(6)] == [0, 1, 1, 1, 2, 3]
    assert [group(n, 1) for n in range(2)] == [0, 3]


def test_groups_of_612() -> None:
    group = SizeClass612.group_of
    assert [group(n, 10) for n in range(11)] == [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert [group(n, 128) for n in (1, 12, 13, 127, 128)] == [1, 1, 2, 10, 11]
    assert [group(n, 1) for n in range(2)] == [0, 11]


def three_zspages(variant: str) -> tuple[Zsmalloc, list[int], SizeClass]:
    """Three full zspages of four slots each, of 1024 bytes."""
    pool = Zsmalloc(variant=variant)
    live = [pool.malloc(1016) for _ in range(12)]
    assert [pool.place(handle) for handle in live] == [(n // 4, n % 4) for n in range(12)]
    return pool, live, pool.classes[pool.kinds.index(pool.class_of(1016))]


def partial(size_class: SizeClass) -> list[int]:
    """First pages of the partly used zspages, fullest group first, each list from its head."""
    groups = range(size_class.full - 1, EMPTY, -1)
    return [zspage.page for group in groups for zspage in size_class.listed(group)]


@pytest.mark.parametrize(
    ("variant", "order"), [("6.1", [0, 2, 1]), ("6.12", [2, 1, 0]), ("7.2", [2, 1, 0])]
)
def test_an_emptier_zspage_goes_behind_the_head_in_61(variant: str, order: list[int]) -> None:
    pool = Zsmalloc(variant=variant)
    size_class = pool.classes[0]
    begun = [pool.begin_malloc(24) for _ in range(3)]
    pool.end_malloc(begun[0])
    for _ in range(4):
        pool.malloc(24)
    pool.end_malloc(begun[1])  # one object of 128, the head has five: the same group
    pool.end_malloc(begun[2])
    assert partial(size_class) == order
    check(pool)


def test_a_zspage_not_emptier_than_the_head_goes_before_it() -> None:
    pool, live, size_class = three_zspages("6.1")
    pool.free(live[0])
    pool.free(live[4])  # as full as the head
    assert partial(size_class) == [1, 0]
    pool.free(live[5])  # stays in its group, hence in its place
    pool.free(live[8])  # fuller than the head
    assert partial(size_class) == [2, 1, 0]


def test_malloc_takes_the_fullest_group() -> None:
    pool, live, _ = three_zspages("6.12")
    for n in (4, 8, 9, 10, 0, 1):
        pool.free(live[n])
    taken = [pool.place(pool.malloc(1016)).page for _ in range(7)]
    assert taken == [1, 0, 0, 2, 2, 2, 3]


def test_slots_are_taken_last_freed_first() -> None:
    pool, live, _ = three_zspages("6.12")
    for n in (4, 6, 5):
        pool.free(live[n])
    assert [pool.place(pool.malloc(1016)) for _ in range(4)] == [(1, 1), (1, 2), (1, 0), (3, 0)]


def test_an_emptied_zspage_is_given_back_at_once() -> None:
    pool, live, _ = three_zspages("6.12")
    for handle in live[4:8]:
        pool.free(handle)
    assert pages(pool) == 2
    assert pool.place(pool.malloc(1016)) == (3, 0)  # page numbers are never used again


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_locked_zspage_stays_and_may_be_used_again(variant: str) -> None:
    locked = {0}
    pool = Zsmalloc(variant=variant, pages_lockable=lambda page: page not in locked)
    first = pool.malloc(1016)
    pool.free(first)
    assert (pages(pool), pool.objects, pool.compactable_pages) == (1, 0, 1)
    assert pool.compact() == 0
    check(pool)
    second = pool.malloc(1016)
    assert pool.place(second) == (0, 0)
    pool.free(second)
    stats = pool.stats()
    assert (stats["zspages_deferred"], stats["zspages_revived"]) == (2, 1)
    assert pool.free_deferred() == 1
    assert pool.total_bytes == pool.held_bytes == 0
    check(pool)


@pytest.mark.parametrize(
    ("variant", "moves"),
    [
        # zspage 2 is the head of its list, empties into 1 until that is full, then into 0
        ("6.1", {9: (1, 1), 10: (1, 0), 11: (0, 0)}),
        # zspage 1 is emptiest and fills 2, the head of the fullest, then 0
        ("6.12", {6: (2, 0), 7: (0, 0)}),
        ("7.2", {6: (2, 0), 7: (0, 0)}),
    ],
)
def test_compaction_step_by_step(variant: str, moves: dict[int, tuple[int, int]]) -> None:
    pool, live, size_class = three_zspages(variant)
    for n in (0, 4, 5):
        pool.free(live[n])
    assert pool.compactable_pages == 0
    pool.free(live[8])
    kept = set(range(12)) - {0, 4, 5, 8}
    expected = {n: moves.get(n, (n // 4, n % 4)) for n in kept}
    assert pool.compactable_pages == 1
    assert pool.compact() == 1
    assert {n: tuple(pool.place(live[n])) for n in kept} == expected
    assert pool.stats()["objects_moved"] == size_class.moved == len(moves)
    check(pool)


@pytest.mark.parametrize(("variant", "order"), [("6.1", [0, 1]), ("6.12", [1, 0])])
def test_compaction_without_gain_reorders_in_61(variant: str, order: list[int]) -> None:
    pool = Zsmalloc(variant=variant)
    live = [pool.malloc(24) for _ in range(256)]
    for handle in (*live[:5], *live[128:134]):
        pool.free(handle)
    size_class = pool.classes[0]
    assert partial(size_class) == [1, 0]
    assert pool.compact() == 0
    assert partial(size_class) == order  # the head was taken off and is the emptier one


@pytest.mark.parametrize("variant", VARIANTS)
def test_compaction_may_leave_a_source_half_way(variant: str) -> None:
    locked: set[int] = {2}
    pool = Zsmalloc(variant=variant, pages_lockable=lambda page: page not in locked)
    live = [pool.malloc(1016) for _ in range(12)]
    for n in (0, 4, 5, 8, 9, 10, 11):
        pool.free(live[n])
    assert pool.compactable_pages == 1  # zspage 2, which waits for its pages
    assert pool.compact() == 0
    assert (pool.place(live[6]), pool.place(live[7])) == ((0, 0), (1, 3))
    # The slot that compaction emptied is the one freed last.
    assert [pool.place(pool.malloc(1016)) for _ in range(3)] == [(1, 2), (1, 1), (1, 0)]
    check(pool)


@pytest.mark.parametrize("variant", VARIANTS)
def test_compaction_counts_what_it_could_not_give_back(variant: str) -> None:
    unlockable: set[int] = set()
    pool = Zsmalloc(variant=variant, pages_lockable=lambda page: page not in unlockable)
    live = [pool.malloc(1016) for _ in range(8)]
    for handle in (*live[:2], *live[4:6]):
        pool.free(handle)
    unlockable |= {0, 1}
    assert pool.compact() == 1
    assert pages(pool) == 2
    assert pool.free_deferred() == 1
    assert pages(pool) == 1
    check(pool)


def test_only_72_leaves_a_class_that_is_being_read() -> None:
    moved = {}
    for variant in VARIANTS:
        pool, live, size_class = three_zspages(variant)
        for handle in (*live[:3], *live[4:7]):
            pool.free(handle)
        pool.map(live[3])
        pool.map(live[3])
        pool.unmap(live[3])
        pool.map(live[7])
        before = partial(size_class)
        assert len(before) == 2
        moved[variant] = pool.compact()
        if variant == "7.2":
            assert partial(size_class) == before  # the source is put back first, then the target
            pool.unmap(live[3])
            pool.unmap(live[7])
            assert pool.compact() == 1
        check(pool)
    assert moved == {"6.1": 1, "6.12": 1, "7.2": 0}


def test_pages_that_cannot_be_had() -> None:
    pool = Zsmalloc(variant="6.1", pages_available=lambda count: count < 4)
    pool.malloc(4096)
    with pytest.raises(OSError) as refused:
        pool.malloc(3200)  # four pages
    assert refused.value.errno == 12
    assert (pages(pool), pool.objects) == (1, 1)
    check(pool)


def test_two_mallocs_may_each_add_a_zspage() -> None:
    pool = Zsmalloc()
    first, second = pool.begin_malloc(1016), pool.begin_malloc(1016)
    assert (pool.total_bytes, pool.held_bytes) == (0, 2 * 4096)
    later = pool.end_malloc(second)
    between = pool.malloc(1016)
    earlier = pool.end_malloc(first)
    assert [pool.place(h) for h in (earlier, between, later)] == [(0, 0), (1, 1), (1, 0)]
    assert pool.place(pool.malloc(1016)) == (1, 2)  # the fuller of the two
    check(pool)


def test_stats_add_up() -> None:
    pool = Zsmalloc()
    pool.malloc(4096)
    pool.malloc(4090)
    kept = pool.malloc(1000)
    pool.free(pool.malloc(3600))  # eight pages of 9 slots of 3632 bytes
    stats = pool.stats()
    assert stats["huge_objects"] == 2
    assert (stats["pages_allocated"], stats["pages_freed"]) == (2 + 1 + 8, 8)
    assert stats["stored_bytes"] == 4096 + 4090 + 1000
    assert stats["wasted_bytes"] == 3 * 4096 - stats["stored_bytes"]
    rows = {row["class"]: row for row in stats["classes"]}
    assert len(rows) == 119
    assert rows[pool.class_of(1000).number] == {
        "class": 62,
        "slot_bytes": 1024,
        "slots": 4,
        "pages": 1,
        "blocks": 1,
        "blocks_ever": 1,
        "used_slots": 1,
        "free_slots": 3,
    }
    assert rows[225]["blocks_ever"] == 1
    assert rows[225]["blocks"] == 0
    pool.free(kept)
    check(pool)


# -- faults of a history ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_faults_are_named_and_change_nothing(variant: str) -> None:
    pool = Zsmalloc(variant=variant)
    kept, gone = pool.malloc(100), pool.malloc(100)
    pool.free(gone)
    before = pool.stats()
    pool.free(gone)
    pool.map(gone)
    pool.unmap(gone)
    pool.unmap(kept)
    for handle in (0, -1, 1 << 70):
        pool.free(handle)
        pool.map(handle)
        pool.unmap(handle)
    assert met(pool) == {
        "double-free": 1,
        "use-after-free": 2,
        "unbalanced-unmap": 1,
        "unknown-handle": 9,
    }
    assert pool.stats() == before
    with pytest.raises(KeyError):
        pool.place(gone)


def test_free_of_a_mapped_object_shows_at_its_unmap() -> None:
    pool = Zsmalloc()
    handle = pool.malloc(100)
    pool.map(handle)
    pool.free(handle)
    assert met(pool) == {}
    pool.unmap(handle)
    assert met(pool) == {"use-after-free": 1}


# -- invariants after random histories --------------------------------------------------------


def check(pool: Zsmalloc) -> None:
    """Everything that must hold between calls, recounted from the lists."""
    seen: dict[int, tuple[int, int]] = {}
    total = stored = compactable = 0
    first_pages: set[int] = set()
    for size_class in pool.classes:
        kind = size_class.kind
        zspages = used = 0
        for group in range(size_class.full + 1):
            listed = size_class.listed(group)
            assert (size_class._present >> group & 1) == bool(listed)
            newer: Zspage | None = None
            for zspage in listed:
                assert zspage.newer is newer
                newer = zspage
                busy = [slot for slot, handle in enumerate(zspage.owners) if handle]
                assert len(zspage.owners) == kind.slots
                assert sorted([*busy, *zspage.free]) == list(range(kind.slots))
                assert zspage.group == group == size_class.group_of(len(busy), kind.slots)
                numbers = set(range(zspage.page, zspage.page + kind.pages))
                assert not numbers & first_pages
                first_pages |= numbers
                for slot in busy:
                    assert zspage.owners[slot] not in seen
                    seen[zspage.owners[slot]] = (zspage.page, slot)
                used += len(busy)
            zspages += len(listed)
        assert (size_class.zspages, size_class.used) == (zspages, used)
        assert size_class.zspages_made - size_class.zspages_freed == zspages
        total += zspages * kind.pages
        compactable += (zspages - -(-used // kind.slots)) * kind.pages
    assert seen == {handle: pool.place(handle) for handle in pool._words}
    for handle, (zspage, slot, size) in pool._words.items():
        assert zspage.owners[slot] == handle
        assert len(zspage.owners) == pool.class_of(size).slots
        stored += size
    stats = pool.stats()
    assert pool.total_bytes == pool.held_bytes == total * pool.page_bytes
    assert stats["pages_allocated"] - stats["pages_freed"] == total
    # Never more than compaction could free if zspages came off one by one.
    assert pool.compactable_pages == stats["compactable_pages"] == compactable
    assert pool.objects == len(seen) == sum(row["used_slots"] for row in stats["classes"])
    assert stats["stored_bytes"] == stored
    parts = stats["free_slot_bytes"] + stats["tail_bytes"] + stats["padding_bytes"]
    assert stats["wasted_bytes"] == parts == pool.held_bytes - stored


class History:
    """Drives a pool as a correct user does and remembers what is live."""

    def __init__(self, variant: str, chain_size: int | None = None) -> None:
        self.locked = False
        self.pool = Zsmalloc(
            variant=variant, chain_size=chain_size, pages_lockable=lambda page: not self.locked
        )
        self.live: dict[int, int] = {}

    def malloc(self, size: int, choice: int) -> None:
        handle = self.pool.malloc(size)
        assert handle not in self.live
        self.live[handle] = size
        self.pool.map(handle)
        self.pool.unmap(handle)

    def free(self, size: int, choice: int) -> None:
        if self.live:
            handle = list(self.live)[choice % len(self.live)]
            del self.live[handle]
            self.pool.free(handle)

    def free_many(self, size: int, choice: int) -> None:
        for handle in list(self.live)[choice % 3 :: 2 + choice % 3]:
            del self.live[handle]
            self.pool.free(handle)

    def free_while_locked(self, size: int, choice: int) -> None:
        self.locked = True
        self.free(size, choice)
        self.locked = False

    def worker(self, size: int, choice: int) -> None:
        before = pages(self.pool)
        assert self.pool.free_deferred() == before - pages(self.pool)
        assert not any(size_class.listed(EMPTY) for size_class in self.pool.classes)

    def compact(self, size: int, choice: int) -> None:
        pool = self.pool
        before, could = pages(pool), pool.compactable_pages
        empty = sum(len(c.listed(EMPTY)) * c.kind.pages for c in pool.classes)
        moved = pool.stats()["objects_moved"]
        freed = pool.compact()
        assert freed == before - pages(pool) <= could
        # A class that could free something has done so: only waiting empty zspages are left,
        # which compaction counts but does not look for.
        assert pool.compactable_pages <= empty
        assert freed == 0 or pool.stats()["objects_moved"] > moved
        after = {handle: pool.place(handle) for handle in self.live}
        assert pool.compact() == 0
        assert {handle: pool.place(handle) for handle in self.live} == after

    def burst(self, size: int, choice: int) -> None:
        for _ in range(choice % 60):
            self.malloc(size, choice)


OPS: dict[str, Callable[[History, int, int], None]] = {
    "malloc": History.malloc,
    "free": History.free,
    "free_many": History.free_many,
    "free_while_locked": History.free_while_locked,
    "worker": History.worker,
    "compact": History.compact,
    "burst": History.burst,
}
CALLS = st.lists(
    st.tuples(
        st.sampled_from([*OPS, "malloc", "free", "burst"]),
        st.one_of(st.sampled_from([24, 1016, 2000, 3264, 4096]), st.integers(1, 4096)),
        st.integers(0, 2**16),
    ),
    max_size=80,
)


@pytest.mark.parametrize("variant", ["6.1", "6.12"])
@settings(max_examples=100, deadline=None)
@given(CALLS, st.sampled_from([None, 5, 16]))
def test_invariants_hold_after_every_call(
    variant: str, calls: list[tuple[str, int, int]], chain_size: int | None
) -> None:
    history = History(variant, chain_size)
    for name, size, choice in calls:
        OPS[name](history, size, choice)
        check(history.pool)
        assert {h: word[2] for h, word in history.pool._words.items()} == history.live
    assert met(history.pool) == {}
    for handle in list(history.live):
        history.pool.free(handle)
    history.pool.free_deferred()
    assert history.pool.held_bytes == history.pool.total_bytes == 0


@settings(max_examples=30, deadline=None)
@given(CALLS)
def test_same_history_same_answers(calls: list[tuple[str, int, int]]) -> None:
    histories = [History(variant) for variant in ("6.12", "6.12", "7.2")]
    for name, size, choice in calls:
        for history in histories:
            OPS[name](history, size, choice)
    first, *others = ({h: y.pool.place(h) for h in y.live} for y in histories)
    assert others == [first, first]
    told = [history.pool.stats() for history in histories]
    for one in told:  # what 7.2's readers copy is another thing
        for name in ("spanning_objects", "spanning_mallocs", "spanning_maps", "copied_bytes"):
            del one[name]
    assert told[1:] == [told[0]] * 2
