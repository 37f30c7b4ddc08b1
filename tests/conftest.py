# SPDX-License-Identifier: GPL-2.0-only
"""Options and fixtures of the tests that boot a kernel; recordings are shared by a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tracer.lab.qemu import QEMU, GuestSize
from tracer.lab.session import Setup, record_in_guest
from tracer.system_bcc import find_bcc

# No test depends on how fast the machine is.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

REQUIRED = os.environ.get("ZTRACE_KERNEL_TESTS") == "required"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--patch", type=Path, help="the posted mail of ztree, for in-kernel tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that boot guests share recordings: one process runs them all, one guest at a time."""
    for item in items:
        if item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.xdist_group("kernel"))


def _lacking() -> str | None:
    """Why a guest cannot be booted here, None if it can."""
    if os.geteuid() != 0:
        return "in-kernel tests need root on Debian"
    if not Path("/etc/debian_version").exists():
        return "in-kernel tests need Debian's packages"
    if shutil.which(QEMU) is None:
        return f"no {QEMU}; as root: tools/kernel-packages"
    if find_bcc() is None:
        return "no bcc; as root: tools/kernel-packages"
    return None


def _skip(reason: str) -> None:
    if REQUIRED:
        pytest.fail(f"may not be skipped here: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def lab() -> None:
    """Skips where no guest can be booted."""
    reason = _lacking()
    if reason:
        _skip(reason)


@pytest.fixture(scope="session")
def patch(request: pytest.FixtureRequest) -> Path:
    """The posted mail of ztree; skips without --patch."""
    path: Path | None = request.config.getoption("--patch")
    if path is None:
        _skip("the posted mail of ztree is not part of this project; give it: make test PATCH=…")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def recorded(
    lab: None, patch: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Path]:
    """``recorded(workload, cpus)``: a trace of ztree on 6.1, recorded once in this session."""
    folder = tmp_path_factory.mktemp("recordings")

    def record(workload: str, cpus: int = 1) -> Path:
        output = folder / f"{workload}-{cpus}.parquet"
        if not output.exists():
            setup = Setup("6.1", "ztree", workload, patch, size=GuestSize(cpus))
            record_in_guest(setup, output, watch=print)
        return output

    return record
