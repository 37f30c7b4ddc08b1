# SPDX-License-Identifier: GPL-2.0-only
"""A backend's bare name means the recorded kernel's rules, in every command, and each says so."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.test_cross_replay import Command, ztrace
from ztrace.replay import replay_trace
from ztrace.replay.play.backends import chosen, own_model
from ztrace.traces.metadata import Kernel, Metadata, PoolInfo
from ztrace.traces.reader import TraceReader

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
TRACE = str(SAMPLES / "zsmalloc-6.1-small.parquet")

__all__ = ["ztrace"]  # a fixture


def told(ztrace: Command, *arguments: str) -> str:
    """What a command prints; it must not fail."""
    status, out, err = ztrace(*arguments)
    assert not status, err
    return out


def test_replay_has_the_recorded_rules(ztrace: Command) -> None:
    out = told(ztrace, "replay", TRACE, "--backend", "zsmalloc", "--json")
    [found] = json.loads(out)["replays"]
    assert found["backend"] == "zsmalloc:6.1"
    assert found["totals"]["equal"] == found["totals"]["compared"] > 0
    other = replay_trace(TRACE, "zsmalloc:6.12").pools[0].totals  # what is said stands
    assert other.equal < other.compared
    assert replay_trace(TRACE, "zsmalloc").backend == "zsmalloc:6.1"
    text = told(ztrace, "replay", TRACE, "--backend", "zsmalloc")
    assert "zsmalloc:6.1" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "--backend", "zsmalloc", "--backend", "zbud"),
        ("replay", "--backend", "zsmalloc", "--limit", "8M"),
        ("replay", "--backend", "zsmalloc", "--anomalies"),
        ("report", "--backend", "zsmalloc", "--format", "json"),
        ("compare", "--replay", "zsmalloc", "zbud"),
        ("tune", "--against", "zsmalloc"),
        ("validate", "--backend", "zsmalloc"),
    ],
)
def test_every_command_says_whose_rules_it_used(
    ztrace: Command, arguments: tuple[str, ...]
) -> None:
    command, *options = arguments
    out = told(ztrace, command, TRACE, *options, *(["--json"] if command != "report" else []))
    assert "zsmalloc:6.1" in out
    assert "zsmalloc:6.12" not in out


def test_sweep_has_the_recorded_rules(ztrace: Command, tmp_path: Path) -> None:
    output = tmp_path / "results.parquet"
    told(ztrace, "sweep", TRACE, "--backend", "zsmalloc", "-o", str(output))
    [row] = pq.read_table(output).to_pylist()
    assert (row["backend"], row["model"]) == ("zsmalloc", "zsmalloc:6.1")
    assert row["totals_equal"] == row["totals_compared"] > 0


@pytest.mark.parametrize(
    ("release", "meant"),
    [
        *(("6.1.0-56-amd64", "zsmalloc:6.1"), ("6.12.117+deb12-amd64", "zsmalloc:6.12")),
        ("7.2.13+deb14-amd64", "zsmalloc:7.2"),
    ],
)
def test_a_recording_is_of_its_kernels_rules(release: str, meant: str) -> None:
    metadata = Metadata(kernel=Kernel(release), pools=[PoolInfo("zsmalloc")])
    assert own_model(metadata) == chosen(["zsmalloc"], metadata)[0] == meant


def test_a_name_and_what_it_means_are_one_backend() -> None:
    with TraceReader(TRACE) as reader:
        assert chosen(["zsmalloc", "zsmalloc:6.1"], reader.metadata) == ["zsmalloc:6.1"]
