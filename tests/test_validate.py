# SPDX-License-Identifier: GPL-2.0-only
"""Validation of recordings: whole ones are explained, damaged ones are not, mutants never.

What the checker accepts is checked by replaying the order it reports on a fresh model; what it
rejects on one CPU, by playing the calls one after the other.
"""

from __future__ import annotations

import json
import random
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.engines import steps_of, validate_both, without_time
from ztrace.allocator.ztree.model import FREE, Block, BlockTree, Released, Ztree
from ztrace.cli import main
from ztrace.replay import ReplayError
from ztrace.replay.order.file import read_order
from ztrace.replay.validate import calls as calls_module
from ztrace.replay.validate.ztree_run import explain_trees
from ztrace.replay.validate.ztree_verdict import TreesVerdict
from ztrace.traces import OP_CODE, OPS, Metadata, PoolInfo, TraceReader, TraceWriter
from ztrace.traces.schema import SCHEMA

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
NAMES = sorted(path.name for path in SAMPLES.glob("ztree-*.parquet"))
ONE, TWO = "ztree-6.1-1cpu.parquet", "ztree-6.1-2cpu.parquet"
MALLOC_OP, FREE_OP = OP_CODE["malloc"], OP_CODE["free"]
COLUMNS = calls_module.COLUMNS
CSV_COLUMNS = ("ts_ns", "dur_ns", "op", "size", "handle", "ret", "cpu", "tid")
MODEL = Ztree()
SLOT_SIZES = [kind.slot_bytes for kind in MODEL.types]


# -- traces in memory ------------------------------------------------------------------------

Columns = dict[str, NDArray[Any]]


def whole() -> Metadata:
    """Metadata of a trace that lacks nothing."""
    return Metadata(pools=[PoolInfo("ztree", "lzo", True, True)])


def late() -> Metadata:
    """Metadata of a trace that may have begun when the pool was in use."""
    return Metadata(pools=[PoolInfo("ztree")])


class Memory:
    """What validation uses of a TraceReader, over arrays."""

    def __init__(self, columns: Columns, metadata: Metadata) -> None:
        arrays = {name: pa.array(columns[name], SCHEMA.field(name).type) for name in COLUMNS[:2]}
        arrays |= {name: pa.array(columns[name], SCHEMA.field(name).type) for name in COLUMNS[3:]}
        arrays["op"] = pa.DictionaryArray.from_arrays(pa.array(columns["op"], pa.int8()), OPS)
        self._table = pa.table(arrays)
        self.metadata = metadata
        self.path = Path("memory")
        self.num_rows = self._table.num_rows

    def batches(self, columns: Any = None, rows: int = 65536) -> Iterator[pa.RecordBatch]:
        yield from self._table.select(list(columns)).to_batches(max_chunksize=rows)


@cache
def _loaded(name: str) -> Columns:
    with TraceReader(SAMPLES / name) as reader:
        table = pa.Table.from_batches(list(reader.batches(COLUMNS)))
    op = table["op"].combine_chunks().indices.to_numpy()
    chosen = np.isin(op, (MALLOC_OP, FREE_OP))
    loaded = {"op": op[chosen]}
    for column in (one for one in COLUMNS if one != "op"):
        loaded[column] = table[column].combine_chunks().fill_null(0).to_numpy()[chosen]
    return loaded


def recording(name: str) -> Columns:
    """The mallocs and frees of a bundled recording."""
    return {column: values.copy() for column, values in _loaded(name).items()}


def pick(columns: Columns, rows: Any) -> Columns:
    """The chosen rows; ``rows`` as an index of numpy."""
    return {column: values[rows] for column, values in columns.items()}


def tree_of(columns: Columns) -> NDArray[np.int64]:
    """Number of the block tree of each row."""
    return (columns["handle"] >> np.uint64(60)).astype(np.int64)


@dataclass
class Checked:
    """A verdict and the order that came with it."""

    verdict: TreesVerdict
    order: list[tuple[int, int, int]]  # (at_ns, row, step)


def check(columns: Columns, metadata: Metadata | None = None, **options: Any) -> Checked:
    """Validate rows in memory, by both engines."""
    reader = cast(TraceReader, Memory(columns, metadata or whole()))
    verdict, orders = validate_both(reader, **options)
    return Checked(verdict, steps_of(orders))


def unexplained(verdict: TreesVerdict) -> int:
    """Calls not explained; the two ways to count them must agree."""
    missing = verdict.total("calls") - verdict.total("explained")
    assert missing == verdict.unexplained_count
    assert verdict.explained is (missing == 0)
    return missing


# -- the two references ----------------------------------------------------------------------

WHOLE, LOOK, INSERT, TAKE = range(4)


