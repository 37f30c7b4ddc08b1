# SPDX-License-Identifier: GPL-2.0-only
"""What a recording leaves out, where it ends and how it is cut up: all but the kernel's part."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from ztrace.cli import cli
from ztrace.console import lost_lines
from ztrace.present.histogram import show_histograms
from ztrace.replay.errors import ReplayError
from ztrace.replay.play.engine import replay_trace
from ztrace.replay.report.gather import gather_one
from ztrace.replay.research.claims import _unfit
from ztrace.replay.validate import validate_trace
from ztrace.tracer import machine, recorder
from ztrace.tracer.abi import FRONTSWAP, INNER, LISTS, ZPOOL, ZRAM, Lack
from ztrace.tracer.convert import convert
from ztrace.tracer.filters import Filters, find_cgroup, is_sampled, room
from ztrace.tracer.histogram import BUCKETS, buckets, edges_bytes, edges_ns, percentile, summary
from ztrace.tracer.outputs import Flight, Limits, Spools, Trigger, first_rows
from ztrace.tracer.probing import Attached, SeenPool
from ztrace.tracer.recorder import Plan, Session
from ztrace.tracer.ring import KINDS, OP_MALLOC, OP_STORE, OP_TOTAL, RECORD, Records, by_kind, named
from ztrace.tracer.spool import SpoolReader, following, numbered
from ztrace.traces import Metadata, TraceError, TraceReader, TraceWriter
from ztrace.traces.merging import merge
from ztrace.traces.schema import OP_CODE
from ztrace.units import size_or_duration

PROBES = files("ztrace.tracer").joinpath("probes/zswap.c").read_text()
SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-1cpu.parquet"
ROWS = 6000

HAS = {"key": 1, "size": 2, "handle": 4, "place": 16, "lock_ns": 64}


@pytest.fixture(scope="module")
def stream() -> Records:
    """The first rows of a real recording as the probes gave them; pools' sizes are calls again."""
    with TraceReader(SAMPLE) as trace:
        table = pa.Table.from_batches([next(trace.batches(rows=ROWS))])
    made = np.zeros(ROWS, RECORD)
    for name, field in (("ts_ns", "ts"), ("dur_ns", "dur"), ("ret", "ret"), ("tid", "tid")):
        made[field] = table[name].to_numpy()
    made["cpu"], made["pool"] = table["cpu"].to_numpy(), table["pool"].to_numpy()
    made["op"] = table["op"].combine_chunks().indices.to_numpy()
    made["cgroup"] = pc.fill_null(table["cgroup"], 0).to_numpy()
    for name, bit in HAS.items():
        made[name.removesuffix("_ns")] = pc.fill_null(table[name], 0).to_numpy()
        made["has"] |= np.where(table[name].is_valid().to_numpy(), bit, 0).astype(np.uint8)
    totals = pc.fill_null(table["total"], 0).to_numpy()
    asked = np.flatnonzero(totals)
    assert len(asked) > 1000
    sizes = made[asked].copy()
    sizes["op"], sizes["aux"], sizes["ret"] = OP_TOTAL, totals[asked], 0
    return np.insert(made, asked + 1, sizes)


class Ring:
    """Stands for attached probes: gives batches, knows of losses."""

    def __init__(self, batches: Sequence[Records]) -> None:
        self._batches = list(batches)
        self.attached = [Attached(probe, "kprobe", probe.symbol) for probe in FRONTSWAP]
        self.missing: list[Lack] = []
        self.notes: tuple[str, ...] = ()
        self.lost_events = self.losing = 0
        self.filtered = np.zeros(KINDS, np.int64)

    def take(self) -> Records:
        return self._batches.pop(0) if self._batches else np.empty(0, RECORD)

    def open_gate(self, is_open: bool = True) -> None:
        pass

    def stop_timing(self) -> None:
        pass

    def cost_ns(self) -> dict[str, float]:
        return {}

    def lost(self) -> dict[str, dict[str, int]]:
        self.lost_events += self.losing
        return {"ring_full": {"0": self.lost_events}} if self.lost_events else {}

    def lost_by_op(self) -> tuple[Any, Any]:
        return np.zeros(32, np.int64), np.zeros(32, np.int64)

    def left_out(self) -> Any:
        return self.filtered

    def unfinished(self) -> int:
        return 0

    def pools(self) -> list[SeenPool]:
        return [SeenPool("ztree", True, 0)]


