# SPDX-License-Identifier: GPL-2.0-only
"""The case study: what is recorded, what is not repeated, and the document's figures, on the
bundled slices of its recordings. No guest is booted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.documents import assemble
from ztrace.cli import main
from ztrace.replay.report import Thresholds, default_backends, gather_one
from ztrace.replay.report.study import SIZE_QUANTILES, study, tables
from ztrace.replay.report.tables import Table
from ztrace.replay.validate import validate_trace
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.study import ALLOCATORS, PROGRAMS, missing, plan
from ztrace.tracer.lab.workloads import WORKLOADS, Workload, put_program
from ztrace.traces import TraceReader

FOLDER = Path(__file__).parent.parent / "traces/samples/case-study"
BUNDLED = plan(["redis", "postgresql", "compile"])
"""Slices of these come with the source, not of the JVM: the space for them is used."""
NAMES = [case.name for case in BUNDLED]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command with arguments; gives its exit status."""

    def command(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["ztrace", "lab", "case-study", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return command


def test_each_program_under_each_allocator() -> None:
    assert len(plan()) == 16
    assert {(case.program, case.allocator) for case in plan()} == {
        (program, allocator) for program in PROGRAMS for allocator in ALLOCATORS
    }
    assert [case.name for case in plan(["redis"], ["zsmalloc", "zbud"])] == [
        "redis-zbud",
        "redis-zsmalloc",
    ]
    for case in plan():
        setup = case.setup(None)
        assert (setup.kernel, setup.size.cpus, setup.same_filled_pages) == ("6.1", 2, True)
        assert (setup.workload, setup.backend) == case
        assert WORKLOADS[case.program].limit_mib is not None


def test_only_what_is_missing_is_recorded(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def record(setup: Any, output: Path, **_: object) -> None:
        asked.append(output.name)
        if setup.backend == "z3fold":
            raise TracerError("recording in the guest failed")
        shutil.copy(FOLDER / output.name, output)

    monkeypatch.setattr("ztrace.commands.lab.record_in_guest", record)
    keep = tmp_path / "recordings"
    keep.mkdir()
    shutil.copy(FOLDER / "redis-zbud.parquet", keep)
    before = (keep / "redis-zbud.parquet").stat().st_mtime_ns
    document = tmp_path / "study.md"

    assert run("--keep", keep, "--program", "redis", "-o", document) == 2
    assert asked == ["redis-ztree.parquet", "redis-z3fold.parquet"]
    assert "recording in the guest failed" in capfd.readouterr().err
    assert not document.exists()
    assert [case.allocator for case in missing(plan(["redis"]), keep)] == ["z3fold", "zsmalloc"]

    asked.clear()
    allocators = ("--backend", "ztree", "--backend", "zbud")
    assert run("--keep", keep, "--program", "redis", *allocators, "-o", document) == 0
    assert asked == []
    assert (keep / "redis-zbud.parquet").stat().st_mtime_ns == before
    assert "| redis | zbud |" in document.read_text()


def test_document_is_not_replaced_unasked(
    run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "study.md"
    document.write_text("mine")
    only = ("--keep", FOLDER, "--program", "redis", "--backend", "zbud", "-o", document)
    assert run(*only) == 2
    assert "--force" in capfd.readouterr().err
    assert document.read_text() == "mine"
    nothing = tmp_path / "nothing"  # and it is known before hours of recording
    assert run("--keep", nothing, "-o", document) == 2
    assert not nothing.exists()
    assert run(*only, "--force") == 0
    assert document.read_text().startswith("# Case study")


def test_ztree_needs_its_patch(
    run: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("--keep", tmp_path, "--program", "redis") == 2
    assert "--patch" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_program_is_in_the_list_of_packages_and_in_the_document() -> None:
    root = Path(__file__).parent.parent
    script = (root / "tools/case-study-packages").read_text()
    installed = set(script.partition('debian-packages" ')[2].replace("\\\n", " ").split())
    needed = [set(WORKLOADS[program].needs.values()) for program in PROGRAMS]
    assert all(needed)
    assert set().union(*needed) <= installed
    document = (root / "docs/case-study.md").read_text()
    for program in PROGRAMS:
        assert f"| {program} | {WORKLOADS[program].limit_mib} MiB |" in document


def test_script_finds_what_lies_beside_it(tmp_path: Path) -> None:
    put_program(replace(WORKLOADS["java"], needs={}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Heap.java", "java.sh"]
    assert (tmp_path / "java.sh").stat().st_mode & 0o111


def test_program_that_is_not_here_is_named(tmp_path: Path) -> None:
    for need in ("no-such-program", "/no/such/*/file"):
        workload = Workload("none", "redis.sh", needs={need: "a-package"})
        with pytest.raises(TracerError, match=r"apt install a-package"):
            put_program(workload, tmp_path)
    put_program(Workload("there", "redis.sh", needs={"sh": "dash", "/bin/s*": "dash"}), tmp_path)
    assert (tmp_path / "redis.sh").stat().st_mode & 0o111


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The report of all bundled slices, with the study's part."""
    found = []
    for case in BUNDLED:
        with TraceReader(case.path(FOLDER)) as reader:
            found.append(gather_one(reader, case.name, default_backends(reader.metadata)))
    made = assemble(found, Thresholds())
    study(made)
    return made


def test_figures_are_those_of_the_recordings(document: dict[str, Any]) -> None:
    for i, case in enumerate(BUNDLED):
        rows = pq.read_table(case.path(FOLDER)).to_pandas()
        stored = ((rows.op == "store") & (rows.ret == 0)).sum()
        given = ((rows.op == "malloc") & (rows.ret == 0)).sum()
        same = stored - given if (rows.op == "store").any() else None
        assert document["study"]["same_filled"][i] == same
    for program in dict.fromkeys(case.program for case in BUNDLED):
        sizes, times = [], {}
        for case in plan([program]):
            rows = pq.read_table(case.path(FOLDER)).to_pandas()
            with TraceReader(case.path(FOLDER)) as reader:
                header = reader.metadata.pools[-1].header_bytes
            mallocs = rows[(rows.op == "malloc") & (rows.ret == 0)]
            sizes.append(mallocs["size"].to_numpy() - header)
            times[case.allocator] = np.sort(rows.dur_ns[rows.op == "malloc"].to_numpy())
        every = np.sort(np.concatenate(sizes))
        found = document["study"]["sizes"][program]
        assert found["mallocs"] == len(every)
        assert found["mean"] == pytest.approx(every.mean())
        for share, value in zip(SIZE_QUANTILES, found["quantiles"], strict=True):
            exact = every[int(np.ceil(share * len(every))) - 1]
            assert exact <= value < exact + 16
        for other in ALLOCATORS[1:]:
            exact = [times[one][int(np.ceil(len(times[one]) / 2)) - 1] for one in ("ztree", other)]
            ratio = document["study"]["durations"][program]["malloc"][other]["p50"]
            assert ratio == pytest.approx(exact[0] / exact[1], rel=0.03)


def at(place: Any, path: Sequence[str | int]) -> Any:
    """What a document has at a path; None from where it has nothing."""
    for key in path:
        if isinstance(place, dict):
            place = place.get(key)
        elif place is not None:
            place = place[key]
    return place


def test_tables_are_whole_and_show_the_document(document: dict[str, Any]) -> None:
    made: dict[str, Table] = {table.name: table for table in tables(document)}
    assert list(made) == [
        *("claims", "recorded", "validated", "sizes", "density", "same-objects"),
        *("over-time", "ageing", "times"),
    ]
    for name in ("recorded", "validated", "density", "same-objects", "over-time"):
        begins = [(row[0].text, row[1].text) for row in made[name].rows]
        assert begins == [tuple(case) for case in BUNDLED]
    for table in made.values():
        for row in table.rows:
            assert len(row) == len(table.headers)
            for cell in row[table.texts :]:
                assert at(document, cell.path) == cell.value


@pytest.mark.parametrize("name", NAMES)
def test_bundled_slice_is_explained(name: str) -> None:
    with TraceReader(FOLDER / f"{name}.parquet") as reader:
        assert reader.metadata.lost_total() == 0
        assert reader.metadata.starts_empty()
        assert reader.metadata.machine.cpus == 2
        verdict = validate_trace(reader)
        assert verdict.agrees
        assert verdict.explained == verdict.calls > (40_000 if name.endswith("ztree") else 300)


def test_bundled_slices_are_small_and_all_there() -> None:
    files = sorted(path.name for path in FOLDER.iterdir())
    assert files == sorted(f"{name}.parquet" for name in NAMES)
    described = (FOLDER.parent / "README.md").read_text()
    for name in files:
        ops = pq.read_table(FOLDER / name, columns=["op"])["op"].to_pylist()
        counts = (len(ops), ops.count("malloc"), ops.count("free"))
        assert f"| {name} | {' | '.join(f'{n:,}' for n in counts)} |" in described
    # Beside the rows: 3 KB a file that tell pandas of nullable integers.
    most = 1_500_000 + 3_000 * len(files)
    assert sum((FOLDER / name).stat().st_size for name in files) <= most