def wrong_in_order(columns: Columns, order: list[tuple[int, int, int]]) -> list[str]:
    """What is wrong with an order as an explanation of all mallocs and frees: nothing if []."""
    trees = [BlockTree(kind, 1 << 56) for kind in MODEL.types]
    op, handle = columns["op"].tolist(), columns["handle"].tolist()
    size, ret = columns["size"].tolist(), columns["ret"].tolist()
    begin = columns["ts_ns"].tolist()
    end = (columns["ts_ns"] + columns["dur_ns"].astype(np.int64)).tolist()
    inserted: dict[int, Block] = {}
    looked: set[int] = set()
    finished: list[int] = []
    wrong: list[str] = []
    earlier = -(1 << 62)
    for at_ns, row, step in order:
        if not begin[row] <= at_ns <= end[row]:
            wrong.append(f"row {row}: outside its interval")
        if at_ns < earlier:
            wrong.append(f"row {row}: not sorted")
        earlier = at_ns
        if step in (WHOLE, TAKE):
            finished.append(row)
        number, index, slot = (
            handle[row] >> 60,
            (handle[row] & (1 << 60) - 1) >> 4,
            handle[row] & 15,
        )
        tree = trees[number]
        if op[row] == FREE_OP:
            block = tree.blocks.get(index)
            if block is None or block.slots[slot] == FREE:
                wrong.append(f"row {row}: free of what is not allocated")
            tree.release(index, slot)
            continue
        if (
            ret[row]
            or SLOT_SIZES[number] < size[row]
            or bisect_left(SLOT_SIZES, size[row]) != number
        ):
            wrong.append(f"row {row}: {size[row]} bytes in tree {number}")
            continue
        given = -1
        if (step == INSERT and row not in looked) or (step == TAKE and row not in inserted):
            wrong.append(f"row {row}: step {step} without the one before")
        elif step == WHOLE:
            found = tree.look()
            block = found or tree.insert()
            given = block.index << 4 | tree.take(block, adopt=found is None)
        elif step == LOOK:
            looked.add(row)
            given = -1 if tree.look() else index << 4 | slot
        elif step == INSERT:
            looked.remove(row)
            inserted[row] = tree.insert()
            given = inserted[row].index << 4 | slot
        elif step == TAKE:
            block = inserted.pop(row)
            given = block.index << 4 | tree.take(block, adopt=True)
        if given != index << 4 | slot:
            wrong.append(f"row {row}: step {step} gave {given:#x}")
    if sorted(finished) != list(range(len(op))) or looked or inserted:
        wrong.append("not every call once")
    return wrong


def first_wrong_in_turn(columns: Columns) -> int | None:
    """The first row that differs when the calls are played one after the other by ts_ns."""
    pool = Ztree()
    live: set[int] = set()
    for row in np.lexsort((np.arange(len(columns["op"])), columns["ts_ns"])).tolist():
        handle = int(columns["handle"][row])
        if columns["op"][row] == FREE_OP:
            if handle not in live:
                return int(row)
            live.remove(handle)
            pool.free(handle)
        elif pool.malloc(int(columns["size"][row])) != handle:
            return int(row)
        else:
            live.add(handle)
    return None


# -- the command line ------------------------------------------------------------------------


@dataclass
class Result:
    code: int
    out: str
    err: str


Ztrace = Callable[..., Result]


