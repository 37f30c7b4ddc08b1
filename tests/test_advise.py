# SPDX-License-Identifier: GPL-2.0-only
"""What is advised: what the kernel has, by what replays hold, and nothing that is not told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ztrace.commands.advise import command
from ztrace.replay import ReplayError
from ztrace.replay.advise import advise, measured_times
from ztrace.replay.play.fastest import replay_fastest
from ztrace.traces import OP_CODE, Metadata, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine, PoolInfo

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
ZSMALLOC, LIMITED = SAMPLES / "zsmalloc-6.1-small.parquet", SAMPLES / "zbud-6.1-limit.parquet"


def made(path: Path, release: str, *, source: str = "zswap", sizes: tuple[int, ...]) -> Path:
    """A trace of zsmalloc: objects of these sizes come one by one, then all go."""
    count = len(sizes)
    rows: dict[str, Any] = {
        "ts_ns": np.arange(2 * count) * 1000,
        "dur_ns": np.full(2 * count, 100),
        "op": pa.array([OP_CODE["malloc"]] * count + [OP_CODE["free"]] * count, pa.int8()),
        "size": pa.array([*sizes, *[None] * count], pa.uint32()),
        "handle": pa.array([*range(1, count + 1)] * 2, pa.uint64()),
        "ret": np.zeros(2 * count),
    }
    metadata = Metadata(
        kernel=Kernel(release),
        machine=Machine(cpus=1),
        pools=[PoolInfo("zsmalloc", "lzo", True, True)],
        source=source,
    )
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write({name: pa.array(column) for name, column in rows.items()})
    return path


@pytest.mark.parametrize("path", [ZSMALLOC, LIMITED], ids=lambda path: path.stem)
def test_choices_are_what_replays_hold(path: Path) -> None:
    with TraceReader(path) as reader:
        found = advise(reader)
        for choice in found.choices:
            held = replay_fastest(reader, choice.backend).held_bytes
            assert (choice.mean_bytes, choice.peak_bytes) == (held.mean, held.peak)
    now, *others = found.choices
    assert now.backend == found.recorded and not now.how and not now.change
    assert [one.mean_bytes for one in others] == sorted(one.mean_bytes for one in others)
    for one in others:
        assert one.change == pytest.approx(one.mean_bytes / now.mean_bytes - 1)
        assert one.least <= one.change <= one.most
        name = one.backend.split(":")[0]
        assert one.how == f"echo {name} > /sys/module/zswap/parameters/zpool"
    assert {one.backend.split(":")[0] for one in found.choices} == {"zbud", "z3fold", "zsmalloc"}


def test_a_lower_limit_costs_more() -> None:
    with TraceReader(LIMITED) as reader:
        limits = advise(reader).limits
    assert [one.share for one in limits] == [100, 90, 75, 50]
    rejected = [one.rejected for one in limits]
    assert rejected == sorted(rejected) and rejected[-1] > rejected[0]


def test_chains_are_a_choice_where_a_kernel_can_be_built_with_them(tmp_path: Path) -> None:
    sizes = tuple(int(size) for size in np.random.default_rng(1).integers(40, 3600, 3000))
    with TraceReader(made(tmp_path / "t", "6.12.117", sizes=sizes)) as reader:
        found = advise(reader)
    chains = {
        one.backend: one.how for one in found.choices[1:] if one.backend.startswith("zsmalloc")
    }
    assert len(chains) == 12
    assert chains["zsmalloc:6.12,chain_size=16"] == (
        "CONFIG_ZSMALLOC_CHAIN_SIZE=16, build the kernel"
    )
    with TraceReader(made(tmp_path / "t", "6.1.0-56-amd64", sizes=sizes)) as reader:
        assert not [one for one in advise(reader).choices[1:] if "chain" in one.backend]


def test_zram_has_no_other_allocator(tmp_path: Path) -> None:
    with TraceReader(made(tmp_path / "t", "6.12.117", source="zram", sizes=(900,) * 50)) as reader:
        found = advise(reader)
    assert {one.backend.split(":")[0] for one in found.choices} == {"zsmalloc"}


def test_what_is_worse_at_any_time_is_not_advised(tmp_path: Path) -> None:
    """zbud refuses objects of 4,000 bytes, and so would hold nothing; no chain makes them less."""
    made(tmp_path / "t", "6.12.117", sizes=(4000,) * 400)
    out = CliRunner().invoke(command, [str(tmp_path / "t")], standalone_mode=False)
    assert out.exit_code == 0, out.output
    assert "Keep what you have" in out.output and "to set" not in out.output
    assert "refuses 400" in out.output
    assert "not told here: pool limits: " in out.output
    assert max(map(len, out.output.splitlines()[3:8])) <= 80


def test_times_come_from_measured_files_only(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="not measured; ztrace measure writes such files"):
        measured_times([ZSMALLOC])
    path = made(tmp_path / "m", "6.1.192", source="measure", sizes=(900,) * 30)
    times = measured_times([path])
    assert (times["zsmalloc"].malloc_ns, times["zsmalloc"].free_ns) == (100, 100)
    out = CliRunner().invoke(
        command, [str(ZSMALLOC), "--measured", str(path), "--json"], standalone_mode=False
    )
    [document] = json.loads(out.output)
    assert document["choices"][0]["timed"] == {"malloc_ns": 100.0, "free_ns": 100.0}
    assert document["choices"][1]["timed"] is None
    assert document["lost_events"] == 0
