# SPDX-License-Identifier: GPL-2.0-only
"""Sweeps: the plan, workers that die, interruption, a cluster, and what the figures are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ztrace.allocator import BackendError
from ztrace.replay.errors import ReplayError
from ztrace.replay.limit import AT_ONCE, Limit, Play, Rules, play, recorded_limit
from ztrace.replay.play.engine import replay_trace
from ztrace.replay.read.scaled import Scaled
from ztrace.replay.report import render, sweep_document
from ztrace.replay.report.sweep import fleet
from ztrace.replay.sweep import (
    Journal,
    Run,
    on_cluster,
    on_cores,
    plan_runs,
    read_results,
    run_one,
    write_results,
)
from ztrace.replay.sweep.run import MEASURED, Row
from ztrace.traces.reader import TraceReader
from ztrace.traces.synth import Plan, exponential_lifetimes, gauss_sizes, synthesize
from ztrace.traces.writer import TraceWriter

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"

THIRD_PARTY = '''
import os, signal, time
from pathlib import Path
from ztrace.allocator.zbud.model import Zbud

class Fatal(Zbud):
    """Dies with its process: ``times`` workers over all, counted in a folder."""
    def __init__(self, folder, times="1", here="0"):
        super().__init__()
        counted = len(list(Path(folder).iterdir()))
        if os.getpid() != int(here) and counted < int(times):
            (Path(folder) / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)

class Slow(Zbud):
    """Plays two traces in a process; the next ones wait for the file ``gate``."""
    played = 0
    def __init__(self, gate):
        super().__init__()
        self.gate, self.begun = Path(gate), False
    def malloc(self, size):
        Slow.played += not self.begun
        self.begun = True
        while Slow.played > 2 and not self.gate.exists():
            time.sleep(0.05)
        return super().malloc(size)
'''


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two small traces."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (1, 2):
        shape = Plan(600, 80, gauss_sizes(1500, 600), exponential_lifetimes(), seed)
        synthesize(shape, folder / f"{seed}.parquet")
    return [str(folder / "1.parquet"), str(folder / "2.parquet")]


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Backends ``fatal`` and ``slow``, also for processes that are started; gives a folder."""
    package = tmp_path / "site"
    about = package / "misbehaving-1.dist-info"
    about.mkdir(parents=True)
    (package / "misbehaving.py").write_text(THIRD_PARTY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        "[ztrace.backends]\nfatal = misbehaving:Fatal\nslow = misbehaving:Slow\n"
    )
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), root]))
    monkeypatch.syspath_prepend(str(package))
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    return deaths


def comparable(rows: list[Row]) -> list[Row]:
    """Without what is measured, in an order that does not depend on who was first."""
    kept = [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]
    return sorted(kept, key=lambda row: json.dumps(row, sort_keys=True))


# -- the plan ----------------------------------------------------------------------------------


def test_plan_is_the_cross_product_with_a_traces_runs_together() -> None:
    runs = plan_runs(["a", "b"], ["zbud", "ztree"], {"scale": ["0.5", "1"]})
    assert len(runs) == 8
    assert [run.trace for run in runs] == ["a"] * 4 + ["b"] * 4
    assert {run.parameters for run in runs} == {(("scale", "0.5"),), (("scale", "1"),)}


def test_a_parameter_of_one_backend_leaves_the_others_with_one_run() -> None:
    runs = plan_runs(["a"], ["zbud", "zsmalloc:6.12"], {"chain_size": ["4", "8"]})
    assert [run.specification for run in runs] == [
        "zbud",
        "zsmalloc:6.12,chain_size=4",
        "zsmalloc:6.12,chain_size=8",
    ]