def pieces_of(stream: Records, seed: int, count: int) -> list[Records]:
    """The stream cut up at random places."""
    cuts = np.sort(np.random.default_rng(seed).choice(len(stream), count - 1, replace=False))
    return np.split(stream, cuts)


def session_of(
    folder: Path, batches: Sequence[Records], monkeypatch: pytest.MonkeyPatch, **limits: Any
) -> tuple[Session, Ring, Any]:
    """A recording into ``folder`` of what a ring gives; the kernel's counters are made up."""
    counters = {"vmstat.zswpout": 0, "zswap.stored_pages": 0}
    monkeypatch.setattr(machine, "counters", lambda: dict(counters))
    ring = Ring(batches)
    plan = Plan(folder / "t.parquet.spool", limits=Limits(**limits))
    output = recorder._output(plan)
    session = Session(plan, ring, output)  # type: ignore[arg-type]
    session.start()
    session.open()
    counters["vmstat.zswpout"] = int(
        sum(((b["op"] == OP_STORE) & (b["ret"] == 0)).sum() for b in batches)
    )
    return session, ring, output


def finished(session: Session, output: Any) -> list[Path]:
    """End the recording and make its traces."""
    session.shut()
    session.drain()
    session.end(None)
    output.close()
    traces = []
    for spool in output.paths:
        traces.append(spool.with_suffix(""))
        convert(spool, traces[-1])
    return traces


def rows_of(path: Path) -> pa.Table:
    return pq.read_table(path).replace_schema_metadata(None)


def metadata_of(path: Path) -> Metadata:
    with TraceReader(path) as trace:
        return trace.metadata


def merged(paths: Sequence[Path], output: Path) -> Path:
    readers = [TraceReader(path) for path in paths]
    with TraceWriter(output, readers[0].metadata, force=True) as writer:
        merge(readers, writer)
    for reader in readers:
        reader.close()
    return output


# -- rotation --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_files_of_a_rotated_recording_merge_to_the_recording(
    seed: int, stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pieces_of(stream, seed, 12)
    (tmp_path / "one").mkdir()
    session, ring, output = session_of(tmp_path / "one", batches, monkeypatch)
    for _ in batches:
        session.drain()
    [whole] = finished(session, output)
    session, ring, output = session_of(tmp_path, batches, monkeypatch, rotate_bytes=4096)
    ring.losing = 1  # whenever one looks: what is lost at a seam is in one file, too
    for number in range(len(batches)):
        session.drain()
        ring.lost_events += 5
        ring.filtered[OP_STORE] = 7 * number
    made = finished(session, output)
    assert len(made) > 3
    assert [path.name for path in made[:3]] == ["t.parquet", "t.1.parquet", "t.2.parquet"]
    joined = merged([made[1], made[0], *made[2:]], tmp_path / "m.parquet")
    assert rows_of(joined).equals(rows_of(whole))
    assert rows_of(joined)["total"].null_count < ROWS  # totals at the seams are in it
    told = metadata_of(joined)
    assert told.lost == {"ring_full": {"0": ring.lost_events}}
    assert told.left_out == {"filters": {"store": 77}}
    assert told.pieces.is_all
    assert told.starts_empty()
    [check] = told.counters.check
    assert (check.recorded, check.left_out) == (check.kernel_most, 77)


