# SPDX-License-Identifier: GPL-2.0-only
"""One trace through all models: every figure against a computation of its own, the table against
the JSON, recorded compactions against the model that made them."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.engines import replay_both
from ztrace.allocator import create
from ztrace.allocator.z3fold.model import Z3fold
from ztrace.allocator.zsmalloc.model import Zsmalloc
from ztrace.cli import main
from ztrace.console import bytes_text, count_text
from ztrace.replay import Result
from ztrace.replay.play.backends import as_recorded, every, models
from ztrace.replay.play.header import header_bytes
from ztrace.traces import OP_CODE, SCHEMA, Metadata, PoolInfo, TraceReader, TraceWriter
from ztrace.traces.metadata import Kernel, Machine

COLUMNS = ("ts_ns", "dur_ns", "op", "pool", "size", "handle", "ret", "place", "total", "cpu")
Row = dict[str, Any]


def metadata(
    allocator: str, *, release: str = "6.1.0-1", header: int = 0, page_bytes: int = 4096
) -> Metadata:
    pool = PoolInfo(allocator, "lzo", True, True)
    pool.header_bytes = header
    return Metadata(
        kernel=Kernel(release=release), machine=Machine(cpus=2, page_bytes=page_bytes), pools=[pool]
    )


def row(number: int, op: str, **columns: Any) -> Row:
    """A call every µs that takes 100 ns."""
    made: Row = dict.fromkeys(COLUMNS)
    made |= {"ts_ns": 1000 * number, "dur_ns": 100, "op": OP_CODE[op], "pool": 0, "ret": 0}
    return made | {"cpu": 0, **columns}


def write(path: Path, rows: list[Row], meta: Metadata) -> Path:
    types = {name: SCHEMA.field(name).type for name in COLUMNS}
    types["op"] = pa.int8()
    with TraceWriter(path, meta, force=True) as writer:
        writer.write({name: pa.array([r[name] for r in rows], types[name]) for name in COLUMNS})
    return path


def played(path: Path, backend: str) -> Result:
    with TraceReader(path) as reader:
        return replay_both(reader, backend)


@pytest.fixture
def ztrace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ztrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        done = capsys.readouterr()
        return int(left.value.code or 0), done.out, done.err

    return call


Command = Callable[..., tuple[int, str, str]]

# -- a zbud trace through all -----------------------------------------------------------------

HEADER = 8
# What zswap stores, ``None``: free the object of that earlier call.
STORED: list[int | tuple[None, int]] = [
    *(1500, 1400, 300, 2900, 700, 60, 2000, 1900, 3600, 1000, 1500, 1500),
    *((None, 3), (None, 0), (None, 7)),
    *(1350, 2100, 2100, 3890, 25),
    *((None, 1), (None, 8), (None, 2), (None, 15)),
    *(1200, 504, 505),
]
# Bytes of header that zswap of 6.1 puts before an object, by backend.
HEADERS = {
    "z3fold": 8,
    "zblock:2022": 8,
    "zblock:2025": 0,
    "zbud": 8,
    "zsmalloc:6.1": 0,
    "zsmalloc:7.2": 0,
    "ztree": 8,
    "ztree:late": 8,
}


def zbud_trace(path: Path) -> Path:
    """The calls above as a recorder saw them: sizes with the header."""
    rows = []
    for number, call in enumerate(STORED):
        if isinstance(call, int):
            rows.append(row(number, "malloc", size=call + HEADER, handle=64 * number))
        else:
            rows.append(row(number, "free", handle=64 * call[1]))
    return write(path, rows, metadata("zbud", header=HEADER))


def by_hand(backend: str) -> dict[str, Any]:
    """Drive the model with the calls alone and measure with plain arithmetic."""
    pool = create(backend)
    handles: dict[int, int] = {}
    stored: dict[int, int] = {}
    held, objects = [], []
    for number, call in enumerate(STORED):
        if isinstance(call, int):
            handles[number] = pool.malloc(call + HEADERS[backend])
            stored[number] = call + HEADERS[backend]
        else:
            pool.free(handles[call[1]])
            del stored[call[1]]
        held.append(pool.held_bytes)
        objects.append(len(stored))
    # Each state lasts a µs, the last one 0 ns; before the first return nothing is held for 100 ns.
    span = 1000 * (len(STORED) - 1) + 100
    area = 1000 * sum(held[:-1])
    at = held.index(max(held))
    stats = pool.stats()
    return {
        "peak": max(held),
        "end": held[-1],
        "mean": area / span,
        "density": objects[at] * 4096 / held[at],
        "mean_density": 1000 * sum(objects[:-1]) * 4096 / area,
        "stored": sum(stored.values()),
        "work": {
            "mallocs": sum(isinstance(call, int) for call in STORED),
            "pages": stats["pages_allocated"],
            "searched": stats["searched"],
            "moved": stats["objects_moved"],
        },
        "held": held,
    }


def test_every_figure_by_hand(tmp_path: Path, ztrace: Command) -> None:
    trace = zbud_trace(tmp_path / "t.parquet")
    status, out, _ = ztrace("replay", trace, "--backend", "all", "--every", "1us", "--json")
    assert status == 0
    replays = json.loads(out)["replays"]
    assert [one["backend"] for one in replays] == list(HEADERS)
    for one in replays:
        hand = by_hand(one["backend"])
        assert one["held_bytes"]["peak"] == hand["peak"]
        assert one["held_bytes"]["end"] == hand["end"]
        assert one["held_bytes"]["mean"] == pytest.approx(hand["mean"])
        assert one["at_peak"]["density"] == pytest.approx(hand["density"])
        assert one["mean_density"] == pytest.approx(hand["mean_density"])
        assert one["stored_bytes"]["end"] == hand["stored"]
        assert one["work"] == hand["work"]
        assert one["refused"] == 0
        # The k-th moment is k µs after the first call's entry: k calls have returned.
        assert [m["held_bytes"] for m in one["series"]] == hand["held"]
    # All but moves happen in this trace; what is counted differs between models.
    assert len({one["work"]["pages"] for one in replays}) > 3
    assert len({one["work"]["searched"] for one in replays}) > 3
    assert any(one["work"]["moved"] for one in replays)


def cells(line: str) -> list[str]:
    """A table's cells; a unit belongs to its number."""
    return line.replace(" KiB", "_KiB").replace(" MiB", "_MiB").replace(" B", "_B").split()


