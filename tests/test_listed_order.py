# SPDX-License-Identifier: GPL-2.0-only
"""z3fold on several CPUs, recorded with its lists: all of a recording follows from the model's
rules, and nothing that is changed in it goes unseen."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.runner import ROOT
from ztrace.allocator.z3fold.model import Page, Z3fold
from ztrace.commands.validate import command
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.listed_order import Rules
from ztrace.replay.validate.lists import Lists
from ztrace.replay.validate.placement_verdict import PoolPlacement, Way
from ztrace.traces import SCHEMA, TraceReader, TraceWriter
from ztrace.traces.summary import summarize

RECORDING = ROOT / "traces" / "samples" / "z3fold-6.1-small-3cpu.parquet"

Row = dict[str, Any]


def judge(path: Path) -> PoolPlacement:
    with TraceReader(path) as reader:
        [pool] = validate_trace(reader).pools
    return pool


def differences(pool: PoolPlacement) -> int:
    parts = (pool.places, pool.lists, pool.sizes, pool.errors)
    return sum(one.compared - one.equal for one in parts)


def test_every_call_of_three_cpus_is_explained() -> None:
    pool = judge(RECORDING)
    assert pool.order == Way.LISTED and pool.agrees and pool.undetermined == 0
    assert pool.places.equal == pool.places.compared == 6108
    assert pool.lists.equal == pool.lists.compared == 6641
    assert pool.sizes.equal == pool.sizes.compared == 5022
    assert (len(pool.cpus), pool.overlapping, pool.compactions) == (3, 142, 998)
    out = CliRunner().invoke(command, [str(RECORDING)], standalone_mode=False)
    assert out.return_value == 0 and "6,108 of 6,108" in out.output
    assert "the model agrees with the kernel" in out.output


def nth(rows: list[Row], op: str, number: int, **wanted: Any) -> int:
    """The index of a row of an op that has some values."""
    fitting = (
        at
        for at, row in enumerate(rows)
        if row["op"] == op and all(row[name] == value for name, value in wanted.items())
    )
    return [*fitting][number]


def _other_list(rows: list[Row]) -> None:
    rows[nth(rows, "link", 700)]["size"] += 1


def _other_cpu(rows: list[Row]) -> None:
    """Another CPU's lists, ten times: whoever takes such a page has it on none of its own."""
    for number in range(400, 600, 20):
        row = rows[nth(rows, "link", number)]
        row["cpu"] = (row["cpu"] + 1) % 3


def _other_page(rows: list[Row]) -> None:
    """Two searches take each other's page."""
    one, other = (rows[nth(rows, "unlink", number)] for number in (900, 1100))
    one["place"], other["place"] = other["place"], one["place"]


def _earlier(rows: list[Row]) -> None:
    """A malloc takes its page before a free and a compaction of it have made room."""
    at = nth(rows, "malloc", 1500)
    while rows[at - 1]["op"] != "unlink":
        at = at - 1
    rows[at - 1]["place"] -= 0x1000


def _no_link(rows: list[Row]) -> None:
    del rows[nth(rows, "link", 700)]


def _no_unlink(rows: list[Row]) -> None:
    del rows[nth(rows, "unlink", 900)]


def _no_compaction(rows: list[Row]) -> None:
    """Of a page from the queue; what it did to lists no call has done."""
    del rows[nth(rows, "compact", 300, size=0)]


def _no_free(rows: list[Row]) -> None:
    del rows[nth(rows, "free", 1000)]


def _place_of_malloc(rows: list[Row]) -> None:
    rows[nth(rows, "malloc", 1500)]["place"] += 64


def _place_of_free(rows: list[Row]) -> None:
    rows[nth(rows, "free", 1500)]["place"] += 0x1000


def _place_of_map(rows: list[Row]) -> None:
    rows[nth(rows, "map", 1500)]["place"] -= 64


def _word(rows: list[Row]) -> None:
    """A malloc gives another word's address, and so it is called from then on."""
    at = nth(rows, "malloc", 1500)
    handle = rows[at]["handle"]
    for row in rows[at:]:
        if row["handle"] == handle:
            row["handle"] ^= 8
            if row["op"] == "free":
                break


def _size(rows: list[Row]) -> None:
    """An object that is larger by a chunk."""
    rows[nth(rows, "malloc", 1500)]["size"] += 64


def _total(rows: list[Row]) -> None:
    rows[nth(rows, "free", 900)]["total"] += 4096


LIES = (
    *(_other_list, _other_cpu, _other_page, _earlier, _no_link, _no_unlink, _no_compaction),
    *(_no_free, _place_of_malloc, _place_of_free, _place_of_map, _word, _size, _total),
)


