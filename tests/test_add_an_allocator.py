# SPDX-License-Identifier: GPL-2.0-only
"""docs/add-an-allocator.md: its allocator, installed as a third party's, gets what it says."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ztrace.allocator as ztrace_allocator
from ztrace.allocator import HasPlace, create, names
from ztrace.allocator.registry import OURS
from ztrace.replay import replay_trace
from ztrace.replay.play.backends import every
from ztrace.replay.play.fastest import replay_fastest
from ztrace.replay.validate import validate_trace
from ztrace.traces import OP_CODE, Metadata, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine, PoolInfo

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add-an-allocator.md").read_text()
PAGE_BYTES = 4096
KERNEL_PAGES = 0xFFFF888000000  # numbers of the kernel's pages from here on


def block(language: str) -> str:
    """The page's only piece of that language."""
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where the allocator is installed for this process and those it starts."""
    project = tomllib.loads(block("toml"))["project"]
    site = tmp_path / "site"
    about = site / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"]
    lines = [
        line
        for group, names in groups.items()
        for line in (f"[{group}]", *(f"{name} = {what}" for name, what in names.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / "halves.py").write_text(block("python"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    monkeypatch.syspath_prepend(str(site))
    work = tmp_path / "work"
    work.mkdir()
    return work


def record(path: Path, *, lie: bool = False) -> int:
    """What a recorder would have seen of a kernel with halves; returns how many mallocs.

    ``lie``: one object lies in a page of its own, whatever halves would have done.
    """
    rng = random.Random(1)
    pool = create("halves")
    assert isinstance(pool, HasPlace)
    addresses: dict[int, int] = {}  # page of the model -> of the kernel
    live: list[tuple[int, int]] = []
    rows: list[dict[str, Any]] = []
    for number in range(3000):
        row: dict[str, Any] = {"ts_ns": 1000 * number, "size": None, "op": OP_CODE["free"]}
        if live and rng.random() < 0.45:
            ours, row["handle"] = live.pop(rng.randrange(len(live)))
            pool.free(ours)
        else:
            row["size"] = rng.randint(1, 3500)
            ours = pool.malloc(row["size"])
            page, offset = pool.place(ours)
            at = addresses.setdefault(page, KERNEL_PAGES + 3 * page)
            at += lie and number == 1500
            row["handle"] = at * PAGE_BYTES + offset
            row["op"] = OP_CODE["malloc"]
            live.append((ours, row["handle"]))
        rows.append({**row, "total": pool.total_bytes})
    metadata = Metadata(
        kernel=Kernel(release="6.12.1"),
        machine=Machine(cpus=1, page_bytes=PAGE_BYTES),
        pools=[PoolInfo("halves", "lzo", True, True)],
    )
    kinds = {"ts_ns": pa.int64(), "op": pa.int8(), "size": pa.uint32()}
    columns = {
        name: pa.array([row[name] for row in rows], kinds.get(name, pa.uint64()))
        for name in ("ts_ns", "op", "size", "handle", "total")
    }
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write({**columns, "dur_ns": pa.array([100] * len(rows), pa.uint32())})
    return sum(row["op"] == OP_CODE["malloc"] for row in rows)


def ztrace(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in that folder, where nobody has imported halves yet."""
    command = [sys.executable, "-m", "ztrace", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_pages_commands(folder: Path) -> None:
    record(folder / "trace.parquet")
    printed = {}
    for line in block("sh").splitlines():
        program, *arguments = line.split()
        assert program == "ztrace"
        done = ztrace(folder, *arguments)
        assert not done.returncode, f"{line}\n{done.stderr}"
        printed[line] = done.stdout
    [alone, beside, with_all, proof, *_] = printed.values()
    assert re.search(r"totals equal\D*3,000 of 3,000", alone)
    assert all(re.search(rf"^{name}", beside, re.M) for name in ("halves", "zbud", "zsmalloc:6.12"))
    assert re.search("^halves ", with_all, re.M)
    assert "the model agrees with the kernel" in proof
    page = (folder / "report.html").read_text()
    assert "halves" in page
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    found = {(row["backend"], row["param.scale"]): row for row in rows}
    assert len(found) == 4 and all(row["error"] is None for row in rows)
    assert found["halves", 1.0]["totals_equal"] == 3000
    assert found["halves", 0.8]["held_bytes_peak"] < found["halves", 1.0]["held_bytes_peak"]


def test_places_are_validated(folder: Path) -> None:
    mallocs = record(folder / "true.parquet")
    good = json.loads(ztrace(folder, "validate", "true.parquet", "--json").stdout)
    [pool] = good["pools"]
    assert good["explained"] and pool["backend"] == "halves"
    assert pool["places"]["equal"] == pool["places"]["compared"] == mallocs
    assert pool["sizes"]["equal"] == pool["sizes"]["compared"] == 3000
    record(folder / "lie.parquet", lie=True)
    bad = ztrace(folder, "validate", "lie.parquet", "--json")
    assert bad.returncode == 1 and not json.loads(bad.stdout)["explained"]


def test_a_report_has_the_recorded_allocators_own_model(folder: Path) -> None:
    record(folder / "trace.parquet")
    done = ztrace(folder, "report", "trace.parquet", "--format", "json")
    [recording] = json.loads(done.stdout)["recordings"]
    assert recording["own_model"] == "halves"
    assert recording["validation"]["agrees"]
    assert recording["validation"]["explained"] == recording["validation"]["calls"] > 0


def test_a_built_in_one_is_a_folder_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "more" / "halves"
    folder.mkdir(parents=True)
    model, traits = block("python").split("TRAITS = ")
    (folder / "model.py").write_text(model)
    traits = traits.replace("model=Halves", 'model="ztrace.allocator.halves.model:Halves"')
    imports = "from ztrace.allocator.traits import Tells, Traits, page_size"
    (folder / "__init__.py").write_text(f"{imports}\n\nTRAITS = {traits}")
    monkeypatch.setattr(
        "ztrace.allocator.__path__", [*ztrace_allocator.__path__, str(folder.parent)]
    )
    monkeypatch.setattr("ztrace.allocator.registry.OURS", (*OURS, "halves"))
    record(tmp_path / "trace.parquet")
    assert "halves" in names()
    for path in (
        tmp_path / "trace.parquet",
        ROOT / "traces" / "samples" / "zbud-6.1-small.parquet",
    ):
        with TraceReader(path) as reader:
            assert "halves" in every(reader.metadata)
            result = replay_fastest(reader, "halves")
    found = replay_trace(tmp_path / "trace.parquet", "halves")
    assert found.totals_equal == found.totals_compared == 3000
    with TraceReader(tmp_path / "trace.parquet") as reader:
        assert validate_trace(reader).agrees
    assert result.count("refused") == 0


def test_a_limit_that_its_driver_cannot_shrink_to(folder: Path) -> None:
    """OSError of shrink is the kernel's -EINVAL: jobs that fail."""
    trace = str(ROOT / "traces" / "samples" / "zbud-6.1-small.parquet")
    done = ztrace(folder, "replay", trace, "--backend", "halves", "--limit", "100K", "--json")
    assert not done.returncode, done.stderr
    [*_, late] = json.loads(done.stdout)["replays"]
    counts = late["counts"]
    assert counts["jobs"] == counts["reclaim_fails"] > 0 == counts["written_back"]
    assert counts["rejected"] > 0


def test_its_items_and_pages(folder: Path) -> None:
    record(folder / "trace.parquet")
    for item, complaint in (
        ("page_bytes=5", "a page is a power of two"),
        ("colour=red", "no item 'colour'; halves takes page_bytes=..."),
        ("red", "no item 'red'"),
    ):
        done = ztrace(folder, "replay", "trace.parquet", "--backend", f"halves:{item}")
        assert done.returncode == 2 and complaint in done.stderr
        assert "Traceback" not in done.stderr


def test_one_that_cannot_be_imported_is_one_line(folder: Path) -> None:
    record(folder / "trace.parquet")
    (folder.parent / "site" / "halves.py").write_text("import nosuchmodule\n")
    done = ztrace(folder, "replay", "trace.parquet", "--backend", "halves")
    assert done.returncode == 2
    assert "backend halves cannot be loaded" in done.stderr and "nosuchmodule" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_class_that_is_not_installed(tmp_path: Path) -> None:
    """By module and class on the command line, from the current folder, and as a class."""
    (tmp_path / "cut.py").write_text(block("python"))
    sample = str(ROOT / "traces" / "samples" / "zbud-6.1-small.parquet")
    done = ztrace(tmp_path, "replay", sample, "--backend", "cut:Halves", "--json")
    assert not done.returncode, done.stderr
    [replayed] = json.loads(done.stdout)["replays"]
    assert replayed["backend"] == "cut:Halves"
    code = (
        "import sys, ztrace\n"
        "sys.path.append('')\n"
        "from cut import Halves\n"
        "class Mine(Halves): pass\n"
        f"found = ztrace.replay_all({sample!r}, [Mine, 'cut:Halves', 'zbud'])\n"
        "print(*(one.backend for one in found), *(one.held_bytes.peak for one in found))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *names_, mine, named, zbud = told.stdout.split()
    assert names_ == ["__main__:Mine", "cut:Halves", "zbud"]
    assert int(mine) == int(named) == replayed["held_bytes"]["peak"] != int(zbud)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("cut:Thirds", "module cut has no class Thirds"),
        ("cut:Halves,colour=red", "no item 'colour'; cut takes page_bytes=..."),
        ("broken:Halves", "cannot be loaded: .*nosuchmodule"),
        ("json:JSONDecoder", "is no model: it has no malloc"),
        ("nowhere:Halves", "no backend 'nowhere'"),
    ],
)
def test_a_class_that_cannot_be_one(tmp_path: Path, spec: str, complaint: str) -> None:
    (tmp_path / "cut.py").write_text(block("python"))
    (tmp_path / "broken.py").write_text("import nosuchmodule\n")
    sample = str(ROOT / "traces" / "samples" / "zbud-6.1-small.parquet")
    for command in ("replay", "validate"):
        done = ztrace(tmp_path, command, sample, "--backend", spec)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert re.search(complaint, done.stderr)


def test_a_trace_imports_nothing(tmp_path: Path) -> None:
    """Whatever allocator it names, also one that is a module and a class here."""
    (tmp_path / "cut.py").write_text("import pathlib; pathlib.Path('ran').touch()\n")
    metadata = Metadata(
        kernel=Kernel(release="6.12.1"),
        machine=Machine(cpus=1, page_bytes=PAGE_BYTES),
        pools=[PoolInfo("cut:Halves", "lzo", True, True)],
    )
    columns = {
        "ts_ns": pa.array([1], pa.int64()),
        "dur_ns": pa.array([1], pa.uint32()),
        "op": pa.array([OP_CODE["malloc"]], pa.int8()),
        "size": pa.array([100], pa.uint32()),
        "handle": pa.array([4096], pa.uint64()),
    }
    with TraceWriter(tmp_path / "trace.parquet", metadata) as writer:
        writer.write(columns)
    for arguments in (("replay",), ("validate",), ("replay", "--backend", "all"), ("report",)):
        ztrace(tmp_path, arguments[0], "trace.parquet", *arguments[1:])
    assert not (tmp_path / "ran").exists()
    ztrace(tmp_path, "replay", "trace.parquet", "--backend", "cut:Halves")
    assert (tmp_path / "ran").exists()
