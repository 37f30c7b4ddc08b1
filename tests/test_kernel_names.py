# SPDX-License-Identifier: GPL-2.0-only
"""Functions that a compiler renamed, and a tracefs that may not be read, in a running kernel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.guests import Watch
from ztrace.replay.validate import validate_trace
from ztrace.tracer.convert import convert
from ztrace.tracer.lab.debian import fetch_kernel
from ztrace.tracer.lab.qemu import GuestSize, run_guest
from ztrace.tracer.lab.workloads import WORKLOADS, compile_workload
from ztrace.traces import TraceReader

pytestmark = pytest.mark.kernel

SCRIPT = Path(__file__).parent / "guest" / "names.sh"

RENAMED = {
    "llvm": "do_compact_page=do_compact_page.llvm.8012345",
    "isra": "do_compact_page=do_compact_page.isra.0",
    "twice": "__z3fold_alloc=do_compact_page",
}
"""What becomes of a name in z3fold's module, as other compilers and modules have it."""


def boot(folder: Path, patch: Path | None, watch: Watch) -> None:
    """All modules in one guest; then it is locked down."""
    kernel = fetch_kernel("6.1")
    module = kernel.modules / "kernel" / "mm" / "z3fold.ko"
    for name, change in RENAMED.items():
        made = folder / f"z3fold-{name}.ko"
        subprocess.run(["objcopy", "--redefine-sym", change, module, made], check=True)
    compile_workload(WORKLOADS["bursts"], folder)
    shutil.copy(SCRIPT, folder)
    (folder / "run").write_text(f'ZTRACE="{sys.executable} -m ztrace"\n. /job/{SCRIPT.name}\n')
    run_guest(kernel, folder, GuestSize(), watch=watch)
    for spool in folder.glob("*.spool"):
        convert(spool, spool.with_suffix(""))


GUESTS = {"names": boot}


@pytest.fixture(scope="module")
def job(guest: Callable[[str], Path]) -> Path:
    return guest("names")


def compactions(path: Path) -> int:
    ops: list[str] = pq.read_table(path, columns=["op"])["op"].to_pylist()
    return ops.count("compact")


def test_a_name_of_link_time_optimisation_is_probed(job: Path) -> None:
    assert (job / "llvm.kallsyms").read_text() == "do_compact_page.llvm.8012345\n"
    assert "not probed" not in (job / "llvm.err").read_text()
    path = job / "llvm.parquet"
    with TraceReader(path) as trace:
        assert not any("not probed" in note for note in trace.metadata.notes)
        assert trace.metadata.probes["compact"].kind == "kprobe"
        [pool] = [one for one in validate_trace(trace).pools if one.calls]
    assert compactions(path) > 50
    assert pool.agrees and not pool.compactions_unmatched
    assert pool.places.equal == pool.places.compared > 200


@pytest.mark.parametrize(
    ("name", "kallsyms", "why"),
    [
        (
            "isra",
            ["do_compact_page.isra.0"],
            "compiled as do_compact_page.isra.0: an argument is gone or passed in parts",
        ),
        ("twice", ["do_compact_page"] * 2, "2 functions of that name"),
    ],
)
def test_what_cannot_be_probed_is_done_without_and_told(
    job: Path, name: str, kallsyms: list[str], why: str
) -> None:
    assert (job / f"{name}.kallsyms").read_text().split() == kallsyms
    assert (job / f"{name}.status").read_text() == "0\n"
    lack = f"do_compact_page (compact) is not probed: {why}"
    assert lack in (job / f"{name}.err").read_text()
    path = job / f"{name}.parquet"
    assert compactions(path) == 0
    with TraceReader(path) as trace:
        assert lack in trace.metadata.notes
        assert trace.metadata.lost_total() == 0
        assert all(one.agrees for one in trace.metadata.counters.check)
    shown = subprocess.run(
        [sys.executable, "-m", "ztrace", "validate", path], capture_output=True, text=True
    )
    assert lack in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("user", "NO tracefs only root may read it (Permission denied) -> run it as root"),
        ("locked", "NO tracefs the kernel is locked down (Operation not permitted) -> boot with"),
    ],
)
def test_who_may_not_read_tracefs_is_not_told_to_mount_it(job: Path, who: str, said: str) -> None:
    doctor, record = ((job / f"{name}-{who}").read_text() for name in ("doctor", "record"))
    assert said in " ".join(doctor.split())
    assert "mount -t" not in doctor + record
    assert (job / f"doctor-{who}.status").read_text() == "1\n"
    assert (job / f"record-{who}.status").read_text() == "2\n"
    assert record.count("\n") == 1
    assert {"user": "needs root", "locked": "the kernel is locked down"}[who] in record
