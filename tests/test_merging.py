# SPDX-License-Identifier: GPL-2.0-only
"""Merging: pieces of a recording are the recording again, recordings lie side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ztrace.commands.merge import command
from ztrace.traces import (
    OPS,
    SCHEMA,
    Counters,
    Kernel,
    Machine,
    Metadata,
    PoolInfo,
    TraceError,
    TraceReader,
    TraceWriter,
)
from ztrace.traces.merging import merge
from ztrace.traces.slicing import Moment, Selection, slice_trace

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
BASE = Metadata(
    kernel=Kernel("6.1.0", "#1", "ab"),
    machine=Machine("cpu", 2, 1 << 30, 4096, "x86_64"),
    pools=[PoolInfo("zbud", "lzo", True, True, 8), PoolInfo("zsmalloc", "zstd")],
    command=["stress"],
    started_utc="2026-01-01T00:00:00+00:00",
    duration_ns=10**9,
)

Row = tuple[int, int, int, int]  # ts_ns, dur_ns, pool, tid


def write(path: Path, rows: Sequence[Row] | pa.Table, metadata: Metadata = BASE) -> Path:
    with TraceWriter(path, metadata, force=True) as writer:
        if isinstance(rows, pa.Table):
            writer.write(rows)
        else:
            columns = np.array(rows, np.int64).reshape(-1, 4).T
            table = dict(zip(("ts_ns", "dur_ns", "pool", "tid"), columns, strict=True))
            numbers = np.arange(len(rows))
            op = (numbers % len(OPS)).astype(np.int8)
            writer.write({**table, "op": op, "handle": numbers})
    return path


def read(path: Path) -> pa.Table:
    with TraceReader(path) as reader:
        return pa.Table.from_batches(reader.batches(), SCHEMA)


def metadata_of(path: Path) -> Metadata:
    with TraceReader(path) as reader:
        return reader.metadata


def merged(*paths: Path) -> Path:
    output = paths[0].parent / "merged"
    readers = [TraceReader(path) for path in paths]
    with TraceWriter(output, Metadata(), force=True) as writer:
        merge(readers, writer)
    for reader in readers:
        reader.close()
    return output


def cut(path: Path, begin: int | None = None, end: int | None = None) -> Path:
    output = path.parent / f"{path.name}-{begin}-{end}"
    first, last = (None if at is None else Moment(at, True) for at in (begin, end))
    with TraceReader(path) as reader, TraceWriter(output, Metadata(), force=True) as writer:
        slice_trace(reader, writer, Selection(first, last))
    return output


rows_of_several_cpus = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(0, 1), st.integers(0, 3)),
    min_size=2,
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(rows_of_several_cpus, st.data(), st.randoms())
def test_slices_merged_are_the_original(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], data: Any, rng: Any
) -> None:
    """Also where rows are not in order of their returns, or return at one moment."""
    seen = sorted(set(itertools.accumulate((row[0] + row[1] for row in rows), max)))
    assume(len(seen) > 1)
    at = data.draw(st.sets(st.sampled_from(seen[1:]), min_size=1, max_size=3))
    path = write(tmp_path_factory.mktemp("m") / "t", rows)
    pieces = [cut(path, *bounds) for bounds in itertools.pairwise([None, *sorted(at), None])]
    rng.shuffle(pieces)
    out = merged(*pieces)
    assert read(out).equals(read(path))
    before, after = metadata_of(path), metadata_of(out)
    assert after.pools == before.pools
    assert (after.filters, after.counters) == (before.filters, before.counters)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1), st.integers(0, 3)), min_size=3),
    st.data(),
)
def test_rotated_pieces_are_the_unrotated_recording(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]], data: Any
) -> None:
    """Each task's calls return in order; between tasks, neighbours may be seen swapped."""
    ends = np.cumsum([step for step, _, _ in steps]).tolist()
    rows = [(end - 1, 1, pool, tid) for end, (_, pool, tid) in zip(ends, steps, strict=True)]
    for at in data.draw(st.sets(st.integers(1, len(rows) - 1))):
        if rows[at - 1][3] != rows[at][3] and rows[at - 1] < rows[at]:
            rows[at - 1], rows[at] = rows[at], rows[at - 1]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), min_size=1, max_size=3)))
    folder = tmp_path_factory.mktemp("m")
    whole = write(folder / "whole", rows)
    bounds = itertools.pairwise([0, *cuts, len(rows)])
    pieces = [
        write(folder / f"t.{n}", read(whole).slice(low, high - low))
        for n, (low, high) in enumerate(bounds)
    ]
    # Swapped neighbours alone, one each in two pieces, look like pieces in the other order.
    firsts = [sum(read(piece).slice(0, 1).to_pydict()["ts_ns"]) for piece in pieces]
    assume(firsts == sorted(firsts))
    lasts = [max(read(piece)["ts_ns"].to_pylist()) for piece in pieces]
    assume(lasts == sorted(lasts))
    assert read(merged(*reversed(pieces))).equals(read(whole))


