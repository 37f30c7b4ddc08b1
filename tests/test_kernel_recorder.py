# SPDX-License-Identifier: GPL-2.0-only
"""The recorder in a real kernel: whatever ends it, the probes are gone and the data are there."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tracer.lab.debian import fetch_kernel
from tracer.lab.qemu import GuestSize, run_guest
from tracer.lab.workloads import WORKLOADS, compile_workload
from traces import TraceReader

pytestmark = pytest.mark.kernel

SCRIPT = Path(__file__).parent / "guest" / "recorder.sh"


@pytest.fixture(scope="module")
def job(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the guest's script has left its results in."""
    folder = tmp_path_factory.mktemp("recorder")
    compile_workload(WORKLOADS["known23"], folder)
    shutil.copy(SCRIPT, folder / "script")
    (folder / "run").write_text(f'export ZTRACE="{sys.executable} -m ztrace"\n. /job/script\n')
    run_guest(fetch_kernel("6.1"), folder, GuestSize(), watch=print)
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
    assert symbols["found"] == "12 of 12 probe points"


@pytest.mark.parametrize("name", ["interrupted", "timed", "killed"])
def test_probes_are_there_while_recording_and_gone_after(job: Path, name: str) -> None:
    before = int(read(job, "before"))
    assert int(read(job, f"{name}.probes")) > before
    assert int(read(job, f"{name}.after")) == before


@pytest.mark.parametrize("name", ["interrupted", "timed"])
def test_a_recording_that_is_ended_is_whole(job: Path, name: str) -> None:
    assert read(job, f"{name}.status") == "0"
    with TraceReader(job / f"{name}.parquet") as trace:
        assert trace.metadata.lost_total() == 0
        assert not trace.metadata.notes
    assert stores(job / f"{name}.parquet") == 23
    assert not (job / f"{name}.parquet.spool").exists()
    assert "lost 0" in read(job, f"{name}.out")


def test_the_file_belongs_to_who_called_sudo_and_to_nobody_else(job: Path) -> None:
    assert read(job, "timed.owner") == "1234 2345 600"


def test_a_killed_recorders_spool_becomes_a_trace(job: Path) -> None:
    assert read(job, "killed.status") == "137"
    assert not (job / "killed.parquet").exists()
    assert read(job, "killed.mode") == "600"
    # A second recorder does not touch the first one's spool, and says what to do with it.
    assert read(job, "again.status") == "2"
    assert "ztrace recover" in read(job, "again.err")
    assert read(job, "recovered.status") == "0"
    assert stores(job / "recovered.parquet") == 23
    assert not (job / "killed.parquet.spool").exists()


def test_an_existing_file_is_not_replaced(job: Path) -> None:
    assert read(job, "exists.status") == "2"
    assert "--force" in read(job, "exists.err")
    assert read(job, "exists.same") == "0"
