# SPDX-License-Identifier: GPL-2.0-only
"""Writing: what is in the file, how big it is, and what is left when writing fails."""

from __future__ import annotations

import errno
import io
import os
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ztrace.traces import (
    OP_CODE,
    SCHEMA,
    AtomicFile,
    Metadata,
    TraceError,
    TraceReader,
    TraceWriter,
)
from ztrace.traces.schema import conform
from ztrace.traces.writer import ENCODINGS, ROW_GROUP_ROWS, open_parquet

ONE = {"ts_ns": np.array([1]), "op": np.array([4], np.int8)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, *batches: Any, force: bool = False) -> None:
    with TraceWriter(path, Metadata(), force=force) as writer:
        for batch in batches:
            writer.write(batch)


def synthetic(stores: int, seed: int = 1) -> pa.RecordBatch:
    """A plausible trace: every store is malloc, map, unmap, store of one handle and size; half
    of the stores later bring free and invalidate. Steps are random microseconds."""
    rng = np.random.default_rng(seed)
    handles = 0xFFFF888100000000 + rng.integers(0, 1 << 25, stores).astype(np.uint64) * np.uint64(
        64
    )
    sizes = np.clip(rng.lognormal(7.1, 0.6, stores), 40, 4096).astype(np.int64)
    keys = np.cumsum(rng.choice([1, 1, 1, 1, 977], stores))
    rows: list[tuple[int, int, int | None, int | None, int, int]] = []
    live: list[int] = []
    for i in range(stores):
        handle, size, key = int(handles[i]), int(sizes[i]), int(keys[i])
        rows.append((OP_CODE["malloc"], handle, size, None, 700, i))
        rows.append((OP_CODE["map"], handle, None, None, 120, i))
        rows.append((OP_CODE["unmap"], handle, None, None, 100, i))
        rows.append((OP_CODE["store"], handle, size, key, 9000, i))
        live.append(i)
        if i % 2:
            gone = live.pop(int(rng.integers(len(live))))
            rows.append((OP_CODE["free"], int(handles[gone]), None, None, 300, i))
            rows.append((OP_CODE["invalidate"], int(handles[gone]), None, int(keys[gone]), 600, i))
    op, handle_, size_, key_, typical, step = zip(*rows, strict=True)
    dur = (rng.gamma(4, 0.25, len(rows)) * np.array(typical)).astype(np.uint32) + 30
    return conform(
        {
            "ts_ns": 10**12 + np.cumsum(rng.gamma(1.5, 1200, len(rows)).astype(np.int64) + dur),
            "dur_ns": dur,
            "op": np.array(op, np.int8),
            "key": pa.array(key_, pa.uint64()),
            "size": pa.array(size_, pa.uint32()),
            "handle": pa.array(handle_, pa.uint64()),
            "cpu": np.array(step, np.int64) // 20 % 4,
            "tid": 1200 + np.array(step, np.int64) // 20 % 12,
        },
        where="synthetic",
    )


def test_known_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, {**ONE, "handle": np.array([2**64 - 1], np.uint64), "ret": [-12]})
    table = pq.read_table(path)
    assert table.schema.names == SCHEMA.names
    assert table.column("handle").to_pylist() == [2**64 - 1]
    assert table.column("op").to_pylist() == ["malloc"]
    assert table.column("ret").to_pylist() == [-12]
    assert table.column("cgroup").to_pylist() == [None]


def test_empty_trace(tmp_path: Path) -> None:
    write(tmp_path / "t.parquet")
    with TraceReader(tmp_path / "t.parquet") as reader:
        assert reader.num_rows == 0
        assert list(reader.batches()) == []


