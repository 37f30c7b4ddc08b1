# SPDX-License-Identifier: GPL-2.0-only
"""What a guest does while it is recorded: C programs, each with the limits it runs under."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from tracer.errors import TracerError


@dataclass(frozen=True)
class Workload:
    """``program`` (a .c file here) with ``arguments``, in a cgroup of ``limit_mib`` if given."""

    about: str
    program: str
    arguments: tuple[str, ...] = ()
    limit_mib: int | None = None


WORKLOADS = {
    "known23": Workload("exactly 23 pages swapped out and read back", "known23"),
    "churn": Workload(
        "2 processes rewrite and read 240 MiB at random in 160 MiB, about 90,000 stores",
        "churn",
        ("240", "2", "120000", "1"),
        160,
    ),
    "churn-long": Workload(
        "the same for four times as long",
        "churn",
        ("240", "2", "480000", "2"),
        160,
    ),
}


def compile_workload(workload: Workload, folder: Path) -> Path:
    """Compile the program into ``folder``; TracerError if there is no compiler."""
    if shutil.which("gcc") is None:
        raise TracerError("gcc not found; as root: apt install gcc libc6-dev")
    target = folder / workload.program
    with as_file(files(__name__).joinpath(f"{workload.program}.c")) as source:
        done = subprocess.run(
            ["gcc", "-O2", "-Wall", "-o", target, source], capture_output=True, text=True
        )
    if done.returncode:
        raise TracerError(f"{source.name}: does not compile: {done.stderr.splitlines()[0]}")
    return target
