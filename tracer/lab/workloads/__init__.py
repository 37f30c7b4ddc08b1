# SPDX-License-Identifier: GPL-2.0-only
"""What a guest does while it is recorded, and the limits under which it does it.

A C program here is compiled and runs in the limited group. A shell script drives a real program
that is installed on this machine; it starts what is to be limited with ``/job/limited``.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from ztrace.tracer.errors import TracerError


@dataclass(frozen=True)
class Workload:
    """``program`` with ``arguments``, in a cgroup of ``limit_mib`` if given.

    ``program``: a file here, NAME.sh, or NAME for NAME.c. ``needs``: what has to be on this
    machine, a path (a pattern) or a command, and the Debian package that brings it. ``beside``:
    files here that a script finds in its own folder.
    """

    about: str
    program: str
    arguments: tuple[str, ...] = ()
    limit_mib: int | None = None
    needs: dict[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def is_script(self) -> bool:
        """Whether the program is a shell script, which enters the group itself."""
        return self.program.endswith(".sh")


def _churn(touches: int, seed: int = 1) -> Workload:
    """240 MiB in 160 MiB: room for what does not compress, as the pool is charged too."""
    return Workload(
        f"2 processes rewrite and read 240 MiB in 160 MiB, {touches:,} random touches",
        "churn",
        ("240", "2", str(touches), str(seed)),
        limit_mib=160,
    )


def _package_folder(name: str) -> str:
    """Where an installed Python package lies; it is not imported."""
    spec = find_spec(name)
    return str(Path(spec.origin).parent) if spec and spec.origin else name


_PYTHON_HEADERS = sysconfig.get_path("include")

WORKLOADS = {
    "known23": Workload("exactly 23 pages swapped out and read back", "known23"),
    "bursts": Workload(
        "400 batches of up to 120 pages swapped out, dropped again in random order",
        "bursts",
        ("400", "120", "1"),
    ),
    "bursts-small": Workload(
        "150 such batches, and every 10 of them the kernel shrinks its caches",
        "bursts",
        ("150", "120", "1", "10"),
    ),
    "tides": Workload(
        "12 times 4,000 pages swapped out, some read back, most given up again",
        "tides",
        ("12", "4000", "1"),
    ),
    "churn-small": _churn(50_000),
    "churn": _churn(200_000),
    "churn-long": _churn(480_000),
    "redis": Workload(
        "Redis, 29 MiB of data in 16 MiB, under redis-benchmark",
        "redis.sh",
        ("60000", "42000"),
        limit_mib=16,
        needs={"redis-server": "redis-server", "redis-benchmark": "redis-tools"},
    ),
    "postgresql": Workload(
        "PostgreSQL, 80 MiB of shared buffers in 36 MiB, under pgbench",
        "postgresql.sh",
        ("4", "80", "4", "700"),
        limit_mib=36,
        needs={
            "/usr/lib/postgresql/*/bin/postgres": "postgresql",
            "pgbench": "postgresql-client",
        },
    ),
    "compile": Workload(
        "g++ -O2 of two units of Apache Arrow's Python binding in 352 MiB",
        "compile.sh",
        (
            *("2", _package_folder("pyarrow"), _package_folder("numpy"), _PYTHON_HEADERS),
            *("csv", "decimal"),
        ),
        limit_mib=352,
        needs={"g++": "g++", f"{_PYTHON_HEADERS}/Python.h": "python3-dev"},
    ),
    "java": Workload(
        "Java, a hash map of 80,000 objects in 56 MiB, 60,000 of them asked for, a third replaced",
        "java.sh",
        ("60", "8", "80000", "60000"),
        limit_mib=56,
        needs={"java": "default-jre-headless"},
        beside=("Heap.java",),
    ),
}


def put_program(workload: Workload, folder: Path) -> None:
    """Put the program into ``folder``; TracerError if what it needs is not on this machine."""
    for need, package in workload.needs.items():
        if not (any(Path("/").glob(need[1:])) if need[0] == "/" else shutil.which(need)):
            raise TracerError(f"{need} not found; as root: apt install {package}")
    if workload.is_script:
        for name in (workload.program, *workload.beside):
            (folder / name).write_text(files(__name__).joinpath(name).read_text())
        (folder / workload.program).chmod(0o755)
    else:
        compile_workload(workload, folder)


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
