# SPDX-License-Identifier: GPL-2.0-only
"""Recordings of other tracers: texts of ftrace, trace-cmd, perf and bpftrace, become traces."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ztrace.cli import cli
from ztrace.replay import replay
from ztrace.tracer import eventlines
from ztrace.traces import TraceReader

POOL, FIRST, SECOND = "0xffff888003a5c000", 0xFFFF888005B7E040, 0xFFFF888005B7E100

# task, CPU, ns, event, values: two mallocs by one task, one of them in a store; a free by another.
EVENTS = (
    (7, 0, 100, "zswap_frontswap_store", "type=1 offset=9"),
    (7, 0, 200, "zpool_malloc", f"pool={POOL} size=300"),
    (7, 0, 900, "zpool_malloc__return", "ret=0"),
    (7, 0, 1000, "zpool_map_handle", f"pool={POOL} handle={FIRST:#x}"),
    (7, 0, 1100, "zpool_map_handle__return", ""),
    (7, 0, 1200, "zswap_frontswap_store__return", "ret=0"),
    (7, 1, 2000, "zpool_malloc", f"pool={POOL} size=0x28"),
    (8, 0, 2100, "zpool_free", f"pool={POOL} handle={FIRST}"),
    (8, 0, 2500, "zpool_free__return", ""),
    (7, 1, 2600, "zpool_malloc__return", "ret=0"),
    (7, 1, 2700, "zpool_map_handle", f"pool={POOL} handle={SECOND:#x}"),
    (7, 1, 2800, "zpool_map_handle__return", ""),
    (7, 1, 2900, "zpool_malloc", f"pool={POOL} size=9"),
    (7, 1, 2950, "zpool_malloc__return", "ret=-28"),
)


def trace_cmd(events: Any = EVENTS) -> str:
    return "cpus=2\n" + "".join(
        f"        a b-{tid:<6} [{cpu:03}]    12.{ns:09}: {event}:   (ffffffff81 <- f) {values}\n"
        for tid, cpu, ns, event, values in events
    )


def perf(events: Any = EVENTS) -> str:
    return "".join(
        f"    a b {tid:>6} [{cpu:03}]    12.{ns:09}: ztrace:{event}: (ffffffff81) {values}\n"
        for tid, cpu, ns, event, values in events
    )


def trace_pipe(events: Any = EVENTS) -> str:
    return "# tracer: nop\n#\n" + "".join(
        f"        <...>-{tid:<6} [{cpu:03}] d..3.    12.{ns:06}: {event}: (f+0x0/0x30) {values}\n"
        for tid, cpu, ns, event, values in events
    )


def run(text: str, folder: Path, *arguments: str, form: str = "ftrace") -> Result:
    source = folder / "calls.txt"
    source.write_text(text)
    words = ["import", str(source), "--format", form, "-o", str(folder / "t.parquet"), "--force"]
    return CliRunner().invoke(cli, [*words, *arguments])


def refused(text: str, folder: Path, form: str = "ftrace") -> str:
    """The one line of a refusal."""
    done = run(text, folder, form=form)
    assert done.exception is not None
    assert not isinstance(done.exception, SystemExit) or done.exit_code == 2
    assert not (folder / "t.parquet").exists()
    said = str(done.exception)
    assert "\n" not in said
    return said


def rows(folder: Path) -> list[dict[str, Any]]:
    with TraceReader(folder / "t.parquet") as reader:
        return [row for batch in reader.batches() for row in batch.to_pylist()]


@pytest.mark.parametrize("write", [trace_cmd, perf, trace_pipe])
def test_each_tracer_of_events_gives_the_same_calls(write: Any, tmp_path: Path) -> None:
    done = run(write(), tmp_path, "--allocator", "zbud", "--starts-empty")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path)
    assert [(row["op"], row["size"], row["handle"], row["ret"], row["tid"]) for row in found] == [
        ("malloc", 300, FIRST, 0, 7),
        ("map", None, FIRST, 0, 7),
        ("store", None, None, 0, 7),
        ("free", None, FIRST, 0, 8),
        ("malloc", 40, SECOND, 0, 7),
        ("map", None, SECOND, 0, 7),
        ("malloc", 9, None, -28, 7),
    ]
    unit = 1000 if write is trace_pipe else 1
    assert [row["ts_ns"] - 12 * 10**9 for row in found[:2]] == [200 * unit, 1000 * unit]
    assert [row["dur_ns"] for row in found] == [
        n * unit for n in (700, 100, 1100, 400, 600, 100, 50)
    ]
    assert found[2]["key"] == (1 << 58) | 9
    assert ("in us" in done.output) == (write is trace_pipe)
    with TraceReader(tmp_path / "t.parquet") as trace:
        assert trace.metadata.probes["malloc"].symbol == "zpool_malloc"
        assert trace.metadata.lost_events() is None
        result = replay(trace, "zbud")
    assert result.calls["malloc"] == 3
    assert result.objects.end == 1


def test_what_returns_without_entry_and_the_other_way_round_is_counted(tmp_path: Path) -> None:
    more = [(9, 0, 1, "zpool_free__return", ""), *EVENTS, (9, 0, 3000, "zpool_free", "handle=5")]
    more.insert(3, (7, 0, 850, "zpool_free", "handle=6"))  # its return went missing
    assert run(trace_cmd(more), tmp_path).exit_code == 0
    with TraceReader(tmp_path / "t.parquet") as trace:
        notes = trace.metadata.notes
        assert trace.num_rows == 7
    assert f"1 call left out: {eventlines.UNSEEN_RETURN}" in notes
    assert "2 calls left out: no return was recorded" in notes


def test_losses_that_the_tracer_counted_are_in_the_trace(tmp_path: Path) -> None:
    for line in ("CPU:1 [LOST 5 EVENTS]", "CPU:1 [5 EVENTS DROPPED]"):
        done = run(f"{trace_cmd()}{line}\n", tmp_path)
        assert done.exit_code == 0, done.output
        assert "buffer was full: 5 (cpu 1: 5)" in done.output
        with TraceReader(tmp_path / "t.parquet") as trace:
            assert trace.metadata.lost == {"ftrace's buffer was full": {"1": 5}}


def test_zsmalloc_called_directly_returns_its_handle(tmp_path: Path) -> None:
    events = [
        (7, 0, 200, "zs_malloc", f"pool={POOL} size=300"),
        (7, 0, 900, "zs_malloc__return", f"handle={FIRST:#x}"),
        (7, 0, 1000, "zs_malloc", f"pool={POOL} size=300"),
        (7, 0, 1100, "zs_malloc__return", f"handle={(1 << 64) - 12:#x}"),
        (7, 0, 1200, "zs_free", f"pool=0x55 handle={FIRST:#x}"),
        (7, 0, 1300, "zs_free__return", ""),
        (7, 0, 1400, "sched_switch", "prev=1"),
    ]
    done = run(trace_cmd(events), tmp_path)
    assert done.exit_code == 0, done.output
    found = [(row["op"], row["handle"], row["ret"], row["pool"]) for row in rows(tmp_path)]
    assert found == [("malloc", FIRST, 0, 0), ("malloc", None, -12, 0), ("free", FIRST, 0, 1)]
    assert "1 other event left out, such as sched_switch" in done.output
    both = trace_cmd([*EVENTS, *events])
    (tmp_path / "t.parquet").unlink()
    assert "record zpool alone" in refused(both, tmp_path)


BPFTRACE = f"""Attaching 7 probes...
ts_ns,dur_ns,op,pool,size,handle,ret,cpu,tid
300,50,malloc,0,80,{SECOND},0,1,9
Lost 12 events
100,50,malloc,0,300,{FIRST},0,0,7
400,5,free,0,,{FIRST},0,0,7