def test_the_table_says_what_the_json_says(tmp_path: Path, ztrace: Command) -> None:
    trace = zbud_trace(tmp_path / "t.parquet")
    common = ("replay", trace, "--backend", "all", "--every", "25%")
    status, out, _ = ztrace(*common)
    replays = json.loads(ztrace(*common, "--json")[1])["replays"]
    assert status == 0
    lines = out.splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first names the file
    for one in replays:
        rows = [cells(line) for line in lines if line.split()[:1] == [one["backend"]]]
        memory, work = rows[:2]  # a series' headers may begin with a name, too
        stranded = one["stranded_bytes_near_peak"]
        assert memory[1:] == [
            *(
                bytes_text(one["held_bytes"][key]).replace(" ", "_")
                for key in ("peak", "mean", "end")
            ),
            f"{one['at_peak']['density']:.3f}",
            f"{one['mean_density']:.3f}",
            "-" if stranded is None else bytes_text(stranded).replace(" ", "_"),
        ]
        counts = one["work"]
        assert work[1:] == [
            count_text(counts["pages"]),
            f"{counts['pages'] / counts['mallocs']:.3f}",
            count_text(counts["searched"]),
            f"{counts['searched'] / counts['mallocs']:.3f}",
            count_text(counts["moved"]),
            count_text(one["refused"]),
        ]
    # Two tables of the series: six backends and the other two.
    times = [f"{(m['t_ns'] - replays[0]['first_ns']) / 1e9:.3f}" for m in replays[0]["series"]]
    shown = lines[next(i for i, line in enumerate(lines) if line.startswith("time (s)")) :]
    found = [cells(line) for line in shown if line.split()[:1] and line.split()[0] in times]
    assert len(found) == 2 * len(times)
    for part, replays_of_part in ((found[: len(times)], replays[:6]), (found[4:], replays[6:])):
        for k, line in enumerate(part):
            held = [f"{one['series'][k]['held_bytes'] / 2**20:.2f}" for one in replays_of_part]
            assert line[1:] == [count_text(replays[0]["series"][k]["calls"]), *held]


def test_the_series_of_several_backends_as_csv(tmp_path: Path, ztrace: Command) -> None:
    trace = zbud_trace(tmp_path / "t.parquet")
    out = tmp_path / "series.csv"
    common = ("replay", trace, "--backend", "zbud", "--backend", "ztree", "--every", "25%")
    assert ztrace(*common, "-o", out)[0] == 0
    assert ztrace(*common, "-o", out)[0] == 2  # not overwritten
    found = list(csv.DictReader(io.StringIO(out.read_text())))
    replays = json.loads(ztrace(*common, "--json")[1])["replays"]
    assert [(one["backend"], one["held_bytes"]) for one in found] == [
        (one["backend"], str(moment["held_bytes"])) for one in replays for moment in one["series"]
    ]


