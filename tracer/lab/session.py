# SPDX-License-Identifier: GPL-2.0-only
"""One recording in the lab: a guest whose swap goes through a chosen allocator, or zram.

Inside, the ordinary ``ztrace record`` runs the workload's script as its command, and only that
script makes the pool: the recorder sees the allocator's very first call.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tracer.convert import convert
from tracer.errors import TracerError
from tracer.kmod import build_module
from tracer.lab.debian import Kernel, fetch_kernel
from tracer.lab.qemu import GuestSize, run_guest
from tracer.lab.workloads import WORKLOADS, Workload, compile_workload

# Allocator -> the module to load before recording, None where the kernel has it built in; by
# kernel, and only where Debian's kernel has it at all.
BACKENDS: dict[str, dict[str, str | None]] = {
    "6.1": {
        "ztree": None,
        "zbud": None,
        "z3fold": "z3fold",
        "zsmalloc": "zsmalloc",
        "zram": "zram",
    },
    "6.12": {"zbud": None, "zsmalloc": None, "zram": "zram"},
    "7.2": {"zsmalloc": None, "zram": "zram"},
}
"""Below zswap; ``zram`` stands for the swap device of that name, which has zsmalloc below it."""

TRACE, DONE = "trace.parquet", "workload-done"

# Something built in that is not the compressor asked for.
_OTHER_COMPRESSOR = {"lzo": "lzo-rle", "lzo-rle": "lzo"}


@dataclass(frozen=True)
class Setup:
    """What to boot and record. ``patch`` is needed for ztree, which no kernel ships.

    ``table``: C initialiser of another block table than the posted one. ``max_pool_percent`` of
    memory is zswap's limit; where it is as large as here, the workload's cgroup is the limit.
    """

    kernel: str
    backend: str
    workload: str
    patch: Path | None = None
    compressor: str = "lzo"
    size: GuestSize = field(default_factory=GuestSize)
    record_options: Sequence[str] = ()
    table: str | None = None
    max_pool_percent: int = 50


def record_in_guest(
    setup: Setup, output: Path, *, watch: Callable[[str], None] = lambda line: None
) -> None:
    """Boot, record ``setup.workload``, bring the trace to ``output`` (replacing it).

    ``watch`` is called with each line the guest's session says. TracerError if anything in the
    guest failed, with the last thing it said.
    """
    if setup.workload not in WORKLOADS:
        raise TracerError(f"no workload {setup.workload!r}; there are: {', '.join(WORKLOADS)}")
    there = BACKENDS.get(setup.kernel, {})
    if setup.backend not in there:
        raise TracerError(
            f"no {setup.backend} in kernel {setup.kernel}; there: {', '.join(there) or 'none'}"
        )
    kernel = fetch_kernel(setup.kernel)
    with tempfile.TemporaryDirectory(prefix="ztrace-lab-") as name:
        job = Path(name)
        workload = WORKLOADS[setup.workload]
        compile_workload(workload, job)
        own = _build_ztree(setup, kernel, job) if setup.backend == "ztree" else None
        _write_script(job / "run", _run_script(setup, own))
        _write_script(job / "workload", _workload_script(setup, workload))
        said: list[str] = []

        def listen(line: str) -> None:
            said.append(line)
            watch(line)

        module = there[setup.backend]
        modules = [module] if module else []
        status = run_guest(kernel, job, setup.size, modules, watch=listen)
        spool = job / f"{TRACE}.spool"
        if status or not spool.exists() or not (job / DONE).exists():
            failed = [line for line in said if "exited with status" in line]
            last = [*said, *failed][-1] if said else "it said nothing"
            raise TracerError(f"recording in the guest failed (status {status}): {last}")
        convert(spool, output, force=True)


def _build_ztree(setup: Setup, kernel: Kernel, job: Path) -> str:
    """Put ztree's module into the job; returns its file name."""
    if setup.patch is None:
        raise TracerError("ztree is in no kernel: give the posted mail with --patch FILE")
    return build_module(setup.patch, kernel.headers, job, table=setup.table).name


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _run_script(setup: Setup, module: str | None) -> str:
    record = shlex.join(
        [
            *(sys.executable, "-m", "ztrace", "record", "-o", f"/job/{TRACE}"),
            # Making the trace takes minutes in an emulated guest, a second outside.
            *("--spool-only", "--source", "zram" if setup.backend == "zram" else "zswap"),
            *(*setup.record_options, "--", "/job/workload"),
        ]
    )
    return f"""#!/bin/sh
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
{f"insmod /job/{module} || exit 1" if module else ""}
mkswap /dev/vda >/dev/null || exit 1
exec {record}
"""


def _workload_script(setup: Setup, workload: Workload) -> str:
    group = "/sys/fs/cgroup/workload"
    swap, lines = (_zram if setup.backend == "zram" else _zswap)(setup)
    lines += [f"swapon {swap}", f"mkdir {group}"]
    if workload.limit_mib is not None:
        lines += [
            "echo +memory >/sys/fs/cgroup/cgroup.subtree_control",
            f"echo {workload.limit_mib}M >{group}/memory.max",
        ]
    program = shlex.join([f"/job/{workload.program}", *workload.arguments])
    lines += [
        f"( echo 0 >{group}/cgroup.procs; exec {program} )",
        f"swapoff {swap}",
        f"touch /job/{DONE}",
    ]
    return "\n".join(["#!/bin/sh -e", *lines]) + "\n"


def _zswap(setup: Setup) -> tuple[str, list[str]]:
    """The swap device, and what makes a new zswap pool before it."""
    return "/dev/vda", [
        "cd /sys/module/zswap/parameters",
        # Every page is to reach the allocator. The parameter went in 6.10.
        "if [ -e same_filled_pages_enabled ]; then echo N >same_filled_pages_enabled; fi",
        f"echo {setup.max_pool_percent} >max_pool_percent",
        # A parameter that is given a new value makes a new pool. Where the allocator is the
        # kernel's default, or cannot be chosen (from 6.18 on), the compressor has to.
        f'if [ -e zpool ] && [ "$(cat zpool)" != {setup.backend} ]',
        f"then echo {setup.compressor} >compressor; echo {setup.backend} >zpool",
        f"else echo {_OTHER_COMPRESSOR[setup.compressor]} >compressor",
        f"echo {setup.compressor} >compressor; fi",
        "echo Y >enabled",
        f'if [ -e zpool ]; then test "$(cat zpool)" = {setup.backend}; fi',
        f'test "$(cat compressor)" = {setup.compressor}',
    ]


def _zram(setup: Setup) -> tuple[str, list[str]]:
    """The swap device, and what sets it up; its pool is made as it gets its size."""
    return "/dev/zram0", [
        # Which compressors zram has is chosen as a kernel is built (6.12): else its default.
        "cd /sys/block/zram0",
        f"if grep -qw {setup.compressor} comp_algorithm; then",
        f"echo {setup.compressor} >comp_algorithm; fi",
        f"echo {setup.size.swap_mib}M >disksize",
        "mkswap /dev/zram0 >/dev/null",
    ]
