# SPDX-License-Identifier: GPL-2.0-only
"""Reports that answer: what could be changed, times of real allocators, and claims by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from tests.test_report import at, in_cgroups, record
from ztrace.commands.report import command
from ztrace.replay.errors import ReplayError
from ztrace.replay.report.measured import groups, over_guests, ratio, read_summaries, summarise
from ztrace.replay.research.claims import judge
from ztrace.traces import Metadata, TraceReader
from ztrace.traces.metadata import Kernel, Machine, PoolInfo

SAMPLES = Path(__file__).parent.parent / "traces/samples"
ZSMALLOC = SAMPLES / "zsmalloc-6.1-small.parquet"


def guest(
    folder: Path, allocator: str, number: int, factor: float, *, worst: int = 10, **changes: Any
) -> Path:
    """What a guest would have measured: calls of 100 ns or so times ``factor``, one the ``worst``
    times longer."""
    draw = np.random.default_rng(number)
    dur = (draw.lognormal(4.6, 0.2, 4000) * factor).astype(int)
    dur[300:600:2] = int(100 * factor * worst)  # both mallocs and frees of p99.99
    metadata = Metadata(
        source="measure",
        kernel=Kernel("6.1.192"),
        machine=Machine(cpu_model="a real one", cpus=1, page_bytes=4096),
        pools=[PoolInfo(allocator, "lzo", True, True)],
        extra={"measure": {"trace": "w.parquet", "kernel": "6.1", "rounds": 5, "where": "program"}},
    )
    for name, value in changes.items():
        setattr(metadata, name, value)
    history = (
        step for i in range(1000) for step in (("malloc", 500 + i % 700), ("map", i), ("free", i))
    )
    path = folder / f"{allocator}-{number}-{factor}-{worst}.parquet"
    return record(path, history, metadata, dur_ns=lambda i: int(dur[i]))


def measured(folder: Path, **factors: float) -> list[dict[str, Any]]:
    """Groups of three guests of each allocator."""
    paths = [guest(folder, name, k, factor) for name, factor in factors.items() for k in range(3)]
    return groups(read_summaries(paths))


def verdicts(found: list[dict[str, Any]]) -> dict[str, str]:
    return {claim["claim"]: claim["verdict"] for claim in judge([], found)}


def test_a_summary_is_of_the_rows(tmp_path: Path) -> None:
    path = guest(tmp_path, "zsmalloc", 1, 1.0)
    found = summarise(path)
    rows = pa.parquet.read_table(path).to_pandas()
    for op in ("malloc", "free", "map"):
        dur = np.sort(rows[rows.op == op].dur_ns.to_numpy())
        assert found["times"][op]["calls"] == len(dur) == 1000
        assert found["times"][op]["p50"] == dur[499] and found["times"][op]["max"] == dur[-1]
        assert found["curves"][op]["duration_ns"][0] <= found["curves"][op]["duration_ns"][-1]
    # Objects of 500 to 1,199 bytes, so three ranges of 512 bytes have medians; a free has the
    # size of its malloc.
    told = [row["bytes"] for row in found["by_size"] if row["free_ns"] is not None]
    assert told == [row["bytes"] for row in found["by_size"] if row["malloc_ns"] is not None]
    assert told == [512, 1024, 1536]
    held = rows.total.to_numpy(dtype=float)
    live = ((rows.op == "malloc").cumsum() - (rows.op == "free").cumsum()).to_numpy() * 4096
    step = max(1, len(rows) // 2400)
    assert found["density"]["value"] == pytest.approx(live[::step].sum() / held[::step].sum())


def test_intervals_are_by_guests() -> None:
    one = over_guests([100, 110])
    assert one["low"] is None and one["value"] == pytest.approx(np.sqrt(100 * 110))
    three = over_guests([100.0, 110.0, 121.0])
    logs = np.log([100, 110, 121])
    wide = 4.303 * logs.std(ddof=1) / np.sqrt(3)
    assert three["value"] == pytest.approx(110)
    assert three["high"] == pytest.approx(110 * np.exp(wide))


def test_a_ratio_is_by_pairs(tmp_path: Path) -> None:
    slow, quick = measured(tmp_path, ztree=3.0, zsmalloc=1.0)
    found = ratio(slow, quick, ("malloc",), "p50")
    assert found is not None and found.low < 3 < found.high and found.high < 3.2
    assert ratio(slow, quick, ("store",), "p50") is None
    short = {**slow, "guests": slow["guests"][:2]}
    assert ratio(short, quick, ("malloc",), "p50") is None


def test_claims_by_native_times_flip(tmp_path: Path) -> None:
    quick = verdicts(measured(tmp_path, ztree=1.0, zsmalloc=3.0, z3fold=0.3))
    assert (quick["C1"], quick["C2"]) == ("supported", "supported")
    assert (quick["C5"], quick["C6"]) == ("refuted", "refuted")
    slow = verdicts(measured(tmp_path, ztree=9.0, zsmalloc=3.0))
    assert (slow["C1"], slow["C2"], slow["C5"]) == ("refuted", "refuted", "not decided")
    # One history says so, another otherwise.
    both = measured(tmp_path, ztree=1.0, zsmalloc=3.0)
    other = [{**one, "trace": "v.parquet", "label": "v"} for one in both]
    for one in other:
        one["allocator"] = "zsmalloc" if one["allocator"] == "ztree" else "ztree"
    assert verdicts([*both, *other])["C1"] == "depends"
    # Two guests are no interval; other kernels, machines or CPUs are not compared.
    assert verdicts([{**one, "guests": one["guests"][:2]} for one in both])["C1"] == "not decided"
    for name, value in (("kernel", "7.2"), ("machine", "x"), ("cpus", 2), ("where", "test box")):
        apart = [{**both[0], name: value}, both[1]]
        assert verdicts(apart)["C1"] == "not decided", name


def test_a_worst_call_alone_refutes(tmp_path: Path) -> None:
    """All but the longest calls are alike."""
    paths = [guest(tmp_path, "ztree", k, 1.0, worst=100) for k in range(3)]
    paths += [guest(tmp_path, "zsmalloc", k, 1.0, worst=10) for k in range(3)]
    assert verdicts(groups(read_summaries(paths)))["C1"] == "refuted"


def test_a_file_of_summaries_is_as_good(tmp_path: Path) -> None:
    paths = [guest(tmp_path, "zsmalloc", k, 1.0) for k in range(2)]
    file = tmp_path / "summaries.json"
    file.write_text(json.dumps(read_summaries(paths)))
    assert groups(read_summaries([file])) == groups(read_summaries(paths))
    for text in ("{", "[1]", '{"a": 1}', "[{}]"):
        file.write_text(text)
        with pytest.raises(ReplayError, match="not a file of summaries"):
            read_summaries([file])
    with pytest.raises(ReplayError, match="not measured"):
        read_summaries([ZSMALLOC])


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(command, list(map(str, arguments)), standalone_mode=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_text_is_the_answers(tmp_path: Path) -> None:
    text = run(ZSMALLOC)
    lines = text.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 75
    assert lines[3].startswith("z3fold would hold 58.4% less than zsmalloc:6.1")
    assert "to set 1: echo z3fold > /sys/module/zswap/parameters/zpool" in text
    assert "2,012 of 2,012 calls explained" in text and "Claims" not in text


def test_claims_are_for_who_asks() -> None:
    document = json.loads(run(ZSMALLOC, "--format", "json"))
    assert document["claims"] == []
    assert "ztree" not in document["recordings"][0]["memory"]["models"]
    document = json.loads(run(ZSMALLOC, "--format", "json", "--claims"))
    assert len(document["claims"]) == 10
    assert "ztree" in document["recordings"][0]["memory"]["models"]


def test_a_report_has_the_advice_and_the_times(tmp_path: Path) -> None:
    traces = [guest(tmp_path, "zsmalloc", k, 1.0) for k in range(3)]
    trace = tmp_path / "w.parquet"
    trace.write_bytes(ZSMALLOC.read_bytes())
    options = [word for path in traces for word in ("--measured", str(path))]
    document = json.loads(run(trace, "--format", "json", *options))
    [one] = document["recordings"]
    assert [choice["backend"] for choice in one["advice"]["choices"]] == [
        *("zsmalloc:6.1", "z3fold", "zbud")
    ]
    timed = one["advice"]["choices"][0]["timed"]
    assert timed["malloc_ns"] == document["measured"][0]["ops"]["malloc"]["p50"]["value"]
    page = tmp_path / "page.html"
    run(trace, "-o", page, *options)
    shown = page.read_text()
    for name in ("cost-0", "curve-malloc-0", "size-free-0"):
        assert f'id="plot-{name}"' in shown
    assert 'id="latency-malloc"' not in shown and 'id="claims"' not in shown
    assert at(document, "/measured/0/cost_ns")["low"] is not None


def test_lifetimes_and_stores_are_the_rows(tmp_path: Path) -> None:
    path = SAMPLES / "zbud-6.1-limit.parquet"
    document = json.loads(run(path, "--format", "json"))["recordings"][0]
    rows = pa.parquet.read_table(path).to_pandas()
    live: dict[int, int] = {}
    lived = []
    for op, ts, dur, ret, handle in rows[["op", "ts_ns", "dur_ns", "ret", "handle"]].itertuples(
        index=False
    ):
        if op == "malloc" and ret == 0:
            live[handle] = ts + dur
        elif op == "free" and handle in live:
            lived.append(ts - live.pop(handle))
    found = document["lifetimes"]
    assert found["objects"] == len(lived) == 36_618
    for ns, share in zip(found["duration_ns"][:-1], found["share_longer"][:-1], strict=True):
        # A bucket is told by its end, of which four digits are kept.
        longer = np.mean(np.array(lived) > ns * 1.001)
        assert longer <= share * 1.01 + 1e-4 and share <= np.mean(np.array(lived) > ns * 0.9) + 1e-4
    stores = document["stores"]
    assert stores["refused"][-1] == 63 and stores["failed"][-1] == 11_319
    assert stores["same_filled"][-1] == 0


def test_cgroups_are_the_rows(tmp_path: Path) -> None:
    """Calls and bytes of each cgroup, row by row; one of a hundred has no figures of its own."""
    alone = json.loads(run(ZSMALLOC, "--format", "json"))["recordings"][0]
    assert alone["cgroups"] is None  # that of the kernel's threads only frees
    two = in_cgroups(ZSMALLOC, tmp_path / "two.parquet", 2)
    many = in_cgroups(ZSMALLOC, tmp_path / "many.parquet", 30)
    with TraceReader(many) as reader:
        header = reader.metadata.pools[0].header_bytes
    for file, count in ((two, 2), (many, 20 + 1)):
        rows = pa.parquet.read_table(file).to_pandas()
        found = json.loads(run(file, "--format", "json"))["recordings"][0]["cgroups"]
        assert len(found["groups"]) == count
        begin, end = int(rows.ts_ns.min()), int((rows.ts_ns + rows.dur_ns).max())
        live: dict[int, tuple[int, int, int]] = {}
        held: dict[int, float] = {}
        for row in pa.parquet.read_table(file).to_pylist():
            handle, ts = row["handle"], row["ts_ns"]
            if row["op"] == "malloc" and row["ret"] == 0:
                live[handle] = (row["cgroup"], row["size"] - header, ts + row["dur_ns"])
            elif row["op"] == "free" and handle in live:
                whose, own, since = live.pop(handle)
                held[whose] = held.get(whose, 0) + own * (ts - since)
        for whose, own, since in live.values():
            held[whose] = held.get(whose, 0) + own * (end - since)
        means = [one["mean_bytes"] for one in found["groups"]]
        assert means[:20] == sorted(means[:20], reverse=True)
        assert sum(means) == pytest.approx(sum(held.values()) / (end - begin))
        done = rows[rows.ret == 0]
        for one in found["groups"]:
            assert max(one["held_bytes"]) == pytest.approx(one["peak_bytes"], rel=1e-3)
            if "others" not in one["cgroup"]:
                mine = done[done.cgroup == int(one["cgroup"])]
                counts = [int((mine.op == op).sum()) for op in ("store", "load", "malloc")]
                assert [one["stored"], one["loaded"], one["objects"]] == counts
                assert one["mean_bytes"] == pytest.approx(
                    held.get(int(one["cgroup"]), 0) / (end - begin)
                )
        stored = sum(one["stored"] for one in found["groups"])
        assert stored == int((done.op == "store").sum()) > 1900
    assert found["groups"][-1]["cgroup"] == "10 others"


def test_use_is_the_models(tmp_path: Path) -> None:
    """At its end the pool is empty; near the middle what is free is what the model has free."""
    path = SAMPLES / "ztree-6.1-bursts.parquet"
    document = json.loads(run(path, "--format", "json"))["recordings"][0]
    use = document["use"]
    assert len(use["t_s"]) == len(use["unused"]) >= 90
    assert max(use["stranded_bytes"]) > 0
    for stranded, free in zip(use["stranded_bytes"], use["free_bytes"], strict=True):
        assert 0 <= stranded <= free
    assert all(0 <= share <= 1 for row in use["unused"] for share in row)
