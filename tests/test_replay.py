# SPDX-License-Identifier: GPL-2.0-only
"""Replay: known answers, agreement with the model driven by hand, and input that must not pass."""

from __future__ import annotations

import csv
import errno
import json
import random
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import replay_both
from ztrace.allocator import HazardError, Pool, create
from ztrace.allocator.ztree.model import Ztree
from ztrace.cli import main
from ztrace.replay import Every, ReplayError, Result
from ztrace.replay.read.rows import Span, cut
from ztrace.traces import OP_CODE, OPS, SCHEMA, Metadata, PoolInfo, TraceReader, TraceWriter

TOP = 0xF << 60
COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret", "total", "cpu", "tid")
STEP_NS = 1000


def whole(*allocators: str) -> Metadata:
    """Metadata of a trace that lacks nothing."""
    return Metadata(
        pools=[PoolInfo(name, "lz4", True, True) for name in (allocators or ("ztree",))]
    )


def late() -> Metadata:
    """Metadata of a trace that began when the pool was in use."""
    return Metadata(pools=[PoolInfo("ztree")])


@dataclass
class Recording:
    """Rows as a recorder on one CPU would write them: a call every µs, each taking 100 ns."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    now_ns: int = 0

    def row(self, op: str, **columns: Any) -> int:
        """Add a row; returns its number. ``ts_ns`` and ``dur_ns`` are made up if not given."""
        self.now_ns += STEP_NS
        row: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
        row |= {"size": None, "handle": None, "total": None, "tid": 7}
        row |= {"ts_ns": self.now_ns, "dur_ns": 100, "op": OP_CODE[op], **columns}
        self.rows.append(row)
        return len(self.rows) - 1

    def write(self, path: Path, metadata: Metadata) -> Path:
        """Write the trace and return its path."""
        types = {name: SCHEMA.field(name).type for name in COLUMNS}
        types["op"] = pa.int8()
        with TraceWriter(path, metadata, force=True) as writer:
            writer.write(
                {name: pa.array([row[name] for row in self.rows], types[name]) for name in COLUMNS}
            )
        return path


class Kernel:
    """A stand-in for a kernel that uses ztree: the model, with everything recorded."""

    def __init__(self, pool: int = 0, recording: Recording | None = None) -> None:
        self.model = Ztree()
        self.pool = pool
        self.recording = recording or Recording()
        self.live: dict[int, int] = {}
        self.steps: list[tuple[int, int, int, int]] = []  # return ns, objects, stored, held

    def row(self, op: str, **columns: Any) -> int:
        return self.recording.row(op, pool=self.pool, **columns)

    def malloc(self, size: int) -> int:
        handle = self.model.malloc(size)
        self.live[handle] = size
        self.row("malloc", size=size, handle=handle, total=self.model.total_bytes)
        self._step()
        return handle

    def _step(self) -> None:
        stored = sum(self.live.values())
        returned = self.recording.now_ns + 100
        self.steps.append((returned, len(self.live), stored, self.model.held_bytes))

    def use(self, handle: int, tid: int = 7) -> None:
        self.model.map(handle)
        self.row("map", handle=handle, tid=tid)
        self.model.unmap(handle)
        self.row("unmap", handle=handle, tid=tid)

    def free(self, handle: int, tid: int = 7) -> None:
        self.model.free(handle)
        del self.live[handle]
        self.row("free", handle=handle, total=self.model.total_bytes, tid=tid)
        self._step()

    def shrink(
        self,
        refuse: Container[int] = (),
        meanwhile: Callable[[], object] = lambda: None,
        writebacks: bool = True,
    ) -> int:
        """zswap's shrink worker, a task of its own: evicts by writing back and freeing."""
        begun = self.recording.now_ns + 500

        def evict(handle: int) -> int:
            start = self.recording.now_ns + 500
            self.use(handle, tid=99)
            meanwhile()  # the eviction sleeps on its I/O and another task runs
            ret = -errno.EEXIST if handle in refuse else 0
            if not ret:
                self.free(handle, tid=99)
            if writebacks:
                now = self.recording.now_ns
                times = {"ts_ns": start, "dur_ns": now + STEP_NS + 100 - start}
                self.row("writeback", handle=handle, ret=ret, tid=99, **times)
            return ret

        ret = self.model.shrink(1, evict).ret
        now = self.recording.now_ns
        times = {"ts_ns": begun, "dur_ns": now + STEP_NS + 100 - begun}
        self.row("shrink", ret=ret, tid=99, **times)
        return ret


def run(
    tmp: Path,
    source: Recording | Kernel,
    metadata: Metadata | None = None,
    backend: str = "ztree",
    **options: Any,
) -> Result:
    recording = source.recording if isinstance(source, Kernel) else source
    path = recording.write(tmp / "trace.parquet", metadata or whole())
    with TraceReader(path) as reader:
        return replay_both(reader, backend, **options)


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for hypothesis tests, whose examples overwrite each other's trace."""
    return tmp_path_factory.mktemp("replay")


