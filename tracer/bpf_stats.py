# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel counts of a loaded BPF program (struct bpf_prog_info, linux/bpf.h)."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

BPF_OBJ_GET_INFO_BY_FD = 15
SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

# Of struct bpf_prog_info: run_time_ns, run_cnt (5.1) and recursion_misses (5.12).
RUN = struct.Struct("<3Q")
RUN_OFFSET = 192


@dataclass(frozen=True)
class ProgramRuns:
    """``missed`` calls were not traced: the program was already running on that CPU.

    ``count`` and ``time_ns`` stay 0 unless the kernel collects statistics.
    """

    count: int
    time_ns: int
    missed: int


def program_runs(fd: int) -> ProgramRuns:
    """Ask the kernel about a program by its descriptor; zeros where it does not tell."""
    info = ctypes.create_string_buffer(RUN_OFFSET + RUN.size)
    request = struct.pack("<IIQ", fd, len(info), ctypes.addressof(info))
    attributes = ctypes.create_string_buffer(request, 128)
    number = SYSCALL.get(os.uname().machine)
    if number is None:
        return ProgramRuns(0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, BPF_OBJ_GET_INFO_BY_FD, attributes, 16) < 0:
        return ProgramRuns(0, 0, 0)
    time_ns, count, missed = RUN.unpack_from(info, RUN_OFFSET)
    return ProgramRuns(count, time_ns, missed)
