# SPDX-License-Identifier: GPL-2.0-only
"""``import ztrace``: the stable names, the same answers as the commands', the notebook in docs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from nbclient import NotebookClient

import ztrace
from ztrace.cli import cli
from ztrace.replay.validate import Verdict

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "traces" / "samples" / "zsmalloc-6.1-small.parquet"
NOTEBOOK = ROOT / "docs" / "first-look.ipynb"


def told(*arguments: str) -> Any:
    """What a command prints as JSON."""
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_stable_names_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = page.partition("## Stable names")[2].partition("\n\nThese")[0]
    assert re.findall(r"`(\w+)`", listed) == ztrace.__all__
    for name in ztrace.__all__:
        assert getattr(ztrace, name).__doc__, name
        assert name in dir(ztrace)
    with pytest.raises(AttributeError, match="nosuch"):
        _ = ztrace.nosuch  # type: ignore[attr-defined]


def test_importing_loads_nothing() -> None:
    code = "import sys, ztrace; print(*(name for name in sys.modules if 'ztrace' in name or"
    code += " name in ('numpy', 'pyarrow', 'click')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = [name for name in done.stdout.split() if not name.startswith("__editable__")]
    assert sorted(ours) == ["ztrace", "ztrace.version"]


def test_views_have_the_same_rows() -> None:
    with ztrace.open(SAMPLE) as trace:
        columns = ["op", "handle", "size"]
        rows = trace.arrow(columns).to_pylist()
        assert len(trace) == len(rows) == 12_291
        assert trace.polars(columns).to_dicts() == rows
        assert trace.duckdb(columns).fetchall() == [tuple(row.values()) for row in rows]
        frame = trace.pandas(columns)
        assert list(frame["handle"].dropna()) == [
            row["handle"] for row in rows if row["handle"] is not None
        ]
        assert trace.arrow().column_names == trace.pandas().columns.tolist()


def test_answers_are_those_of_the_commands() -> None:
    [command] = told("replay", str(SAMPLE), "--backend", "zsmalloc:7.2")["replays"]
    del command["qualified"]
    found = ztrace.replay(SAMPLE, "zsmalloc:7.2")
    assert _timeless(found.to_dict()) == _timeless(command)
    every = told("replay", str(SAMPLE), "--backend", "all")["replays"]
    assert [one.backend for one in ztrace.replay_all(SAMPLE)] == [one["backend"] for one in every]
    verdict = ztrace.validate(SAMPLE)
    assert isinstance(verdict, Verdict) and verdict.agrees
    assert _timeless(verdict.to_dict()) == _timeless(told("validate", str(SAMPLE)))
    made = ztrace.report([SAMPLE], timing=False)
    line = ["report", str(SAMPLE), "--no-time", "--format", "json"]
    assert json.loads(made.render("json")) == json.loads(CliRunner().invoke(cli, line).stdout)
    assert not made.failed


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in document.items()
        if name != "wall_s" and not name.startswith("measured")
    }


def test_errors_are_ztraces() -> None:
    for call, error in (
        (lambda: ztrace.open("nowhere.parquet"), ztrace.TraceError),
        (lambda: ztrace.replay(SAMPLE, "slab"), ztrace.BackendError),
        (lambda: ztrace.replay(SAMPLE, "zbud:page_bytes=8192"), ztrace.ReplayError),
        (lambda: ztrace.measure(SAMPLE, ["No Name"]), ztrace.ZtraceError),
    ):
        with pytest.raises(error) as raised:
            call()
        assert isinstance(raised.value, ztrace.ZtraceError) and "\n" not in str(raised.value)


def test_the_notebook_shows_what_it_gives(tmp_path: Path) -> None:
    """Executed in an empty folder; what each cell prints is what the file shows."""
    stored = nbformat.reads(NOTEBOOK.read_text(), as_version=4)
    fresh = nbformat.reads(NOTEBOOK.read_text(), as_version=4)
    for cell in fresh.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    again = [cell for cell in fresh.cells if cell.cell_type == "code"]
    assert len(cells) >= 8
    for cell, new in zip(cells, again, strict=True):
        assert _printed(new) == _printed(cell), cell.source
    # Each stable function that needs no kernel is shown.
    source = "\n".join(cell.source for cell in cells)
    for name in ("open", "replay", "replay_all", "validate", "report"):
        assert f"ztrace.{name}(" in source


def _printed(cell: Any) -> str:
    """What a cell prints, however many pieces it came in."""
    return "".join(
        output.get("text") or output["data"].get("text/plain", "")
        for output in cell.outputs
        if output.get("name") != "stderr"
    )
