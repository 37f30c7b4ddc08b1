# SPDX-License-Identifier: GPL-2.0-only
"""CSV in and out: known files, round trips, and every way a CSV can be wrong."""

from __future__ import annotations

import csv
import gzip
import io
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.traces import (
    COLUMNS,
    OPS,
    SCHEMA,
    Metadata,
    PoolInfo,
    TraceError,
    TraceReader,
    TraceWriter,
    csvfile,
    export_csv,
    import_csv,
    import_metadata,
    plaintext,
)
from ztrace.traces.schema import conform, integer_range

HEAD = b"ts_ns,dur_ns,op,size,handle,ret,cpu,tid\n"
GOOD = HEAD + b"10,5,malloc,100,0xffff888100000040,0,1,77\n20,6,free,,18446612686397440064,-12,,\n"


def load(text: bytes, tmp_path: Path) -> tuple[pa.Table, Metadata]:
    path = tmp_path / "t.parquet"
    with TraceWriter(path, import_metadata(), force=True) as writer:
        rows = import_csv(io.BytesIO(text), writer, name="in.csv")
    with TraceReader(path) as reader:
        assert reader.num_rows == rows
        return pa.Table.from_batches(reader.batches(), SCHEMA), reader.metadata


def dump(path: Path) -> bytes:
    sink = io.BytesIO()
    with TraceReader(path) as reader:
        export_csv(reader, sink)
    return sink.getvalue()


def unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        return stream.read()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_known_file(tmp_path: Path) -> None:
    table, metadata = load(GOOD, tmp_path)
    absent = dict.fromkeys(("key", "place", "total", "lock_ns", "cgroup"))
    assert table.to_pylist() == [
        {
            **absent,
            "ts_ns": 10,
            "dur_ns": 5,
            "op": "malloc",
            "pool": 0,
            "size": 100,
            "handle": 0xFFFF888100000040,
            "ret": 0,
            "cpu": 1,
            "tid": 77,
        },
        {
            **absent,
            "ts_ns": 20,
            "dur_ns": 6,
            "op": "free",
            "pool": 0,
            "size": None,
            "handle": 18446612686397440064,
            "ret": -12,
            "cpu": 0,
            "tid": 0,
        },
    ]
    assert metadata.kernel.release == "unknown"
    assert metadata.pools == [PoolInfo()]
    assert not metadata.starts_empty()
    assert "imported from CSV" in metadata.notes
    assert metadata.duration_ns == 10


def test_export_is_exact(tmp_path: Path) -> None:
    load(GOOD, tmp_path)
    assert dump(tmp_path / "t.parquet") == (
        b"ts_ns,dur_ns,op,pool,key,size,handle,ret,place,total,lock_ns,cpu,tid,cgroup\n"
        b"10,5,malloc,0,,100,18446612686364999744,0,,,,1,77,\n"
        b"20,6,free,0,,,18446612686397440064,-12,,,,0,0,\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        b"ts_ns,op\n1,free\n",
        b"ts_ns,op\n1,free",
        b"op,ts_ns\r\nfree,1\r\n",
        b"\xef\xbb\xbfts_ns,op\n1,free\n",
        b'"ts_ns","op"\n1,"free"\n',
        b"ts_ns,op\n\n\n1,free\n\n",
        b"ts_ns, op\n 0x1 , free\n",
        b"ts_ns,op\n0X01,free\n",
        b"ts_ns,op,size\n1,free,\n",
    ],
    ids=repr,
)
def test_spellings(text: bytes, tmp_path: Path) -> None:
    table, _ = load(text, tmp_path)
    assert table.select(["ts_ns", "op", "size"]).to_pylist() == [
        {"ts_ns": 1, "op": "free", "size": None}
    ]


def test_no_rows_is_a_trace(tmp_path: Path) -> None:
    assert load(b"ts_ns,op\n", tmp_path)[0].num_rows == 0
    assert load(b"ts_ns,op", tmp_path)[0].num_rows == 0


def test_order_of_the_file_is_kept(tmp_path: Path) -> None:
    text = b"ts_ns,dur_ns,op\n9,1,free\n-3,90,map\n5,8,free\n"  # calls that overlap
    table, metadata = load(text, tmp_path)
    assert table.column("ts_ns").to_pylist() == [9, -3, 5]
    assert metadata.duration_ns == 12


def test_rows_out_of_time_order_are_refused(tmp_path: Path) -> None:
    by_cpu = "".join(f"{100 * k + cpu},5,free,7,{cpu}\n" for cpu in (0, 1) for k in range(9))
    with pytest.raises(TraceError, match=r"row 9 returned 7\.94e-07 s before row 8 began.*sort"):
        load(f"ts_ns,dur_ns,op,tid,cpu\n{by_cpu}".encode(), tmp_path)
    with pytest.raises(TraceError, match="row 2 returned 3600 s before row 1 began"):
        load(b"ts_ns,op\n0,free\n3600000000009,map\n9,free\n", tmp_path)