@pytest.fixture
def ztrace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ztrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        done = capsys.readouterr()
        return int(left.value.code or 0), done.out, done.err

    return call


Command = Callable[..., tuple[int, str, str]]


# -- known answers ----------------------------------------------------------------------------


def nine_objects() -> Recording:
    """Nine objects of 4000 bytes, a free, a malloc beside the hole: 11 calls, 1 µs apart."""
    kernel = Kernel()
    handles = [kernel.malloc(4000) for _ in range(9)]
    kernel.free(handles[3])
    assert kernel.malloc(4000) == TOP + 0x11
    return kernel.recording


def test_nine_objects(tmp_path: Path) -> None:
    result = run(tmp_path, nine_objects(), every=Every(percent=50))
    assert result.calls == {"malloc": 10, "free": 1}
    assert (result.driven, result.rows) == (11, 11)
    assert (result.first_ns, result.last_ns) == (1000, 11100)
    handles = result.agreement("handles")
    assert (handles.equal, handles.compared, handles.first) == (10, 10, None)
    totals = result.agreement("totals")
    assert (totals.equal, totals.compared) == (11, 11)
    assert result.total_difference() == 0

    # The k-th call returns at 1100 + 1000 (k - 1); the trace runs from 1000 to 11100.
    live = [0, *range(1, 10), 8, 9]
    spans = [100, *([1000] * 10), 0]
    assert (result.objects.peak, result.objects.peak_ns, result.objects.end) == (9, 9100, 9)
    mean = sum(n * ns for n, ns in zip(live, spans, strict=True)) / 10100
    assert result.objects.mean == pytest.approx(mean)
    assert result.stored_bytes.peak == 36000
    assert result.stored_bytes.mean == pytest.approx(mean * 4000)
    held = (8 * 1000 * 32768 + 2 * 1000 * 65536) / 10100
    assert (result.held_bytes.peak, result.held_bytes.peak_ns) == (65536, 9100)
    assert result.held_bytes.mean == pytest.approx(held)
    assert result.at_peak.density == result.at_end.density == 9 * 4096 / 65536
    assert result.mean_density == pytest.approx(mean * 4096 / held)
    assert result.at_peak.kernel_total == result.at_peak.model_total == 65536

    halves = [(m.t_ns, m.calls, m.objects, m.held_bytes) for m in result.series]
    assert halves == [(6050, 5, 5, 32768), (11100, 11, 9, 65536)]
    assert result.stat("stranded_slots") == 1
    assert [row["blocks"] for row in result.classes()] == [*([0] * 15), 2]
    assert result.held_near_peak == 65536
    assert result.hazards() == {}


def test_output_says_the_same_as_json(tmp_path: Path, ztrace: Command) -> None:
    trace = nine_objects().write(tmp_path / "t.parquet", whole())
    status, out, err = ztrace("replay", trace, "--backend", "ztree", "--every", "50%")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in out.splitlines()]
    status, text, _ = ztrace("replay", trace, "--backend", "ztree", "--every", "50%", "--json")
    [data] = json.loads(text)["replays"]
    assert status == 0
    for name in ("handles", "totals"):
        assert f"{name} equal: {data[name]['equal']} of {data[name]['compared']}" in lines
    objects, held = data["objects"], data["held_bytes"]
    assert f"live objects {objects['peak']} {objects['end']} {objects['mean']:.1f}" in lines
    kib = [f"{held[key] / 1024:.1f} KiB" for key in ("peak", "end", "mean")]
    assert f"held {' '.join(kib)}" in lines
    density = (data["at_peak"]["density"], data["at_end"]["density"], data["mean_density"])
    assert f"density {' '.join(f'{value:.3f}' for value in density)}" in lines
    assert "lost events: 0" in lines
    assert data["lost_events"] == 0
    assert "hazards met: none" in lines
    assert data["hazards"] == {}
    for row in data["series"]:
        start = f"{(row['t_ns'] - data['first_ns']) / 1e9:.6f} {row['calls']} {row['objects']} "
        assert any(line.startswith(start) for line in lines)
    assert data["measured_here"]["rows_per_s"] > 0


def test_series_as_csv(tmp_path: Path, ztrace: Command) -> None:
    trace = nine_objects().write(tmp_path / "t.parquet", whole())
    out = tmp_path / "series.csv"
    command = ("replay", trace, "--backend", "ztree", "-o", out)
    assert ztrace(*command)[0] == 2
    assert ztrace(*command, "--every", "1us")[0] == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["t_ns"]) for row in rows] == [*range(2000, 11001, 1000), 11100]
    assert [int(row["objects"]) for row in rows] == [*range(1, 10), 8, 9]
    status, _, err = ztrace(*command, "--every", "1us")
    assert (status, "series.csv" in err) == (2, True)
    assert ztrace(*command, "--every", "10us", "--force")[0] == 0


