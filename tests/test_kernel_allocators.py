# SPDX-License-Identifier: GPL-2.0-only
"""Kernels, allocators and zram, recorded now: what was recorded is all there was, and every
object lies where the model puts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.guests import Watch
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.placement_verdict import Way
from ztrace.tracer.lab.matrix import Cell
from ztrace.tracer.lab.qemu import GuestSize
from ztrace.tracer.lab.session import Setup, record_in_guest
from ztrace.tracer.lab.together import record_together
from ztrace.traces import TraceReader

pytestmark = pytest.mark.kernel

CELLS = {
    "6.1": [Cell("6.1", "z3fold"), Cell("6.1", "zram")],
    "6.12": [Cell("6.12", "zsmalloc"), Cell("6.12", "zram")],
    "7.2": [Cell("7.2", "zsmalloc"), Cell("7.2", "zram")],
}
"""What is recorded in one boot each; all there is: ztrace lab matrix."""

# Kernels with type information of what is called, and no preemption inside: the others are
# kprobes, as 6.1's zsmalloc is a module and 7.2 preempts.
FENTRY = {("6.1", "z3fold"), ("6.12", "zsmalloc"), ("6.12", "zram")}

PAGES = 23


def boot(kernel: str, folder: Path, patch: Path | None, watch: Watch) -> None:
    """A kernel's cells, one after another."""
    setups = {folder / cell.file_name: cell.setup("known23") for cell in CELLS[kernel]}
    for error in record_together(setups, watch=watch).values():
        raise error


def boot_three(folder: Path, patch: Path | None, watch: Watch) -> None:
    """z3fold on three CPUs, with what is done to its lists."""
    size = GuestSize(cpus=3)
    setup = Setup("6.1", "z3fold", "bursts-small", size=size, record_options=("--lists",))
    record_in_guest(setup, folder / "t.parquet", watch=watch)


GUESTS = {kernel: partial(boot, kernel) for kernel in CELLS} | {"three": boot_three}


@pytest.mark.parametrize(
    "cell", [cell for row in CELLS.values() for cell in row], ids=lambda cell: "-".join(cell)
)
def test_known_workload(cell: Cell, guest: Callable[[str], Path]) -> None:
    path = guest(cell.kernel) / cell.file_name
    with TraceReader(path) as trace:
        metadata = trace.metadata
        assert metadata.kernel.release.startswith(cell.kernel)
        assert metadata.lost_total() == 0
        assert metadata.counters.check
        assert all(one.agrees for one in metadata.counters.check)
        [pool] = validate_trace(trace).pools
    if cell.backend == "zram":
        known_of_zram(path)
    else:
        known_of_zswap(path)
    # Where a task can be preempted inside the kernel, fentry would lose events.
    kinds = {op: probe.kind for op, probe in metadata.probes.items()}
    assert kinds["malloc"] == ("fentry" if tuple(cell) in FENTRY else "kprobe")
    assert pool.allocator == ("zsmalloc" if cell.backend == "zram" else cell.backend)
    assert pool.places.equal == pool.places.compared >= PAGES
    assert pool.sizes.equal == pool.sizes.compared >= 2 * PAGES
    assert pool.agrees


def known_of_zswap(path: Path) -> None:
    rows = pq.read_table(path, columns=["op", "key", "ret"]).to_pylist()
    ops = Counter(row["op"] for row in rows)
    assert ops["store"] == ops["malloc"] == ops["load"] == ops["free"] == PAGES
    assert len({row["key"] for row in rows if row["op"] == "store"}) == PAGES
    assert {row["ret"] for row in rows if row["op"] in ("store", "malloc")} == {0}


def known_of_zram(path: Path) -> None:
    """A store shows as its malloc. mkswap, outside of the workload's group, wrote the header."""
    rows = pq.read_table(path, columns=["op", "key", "cgroup", "ret"]).to_pylist()
    mallocs = [row for row in rows if row["op"] == "malloc"]
    header, pages = mallocs[0], mallocs[1:]
    assert header["key"] == 0
    assert len({row["key"] for row in pages}) == len(pages) == PAGES
    [group] = {row["cgroup"] for row in pages}
    assert group != header["cgroup"]
    assert {row["ret"] for row in mallocs} == {0}
    # All is read back, where reads can be probed as such; the header's page stays.
    ours = [row for row in rows if row["cgroup"] == group]
    loads = {row["key"] for row in ours if row["op"] == "load"}
    assert not loads or loads == {row["key"] for row in pages}
    # Objects are mapped to be read, until 6.14 also to be written.
    assert sum(row["op"] == "map" for row in ours) in (PAGES, 2 * PAGES)
    assert sum(row["op"] == "free" for row in rows) == PAGES


def test_z3fold_on_three_cpus_is_explained_call_for_call(guest: Callable[[str], Path]) -> None:
    with TraceReader(guest("three") / "t.parquet") as trace:
        assert trace.metadata.lost_total() == 0
        assert all(one.agrees for one in trace.metadata.counters.check)
        [pool] = validate_trace(trace).pools
    assert pool.order == Way.LISTED and pool.agrees and pool.undetermined == 0
    assert pool.places.equal == pool.places.compared > 5000
    assert pool.lists.equal == pool.lists.compared > 5000
    assert len(pool.cpus) > 1 and pool.compactions > 500
