# SPDX-License-Identifier: GPL-2.0-only
"""A picture of what a validation refuses first: of a search, of the lock's order, of one CPU."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.test_placement import history
from tests.test_validate_zbud import malloc, run_by
from tests.test_validate_zsmalloc import Guest, _exchange, compare
from ztrace.allocator.zbud.model import Zbud
from ztrace.commands.validate import command
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.window import first_refused, lanes
from ztrace.traces import TraceReader

SVG = "{http://www.w3.org/2000/svg}"


def drawn(trace: Path, out: Path) -> tuple[int, str, ET.Element | None]:
    """Exit status, output and the picture of a validation."""
    done = CliRunner().invoke(command, [str(trace), "--picture", str(out)], standalone_mode=False)
    root = ET.fromstring(out.read_text()) if out.exists() else None
    return done.return_value, done.output, root


def test_the_locks_order_is_drawn(tmp_path: Path) -> None:
    rows = Guest("6.12", 7).run(2, 1500)
    _exchange(rows)
    compare(tmp_path / "t", rows, "6.12")
    status, _, root = drawn(tmp_path / "t", tmp_path / "t.svg")
    assert status == 1 and root is not None
    with TraceReader(tmp_path / "t") as reader:
        verdict = validate_trace(reader)
        window = first_refused(reader, verdict)
    assert window is not None
    first = verdict.pools[0].places.first
    assert first is not None and first.startswith(f"row {window.refused}:")
    assert first.endswith(window.answer)
    # In the order of their moments, which is not that of their rows.
    moments = {bar.row: bar.moment for bar in window.bars}
    order = [moments[row] for row, _ in window.order]
    assert None not in order and order == sorted(order, key=lambda one: one or 0)
    kinds = [one.get("class") for one in root.iter(f"{SVG}rect")]
    assert kinds.count("refused") == 1 and kinds.count("bar") == len(window.order) > 3
    assert len({cpu for cpu, _ in lanes(window)}) == 2
    for _, bars in lanes(window):
        assert all(one.end < other.ts for one, other in pairwise(bars))


def test_nothing_is_drawn_of_a_trace_that_agrees(tmp_path: Path) -> None:
    compare(tmp_path / "t", Guest("6.12", 7).run(2, 300), "6.12")
    status, output, root = drawn(tmp_path / "t", tmp_path / "t.svg")
    assert status == 0 and root is None
    assert "no call is refused" in output


@pytest.mark.parametrize("engine", ["python", "native"])
def test_a_search_tells_the_longest_order_it_found(engine: str) -> None:
    """Two mallocs that overlap; the third finds no such page in whatever order they were."""
    rows = [malloc(0, 20, 0, 2000), malloc(5, 25, 1, 1000), malloc(8, 22, 0, 3000, last=True)]
    found = run_by(engine, rows, 1, Zbud)
    assert found.refused is not None
    assert found.refused.call.row == 2
    assert len(found.refused.around) == 3
    steps = [(call.row, getattr(step, "name", "")) for call, step in found.refused.tried]
    assert steps == [(0, "LOOK"), (1, "GROW"), (0, "GROW")]


def test_one_cpus_calls_stand_beside_each_other(tmp_path: Path) -> None:
    from tests.test_placement import compare as compare_places

    rows = history("zsmalloc")
    row = [row for row in rows if row["place"] is not None][100]
    row["place"] += 1
    compare_places(tmp_path / "t", rows, "zsmalloc")
    status, _, root = drawn(tmp_path / "t", tmp_path / "t.svg")
    assert status == 1 and root is not None
    assert "0" in root.attrib["viewBox"]
    text = " ".join(one.text or "" for one in root.iter(f"{SVG}text"))
    assert "played as they returned" in text and "CPU 0" in text