def test_a_real_recording_of_two_cpus_is_itself_again(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.symlink_to(SAMPLES / "ztree-6.1-2cpu.parquet")
    whole = read(path)
    first = 71_234  # rows; among them 465 that were seen after later ones
    metadata = metadata_of(path)
    pieces = [
        write(tmp_path / "a", whole.slice(0, first), metadata),
        write(tmp_path / "b", whole.slice(first), metadata),
    ]
    assert read(merged(pieces[1], pieces[0])).equals(whole)


def other(**changes: Any) -> Metadata:
    """Another recording on the same boot, 100 s later."""
    later = {"started_utc": "2026-01-01T00:01:40+00:00", "command": ["b"]}
    return replace(BASE, **{**later, **changes})


S = 10**9


def test_recordings_of_one_boot_side_by_side(tmp_path: Path) -> None:
    one = replace(BASE, lost={"ring": {"0": 1, "1": 2}}, counters=Counters({"x": 1}, {"x": 2}))
    two = other(
        lost={"ring": {"1": 5}, "deep": {"0": 1}},
        counters=Counters({"x": 3}, {"x": 4}),
        pools=[PoolInfo("zbud", "lzo")],
        notes=["n"],
        source="zram",
    )
    a = write(tmp_path / "a", [(5 * S, 1, 0, 1), (6 * S, 1, 1, 1)], one)
    b = write(tmp_path / "b", [(105 * S, 1, 0, 1)], two)
    out = merged(b, a)
    table, after = read(out), metadata_of(out)
    assert table["pool"].to_pylist() == [0, 1, 2]
    assert table["ts_ns"].to_pylist() == [5 * S, 6 * S, 105 * S]
    assert after.pools == [*BASE.pools, PoolInfo("zbud", "lzo")]
    assert after.lost == {"ring": {"0": 1, "1": 7}, "deep": {"0": 1}}
    assert after.counters == Counters({"x": 1}, {"x": 4})
    assert after.command == ["stress"] and after.source == "zswap and zram"
    assert after.notes == ["n", "also recorded: b", "merged from 2 traces"]
    assert after.duration_ns == 100 * S + 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 60), max_size=25), min_size=2, max_size=3), st.integers(1, 7)
)
def test_overlapping_recordings_are_merged_by_return(
    tmp_path_factory: pytest.TempPathFactory, recordings: list[list[int]], rows_of_batch: int
) -> None:
    folder = tmp_path_factory.mktemp("m")
    paths, expected = [], []
    streams = [sorted(ends) for ends in recordings]
    for number, ends in enumerate(streams):
        pools = [PoolInfo(f"allocator {number}")]
        rows = [(end, 0, 0, 9) for end in ends]
        paths.append(write(folder / str(number), rows, other(command=[str(number)], pools=pools)))
        expected += [(end, ends[0], number) for end in ends]
    # At one moment, the recording that began first comes first.
    expected.sort(key=lambda item: (item[0], item[1]))
    with pytest.MonkeyPatch.context() as patch:
        batches = TraceReader.batches
        patch.setattr(
            TraceReader, "batches", lambda self, columns=None: batches(self, columns, rows_of_batch)
        )
        out = merged(*paths)
    table, pools = read(out), metadata_of(out).pools
    found = [(ts, int(pools[n].allocator[-1])) for ts, n in _pairs(table)]
    assert found == [(end, number) for end, _, number in expected]


def test_pieces_keep_their_order_beside_another_recording(tmp_path: Path) -> None:
    """A row that was seen late, in the next piece; and many rows at one moment."""
    a = write(tmp_path / "a", [(10, 0, 0, 1), *[(n, 0, 0, 2) for n in (12, *[13] * 200, 14)]])
    b = write(tmp_path / "b", [(11, 0, 0, 3), (13, 0, 1, 3), (15, 0, 0, 3)])
    beside = replace(BASE, command=["b"], pools=[PoolInfo("zbud", "zstd")])
    c = write(tmp_path / "c", [(n, 0, 0, 4) for n in (12, *[13] * 200, 16)], beside)
    found = _pairs(read(merged(c, b, a)))
    first = [(10, 0), (12, 0), (12, 2), *[(13, 0)] * 200, *[(13, 2)] * 200]
    assert found == [*first, (14, 0), (11, 0), (13, 1), (15, 0), (16, 2)]