@pytest.mark.parametrize("every", ["0%", "101%", "x%", "fast", "0ms", "-1s", ""])
def test_impossible_distance(every: str, tmp_path: Path, ztrace: Command) -> None:
    trace = nine_objects().write(tmp_path / "t.parquet", whole())
    status, _, err = ztrace("replay", trace, "--backend", "ztree", "--every", every)
    assert status == 2
    assert "Traceback" not in err


def test_too_fine_a_series(tmp_path: Path) -> None:
    recording = nine_objects()
    recording.row("map", handle=TOP, ts_ns=10**15)
    with pytest.raises(ReplayError, match="larger distance"):
        run(tmp_path, recording, every=Every(ns=1))


def test_help_ends_with_an_example(ztrace: Command) -> None:
    status, out, _ = ztrace("replay", "--help")
    assert status == 0
    assert out.splitlines()[-1].strip().startswith("Example: ztrace replay")


def test_two_pools_are_summed(tmp_path: Path, ztrace: Command) -> None:
    first = Kernel(0)
    second = Kernel(1, first.recording)
    a, b = first.malloc(100), second.malloc(100)
    assert a == b == 0
    second.malloc(3000)
    first.free(a)
    metadata = whole("ztree", "ztree")
    result = run(tmp_path, first, metadata)
    assert [pool.pool for pool in result.pools] == [0, 1]
    assert (result.objects.peak, result.objects.end) == (3, 2)
    assert (result.held_bytes.peak, result.held_bytes.end) == (4096 * 10, 4096 * 9)
    assert result.at_end.kernel_total == result.at_end.model_total == 4096 + 32720
    assert result.agreement("totals").equal == 4
    assert result.hazards()["H27"][0] == 2
    assert result.classes()[0]["blocks"] == 1
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "one model each, all figures are their sums" in " ".join(out.split())


def test_pool_that_the_metadata_does_not_name(tmp_path: Path) -> None:
    recording = Recording()
    recording.row("malloc", size=100, handle=0, pool=255)
    result = run(tmp_path, recording)
    assert (result.pools[0].pool, result.pools[0].allocator) == (255, "unknown")
    assert result.agreement("handles").equal == 1


def test_zswap_rows_are_only_counted(tmp_path: Path) -> None:
    kernel = Kernel()
    for op in ("store", "load", "invalidate", "writeback", "sample", "compact"):
        kernel.row(op, size=10**6, handle=1, ret=-5)
        kernel.malloc(1000)
    result = run(tmp_path, kernel)
    assert result.calls["store"] == result.calls["compact"] == 1
    assert (result.driven, result.objects.end) == (6, 6)