def test_metadata_counts_until_the_end(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t.parquet", Metadata()) as writer:
        writer.write(ONE)
        writer.metadata.lost["ring full"] = {"0": 7}
    with TraceReader(tmp_path / "t.parquet") as reader:
        assert reader.metadata.lost_total() == 7


def test_row_groups_whatever_the_batches(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    total = 2 * ROW_GROUP_ROWS + 1000
    ts = np.arange(total)
    op = np.zeros(total, np.int8)
    cuts = [0, 1, 1, 5000, ROW_GROUP_ROWS + 3, total]
    with TraceWriter(path, Metadata()) as writer:
        for a, b in pairwise(cuts):
            writer.write({"ts_ns": ts[a:b], "op": op[a:b]})
            assert writer._pending_rows < ROW_GROUP_ROWS
        assert writer.rows == total
    footer = pq.ParquetFile(path).metadata
    groups = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    assert groups == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 1000]
    assert pq.read_table(path).column("ts_ns").to_numpy().tolist() == ts.tolist()


def test_bytes_per_row(tmp_path: Path) -> None:
    batch = synthetic(20_000)
    write(tmp_path / "t.parquet", batch)
    assert (tmp_path / "t.parquet").stat().st_size / batch.num_rows <= 7
    assert pq.read_table(tmp_path / "t.parquet").cast(SCHEMA).to_batches()[0].equals(batch)


def test_encodings_are_a_parameter() -> None:
    batch = synthetic(5_000)
    sizes = {}
    for how in ("PLAIN", "DELTA_BINARY_PACKED"):
        sink = io.BytesIO()
        with open_parquet(sink, encodings={**ENCODINGS, "ts_ns": how}) as parquet:
            parquet.write_batch(batch)
        sizes[how] = len(sink.getvalue())
    assert sizes["DELTA_BINARY_PACKED"] < sizes["PLAIN"]


def test_every_column_has_an_encoding() -> None:
    assert list(ENCODINGS) == SCHEMA.names


def test_file_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write(tmp_path / "t.parquet", ONE)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "t.parquet").stat().st_mode) == 0o600


def test_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"mine")
    with pytest.raises(TraceError, match=r"t\.parquet exists; --force replaces it"):
        write(path, ONE)
    assert path.read_bytes() == b"mine"
    write(path, ONE, force=True)
    assert pq.read_table(path).num_rows == 1
    assert names(tmp_path) == ["t.parquet"]


def test_existing_file_is_refused_before_the_work(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.touch()
    with pytest.raises(TraceError, match="exists"), AtomicFile(path):
        raise AssertionError("the block must not run")


def test_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with (
        pytest.raises(TraceError, match="exists"),
        TraceWriter(path, Metadata()) as writer,
    ):
        writer.write(ONE)
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["t.parquet"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("dangling", [False, True])
def test_symbolic_link_is_refused(tmp_path: Path, force: bool, dangling: bool) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_bytes(b"mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(TraceError, match="symbolic link"):
        write(link, ONE, force=force)
    assert link.is_symlink() and target.exists() != dangling
    assert dangling or target.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["directory", "fifo"])
def test_only_regular_files_are_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name == "directory" else os.mkfifo(path)
    with pytest.raises(TraceError, match="not a regular file"):
        write(path, ONE, force=True)
    assert names(tmp_path) == [name]


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot write: No such file or directory"):
        write(tmp_path / "no" / "t.parquet", ONE)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"ts_ns": [1], "op": [99]}, "row 1: op is 99"),
        ({"ts_ns": [1], "op": [0], "sise": [1]}, "no trace column is called 'sise'"),
        ({"ts_ns": [1]}, "no column op"),
    ],
    ids=str,
)
def test_nothing_is_left_after_a_bad_batch(
    tmp_path: Path, batch: dict[str, Any], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        write(tmp_path / "t.parquet", ONE, batch)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError, BrokenPipeError])
def test_nothing_is_left_after_an_exception(tmp_path: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind), TraceWriter(tmp_path / "t.parquet", Metadata()) as writer:
        writer.write(ONE)
        assert len(names(tmp_path)) == 1, "the temporary file is beside the target"
        raise kind
    assert names(tmp_path) == []


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TraceError, match="cannot write: No space left on device"):
        write(tmp_path / "t.parquet", ONE)
    assert names(tmp_path) == []


def test_write_error_inside_parquet_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(TraceError, match="cannot write"),
        TraceWriter(tmp_path / "t.parquet", Metadata()) as writer,
    ):
        writer.write(ONE)
        assert writer._target._file is not None
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, writer._target._file.fileno())
        os.close(full)
    assert names(tmp_path) == []


def test_use_outside_of_the_block(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        TraceWriter(tmp_path / "t.parquet", Metadata()).write(ONE)


def test_longest_file_name(tmp_path: Path) -> None:
    name = "x" * 255
    with AtomicFile(tmp_path / name) as file:
        file.write(b"1")
    assert names(tmp_path) == [name]