@pytest.fixture(scope="module")
def recorded() -> list[Row]:
    rows: list[Row] = pq.read_table(RECORDING).to_pylist()
    return rows


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_each_lie_is_seen(
    lie: Callable[[list[Row]], None], recorded: list[Row], tmp_path: Path
) -> None:
    rows = [dict(row) for row in recorded]
    lie(rows)
    path = tmp_path / "t.parquet"
    with TraceReader(RECORDING) as reader:
        metadata = reader.metadata
    metadata.counters.check = []
    with TraceWriter(path, metadata) as writer:
        writer.write(pa.Table.from_pylist(rows, SCHEMA))
    pool = judge(path)
    assert pool.order == Way.LISTED and not pool.agrees
    # What becomes unclear by it is little, but for a page that the pool has too many or too few.
    pool.sizes.compared = pool.sizes.equal
    assert differences(pool) < 60 and pool.sizes.error_pages <= 1
    out = CliRunner().invoke(command, [str(path)], standalone_mode=False)
    assert out.return_value == 1 and "does NOT agree" in out.output


@pytest.mark.parametrize("seed", range(12))
def test_rows_that_make_no_sense_end_in_a_verdict(
    seed: int, recorded: list[Row], tmp_path: Path
) -> None:
    dice = random.Random(seed)
    rows = [dict(row) for row in recorded[:6000]]
    for _ in range(60):
        one, other = dice.sample(rows, 2)
        name = dice.choice(("place", "size", "handle", "cpu", "lock_ns", "tid", "total"))
        if one[name] is not None and other[name] is not None:
            one[name], other[name] = other[name], one[name]
    for _ in range(20):
        del rows[dice.randrange(len(rows))]
    with TraceReader(RECORDING) as reader:
        metadata = reader.metadata
    with TraceWriter(tmp_path / "t", metadata) as writer:
        writer.write(pa.Table.from_pylist(rows, SCHEMA))
    assert not judge(tmp_path / "t").agrees


def test_a_clock_that_was_ahead_as_a_compaction_began_is_no_difference(
    recorded: list[Row], tmp_path: Path
) -> None:
    """A probe within a function can read the clock some microseconds ahead."""
    rows = [dict(row) for row in recorded]
    moved = 0
    for at, row in enumerate(rows):
        if row["op"] != "compact" or row["size"] != 0:
            continue
        own = [
            one
            for one in rows[max(0, at - 6) : at]
            if (one["op"], one["tid"]) == ("unlink", row["tid"]) and one["ts_ns"] >= row["ts_ns"]
        ]
        if len(own) == 2:
            first = next(one for one in own if one["place"] == row["place"])
            first["ts_ns"] = max(one["ts_ns"] for one in own) + 1
            moved += 1
    with TraceReader(RECORDING) as reader:
        metadata = reader.metadata
    with TraceWriter(tmp_path / "t", metadata) as writer:
        writer.write(pa.Table.from_pylist(rows, SCHEMA))
    pool = judge(tmp_path / "t")
    assert moved > 100 and pool.agrees and pool.lists.equal == 6641


def _last_place(self: Z3fold, page: Any, chunks: int) -> int:
    """Places are used from the end of a page."""
    buddy = next(buddy for buddy in (3, 2, 1) if not page.chunks[buddy])
    page.chunks[buddy] = chunks
    return buddy


def _sum(self: Z3fold, page: Page) -> int:
    """A page goes on the list of all its room together."""
    return self.chunks - sum(page.chunks)


def _no_move(self: Z3fold, page: Any) -> None:
    """A compaction leaves a middle where it is."""


@pytest.mark.parametrize(
    ("name", "rule"), [("_put_in", _last_place), ("_free_chunks", _sum), ("_move_middle", _no_move)]
)
def test_other_rules_are_refuted(name: str, rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rules, name, rule)
    pool = judge(RECORDING)
    assert not pool.agrees and differences(pool) > 50


def test_another_choice_of_pages_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that would pass over its first fitting list, though that was never empty."""
    after = Lists._all_empty

    def one_more(self: Lists, cpu: int, first: int, end: int, since: int, at: int) -> int | None:
        return after(self, cpu, first, end + (first < end < self._sizes), since, at)

    monkeypatch.setattr(Lists, "_all_empty", one_more)
    pool = judge(RECORDING)
    assert not pool.agrees and differences(pool) > 50


def test_without_lists_or_with_lost_events_it_is_not_tried(
    recorded: list[Row], tmp_path: Path
) -> None:
    with TraceReader(RECORDING) as reader:
        metadata = reader.metadata
    with TraceWriter(tmp_path / "t", metadata) as writer:
        calls = [row for row in recorded if row["op"] not in ("link", "unlink")]
        writer.write(pa.Table.from_pylist(calls, SCHEMA))
    assert judge(tmp_path / "t").order == Way.CORRECTED
    metadata.lost = {"ring_full": {"0": 1}}
    with TraceWriter(tmp_path / "u", metadata) as writer:
        writer.write(pa.Table.from_pylist(recorded, SCHEMA))
    assert judge(tmp_path / "u").order == Way.CORRECTED


def test_steps_on_lists_are_no_calls_with_sizes_and_durations() -> None:
    with TraceReader(RECORDING) as reader:
        ops = summarize(reader).ops
    assert (ops["link"].calls, ops["unlink"].calls) == (2222, 2475)
    assert ops["link"].size_bytes is None and ops["link"].dur_ns is None
    assert ops["compact"].size_bytes is None and ops["compact"].dur_ns is not None
    assert ops["malloc"].size_bytes is not None
