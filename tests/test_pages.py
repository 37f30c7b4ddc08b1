# SPDX-License-Identifier: GPL-2.0-only
"""Real pages, really compressed; synthetic and resized traces made of them."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard

from ztrace.replay.play.engine import replay_trace
from ztrace.traces import TraceError, TraceReader
from ztrace.traces.compressors import COMPRESSORS, compressor
from ztrace.traces.pages import Pages, compress_pages
from ztrace.traces.resizing import RESIZED, learned, resize, scaled
from ztrace.traces.synth import Plan, exponential_lifetimes, page_sizes, synthesize

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet"
PAGE = 4096


def have(name: str) -> bool:
    try:
        compressor(name)
    except TraceError:
        return False
    return True


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of 3 + 2 whole pages: text, one word, noise, and a rest that is no page."""
    random = np.random.default_rng(1)
    text = b"".join(b"line %d of a text\n" % i for i in range(3000))
    (tmp_path / "a").write_bytes(text[: 2 * PAGE] + b"\0" * PAGE + b"rest")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(random.bytes(PAGE) + text[2 * PAGE : 3 * PAGE])
    (tmp_path / "small").write_bytes(b"x" * (PAGE - 1))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compressors_give_what_their_library_gives(name: str) -> None:
    if not have(name):
        pytest.skip(f"the library of {name} is not installed; tools/kernel-packages")
    page = b"".join(b"%d squared is %d\n" % (i, i * i) for i in range(500))[:PAGE]
    size = compressor(name)(page)
    assert 300 < size < 3000
    assert compressor(name)(page) == size
    assert compressor(name)(np.random.default_rng(2).bytes(PAGE)) > PAGE


def test_a_page_can_be_restored_from_as_many_bytes() -> None:
    page = (b"abcdefgh" * 100 + bytes(range(256)) * 20)[:PAGE]
    raw = zlib.compressobj(-1, zlib.DEFLATED, -11, 8)
    packed = raw.compress(page) + raw.flush()
    assert zlib.decompress(packed, -11) == page
    assert compressor("deflate")(page) == len(packed)
    frame = zstandard.ZstdCompressor(level=3).compress(page)
    assert abs(compressor("zstd")(page) - len(frame)) <= 8


def test_an_unknown_compressor_is_refused() -> None:
    with pytest.raises(TraceError, match="842: not one of lzo, lz4"):
        compressor("842")


def test_pages_that_zswap_does_not_store_are_counted(folder: Path) -> None:
    pages = compress_pages(folder, ["zstd", "deflate"])
    assert (pages.same_filled, pages.incompressible, pages.skipped) == (1, 1, 0)
    squeeze = compressor("zstd")
    data = (folder / "a").read_bytes()
    found = pages.sizes["zstd"].tolist()
    assert found[:2] == [squeeze(data[:PAGE]), squeeze(data[PAGE : 2 * PAGE])]
    assert len(found) == len(pages.sizes["deflate"]) == 3


def test_pages_are_drawn_by_seed(folder: Path) -> None:
    (folder / "many").write_bytes(b"".join(b"%d," % (i * i) for i in range(60000)))
    draws = [
        compress_pages(folder, ["zstd"], most=20, seed=seed).sizes["zstd"].tolist()
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) <= 20


def test_a_folder_without_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no file there has a page"):
        compress_pages(tmp_path, ["zstd"])
    with pytest.raises(TraceError, match="not a folder"):
        compress_pages(tmp_path / "none", ["zstd"])
    (tmp_path / "zero").write_bytes(b"\0" * PAGE)
    with pytest.raises(TraceError, match="no page there becomes smaller"):
        compress_pages(tmp_path, ["zstd"])


@pytest.mark.parametrize("page_bytes", [4096, 16384, 65536])
def test_a_synthetic_trace_of_pages_of_any_size_is_replayed(
    folder: Path, tmp_path: Path, page_bytes: int
) -> None:
    (folder / "many").write_bytes(b"".join(b"%d," % (i * i) for i in range(60000)))
    pages = compress_pages(folder, ["zstd"], page_bytes=page_bytes)
    trace = tmp_path / "made.parquet"
    plan = Plan(2000, 100, page_sizes(pages, "folder"), exponential_lifetimes())
    synthesize(plan, trace)
    with TraceReader(trace) as reader:
        assert reader.metadata.machine.page_bytes == page_bytes
        assert reader.metadata.pools[0].compressor == "zstd"
        [batch] = reader.batches(["size"])
        drawn = set(batch.column("size").to_pylist()) - {None}
    assert drawn <= set(pages.sizes["zstd"].tolist())
    for name in ("zsmalloc:6.12", "ztree"):
        result = replay_trace(trace, f"{name}:page_bytes={page_bytes}".replace("12:", "12,"))
        assert result.count("refused") == 0
        assert result.held_bytes.peak % page_bytes == 0