def test_each_file_but_the_first_says_that_it_begins_late(
    stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pieces_of(stream, 1, 6)
    session, _, output = session_of(tmp_path, batches, monkeypatch, rotate_bytes=1)
    for _ in batches:
        session.drain()
    made = finished(session, output)
    assert len(made) == 6
    told = [metadata_of(path) for path in made]
    assert [one.starts_empty() for one in told] == [True, *[False] * 5]
    assert [(one.pieces.first, one.pieces.more) for one in told] == [
        *((n, True) for n in range(5)),
        (5, False),
    ]
    text = " ".join(CliRunner().invoke(cli, ["info", str(made[2])]).output.split())
    assert "2 of a recording that rotated; begins with what was stored before; more follow" in text
    # It is replayed as any recording that began late: old objects are counted as unknown.
    assert any(replay_trace(path, "ztree").merged("unknown") for path in made[1:])
    with pytest.raises(TraceError, match=r"holds up to file 1 .* begins with file 3"):
        merged([made[0], made[1], made[3]], tmp_path / "m.parquet")
    with pytest.raises(TraceError, match="overlap in time"):
        merged([made[0], made[1], made[1]], tmp_path / "m.parquet")
    part = merged(made[:2], tmp_path / "part.parquet")
    assert (metadata_of(part).pieces.last, metadata_of(part).pieces.more) == (1, True)
    rest = merged(made[2:], tmp_path / "rest.parquet")
    both = merged([part, rest], tmp_path / "both.parquet")
    assert rows_of(both).num_rows == ROWS
    assert metadata_of(both).pieces.is_all


def test_no_file_is_left_without_an_event(
    stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pieces_of(stream, 1, 3)
    session, _, output = session_of(tmp_path, batches, monkeypatch, rotate_ns=1)
    for _ in range(10):
        session.drain()
    assert len(finished(session, output)) == 3


def test_a_call_at_the_seam_gets_its_pools_size_from_the_next_spool(tmp_path: Path) -> None:
    def record(**values: int) -> Records:
        one = np.zeros(1, RECORD)
        for name, value in values.items():
            one[name] = value
        return one

    output = Spools(tmp_path / "t.parquet.spool")
    output.start({"pools": [{}], "pieces": {"first": 0, "last": 0}})
    output.records(record(op=OP_MALLOC, handle=5, has=6, tid=3))
    output.state({"final": True, "pieces": {"first": 0, "last": 0, "more": True}})
    output.turn()
    output.start({"pools": [{}], "pieces": {"first": 1, "last": 1}})
    output.records(record(op=OP_TOTAL, aux=8192, tid=3))
    output.state({"final": True})
    output.close()
    convert(output.paths[0], tmp_path / "t.parquet")
    convert(output.paths[1], tmp_path / "t.1.parquet")
    assert rows_of(tmp_path / "t.parquet")["total"].to_pylist() == [8192]
    assert rows_of(tmp_path / "t.1.parquet").num_rows == 0


def test_names_of_files_follow_each_other(tmp_path: Path) -> None:
    spool = tmp_path / "a.b.parquet.spool"
    names = [numbered(spool, n).name for n in range(12)]
    assert names[:3] == ["a.b.parquet.spool", "a.b.1.parquet.spool", "a.b.2.parquet.spool"]
    for n in range(11):
        assert following(tmp_path / names[n], n).name == names[n + 1]
    assert numbered(tmp_path / "plain", 3).name == "plain.3"
    # A recording named so by its user is not the second piece of another one.
    assert following(tmp_path / "t.1.parquet.spool", 0).name == "t.1.1.parquet.spool"


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 17, 1000, ROWS])
def test_max_events_is_exact_and_the_rest_is_counted(
    most: int, stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pieces_of(stream, 4, 9)
    session, _, output = session_of(tmp_path, batches, monkeypatch, max_events=most)
    while session.ended is None:
        session.drain()
    for _ in batches:
        session.drain()
    [made] = finished(session, output)
    told = metadata_of(made)
    assert rows_of(made).num_rows == most
    assert session.ended == "max_events"
    assert sum(told.left_out.get("max_events", {}).values()) == ROWS - most
    assert all(check.agrees for check in told.counters.check)


def test_max_size_ends_the_recording(
    stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pieces_of(stream, 4, 40)
    session, _, output = session_of(tmp_path, batches, monkeypatch, max_bytes=20_000)
    for _ in batches:
        session.drain()
    [made] = finished(session, output)
    assert session.ended == "max_size"
    assert 20_000 <= output.paths[0].stat().st_size < 40_000
    told = metadata_of(made)
    assert rows_of(made).num_rows + sum(told.left_out["max_size"].values()) == ROWS
    assert all(check.agrees for check in told.counters.check)


def test_first_rows_takes_no_event_that_makes_no_row_for_one() -> None:
    made = np.zeros(5, RECORD)
    made["op"] = OP_MALLOC, OP_TOTAL, OP_MALLOC, OP_TOTAL, OP_MALLOC
    assert [len(first_rows(made, n)) for n in range(5)] == [0, 1, 3, 5, 5]


# -- flight ----------------------------------------------------------------------------------


def test_a_flight_keeps_the_last_seconds(
    stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pieces_of(stream, 2, 30)
    ends = [int((batch["ts"] + batch["dur"]).max()) for batch in batches]
    keep_ns = int(np.max(ends)) - ends[19]
    now = [0]
    session, _, _ = session_of(tmp_path, batches, monkeypatch, flight_ns=keep_ns)
    output = Flight(tmp_path / "f.parquet.spool", keep_ns, clock=lambda: now[0])
    session._output = output
    session.start()
    for now[0] in ends:
        session.drain()
    [made] = finished(session, output)
    told = metadata_of(made)
    kept = [batch for batch, end in zip(batches, ends, strict=True) if end >= ends[19]]
    assert 5 < len(kept) < 15
    assert rows_of(made).num_rows == sum((batch["op"] < OP_TOTAL).sum() for batch in kept)
    gone: Any = sum(by_kind(batch) for batch in batches) - sum(map(by_kind, kept))
    assert told.left_out == {"flight": named(gone)}
    assert not told.starts_empty()
    assert "before the end of recording" in told.notes[0]
    assert len(told.notes) == 1
    assert all(check.agrees for check in told.counters.check)


def test_a_flight_stays_within_its_memory_and_says_so(stream: Records, tmp_path: Path) -> None:
    output = Flight(tmp_path / "f.parquet.spool", 10**12, 10_000, clock=lambda: 0)
    output.start({})
    for batch in pieces_of(stream, 3, 30):
        output.records(batch)
        assert output.written_bytes <= 10_000
    assert output.cut_short
    output.finish()
    output.close()
    kept = sum(by_kind(batch) for batch in SpoolReader(output.paths[0]).records())
    assert (kept + output.given_up == by_kind(stream)).all()


def test_a_flight_that_is_killed_leaves_a_spool_that_says_so(
    stream: Records, tmp_path: Path
) -> None:
    output = Flight(tmp_path / "f.parquet.spool", 10**12, clock=lambda: 0)
    output.start({"tool": "test"})
    output.records(stream)
    output.close()  # without finish()
    convert(output.paths[0], tmp_path / "o.parquet")
    assert "cut off" in metadata_of(tmp_path / "o.parquet").notes[0]


def test_a_trigger_fires_on_a_call_that_took_longer(
    stream: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [batch.copy() for batch in pieces_of(stream, 2, 5)]
    slow = np.flatnonzero(batches[3]["op"] == OP_MALLOC)[0]
    limit = int(stream["dur"][stream["op"] == OP_MALLOC].max())
    batches[3]["dur"][slow] = limit + 1
    limits = {"flight_ns": 10**15, "triggers": (Trigger("malloc", limit),)}
    session, _, _ = session_of(tmp_path, batches, monkeypatch, **limits)
    for _ in range(3):
        session.drain()
        assert session.ended is None
    session.drain()
    assert session.ended is not None
    assert f"a malloc of {(limit + 1) / 1e6:.3f} ms" in session.ended
    assert Trigger("malloc", limit + 1).fired(batches[3]) is None


# -- filters ---------------------------------------------------------------------------------


def test_probes_of_a_level() -> None:
    def attached(**options: Any) -> set[str]:
        filters = Filters(**options)
        return {one.symbol for one in (*FRONTSWAP, *ZPOOL, *INNER) if filters.attaches(one)}

    everything = attached()
    assert len(everything) == len(FRONTSWAP) + len(ZPOOL) + len(INNER)
    zswap = {one.symbol for one in FRONTSWAP}
    assert attached(level="zswap") == zswap | {"zpool_malloc", "zpool_create_pool"}
    assert attached(level="allocator") == everything - zswap
    whole_pool = {"zpool_shrink", "zpool_get_total_size", "zs_compact", "do_compact_page"}
    assert attached(sample=2) == everything - whole_pool
    assert not any(Filters().attaches(one) for one in LISTS)
    assert all(Filters(lists=True).attaches(one) for one in LISTS)
    no_places = Filters()
    kept = {one.symbol for one in (*ZRAM, *INNER) if no_places.attaches(one, histogram=True)}
    assert "obj_malloc" not in kept and "zs_malloc" in kept and "slot_free" in kept
    assert Filters(level="zswap").records("store") and not Filters(level="zswap").records("malloc")
    assert Filters(level="allocator").records("compact")
    assert Filters(level="zswap").described("zram") == {"level": "zram"}


@pytest.mark.parametrize(
    ("filters", "source", "defined"),
    [
        (Filters(), "zswap", set()),
        (Filters(level="allocator"), "zswap", set()),
        (Filters(lists=True), "zswap", {"LISTS"}),
        (Filters(level="zswap"), "zswap", {"WITHOUT_MALLOC"}),
        (Filters(sample=4), "zswap", {"NOTE_OBJECTS"}),
        (Filters(sample=4), "zram", {"NOTE_OBJECTS", "NOTE_SLOTS", "SLOT_FOLLOWS"}),
        (Filters(pids=(1,)), "zswap", {"NOTE_OBJECTS", "NOTE_SLOTS", "PIDS"}),
        (Filters(min_size=9, level="allocator"), "zswap", {"NOTE_OBJECTS"}),
        (Filters(sample=4, level="zswap"), "zswap", {"WITHOUT_MALLOC"}),
        (Filters(cgroups=(Path("/x"),)), "zswap", {"NOTE_OBJECTS", "NOTE_SLOTS", "GROUPS"}),
    ],
)
def test_defines_are_those_that_the_probes_know(
    filters: Filters, source: str, defined: set[str]
) -> None:
    found = filters.defines(source, 1 << 30)
    always = {"BY_OBJECT", "MIN_SIZE", "PERIOD", "MAX_TAKEN"} if filters.by_object else set()
    assert set(found) == defined | always
    assert all(re.search(rf"\b{name}\b", PROBES) for name in found)
    assert found.get("MAX_TAKEN", 1 << 17) == 1 << 17


def test_room_for_what_is_followed() -> None:
    assert [room(n) for n in (0, 1 << 30, 1 << 40)] == [4096, 1 << 17, 1 << 20]


def test_sampling_takes_one_of_n_and_is_the_probes_rule() -> None:
    numbers = [type_ << 58 | offset for type_ in (0, 1) for offset in range(40_000)]
    for period in (2, 3, 16, 100):
        share = sum(is_sampled(number, period) for number in numbers) / len(numbers)
        assert share == pytest.approx(1 / period, rel=0.05)
    assert all(is_sampled(number, 1) for number in numbers[:100])
    # The constants of the C text, and shifts between them.
    assert "(id ^ id >> 33) * 0xff51afd7ed558ccd" in PROBES
    assert "(id ^ id >> 33) * 0xc4ceb9fe1a85ec53" in PROBES
    assert "(id ^ id >> 33) % PERIOD == 0" in PROBES


def test_a_cgroup_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "cgroup.controllers").touch()
    monkeypatch.setattr("ztrace.tracer.filters.CGROUPS", tmp_path)
    for text in ("a/b", "/a/b", str(tmp_path / "a" / "b")):
        assert find_cgroup(text) == tmp_path / "a" / "b"
    with pytest.raises(Exception, match="no cgroup"):
        find_cgroup("/a")


# -- what a sample is worth --------------------------------------------------------------------


@pytest.fixture(params=["sampled", "filtered"])
def partial(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A trace of some objects."""
    with TraceReader(SAMPLE) as trace:
        metadata = trace.metadata
        if request.param == "sampled":
            metadata.sampling = {"objects": 16.0}
        else:
            metadata.filters = {"cgroup": "/work"}
        metadata.left_out = {"filters": {"store": 1234, "malloc": 5}}
        with TraceWriter(tmp_path / "partial.parquet", metadata) as writer:
            for batch in trace.batches():
                writer.write(batch)
                break
    return tmp_path / "partial.parquet"


def test_some_objects_cannot_be_validated(partial: Path) -> None:
    with TraceReader(partial) as trace, pytest.raises(ReplayError, match="cannot be validated"):
        validate_trace(trace)
    made = CliRunner().invoke(cli, ["validate", str(partial)])
    assert isinstance(made.exception, ReplayError)  # ztrace/cli.py: one line, exit 2
    with TraceReader(SAMPLE) as trace:
        assert trace.metadata.has_all_objects()


@pytest.mark.parametrize("engine", ["python", "native"])
def test_replay_of_some_objects_compares_nothing_and_says_why(partial: Path, engine: str) -> None:
    arguments = ["replay", str(partial), "--backend", "ztree", "--engine", engine]
    text = CliRunner().invoke(cli, arguments).output
    assert "not compared, other objects were left out" in text
    assert "not of the recorded pool" in text
    assert "left out by choice, filters: store 1,234, malloc 5" in text
    with TraceReader(partial) as trace:
        sampled = trace.metadata.sample_period() == 16
    assert ("1 of 16 objects is here" in text) == sampled
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).output)
    [found] = document["replays"]
    for answers in ("handles", "totals", "errors", "shrinks"):
        assert found[answers]["compared"] == 0
    assert not found["all_objects"]
    assert found["sample_period"] == (16 if sampled else 1)
    estimate = re.search(r"at the peak: ([\d,]+) live \(\+-([\d,]+)\)", text)
    assert bool(estimate) == sampled
    if estimate:
        assert int(estimate[1].replace(",", "")) % 16 == 0


def test_the_allocators_level_alone_is_validated(tmp_path: Path) -> None:
    with TraceReader(SAMPLE) as trace:
        metadata = trace.metadata
        metadata.filters = {"level": "allocator"}
        with TraceWriter(tmp_path / "t.parquet", metadata) as writer:
            table = pa.Table.from_batches([next(trace.batches(rows=ROWS))])
            op = table["op"].combine_chunks().indices.to_numpy()
            writer.write(table.filter(op >= OP_CODE["malloc"]))
    with TraceReader(tmp_path / "t.parquet") as trace:
        verdict = validate_trace(trace)
    assert verdict.agrees
    assert verdict.explained == verdict.calls > 1000


def test_a_report_decides_nothing_by_some_objects(partial: Path) -> None:
    with TraceReader(partial) as trace:
        made = gather_one(trace, "partial", ["ztree"])
    assert made.document["validation"] is None
    assert "some objects" in (_unfit(made) or "")


def test_stat_and_info_tell_what_was_left_out(partial: Path) -> None:
    for command in ("stat", "info"):
        assert "filters: store 1,234" in CliRunner().invoke(cli, [command, str(partial)]).output
    assert lost_lines(Metadata()) == ["lost events: 0"]


# -- histograms ------------------------------------------------------------------------------


def probes_bucket(ns: int) -> int:
    """As probes/zswap.c has it."""
    power = (ns | 1).bit_length() - 1
    return ns if ns < 4 else (power - 1) * 4 + (ns >> (power - 2) & 3)


def values() -> Iterator[int]:
    yield from range(300)
    for power in range(3, 32):
        yield from (2**power - 1, 2**power, 2**power + 1, 3 * 2 ** (power - 1))
    yield 2**32 - 1


def test_buckets_are_those_of_the_probes() -> None:
    assert "ns < 4 ? ns : (power - 1) * 4 + (ns >> ((power - 2) & 31) & 3)" in PROBES
    assert f"#define BUCKETS      {BUCKETS}" in PROBES
    edges = edges_ns()
    assert len(edges) == BUCKETS + 1
    assert (np.diff(edges) > 0).all()
    for ns in values():
        at = probes_bucket(ns)
        assert edges[at] <= ns < edges[at + 1]
        assert ns < 8 or edges[at + 1] <= 1.25 * edges[at]


def test_summary_of_histograms() -> None:
    durations = np.zeros((KINDS, BUCKETS), np.int64)
    for ns in (*[100] * 98, 5000, 10**6):
        durations[OP_CODE["malloc"], probes_bucket(ns)] += 1
    durations[OP_CODE["malloc"] + 32, probes_bucket(50)] = 3
    sizes = np.zeros(128, np.int64)
    sizes[[0, 63]] = 40, 60
    found = summary(durations, sizes)
    malloc = found["ops"]["malloc"]
    assert (malloc["calls"], malloc["failed"]) == (103, 3)
    assert (malloc["p50_ns"], malloc["p99_ns"], malloc["max_ns"]) == (111, 5119, 2**20 - 1)
    assert sum(count for _, _, count in malloc["buckets_ns"]) == 103
    assert found["malloc_bytes"] == [[0, 64, 40], [4032, 4096, 60]]
    assert list(found["ops"]) == ["malloc"]
    nothing = np.zeros(BUCKETS, np.int64)
    assert percentile(nothing, edges_ns(), 50) is None
    assert buckets(nothing, edges_bytes()) == []


def test_histograms_are_shown_in_80_columns() -> None:
    durations = np.zeros((KINDS, BUCKETS), np.int64)
    durations[OP_CODE["malloc"], [20, 60, BUCKETS - 1]] = 10**9, 1, 10**12
    durations[OP_CODE["free"] + 32, 0] = 7
    sizes = np.zeros(128, np.int64)
    sizes[[0, 127]] = 10**12, 5
    out = Console(width=80, record=True, file=io.StringIO(), highlight=False)
    show_histograms(out, {"histograms": summary(durations, sizes)})
    lines = out.export_text().splitlines()
    assert all(len(line) <= 80 for line in lines)
    malloc = next(line for line in lines if line.startswith("malloc  "))
    assert malloc.split()[1:3] == ["1,001,000,000,001", "0"]
    free = next(line for line in lines if line.startswith("free  "))
    assert free.split()[1:] == ["7", "7", "0", "ns", "0", "ns", "0", "ns"]
    assert any("8,128 to 8,192" in line and line.split()[-2:] == ["#", "5"] for line in lines)
    nothing = np.zeros((KINDS, BUCKETS), np.int64), np.zeros(128, np.int64)
    show_histograms(out, {"histograms": summary(*nothing)})


# -- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [("100M", (100 << 20, None)), ("64k", (65536, None)), ("10m", (None, 600 * 10**9))],
)
def test_a_size_or_a_time(text: str, found: tuple[int | None, int | None]) -> None:
    assert size_or_duration(text) == found


@pytest.mark.parametrize("text", ["100", "0s", "0M", "x", "-1s", ""])
def test_neither_a_size_nor_a_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no size or time"):
        size_or_duration(text)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "say where to"),
        (["--histogram", "-o", "t"], "-o cannot go with --histogram"),
        (["--histogram", "--rotate", "1s"], "--rotate cannot go with --histogram"),
        (["--histogram", "--flight", "1s"], "--flight cannot go with --histogram"),
        (["-o", "t", "--flight", "1s", "--rotate", "1s"], "--rotate cannot go with --flight"),
        (["-o", "t", "--flight", "1s", "--max-events", "1"], "--max-events cannot go with"),
        (["-o", "t", "--flight-trigger", "malloc>1ms"], "needs --flight"),
        (["-o", "t", "--flight-trigger", "malloc"], "no trigger"),
        (["-o", "t", "--flight-trigger", "mallow>1ms"], "no trigger"),
        (["-o", "t", "--flight", "0s"], "keeps nothing"),
        (["-o", "t", "--json"], "--json needs --histogram"),
        (["-o", "t", "--level", "zram"], "needs --source zram"),
        (["-o", "t", "--lists", "--sample", "2"], "--lists needs all calls"),
        (["-o", "t", "--lists", "--source", "zram"], "--lists needs all calls"),
        (["-o", "t", "--lists", "--level", "zswap"], "--lists needs all calls"),
        (["--histogram", "--lists"], "--lists needs all calls"),
        (["-o", "t", "--sample", "0"], "--sample"),
        (["-o", "t", "--rotate", "7"], "no size or time"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], complaint: str) -> None:
    made = CliRunner().invoke(cli, ["record", *options])
    assert made.exit_code == 2
    assert complaint in made.output


def test_a_file_in_the_way_of_a_rotation_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "t.17.parquet").touch()
    arguments = ["record", "-o", str(tmp_path / "t.parquet"), "--rotate", "1s"]
    made = CliRunner().invoke(cli, arguments)
    assert "t.17.parquet: exists; --force" in made.output
    (tmp_path / "t.3.parquet.spool").touch()
    made = CliRunner().invoke(cli, [*arguments, "--force"])
    assert "left by a recorder that died" in made.output