@pytest.fixture
def ztrace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Ztrace:
    """Runs the command line in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["ztrace", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return Result(caught.value.code, out, err)

    return run


def save(path: Path, columns: Columns, metadata: Metadata | None = None) -> Path:
    """Write rows as a trace."""
    with TraceWriter(path, metadata or whole()) as writer:
        writer.write(columns)
    return path


# -- whole recordings ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_call_of_a_bundled_recording_is_explained(name: str, ztrace: Ztrace) -> None:
    result = ztrace("validate", SAMPLES / name, "--json")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    columns = recording(name)
    assert document["calls"] == document["calls_explained"] == len(columns["op"])
    assert document["calls_explained_in_part"] == document["unexplained_count"] == 0
    counts = np.bincount(tree_of(columns), minlength=16).tolist()
    assert [(one["tree"], one["calls"], one["explained"]) for one in document["trees"]] == [
        (number, count, count) for number, count in enumerate(counts) if count
    ]
    assert document["cpus"] == (2 if "2cpu" in name else 1)
    assert bool(document["overlapping"]) == bool(document["race_counts"]) == ("2cpu" in name)
    checked = check(columns)
    assert wrong_in_order(columns, checked.order) == []


def test_in_recorded_order_two_cpus_are_not_explained() -> None:
    # Otherwise the search would prove nothing.
    assert first_wrong_in_turn(recording(ONE)) is None
    assert first_wrong_in_turn(recording(TWO)) is not None


@pytest.fixture(scope="module")
def csv_tables() -> dict[str, pa.Table]:
    """The columns that a hand-made CSV has, of whole recordings."""
    return {name: pq.read_table(SAMPLES / name, columns=list(CSV_COLUMNS)) for name in (ONE, TWO)}


def _as_recorded(table: pa.Table) -> pa.Table:
    return table


def _shuffled(table: pa.Table) -> pa.Table:
    return table.take(np.random.default_rng(1).permutation(len(table)))


def _set_times(table: pa.Table, begin: NDArray[np.int64], end: NDArray[np.int64]) -> pa.Table:
    table = table.set_column(0, "ts_ns", pa.array(begin))
    return table.set_column(1, "dur_ns", pa.array(end - begin))


def _coarse_clock(table: pa.Table) -> pa.Table:
    begin = table["ts_ns"].to_numpy()
    end = begin + table["dur_ns"].to_numpy().astype(np.int64)
    unit = 20_000
    return _set_times(table, begin // unit * unit, -(-end // unit) * unit)


def _moments(table: pa.Table) -> pa.Table:
    """Only where one CPU made the calls: durations unknown, a clock with steps of 50 us."""
    begin = table["ts_ns"].to_numpy() // 50_000 * 50_000
    return _set_times(table, begin, begin)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(
            (name, change)
            for name in (ONE, TWO)
            for change in (_as_recorded, _shuffled, _coarse_clock)
        ),
        (ONE, _moments),
    ],
)
def test_a_csv_that_says_nothing_of_its_beginning_is_explained(
    name: str,
    change: Callable[[pa.Table], pa.Table],
    csv_tables: dict[str, pa.Table],
    ztrace: Ztrace,
) -> None:
    table = change(csv_tables[name])
    plain = table.set_column(2, "op", table["op"].cast(pa.string()))
    with Path("in.csv").open("wb") as file:
        file.write(",".join(CSV_COLUMNS).encode() + b"\n")
        pacsv.write_csv(plain, file, pacsv.WriteOptions(include_header=False))
    sort = ["--sort"] if change is _shuffled else []
    assert ztrace("import", "in.csv", "-o", "t.parquet", *sort).code == 0
    with TraceReader("t.parquet") as reader:
        assert not reader.metadata.starts_empty()
    result = ztrace("validate", "t.parquet", "--json")
    document = json.loads(result.out)
    assert document["unexplained"] == []
    assert (result.code, result.err) == (0, "")
    assert document["calls"] == document["calls_explained"] == len(recording(name)["op"])
    assert document["calls_explained_in_part"] == 0
    assert all(one["assumed_empty"] for one in document["trees"])
    # Less is known of the times, so more calls may have overlapped.
    exact = 653 if name == TWO else 0
    assert (document["overlapping"] > exact) is (change in (_coarse_clock, _moments))


# -- mutations of recordings -----------------------------------------------------------------

# Trees with both mallocs and frees in their first calls; each mutation is made in one of them,
# since trees share nothing.
TREES = (3, 13, 14, 15)
CALLS = 1600
TRIES = 40  # mutations of each kind, in each tree of each recording


def _mallocs(rows: Columns) -> list[int]:
    return np.flatnonzero(rows["op"] == MALLOC_OP).tolist()


def _span(rows: Columns, row: int) -> tuple[int, int]:
    begin = int(rows["ts_ns"][row])
    return begin, begin + int(rows["dur_ns"][row])


def exchange_handles(rows: Columns, rng: random.Random) -> tuple[Columns, list[int]]:
    """Two mallocs that did not overlap get each other's handle."""
    while True:
        first, second = sorted(rng.sample(_mallocs(rows), 2))
        apart = _span(rows, first)[1] < _span(rows, second)[0]
        if apart and rows["handle"][first] != rows["handle"][second]:
            break
    rows["handle"][[first, second]] = rows["handle"][[second, first]]
    return rows, [first, second]


def _drop(rows: Columns, row: int) -> tuple[Columns, list[int]]:
    return pick(rows, np.arange(len(rows["op"])) != row), [row]


def drop_free(rows: Columns, rng: random.Random) -> tuple[Columns, list[int]]:
    """One free is missing."""
    return _drop(rows, rng.choice(np.flatnonzero(rows["op"] == FREE_OP).tolist()))


def drop_malloc(rows: Columns, rng: random.Random) -> tuple[Columns, list[int]]:
    """One malloc is missing."""
    return _drop(rows, rng.choice(_mallocs(rows)))