def test_a_learned_size_is_that_of_a_page_of_about_the_same_size() -> None:
    known = np.repeat(np.arange(100, 1100), 3)
    pages = Pages({"lzo": known, "zstd": known // 2 + np.tile([0, 1, 2], 1000)}, PAGE, 0, 0, 0)
    sizes = np.arange(50, 1200)
    made = learned(pages)(sizes)
    expected = np.clip(sizes, 100, 1099) // 2
    assert (np.abs(made - expected) <= 1 + 17).all()  # 33 neighbours reach over 11 sizes
    assert len(set((made - expected).tolist())) > 3
    assert (learned(pages, 1)(sizes) == learned(pages, 1)(sizes)).all()


def test_a_resized_trace_keeps_all_but_sizes_and_answers(tmp_path: Path) -> None:
    output = tmp_path / "resized.parquet"
    with TraceReader(SAMPLE) as reader:
        count = resize(reader, output, scaled(0.5), compressor="zstd", note="halved")
        before = [row for batch in reader.batches() for row in batch.to_pylist()]
        header = reader.metadata.pools[0].header_bytes
    with TraceReader(output) as reader:
        after = [row for batch in reader.batches() for row in batch.to_pylist()]
        pool = reader.metadata.pools[0]
        assert (pool.allocator, pool.compressor, pool.header_bytes) == (RESIZED, "zstd", header)
        assert reader.metadata.notes[-1] == "halved"
    assert count == sum(row["op"] == "malloc" and row["ret"] >= 0 for row in before) > 1000
    changed = ("size", "place", "total", "lock_ns")
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in new.items() if k not in changed} == {
            k: v for k, v in old.items() if k not in changed
        }
        assert new["place"] is new["total"] is new["lock_ns"] is None
        if old["op"] == "malloc":
            assert new["size"] == round((old["size"] - header) * 0.5) + header
        elif old["op"] == "store" and old["ret"] == 0:
            assert new["size"] == round(old["size"] * 0.5)


def test_a_store_gets_the_size_drawn_for_its_malloc(tmp_path: Path) -> None:
    output = tmp_path / "resized.parquet"
    known = np.repeat(np.arange(1, PAGE), 8)
    other = np.random.default_rng(1).integers(1, PAGE, len(known))
    with TraceReader(SAMPLE) as reader:
        new_sizes = learned(Pages({"lzo": known, "zstd": other}, PAGE, 0, 0, 0))
        resize(reader, output, new_sizes, compressor="zstd", note="")
        header = reader.metadata.pools[0].header_bytes
    with TraceReader(output) as reader:
        rows = [r for b in reader.batches(["op", "size", "tid", "ret"]) for r in b.to_pylist()]
    within: dict[int, int] = {}
    stores = 0
    for row in rows:
        if row["op"] == "malloc":
            within[row["tid"]] = row["size"] - header
        elif row["op"] == "store" and row["ret"] == 0:
            assert row["size"] == within.pop(row["tid"])
            stores += 1
    assert stores > 1000


def ztrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ztrace", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_line_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    for arguments, complaint in (
        (["resize", str(SAMPLE), "-o", output], "give --scale"),
        (["resize", str(SAMPLE), "-o", output, "--scale", "nan"], "must be above 0"),
        (["resize", str(SAMPLE), "-o", output, "--compressor", "zstd"], "--from-files"),
        (
            ["synth", "--events", "10", "--from-files", "/dev/null", "-o", output],
            "not a folder",
        ),
    ):
        done = ztrace(*arguments)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr
    assert not Path(output).exists()


def test_resize_and_synth_from_files(folder: Path, tmp_path: Path) -> None:
    made, resized = str(tmp_path / "made.parquet"), str(tmp_path / "resized.parquet")
    done = ztrace(
        *("synth", "--events", "500", "--live", "50", "--from-files", str(folder)),
        *("--compressor", "deflate", "-o", made),
    )
    assert done.returncode == 0, done.stderr
    assert "3 compressed, 1 of one word, 1 that become no smaller" in done.stdout
    done = ztrace(
        *("resize", made, "--compressor", "zstd", "--from-files", str(folder), "-o", resized)
    )
    assert done.returncode == 0, done.stderr
    with TraceReader(resized) as reader:
        [batch] = reader.batches(["size"])
        sizes = set(batch.column("size").to_pylist()) - {None}
    assert sizes <= set(compress_pages(folder, ["zstd"]).sizes["zstd"].tolist())
