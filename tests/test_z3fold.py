# SPDX-License-Identifier: GPL-2.0-only
"""The z3fold model against the kernel's answers, its rules one by one, faults, invariants; and
the specifications of backends."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.allocator import BackendError, HazardError, create, names
from ztrace.allocator.protocol import HasPlace
from ztrace.allocator.z3fold.model import FIRST, LAST, MIDDLE, NO_CPU, PAGE_CHUNKS, Z3fold

TESTS = Path(__file__).parent
VECTORS = sorted((TESTS / "vectors").glob("z3fold_*.txt"))
CONFORMANCE = runpy.run_path(str(TESTS / "conformance.py"))


def refuse(handle: int) -> int:
    """An evict callback that refuses as zswap does when the page is in the swap cache."""
    return -17


def freeing(pool: Z3fold) -> Callable[[int], int]:
    """An evict callback that frees what it is asked to."""

    def evict(handle: int) -> int:
        pool.free(handle)
        return 0

    return evict


def places(pool: Z3fold, *handles: int) -> Sequence[tuple[int, int]]:
    """Page number and byte offset of each object."""
    return [pool.place(handle) for handle in handles]


# -- vector files -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = len(path.read_text().splitlines())
    found = CONFORMANCE["check_file"](path, lambda: CONFORMANCE["make_driver"]("z3fold", path))
    assert found == (lines, 0), capsys.readouterr().out


def test_vectors_are_there() -> None:
    assert len(VECTORS) == 4


def test_work_done_at_once_gives_the_answers_of_a_file_without_its_work_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An F's total is that after the work that follows it; places are the same."""
    full = (TESTS / "vectors" / "z3fold_work_immediate.txt").read_text().splitlines()
    lines = []
    for line, following in pairwise([*full, ""]):
        if line.startswith("W"):
            continue
        if line.startswith("F"):
            line = " ".join([*line.split()[:-1], following.split()[-1]])
        lines.append(line)
    path = tmp_path / "z3fold.txt"
    path.write_text("\n".join(lines) + "\n")
    driver = CONFORMANCE["make_driver"]("z3fold", path)
    assert driver.pool.name == "z3fold:cpus=1,work=immediate"
    found = CONFORMANCE["check_file"](path, lambda: driver)
    assert found == (len(lines), 0), capsys.readouterr().out


def conform(backend: str, *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TESTS / "conformance.py"), backend, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("field", [3, 4, 5])
def test_conformance_fails_on_one_altered_answer(tmp_path: Path, field: int) -> None:
    lines = VECTORS[2].read_text().splitlines()[:500]
    at = next(i for i, line in enumerate(lines) if i > 300 and line.startswith("A "))
    op, _, answer = lines[at].partition(" => ")
    words = answer.split()
    words[field] = str(int(words[field]) + 1)
    lines[at] = f"{op} => {' '.join(words)}"
    altered = tmp_path / "altered.txt"
    altered.write_text("\n".join(lines) + "\n")
    done = conform("z3fold", altered)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "499 passed, 1 failed"
    assert f"altered.txt:{at + 1}:" in done.stdout


def test_conformance_lets_the_backend_decide_if_it_does() -> None:
    path = TESTS / "vectors" / "z3fold_work_deferred_1cpu.txt"
    assert conform("z3fold:work=deferred", path).returncode == 0
    assert conform("z3fold:work=immediate", path).returncode == 1
    three = TESTS / "vectors" / "z3fold_work_deferred_3cpu.txt"
    assert conform("z3fold:cpus=5", three).returncode == 0
    done = conform("z3fold:cpus=2", three)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# -- known answers ----------------------------------------------------------------------------


def test_sizes_and_what_they_get() -> None:
    pool = Z3fold()
    for size, code in ((0, 22), (4097, 28)):
        with pytest.raises(OSError) as refused:
            pool.malloc(size)
        assert refused.value.errno == code
    assert pool.total_bytes == pool.objects == 0
    handles = [pool.malloc(size) for size in (3904, 3905, 4096)]
    assert [handle & 1 for handle in handles] == [0, 1, 1]
    assert places(pool, *handles) == [(0, 128), (1, 0), (2, 0)]
    assert pool.total_bytes == pool.held_bytes == 3 * 4096
    assert isinstance(pool, HasPlace)


