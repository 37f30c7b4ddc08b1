# SPDX-License-Identifier: GPL-2.0-only
"""Installed where no compiler is: everything works, and one line says that it takes longer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ztrace.allocator import native

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "traces" / "samples" / "zsmalloc-6.1-small.parquet"
FOLDERS = ("allocator", "replay", "tracer", "traces", "ztrace")
Run = subprocess.CompletedProcess[str]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="what is installed here is made from the checkout"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an install that was made with a compiler that fails."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    leave = shutil.ignore_patterns("_core*", "__pycache__", "*.parquet")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=leave, symlinks=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # No network: neither for dependencies, which are here, nor for what builds.
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(folder / "site"), str(source)],
        env={**os.environ, "CC": "false"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def python(installed: Path, folder: Path, *arguments: str | Path) -> Run:
    """Run Python in ``folder`` over the install, not over this tree."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("ZTRACE_NATIVE", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.fixture
def ztrace(installed: Path, tmp_path: Path) -> Callable[..., Run]:
    """Run the installed command line."""
    return lambda *arguments: python(installed, tmp_path, "-m", "ztrace", *arguments)


def test_nothing_was_built(installed: Path, tmp_path: Path) -> None:
    assert (installed / "ztrace/allocator/native/library.py").exists()
    assert not list(installed.rglob("*.so"))
    done = python(installed, tmp_path, "-c", "import ztrace.replay as it; print(it.__file__)")
    assert done.stdout.strip() == str(installed / "ztrace/replay/__init__.py")


def test_one_package_is_installed(installed: Path) -> None:
    names = {one.name for one in installed.iterdir() if not one.name.endswith(".dist-info")}
    assert names - {"bin", "__pycache__"} == {"ztrace"}


def test_packages_of_the_folders_names_are_no_matter(installed: Path, tmp_path: Path) -> None:
    """PyPI has packages that install allocator and replay."""
    for name in FOLDERS[:-1]:
        (tmp_path / f"{name}.py").write_text("raise ImportError('another project')")
    done = python(installed, tmp_path, "-m", "ztrace", "replay", SAMPLE, "--backend", "zbud")
    assert done.returncode == 0, done.stderr


def test_replay_gives_the_same_and_says_so_once(ztrace: Callable[..., Run]) -> None:
    backends = ["ztree", "zbud", "z3fold", "zsmalloc:6.1", "zblock:2025"]
    asked = ["replay", SAMPLE, "--json", *(word for one in backends for word in ("--backend", one))]
    done = ztrace(*asked)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("ztrace: no native core: it was not built (is there a C compiler")
    assert ztrace(*asked, "--engine", "python").stderr == ""
    refused = ztrace("replay", SAMPLE, "--backend", "zbud", "--engine", "native")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    if native.reason_missing():
        return
    here = subprocess.run(
        [sys.executable, "-m", "ztrace", *map(str, asked)], capture_output=True, text=True, cwd=ROOT
    )
    ours, theirs = json.loads(here.stdout), json.loads(done.stdout)
    for result in (*ours["replays"], *theirs["replays"]):
        del result["measured_here"]
    assert ours == theirs


def test_all_else_works_as_before(ztrace: Callable[..., Run], tmp_path: Path) -> None:
    for arguments in (
        ("info", SAMPLE),
        ("stat", SAMPLE),
        ("validate", SAMPLE),
        ("synth", "--events", "2000", "--live", "100", "-o", "made.parquet"),
        ("replay", "made.parquet", "--backend", "zsmalloc", "--every", "50%"),
        ("report", SAMPLE, "-o", "report.html"),
    ):
        done = ztrace(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert done.stderr.count("native core") <= 1
        assert "Traceback" not in done.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
