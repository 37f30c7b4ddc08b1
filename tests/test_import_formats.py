# SPDX-License-Identifier: GPL-2.0-only
"""What may be given to ``ztrace import``: other compressions and encodings, cut files, other page
sizes, and rows that another program took out of a trace."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner, Result

from ztrace.cli import cli
from ztrace.replay import replay
from ztrace.traces import TraceReader

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "traces" / "samples" / "zsmalloc-6.1-small.parquet"
CSV = b"ts_ns,op,size,handle\n" + b"".join(
    b"%d,malloc,%d,%d\n" % (1000 * i, 100 + i, 0xFFFF888000000000 + 4096 * i) for i in range(300)
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [os.fsdecode(os.fsencode(str(one))) for one in arguments])


def rows(path: Path) -> pa.Table:
    with TraceReader(path) as reader:
        return pa.Table.from_batches(reader.batches(), reader.schema)


def parallel_zstd(text: bytes) -> bytes:
    """As parallel compressors write it: a frame that is skipped, then a frame for each part."""
    half = len(text) // 2
    squeeze = zstandard.ZstdCompressor().compress
    skipped = struct.pack("<II", 0x184D2A50, 4) + b"info"
    return b"".join([skipped, squeeze(text[:half]), skipped, squeeze(text[half:])])


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "zstd of several frames": parallel_zstd,
    "gzip of several members": lambda text: gzip.compress(text[:99]) + gzip.compress(text[99:]),
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "UTF-16, high byte first": lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be"),
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_packed_text_is_read(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(CSV)
    (tmp_path / "packed").write_bytes(pack(CSV))
    for name in ("plain", "packed"):
        done = run("import", tmp_path / name, "-o", tmp_path / f"{name}.parquet")
        assert done.exit_code == 0, done.output
    assert rows(tmp_path / "packed.parquet").equals(rows(tmp_path / "plain.parquet"))


@pytest.mark.parametrize("pack", list(PACKED.values())[:5], ids=list(PACKED)[:5])
def test_packed_text_that_is_cut_is_refused(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(pack(CSV)[:-7])
    done = run("import", tmp_path / "cut", "-o", tmp_path / "t.parquet")
    assert done.exception is not None and "cut" in str(done.exception)
    assert not (tmp_path / "t.parquet").exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (SAMPLE.read_bytes(), "a Parquet file"),
        (b"PK\x03\x04rest", "a zip archive"),
        (b"\x04\x22\x4d\x18rest", "lz4"),
    ],
)
def test_what_is_no_csv_is_refused_by_its_name(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(data)
    done = run("import", tmp_path / "input", "-o", tmp_path / "t.parquet")
    assert told in str(done.exception)


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_csv_cut_inside_its_last_number(cut: int, tmp_path: Path) -> None:
    """A cut number is a number: 18446612686365003840 becomes 184466126863."""
    (tmp_path / "cut.csv").write_bytes(CSV[:-cut])
    done = run("import", tmp_path / "cut.csv", "-o", tmp_path / "t.parquet")
    assert "line 301: no line end" in str(done.exception)


def test_an_op_cannot_be_cut(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"ts_ns,op\n1,free")
    assert run("import", tmp_path / "t.csv", "-o", tmp_path / "t.parquet").exit_code == 0


# -- page sizes -------------------------------------------------------------------------------


@pytest.fixture
def large_pages(tmp_path: Path) -> Path:
    """Objects of 16 KiB pages, most above 4 KiB."""
    path = tmp_path / "pages-16k.csv"
    lines = (f"{i},malloc,{2000 + 50 * i},{0xFFFF888000000000 + 16384 * i}" for i in range(250))
    path.write_text("\n".join(["ts_ns,op,size,handle", *lines]) + "\n")
    return path


def test_objects_larger_than_a_page_are_not_passed_over(large_pages: Path, tmp_path: Path) -> None:
    """64 of 300 objects used to change, under the note that sizes were times 0.2."""
    trace, scaled = tmp_path / "t.parquet", tmp_path / "scaled.parquet"
    assert run("import", large_pages, "-o", trace).exit_code == 0
    done = run("resize", trace, "--scale", "0.2", "-o", scaled)
    assert "row 42: an object of 4,100 bytes" in str(done.exception)
    assert "--page-bytes" in str(done.exception) and not scaled.exists()


def test_page_bytes_of_an_import(large_pages: Path, tmp_path: Path) -> None:
    trace, scaled = tmp_path / "t.parquet", tmp_path / "scaled.parquet"
    done = run("import", large_pages, "--page-bytes", "16384", "-o", trace)
    assert done.exit_code == 0, done.output
    assert "250 of other sizes" in run("resize", trace, "--scale", "0.2", "-o", scaled).output
    expected = [round((2000 + 50 * i) * 0.2) for i in range(250)]
    assert rows(scaled)["size"].to_pylist() == expected
    with TraceReader(trace) as reader:
        assert replay(reader, "zbud:page_bytes=16384").objects.peak == 250


# -- a way back from other programs -----------------------------------------------------------


def by_duckdb(path: Path, output: Path) -> None:
    duckdb.execute(f"copy (from '{path}' where op in ('malloc', 'free')) to '{output}'")


def by_polars(path: Path, output: Path) -> None:
    pl.read_parquet(path).filter(pl.col("op").is_in(["malloc", "free"])).write_parquet(output)


def by_pandas(path: Path, output: Path) -> None:
    frame = pd.read_parquet(path)
    frame[frame.op.isin(["malloc", "free"])].to_parquet(output)


def by_pyarrow(path: Path, output: Path) -> None:
    table = pq.read_table(path, filters=[("op", "in", ["malloc", "free"])])
    pq.write_table(table.replace_schema_metadata(None), output)


@pytest.mark.parametrize("write", [by_duckdb, by_polars, by_pandas, by_pyarrow])
def test_rows_that_another_program_chose(
    write: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    chosen, back = tmp_path / "chosen.parquet", tmp_path / "back.parquet"
    write(SAMPLE, chosen)
    refused = run("info", chosen)
    assert refused.exit_code != 0
    done = run("import", chosen, "--like", SAMPLE, "-o", back)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "chosen by another program" in done.output
    whole = rows(SAMPLE)
    mask = pa.compute.is_in(whole["op"].cast(pa.string()), pa.array(["malloc", "free"]))
    assert rows(back).equals(whole.filter(mask))
    with TraceReader(SAMPLE) as before, TraceReader(back) as after:
        assert after.metadata.kernel == before.metadata.kernel
        assert after.metadata.pools == before.metadata.pools
        assert not after.metadata.has_all_objects()
    assert "chosen by another program" in run("replay", back, "--backend", "zbud").output + (
        run("info", back).output
    )


def test_all_rows_written_again_are_a_whole_trace(tmp_path: Path) -> None:
    duckdb.execute(f"copy (from '{SAMPLE}') to '{tmp_path}/same.parquet'")
    back = tmp_path / "back.parquet"
    assert run("import", tmp_path / "same.parquet", "--like", SAMPLE, "-o", back).exit_code == 0
    with TraceReader(back) as reader:
        assert reader.metadata.has_all_objects()
    assert run("validate", back).exit_code == run("validate", SAMPLE).exit_code == 0


def test_rows_of_another_trace_are_refused(tmp_path: Path) -> None:
    larger = ROOT / "traces" / "samples" / "ztree-6.1-bursts.parquet"
    done = run("import", larger, "--like", SAMPLE, "-o", tmp_path / "t.parquet")
    assert "name the trace they are from" in str(done.exception)


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["host:o.parquet", "s3:x.parquet", "file:t", "a%20b", "t\udcff"])
def test_any_file_name_will_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow took the first for an address, after which it was called damaged."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_bytes(CSV)
    assert run("import", "t.csv", "-o", name).exit_code == 0
    for command in (("info",), ("stat",), ("replay", "--backend", "zbud")):
        done = run(*command, name)
        assert done.exit_code == 0, (command, done.output, done.exception)


def test_reports_and_sweeps_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not UTF-8 ended in a traceback, a sweep's after all runs."""
    monkeypatch.chdir(tmp_path)
    name = "host:\udcff.parquet"
    Path(name).write_bytes(SAMPLE.read_bytes())
    for command in (
        ("report", name, "-o", "r.html", "--backend", "zbud"),
        ("compare", name, name),
        ("sweep", name, "--backend", "zbud", "-o", "s.parquet"),
        ("report", "s.parquet", "-o", "sweep.html"),
    ):
        done = run(*command)
        assert done.exit_code == 0, (command, done.output, done.exception)