def change_size(rows: Columns, rng: random.Random) -> tuple[Columns, list[int]]:
    """One malloc's size crosses the nearest border of its class."""
    row = rng.choice(_mallocs(rows))
    number = bisect_left(SLOT_SIZES, int(rows["size"][row]))
    up = number == 0 or (number < 15 and rng.random() < 0.5)
    rows["size"][row] = SLOT_SIZES[number] + 1 if up else SLOT_SIZES[number - 1]
    return rows, [row]


def shift_time(rows: Columns, rng: random.Random) -> tuple[Columns, list[int]]:
    """One call was a second earlier or later than recorded."""
    row = rng.randrange(len(rows["op"]))
    rows["ts_ns"][row] += rng.choice((-1, 1)) * 1_000_000_000
    return rows, [row]


MUTATIONS = (exchange_handles, drop_free, drop_malloc, change_size, shift_time)


@dataclass
class Figures:
    """Counts of one kind of mutation on one recording."""

    tried: int = 0
    caught: int = 0
    at_once: int = 0
    equivalent: int = 0
    distances: list[int] = field(default_factory=list)

    def line(self, name: str, kind: str) -> str:
        median = sorted(self.distances)[len(self.distances) // 2] if self.distances else 0
        return (
            f"{name:24} {kind:18}{self.tried:7}{self.caught:8}{self.equivalent:12}"
            f"{self.at_once:9}{median:8}{max(self.distances, default=0):6}"
        )


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[tuple[str, str], Figures]]:
    """The table of mutations, printed at the end."""
    found: dict[tuple[str, str], Figures] = {}
    yield found
    print(f"\n{'recording':24} {'mutation':18}{'made':>7}{'caught':>8}{'equivalent':>12}", end="")
    print(f"{'at once':>9}{'median':>8}{'max':>6}   (calls of its tree until caught)")
    for (name, kind), one in found.items():
        print(one.line(name, kind))
    total = [sum(getattr(one, what) for one in found.values()) for what in ("tried", "caught")]
    print(f"together: {total[0]} made, {total[1]} caught, 0 missed")


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", [ONE, TWO])
def test_a_mutated_recording_is_caught_or_equivalent(
    name: str,
    mutate: Callable[[Columns, random.Random], tuple[Columns, list[int]]],
    figures: dict[tuple[str, str], Figures],
) -> None:
    """A mutation is equivalent if the calls as mutated have an order that explains them all."""
    rng = random.Random(f"{name} {mutate.__name__}")
    columns = recording(name)
    found = figures[name, mutate.__name__] = Figures()
    for number in TREES:
        original = pick(columns, np.flatnonzero(tree_of(columns) == number)[:CALLS])
        assert check(original).verdict.explained
        for _ in range(TRIES):
            rows, where = mutate({key: one.copy() for key, one in original.items()}, rng)
            checked = check(rows)
            found.tried += 1
            if checked.verdict.explained:
                assert wrong_in_order(rows, checked.order) == [], f"{where} was not noticed"
                assert name == TWO or mutate is shift_time or first_wrong_in_turn(rows) is None
                found.equivalent += 1
                continue
            assert unexplained(checked.verdict) > 0
            found.caught += 1
            failed = checked.verdict.unexplained[0].failure
            # Nothing before the mutated call may be blamed.
            place = int(original["ts_ns"][where[0]])
            if mutate is shift_time:
                place = min(place, int(rows["ts_ns"][where[0]]))
            assert failed.call.end >= place
            between = (rows["ts_ns"] >= place) & (rows["ts_ns"] < failed.call.ts)
            found.distances.append(int(between.sum()))
            found.at_once += failed.call.row in where
            if name == ONE and mutate is not shift_time:
                assert failed.call.row == first_wrong_in_turn(rows)
    assert found.tried == found.caught + found.equivalent == len(TREES) * TRIES
    # A free that nothing later depends on can be missing unnoticed, and a call can be elsewhere.
    share = {"drop_free": 0.3, "shift_time": 0.5}.get(mutate.__name__, 0.95)
    assert found.caught >= share * found.tried


# -- mutants of the model --------------------------------------------------------------------


class Strictly(BlockTree):
    """A free makes its block current only if its coeff is greater."""

    def prefers(self, block: Block, current: Block) -> bool:
        return block.coeff > current.coeff


class Always(BlockTree):
    """Every free makes its block current."""

    def prefers(self, block: Block, current: Block) -> bool:
        return True


class Never(BlockTree):
    """No free replaces current."""

    def prefers(self, block: Block, current: Block) -> bool:
        return False


class Reversed(BlockTree):
    """The block with the smaller coeff wins."""

    def prefers(self, block: Block, current: Block) -> bool:
        return block.coeff <= current.coeff


class CoeffAfter(BlockTree):
    """coeff counts the free that is being made."""

    def prefers(self, block: Block, current: Block) -> bool:
        return block.free_slots * (self.kind.slots - block.free_slots) >= current.coeff


