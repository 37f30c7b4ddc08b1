# SPDX-License-Identifier: GPL-2.0-only
"""The zbud model against the kernel's answers, its errors and faults, and invariants."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.allocator import BackendError, HazardError, create
from ztrace.allocator.protocol import HasPlace
from ztrace.allocator.zbud.model import CHUNKS, FULL, PAGE_CHUNKS, Zbud

TESTS = Path(__file__).parent
VECTORS = sorted((TESTS / "vectors").glob("zbud_*.txt"))
CONFORMANCE = runpy.run_path(str(TESTS / "conformance.py"))


def refuse(handle: int) -> int:
    """An evict callback that refuses as zswap does when the page is in the swap cache."""
    return -17


def freeing(pool: Zbud) -> Callable[[int], int]:
    """An evict callback that frees what it is asked to."""

    def evict(handle: int) -> int:
        pool.free(handle)
        return 0

    return evict


# -- vector files -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = len(path.read_text().splitlines())
    found = CONFORMANCE["check_file"](path, lambda: CONFORMANCE["make_driver"]("zbud", path))
    assert found == (lines, 0), capsys.readouterr().out


def test_vectors_are_there() -> None:
    assert len(VECTORS) == 2


def conform(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TESTS / "conformance.py"), "zbud", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("field", [3, 4, 5])
def test_conformance_fails_on_one_altered_answer(tmp_path: Path, field: int) -> None:
    lines = VECTORS[0].read_text().splitlines()[:500]
    at = next(i for i, line in enumerate(lines) if i > 300 and line.startswith("A "))
    op, _, answer = lines[at].partition(" => ")
    words = answer.split()
    words[field] = str(int(words[field]) + 1)
    lines[at] = f"{op} => {' '.join(words)}"
    altered = tmp_path / "altered.txt"
    altered.write_text("\n".join(lines) + "\n")
    done = conform(altered)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "499 passed, 1 failed"
    assert f"altered.txt:{at + 1}:" in done.stdout


def test_conformance_goes_on_after_an_object_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text("A 1 100 => A 1 0 1 0 64\nF 1 => F 1 0\nF 1 => F 1 0\nL 1 => L 1 0 64\n")
    done = conform(path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "2 passed, 2 failed")


@pytest.mark.parametrize("line", ["W 1 => W 0 0", "X => X", "A 1 => A 1", "C 1 => C 1", "A 1 1"])
def test_conformance_refuses_what_is_no_zbud_file(tmp_path: Path, line: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(line + "\n")
    done = conform(path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


# -- known answers ----------------------------------------------------------------------------


def test_sizes_that_are_taken() -> None:
    pool = Zbud()
    for size, code in ((0, 22), (3969, 28), (4096, 28), (4097, 28)):
        with pytest.raises(OSError) as refused:
            pool.malloc(size)
        assert refused.value.errno == code
    assert pool.total_bytes == 0
    assert pool.place(pool.malloc(3968)) == (0, 64)
    assert pool.total_bytes == pool.held_bytes == 4096


def test_a_handle_is_an_address() -> None:
    pool = Zbud()
    first, last = pool.malloc(1000), pool.malloc(100)
    assert first >> 12 == last >> 12 != 0
    assert (first & 4095, last & 4095) == (64, 4096 - 128)
    assert isinstance(pool, HasPlace)
    assert (pool.place(first), pool.place(last)) == ((0, 64), (0, 4096 - 128))


def test_newest_page_of_the_best_list() -> None:
    pool = Zbud()
    sizes = [2000, 2000, 3000, 3000]  # 31, 31, 16, 16 chunks free, one page each
    handles = [pool.malloc(size) for size in sizes]
    assert [pool.place(handle).page for handle in handles] == [0, 1, 2, 3]
    assert pool.place(pool.malloc(1000)).page == 3
    assert pool.place(pool.malloc(1100)).page == 1


def test_a_page_goes_back_at_once_and_its_number_for_good() -> None:
    pool = Zbud()
    pool.free(pool.malloc(10))
    assert pool.total_bytes == 0
    assert pool.place(pool.malloc(10)).page == 1


@pytest.mark.parametrize(("page_bytes", "chunk"), [(16384, 256), (65536, 1024)])
def test_larger_pages_have_larger_chunks(page_bytes: int, chunk: int) -> None:
    pool = Zbud(page_bytes=page_bytes)
    largest = page_bytes - 2 * chunk
    with pytest.raises(OSError):
        pool.malloc(largest + 1)
    pool.malloc(largest)
    assert pool.place(pool.malloc(chunk)) == (0, page_bytes - chunk)


@pytest.mark.parametrize("page_bytes", [0, 100, 5000, 1 << 20])
def test_impossible_page_size(page_bytes: int) -> None:
    with pytest.raises(BackendError, match="page"):
        Zbud(page_bytes=page_bytes)


def test_by_specification() -> None:
    for spec in ("zbud", "zbud:page_bytes=16384"):
        assert create(spec).name == spec
    assert create("zbud:page_bytes=16384").page_bytes == 16384


# -- reclaim ----------------------------------------------------------------------------------


def test_shrink_takes_the_page_used_longest_ago() -> None:
    pool = Zbud()
    handles = [pool.malloc(3000) for _ in range(3)]
    pool.malloc(900)  # in page 2
    pool.malloc(900)  # in page 1, which makes page 2 older
    assert pool.shrink(2, freeing(pool)) == (0, 2)
    assert pool.place(handles[1]).page == 1
    assert sorted(pool.pages) == [1]
    assert pool.stats()["evictions"] == 3
    assert not pool.hazards.counts


def test_shrink_that_cannot() -> None:
    pool = Zbud()
    assert pool.shrink(1, refuse) == (-22, 0)
    assert pool.shrink(0, refuse) == (-22, 0)
    handle = pool.malloc(3000)
    asked: list[int] = []

    def note(handle: int) -> int:
        asked.append(handle)
        return -17

    assert pool.shrink(1, note) == (-11, 0)
    assert asked == [handle] * 8
    assert pool.shrink(1, lambda handle: 0) == (-11, 0)  # says yes, frees nothing


# -- faults -----------------------------------------------------------------------------------


def test_second_free_in_a_live_page_changes_lists_only() -> None:
    pool = Zbud()
    keep, gone = pool.malloc(2000), pool.malloc(1000)
    pool.free(gone)
    other = pool.malloc(2100)  # another page with a gap, newer
    assert pool.place(other).page == 1
    pool.free(gone)
    assert pool.hazards.counts == {"double-free": 1}
    assert pool.objects == 2
    assert pool.place(keep) == (0, 64)
    check(pool, {keep: 2000, other: 2100})


def test_second_free_of_the_last_in_a_page_is_fatal() -> None:
    pool = Zbud()
    handle = pool.malloc(10)
    pool.free(handle)
    with pytest.raises(HazardError, match="double-free"):
        pool.free(handle)
    assert pool.hazards.counts == {"double-free": 1}


def test_free_of_an_address_inside_an_object_frees_the_last() -> None:
    pool = Zbud()
    pool.malloc(1000)
    last = pool.malloc(1000)
    pool.free(last + 64)
    assert pool.hazards.counts == {"unknown-handle": 1}
    assert pool.objects == 1
    with pytest.raises(KeyError):
        pool.place(last)


def test_free_of_what_was_never_given_is_fatal() -> None:
    for handle in (0, 64, 1 << 40):
        with pytest.raises(HazardError, match="unknown-handle"):
            Zbud().free(handle)


def test_use_after_free_is_noted() -> None:
    pool = Zbud()
    handle = pool.malloc(10)
    pool.free(handle)
    pool.map(handle)
    pool.unmap(handle)
    pool.map(1)
    assert pool.hazards.counts == {"use-after-free": 2, "unknown-handle": 1}


# -- invariants after random histories --------------------------------------------------------


def check(pool: Zbud, live: dict[int, int]) -> None:
    """Everything that must hold between calls; ``live`` is handle -> size, kept by the test."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for handle, size in live.items():
        page, at = pool.place(handle)
        assert at >= pool.chunk_bytes
        assert at + size <= pool.page_bytes
        spans.setdefault(page, []).append((at, at + size))
    for page, used in spans.items():
        used.sort()
        assert len(used) <= 2
        assert all(a[1] <= b[0] for a, b in pairwise(used))
        assert sum(-(-(b - a) // pool.chunk_bytes) for a, b in used) == (
            pool.pages[page].first + pool.pages[page].last
        )
    assert set(spans) == set(pool.pages) == set(pool.lru)
    listed = {}
    for number, pages in enumerate(pool.lists):
        for page, state in pages.items():
            assert page not in listed
            listed[page] = number
            free = CHUNKS - state.first - state.last
            assert number == (FULL if state.first and state.last else free)
            assert state is pool.pages[page]
            assert not state.under_reclaim
        assert pool.filled >> number & 1 == bool(pages)
    assert set(listed) == set(pool.pages)
    assert pool.objects == len(live)
    assert pool.total_bytes == pool.held_bytes == len(spans) * pool.page_bytes
    stats = pool.stats()
    assert stats["pages_allocated"] - stats["pages_freed"] == len(spans)
    assert stats["used_chunks"] == sum(-(-size // pool.chunk_bytes) for size in live.values())
    assert stats["used_chunks"] + stats["free_chunks"] == len(spans) * (PAGE_CHUNKS - 1)
    assert stats["lost_chunks"] == sum(
        CHUNKS - state.first - state.last for state in pool.lists[FULL].values()
    )
    assert sum(c["blocks"] for c in stats["classes"]) == len(spans)
    assert sum(c["used_slots"] for c in stats["classes"]) == len(live)
    assert sum(c["free_slots"] for c in stats["classes"]) == 2 * len(spans) - len(live)


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["malloc", "malloc", "free", "burst", "shrink"]),
        st.one_of(st.sampled_from([1, 64, 65, 3967, 3968]), st.integers(1, 3968)),
        st.integers(0, 2**16),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(CALLS, st.sampled_from([4096, 16384]))
def test_invariants_hold_after_every_call(
    calls: list[tuple[str, int, int]], page_bytes: int
) -> None:
    pool = Zbud(page_bytes=page_bytes)
    live: dict[int, int] = {}

    def malloc(size: int) -> None:
        handle = pool.malloc(size * page_bytes // 4096)
        assert handle not in live
        live[handle] = size * page_bytes // 4096
        pool.map(handle)
        pool.unmap(handle)

    for name, size, choice in calls:
        if name == "malloc":
            malloc(size)
        elif name == "burst":
            for number in range(choice % 20):
                malloc(1 + (size * (number + 1)) % 3968)
        elif name == "free" and live:
            handle = list(live)[choice % len(live)]
            del live[handle]
            pool.free(handle)
        elif name == "shrink":

            def evict(handle: int, choice: int = choice) -> int:
                if (handle // 64 + choice) % 5 == 0:
                    return -17
                del live[handle]
                pool.free(handle)
                return 0

            before = pool.total_bytes
            ret, reclaimed = pool.shrink(1, evict)
            assert (ret, reclaimed) in {(0, 1), (-11, 0), (-22, 0)}
            assert before - pool.total_bytes == reclaimed * page_bytes
        check(pool, live)
    for handle in list(live):
        pool.free(handle)
    assert pool.total_bytes == 0
    assert not pool.hazards.counts
    assert not any(pool.lists)