def test_totals_on_rows_of_other_calls(tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.malloc(1000)
    kernel.row("store", total=8192)
    kernel.row("sample", total=8192 + 4096)
    result = run(tmp_path, kernel)
    totals = result.agreement("totals")
    assert (totals.equal, totals.compared) == (2, 3)
    assert totals.first == "row 2: kernel 12288, model 8192"
    assert result.total_difference() == -4096
    assert (result.at_end.kernel_total, result.at_peak.kernel_total) == (12288, 8192)


def test_corrupted_handle_is_seen(tmp_path: Path) -> None:
    kernel = Kernel()
    handles = [kernel.malloc(2000) for _ in range(5)]
    kernel.free(handles[2])
    for row in kernel.recording.rows:
        if row["handle"] == handles[2]:
            row["handle"] ^= 0x100
    result = run(tmp_path, kernel)
    agreement = result.agreement("handles")
    assert (agreement.equal, agreement.compared) == (4, 5)
    assert agreement.first is not None
    assert agreement.first.startswith(f"row 2: malloc(2000) gave {handles[2] ^ 0x100:#x}, model:")
    assert result.objects.end == 4


# -- the engine against the model driven by hand ----------------------------------------------

HISTORY = st.lists(
    st.tuples(
        st.sampled_from(["malloc", "malloc", "malloc", "free", "use", "shrink", "burst"]),
        st.one_of(st.sampled_from([1, 256, 257, 4096]), st.integers(1, 4096)),
        st.integers(0, 2**16),
    ),
    min_size=1,
    max_size=60,
)


def live_through(history: list[tuple[str, int, int]]) -> Kernel:
    """Run a history on the stand-in."""
    kernel = Kernel()
    kernel.malloc(257)
    for name, size, choice in history:
        if name == "malloc":
            kernel.use(kernel.malloc(size))
        elif name == "burst":
            for _ in range(choice % 30):
                kernel.use(kernel.malloc(size))
        elif name == "shrink":
            if reclaimable(kernel.model):
                kernel.shrink({handle for handle in kernel.live if (handle | choice) & 3 == 0})
        elif kernel.live:
            handle = list(kernel.live)[choice % len(kernel.live)]
            (kernel.free if name == "free" else kernel.use)(handle)
    return kernel


def reclaimable(model: Ztree) -> bool:
    """Whether a shrink finds a block, so that it does not run into H12."""
    for tree in reversed(model.trees):
        block = next(iter(tree.blocks.values()), None)
        if block is not None and block is not tree.current and block is not tree.last:
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(HISTORY)
def test_engine_agrees_with_direct_calls(tmp: Path, history: list[tuple[str, int, int]]) -> None:
    kernel = live_through(history)
    result = run(tmp, kernel)
    for name in ("handles", "totals", "shrinks"):
        agreement = result.agreement(name)
        assert agreement.equal == agreement.compared, agreement.first
    assert result.agreement("handles").compared == result.calls["malloc"]
    assert result.agreement("shrinks").compared == result.calls.get("shrink", 0)
    assert result.count("shrinks_diverged") == result.count("shrinks_not_replayed") == 0
    assert result.objects.end == len(kernel.live)
    assert result.stored_bytes.end == sum(kernel.live.values())
    assert result.held_bytes.end == kernel.model.held_bytes
    assert result.at_end.model_total == kernel.model.total_bytes
    assert result.pools[0].stats == kernel.model.stats()
    assert {name: n for name, (n, _) in result.hazards().items()} == kernel.model.hazards.counts
    assert result.held_near_peak * 128 >= result.held_bytes.peak * 127


@settings(max_examples=60, deadline=None)
@given(HISTORY, st.integers(100, 20_000))
def test_figures_over_time(tmp: Path, history: list[tuple[str, int, int]], every_ns: int) -> None:
    kernel = live_through([call for call in history if call[0] != "shrink"])
    result = run(tmp, kernel, every=Every(ns=every_ns))
    times = [step[0] for step in kernel.steps]
    gaps = np.diff([*times, result.last_ns])
    levels = (result.objects, result.stored_bytes, result.held_bytes)
    for column, level in enumerate(levels, 1):
        values = np.array([step[column] for step in kernel.steps])
        span = result.last_ns - result.first_ns
        assert level.mean == pytest.approx(float(values @ gaps) / span)
        assert level.peak == values.max()
        assert level.peak_ns == times[int(values.argmax())]
    ends = np.array([row["ts_ns"] + row["dur_ns"] for row in kernel.recording.rows])
    moments = [moment.t_ns for moment in result.series]
    assert moments[-1] == result.last_ns
    assert moments[:-1] == list(range(1000 + every_ns, result.last_ns, every_ns))
    for moment in result.series:
        assert moment.calls == int((ends <= moment.t_ns).sum())
        before = [step for step in kernel.steps if step[0] <= moment.t_ns]
        expected = before[-1][1:] if before else (0, 0, 0)
        assert (moment.objects, moment.stored_bytes, moment.held_bytes) == expected


# -- shrink -----------------------------------------------------------------------------------


def three_blocks() -> tuple[Kernel, list[int]]:
    kernel = Kernel()
    handles = [kernel.malloc(4096) for _ in range(24)]
    for handle in handles:
        kernel.use(handle)
    return kernel, handles


@pytest.mark.parametrize("writebacks", [True, False])
def test_shrink_is_replayed(tmp_path: Path, writebacks: bool) -> None:
    kernel, _ = three_blocks()
    assert kernel.shrink(writebacks=writebacks) == 8
    handle = kernel.malloc(4096)
    assert handle == TOP + 0x30
    assert kernel.shrink({TOP + 0x12}, writebacks=writebacks) == 2
    result = run(tmp_path, kernel)
    assert result.agreement("shrinks").equal == 2
    assert result.agreement("handles").equal == 25
    assert result.count("shrinks_diverged") == result.count("shrinks_not_replayed") == 0
    assert result.objects.end == 15
    assert result.held_bytes.end == kernel.model.held_bytes == 3 * 32768
    assert result.hazards()["H23"][0] == 2
    assert "H8" not in result.hazards()


def test_other_tasks_run_while_an_eviction_sleeps(tmp_path: Path) -> None:
    kernel, handles = three_blocks()
    todo = iter([handles[20], handles[12], None, handles[21]])

    def meanwhile() -> None:
        handle = next(todo, None)
        if handle is not None:
            kernel.free(handle)
        kernel.use(kernel.malloc(1000))

    assert kernel.shrink(meanwhile=meanwhile) == 8
    kernel.malloc(4096)
    result = run(tmp_path, kernel)
    assert result.agreement("shrinks").equal == 1
    assert result.agreement("handles").equal == 33
    assert result.agreement("totals").equal == result.agreement("totals").compared
    assert result.count("shrinks_diverged") == 0
    assert result.held_bytes.end == kernel.model.held_bytes


def test_shrink_that_the_model_would_do_otherwise(tmp_path: Path, ztrace: Command) -> None:
    kernel, handles = three_blocks()
    kernel.shrink()
    for row in kernel.recording.rows[72:]:  # the kernel evicted block 1 instead of block 0
        if row["handle"] in handles[:8]:
            row["handle"] += 0x10
    result = run(tmp_path, kernel)
    assert result.count("shrinks_diverged") == 1
    assert result.agreement("shrinks").equal == 0
    assert result.objects.end == 16
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "shrinks diverged" in out
    assert "first difference: row 104: shrink returned 8, model: -11" in out


def test_shrink_recorded_on_another_allocator(tmp_path: Path) -> None:
    kernel, _ = three_blocks()
    kernel.shrink()
    result = run(tmp_path, kernel, whole("zbud"))
    assert result.count("shrinks_not_replayed") == 1
    assert result.agreement("shrinks").compared == 0
    assert result.objects.end == 16
    assert "H23" not in result.hazards()


def test_shrink_that_found_nothing(tmp_path: Path) -> None:
    kernel = Kernel()
    for _ in range(24):
        kernel.malloc(4096)
    assert kernel.shrink() == -errno.EAGAIN
    result = run(tmp_path, kernel)
    assert result.agreement("shrinks").equal == 1
    assert result.held_bytes.end == 3 * 32768


def test_overlapping_shrinks(tmp_path: Path) -> None:
    kernel, _ = three_blocks()
    kernel.shrink()
    last = kernel.recording.rows[-1]
    kernel.row("shrink", ret=-11, tid=98, ts_ns=last["ts_ns"] + 1500, dur_ns=10**6)
    result = run(tmp_path, kernel)
    assert result.agreement("shrinks").compared == 1
    assert result.count("shrinks_not_replayed") == 1


def test_undefined_behaviour_ends_the_pool(tmp_path: Path, ztrace: Command) -> None:
    kernel = Kernel()
    kernel.malloc(4096)
    with pytest.raises(HazardError):
        kernel.shrink()
    kernel.row("shrink", ret=-22)
    kernel.malloc(4096)
    other = Kernel(1, kernel.recording)
    other.malloc(4096)
    trace = kernel.recording.write(tmp_path / "t.parquet", whole("ztree", "ztree"))
    status, out, err = ztrace("replay", trace, "--backend", "ztree", "--json")
    assert status == 1
    assert err.startswith(f"ztrace: {trace}: replay of pool 0 by ztree ended early at row 1: ")
    [data] = json.loads(out)["replays"]
    assert data["hazards"]["H12"]["count"] == 1
    assert data["handles"]["equal"] == data["handles"]["compared"] == 2
    status, out, _ = ztrace("replay", trace, "--backend", "ztree")
    assert status == 1
    assert "pool 0: figures end at row 1" in out


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_shrink_is_cut_in_two(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 60))
    spans: list[Span] = []
    at = 0
    while at < rows and data.draw(st.booleans()):
        first = data.draw(st.integers(at, rows - 1))
        spans.append(Span(first, data.draw(st.integers(first, rows - 1))))
        at = spans[-1].row + 1

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        while start < rows:
            length = data.draw(st.integers(0, rows - start))
            numbers = pa.array(range(start, start + length), pa.int64())
            yield pa.RecordBatch.from_arrays([numbers], ["n"])
            start += length

    seen: list[int] = []
    found: list[Span] = []
    for first, table, inside in cut(batches(), spans):
        numbers = table.column("n").to_pylist()
        assert numbers[0] == first
        seen += numbers
        found += inside
        assert all(first <= span.first <= span.row <= numbers[-1] for span in inside)
    assert seen == list(range(rows))
    assert found == spans


