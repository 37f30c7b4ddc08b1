# SPDX-License-Identifier: GPL-2.0-only
"""The recorder in a real kernel: whatever ends it, the probes are gone and the data are there."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.guests import Watch
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.placement_verdict import PoolPlacement
from ztrace.tracer.convert import convert
from ztrace.tracer.lab.debian import fetch_kernel
from ztrace.tracer.lab.qemu import GuestSize, run_guest
from ztrace.tracer.lab.workloads import WORKLOADS, compile_workload
from ztrace.traces import TraceReader

pytestmark = pytest.mark.kernel

ENDS = ("interrupted", "timed", "killed", "hungup", "oom", "terminated", "small", "full")
"""The ways to end that the guest's script goes through."""

SCRIPT = Path(__file__).parent / "guest" / "recorder.sh"


def boot(folder: Path, patch: Path | None, watch: Watch) -> None:
    """Everything in one guest, whose script leaves its results in the folder."""
    compile_workload(WORKLOADS["known23"], folder)
    compile_workload(WORKLOADS["bursts"], folder)
    shutil.copytree(SCRIPT.parent, folder, dirs_exist_ok=True)
    (folder / "run").write_text(
        f'PYTHON={sys.executable}\nZTRACE="$PYTHON -m ztrace"\n. /job/{SCRIPT.name}\n'
    )
    run_guest(fetch_kernel("6.1"), folder, GuestSize(), ["z3fold"], watch=watch)
    # Traces are made of the spools here: in the guest it takes half a minute each.
    for spool in folder.glob("*.spool"):
        convert(spool, spool.with_suffix(""))


GUESTS = {"recorder": boot}


@pytest.fixture(scope="module")
def job(guest: Callable[[str], Path]) -> Path:
    return guest("recorder")


def read(job: Path, name: str) -> str:
    return (job / name).read_text().strip()


def stores(path: Path) -> int:
    """Successful ones: those that the kernel counts."""
    rows = pq.read_table(path, columns=["op", "ret"]).to_pylist()
    return sum(row["op"] == "store" and row["ret"] == 0 for row in rows)


def counted(job: Path, name: str) -> int:
    """Stores that the kernel counted from the recording's beginning to after its end."""
    return int(read(job, f"{name}.to")) - int(read(job, f"{name}.from"))


def fresh_pool(path: Path, note: str) -> PoolPlacement:
    """The one pool made for a recording, played through its model; ``note`` is said of it."""
    with TraceReader(path) as trace:
        assert note in trace.metadata.notes[0]
        [made] = [pool for pool in validate_trace(trace).pools if pool.starts_empty]
        assert trace.metadata.pools[made.pool].created_in_recording
    assert made.agrees
    return made


def test_doctor_says_that_recording_works(job: Path) -> None:
    findings = json.loads(read(job, "doctor.json"))
    assert findings["record"] is True
    [symbols] = [one for one in findings["findings"] if one["name"] == "symbols"]
    # 5 of zswap, 7 of zpool and z3fold's compaction; zsmalloc is not loaded.
    assert symbols["found"] == "13 of 13 probe points"
    assert not symbols["remedy"]


@pytest.mark.parametrize("name", ENDS)
def test_probes_are_there_while_recording_and_gone_after(job: Path, name: str) -> None:
    before = int(read(job, "before"))
    assert int(read(job, f"{name}.probes")) > before
    assert int(read(job, f"{name}.after")) == before


@pytest.mark.parametrize("name", ENDS)
def test_zswap_is_left_as_it_was(job: Path, name: str) -> None:
    assert read(job, f"{name}.parameters") == read(job, "parameters.before")


def test_what_each_end_cost(job: Path) -> None:
    """The table of docs/recording.md, shown by pytest -s. More than was done is nowhere."""
    print("\nend          counted  recorded    lost  missing  last event before the kill")
    for name in ENDS:
        path = job / f"{name}.parquet"
        with TraceReader(path) as trace:
            lost = trace.metadata.lost_total()
        recorded = stores(path)
        missing = counted(job, name) - recorded
        print(f"{name:12} {counted(job, name):7,} {recorded:9,} {lost:7,} {missing:8,}", end="")
        if (job / f"{name}.moment").exists():
            last_ns = int(pq.read_table(path, columns=["ts_ns"])["ts_ns"].to_numpy().max())
            print(f"  {float(read(job, f'{name}.moment')) - last_ns / 1e9:.2f} s", end="")
        print()
        assert missing >= 0
        if name in ("interrupted", "hungup", "terminated"):
            assert missing == 0


@pytest.mark.parametrize("name", ["interrupted", "timed"])
def test_a_recording_that_is_ended_is_whole(job: Path, name: str) -> None:
    with TraceReader(job / f"{name}.parquet") as trace:
        assert trace.metadata.lost_total() == 0
        assert not any("cut off" in note for note in trace.metadata.notes)
        assert all(one.agrees for one in trace.metadata.counters.check)


