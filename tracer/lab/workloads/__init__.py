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


def _churn(touches: int, seed: int = 1) -> Workload:
    """240 MiB in 160 MiB: room for what does not compress, as the pool is charged too."""
    return Workload(
        f"2 processes rewrite and read 240 MiB in 160 MiB, {touches:,} random touches",
        "churn",
        ("240", "2", str(touches), str(seed)),
        limit_mib=160,
    )


WORKLOADS = {
    "known23": Workload("exactly 23 pages swapped out and read back", "known23"),
    "bursts": Workload(
        "400 batches of up to 120 pages swapped out, dropped again in random order",
        "bursts",
        ("400", "120", "1"),
    ),
    "tides": Workload(
        "12 times 4,000 pages swapped out, some read back, most given up again",
        "tides",
        ("12", "4000", "1"),
    ),
    "churn-small": _churn(50_000),
    "churn": _churn(200_000),
    "churn-long": _churn(480_000),
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
