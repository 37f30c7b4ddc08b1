# SPDX-License-Identifier: GPL-2.0-only
"""What a recording proves that ends where the posted ztree broke; and the bench that breaks it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bench.posted_ztree import Run
from ztrace.replay.research.broken import Calls, prove, shared
from ztrace.replay.validate import validate_trace
from ztrace.traces import TraceReader
from ztrace.traces.schema import OP_CODE

LEFT = Path(__file__).parent / "measure" / "posted-ztree-h1.parquet"
COLUMNS = ("ts_ns", "dur_ns", "cpu", "handle")

Call = tuple[str, int, int, int, int, int]
"""Op, CPU, begin, end, block, slot."""


def kept_calls(reader: TraceReader) -> Calls:
    """The mallocs and frees of a file."""
    table = pa.Table.from_batches(list(reader.batches(["op", *COLUMNS])))
    begin, lasted, cpu, handle = (table[name].to_numpy() for name in COLUMNS)
    op = table["op"].combine_chunks().indices.to_numpy()
    return Calls.of(op, cpu, begin, begin + lasted, handle)


def told(kind: int, calls: list[Call]) -> Calls:
    """Calls on one block type."""
    op, cpu, begin, end, block, slot = (list(column) for column in zip(*calls, strict=True))
    handles = [kind << 60 | b << 4 | s for b, s in zip(block, slot, strict=True)]
    return Calls.of(
        np.array([OP_CODE[name] for name in op]),
        np.array(cpu),
        np.array(begin, np.int64),
        np.array(end, np.int64),
        np.array(handles, np.uint64),
    )


def filled(slots: int, cpu: int = 1) -> list[Call]:
    """Mallocs of one CPU that take the slots of block 7, one after the other."""
    return [("malloc", cpu, 10 + 10 * n, 15 + 10 * n, 7, n) for n in range(slots)]


def test_h1_is_a_malloc_that_gets_one_slot_too_many() -> None:
    """Type 15, eight slots: the ninth, while another CPU got all eight."""
    again: Call = ("malloc", 1, 190, 210, 7, 8)  # not looked for either, and overlapping
    calls = told(15, [*filled(8), ("malloc", 0, 5, 200, 7, 8), again])
    proof = prove(calls)
    assert proof is not None
    assert (proof.type, proof.block, len(proof.others)) == (15, 7, 8)
    assert (calls.cpu[proof.call], calls.end[proof.call]) == (0, 200)
    assert shared(calls) == 1


def test_h1_of_sixteen_slots_reads_as_the_next_blocks_first() -> None:
    """H29: what a handle cannot tell is carried into the block's number."""
    calls = told(0, [("malloc", 1, 1, 2, 8, 0), *filled(16), ("malloc", 0, 5, 200, 8, 0)])
    proof = prove(calls)
    assert proof is not None
    assert (proof.block, len(proof.others)) == (7, 16)
    assert shared(calls) == 1


@pytest.mark.parametrize(
    "calls",
    [
        [*filled(7), ("malloc", 0, 5, 200, 7, 7)],  # the last slot, not one more
        [*filled(7), ("malloc", 0, 5, 200, 7, 8)],  # one too many, but one was left
        [*filled(8), ("malloc", 0, 150, 200, 7, 8)],  # not while the others got theirs
        [*filled(8, cpu=0), ("malloc", 0, 5, 200, 7, 8)],  # by the same CPU
    ],
)
def test_what_is_no_proof(calls: list[Call]) -> None:
    assert prove(told(15, calls)) is None


def test_a_handle_is_shared_until_the_free_begins() -> None:
    first: Call = ("malloc", 0, 0, 10, 7, 0)
    assert shared(told(15, [first, ("free", 0, 20, 40, 7, 0), ("malloc", 1, 15, 30, 7, 0)])) == 0
    assert shared(told(15, [first, ("free", 0, 31, 40, 7, 0), ("malloc", 1, 15, 30, 7, 0)])) == 1
    assert shared(told(15, [first, ("malloc", 1, 15, 30, 7, 1)])) == 0


def test_what_a_kernel_left_is_h1_to_the_proof_and_to_the_model() -> None:
    """Two CPUs of 7.2: one was away for 16 ms while the other got all eleven slots."""
    with TraceReader(LEFT) as reader:
        calls = kept_calls(reader)
        verdict = validate_trace(reader).trees
    proof = prove(calls)
    assert proof is not None
    assert (proof.type, proof.block, len(proof.others)) == (13, 3239, 11)
    assert int(calls.end[proof.call] - calls.begin[proof.call]) == 16_098_575
    assert shared(calls) == 1
    assert verdict is not None and verdict.explained
    assert verdict.total("explained") == verdict.total("calls") == 35_580
    [race] = [one for one in verdict.races if one.hazard == "H1"]
    assert {(call.block, call.slot) for call in race.calls} == {(3239, n) for n in range(12)}


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
def test_the_bench_runs_the_mail_and_keeps_what_broke(patch: Path, tmp_path: Path) -> None:
    """Whether a run breaks is chance; what it says of itself is not."""
    results, folder = tmp_path / "results", tmp_path / "kept"
    command = [sys.executable, "-m", "bench.posted_ztree", str(patch), "--cpus=4/2", "--live=2e5"]
    command += ["--calls=1e6", "--runs=3", f"--results={results}", f"--keep={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(done.stdout, done.stderr)
    runs = [Run.read(line) for line in results.read_text().splitlines()]
    assert len(runs) == 3
    broke = [one for one in runs if one.said]
    row = re.search(r"^\| 4 \| 2 \| 200,000 \| 3 \| (\d) ", done.stdout, re.MULTILINE)
    assert row is not None and int(row[1]) == len(broke)
    for one in runs:
        if one.said and not one.calls:
            continue  # the guest fell silent: a busy host is no fault of the allocator's
        assert 0 < one.calls <= 1_000_000 if one.said else one.calls > 990_000
        assert (one.shared > 0) == bool(one.said)
    kept: dict[str, Run] = {}
    for one in runs:
        if one.hazard or (one.said and one.calls):
            kept.setdefault(f"{one.hazard or 'unproved'}-4cpus.parquet", one)
    assert {path.name for path in folder.glob("*")} == set(kept)
    for name, run in kept.items():
        with TraceReader(folder / name) as reader:
            verdict = validate_trace(reader)
            proof = prove(kept_calls(reader))
            left = reader.metadata.extra["measure"].get("broken")
        # The race need not break a run: the next to get the slot may come after its owner's free.
        assert (left is not None) == (run.said is not None)
        assert left is None or left["said"].startswith("malloc returned")
        assert verdict.explained == verdict.calls > 0
        assert verdict.trees is not None
        # Which of several orders the search finds need not have the race: the calls must prove it.
        assert (proof is not None) == (run.hazard is not None)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
    assert len(json.loads(results.read_text().splitlines()[0])) == 6