@pytest.mark.parametrize(
    ("backends", "parameters", "complaint"),
    [
        (["zbud"], {"colour": ["red"]}, "colour=red: no such item"),
        (["zbud"], {"scale": ["-1"]}, "scale=-1: not a number above 0"),
        (["zbud"], {"scale": ["nan"]}, "scale=nan"),
        (["zbud"], {"limit": ["a"]}, "limit=a: write a share, 20%, bytes, or recorded"),
        (["zbud"], {"limit": ["20%"], "accept": ["101"]}, "accept=101: 0 to 100 percent"),
        (["zbud"], {"limit": ["20%"], "rules": ["5.4"]}, "rules=5.4: each one of 6.1, 6.12"),
        (["zbud"], {"rules": ["6.1"]}, "rules is of a pool limit: give --param limit too"),
        (["zbud"], {"scale": ["1"] * 11}, "11 runs, more than 10"),
    ],
)
def test_an_impossible_plan_is_refused(
    backends: list[str],
    parameters: dict[str, list[str]],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ztrace.replay.sweep.plan.MOST_RUNS", 10)
    with pytest.raises(ReplayError, match=complaint):
        plan_runs(["a"], backends, parameters)
    with pytest.raises(BackendError, match="nosuch"):
        plan_runs(["a"], ["nosuch"], {})


# -- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["zbud", "z3fold", "zsmalloc:6.1", "ztree"])
def test_a_row_has_the_figures_of_a_replay(traces: list[str], backend: str) -> None:
    row = run_one(Run(traces[0], backend))
    result = replay_trace(traces[0], backend)
    assert row["error"] is None
    assert row["held_bytes_peak"] == result.held_bytes.peak
    assert row["density_mean"] == pytest.approx(result.mean_density)
    assert row["calls"] == result.driven == 600
    assert row["pages_allocated"] == result.work().pages


@pytest.mark.parametrize(
    ("asked", "limit", "rules"),
    [
        ((("limit", "recorded"),), None, Rules.DRIVER),
        ((("limit", "400000"), ("accept", "50"), ("rules", "6.12")), Limit(97, 100, 50), Rules.LRU),
    ],
)
def test_a_row_under_a_limit_has_the_figures_of_the_closed_loop(
    asked: tuple[tuple[str, str], ...], limit: Limit | None, rules: Rules
) -> None:
    path = str(SAMPLES / "zbud-6.1-limit.parquet")
    row = run_one(Run(path, "zbud", asked))
    assert row["error"] is None
    with TraceReader(path) as reader:
        its = recorded_limit(reader.metadata) if limit is None else limit
        [outcome] = play(reader, [Play("zbud", AT_ONCE, its, rules)])
    assert row["limit_reached"] and row["limit_written_back"] > 0
    assert row["rules"] == rules.value
    assert row["limit_bytes"] == its.max_pages * 4096
    for name, count in asdict(outcome.counts).items():
        assert row[f"limit_{name}"] == count
    assert row["held_bytes_mean"] == outcome.mean_held_bytes
    if limit is None:  # as the kernel has counted
        assert (row["limit_written_back"], row["limit_limit_hits"]) == (39, 25)


def test_a_limit_and_a_scale_go_together() -> None:
    path, limit = str(SAMPLES / "zbud-6.1-limit.parquet"), ("limit", "4000000")
    rejected = [
        run_one(Run(path, "zsmalloc:6.12", (("scale", scale), limit)))["limit_rejected"]
        for scale in ("0.5", "1", "1.5")
    ]
    assert rejected == sorted(rejected) and rejected[0] < rejected[2]


def test_a_report_on_limits_is_a_page(tmp_path: Path) -> None:
    names = [str(SAMPLES / f"zbud-6.1-{name}.parquet") for name in ("limit", "small")]
    runs = plan_runs(names, ["zbud", "zsmalloc"], {"limit": ["1000000", "recorded"]})
    output = tmp_path / "results.parquet"
    with output.open("wb") as file:
        write_results([run_one(run) for run in runs], file, {})
    rows, _ = read_results(output)
    document = sweep_document(rows)
    assert [one["limit"] for one in document["best"]] == ["limit=1000000", "limit=recorded"] * 2
    shown = render(document, "text")
    assert "Over the traces" in shown and "rejected" in shown
    assert max(map(len, shown.splitlines())) <= 90


def test_the_spread_over_a_fleet() -> None:
    """Of ten hosts 1, 5 and 9 do not exceed the first, fifth and ninth value."""
    rows = [row(f"t{n}", "zbud", 1 + n / 10, limit_rejected=n * n) for n in range(10)]
    rows += [row("t0", "ztree", 2.0), row("t1", "ztree", None)]
    rows += [row("t0", "z3fold", 2.0, limit_rejected=3), row("t1", "z3fold", 3.0)]
    some, other = fleet(rows)
    assert (some["backend"], some["traces"]) == ("zbud", 10)
    assert some["figures"]["density_mean"] == [1.0, 1.0, 1.4, 1.8, 1.9]
    assert some["figures"]["limit_rejected"] == [0, 0, 16, 64, 81]
    assert other["backend"] == "z3fold" and "limit_rejected" not in other["figures"]
    assert other["figures"]["density_mean"] == [2.0, 2.0, 2.0, 3.0, 3.0]


def test_scaled_sizes_are_what_the_models_get(traces: list[str], tmp_path: Path) -> None:
    with TraceReader(traces[0]) as reader:
        columns = ["ts_ns", "dur_ns", "op", "size", "handle"]
        with TraceWriter(tmp_path / "by-hand.parquet", reader.metadata) as writer:
            for batch in reader.batches(columns):
                given = {name: batch.column(name).to_numpy(False) for name in columns[:2]}
                op = batch.column("op").indices.to_numpy()
                size = [s and max(1, round(s * 0.5)) for s in batch.column("size").to_pylist()]
                handle = batch.column("handle").to_numpy(False)
                writer.write({**given, "op": op, "size": size, "handle": handle})
        wanted = replay_trace(tmp_path / "by-hand.parquet", "zsmalloc:6.1")
        assert wanted.stored_bytes.peak < 0.6 * replay_trace(traces[0], "zbud").stored_bytes.peak
    row = run_one(Run(traces[0], "zsmalloc:6.1", (("scale", "0.5"),)))
    assert row["stored_bytes_peak"] == wanted.stored_bytes.peak
    assert row["held_bytes_mean"] == pytest.approx(wanted.held_bytes.mean)


def test_sizes_are_kept_within_a_page_and_headers_are_not_scaled() -> None:
    sample = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet"
    with TraceReader(sample) as reader:
        header = reader.metadata.pools[0].header_bytes
        assert header == 8
        [*before] = [b.column("size").to_pylist() for b in reader.batches(["size", "op"])]
        [*after] = [b.column("size").to_pylist() for b in Scaled(reader, 3).batches(["size"])]
        ops = [b.column("op").to_pylist() for b in reader.batches(["op"])]
    pairs = [
        (old, new)
        for olds, news, names in zip(before, after, ops, strict=True)
        for old, new, op in zip(olds, news, names, strict=True)
        if op == "malloc"
    ]
    assert pairs
    assert all(new == min(4096, (old - header) * 3 + header) for old, new in pairs)


def test_a_scaled_trace_is_not_compared_with_the_kernel() -> None:
    sample = str(Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet")
    plain, same, other = (
        run_one(Run(sample, "ztree", parameters))
        for parameters in ((), (("scale", "1"),), (("scale", "0.9"),))
    )
    assert plain["handles_equal"] == plain["handles_compared"] == same["handles_equal"] > 0
    assert other["handles_compared"] == other["totals_compared"] == 0


def test_what_goes_wrong_in_a_run_is_in_its_row(traces: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    assert "damaged" in run_one(Run(str(tmp_path / "bad.parquet"), "zbud"))["error"]
    assert "No such file" in run_one(Run(str(tmp_path / "none.parquet"), "zbud"))["error"]
    assert "pages of 4096" in run_one(Run(traces[0], "zbud:page_bytes=16384"))["error"]


# -- workers -----------------------------------------------------------------------------------


def test_runs_of_a_dead_worker_are_done_by_another(traces: list[str], third_party: Path) -> None:
    fatal = f"fatal:folder={third_party},here={os.getpid()}"
    runs = plan_runs(traces, [fatal, "zbud"], {})
    rows = dict(on_cores(runs, workers=2))
    assert len(list(third_party.iterdir())) == 1
    assert set(rows) == set(runs)
    assert all(row["error"] is None for row in rows.values())
    held = {(run.trace, run.backend): row["held_bytes_peak"] for run, row in rows.items()}
    assert all(held[trace, fatal] == held[trace, "zbud"] for trace in traces)


def test_a_run_that_kills_every_worker_is_given_up_alone(
    traces: list[str], third_party: Path
) -> None:
    fatal = f"fatal:folder={third_party},times=99,here={os.getpid()}"
    rows = dict(on_cores(plan_runs(traces[:1], ["zbud", fatal], {}), workers=1))
    errors = {run.backend: row["error"] for run, row in rows.items()}
    assert errors["zbud"] is None
    assert "3 workers died" in errors[fatal]
    assert len(list(third_party.iterdir())) == 3


def test_a_cluster_gives_the_same_and_survives_a_worker(
    traces: list[str], third_party: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    fatal = f"fatal:folder={third_party},here={os.getpid()}"
    runs = plan_runs([traces[0], f"file://{traces[1]}"], ["ztree", fatal], {"scale": ["0.7", "1"]})
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        there = dict(on_cluster(runs, cluster.scheduler_address))
    assert len(list(third_party.iterdir())) == 1
    assert all(row["error"] is None for row in there.values())
    here = [run_one(run) for run in runs]
    assert comparable(list(there.values())) == comparable(here)


# -- the journal -------------------------------------------------------------------------------


def test_a_torn_line_is_cut_off_and_failed_runs_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    good, bad = Run("t", "zbud"), Run("t", "ztree", (("scale", "2"),))
    with Journal(path) as journal:
        journal.add(good, "state", {"error": None, "calls": 7})
        journal.add(bad, "state", {"error": "died"})
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[1][:30])
    with Journal(path) as journal:
        assert journal.rows == {(good, "state"): {"error": None, "calls": 7}}
        with pytest.raises(ReplayError, match="another sweep"), Journal(path):
            pass
    assert path.read_bytes() == whole


def test_another_file_is_no_journal_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("mine\n")
    with pytest.raises(ReplayError, match="not the journal"), Journal(path):
        pass
    assert path.read_text() == "mine\n"


# -- the command -------------------------------------------------------------------------------


def ztrace(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A command that hears Ctrl-C even where these tests, in a shell's background, do not."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "ztrace", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_a_sweep_goes_on_where_it_was_interrupted(
    traces: list[str], third_party: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results.parquet"
    journal = tmp_path / "results.parquet.runs"
    gate = tmp_path / "gate"
    slow = f"slow:gate={gate}"
    call = ["sweep", *traces, "--backend", slow, "--param", "scale=0.7,0.8,0.9,1,1.1"]
    call += ["--workers", "1", "-o", str(output)]
    process = ztrace(*call)
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on there" in said
    assert "Traceback" not in said
    assert not output.exists()
    assert sorted(path.name for path in tmp_path.glob("*results*")) == [journal.name]
    before = [json.loads(line)["row"] for line in journal.read_text().splitlines()[1:]]
    assert len(before) == 2

    gate.touch()
    process = ztrace(*call)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"{len(before)} of 10 runs done" in said
    rows, _ = read_results(output)
    assert len(rows) == 10
    assert not journal.exists()
    # Times were measured once: had they been run again, they would differ.
    assert {row["wall_s"] for row in before} <= {row["wall_s"] for row in rows}
    assert pq.read_table(output)["param.scale"].to_pylist() == [0.7, 0.8, 0.9, 1, 1.1] * 2


def test_a_failed_run_does_not_stop_the_rest(traces: list[str], tmp_path: Path) -> None:
    output = tmp_path / "results.parquet"
    broken = tmp_path / "broken.parquet"
    content = bytearray(Path(traces[0]).read_bytes())
    # Rows, not the footer: seen by who reads them. Where columns lie is Arrow's to choose.
    page = pq.read_metadata(traces[0]).row_group(0).column(0).data_page_offset
    content[page + 40 : page + 80] = bytes(40)
    broken.write_bytes(content)
    process = ztrace("sweep", traces[0], str(broken), "--backend", "zbud", "-o", str(output))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"{broken}, zbud" in said
    rows, _ = read_results(output)
    assert [row["error"] is None for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--param", "scale"], "write NAME=VALUE"),
        (["--param", "scale=1", "--param", "scale=2"], "same name twice"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers"),
        (["--scheduler", "nonsense"], "nothing answers there"),
        (["--scheduler", "tcp://127.0.0.1:1"], "nothing answers there"),
    ],
)
def test_bad_usage_is_one_line(
    traces: list[str], tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    output = tmp_path / "results.parquet"
    process = ztrace("sweep", traces[0], "--backend", "zbud", "-o", str(output), *arguments)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert complaint in said
    assert "Traceback" not in said
    assert not output.exists()


def test_what_is_no_result_is_refused(traces: list[str]) -> None:
    with pytest.raises(ReplayError, match="not the results of a sweep"):
        read_results(traces[0])


# -- the report --------------------------------------------------------------------------------


def row(trace: str, backend: str, density: float | None, **more: Any) -> Row:
    figures = {"density_mean": density, "held_bytes_mean": 4096.0 * 100, "held_bytes_peak": 8192}
    figures |= {"stranded_bytes_near_peak": None, "lost": 0, "refused": 0, "stopped": None}
    return {"trace": trace, "backend": backend, "model": backend, **figures, "error": None, **more}


def test_the_densest_model_is_named_though_another_holds_less() -> None:
    rows = [
        row("a/x.parquet", "zbud", 1.5, held_bytes_mean=10.0, refused=99),
        row("a/x.parquet", "ztree", 2.0),
        row("a/x.parquet", "z3fold", 3.0, stopped="row 7: malloc: H12"),
        row("b/y.parquet", "zbud", 1.7),
    ]
    document = sweep_document(rows)
    first, second = document["best"]
    assert [one["model"] for one in first["ranking"]] == ["ztree", "zbud"]
    assert first["ranking"][1]["of_best"] == 0.75
    assert (first["workload"], second["workload"]) == ("x", "y")
    shown = render(document, "text")
    assert "row 7: malloc: H12" in shown
    assert max(map(len, shown.splitlines())) <= 75


def test_figures_are_drawn_against_numeric_parameters() -> None:
    rows = [
        row("x", "zsmalloc:6.12", 2 + chain / 100, **{"param.chain_size": chain, "param.work": "w"})
        for chain in (8, 4, 16)
    ]
    document = sweep_document([*rows, row("x", "zbud", None, error="died")])
    [density] = [one for one in document["sensitivity"] if one["figure"] == "density_mean"]
    [series] = density["series"]
    assert density["parameter"] == "chain_size"
    assert (series["name"], series["x"]) == ("zsmalloc:6.12, work=w", [4, 8, 16])
    assert series["y"] == pytest.approx([2.04, 2.08, 2.16])
    assert "died" in render(document, "md")


def test_a_report_on_results_is_a_page_and_is_named_alone(
    traces: list[str], tmp_path: Path
) -> None:
    runs = plan_runs(traces, ["zbud", "ztree"], {"scale": ["0.5", "1"]})
    results = tmp_path / "results.parquet"
    with results.open("wb") as file:
        write_results([run_one(run) for run in runs], file, {})
    page = tmp_path / "page.html"
    process = ztrace("report", str(results), "-o", str(page))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Densest for each workload" in page.read_text()
    assert '<figure id="plot-sensitivity-0-1"' in page.read_text()
    process = ztrace("report", str(results), "--format", "perfetto")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and "no calls over time" in said
    process = ztrace("report", str(results), traces[0])
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "named alone" in said
