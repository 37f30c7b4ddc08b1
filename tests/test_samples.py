# SPDX-License-Identifier: GPL-2.0-only
"""The bundled recordings are what their README says, and the model answers as their kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ztrace.commands.corpus import command as corpus
from ztrace.commands.validate import command
from ztrace.replay import replay_trace
from ztrace.replay.validate import validate_trace
from ztrace.traces import TraceReader
from ztrace.traces.corpus import SAMPLES as INSTALLED
from ztrace.traces.corpus import cards, differences

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
LEAST_CALLS = {"small": 4_000, "bursts": 10_000, "limit": 70_000}  # by a part of the name
NAMES = sorted(path.name for path in SAMPLES.glob("*.parquet"))
EVERY = sorted(str(path.relative_to(SAMPLES)) for path in SAMPLES.glob("**/*.parquet"))
UNDETERMINED = {
    "z3fold-6.1-small-2cpu.parquet": (14, 73),
    "case-study/compile-z3fold.parquet": (0, 14),
}
"""Of z3fold on two CPUs: places and sizes that the order of overlapping calls decides."""


def test_all_together_are_small() -> None:
    assert len(NAMES) >= 2
    assert sum((SAMPLES / name).stat().st_size for name in NAMES) < 9_000_000


@pytest.mark.parametrize("name", NAMES)
def test_recording_is_whole_and_large_enough(name: str) -> None:
    path = SAMPLES / name
    with TraceReader(path) as trace:
        rows, metadata = trace.num_rows, trace.metadata
    assert metadata.lost_total() == 0
    assert metadata.starts_empty()
    assert {pool.allocator for pool in metadata.pools} == {name.partition("-")[0]}
    ops = pq.read_table(path, columns=["op"])["op"]
    calls = {row["values"]: row["counts"] for row in pc.value_counts(ops).to_pylist()}
    least = next((n for part, n in LEAST_CALLS.items() if part in name), 100_000)
    assert calls["malloc"] + calls["free"] >= least
    # The footer: the document of the recording, and 3 KB that tell pandas of nullable integers.
    assert path.stat().st_size <= 8 * rows + 18_000
    # The README's table has these figures.
    [line] = [one for one in (SAMPLES / "README.md").read_text().splitlines() if f"| {name}" in one]
    assert f"| {rows:,} | {calls['malloc']:,} | {calls['free']:,} |" in line


@pytest.mark.parametrize(("name", "mallocs"), [("1cpu", 60_909), ("bursts", 5_569)])
def test_one_cpu_recordings_are_the_model_call_for_call(name: str, mallocs: int) -> None:
    result = replay_trace(SAMPLES / f"ztree-6.1-{name}.parquet", "ztree")
    assert result.handles_equal == result.handles_compared == mallocs
    assert result.totals_equal == result.totals_compared == 2 * mallocs


@pytest.mark.parametrize(
    ("name", "backend", "totals", "compactions"),
    [
        ("zbud-6.1-small", "zbud", 4_023, 0),
        ("z3fold-6.1-small", "z3fold", 5_051, 811),
        ("zsmalloc-6.1-small", "zsmalloc:6.1", 4_029, 5),
    ],
)
def test_small_recordings_are_the_model_call_for_call(
    name: str, backend: str, totals: int, compactions: int
) -> None:
    result = replay_trace(SAMPLES / f"{name}.parquet", backend)
    assert result.totals_equal == result.totals_compared == totals
    assert result.count("compactions") == compactions
    assert result.count("compactions_unmatched") == 0
    with TraceReader(SAMPLES / f"{name}.parquet") as trace:
        [pool] = [pool for pool in validate_trace(trace).pools if pool.calls]
    assert pool.agrees
    assert pool.places.equal == pool.places.compared > 2_000


@pytest.mark.parametrize("name", EVERY)
def test_every_recording_is_explained(name: str) -> None:
    """By the command, which says the same with ``--json``."""
    path = str(SAMPLES / name)
    plain = CliRunner().invoke(command, [path], standalone_mode=False)
    assert plain.return_value == 0, plain.output
    told = CliRunner().invoke(command, [path, "--json"], standalone_mode=False)
    assert told.return_value == 0
    found = json.loads(told.stdout)
    assert found["explained"]
    if not found["pools"]:
        assert found["calls_explained"] == found["calls"] > 5_000
        assert f"{found['calls']:,} of {found['calls']:,} calls" in plain.output
        return
    places, sizes = UNDETERMINED.get(name, (0, 0))
    [pool] = [pool for pool in found["pools"] if pool["calls"]]
    assert pool["places"]["equal"] + places == pool["places"]["compared"] > 450
    assert pool["undetermined"] == places
    assert pool["sizes"]["equal"] + sizes == pool["sizes"]["compared"] > 450
    assert not pool["unknown"]
    assert f"{pool['sizes']['equal']:,} of {pool['sizes']['compared']:,}" in plain.output


@pytest.mark.skipif(
    not all(card.path(INSTALLED).exists() for card in cards()),
    reason="a wheel has the smallest recordings only",
)
def test_every_recording_has_its_card() -> None:
    assert sorted(f"{card.name}.parquet" for card in cards()) == EVERY
    done = CliRunner().invoke(corpus, ["--verify", "--json"], standalone_mode=False)
    assert done.return_value == 0, done.output
    told = json.loads(done.stdout)["recordings"]
    assert [one["differences"] for one in told] == [[]] * len(EVERY)
    assert {one["licence"] for one in told} == {"GPL-2.0-only"}
    shown = CliRunner().invoke(corpus, ["zbud-6.1-small"], standalone_mode=False).output
    assert "bursts-small" in shown and "12282" in shown


def test_a_file_that_is_another_is_told(tmp_path: Path) -> None:
    [card] = [card for card in cards() if card.name == "zbud-6.1-small"]
    other = SAMPLES / "z3fold-6.1-small.parquet"
    card.path(tmp_path).write_bytes(other.read_bytes())
    found = list(differences(card, tmp_path))
    assert "SHA-256" in found[0]
    assert "rows 13313, not 12282" in found and "allocator 'z3fold', not 'zbud'" in found