class CoeffFree(BlockTree):
    """coeff is the number of free slots."""

    def weigh(self, block: Block) -> None:
        block.coeff = block.free_slots


class CoeffUsed(BlockTree):
    """coeff is the number of used slots."""

    def weigh(self, block: Block) -> None:
        block.coeff = self.kind.slots - block.free_slots


class NoWeighOnMalloc(BlockTree):
    """Only a free computes coeff."""

    def mark(self, block: Block) -> int:
        before = block.coeff
        slot = super().mark(block)
        block.coeff = before
        return slot


class LastFirst(BlockTree):
    """malloc tries last before current."""

    def look(self) -> Block | None:
        if self.last is not None and self.last.free_slots > 0:
            return self.last
        return super().look()


class CurrentOnly(BlockTree):
    """malloc does not try last."""

    def look(self) -> Block | None:
        return self.current if self.current is not None and self.current.free_slots else None


class AnyBlock(BlockTree):
    """malloc tries every block before it adds one."""

    def look(self) -> Block | None:
        return super().look() or next((b for b in self.blocks.values() if b.free_slots), None)


class FoundIsCurrent(BlockTree):
    """A block that malloc finds becomes current."""

    def take(self, block: Block, *, adopt: bool = False) -> int:
        return super().take(block, adopt=True)


class NotAdopted(BlockTree):
    """A block that malloc adds does not become current."""

    def adopt(self, block: Block) -> None:
        pass


class NotLast(BlockTree):
    """A block that malloc adds does not become last."""

    def insert(self) -> Block:
        before = self.last
        block = super().insert()
        self.last = before
        return block


class LowestIndex(BlockTree):
    """A new block takes the lowest index that is not in use."""

    def insert(self) -> Block:
        self.counter = next(i for i in range(len(self.blocks) + 1) if i not in self.blocks)
        return super().insert()


class NoNextIndex(BlockTree):
    """The counter of blocks stands still."""

    def insert(self) -> Block:
        before = self.counter
        block = super().insert()
        self.counter = before
        return block


class HighestSlot(BlockTree):
    """malloc takes the highest free slot."""

    def mark(self, block: Block) -> int:
        slot = block.slots.rfind(FREE, 0, self.kind.slots)
        block.slots[slot] = 1
        self.weigh(block)
        return slot


class NextFit(BlockTree):
    """malloc takes the first free slot behind the last used one."""

    def mark(self, block: Block) -> int:
        used = bytes(block.slots).rstrip(bytes([FREE]))
        slot = block.slots.find(FREE, len(used), self.kind.slots)
        if slot < 0:
            return super().mark(block)
        block.slots[slot] = 1
        self.weigh(block)
        return slot


class CurrentKept(BlockTree):
    """Giving an empty block back leaves current alone, unless it was that block."""

    def _delete_empty(self, block: Block) -> int:
        before = self.current
        forgotten = super()._delete_empty(block)
        if before is not block:
            self.current = before
        return forgotten


class CurrentForgotten(BlockTree):
    """Giving an empty block back sets current to None instead of last."""

    def _delete_empty(self, block: Block) -> int:
        forgotten = super()._delete_empty(block)
        self.current = None
        return forgotten


class CurrentOutlivesLast(BlockTree):
    """Giving the last block back leaves another current block alone."""

    def _delete_empty(self, block: Block) -> int:
        before, was_last = self.current, block is self.last
        forgotten = super()._delete_empty(block)
        if was_last and before is not block:
            self.current = before
        return forgotten


class LastForgotten(BlockTree):
    """Giving any empty block back forgets last too."""

    def _delete_empty(self, block: Block) -> int:
        forgotten = super()._delete_empty(block)
        self.last = None
        return forgotten


class OldestBecomesCurrent(BlockTree):
    """Giving an empty block back makes the oldest block current."""

    def _delete_empty(self, block: Block) -> int:
        forgotten = super()._delete_empty(block)
        self.current = next(iter(self.blocks.values()), None)
        return forgotten


class NeverDeleted(BlockTree):
    """An empty block is kept."""

    def count_free(self, index: int) -> Released:
        block = self.blocks.get(index)
        if block is None or block.free_slots + 1 < self.kind.slots:
            return super().count_free(index)
        self.credit(block, block.free_slots)
        if self.current is None or self.prefers(block, self.current):
            self.current = block
        return Released(block)


class FirstFreeIsCurrent(BlockTree):
    """A free in a full block makes it current."""

    def prefers(self, block: Block, current: Block) -> bool:
        return block.coeff == 0 or super().prefers(block, current)