def test_a_backend_named_twice_is_played_once(tmp_path: Path, ztrace: Command) -> None:
    trace = zbud_trace(tmp_path / "t.parquet")
    twice = ztrace("replay", trace, "--backend", "all", "--backend", "zbud:page_bytes=4096")[1]
    assert sum(line.startswith("zbud") for line in twice.splitlines()) == 4
    once = ztrace("replay", trace, "--backend", "zbud", "--backend", "zbud", "--json")[1]
    assert [one["backend"] for one in json.loads(once)["replays"]] == ["zbud"]


def test_a_pool_that_ends_early_is_said_side_by_side(tmp_path: Path, ztrace: Command) -> None:
    rows = [row(0, "malloc", size=4000, handle=15 << 60), row(1, "shrink", ret=-11)]
    trace = write(tmp_path / "t.parquet", rows, metadata("ztree"))
    status, _, err = ztrace("replay", trace, "--backend", "zbud", "--backend", "ztree")
    assert status == 1
    assert "replay of pool 0 by ztree ended early at row 1: shrink: H12" in err


# -- which backends, which header -------------------------------------------------------------


def test_all_means_those_that_fit_the_trace() -> None:
    others = ["z3fold", "zblock:2022", "zblock:2025", "zbud"]
    ours = ["ztree", "ztree:late"]
    for release, zsmalloc in (
        ("6.1.0-56-amd64", ["zsmalloc:6.1", "zsmalloc:7.2"]),
        ("6.12.1", ["zsmalloc:6.12", "zsmalloc:7.2"]),
        ("", ["zsmalloc:6.12", "zsmalloc:7.2"]),
    ):
        found = every(metadata("zbud", release=release))
        assert found == [*others, *zsmalloc, *ours]
    large = every(metadata("zbud", page_bytes=65536))  # zblock of 2025 has no table for these
    assert "zblock:2022,page_bytes=65536" in large
    assert "ztree:page_bytes=65536" in large
    assert not any(name.startswith("zblock:2025") for name in large)
    assert {create(name).page_bytes for name in large} == {65536}


def test_headers_of_each_backend() -> None:
    for backend, count in HEADERS.items():
        assert header_bytes(backend, "6.1.0") == count
        assert header_bytes(f"{backend}{',' if ':' in backend else ':'}x=1", "6.4.3") == count
        assert header_bytes(backend, "6.5.0") == 0
    assert header_bytes("zbudx", "6.1.0") == header_bytes("zblock", "6.1.0") == 0


def test_which_answers_are_compared() -> None:
    assert models("ztree", "ztree")
    assert models("ztree:page_bytes=4096", "ztree")
    assert models("zsmalloc:7.2", "zsmalloc")
    assert models("zbud", "unknown")
    assert not models("ztree:late", "ztree")
    assert not models("ztree:table=x", "ztree")
    assert not models("zbud", "z3fold")


def test_z3fold_as_it_was_recorded() -> None:
    assert as_recorded("z3fold", "z3fold", 3, compactions=True) == "z3fold:cpus=3,work=deferred"
    assert as_recorded("z3fold", "z3fold", 3, compactions=False) == "z3fold:cpus=3"
    given = "z3fold:work=immediate,cpus=1"
    assert as_recorded(given, "z3fold", 3, compactions=True) == given
    assert as_recorded("z3fold", "zbud", 3, compactions=True) == "z3fold"
    assert as_recorded("zbud", "zbud", 3, compactions=True) == "zbud"


def test_blocks_added_by_other_rules_are_not(tmp_path: Path, ztrace: Command) -> None:
    """Two CPUs add a block each (H5) where only the posted ztree's order says so."""
    rows = [
        row(0, "malloc", dur_ns=50, size=4000, handle=(15 << 60) + 16, cpu=1),
        row(0, "malloc", dur_ns=60, size=4000, handle=15 << 60),
    ]
    trace = write(tmp_path / "t.parquet", rows, metadata("ztree"))
    out = ztrace("replay", trace, "--backend", "ztree", "--backend", "ztree:late", "--json")[1]
    posted, late = json.loads(out)["replays"]
    assert (posted["order"], posted["handles"]["equal"]) == ("found", 2)
    assert posted["work"]["pages"] == 16
    assert late["work"]["pages"] == 8
    assert late["handles"]["compared"] == 0