# -- failed calls -----------------------------------------------------------------------------


def test_failed_mallocs(tmp_path: Path, ztrace: Command) -> None:
    kernel = Kernel()
    kernel.row("malloc", size=0, ret=-errno.EINVAL)
    kernel.row("malloc", size=4097, ret=-errno.ENOSPC)
    kernel.row("malloc", size=100, ret=-errno.ENOSPC)  # ztree would not
    kernel.row("malloc", size=100, ret=-errno.ENOMEM)
    kernel.row("malloc", ret=-errno.ENOMEM)
    kernel.row("malloc", size=100, ret=-errno.EIO)
    kernel.malloc(1000)
    result = run(tmp_path, kernel)
    errors = result.agreement("errors")
    assert (errors.equal, errors.compared) == (2, 3)
    assert errors.first == "row 2: malloc(100) failed with ENOSPC, model: 0x0"
    assert result.merged("failed") == {"EINVAL": 1, "ENOSPC": 2, "ENOMEM": 2, "EIO": 1}
    assert result.count("failed_enomem") == 2
    assert result.objects.end == 1
    assert result.held_bytes.end == 8192
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "errors equal: 2 of 3" in out
    assert "failed mallocs: EINVAL 1, ENOSPC 2, ENOMEM 2, EIO 1" in out


