# SPDX-License-Identifier: GPL-2.0-only
"""One recording in the lab: a guest whose swap goes through a chosen allocator, or zram.

Inside, the ordinary ``ztrace record`` runs the workload's script as its command, and only that
script makes the pool: the recorder sees the allocator's very first call.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ztrace.allocator.registry import our_traits, recorded_traits
from ztrace.tracer.convert import convert
from ztrace.tracer.errors import TracerError
from ztrace.tracer.kmod import build_module
from ztrace.tracer.lab.cache import remember, remembered
from ztrace.tracer.lab.debian import KERNELS, Kernel, fetch_kernel
from ztrace.tracer.lab.qemu import GuestSize, notes, run_guest
from ztrace.tracer.lab.workloads import WORKLOADS, Workload, put_program

# Allocator -> the module to load before recording, None where the kernel has it built in; by
# kernel, and only where Debian's kernel has it at all.
BACKENDS: dict[str, dict[str, str | None]] = {
    kernel: {
        one.name: one.module if one.kernels[kernel] else None
        for one in our_traits()
        if kernel in one.kernels
    }
    | {"zram": "zram"}
    for kernel in KERNELS
}
"""Below zswap; ``zram`` stands for the swap device of that name, which has zsmalloc below it."""

GROUP = "/sys/fs/cgroup/workload"
TRACE, DONE = "trace.parquet", "workload-done"

# Something built in that is not the compressor asked for.
_OTHER_COMPRESSOR = {"lzo": "lzo-rle", "lzo-rle": "lzo"}


@dataclass(frozen=True)
class Setup:
    """What to boot and record. ``patch`` is needed for ztree, which no kernel ships.

    ``same_filled_pages``: whether zswap keeps pages of one repeated word out of the allocator,
    the kernel's default where it can be chosen (up to 6.9); otherwise every page reaches it.
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
    same_filled_pages: bool = False
    table: str | None = None
    max_pool_percent: int = 50


def record_in_guest(
    setup: Setup, output: Path, *, watch: Callable[[str], None] = lambda line: None
) -> None:
    """Boot, record ``setup.workload``, bring the trace to ``output`` (replacing it).

    ``watch`` is called with what is being done, how long it took last time, and each line the
    guest's session says.
    TracerError if anything in the guest failed, with the last thing it said.
    """
    began = time.monotonic()
    watch(expectation(setup))
    with tempfile.TemporaryDirectory(prefix="ztrace-lab-") as name:
        job = Path(name)
        kernel, modules = prepare(setup, job, watch)
        said: list[str] = []

        def listen(line: str) -> None:
            said.append(line)
            watch(line)

        status = run_guest(kernel, job, setup.size, modules, watch=listen, stage=watch)
        watch("collecting the trace")
        collect(job, output, status, said, notes(job))
    remember(_what(setup), time.monotonic() - began)


def expectation(setup: Setup) -> str:
    """How long a recording will take, by the last one like it."""
    took = remembered(_what(setup))
    if took is None:
        return "this takes minutes: the guest's CPUs are emulated, and what is fetched is kept"
    return f"the last recording like this one took {took:.0f} s"


def _what(setup: Setup) -> str:
    size = f"{setup.size.cpus}-cpus-{setup.size.memory_mib}-mib"
    return f"lab-{setup.kernel}-{setup.backend}-{setup.workload}-{size}"


def prepare(
    setup: Setup, job: Path, stage: Callable[[str], None] = lambda line: None
) -> tuple[Kernel, list[str]]:
    """Fill the folder ``job``, which is /job in the guest; returns what to boot and to load.

    ``stage`` is called with what is done. TracerError for a setup that cannot be.
    """
    if setup.workload not in WORKLOADS:
        raise TracerError(f"no workload {setup.workload!r}; there are: {', '.join(WORKLOADS)}")
    there = BACKENDS.get(setup.kernel, {})
    if setup.backend not in there:
        raise TracerError(
            f"no {setup.backend} in kernel {setup.kernel}; there: {', '.join(there) or 'none'}"
        )
    out_of_tree = is_out_of_tree(setup.backend)
    if out_of_tree and setup.patch is None:
        raise TracerError(
            f"{setup.backend} is in no kernel: give the posted mail with --patch FILE"
        )
    kernel = fetch_kernel(setup.kernel, stage)
    workload = WORKLOADS[setup.workload]
    put_program(workload, job)
    own = None
    if setup.patch is not None and out_of_tree:
        stage(f"building {setup.patch} for {kernel.release}")
        own = build_module(setup.patch, kernel.headers, job, table=setup.table).name
    _write_script(job / "run", _run_script(setup, own))
    _write_script(job / "workload", _workload_script(setup, workload))
    _write_script(job / "limited", f'#!/bin/sh -e\necho 0 >{GROUP}/cgroup.procs\nexec "$@"\n')
    module = there[setup.backend]
    return kernel, [module] if module else []


