# SPDX-License-Identifier: GPL-2.0-only
"""The archives: the same bytes each time; the checkout in one, what runs in the other."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = 2_000_000
"""Bytes of a wheel that nobody minds to fetch."""

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="archives are made from the checkout"
)


def build(kind: str, tree: Path, folder: Path) -> Path:
    """Make an archive of a tree, without a network."""
    folder.mkdir()
    code = f"import setuptools.build_meta as it; it.build_{kind}({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [made] = folder.iterdir()
    return made


def unpack(archive: Path, folder: Path) -> Path:
    """The tree in a sdist, at another place and another time."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    [tree] = folder.iterdir()
    return tree


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sdist of the checkout."""
    return build("sdist", ROOT, tmp_path_factory.mktemp("source") / "out")


@pytest.fixture(scope="module")
def trees(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """It unpacked, twice."""
    return [unpack(source, tmp_path_factory.mktemp("tree")) for _ in range(2)]


@pytest.fixture(scope="module")
def wheels(trees: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel of each of the trees."""
    return [build("wheel", tree, tmp_path_factory.mktemp("wheel") / "out") for tree in trees]


def test_a_source_archive_is_the_same_each_time(
    source: Path, trees: list[Path], tmp_path: Path
) -> None:
    """Also one that is made of what was unpacked from the first."""
    again = build("sdist", trees[0], tmp_path / "out")
    assert again.name == source.name == f"{trees[0].name}.tar.gz"
    assert again.read_bytes() == source.read_bytes()


def test_a_wheel_is_the_same_each_time(wheels: list[Path]) -> None:
    first, second = wheels
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_the_source_archive_is_the_checkout(trees: list[Path]) -> None:
    """All that git has, links as links, and nothing that was built."""
    tree = trees[1]
    for link in ("allocator", "replay", "tracer", "traces"):
        assert (tree / "ztrace" / link).readlink() == Path("..") / link
    for name in ("tests/conftest.py", "bench/commands.py", "docs/api.md", "tools/venv", "Makefile"):
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes()
    assert os.access(tree / "tools" / "venv", os.X_OK)
    samples = "traces/samples"
    made, here = (len(list((one / samples).rglob("*.parquet"))) for one in (tree, ROOT))
    assert made == here >= 20
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
        missing = [name for name in listed.stdout.split("\n") if not (tree / name).exists()]
        assert [name for name in missing if (ROOT / name).exists()] == []


def test_the_wheel_is_small_and_for_all_pythons(wheels: list[Path], tmp_path: Path) -> None:
    [wheel, _] = wheels
    assert wheel.stat().st_size < SMALL
    tags = wheel.stem.split("-")[2:]
    assert tags[:2] == ["py3", "none"]
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path)
        [about] = [name for name in names if name.endswith("METADATA")]
        told = packed.read(about).decode()
    core = "ztrace/allocator/native/_core.so"
    assert (core in names) == (tags[2] != "any")
    assert not [name for name in names if name.startswith(("tests", "bench", "docs"))]
    assert sum(name.endswith(".parquet") for name in names) == 3
    assert "Classifier: Operating System :: POSIX :: Linux" in told
    sample = "ztrace/traces/samples/zsmalloc-6.1-small.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "ztrace", "replay", sample, "--backend", "zsmalloc:6.1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ("native core" in done.stderr) == (core not in names)