class Picky(Ztree):
    """A model that takes nothing above 3000 bytes."""

    def malloc(self, size: int) -> int:
        if size > 3000:
            raise OSError(errno.ENOSPC, "too big")
        return super().malloc(size)


def test_trace_of_another_allocator(tmp_path: Path, ztrace: Command) -> None:
    recording = Recording()
    for handle, size in ((0xFF00, 1000), (0xFF40, 3500)):
        recording.row("malloc", size=size, handle=handle, total=4096)
        recording.row("map", handle=handle)
        recording.row("unmap", handle=handle)
    recording.row("free", handle=0xFF40)
    recording.row("malloc", size=4090, ret=-errno.ENOSPC)
    result = run(tmp_path, recording, whole("zbud"), make_pool=Picky)
    assert result.agreement("handles").compared == result.agreement("errors").compared == 0
    assert result.count("refused") == 1
    assert result.merged("unknown") == {}
    assert (result.objects.peak, result.objects.end) == (1, 1)
    assert (result.at_end.kernel_total, result.at_end.model_total) == (4096, 8192)
    assert result.total_difference() == 4096
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "handles equal: not compared, the trace is not of ztree" in out


def test_model_that_refuses_what_the_kernel_took(tmp_path: Path) -> None:
    recording = Recording()
    recording.row("malloc", size=3500, handle=0)
    result = run(tmp_path, recording, make_pool=Picky)
    agreement = result.agreement("handles")
    assert (agreement.equal, agreement.compared) == (0, 1)
    assert agreement.first == "row 0: malloc(3500) gave 0x0, model: ENOSPC"


# -- input that must not pass, and input that is honest about what it lacks --------------------


@pytest.mark.parametrize("op", ["free", "map"])
def test_unknown_handle_in_a_whole_trace(op: str, tmp_path: Path, ztrace: Command) -> None:
    kernel = Kernel()
    kernel.malloc(100)
    kernel.row(op, handle=0xABC0)
    trace = kernel.recording.write(tmp_path / "t.parquet", whole())
    status, out, err = ztrace("replay", trace, "--backend", "ztree")
    assert (status, out) == (2, "")
    assert err.startswith(f"ztrace: {trace}: row 1: {op} of handle 0xabc0")
    assert err.count("\n") == 1


def test_an_object_may_be_unmapped_after_it_was_freed(tmp_path: Path) -> None:
    """As in the writeback of 6.1."""
    kernel = Kernel()
    handle = kernel.malloc(100)
    kernel.row("map", handle=handle)
    kernel.free(handle)
    kernel.row("unmap", handle=handle)
    assert run(tmp_path, kernel).merged("unknown") == {"unmap": 1}


def test_double_free_in_a_whole_trace(tmp_path: Path) -> None:
    kernel = Kernel()
    kernel.free(kernel.malloc(100))
    kernel.row("free", handle=0)
    with pytest.raises(ReplayError, match="row 2: free of handle 0x0"):
        run(tmp_path, kernel)


def lossy() -> Metadata:
    metadata = whole()
    metadata.lost = {"ring full": {"0": 3}}
    return metadata


def filtered() -> Metadata:
    metadata = whole()
    metadata.filters = {"comm": "stress"}
    return metadata


@pytest.mark.parametrize("metadata", [late, lossy, filtered, Metadata])
def test_unknown_handles_are_counted(
    metadata: Callable[[], Metadata], tmp_path: Path, ztrace: Command
) -> None:
    kernel = Kernel()
    kernel.malloc(100)
    for op in ("free", "free", "map"):
        kernel.row(op, handle=0xABC0)
    result = run(tmp_path, kernel, metadata())
    assert result.merged("unknown") == {"free": 2, "map": 1}
    assert result.objects.end == 1
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "unknown handles: free 2, map 1" in out
    assert f"lost events: {metadata().lost_total()}" in out
    assert ("not known to be empty" in out) == (not metadata().starts_empty())