def test_the_trace_is_written_at_the_end(job: Path) -> None:
    assert read(job, "timed.status") == "0"
    assert not (job / "timed.parquet.spool").exists()
    assert "lost 0" in read(job, "timed.out")


def test_a_second_ctrl_c_leaves_the_trace_or_the_spool(job: Path) -> None:
    status = read(job, "interrupted.status")
    if (job / "interrupted.parquet.spool").exists():
        assert status == "2"
        assert "ztrace recover" in read(job, "interrupted.err")
    else:
        assert status == "0"


def test_an_empty_zswap_makes_a_fresh_pool_of_the_same_compressor(job: Path) -> None:
    pool = fresh_pool(job / "interrupted.parquet", "zswap was empty and made a new pool")
    assert pool.places.equal == pool.places.compared == 23


def test_a_fresh_pool_above_an_old_one_is_seen_from_its_first_call(job: Path) -> None:
    assert read(job, "hungup.during") == "lzo-rle"
    pool = fresh_pool(job / "hungup.parquet", "of compressor lzo-rle")
    assert pool.places.equal == pool.places.compared == 23


def test_pool_swap_and_module_may_go_away_while_recording(job: Path) -> None:
    assert read(job, "terminated.status") == "0"
    assert read(job, "terminated.modules") == "0"
    assert stores(job / "terminated.parquet") == 3 * 23
    with TraceReader(job / "terminated.parquet") as trace:
        assert trace.metadata.lost_total() == 0
        # Back to the first compressor: the first pool was gone, as nothing was left in it.
        assert len(trace.metadata.pools) >= 2
        assert all(one.agrees for one in trace.metadata.counters.check)


def test_what_a_small_ring_loses_is_counted_to_the_event(job: Path) -> None:
    with TraceReader(job / "small.parquet") as trace:
        assert trace.metadata.lost_total() > 0
        checks = {one.counter: one for one in trace.metadata.counters.check}
    for counter in ("vmstat.zswpout", "vmstat.zswpin"):
        check = checks[counter]
        assert check.kernel_least == check.kernel_most
        assert check.recorded + check.lost == check.kernel_most
        assert not check.perhaps_lost
        assert check.agrees
    assert checks["vmstat.zswpout"].lost > 0


def test_a_closed_terminal_ends_the_recording_and_loses_nothing(job: Path) -> None:
    # 120: Python had nowhere to write its last line to.
    assert read(job, "hungup.status").splitlines()[-1] in ("0", "120")
    assert stores(job / "hungup.parquet") == 23


def test_a_full_disk_ends_the_recording_and_keeps_what_was_written(job: Path) -> None:
    assert read(job, "full.status") == "2"
    assert "No space left" in read(job, "full.err")
    assert "ztrace recover" in read(job, "full.err")
    assert stores(job / "full.parquet") > 100
    with TraceReader(job / "full.parquet") as trace:
        assert "cut off" in trace.metadata.notes[0]


def test_the_file_belongs_to_who_called_sudo_and_to_nobody_else(job: Path) -> None:
    assert read(job, "timed.owner") == "1234 2345 600"


@pytest.mark.parametrize("name", ["killed", "oom"])
def test_a_killed_recorders_spool_has_all_but_the_end(job: Path, name: str) -> None:
    """Under load: what there is has no gap, as the model makes each object's place of it."""
    assert read(job, f"{name}.status") == "137"
    assert 500 <= stores(job / f"{name}.parquet") <= counted(job, name)
    with TraceReader(job / f"{name}.parquet") as trace:
        assert "cut off" in trace.metadata.notes[-1]
        assert trace.metadata.lost_total() == 0
        [pool] = [pool for pool in validate_trace(trace).pools if pool.starts_empty]
    assert pool.places.equal == pool.places.compared >= 500
    assert pool.agrees


def test_it_was_the_oom_killer(job: Path) -> None:
    assert read(job, "oom.count") == "1"


def test_a_killed_recorder_does_not_leave_another_compressor_behind(job: Path) -> None:
    assert read(job, "killed.during") == "lzo-rle"
    assert "compressor:lzo\n" in (job / "killed.parameters").read_text()


def test_a_second_recorder_does_not_touch_the_spool_of_a_killed_one(job: Path) -> None:
    assert read(job, "killed.mode") == "600"
    assert read(job, "again.status") == "2"
    assert "ztrace recover" in read(job, "again.err")


def test_an_existing_file_is_not_replaced(job: Path) -> None:
    assert read(job, "exists.status") == "2"
    assert "--force" in read(job, "exists.err")
    assert read(job, "exists.same") == "0"
