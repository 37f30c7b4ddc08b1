# SPDX-License-Identifier: GPL-2.0-only
"""Which objects are live: late frees, handles given again, unknown handles, failed mallocs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.test_replay import Recording, whole
from ztrace.replay import ReplayError, replay
from ztrace.replay.play.native import reason_missing, replay_native
from ztrace.replay.read.lives import Lives
from ztrace.replay.read.rows import FREE, MAP, UNMAP
from ztrace.traces import TraceReader


def lives(*, whole: bool = False, waits: bool = True) -> tuple[Lives[str], list[str]]:
    """Lives of one pool, and the objects lost so far."""
    lost: list[str] = []
    return Lives("t.parquet", whole=whole, lost=lost.append, waits=waits), lost


def test_an_object_lives_from_its_malloc_to_its_free() -> None:
    one, lost = lives(whole=True)
    one.give(7, "a", end_ns=100, row=0)
    assert one.live == {7: "a"}
    assert one.take(7, begun_ns=200) == "a"
    assert one.take(7, begun_ns=300) is None
    assert (one.live, one.reissued, lost) == ({}, 0, [])


def test_a_late_free_is_the_older_objects() -> None:
    one, lost = lives(whole=True)
    one.give(7, "old", end_ns=100, row=0)
    one.give(7, "new", end_ns=500, row=1)
    assert one.live == {7: "new"}
    assert one.overdue(None) == [7]
    assert one.take(7, begun_ns=500) == "old"  # begun before the malloc returned
    assert one.live == {7: "new"}
    assert one.take(7, begun_ns=501) == "new"
    assert (one.reissued, lost) == (0, [])


def test_a_free_begun_later_shows_that_one_is_missing() -> None:
    one, lost = lives()
    one.give(7, "old", end_ns=100, row=0)
    one.give(7, "new", end_ns=500, row=1)
    assert one.take(7, begun_ns=501) == "new"
    assert (one.live, one.reissued, lost) == ({}, 1, ["old"])


def test_given_again_twice_and_waited_for_in_vain() -> None:
    one, lost = lives()
    for row, name in enumerate("abc"):
        one.give(7, name, end_ns=100 * row, row=row)
    one.give(8, "d", end_ns=300, row=3)
    one.give(8, "e", end_ns=400, row=4)
    assert lost == ["a"]
    assert one.overdue(4) == [7]
    assert one.overdue(None) == [7, 8]
    assert one.give_up(7) == ("b", 200, 2)
    assert (one.live, one.reissued, lost) == ({7: "c", 8: "e"}, 2, ["a", "b"])


def test_in_the_order_of_effect_no_free_is_late() -> None:
    one, lost = lives(waits=False)
    one.give(7, "old", end_ns=100, row=0)
    one.give(7, "new", end_ns=500, row=1)
    assert (one.overdue(None), one.reissued, lost) == ([], 1, ["old"])
    assert one.take(7, begun_ns=0) == "new"


def test_a_whole_trace_lacks_nothing() -> None:
    one, lost = lives(whole=True)
    one.give(7, "a", end_ns=100, row=0)
    one.give(7, "b", end_ns=200, row=1)
    with pytest.raises(ReplayError, match=r"t\.parquet: row 1: malloc gave handle 0x7"):
        one.take(7, begun_ns=900)
    with pytest.raises(ReplayError, match="row 5: free of handle 0x9"):
        one.miss(FREE, 9, 5)
    one.miss(UNMAP, 9, 6)
    assert (one.unknown, lost) == ({"unmap": 1}, [])


def test_refused_objects_are_not_unknown() -> None:
    one, _ = lives(whole=True)
    one.refuse(7)
    for op in (MAP, UNMAP, FREE):
        one.miss(op, 7, 3)
    assert one.unknown == {}
    with pytest.raises(ReplayError):
        one.miss(MAP, 7, 4)


def test_failed_mallocs_are_the_allocators_or_not() -> None:
    one, _ = lives()
    assert one.fail(-errno.ENOSPC)
    assert one.fail(-errno.EINVAL)
    assert not one.fail(-errno.ENOMEM)
    assert not one.fail(-errno.ENOMEM)
    assert one.failed == {"ENOSPC": 1, "EINVAL": 1, "ENOMEM": 2}


@pytest.mark.parametrize("engine", ["python", "native"])
@pytest.mark.parametrize("far", [0, 70_000])
def test_what_an_unknown_handle_means(engine: str, far: int, tmp_path: Path) -> None:
    """Freed twice is not begun late, however far back the first free is."""
    if engine == "native" and reason_missing():
        pytest.skip("no native core")
    recording = Recording()
    recording.row("malloc", size=100, handle=64)
    recording.row("free", handle=64)
    for _ in range(far):
        recording.row("store")
    recording.row("malloc", size=100, handle=64, pool=1)
    last = recording.row("free", handle=64)

    def error() -> str:
        path = recording.write(tmp_path / "t.parquet", whole("zbud", "zbud"))
        with TraceReader(path) as reader, pytest.raises(ReplayError) as refused:
            if engine == "native":
                replay_native(reader, ["zbud"])
            else:
                replay(reader, "zbud")
        return str(refused.value)

    assert f"row {last}: free of handle 0x40" in error()
    assert "row 1 freed it: it is freed twice" in error()
    assert "in use when recording began" not in error()
    recording.rows[0]["handle"] = recording.rows[1]["handle"] = 128
    assert "no row before gave it: if pools were in use when recording began" in error()
    # Out of time order, nothing else is said.
    recording.rows[last - 1]["ts_ns"] += 10**12
    recording.row("free", handle=64)
    assert "rows are out of time order" in error()
