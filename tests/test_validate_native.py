# SPDX-License-Identifier: GPL-2.0-only
"""The core's check of ztree against the Python checker, on what no kernel would do too.

tests/test_validate.py and tests/test_validate_small.py put all they check to both engines as
well; here are longer histories, calls that make no sense, and arguments that none may give.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from ctypes import byref, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.dice import Drawn
from tests.engines import steps_of
from tests.test_validate_small import TIMES, Kernel, Row, check
from ztrace.allocator import native
from ztrace.allocator.native.library import library
from ztrace.allocator.ztree.calls import BlockKind
from ztrace.allocator.ztree.model import BlockTree, BlockType
from ztrace.replay.errors import ReplayError
from ztrace.replay.validate.calls import SEEN, Seen
from ztrace.replay.validate.found_order import FoundOrder
from ztrace.replay.validate.native import CHECKER, NativeStream
from ztrace.replay.validate.races import races_in
from ztrace.replay.validate.stream import PythonStream, Sinks, Stream
from ztrace.replay.validate.ztree_checker import BlockFailure, BlockSteps
from ztrace.replay.validate.ztree_verdict import KEPT

if native.reason_missing():
    pytest.skip("no native core to compare", allow_module_level=True)

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "traces/samples").glob("*.parquet"))


# -- histories ---------------------------------------------------------------------------------


@st.composite
def long_histories(draw: Any) -> tuple[list[Row], bool]:
    """Up to 60 calls of up to five CPUs, some damaged; whether the trace begins with the pool."""
    trees = draw(st.sampled_from([(13,), (14,), (13, 14)]))
    cpus, calls = draw(st.integers(2, 5)), draw(st.integers(8, 60))
    kernel = Kernel(Drawn(draw), cpus, calls, draw(st.booleans()), trees)
    try:
        rows = kernel.run(draw(st.integers(0, 20)))
    except AssertionError:  # what no kernel survives
        assume(False)
    for _ in range(draw(st.integers(0, 3))):
        if not rows:
            break
        chosen = draw(st.integers(0, len(rows) - 1))
        row = rows[chosen]
        if row.op == "shrink" or draw(st.booleans()):
            rows.pop(chosen)
        else:
            rows[chosen] = row._replace(slot=draw(st.integers(0, 4)), block=draw(st.integers(0, 3)))
    late = draw(st.booleans())
    rows = rows[draw(st.integers(0, len(rows))) if late else 0 :]
    assume(any(row.op in ("malloc", "free") for row in rows))
    return rows, not late


def test_long_histories_of_many_cpus() -> None:
    seen = {"histories": 0, "explained": 0, "in part": 0, "backtracks": 0, "races": 0, "late": 0}

    @settings(max_examples=120 * TIMES, deadline=None, derandomize=True)
    @given(long_histories())
    def agree(history: tuple[list[Row], bool]) -> None:
        rows, empty = history
        verdict, _ = check(rows, empty=empty)
        seen["histories"] += 1
        seen["explained"] += verdict.explained
        seen["in part"] += verdict.total("in_part") > 0
        seen["backtracks"] += verdict.total("dead_ends") > 0
        seen["races"] += bool(verdict.race_counts)
        seen["late"] += not empty

    agree()
    print(f"\n{seen}")
    assert all(seen.values()) and seen["explained"] < seen["histories"]


# -- calls that make no sense ------------------------------------------------------------------


def nonsense(rng: random.Random) -> Seen:
    """Calls of any kind, on few blocks and slots, of which many overlap."""
    count, blocks, slots = rng.randint(1, 14), rng.randint(1, 5), rng.randint(1, 5)
    spread, length = rng.choice((0, 1, 3, 20)), rng.choice((0, 1, 4, 10))
    kinds = rng.choice(((0, 0, 1), (0, 0, 0, 1, 2), (0, 0, 1, 3, 4, 5, 6), tuple(range(8))))
    calls = np.zeros(count, SEEN)
    now = 0
    for row, call in enumerate(calls):
        now += rng.randint(0, spread)
        call["ts"], call["end"] = now, now + rng.randint(0, length)
        call["kind"], call["row"] = rng.choice(kinds), row
        call["block"], call["slot"] = rng.randrange(blocks), rng.randrange(slots)
        call["cpu"], call["tid"] = rng.randrange(3), rng.randrange(3)
    if rng.random() < 0.5:
        calls["row"] = rng.sample(range(count), count)
    sections = (calls["kind"] >= BlockKind.PASS) & (calls["kind"] < BlockKind.MISFIT)
    calls["row"][sections] = 1000 + calls["row"][sections] // 4  # a shrink is one row
    return calls[np.lexsort((calls["row"], calls["ts"]))]


def plausible(rng: random.Random, tree: BlockTree) -> Seen:
    """What a tree does when calls take effect in turn; as recorded, they may have overlapped."""
    live: list[tuple[int, int]] = []
    calls = np.zeros(rng.randint(5, 150), SEEN)
    share, blur = rng.choice((0.4, 0.5, 0.6)), rng.choice((0, 3, 8, 30))
    for row, call in enumerate(calls):
        if live and rng.random() > share:
            block_index, slot = live.pop(rng.randrange(len(live)))
            tree.release(block_index, slot)
            call["kind"] = 1
        else:
            found = tree.look()
            block = found or tree.insert()
            block_index, slot = block.index, tree.take(block, adopt=found is None)
            live.append((block_index, slot))
        call["ts"] = 10 * row + 100 - rng.randint(0, blur)
        call["end"] = 10 * row + 100 + rng.randint(0, blur)
        call["block"], call["slot"], call["row"] = block_index, slot, row
        call["tid"] = rng.randrange(3)
    for _ in range(rng.choice((0, 0, 1, 3))):
        one = calls[rng.randrange(len(calls))]
        one["block" if rng.random() < 0.5 else "slot"] = rng.randrange(3)
    calls = calls[rng.choice((0, 0, 7)) :] if len(calls) > 7 else calls
    return calls[np.lexsort((calls["row"], calls["ts"]))]


class Told:
    """What a stream tells of calls that it gets in batches of random sizes."""

    def __init__(self, seed: int, calls: Seen, *, native_: bool, wants_order: bool = True) -> None:
        rng = random.Random(seed)
        # Once indices have wrapped, which takes 2^56 blocks, the model's oldest is not the lowest.
        wraps = rng.random() < 0.5 and not (calls["kind"] >= BlockKind.PASS).any()
        tree = BlockTree(BlockType(0, 0, rng.randint(1, 5), 8, 4096), 3 if wraps else 1 << 56)
        empty = rng.random() < 0.6
        self.orders: list[FoundOrder] = []
        self.races: list[Any] = []
        self.failures: list[BlockFailure] = []
        self.count = 0
        self.undecided: list[int | None] = []
        marked: dict[int, Any] = {}

        def on_steps(steps: BlockSteps) -> None:
            self.races += races_in(0, 0, steps, marked)

        def on_failure(failure: BlockFailure) -> None:
            self.failures.append(failure)
            self.count += 1

        def on_more(count: int) -> None:
            self.count += count

        sinks = Sinks(on_steps, on_failure, self.orders.append if wants_order else None)
        stream: Stream = (
            NativeStream(tree, empty, sinks, on_more)
            if native_
            else PythonStream(tree, empty, sinks)
        )
        while True:
            size = rng.choice((1, 5, 80, 1000))
            limit = int(calls["ts"][size]) if size < len(calls) else 1 << 62
            done = stream.check(calls[:size], limit)
            self.undecided.append(stream.undecided_since if wants_order else None)
            if size >= len(calls):
                break
            calls = calls[done:]
        stream.finish()
        self.tally = stream.tally
        self.order = sorted(steps_of(self.orders)) if wants_order else []


def in_both(seed: int, calls: Seen) -> Told:
    """What both streams tell, which is the same."""
    try:
        expected = Told(seed, calls, native_=False)
    except Exception as error:  # block indices that wrap make the model itself give up
        with pytest.raises((ReplayError, type(error))):
            Told(seed, calls, native_=True)
        raise
    answered = Told(seed, calls, native_=True)
    assert answered.tally == expected.tally
    assert answered.count == expected.count == len(expected.failures)
    assert answered.failures == expected.failures[:KEPT]
    assert answered.races == expected.races
    assert answered.order == expected.order
    assert answered.undecided == expected.undecided
    quiet = Told(seed, calls, native_=True, wants_order=False)
    assert (quiet.tally, quiet.races) == (answered.tally, answered.races)
    return answered


def test_calls_that_make_no_sense() -> None:
    refused = undecided = 0
    for seed in range(400 * TIMES):
        told = in_both(seed, nonsense(random.Random(seed)))
        refused += told.count
        undecided += any(one is not None for one in told.undecided)
    print(f"\n{refused} calls refused, {undecided} streams undecided for a while")
    assert refused and undecided


def test_calls_that_nearly_make_sense() -> None:
    explained = whole = 0
    for seed in range(200 * TIMES):
        rng = random.Random(seed)
        slots = rng.randint(1, 5)
        calls = plausible(rng, BlockTree(BlockType(0, 0, slots, 8, 4096), 1 << 56))
        told = in_both(seed, calls)
        explained += told.tally.explained
        whole += not told.count
    print(f"\n{explained} calls explained, {whole} streams whole")
    assert whole


# -- what none may give ------------------------------------------------------------------------


def test_the_core_refuses_what_cannot_be() -> None:
    core = library(CHECKER)
    for slots, wrap in ((0, 9), (17, 9), (2**32 - 1, 9), (8, 0), (8, 2**60 + 1), (8, 2**64 - 1)):
        assert not core.zv_create(slots, wrap, 1, 1)
    tree = c_void_p(core.zv_create(8, 9, 1, 1))
    done = c_uint64()

    def told(calls: Seen) -> int:
        code = core.zv_check(tree, calls.ctypes.data, len(calls), 1 << 62, byref(done))
        assert isinstance(code, int)
        return code

    good = np.zeros(2, SEEN)
    for name, value in (
        *(("kind", -1), ("kind", 8), ("kind", 127), ("slot", -1), ("slot", 16), ("slot", 127)),
        *(("block", -1), ("block", 1 << 60), ("block", -(1 << 63)), ("end", -1), ("ts", -1)),
    ):
        calls = good.copy()
        calls[name][1] = value
        assert (told(calls), done.value) == (32, 0), (name, value)
    assert (told(good[:0]), done.value) == (0, 0)
    assert (told(good), done.value) == (0, 2)
    core.zv_destroy(tree)
    core.zv_destroy(None)


def test_bytes_that_are_no_calls_crash_nothing() -> None:
    rng = np.random.default_rng(1)
    core = library(CHECKER)
    codes = set()
    done = c_uint64()
    for _ in range(200 * TIMES):
        most = int(rng.integers(1, 17))
        tree = c_void_p(core.zv_create(most, int(rng.integers(1, 4)), int(rng.integers(2)), 1))
        for _ in range(4):
            calls = np.frombuffer(rng.bytes(SEEN.itemsize * 12), SEEN).copy()
            if rng.random() < 0.9:  # nearly calls
                calls["ts"] = np.sort(rng.integers(0, 40, 12))
                calls["end"] = calls["ts"] + rng.integers(0, 12, 12)
                calls["kind"], calls["block"] = rng.integers(0, 8, 12), rng.integers(0, 4, 12)
                calls["slot"], calls["row"] = rng.integers(0, 16, 12), rng.integers(0, 3, 12)
            codes.add(core.zv_check(tree, calls.ctypes.data, 12, 1 << 62, byref(done)))
            assert done.value <= 12
        codes.add(core.zv_finish(tree))
        core.zv_destroy(tree)
    assert {0, 32} <= codes <= {0, 32, 33}


# -- the command line --------------------------------------------------------------------------


def run(*arguments: str | Path, core: str | None = None) -> subprocess.CompletedProcess[str]:
    """``ztrace validate``; ``core`` is where to look for the core."""
    environment = {**os.environ} | ({} if core is None else {"ZTRACE_NATIVE": core})
    command = [sys.executable, "-m", "ztrace", "validate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_engines_print_the_same(tmp_path: Path) -> None:
    [sample] = [path for path in SAMPLES if path.stem == "ztree-6.1-2cpu"]
    printed: list[Any] = []
    for engine in ("native", "python"):
        order = tmp_path / engine
        done = run(sample, "--engine", engine, "--json", "--order", order)
        assert (done.returncode, done.stderr) == (0, "")
        document = json.loads(done.stdout)
        del document["measured_here"]
        printed.append((document, order.read_bytes()))
    assert printed[0] == printed[1]


def test_without_the_core_one_line_and_the_same_verdict(tmp_path: Path) -> None:
    [sample] = [path for path in SAMPLES if "bursts" in path.name]
    missing = str(tmp_path / "none.so")
    theirs = run(sample, core=missing)
    assert theirs.returncode == 0 and "explained: 11,138 of 11,138 calls" in theirs.stdout
    assert theirs.stderr.count("\n") == 1 and "native core" in theirs.stderr
    asked = run(sample, "--engine", "native", core=missing)
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (2, "", 1)
    assert run(sample, "--engine", "python", core=missing).stderr == ""