# -- recorded compactions ---------------------------------------------------------------------


def z3fold_history(calls: int = 1500, seed: int = 7) -> list[Row]:
    """A recording of the model with two CPUs and a worker that comes now and then."""
    rng = random.Random(seed)
    kernel = Z3fold(cpus=2, work="deferred")
    live: list[tuple[int, int]] = []  # handle, size
    rows: list[Row] = []

    def note(op: str, **columns: Any) -> None:
        rows.append(row(len(rows), op, cpu=kernel.cpu, total=kernel.total_bytes, **columns))

    def address(handle: int) -> int:
        page, offset = kernel.place(handle)
        return 0xFFFF_8880_0000_0000 + page * 4096 + offset

    for _ in range(calls):
        kernel.cpu = rng.randrange(2)
        if live and rng.random() < 0.47:
            handle, _ = live.pop(rng.randrange(len(live)))
            kernel.free(handle)
            note("free", handle=handle)
        else:
            size = rng.randint(1, 2400)
            handle = kernel.malloc(size)
            live.append((handle, size))
            note("malloc", size=size, handle=handle)
            kernel.map(handle)
            note("map", handle=handle, place=address(handle))
            kernel.unmap(handle)
            note("unmap", handle=handle)
        while kernel.deferred and rng.random() < 0.4:
            kernel.cpu = rng.randrange(2)
            page = rng.choice(list(kernel._queue))
            assert kernel.compact_page(page)
            note("compact", place=0xFFFF_8880_0000_0000 + page * 4096, size=0)
    assert kernel.objects_moved > 50
    return rows


def test_z3fold_compacts_when_the_kernel_did(tmp_path: Path) -> None:
    rows = z3fold_history()
    compactions = sum(r["op"] == OP_CODE["compact"] for r in rows)
    result = played(write(tmp_path / "t", rows, metadata("z3fold")), "z3fold")
    totals = result.agreement("totals")
    assert totals.equal == totals.compared == len(rows)
    assert result.count("compactions") == compactions > 100
    assert result.count("compactions_unmatched") == 0
    other = played(write(tmp_path / "t", rows, metadata("z3fold")), "zbud")
    assert other.count("compactions") == other.count("compactions_unmatched") == 0
    assert other.agreement("totals").compared == 0


def test_z3fold_without_its_cpus_or_compactions_is_another(tmp_path: Path) -> None:
    rows = z3fold_history()
    for wrong in (
        [{**r, "cpu": 0} for r in rows],
        [r for r in rows if r["op"] != OP_CODE["compact"]],
    ):
        totals = played(write(tmp_path / "t", wrong, metadata("z3fold")), "z3fold").agreement(
            "totals"
        )
        assert totals.equal < totals.compared
    for r in rows:
        if r["op"] == OP_CODE["compact"]:
            r["place"] += 1 << 44  # pages that nobody mapped
    result = played(write(tmp_path / "t", rows, metadata("z3fold")), "z3fold")
    assert result.count("compactions") == 0
    assert result.count("compactions_unmatched") > 100


def test_zsmalloc_compacts_where_the_trace_says_so(tmp_path: Path, ztrace: Command) -> None:
    kernel = Zsmalloc(variant="6.1")
    rows: list[Row] = []
    handles = [kernel.malloc(2000) for _ in range(40)]
    for handle in handles:
        rows.append(row(len(rows), "malloc", size=2000, handle=handle))
    for handle in handles[::2]:
        kernel.free(handle)
        rows.append(row(len(rows), "free", handle=handle))
    before = kernel.total_bytes
    kernel.compact()
    rows.append(row(len(rows), "compact", total=kernel.total_bytes))
    assert kernel.total_bytes < before
    trace = write(tmp_path / "t", rows, metadata("zsmalloc"))
    result = played(trace, "zsmalloc:6.1")
    assert result.held_bytes.end == kernel.total_bytes
    assert result.work().moved == kernel.stats()["objects_moved"] > 0
    assert result.agreement("totals").equal == result.agreement("totals").compared == 1
    out = ztrace("replay", trace, "--backend", "all")[1]
    assert "zsmalloc:6.1: 1 compaction as recorded" in out
    assert "z3fold: compacts at once" in out
    elsewhere = played(write(tmp_path / "t", rows, metadata("zbud")), "zsmalloc:6.1")
    assert elsewhere.held_bytes.end == before
    assert elsewhere.work().moved == 0