def test_first_then_last_then_middle() -> None:
    pool = Z3fold()
    handles = [pool.malloc(size) for size in (1000, 500, 64)]
    assert places(pool, *handles) == [(0, 128), (0, 4096 - 512), (0, 128 + 1024)]
    assert len({handle // 64 for handle in handles}) == 1  # words of one page's slots
    assert places(pool, pool.malloc(10)) == [(1, 128)]  # all three places are used
    assert [c["blocks"] for c in pool.stats()["classes"] if c["class"] == "full"] == [1]


@pytest.mark.parametrize(("page_bytes", "first_at"), [(16384, 256), (65536, 1024)])
def test_larger_pages_have_a_header_of_one_chunk(page_bytes: int, first_at: int) -> None:
    pool = Z3fold(page_bytes=page_bytes)
    chunk = page_bytes // 64
    handle, headless = pool.malloc(page_bytes - 2 * chunk), pool.malloc(page_bytes - 2 * chunk + 1)
    assert (handle & 1, headless & 1) == (0, 1)
    assert places(pool, handle, pool.malloc(chunk)) == [(0, first_at), (0, page_bytes - chunk)]


def test_impossible_parameters() -> None:
    for arguments in ({"cpus": 0}, {"page_bytes": 1000}, {"work": "never"}):
        with pytest.raises(BackendError):
            Z3fold(**arguments)
    pool = Z3fold(cpus=2)
    for cpu in (-1, 2):
        with pytest.raises(ValueError, match="cpus=N"):
            pool.cpu = cpu
    assert pool.cpu == 0


# -- compaction -------------------------------------------------------------------------------


def test_malloc_refuses_a_page_that_awaits_compaction() -> None:
    pool = Z3fold(work="deferred")
    first, last = pool.malloc(1000), pool.malloc(1000)
    pool.free(first)
    assert pool.deferred == 1
    other = pool.malloc(1000)
    assert places(pool, other) == [(1, 128)]
    assert pool.run_deferred() == 1
    assert places(pool, last) == [(1, 4096 - 1024)]  # moved, under the same handle
    assert pool.total_bytes == 4096
    assert pool.run_deferred() == 0


def test_work_is_done_in_order_and_up_to_a_limit() -> None:
    pool = Z3fold(work="deferred")
    pairs = [(pool.malloc(1900), pool.malloc(1900)) for _ in range(3)]
    for first, _ in pairs:
        pool.free(first)
    assert pool.run_deferred(0) == 0
    assert pool.run_deferred(2) == 2
    assert places(pool, *(last for _, last in pairs)) == [
        (0, 4096 - 1920),
        (0, 128),  # page 1 had only page 0 to go to
        (2, 4096 - 1920),
    ]
    assert pool.deferred == 1


def test_a_page_may_be_compacted_out_of_turn() -> None:
    pool = Z3fold(work="deferred")
    pairs = [(pool.malloc(1900), pool.malloc(1900)) for _ in range(3)]
    for first, _ in pairs:
        pool.free(first)
    assert pool.compact_page(2)
    assert not pool.compact_page(2)
    assert not pool.compact_page(99)
    assert pool.deferred == 2
    assert pool.compact_page(0)
    assert places(pool, pairs[0][1]) == [(2, 128)]
    assert pool.run_deferred() == 1


def test_immediate_work_needs_no_worker() -> None:
    pool = Z3fold()
    first, last = pool.malloc(1900), pool.malloc(1900)
    assert pool.malloc(1900)
    pool.free(first)
    assert pool.deferred == 0
    assert places(pool, last) == [(1, 4096 - 1920)]
    assert pool.stats()["objects_moved"] == 1


def test_a_full_page_is_compacted_by_the_free_itself() -> None:
    pool = Z3fold(work="deferred")
    handles = [pool.malloc(size) for size in (1000, 1000, 1000)]
    pool.free(handles[0])
    assert pool.deferred == 0
    assert pool.compactions == 1
    # the gap behind the middle grew by the first's place: it moved up to the last
    assert places(pool, handles[2]) == [(0, 4096 - 2048)]
    assert pool.middles_moved == 1


def test_a_middle_left_alone_becomes_first() -> None:
    pool = Z3fold()
    handles = [pool.malloc(size) for size in (1000, 1000, 500)]
    pool.map(handles[2])
    pool.free(handles[0])
    pool.free(handles[1])
    assert places(pool, handles[2]) == [(0, 128 + 1024)]  # in use: it stays
    pool.unmap(handles[2])
    last = pool.malloc(100)
    pool.free(last)
    assert places(pool, handles[2]) == [(0, 128)]
    assert pool.pages[0].chunks == [0, 8, 0, 0]
    # its word stays its own: what comes next gets other ones
    others = [pool.malloc(100) for _ in range(2)]
    assert [handle % 64 // 8 for handle in (handles[2], *others)] == [2, 0, 3]
    assert places(pool, *others) == [(0, 4096 - 128), (0, 128 + 512)]
    check(pool, dict.fromkeys(others, 100) | {handles[2]: 500})


@pytest.mark.parametrize(("gap", "moves"), [(2, False), (3, True)])
def test_a_middle_moves_for_a_gap_of_three_chunks(gap: int, moves: bool) -> None:
    pool = Z3fold()
    first, last, middle = (pool.malloc(64 * chunks) for chunks in (10, 20, 32 - gap))
    pool.free(last)  # the middle lies against the first
    assert places(pool, middle) == [(0, 64 * 12)]
    last = pool.malloc(64 * 20)
    pool.free(first)
    assert places(pool, middle) == [(0, 64 * (12 + gap * moves))]


@pytest.mark.parametrize(
    ("first", "middle", "start", "last", "free"),
    [
        (0, 0, 0, 0, 62),
        (10, 0, 0, 5, 47),
        (10, 49, 14, 0, 1),  # what is between first and middle is of no use
        (0, 10, 7, 56, 5),
        (0, 10, 20, 0, 34),  # a middle alone, in use and so not moved: the wider side
        (0, 10, 50, 0, 48),
    ],
)
def test_the_widest_gap_that_is_of_use(
    first: int, middle: int, start: int, last: int, free: int
) -> None:
    pool = Z3fold()
    pool.malloc(64)
    page = pool.pages[0]
    page.chunks[:] = [0, first, middle, last]
    page.middle_start = start
    assert pool._free_chunks(page) == free


def test_a_page_in_use_is_not_emptied() -> None:
    pool = Z3fold()
    first, last = pool.malloc(1900), pool.malloc(1900)
    pool.malloc(1900)
    pool.map(last)
    pool.free(first)
    assert places(pool, last) == [(0, 4096 - 1920)]
    pool.unmap(last)
    again = pool.malloc(1900)
    assert places(pool, again) == [(0, 128)]
    pool.free(again)
    assert places(pool, last) == [(1, 4096 - 1920)]


def test_a_page_with_a_foreign_object_is_not_emptied_again() -> None:
    pool = Z3fold()
    first, moved = pool.malloc(1900), pool.malloc(1900)
    host = pool.malloc(1900)
    pool.free(first)
    assert places(pool, moved, host) == [(1, 4096 - 1920), (1, 128)]
    assert pool.stats()["objects_foreign"] == 1
    other = pool.malloc(1900)
    pool.free(host)
    assert places(pool, moved, other) == [(1, 4096 - 1920), (2, 128)]
    assert pool.shrink(1, freeing(pool)) == (0, 1)  # the page of the other
    assert pool.shrink(1, refuse) == (-11, 0)  # none without foreign objects is left
    pool.free(moved)
    assert pool.total_bytes == 0
    assert pool.stats()["slots_held"] == 0


def test_beside_a_middle_alone_first_comes_before_last_if_it_fits() -> None:
    for chunks, at in ((16, 128), (17, 4096 - 17 * 64)):
        pool = Z3fold()
        first, last, middle = (pool.malloc(64 * 16) for _ in range(3))
        pool.map(middle)
        pool.free(first)
        pool.free(last)
        assert places(pool, middle) == [(0, 64 * 18)]
        assert places(pool, pool.malloc(64 * chunks)) == [(0, at)]


def test_a_flag_says_that_a_middle_is_in_use() -> None:
    pool = Z3fold()
    first, _, middle = (pool.malloc(1000) for _ in range(3))
    pool.map(middle)
    pool.map(middle)
    pool.unmap(middle)  # one user is left, the flag is gone
    pool.free(first)
    assert places(pool, middle) == [(0, 4096 - 2048)]


# -- several CPUs -----------------------------------------------------------------------------


def test_other_cpus_lists_are_searched_for_an_exact_fit_only() -> None:
    pool = Z3fold(cpus=2)
    pool.malloc(64 * 30)  # leaves 32 chunks on CPU 0
    pool.cpu = 1
    assert places(pool, pool.malloc(64 * 31)) == [(1, 128)]
    assert places(pool, pool.malloc(64 * 32)) == [(0, 4096 - 64 * 32)]
    assert pool.pages[0].cpu == 1


def test_the_page_goes_to_the_workers_cpu() -> None:
    pool = Z3fold(cpus=2, work="deferred")
    first, last = pool.malloc(1000), pool.malloc(1000)
    pool.free(first)
    pool.cpu = 1
    pool.run_deferred()
    assert pool.pages[0].cpu == 1
    assert places(pool, last) == [(0, 4096 - 1024)]


# -- reclaim ----------------------------------------------------------------------------------


def test_reclaim_evicts_middle_first_last() -> None:
    pool = Z3fold()
    first, last, middle = (pool.malloc(1000) for _ in range(3))
    order: list[int] = []

    def evict(handle: int) -> int:
        order.append(handle)
        pool.free(handle)
        return 0

    assert pool.shrink(1, evict) == (0, 1)
    assert order == [middle, first, last]
    assert pool.total_bytes == pool.stats()["slots_held"] == 0
    assert not pool.hazards.counts


def test_an_object_moved_in_is_no_use_of_its_page() -> None:
    pool = Z3fold()
    first, moved = pool.malloc(1900), pool.malloc(1900)
    pool.malloc(1900)
    later = pool.malloc(3000)
    pool.free(first)
    assert places(pool, moved) == [(1, 4096 - 1920)]
    pool.free(moved)
    assert pool.shrink(1, freeing(pool)) == (0, 1)
    assert places(pool, later) == [(2, 128)]  # page 1 was used longer ago


def test_shrink_that_cannot() -> None:
    pool = Z3fold()
    assert pool.shrink(0, refuse) == (-22, 0)
    assert pool.shrink(1, refuse) == (-22, 0)
    handles = [pool.malloc(3000), pool.malloc(4000)]
    asked: list[int] = []

    def note(handle: int) -> int:
        asked.append(handle)
        return -17

    assert pool.shrink(1, note) == (-11, 0)
    assert asked == handles * 4
    check(pool, {handles[0]: 3000, handles[1]: 4000})


# -- faults -----------------------------------------------------------------------------------


def test_list_out_of_range() -> None:
    pool = Z3fold(work="deferred")
    first = pool.malloc(1000)
    pool.malloc(1000)
    pool.free(first)
    assert pool.shrink(1, freeing(pool)) == (-11, 0)  # the pending work keeps the page
    assert pool.hazards.counts == {"list-out-of-range": 8}  # once a try
    assert (pool.objects, pool.total_bytes, pool.deferred) == (0, 4096, 1)
    assert pool.stats()["classes"][pool.chunks]["class"] == 62
    assert places(pool, pool.malloc(10)) == [(1, 128)]  # malloc does not see it
    assert pool.run_deferred() == 1
    assert pool.total_bytes == 4096
    assert pool.stats()["slots_held"] == 2
    assert pool.hazards.counts == {"list-out-of-range": 8, "slots-leak": 1}


def test_words_of_objects_freed_under_reclaim_keep_slots_for_ever() -> None:
    pool = Z3fold()
    first, last = pool.malloc(1000), pool.malloc(1000)

    def evict(handle: int) -> int:
        if handle == last:
            return -17
        pool.free(handle)
        return 0

    assert pool.shrink(1, evict) == (-11, 0)
    assert places(pool, last) == [(0, 4096 - 1024)]
    with pytest.raises(KeyError):
        pool.place(first)
    pool.free(last)
    assert pool.total_bytes == 0
    assert pool.hazards.counts == {"slots-leak": 1}
    assert pool.stats()["slots_held"] == 1


def test_a_word_used_again_keeps_no_slots() -> None:
    pool = Z3fold()
    first, last = pool.malloc(1000), pool.malloc(1000)

    def evict(handle: int) -> int:
        if handle == last:
            return -17
        pool.free(handle)
        return 0

    pool.shrink(1, evict)
    assert pool.malloc(900) == first
    pool.free(first)
    pool.free(last)
    assert pool.total_bytes == pool.stats()["slots_held"] == 0
    assert not pool.hazards.counts


@pytest.mark.parametrize("size", [1000, 4000])
def test_a_second_free_is_fatal(size: int) -> None:
    pool = Z3fold()
    handle = pool.malloc(size)
    pool.free(handle)
    with pytest.raises(HazardError, match="double-free"):
        pool.free(handle)
    with pytest.raises(HazardError, match="use-after-free"):
        pool.map(handle)
    assert pool.hazards.counts == {"double-free": 1, "use-after-free": 1}
    with pytest.raises(KeyError):
        pool.place(handle)


@pytest.mark.parametrize("handle", [0, 1, 64, 4097, 1 << 40])
def test_a_handle_never_given_is_fatal(handle: int) -> None:
    pool = Z3fold()
    for call in (pool.free, pool.map, pool.unmap):
        with pytest.raises(HazardError, match="unknown-handle"):
            call(handle)


def test_unmap_without_map() -> None:
    pool = Z3fold()
    first, last = pool.malloc(1900), pool.malloc(1900)
    pool.malloc(1900)
    pool.unmap(last)
    assert pool.hazards.counts == {"unbalanced-unmap": 1}
    pool.free(first)
    assert places(pool, last) == [(0, 4096 - 1920)]  # "in use" -1 times


def test_headless_evict_said_yes_but_freed_nothing() -> None:
    pool = Z3fold()
    handle = pool.malloc(4000)
    assert pool.shrink(1, lambda handle: 0) == (0, 1)
    assert (pool.objects, pool.total_bytes) == (0, 0)
    with pytest.raises(HazardError, match="evicted-unfreed"):
        pool.free(handle)


def test_headless_evict_freed_then_failed() -> None:
    pool = Z3fold()
    pool.malloc(4000)

    def evict(handle: int) -> int:
        if pool.objects:
            pool.free(handle)
        return -12

    assert pool.shrink(1, evict) == (-11, 0)
    assert (pool.objects, pool.total_bytes) == (0, 4096)
    assert pool.hazards.counts == {"leaked-page": 1}


# -- invariants after random histories --------------------------------------------------------


def check(pool: Z3fold, live: dict[int, int]) -> None:
    """Everything that must hold between calls; ``live`` is handle -> size, kept by the test."""
    header = pool.header_chunks
    objects: dict[int, int] = dict.fromkeys(pool.pages, 0)
    foreign: dict[int, int] = dict.fromkeys(pool.pages, 0)
    for handle, size in live.items():
        number, at = pool.place(handle)
        page = pool.pages[number]
        objects[number] += 1
        if page.headless:
            assert size > pool.largest
            assert at == 0
            continue
        word = pool._words[handle]
        buddy = (word.number - page.first_number) % 4
        assert page.chunks[buddy] == -(-size // pool.chunk_bytes)
        assert at + page.chunks[buddy] * pool.chunk_bytes <= pool.page_bytes
        foreign[number] += word.slots is not page.slots
    assert {*pool._words, *pool._headless} == set(live)
    listed = [
        (page, cpu, number)
        for cpu, lists in enumerate(pool.lists)
        for number, pages in enumerate(lists)
        for page in pages
    ]
    assert len(listed) == len({page for page, *_ in listed})
    for page_number, cpu, number in listed:
        assert pool.pages[page_number].list_number == number
        assert pool.pages[page_number].cpu == cpu
    for cpu, filled in enumerate(pool._filled):
        assert [bool(pages) for pages in pool.lists[cpu][: pool.chunks]] == [
            bool(filled >> number & 1) for number in range(pool.chunks)
        ]
    assert set(pool.lru) == set(pool.pages)
    for number, page in pool.pages.items():
        assert not page.claimed
        if page.headless:
            assert objects[number] == 1
            continue
        first, middle, last = page.chunks[FIRST], page.chunks[MIDDLE], page.chunks[LAST]
        spans = [(0, header)]
        spans += [(header, header + first)] if first else []
        spans += [(page.middle_start, page.middle_start + middle)] if middle else []
        spans += [(PAGE_CHUNKS - last, PAGE_CHUNKS)] if last else []
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert spans[-1][1] <= PAGE_CHUNKS
        queued = number in pool._queue
        assert page.needs_compacting == queued
        assert len(page.buddies()) == objects[number]
        assert page.references == objects[number] + queued
        assert page.foreign == foreign[number]
        full = bool(first and middle and last)
        if page.list_number is None:
            assert full or queued
            assert page.cpu == NO_CPU
        else:
            assert not full
            assert queued or page.list_number == pool._free_chunks(page)
            assert page.list_number < pool.chunks or not objects[number]
    assert pool.objects == len(live)
    assert pool.total_bytes == pool.held_bytes == len(pool.pages) * pool.page_bytes
    stats = pool.stats()
    assert stats["pages_allocated"] - stats["pages_freed"] == len(pool.pages)
    by_class: dict[int | str, list[int]] = {}
    for number, page in pool.pages.items():
        kind: int | str
        if page.headless:
            kind = "headless"
        elif page.list_number is not None:
            kind = page.list_number
        else:
            kind = "full" if objects[number] == 3 else "waiting"
        row = by_class.setdefault(kind, [0, 0, 0])
        row[0] += 1
        row[1] += objects[number]
        row[2] += (1 if page.headless else 3) - objects[number]
    assert by_class == {
        c["class"]: [c["blocks"], c["used_slots"], c["free_slots"]]
        for c in stats["classes"]
        if c["blocks"] or c["used_slots"] or c["free_slots"]
    }
    assert stats["objects_foreign"] == sum(foreign.values())
    assert stats["used_chunks"] == sum(
        -(-size // pool.chunk_bytes) for size in live.values() if size <= pool.largest
    )


class History:
    """Drives a pool as a correct user does and remembers what is live and what is in use."""

    def __init__(self, pool: Z3fold) -> None:
        self.pool = pool
        self.live: dict[int, int] = {}
        self.used: list[int] = []

    def malloc(self, size: int, choice: int) -> None:
        size = size * self.pool.page_bytes // 4096
        handle = self.pool.malloc(size)
        assert handle not in self.live
        self.live[handle] = size

    def burst(self, size: int, choice: int) -> None:
        for number in range(choice % 30):
            self.malloc(1 + size * (number + 1) % 4096, number)

    def free(self, size: int, choice: int) -> None:
        free = [handle for handle in self.live if handle not in self.used]
        if free:
            handle = free[choice % len(free)]
            del self.live[handle]
            self.pool.free(handle)

    def map(self, size: int, choice: int) -> None:
        if self.live:
            handle = list(self.live)[choice % len(self.live)]
            self.pool.map(handle)
            self.used.append(handle)

    def unmap(self, size: int, choice: int) -> None:
        if self.used:
            self.pool.unmap(self.used.pop(choice % len(self.used)))

    def move(self, size: int, choice: int) -> None:
        self.pool.cpu = choice % self.pool.cpus

    def work(self, size: int, choice: int) -> None:
        kept = {handle: self.pool.place(handle) for handle in self.used}
        pending, limit = self.pool.deferred, choice % 4
        done = self.pool.run_deferred(limit or -1)
        assert done == (min(limit, pending) if limit else pending)
        assert self.pool.deferred == pending - done
        assert all(self.pool.place(handle).page == at.page for handle, at in kept.items())

    def work_on(self, size: int, choice: int) -> None:
        if self.pool._queue:
            assert self.pool.compact_page(list(self.pool._queue)[choice % self.pool.deferred])

    def shrink(self, size: int, choice: int) -> None:
        before = self.pool.total_bytes

        def evict(handle: int) -> int:
            self.pool.map(handle)
            self.pool.unmap(handle)
            if handle in self.used or (handle // 8 + choice) % 5 == 0:
                return -17
            del self.live[handle]
            self.pool.free(handle)
            return 0

        ret, reclaimed = self.pool.shrink(1, evict)
        assert (ret, reclaimed) in {(0, 1), (-11, 0), (-22, 0)}
        assert before - self.pool.total_bytes == reclaimed * self.pool.page_bytes


OPS: dict[str, Callable[[History, int, int], None]] = {
    "malloc": History.malloc,
    "burst": History.burst,
    "free": History.free,
    "map": History.map,
    "unmap": History.unmap,
    "move": History.move,
    "work": History.work,
    "work_on": History.work_on,
    "shrink": History.shrink,
}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["malloc", "malloc", "free", "free", "free", *OPS]),
            st.one_of(st.sampled_from([1, 64, 3904, 3905, 4096]), st.integers(1, 4096)),
            st.integers(0, 2**16),
        ),
        max_size=150,
    ),
    st.sampled_from([1, 3]),
    st.sampled_from(["immediate", "deferred"]),
    st.sampled_from([4096, 16384]),
)
def test_invariants_hold_after_every_call(
    calls: list[tuple[str, int, int]], cpus: int, work: str, page_bytes: int
) -> None:
    history = History(Z3fold(cpus=cpus, work=work, page_bytes=page_bytes))
    pool = history.pool
    for name, size, choice in calls:
        OPS[name](history, size, choice)
        check(pool, history.live)
    for handle in history.used:
        pool.unmap(handle)
    for handle in list(history.live):
        pool.free(handle)
    pool.run_deferred()
    assert pool.total_bytes == 0
    assert set(pool.hazards.counts) <= {"slots-leak", "list-out-of-range"}
    assert work == "deferred" or "list-out-of-range" not in pool.hazards.counts
    assert pool.stats()["slots_held"] == pool.hazards.counts.get("slots-leak", 0)


# -- specifications ---------------------------------------------------------------------------


def test_every_name_makes_a_pool_of_that_name() -> None:
    assert {"zbud", "z3fold", "ztree", "zsmalloc:6.1", "zsmalloc:6.12", "zsmalloc:7.2"} <= {
        *names()
    }
    for name in names():
        assert create(name).name == name


def test_items_reach_the_model() -> None:
    pool = create("z3fold:cpus=2,work=deferred,page_bytes=16384")
    assert isinstance(pool, Z3fold)
    assert (pool.cpus, pool.work, pool.page_bytes) == (2, "deferred", 16384)
    assert pool.name == "z3fold:cpus=2,work=deferred,page_bytes=16384"
    assert create("zsmalloc:6.12,chain_size=4,page_bytes=16384").page_bytes == 16384
    assert create("ztree:page_bytes=16384").page_bytes == 16384


def test_a_table_from_a_file(tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.write_text("# order slots\n0 2\n\n3 8  # whole pages\n")
    classes = create(f"ztree:table={table}").stats()["classes"]
    assert [(c["order"], c["slots"]) for c in classes] == [(0, 2), (3, 8)]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("zthree", "no backend 'zthree'; there are: .*zbud"),
        ("", "no backend ''"),
        ("zbud:", "'' is not an item"),
        ("zbud:page_bytes=", "'page_bytes=' is not an item"),
        ("zbud:6.1", "no item '6.1'; zbud takes page_bytes"),
        ("zsmalloc:5.0", "no item '5.0'; zsmalloc takes 6.1, 6.12, 7.2, page_bytes"),
        ("zsmalloc:6.1,6.12", "'6.12' is one too many"),
        ("zbud:cpus=2", "no item 'cpus'; zbud takes page_bytes"),
        ("z3fold:cpus=2,cpus=3", "'cpus=3' is one too many"),
        ("z3fold:cpus=two", "cpus=two: must be a whole number"),
        ("z3fold:cpus=0", "at least one"),
        ("z3fold:work=later", "immediate or deferred"),
        ("zbud:page_bytes=5000", "5000 bytes: a page is"),
        ("ztree:table=/nowhere/table", "table=/nowhere/table: cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_a_specification(spec: str, says: str) -> None:
    with pytest.raises(BackendError, match=says) as raised:
        create(spec)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["0 x", "0", "0 8 1", "-1 8"])
def test_a_table_that_is_none(tmp_path: Path, text: str) -> None:
    table = tmp_path / "table"
    table.write_text(f"3 8\n{text}\n")
    with pytest.raises(BackendError, match="line 2: not 'order slots'"):
        create(f"ztree:table={table}")
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BackendError, match="not a text file"):
        create(f"ztree:table={table}")
