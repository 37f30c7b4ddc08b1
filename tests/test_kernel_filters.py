# SPDX-License-Identifier: GPL-2.0-only
"""Filters, sampling, limits and histograms in a real kernel, on a workload of 23 stores."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tracer.convert import convert
from tracer.lab.debian import fetch_kernel
from tracer.lab.qemu import GuestSize, run_guest
from tracer.lab.workloads import WORKLOADS, compile_workload

pytestmark = pytest.mark.kernel

SCRIPT = Path(__file__).parent / "guest" / "filters.sh"


@pytest.fixture(scope="module")
def job(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the guest's script has left its results in."""
    folder = tmp_path_factory.mktemp("filters")
    compile_workload(WORKLOADS["known23"], folder)
    shutil.copy(SCRIPT, folder / "script")
    (folder / "run").write_text(f'export ZTRACE="{sys.executable} -m ztrace"\n. /job/script\n')
    run_guest(fetch_kernel("6.1"), folder, GuestSize(), ["zram"], watch=print)
    for spool in sorted(folder.glob("*.spool")):
        convert(spool, spool.with_suffix(""))
    return folder