def test_a_positive_errno_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="row 1: malloc returned 7; ret is 0, or a negative"):
        load(b"ts_ns,op,ret\n0,free,0\n1,malloc,7\n", tmp_path)
    assert load(b"ts_ns,op,ret\n0,shrink,8\n1,malloc,-12\n", tmp_path)[0].num_rows == 2


def test_pools_cover_every_index(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with TraceWriter(path, import_metadata("zbud", starts_empty=True)) as writer:
        import_csv(io.BytesIO(b"ts_ns,op,pool\n1,free,0\n2,free,2\n"), writer)
    with TraceReader(path) as reader:
        assert reader.metadata.pools == [PoolInfo("zbud", empty_at_start=True)] * 3
        assert reader.metadata.starts_empty()


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_by_content(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    plain, _ = load(GOOD, tmp_path)
    assert load(pack(GOOD), tmp_path)[0].equals(plain)
    halves = GOOD[:60], GOOD[60:]
    assert load(b"".join(pack(half) for half in halves), tmp_path)[0].equals(plain)
    (tmp_path / "misleading.csv").write_bytes(pack(GOOD))
    with TraceWriter(tmp_path / "u", import_metadata()) as writer:
        assert import_csv(tmp_path / "misleading.csv", writer) == 2


HUGE = b"1" * 200_000
BAD: dict[str, tuple[bytes, int, str]] = {
    "unknown column": (b"ts_ns,op,sise\n1,free,2\n", 1, "unknown column 'sise'"),
    "missing ts_ns": (b"op,size\nfree,2\n", 1, "no column ts_ns"),
    "missing op": (b"ts_ns,size\n1,2\n", 1, "no column op"),
    "column twice": (b"ts_ns,op,op\n1,free,free\n", 1, "column op occurs twice"),
    "no header": (b"1,free\n2,free\n", 1, "unknown column '1'"),
    "blank first line": (b"\nts_ns,op\n1,free\n", 1, "no column ts_ns"),
    "word": (b"ts_ns,op\n1,free\ntwo,free\n", 3, "ts_ns 'two' is not an integer"),
    "decimal point": (b"ts_ns,op\n1.0,free\n", 2, "ts_ns '1.0' is not an integer"),
    "exponent": (b"ts_ns,op,size\n1,free,1e3\n", 2, "size '1e3' is not an integer"),
    "underscore": (b"ts_ns,op,size\n1,free,1_0\n", 2, "size '1_0' is not an integer"),
    "hex without digits": (b"ts_ns,op,size\n1,free,0x\n", 2, "size '0x' is not an integer"),
    "negative hex": (b"ts_ns,op,ret\n1,free,-0x1\n", 2, "ret '-0x1' is not an integer"),
    "NaN": (b"ts_ns,op,size\n1,free,NaN\n", 2, "size 'NaN' is not an integer"),
    "arabic digit": ("ts_ns,op,size\n1,free,٣\n".encode(), 2, "is not an integer"),
    "no ts_ns": (b"ts_ns,op\n,free\n", 2, "no ts_ns"),
    "no op": (b"ts_ns,op\n1,\n", 2, "op '' is not one of"),
    "unknown op": (b"ts_ns,op\n1,Free\n", 2, "op 'Free' is not one of store load"),
    "negative size": (b"ts_ns,op,size\n1,free,-1\n", 2, "size -1 is not from 0 to 4294967295"),
    "large size": (b"ts_ns,op,size\n1,free,4294967296\n", 2, "size 4294967296 is not from"),
    "large pool": (b"ts_ns,op,pool\n1,free,256\n", 2, "pool 256 is not from 0 to 255"),
    "large ts_ns": (b"ts_ns,op\n9223372036854775808,free\n", 2, "ts_ns 9223372036854775808 is not"),
    "large hex ts_ns": (b"ts_ns,op\n0xffffffffffffffff,free\n", 2, "is not from -9223372036854"),
    "large hex ret": (b"ts_ns,op,ret\n1,free,0xfffffff4\n", 2, "ret 0xfffffff4 is not from"),
    "large handle": (b"ts_ns,op,handle\n1,free,18446744073709551616\n", 2, "is not from 0 to 1844"),
    "large hex handle": (b"ts_ns,op,handle\n1,free,0x10000000000000000\n", 2, "is not from 0 to"),
    "field too few": (b"ts_ns,op,size\n1,free,2\n1,free\n", 3, "2 fields, the header names 3"),
    "field too many": (b"ts_ns,op\n1,free,2\n", 2, "3 fields, the header names 2"),
    "semicolons": (b"ts_ns;op\n1;free\n", 1, "unknown column 'ts_ns;op'"),
    "open quote": (b'ts_ns,op\n1,"free\n2,free\n', 2, "unexpected end of data"),
    "NUL": (b"ts_ns,op\n1,fr\0ee\n", 2, "a NUL byte"),
    "NUL in header": (b"ts_ns,op\0\n1,free\n", 1, "a NUL byte"),
    "NUL alone": (b"ts_ns,op\n1,free\n\0\n", 3, "a NUL byte"),
    "binary": (b"\x7fELF\x02\xff\xfe\n\x80", 1, "not text"),
    "binary later": (b"ts_ns,op\n1,free\n1,\xff\xfe\n", 3, "not text"),
    "escape sequence": (b"ts_ns,op\n1,\x1b[31m\n", 2, r"op '\\x1b[31m' is not one of"),
    "lone return": (b"ts_ns,op\n1,free\r2,free\n", 2, ""),
    "long line": (b"ts_ns,op\n1,free\n1," + HUGE + b"\n", 3, "longer than 65536 bytes"),
    "long header": (HUGE, 1, "longer than 65536 bytes"),
    "endless line": (b"ts_ns,op\n" + b"1" * (9 << 20), 2, "longer than 65536 bytes"),
    "long number": (b"ts_ns,op\n" + b"1" * 5000 + b",free\n", 2, "is not an integer"),
    "late": (b"ts_ns,op\n" + b"1,free\n" * 700_000 + b"x,free\n", 700_002, "'x' is not an integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    text, line, message = BAD[name]
    with pytest.raises(TraceError) as caught:
        load(text, tmp_path)
    shown = str(caught.value)
    assert shown.startswith(f"in.csv: line {line}: ") and message in shown
    assert shown.isprintable() and len(shown) < 400
    assert names(tmp_path) == []


def test_empty_file(tmp_path: Path) -> None:
    for text in (b"", b"\xef\xbb\xbf", gzip.compress(b"")):
        with pytest.raises(TraceError, match="the first line must name the columns"):
            load(text, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_truncated_anywhere(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    whole = pack(GOOD)
    for size in range(1, len(whole)):
        with pytest.raises(TraceError):
            load(whole[:size], tmp_path)
    assert load(whole, tmp_path)[0].num_rows == 2
    assert names(tmp_path) == ["t.parquet"]


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress]
)
def test_damaged_or_followed_by_junk(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    text = GOOD + b"".join(b"%d,1,free,,%d,0,0,0\n" % (i, i * i) for i in range(2000))
    whole = bytearray(pack(text))
    whole[len(whole) // 2] ^= 0x10
    for broken in (bytes(whole), pack(text) + b"junk"):
        with pytest.raises(TraceError, match="damaged or cut short"):
            load(broken, tmp_path)


def test_bomb_does_not_fill_memory(tmp_path: Path) -> None:
    """300 MB of one line in 300 kB."""
    bomb = gzip.compress(b"ts_ns,op\n1," + b"a" * (300 << 20), 1)
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match="line 2: longer than"):
            load(bomb, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "t", import_metadata()) as writer:
        for name, message in {"no": "no such file", ".": "Is a directory", "a\0": "null"}.items():
            with pytest.raises(TraceError, match=message):
                import_csv(tmp_path / name, writer)


def test_blocks_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + b"".join(b"%d,1,malloc,%d,0x%x,0,0,0\r\n" % (i, i, i << 40) for i in range(200))
    whole, _ = load(text, tmp_path)
    for size in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr(plaintext, "BLOCK_BYTES", size)
        assert load(text, tmp_path)[0].equals(whole)
        with pytest.raises(TraceError, match="line 202: ts_ns 'x'"):
            load(text + b"x,1,malloc,1,1,0,0,0\n", tmp_path)


def test_slow_and_fast_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = load(GOOD, tmp_path)
    monkeypatch.setattr(csvfile._Importer, "_parse_fast", lambda self, block: None)
    assert load(GOOD, tmp_path)[0].equals(fast)


def test_ordinary_files_go_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("parsed line by line")

    monkeypatch.setattr(csvfile._Importer, "_parse_lines", refuse)
    load(GOOD, tmp_path)
    load(GOOD.replace(b"\n", b"\r\n"), tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_export_to_a_file(suffix: str, tmp_path: Path) -> None:
    load(GOOD, tmp_path)
    out = tmp_path / f"o.csv{suffix}"
    with TraceReader(tmp_path / "t.parquet") as reader:
        export_csv(reader, out)
        with pytest.raises(TraceError, match="exists"):
            export_csv(reader, out)
        first = out.read_bytes()
        export_csv(reader, out, force=True)
    assert out.read_bytes() == first, "equal traces give equal files"
    plain = {
        "": lambda data: data,
        ".gz": gzip.decompress,
        ".zst": unzstd,
    }[suffix](first)
    assert plain == dump(tmp_path / "t.parquet")
    assert names(tmp_path) == sorted([out.name, "t.parquet"])


def test_failed_export_leaves_nothing(tmp_path: Path) -> None:
    load(HEAD + b"".join(b"%d,1,free,,%d,0,0,0\n" % (i * i, i**5) for i in range(5000)), tmp_path)
    path = tmp_path / "t.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 4] ^= 0xFF
    path.write_bytes(damaged)
    for name in ("o.csv", "o.csv.gz", "o.csv.zst"):
        with TraceReader(path) as reader, pytest.raises(TraceError, match="damaged"):
            export_csv(reader, tmp_path / name)
    assert names(tmp_path) == ["t.parquet"]


def test_progress_adds_up(tmp_path: Path) -> None:
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress(GOOD))
    done: list[int] = []
    with TraceWriter(tmp_path / "t", import_metadata()) as writer:
        import_csv(source, writer, advance=done.append)
    assert sum(done) == source.stat().st_size
    rows: list[int] = []
    with TraceReader(tmp_path / "t") as reader:
        export_csv(reader, io.BytesIO(), advance=rows.append)
    assert sum(rows) == 2


def column(name: str) -> st.SearchStrategy[int | str | None]:
    field = SCHEMA.field(name)
    if name == "op":
        return st.sampled_from(OPS)
    low, high = integer_range(field.type)
    values = st.integers(low, high) | st.sampled_from([low, high, 0])
    return values | st.none() if field.nullable else values


ROW = st.fixed_dictionaries({name: column(name) for name in COLUMNS})


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=20))
def test_export_then_import_is_identity(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    rows.sort(key=lambda row: row["ts_ns"])  # other rows, and such results, no recorder writes
    for row in rows:
        row["ret"] = min(0, row["ret"])
    folder = tmp_path_factory.mktemp("trip")
    plain = pa.schema([f.with_type(pa.string()) if f.name == "op" else f for f in SCHEMA])
    given_rows = pa.Table.from_pylist(rows, plain)
    with TraceWriter(folder / "a", Metadata()) as writer:
        writer.write(given_rows)
    table, _ = load(dump(folder / "a"), folder)
    assert table.to_pylist() == rows
    with TraceReader(folder / "a") as reader:
        assert pa.Table.from_batches(reader.batches(), SCHEMA).to_pylist() == rows


FIELD = st.one_of(
    st.sampled_from([*OPS, "", "0x", "0xffffffffffffffff", "-1", "-", '"', '"free"', "1 ", "+1"]),
    st.integers(-(2**65), 2**65).map(str),
    st.integers(0, 2**65).map(hex),
    st.text(max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["1", "0x10", "-5"]) | FIELD,
            st.sampled_from(OPS) | FIELD,
            st.sampled_from(["", "7"]) | FIELD,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_fast_way_accepts_what_the_slow_way_does(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    """Whatever Arrow accepts is accepted line by line, with the same values."""
    block = "".join(",".join(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    folder = tmp_path_factory.getbasetemp()
    for third in ("size", "handle", "ret"):
        importer = csvfile._Importer("in.csv", TraceWriter(folder / "never", Metadata()))
        importer._names = ["ts_ns", "op", third]
        fast = importer._parse_fast(block)
        if fast is not None:
            slow = importer._parse_lines(block, 1)
            same = [conform(t, where="t") for t in (fast, slow)]
            assert same[0].equals(same[1])


def test_pandas_writes_what_we_read(tmp_path: Path) -> None:
    sink = io.StringIO()
    writer = csv.writer(sink, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["ts_ns", "op", "handle"])
    writer.writerow([1, "malloc", 2**64 - 1])
    table, _ = load(sink.getvalue().encode(), tmp_path)
    assert table.column("handle").to_pylist() == [2**64 - 1]


def test_speed(tmp_path: Path) -> None:
    """A million rows take about a second; ten would mean that Arrow is not used."""
    rows = 200_000
    numbers = np.arange(rows)
    text = HEAD + b"".join(
        b"%d,300,malloc,1500,0xffff8881%08x,-12,0,100\n" % (i, i) for i in numbers.tolist()
    )
    started = time.monotonic()
    load(text, tmp_path)
    assert time.monotonic() - started < 2
