# SPDX-License-Identifier: GPL-2.0-only
"""The recorder in a real kernel: whatever ends it, the probes are gone and the data are there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tracer.convert import convert
from tracer.lab.debian import fetch_kernel
from tracer.lab.qemu import GuestSize, run_guest
from tracer.lab.workloads import WORKLOADS, compile_workload
from traces import TraceReader

pytestmark = pytest.mark.kernel

ENDS = ("interrupted", "timed", "killed", "terminated", "small", "hungup", "full")
"""The ways to end that the guest's script goes through."""

SCRIPT = Path(__file__).parent / "guest" / "recorder.sh"


@pytest.fixture(scope="module")
def job(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the guest's script has left its results in."""
    folder = tmp_path_factory.mktemp("recorder")
    compile_workload(WORKLOADS["known23"], folder)
    compile_workload(WORKLOADS["bursts"], folder)
    shutil.copy(SCRIPT, folder / "script")
    shutil.copy(SCRIPT.with_name("hangup.py"), folder)
    (folder / "run").write_text(f'export ZTRACE="{sys.executable} -m ztrace"\n. /job/script\n')
    run_guest(fetch_kernel("6.1"), folder, GuestSize(), ["z3fold"], watch=print)
    # Traces are made of the spools here: in the guest it takes half a minute each.
    for spool in folder.glob("*.spool"):
        convert(spool, spool.with_suffix(""))
    return folder


def read(job: Path, name: str) -> str:
    return (job / name).read_text().strip()


def stores(path: Path) -> int:
    ops: list[str] = pq.read_table(path, columns=["op"])["op"].to_pylist()
    return ops.count("store")


def test_doctor_says_that_recording_works(job: Path) -> None:
    findings = json.loads(read(job, "doctor.json"))
    assert findings["record"] is True
    [symbols] = [one for one in findings["findings"] if one["name"] == "symbols"]
    assert symbols["found"] == "13 of 13 probe points"


@pytest.mark.parametrize("name", ENDS)
def test_probes_are_there_while_recording_and_gone_after(job: Path, name: str) -> None:
    before = int(read(job, "before"))
    assert int(read(job, f"{name}.probes")) > before
    assert int(read(job, f"{name}.after")) == before


@pytest.mark.parametrize("name", ["interrupted", "timed"])
def test_a_recording_that_is_ended_is_whole(job: Path, name: str) -> None:
    with TraceReader(job / f"{name}.parquet") as trace:
        assert trace.metadata.lost_total() == 0
        assert not trace.metadata.notes


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


def test_pool_swap_and_module_may_go_away_while_recording(job: Path) -> None:
    assert read(job, "terminated.status") == "0"
    assert read(job, "terminated.modules") == "0"
    assert stores(job / "terminated.parquet") == 3 * 23
    with TraceReader(job / "terminated.parquet") as trace:
        assert trace.metadata.lost_total() == 0
        # Back to the first compressor: the first pool was gone, as nothing was left in it.
        assert len(trace.metadata.pools) >= 2
        assert all(one.agrees for one in trace.metadata.counters.check)
    assert read(job, "parameters.after") == read(job, "parameters.before")


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


def test_a_killed_recorders_spool_becomes_a_trace(job: Path) -> None:
    assert read(job, "killed.status") == "137"
    with TraceReader(job / "killed.parquet") as trace:
        assert "cut off" in trace.metadata.notes[0]
    assert read(job, "killed.mode") == "600"
    # A second recorder does not touch the first one's spool, and says what to do with it.
    assert read(job, "again.status") == "2"
    assert "ztrace recover" in read(job, "again.err")
    assert stores(job / "killed.parquet") == 23


def test_an_existing_file_is_not_replaced(job: Path) -> None:
    assert read(job, "exists.status") == "2"
    assert "--force" in read(job, "exists.err")
    assert read(job, "exists.same") == "0"