@pytest.mark.parametrize("size", [5000, 0, None, 2**32 - 1])
def test_impossible_size(size: int | None, tmp_path: Path, ztrace: Command) -> None:
    kernel = Kernel()
    kernel.malloc(100)
    kernel.row("malloc", size=size, handle=16)
    for metadata in (whole(), late()):
        trace = kernel.recording.write(tmp_path / "t.parquet", metadata)
        status, _, err = ztrace("replay", trace, "--backend", "ztree")
        assert status == 2
        assert f"row 1: malloc of {size or 0} bytes succeeded" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("op", ["malloc", "free", "map", "unmap"])
def test_missing_handle(op: str, tmp_path: Path) -> None:
    recording = Recording()
    recording.row(op, size=100)
    with pytest.raises(ReplayError, match=f"row 0: {op} without a handle"):
        run(tmp_path, recording, late())


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_to_replay(rows: int, tmp_path: Path, ztrace: Command) -> None:
    recording = Recording()
    for _ in range(rows):
        recording.row("store", size=100)
    trace = recording.write(tmp_path / "t.parquet", whole())
    status, out, err = ztrace("replay", trace, "--backend", "ztree")
    assert (status, out) == (2, "")
    assert f"none of its {rows} rows is a malloc" in err


def test_handle_given_twice_in_a_whole_trace(tmp_path: Path) -> None:
    recording = Recording()
    recording.row("malloc", size=100, handle=0)
    recording.row("malloc", size=100, handle=0)
    with pytest.raises(ReplayError, match="row 1: malloc gave handle 0x0, which was still"):
        run(tmp_path, recording)
    recording.row("free", handle=0)
    with pytest.raises(ReplayError, match="row 1: malloc gave handle 0x0"):
        run(tmp_path, recording)


def test_handle_given_twice_after_a_lost_free(tmp_path: Path, ztrace: Command) -> None:
    recording = Recording()
    for _ in range(3):
        recording.row("malloc", size=100, handle=0)
        recording.row("map", handle=0)
    recording.row("free", handle=0)
    result = run(tmp_path, recording, lossy())
    assert result.count("reissued") == 2
    assert result.objects.end == result.stored_bytes.end == result.held_bytes.end == 0
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "old objects dropped: 2" in out
    assert "lost events: 3" in out


def test_lost_free_is_settled_without_another_free(tmp_path: Path) -> None:
    recording = Recording()
    for _ in range(2):
        recording.row("malloc", size=100, handle=0)
    recording.row("malloc", size=1000, handle=4 << 60)
    result = run(tmp_path, recording, late())
    assert result.count("reissued") == 1
    assert (result.objects.peak, result.objects.end) == (3, 2)
    assert result.pools[0].stats["classes"][0]["used_slots"] == 1


def test_free_that_returns_late_on_another_cpu(tmp_path: Path, ztrace: Command) -> None:
    recording = Recording()
    recording.row("malloc", size=100, handle=0)
    now = recording.now_ns
    recording.row("malloc", size=200, handle=0, cpu=1, ts_ns=now + 1000, dur_ns=1000)
    recording.row("map", handle=0, cpu=1)
    recording.row("unmap", handle=0, cpu=1)
    recording.row("free", handle=0, ts_ns=now + 900, dur_ns=9000)
    recording.row("free", handle=0, cpu=1)
    recording.rows[-1]["ts_ns"] += 10000
    result = run(tmp_path, recording)
    assert result.count("reissued") == 0
    assert (result.objects.peak, result.objects.end, result.stored_bytes.end) == (2, 0, 0)
    agreement = result.agreement("handles")
    assert (agreement.equal, agreement.compared) == (1, 2)
    assert result.hazards().keys() == {"H27"}
    _, out, _ = ztrace("replay", tmp_path / "trace.parquet", "--backend", "ztree")
    assert "recorded on 2 CPUs" in out
    assert "handles may differ" in " ".join(out.split())


def test_order_that_was_found_needs_no_warning(tmp_path: Path, ztrace: Command) -> None:
    recording = Recording()
    recording.row("malloc", size=100, handle=0)
    recording.row("free", handle=0, cpu=1)
    metadata = whole()
    metadata.order = "found"
    trace = recording.write(tmp_path / "t.parquet", metadata)
    assert "in recorded order" not in ztrace("replay", trace, "--backend", "ztree")[1]


def test_several_cpus_are_played_in_the_order_found(tmp_path: Path, ztrace: Command) -> None:
    """Two CPUs see no free slot at once (H5): only the found order gives both handles."""
    recording = Recording()
    recording.row("malloc", ts_ns=10, dur_ns=50, size=4000, handle=(15 << 60) + 16, cpu=1)
    recording.row("malloc", ts_ns=10, dur_ns=60, size=4000, handle=15 << 60)
    recording.row("free", ts_ns=100, handle=15 << 60)
    recording.row("free", ts_ns=110, handle=(15 << 60) + 16)
    trace = recording.write(tmp_path / "t.parquet", whole())
    found = ztrace("replay", trace, "--backend", "ztree")[1]
    assert "handles equal: 2 of 2" in found
    assert "in the order that ztrace validate finds" in " ".join(found.split())
    recorded = ztrace("replay", trace, "--backend", "ztree", "--recorded-order")[1]
    assert "handles equal: 0 of 2" in recorded
    assert "in recorded order" in " ".join(recorded.split())
    order = tmp_path / "order.parquet"
    assert ztrace("validate", trace, "--order", order)[0] == 0
    again = ztrace("replay", trace, "--backend", "ztree", "--order", order)[1]
    assert "handles equal: 2 of 2" in again
    assert ztrace("replay", trace, "--backend", "ztree", "--order", trace)[0] == 2


