# SPDX-License-Identifier: GPL-2.0-only
"""Several recordings in one boot: most of a short recording's time is the way there.

Each recording has a folder of its own, which it sees as /job in a mount namespace of its own,
so that its scripts are those of a recording alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.qemu import notes, run_guest
from ztrace.tracer.lab.session import Setup, collect, prepare

# The group goes, so that the next workload makes it anew.
_RUN = """#!/bin/sh
exec >/job/log 2>&1
for number in {numbers}; do
	unshare --mount sh -c "mount --bind /job/$number /job && exec /job/run"
	echo $? >/job/$number/status
	cat /job/$number/log
	rmdir /sys/fs/cgroup/workload
done
"""


def record_together(
    recordings: Mapping[Path, Setup], *, watch: Callable[[str], None] = lambda line: None
) -> dict[Path, TracerError]:
    """Boot once, make one recording after another: output (replaced) -> setup.

    Returns what was wrong with those that failed. TracerError if a setup cannot be, or if they
    are not of one kernel and one size.
    """
    setups = list(recordings.values())
    if len({(setup.kernel, setup.size) for setup in setups}) != 1:
        raise TracerError("recordings of one boot need one kernel and one size of guest")
    with tempfile.TemporaryDirectory(prefix="ztrace-lab-") as name:
        job = Path(name)
        parts = [job / str(number) for number in range(len(setups))]
        modules: list[str] = []
        for part, setup in zip(parts, setups, strict=True):
            part.mkdir()
            kernel, needed = prepare(setup, part, watch)
            modules += needed
        (job / "run").write_text(_RUN.format(numbers=" ".join(part.name for part in parts)))
        ended: TracerError | None = None
        try:
            run_guest(kernel, job, setups[0].size, modules, watch=watch, stage=watch)
        except TracerError as error:
            ended = error
        failed = {}
        for part, output in zip(parts, recordings, strict=True):
            try:
                if ended is not None and not (part / "status").exists():
                    raise ended
                status, said = (part / "status").read_text(), (part / "log").read_text()
                collect(part, output, int(status), said.splitlines(), notes(job))
            except TracerError as error:
                failed[output] = error
        return failed
