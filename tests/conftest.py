# SPDX-License-Identifier: GPL-2.0-only
"""Options and fixtures of the tests that boot a kernel; guests are shared by a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.guests import Boot, Guests
from tests.runner import Runner
from ztrace.tracer.lab.qemu import QEMU
from ztrace.tracer.program.build import TOOLS
from ztrace.tracer.system_bcc import find_bcc

# No test depends on how fast the machine is.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

REQUIRED = os.environ.get("ZTRACE_KERNEL_TESTS") == "required"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--patch", type=Path, help="the posted mail of ztree, for in-kernel tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of guests come last: the guests are at work meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("kernel") is not None)


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


@pytest.fixture
def ztrace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Runner:
    """The command line, run in this process in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Runner(monkeypatch, capfd)


@pytest.fixture(scope="session")
def lab() -> None:
    """Skips where no guest can be booted."""
    reason = _lacking()
    if reason:
        _skip(reason)


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skips where no kernel can be built as a program; that needs neither root nor a guest."""
    missing = [tool for tool in (*TOOLS, "apt-get", "xz") if shutil.which(tool) is None]
    if missing:
        _skip(f"no {', '.join(missing)}; as root: tools/kernel-packages")


@pytest.fixture(scope="session")
def patch(request: pytest.FixtureRequest) -> Path:
    """The posted mail of ztree; skips without --patch."""
    path: Path | None = request.config.getoption("--patch")
    if path is None:
        _skip("the posted mail of ztree is not part of this project; give it: make test PATCH=…")
    assert path is not None
    return path


def _wanted(items: list[pytest.Item]) -> Iterator[tuple[str, Boot]]:
    """The guests of the modules whose tests are to run."""
    for item in items:
        if isinstance(item, pytest.Function):
            yield from getattr(item.module, "GUESTS", {}).items()


@pytest.fixture(scope="session", autouse=True)
def guests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guests]:
    """Begins to boot what the chosen tests need as the session begins."""
    made = Guests(tmp_path_factory.mktemp("guests"), request.config.getoption("--patch"))
    if _lacking() is None:
        made.start(_wanted(request.session.items))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def guest(lab: None, guests: Guests) -> Callable[[str], Path]:
    """``guest(name)``: the folder that a guest has left its results in."""
    return guests.folder