MUTANTS: tuple[type[BlockTree], ...] = (
    *(Strictly, Always, Never, Reversed, CoeffAfter, CoeffFree, CoeffUsed, NoWeighOnMalloc),
    *(LastFirst, CurrentOnly, AnyBlock, FoundIsCurrent, NotAdopted, NotLast),
    *(LowestIndex, NoNextIndex, HighestSlot, NextFit),
    *(CurrentKept, CurrentForgotten, CurrentOutlivesLast, LastForgotten, OldestBecomesCurrent),
    *(NeverDeleted, FirstFreeIsCurrent),
)


def some_trees(name: str) -> Columns:
    """All calls of a few trees of a recording."""
    columns = recording(name)
    return pick(columns, np.isin(tree_of(columns), TREES))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_a_mutant_of_the_model_is_rejected(mutant: type[BlockTree]) -> None:
    """By a few trees of a recording or, where those do not tell, by a whole one."""
    rejected = False
    for name, part in [
        *((name, some_trees) for name in NAMES),
        *((name, recording) for name in NAMES),
    ]:
        verdict = check(part(name), tree_class=mutant).verdict
        rejected |= not verdict.explained
        print(f"{mutant.__name__:22}{name:26}{unexplained(verdict):7} of {verdict.total('calls')}")
        if rejected and part is recording:
            break
        if rejected and name == NAMES[-1]:
            break
    assert rejected