def _pairs(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table["ts_ns"].to_pylist(), table["pool"].to_pylist(), strict=True))


def test_losses_of_slices_are_those_of_their_recording(tmp_path: Path) -> None:
    given = replace(BASE, lost={"ring": {"0": 4}})
    path = write(tmp_path / "t", [(10, 1, 0, 1), (20, 1, 0, 1)], given)
    assert metadata_of(merged(cut(path, None, 15), cut(path, 15))).lost == given.lost
    rotated = [write(tmp_path / n, [(at, 1, 0, 1)], given) for n, at in (("a", 10), ("b", 20))]
    assert metadata_of(merged(*rotated)).lost == {"ring": {"0": 8}}


REFUSED: dict[str, tuple[Metadata, int, str]] = {
    "kernel": (other(kernel=Kernel("6.12.0", "#1", "ab")), 105, "another kernel (6.12.0"),
    "build": (other(kernel=Kernel("6.1.0", "#2", "ab")), 105, "another build"),
    "memory": (other(machine=replace(BASE.machine, memory_bytes=1)), 105, "another size of mem"),
    "page": (other(machine=replace(BASE.machine, page_bytes=65536)), 105, "another page size"),
    "clock": (other(clock="relative"), 105, "another clock (relative"),
    "order": (other(order="found"), 105, "another order of rows"),
    "filter": (other(filters={"slice_tid": "4"}), 105, "another filter ({'slice_tid': '4'}"),
    "sampling": (other(sampling={"load": 8}), 105, "another sampling"),
    "boot": (other(), 3, "booted or slept in between"),
    "same pool": (replace(BASE, command=["b"]), 5, "overlap in time, and its pool 0 (zbud)"),
    "unknown pool": (
        replace(BASE, command=["b"], pools=[PoolInfo()]),
        5,
        "overlap in time, and its pool 0 (unknown)",
    ),
    "twice": (BASE, 5, "of one recording, so calls would be there twice"),
    "other pools": (
        replace(BASE, pools=[PoolInfo("z3fold", "lzo")]),
        9,
        "its pool 0 is z3fold/lzo, not zbud/lzo",
    ),
    "gap": (replace(BASE, filters={"slice_from_ns": "77"}), 9, "add the piece in between"),
    "many pools": (other(pools=[PoolInfo("zbud")] * 255), 105, "257 pools"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_merged_is_one_line(why: str, tmp_path: Path) -> None:
    metadata, at_s, message = REFUSED[why]
    a = write(tmp_path / "a", [(5 * S, 1, 0, 1), (6 * S, 1, 0, 1)])
    b = write(tmp_path / "b", [(at_s * S, 1, 0, 1), (at_s * S + S, 1, 0, 1)], metadata)
    out = tmp_path / "out"
    with pytest.raises(TraceError) as caught:
        CliRunner().invoke(command, [str(a), str(b), "-o", str(out)], catch_exceptions=False)
    assert message in str(caught.value) and "; " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_what_is_not_refused(tmp_path: Path) -> None:
    """The same inputs without what is wrong with each are merged."""
    a = write(tmp_path / "a", [(5 * S, 1, 0, 1), (6 * S, 1, 0, 1)])
    for number, (metadata, at_s) in enumerate([(other(), 105), (BASE, 9)]):
        b = write(tmp_path / "b", [(at_s * S, 1, 0, 1), (at_s * S + S, 1, 0, 1)], metadata)
        run = CliRunner().invoke(command, [str(a), str(b), "-o", str(tmp_path / str(number))])
        assert run.exit_code == 0 and "4 rows from 2 traces" in run.output


def test_empty_pieces_and_one_piece(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [(5, 1, 0, 1)])
    empty = write(tmp_path / "e", [], replace(BASE, lost={"ring": {"0": 2}}))
    out = merged(empty, a, write(tmp_path / "f", [], other()))
    assert read(out).equals(read(a))
    assert metadata_of(out).lost == {"ring": {"0": 2}}
    assert merged(empty, empty).exists()
    run = CliRunner().invoke(command, [str(a), "-o", str(tmp_path / "o")])
    assert run.exit_code == 2 and "two traces or more" in run.output
