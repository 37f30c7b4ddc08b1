# SPDX-License-Identifier: GPL-2.0-only
"""ztrace info, stat and the commands that write traces, as a user sees them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner import Runner
from ztrace import console
from ztrace.traces import Counters, Kernel, Metadata, PoolInfo, Probe, TraceReader, TraceWriter

ROOT = Path(__file__).parent.parent
CSV = "ts_ns,op,size,handle,ret,dur_ns,cpu,tid\n" + "".join(
    f"{i}000,malloc,{100 + i},0xffff8881{i:08x},0,500,0,7\n{i}500,free,,{i},-22,90,1,8\n"
    for i in range(1, 24)
)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    metadata = Metadata(
        kernel=Kernel("6.1.0-56-amd64", "#1 SMP [bold]x[/bold]\x1b[31m"),
        pools=[PoolInfo("zbud", "lzo", True, True)],
        probes={"malloc": Probe("fentry", "zpool_malloc")},
        probe_cost_ns={"malloc": 81.5},
        parameters={"enabled": "Y", "name": "long " * 40},
        counters=Counters({"stored_pages": 1}, {"stored_pages": 1234567}),
        lost={"ring full": {"0": 3, "1": 4000}, "too deep": {}},
        command=["sh", "-c", "echo a b"],
        notes=["a note"],
    )
    with TraceWriter(tmp_path / "lossy.parquet", metadata) as writer:
        writer.write({"ts_ns": [1, 2], "op": ["malloc", "free"], "size": [7, None]})
    return "lossy.parquet"


def run(*args: str, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "ztrace", *args],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_import_then_stat_then_export(ztrace: Runner, tmp_path: Path) -> None:
    Path("in.csv").write_text(CSV)
    result = ztrace("import", "in.csv", "-o", "t.parquet", "--allocator", "zbud", "--starts-empty")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("t.parquet: 46 rows, ")
    with TraceReader("t.parquet") as reader:
        assert reader.metadata.pools == [PoolInfo("zbud", empty_at_start=True)]
        assert reader.metadata.starts_empty()

    document = json.loads(ztrace("stat", "t.parquet", "--json").out)
    assert document["rows"] == 46
    assert document["ops"]["malloc"]["calls"] == 23
    assert document["ops"]["malloc"]["size_bytes"]["p50"] == 112
    assert document["ops"]["free"]["failed"] == {"EINVAL": 23}
    assert document["rows_by_cpu"] == {"0": 23, "1": 23}
    assert (document["lost_events"], document["lost"]) == (None, {})

    shown = ztrace("stat", "t.parquet").out
    assert "lost events: unknown, nobody counted them" in shown
    assert "EINVAL" in shown and "112" in shown

    plain = ztrace("export", "t.parquet")
    assert (plain.code, plain.err) == (0, "")
    assert len(plain.out.splitlines()) == 47
    assert ztrace("export", "t.parquet", "-o", "o.csv.gz").code == 0
    assert gzip.decompress(Path("o.csv.gz").read_bytes()).decode() == plain.out
    assert names(tmp_path) == ["in.csv", "o.csv.gz", "t.parquet"]


def test_info(ztrace: Runner, trace: str) -> None:
    result = ztrace("info", trace)
    assert (result.code, result.err) == (0, "")
    for text in (
        "6.1.0-56-amd64",
        r"#1 SMP [bold]x[/bold]\x1b[31m",
        "bytes/row",
        "zpool_malloc",
        "1,234,567",
        "sh -c 'echo a b'",
        "a note",
        "lost events: 4,003\n  ring full: 4,003 (cpu 0: 3, cpu 1: 4,000)\n",
    ):
        assert text in result.out
    assert "too deep" not in result.out
    assert "\x1b" not in result.out


def test_info_json(ztrace: Runner, trace: str) -> None:
    document = json.loads(ztrace("info", trace, "--json").out)
    assert document["rows"] == 2
    assert document["bytes_per_row"] == document["bytes"] / 2 == Path(trace).stat().st_size / 2
    assert document["lost_events"] == 4003
    assert document["metadata"]["lost"]["ring full"] == {"0": 3, "1": 4000}
    assert document["metadata"]["kernel"]["release"] == "6.1.0-56-amd64"


def test_losses_are_shown_by_every_command(ztrace: Runner, trace: str) -> None:
    for command in ("info", "stat"):
        assert "ring full: 4,003 (cpu 0: 3, cpu 1: 4,000)" in ztrace(command, trace).out
        assert json.loads(ztrace(command, trace, "--json").out)["lost_events"] == 4003
    result = ztrace("export", trace)
    assert "lost events: 4,003" in result.err and "lost" not in result.out


@pytest.mark.parametrize("command", ["info", "stat"])
def test_output_fits_80_columns(ztrace: Runner, trace: str, command: str) -> None:
    lines = ztrace(command, trace).out.splitlines()
    assert len(lines) > 10 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", ["info", "stat", "export"])
def test_empty_trace(ztrace: Runner, command: str) -> None:
    with TraceWriter("t.parquet", Metadata()):
        pass
    result = ztrace(command, "t.parquet")
    assert (result.code, result.err) == (0, "")


FILES = {"anonymise": [], "slice": ["--op", "malloc"], "merge": ["lossy.parquet"]}
"""Commands that make a trace of traces, and what they need beside a trace and an output."""


@pytest.mark.parametrize("command", ["info", "stat", "import", "export", *FILES])
def test_help_ends_with_an_example(ztrace: Runner, command: str) -> None:
    result = ztrace(command, "--help")
    assert result.code == 0
    assert result.out.splitlines()[-1].strip().startswith(f"Example: ztrace {command} ")


BAD_TRACES = {
    "missing": None,
    "empty": b"",
    "text": b"ts_ns,op\n1,free\n",
    "binary": bytes(range(256)) * 10,
    "cut": b"PAR1" + b"\0" * 100,
    "name\nwith\x1b[31mescapes": b"",
}


@pytest.mark.parametrize("command", ["info", "stat", "export", *FILES])
@pytest.mark.parametrize("name", BAD_TRACES)
def test_bad_trace_is_one_line(
    ztrace: Runner, trace: str, tmp_path: Path, command: str, name: str
) -> None:
    content = BAD_TRACES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = names(tmp_path)
    more = ["-o", "out"] if command in ("export", *FILES) else []
    more += FILES.get(command, [])
    result = ztrace(command, name, *more)
    assert result.code == 2 and result.out == ""
    assert len(result.err.splitlines()) == 1 and result.err.startswith("ztrace: ")
    assert "\x1b" not in result.err and "Traceback" not in result.err
    assert names(tmp_path) == before


BAD_CSV = {
    "unknown column": b"ts_ns,op,bogus\n1,free,1\n",
    "missing ts_ns": b"op\nfree\n",
    "not a number": b"ts_ns,op\nx,free\n",
    "out of range": b"ts_ns,op,cpu\n1,free,65536\n",
    "unknown op": b"ts_ns,op\n1,frob\n",
    "ragged": b"ts_ns,op\n1\n",
    "binary": b"\x7fELF\xff\xfe\x00\n",
    "NUL": b"ts_ns,op\n1,fr\0ee\n",
    "long line": b"ts_ns,op\n" + b"1" * 10_000_000,
    "cut gzip": gzip.compress(CSV.encode())[:-9],
    "cut zstd": b"\x28\xb5\x2f\xfd\x04",
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv_is_one_line_and_harms_nothing(ztrace: Runner, tmp_path: Path, name: str) -> None:
    Path("in.csv").write_bytes(BAD_CSV[name])
    Path("t.parquet").write_bytes(b"mine")
    result = ztrace("import", "in.csv", "-o", "t.parquet", "--force")
    assert result.code == 2 and result.out == ""
    assert len(result.err.splitlines()) == 1 and result.err.startswith("ztrace: in.csv: ")
    assert "Traceback" not in result.err and len(result.err) < 400
    assert Path("t.parquet").read_bytes() == b"mine"
    assert names(tmp_path) == ["in.csv", "t.parquet"]


def test_bad_csv_test_can_fail(ztrace: Runner) -> None:
    """The same call with a good file succeeds and does replace the output."""
    Path("in.csv").write_text(CSV)
    Path("t.parquet").write_bytes(b"mine")
    assert ztrace("import", "in.csv", "-o", "t.parquet", "--force").code == 0
    assert Path("t.parquet").read_bytes() != b"mine"


@pytest.mark.parametrize("command", ["import", "export", *FILES])
def test_outputs_are_protected(ztrace: Runner, trace: str, command: str) -> None:
    Path("in.csv").write_text(CSV)
    source = ["in.csv" if command == "import" else trace, *FILES.get(command, [])]
    if command == "merge":
        with TraceReader(trace) as reader, TraceWriter("later", reader.metadata) as writer:
            writer.write({"ts_ns": [3], "op": ["map"]})
        source = [trace, "later"]
    Path("out").write_bytes(b"mine")
    Path("link").symlink_to("out")
    Path("folder").mkdir()
    cases: list[tuple[str, list[str], str]] = [
        ("out", [], "ztrace: out exists; --force replaces it\n"),
        ("link", [], "link is a symbolic link"),
        ("link", ["--force"], "link is a symbolic link"),
        ("folder", ["--force"], "folder is not a regular file"),
        ("/dev/null", ["--force"], "/dev/null is not a regular file"),
        ("no/where", [], "no/where: cannot write: No such file or directory"),
    ]
    before = names(Path())
    for output, more, message in cases:
        result = ztrace(command, *source, "-o", output, *more)
        assert result.code == 2 and message in result.err
        assert len(result.err.splitlines()) == 1
    assert names(Path()) == before
    assert Path("out").read_bytes() == b"mine"
    assert ztrace(command, *source, "-o", "out", "--force").code == 0
    assert Path("out").read_bytes() != b"mine"


def test_stdin_and_stdout_of_a_process(tmp_path: Path) -> None:
    result = run("import", "-", "-o", "t", cwd=tmp_path, stdin=gzip.compress(CSV.encode()))
    assert (result.returncode, result.stderr) == (0, b"")
    result = run("export", "t", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(result.stdout.splitlines()) == 47
    again = run("import", "-", "-o", "u", cwd=tmp_path, stdin=result.stdout)
    assert again.returncode == 0
    assert run("export", "u", cwd=tmp_path).stdout == result.stdout


def test_process_reports_errors_in_one_line(tmp_path: Path) -> None:
    result = run("import", "-", "-o", "t", cwd=tmp_path, stdin=b"ts_ns,op\n1,frob\n")
    assert result.returncode == 2 and result.stdout == b""
    assert result.stderr.startswith(b"ztrace: standard input: line 2: op 'frob' is not one of ")
    assert result.stderr.count(b"\n") == 1
    assert names(tmp_path) == []


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", Metadata()) as writer:
        writer.write({"ts_ns": range(200_000), "op": [0] * 200_000})
    result = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ztrace export t | head -1"],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"ts_ns,")


def test_output_in_an_ascii_locale(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", Metadata(notes=["µ → \udcff"])):
        pass
    result = subprocess.run(
        [sys.executable, "-m", "ztrace", "info", "t"],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert rb"\xb5 \u2192 \udcff" in result.stdout


def test_numbers_with_units() -> None:
    assert [console.bytes_text(n) for n in (0, 1023, 1024, 1 << 20, 1536 << 20, 1 << 60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 MiB",
        "1.5 GiB",
        "1024.0 PiB",
    ]
    assert console.bytes_text((1 << 20) - 1) == "1.0 MiB"
    assert [console.ns_text(n) for n in (0, 999, 999.7, 1500, 999_960, 2e9, 9e12)] == [
        "0 ns",
        "999 ns",
        "1.0 us",
        "1.5 us",
        "1.0 ms",
        "2.0 s",
        "9,000.0 s",
    ]


def test_progress_is_silent_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    with console.progress("work", 10) as advance:
        advance(10)
    assert capfd.readouterr() == ("", "")