@pools: 1
"""


def test_bpftrace_lines_are_sorted_and_its_messages_read(tmp_path: Path) -> None:
    done = run(BPFTRACE, tmp_path, form="bpftrace")
    assert done.exit_code == 0, done.output
    assert [(row["ts_ns"], row["handle"]) for row in rows(tmp_path)] == [
        *((100, FIRST), (300, SECOND), (400, FIRST)),
    ]
    with TraceReader(tmp_path / "t.parquet") as trace:
        assert trace.metadata.lost == {"bpftrace's buffer was full": {"0": 12}}
        assert "rows were sorted by their return" in trace.metadata.notes


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ("", "ftrace", "no call of zswap's"),
        ("cpus=2\n", "ftrace", "--recipe ftrace prints"),
        ("hello\n", "ftrace", "line 1: 'hello' is no event of ftrace, trace-cmd or perf"),
        ("\0\0\0tracing\n", "ftrace", "line 1: a NUL byte, so this is no text"),
        (
            trace_cmd().replace("size=300", "length=300"),
            "ftrace",
            "line 4: zpool_malloc without size=",
        ),
        (trace_cmd().replace("handle=", "at="), "ftrace", "line 10: zpool_free without handle="),
        (trace_cmd().replace("size=300", f"size={1 << 70}"), "ftrace", "more than 64 bits"),
        (trace_cmd().replace("size=300", f"size={1 << 40}"), "ftrace", "line 4: size "),
        (
            trace_cmd(
                [
                    *EVENTS,
                    (7, 1, 3000, "zpool_free", "handle=5"),
                    (7, 1, 10, "zpool_free__return", ""),
                ]
            ),
            "ftrace",
            "line 17: returns before it was entered",
        ),
        (trace_cmd([(1, 0, 5, "sched_switch", "")]), "ftrace", "but sched_switch"),
        ("x" * (1 << 17), "ftrace", "longer than 65536 bytes"),
        ("", "bpftrace", "no call in it"),
        ("hello\n", "bpftrace", "line 1: 'hello' is no line of ztrace's bpftrace script"),
        (BPFTRACE.replace("80", "x"), "bpftrace", "line 3: size 'x' is not an integer"),
        (BPFTRACE.replace("free", "gone"), "bpftrace", "line 6: op 'gone' is not one of"),
    ],
)
def test_bad_texts_are_refused_in_one_line(text: str, form: str, said: str, tmp_path: Path) -> None:
    found = refused(text, tmp_path, form)
    assert said in found
    assert str(tmp_path / "calls.txt") in found


def test_options_of_csv_are_none_of_a_tracers_text(tmp_path: Path) -> None:
    done = run(BPFTRACE, tmp_path, "--sort", form="bpftrace")
    assert done.exit_code == 2
    assert "needs no --sort" in done.output


@pytest.mark.parametrize("name", eventlines.FORMATS)
def test_a_recipe_is_a_script(name: str, tmp_path: Path) -> None:
    printed = CliRunner().invoke(cli, ["import", "--recipe", name])
    assert printed.exit_code == 0
    script = tmp_path / "record.sh"
    script.write_text(printed.output)
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_the_ftrace_recipe_defines_what_the_importer_knows() -> None:
    probed = {
        line.split()[1]
        for line in eventlines.recipe("ftrace").splitlines()
        if line.strip().startswith("probe ")
    }
    assert probed <= set(eventlines.OPS)


def test_the_bpftrace_recipe_has_one_block_for_each_probe() -> None:
    """Of two on one function nothing says which is run first."""
    text = eventlines.recipe("bpftrace")
    probes = re.findall(r"^(?:kprobe|kretprobe):.*?(?= [/{$])", text, re.MULTILINE)
    assert len(probes) == 8
    assert len(set(probes)) == 8 and not any("," in probe for probe in probes)