@pytest.mark.parametrize("mutant", [HighestSlot, NextFit, NoNextIndex, LowestIndex])
def test_the_search_asks_the_model_too(
    mutant: type[BlockTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These answer otherwise than the search, which knows the rule, expects."""
    monkeypatch.setattr(
        "ztrace.replay.validate.ztree_checker.TreeChecker._is_plain", lambda self: False
    )
    for name in NAMES:
        columns = recording(name)
        part = pick(columns, tree_of(columns) == 14)
        assert check(part).verdict.explained
        if unexplained(check(part, tree_class=mutant).verdict):
            return
    pytest.fail("explained by a mutant")


@pytest.mark.parametrize("name", NAMES)
def test_the_hot_loop_and_the_search_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = some_trees(name)
    fast = check(columns)
    monkeypatch.setattr(
        "ztrace.replay.validate.ztree_checker.TreeChecker._is_plain", lambda self: False
    )
    slow = check(columns)
    assert without_time(fast.verdict) == without_time(slow.verdict)
    assert sorted(fast.order) == sorted(slow.order)


# -- late beginnings and lost events -----------------------------------------------------------


@pytest.mark.parametrize("name", [ONE, TWO])
@pytest.mark.parametrize(
    ("begins", "cuts"),
    [
        ("said", [(1, 0.01), (500, 0.02), (61_803, 0.85)]),
        ("not said", [(7, 0.01), (500, 0.02), (10_000, 0.2)]),
    ],
)
def test_a_recording_cut_at_its_beginning_is_explained_in_part(
    name: str, begins: str, cuts: list[tuple[int, float]]
) -> None:
    """What is known in part are calls on blocks from before, and they become fewer."""
    columns = recording(name)
    for first, most in cuts:
        rest = pick(columns, slice(first, None))
        verdict = check(rest, late(), starts_empty=False if begins == "said" else None).verdict
        assert unexplained(verdict) == 0, verdict.unexplained[:3]
        late_trees = {tree.tree for tree in verdict.trees if tree.began_before}
        named_before = set(np.unique(tree_of(pick(columns, slice(0, first)))).tolist())
        assert late_trees == (set(range(16)) if begins == "said" else named_before)
        assert all(tree.tally.in_part == 0 for tree in verdict.trees if not tree.began_before)
        share = verdict.total("in_part") / verdict.total("calls")
        print(f"{name} without its first {first:6} calls: {share:7.2%} in part")
        assert 0 < share < most


@pytest.mark.parametrize("name", [ONE, TWO])
def test_where_a_late_trace_is_known_mutations_are_caught(name: str) -> None:
    rng = random.Random(name)
    columns = recording(name)
    rest = pick(columns, np.flatnonzero(tree_of(columns) == 15)[300:])
    verdict = check(rest, late()).verdict
    assert verdict.explained and verdict.trees[0].began_before
    # All of this tree's blocks from before are full, and never named, until much later.
    known = [row for row in _mallocs(rest) if row > 100]
    for _ in range(20):
        rows = pick(rest, slice(None))
        rows["handle"] = rest["handle"].copy()
        first, second = sorted(rng.sample(known, 2))
        rows["handle"][[first, second]] = rows["handle"][[second, first]]
        assert not check(rows, late()).verdict.explained


@pytest.mark.parametrize("name", [ONE, TWO])
@pytest.mark.parametrize("dropped", [5, 50, 500])
def test_lost_events_are_named_and_do_not_spoil_the_rest(name: str, dropped: int) -> None:
    columns = recording(name)
    rng = np.random.default_rng(dropped)
    gone = rng.choice(len(columns["op"]), dropped, replace=False)
    rest = pick(columns, ~np.isin(np.arange(len(columns["op"])), gone))
    verdict = check(rest, replace(whole(), lost={"ring full": {"0": dropped}})).verdict
    missing = unexplained(verdict)
    print(f"{name}: {dropped} lost, {missing} of {len(rest['op'])} calls not explained")
    assert verdict.lost == dropped
    assert not verdict.explained
    assert dropped // 3 <= missing <= 2 * dropped + 10
    assert all("lost events" in one.cause for one in verdict.unexplained)


def test_lost_events_on_the_command_line(ztrace: Ztrace) -> None:
    columns = recording(ONE)
    rest = pick(columns, ~np.isin(np.arange(len(columns["op"])), [2000, 3000, 4000]))
    save(Path("t"), rest, replace(whole(), lost={"ring full": {"0": 3}}))
    result = ztrace("validate", "t")
    assert (result.code, result.err) == (1, "")
    assert "lost events: 3\n  ring full: 3" in result.out
    assert "likely: one of the 3 lost events" in result.out
    assert "NOT explained: " in result.out


# -- what must not depend on chance or memory --------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_and_any_batch_size_give_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = pick(recording(name), slice(0, 40_000))
    # Rows out of order, so that windows reach far, and calls on many trees held back.
    rng = np.random.default_rng(3)
    order = np.argsort(np.arange(len(columns["op"])) + rng.integers(0, 300, len(columns["op"])))
    columns = pick(columns, order)
    expected = check(columns)
    assert expected.verdict.explained
    assert wrong_in_order(columns, expected.order) == []
    again = check(columns)
    assert again.order == expected.order
    assert without_time(again.verdict) == without_time(expected.verdict)
    for rows in (64, 1000):
        monkeypatch.setattr(calls_module, "BATCH_ROWS", rows)
        got = check(columns)
        assert without_time(got.verdict) == without_time(expected.verdict)
        assert sorted(got.order) == sorted(expected.order)
        assert wrong_in_order(columns, got.order) == []


def test_batches_cut_by_row_groups_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TraceReader(SAMPLES / TWO) as reader:
        expected = explain_trees(reader)
        monkeypatch.setattr(calls_module, "BATCH_ROWS", 7001)
        assert without_time(explain_trees(reader)) == without_time(expected)


# -- the command line --------------------------------------------------------------------------


def test_the_table_and_the_json_have_the_same_numbers(ztrace: Ztrace) -> None:
    columns = recording(TWO)
    columns["size"][5000] = 4096 if columns["size"][5000] < 2000 else 1
    save(Path("t"), pick(columns, slice(0, 30_000)))
    shown, document = ztrace("validate", "t"), json.loads(ztrace("validate", "t", "--json").out)
    assert shown.code == 1
    named = {
        line.split()[0]: [int(one.replace(",", "")) for one in line.split()[1:]]
        for line in shown.out.splitlines()
        if line.startswith(("0/", "all "))
    }
    names = ("calls", "explained", "in_part", "overlapping", "dead_ends", "out_of_order", "split")
    for tree in document["trees"]:
        expected = [tree["slot_bytes"], *(tree[key] for key in names)]
        assert named.pop(f"{tree['pool']}/{tree['tree']}") == expected
    assert named.pop("all") == [sum(tree[key] for tree in document["trees"]) for key in names]
    assert named == {}
    assert document["unexplained_count"] == 1
    [one] = document["unexplained"]
    assert one["call"]["row"] == 5000 and one["call"]["kind"] == "misfit"
    assert f"row 5000 cpu {one['call']['cpu']}" in shown.out
    assert one["model"] in shown.out and one["likely_cause"] in shown.out
    explained, calls = f"{document['calls_explained']:,}", f"{document['calls']:,}"
    assert f"NOT explained: {explained} of {calls} calls on 2 CPUs" in shown.out


def _columns_with(**changes: Any) -> Columns:
    columns: Columns = {name: np.zeros(2, np.int64) for name in COLUMNS}
    columns |= {"op": np.array([MALLOC_OP, FREE_OP], np.int8), "size": np.array([100, 0])}
    columns |= {"ts_ns": np.array([10, 20]), **changes}
    return columns


def _is_refused(result: Result, *texts: str) -> bool:
    assert (result.code, result.out) == (2, ""), result
    assert result.err.startswith("ztrace: ") and result.err.count("\n") == 1, result
    return all(text in result.err for text in texts)


def test_what_cannot_be_validated_is_refused_in_one_line(ztrace: Ztrace) -> None:
    save(Path("other"), _columns_with(), Metadata(pools=[PoolInfo("slob")]))
    assert _is_refused(ztrace("validate", "other"), "slob")
    for allocator in ("zbud", "z3fold", "zsmalloc"):
        save(Path(allocator), _columns_with(), Metadata(pools=[PoolInfo(allocator)]))
        assert ztrace("validate", allocator, "--order", "o").code == 2
        assert not Path("o").exists()
        with TraceReader(allocator) as reader, pytest.raises(ReplayError, match="only ztree"):
            explain_trees(reader)
    Path("empty").write_bytes(b"")
    Path("text").write_text("ts_ns,op\n1,malloc\n")
    Path("cut").write_bytes((SAMPLES / ONE).read_bytes()[:100_000])
    save(Path("none"), pick(_columns_with(), slice(0, 0)))
    save(Path("loads"), _columns_with(op=np.full(2, OP_CODE["load"], np.int8)))
    with TraceWriter("handles", whole()) as writer:
        writer.write({"ts_ns": [1, 2], "op": ["malloc", "free"], "size": [1, None]})
    with TraceWriter("sizes", whole()) as writer:
        writer.write({"ts_ns": [1], "op": ["malloc"], "handle": [0]})
    for name in ("empty", "text", "cut", "none", "loads", "absent", "handles", "sizes"):
        assert _is_refused(ztrace("validate", name), name), name
    assert _is_refused(ztrace("validate", "handles"), "row 0", "without handle")
    assert _is_refused(ztrace("validate", "sizes"), "row 0", "without size")
    with pytest.raises(ReplayError, match="nothing to validate"):
        check(pick(_columns_with(), slice(0, 0)))


def test_begins_overrides_what_the_trace_says(ztrace: Ztrace) -> None:
    # The free of an object that no call allocated.
    save(Path("t"), _columns_with(handle=np.array([0, 1])))
    assert ztrace("validate", "t").code == 1
    assert ztrace("validate", "t", "--begins", "empty").code == 1
    result = ztrace("validate", "t", "--begins", "late")
    assert result.code == 0 and "the tree had blocks before the trace" in result.out


def test_refusals_are_compared_too(ztrace: Ztrace) -> None:
    nothing = np.zeros(2, np.int64)
    # No pages: believed where the model needs a block, not where it has a free slot.
    known = ((-22, 0, 0), (-28, 4097, 0), (-12, 4000, 0), (-12, 100, 1), (-22, 7, 1), (-28, 7, 1))
    for ret, size, code in known:
        first = {"op": np.array([MALLOC_OP] * 2, np.int8), "handle": nothing}
        save(Path("t"), _columns_with(**first, size=np.array([9, size]), ret=np.array([0, ret])))
        assert ztrace("validate", "t").code == code, (ret, size)
        Path("t").unlink()


def test_the_order_file(ztrace: Ztrace) -> None:
    """Its steps on a fresh model give every handle, at moments inside the calls."""
    trace = SAMPLES / TWO
    result = ztrace("validate", trace, "--order", "order.parquet")
    assert (result.code, result.err) == (0, "")
    with TraceReader(trace) as reader:
        rows = reader.num_rows
        stored = pa.Table.from_batches(list(reader.batches(COLUMNS)))
    op = stored["op"].combine_chunks().indices.to_numpy()
    calls = np.flatnonzero(np.isin(op, (MALLOC_OP, FREE_OP)))
    number = np.full(rows, -1)
    number[calls] = np.arange(len(calls))
    steps: list[tuple[int, int, int]] = []
    for part in read_order(Path("order.parquet"), rows):
        steps += zip(
            part.at_ns.tolist(), number[part.row].tolist(), part.step.tolist(), strict=True
        )
    columns = recording(TWO)
    assert wrong_in_order(columns, steps) == []
    whole_calls = sum(step == WHOLE for _, _, step in steps)
    assert (whole_calls, len(steps) - whole_calls) == (len(calls) - 136, 3 * 136)
    # That this oracle can fail:
    first = next(i for i, step in enumerate(steps) if step[2] == INSERT)
    assert wrong_in_order(columns, steps[:first] + steps[first + 1 :])
    assert wrong_in_order(columns, [(at, row, WHOLE) for at, row, step in steps if step in (0, 3)])

    before = Path("order.parquet").read_bytes()
    assert _is_refused(ztrace("validate", trace, "--order", "order.parquet"), "order.parquet")
    assert Path("order.parquet").read_bytes() == before
    assert ztrace("validate", trace, "--order", "order.parquet", "--force").code == 0
    assert Path("order.parquet").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["order.parquet"]