def test_another_page_size(tmp_path: Path) -> None:
    metadata = whole()
    metadata.machine.page_bytes = 16384
    with pytest.raises(ReplayError, match="pages of 16384 bytes, ztree models 4096"):
        run(tmp_path, nine_objects(), metadata)


def test_unknown_backend(tmp_path: Path, ztrace: Command) -> None:
    trace = nine_objects().write(tmp_path / "t.parquet", whole())
    status, _, err = ztrace("replay", trace, "--backend", "zthree")
    assert status == 2
    assert "no backend 'zthree'" in err


def test_what_is_no_trace(tmp_path: Path, ztrace: Command) -> None:
    path = tmp_path / "no.parquet"
    assert ztrace("replay", path, "--backend", "ztree")[0] == 2
    path.write_text("ts_ns,op\n")
    assert ztrace("replay", path, "--backend", "ztree")[0] == 2


def test_extreme_values_do_no_harm(tmp_path: Path) -> None:
    recording = Recording()
    recording.row("malloc", size=1, handle=2**64 - 1, total=2**64 - 1, ts_ns=-(2**63))
    recording.row("map", handle=2**64 - 1, ts_ns=2**63 - 1, dur_ns=2**32 - 1, tid=2**32 - 1)
    recording.row("shrink", size=2**32 - 1, ret=2**31 - 1, ts_ns=5, pool=3)
    recording.row("malloc", size=1, ret=-(2**31), ts_ns=0)
    recording.row("free", handle=2**64 - 1, total=0, ts_ns=-5, tid=8, cpu=2**16 - 1)
    result = run(tmp_path, recording, every=Every(percent=10))
    assert result.objects.end == 0
    assert len(result.series) == 10
    json.dumps(result.to_dict(), allow_nan=False)


def test_time_that_steps_back(tmp_path: Path) -> None:
    recording = Recording()
    recording.row("malloc", size=100, handle=0, ts_ns=10_000)
    recording.row("malloc", size=100, handle=1, ts_ns=5_000, tid=8)  # stopped before its row
    recording.row("free", handle=0, ts_ns=20_000)
    result = run(tmp_path, recording, every=Every(ns=5_000))
    assert (result.first_ns, result.last_ns) == (5_000, 20_100)
    assert result.objects.mean == pytest.approx(2 * 10_000 / 15_100)
    assert [m.objects for m in result.series] == [0, 2, 2, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_any_rows_give_a_result_or_one_line(tmp: Path, seed: int, is_whole: bool) -> None:
    draw = random.Random(seed)
    recording = Recording()
    for _ in range(draw.randrange(60)):
        recording.row(
            draw.choice(OPS),
            pool=draw.choice((0, 0, 0, 1)),
            size=draw.choice((None, 1, 256, 2000, 4096) if draw.random() < 0.1 else (256, 4096)),
            handle=draw.choice((0, 1, TOP, TOP + 1, None if draw.random() < 0.05 else TOP + 2)),
            ret=draw.choice((0, 0, 0, 0, -12, -22, -28, 3)),
            total=draw.choice((None, 0, 4096)),
            dur_ns=draw.choice((100, 5000)),
            tid=draw.choice((7, 8)),
            cpu=draw.choice((0, 1)),
        )
    try:
        result = run(tmp, recording, whole() if is_whole else late())
    except ReplayError as error:
        assert "\n" not in str(error)
        return
    assert result.objects.end >= 0
    assert result.stored_bytes.end >= 0
    json.dumps(result.to_dict(), allow_nan=False)


# -- backends ---------------------------------------------------------------------------------


def test_every_pool_gets_a_model_of_its_own(tmp_path: Path) -> None:
    made: list[Pool] = []

    def make() -> Pool:
        made.append(create("ztree"))
        return made[-1]

    kernel = Kernel()
    kernel.malloc(100)
    Kernel(1, kernel.recording).malloc(200)
    result = run(tmp_path, kernel, whole("ztree", "ztree"), make_pool=make)
    assert [pool.stats["blocks_inserted"] for pool in result.pools] == [1, 1]
    assert result.objects.end == 2
