# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel counts of a loaded BPF program (struct bpf_prog_info, linux/bpf.h)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

BPF_OBJ_GET_INFO_BY_FD = 15
BPF_ENABLE_STATS = 32  # 5.8
BPF_STATS_RUN_TIME = 0
SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

# Of struct bpf_prog_info: run_time_ns, run_cnt (5.1) and recursion_misses (5.12).
RUN = struct.Struct("<3Q")
RUN_OFFSET = 192


@dataclass(frozen=True)
class ProgramRuns:
    """``missed`` calls were not traced: the program was already running on that CPU.

    ``count`` and ``time_ns`` only grow while the kernel collects statistics.
    """

    count: int
    time_ns: int
    missed: int

    def since(self, before: ProgramRuns) -> ProgramRuns:
        """What was added to ``before``."""
        return ProgramRuns(
            self.count - before.count, self.time_ns - before.time_ns, self.missed - before.missed
        )


def program_runs(fd: int) -> ProgramRuns:
    """Ask the kernel about a program by its descriptor; zeros where it does not tell."""
    info = ctypes.create_string_buffer(RUN_OFFSET + RUN.size)
    request = struct.pack("<IIQ", fd, len(info), ctypes.addressof(info))
    if _bpf(BPF_OBJ_GET_INFO_BY_FD, request) < 0:
        return ProgramRuns(0, 0, 0)
    time_ns, count, missed = RUN.unpack_from(info, RUN_OFFSET)
    return ProgramRuns(count, time_ns, missed)


def collect_run_times() -> int | None:
    """Have the kernel time the runs of all BPF programs while the descriptor returned is open.

    None where it cannot.
    """
    fd = _bpf(BPF_ENABLE_STATS, struct.pack("<I", BPF_STATS_RUN_TIME))
    return None if fd < 0 else fd


def _bpf(command: int, request: bytes) -> int:
    """bpf(2); -1 if it failed or this machine's number of it is not known."""
    number = SYSCALL.get(os.uname().machine)
    if number is None:
        return -1
    attributes = ctypes.create_string_buffer(request, 128)
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, command, attributes, len(request)))


def mean_cost_ns(runs: Iterable[tuple[str, str, ProgramRuns]]) -> dict[str, float]:
    """What the programs of an op cost each call: op -> ns, ops without runs left out.

    ``runs`` are (op, side, runs of one program); the mean of all programs of a side (entry,
    return) is added to that of the other.
    """
    sides: dict[tuple[str, str], list[ProgramRuns]] = {}
    for op, side, run in runs:
        if run.count:
            sides.setdefault((op, side), []).append(run)
    cost: dict[str, float] = {}
    for (op, _), group in sides.items():
        mean = sum(run.time_ns for run in group) / sum(run.count for run in group)
        cost[op] = cost.get(op, 0.0) + mean
    return cost