def is_out_of_tree(backend: str) -> bool:
    """Whether a backend of the lab is an allocator that no kernel has, built from a patch."""
    return recorded_traits(backend).out_of_tree


def collect(
    job: Path, output: Path, status: int, said: Sequence[str], notes: Sequence[str] = ()
) -> None:
    """Make the trace ``output``, with notes, of what a guest left in ``job``.

    TracerError if the guest failed; ``said``: the lines of its session.
    """
    spool = job / f"{TRACE}.spool"
    if status or not spool.exists() or not (job / DONE).exists():
        failed = [line for line in said if "exited with status" in line]
        last = [*said, *failed][-1] if said else "it said nothing"
        raise TracerError(f"recording in the guest failed (status {status}): {last}")
    convert(spool, output, force=True, notes=notes)


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _run_script(setup: Setup, module: str | None) -> str:
    record = shlex.join(
        [
            *(sys.executable, "-m", "ztrace", "record", "-o", f"/job/{TRACE}"),
            # Making the trace takes minutes in an emulated guest, a second outside.
            *(
                "--spool-only",
                "--quiet",
                "--source",
                "zram" if setup.backend == "zram" else "zswap",
            ),
            *(*setup.record_options, "--", "/job/workload", setup.workload),
        ]
    )
    return f"""#!/bin/sh
exec >/job/log 2>&1
export PYTHONDONTWRITEBYTECODE=1
{f"[ -d /sys/module/{Path(module).stem} ] || insmod /job/{module} || exit 1" if module else ""}
mkswap /dev/vda >/dev/null || exit 1
echo "the guest is up; attaching the probes"
exec {record}
"""


def _workload_script(setup: Setup, workload: Workload) -> str:
    swap, lines = (_zram if setup.backend == "zram" else _zswap)(setup)
    lines += [f"swapon {swap}", f"mkdir {GROUP}"]
    if workload.limit_mib is not None:
        lines += [
            "echo +memory >/sys/fs/cgroup/cgroup.subtree_control",
            f"echo {workload.limit_mib}M >{GROUP}/memory.max",
        ]
    lines.append(f"echo 'recording: {setup.workload}'")
    program = shlex.join([f"/job/{workload.program}", *workload.arguments])
    lines.append(program if workload.is_script else f"/job/limited {program}")
    if workload.limit_mib is not None:
        # A program killed for want of memory may be missed by nobody.
        lines += [
            f"if ! grep -qx 'oom_kill 0' {GROUP}/memory.events; then",
            f"echo killed for want of memory: $(grep -v ' 0$' {GROUP}/memory.events); exit 1; fi",
        ]
    lines += [f"swapoff {swap}", f"touch /job/{DONE}", "echo taking the probes off"]
    return "\n".join(["#!/bin/sh -e", *lines]) + "\n"


def _zswap(setup: Setup) -> tuple[str, list[str]]:
    """The swap device, and what makes a new zswap pool before it."""
    return "/dev/vda", [
        "cd /sys/module/zswap/parameters",
        # The parameter went in 6.10.
        "if [ -e same_filled_pages_enabled ]; then"
        f" echo {'Y' if setup.same_filled_pages else 'N'} >same_filled_pages_enabled; fi",
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
        # Enabled by a recording before this one, zswap would take the pages first.
        "if [ -e /sys/module/zswap ]; then echo N >/sys/module/zswap/parameters/enabled; fi",
        # Which compressors zram has is chosen as a kernel is built (6.12): else its default.
        "cd /sys/block/zram0",
        f"if grep -qw {setup.compressor} comp_algorithm; then",
        f"echo {setup.compressor} >comp_algorithm; fi",
        f"echo {setup.size.swap_mib}M >disksize",
        "mkswap /dev/zram0 >/dev/null",
    ]
