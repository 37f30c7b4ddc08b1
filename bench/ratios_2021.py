# SPDX-License-Identifier: GPL-2.0-only
"""The ratios posted for ztree in 2021, rebuilt: ``python -m bench.ratios_2021`` (needs fio).

The posted fio job is run as it was posted, on a block device that compresses each page with lz4
and keeps its size instead of its bytes. As zram does, an overwritten page is allocated before
the old one is freed. That history is a trace, which is replayed through the models.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bench.block_device import serve
from ztrace.replay.figures.result import Every
from ztrace.replay.play.fastest import replay_fastest
from ztrace.traces.metadata import Kernel, Machine, Metadata, PoolInfo
from ztrace.traces.reader import TraceReader
from ztrace.traces.schema import OP_CODE
from ztrace.traces.writer import TraceWriter

PAGE, MIB = 4096, 1 << 20
JOBS, LOOPS = 4, 15
STEP_NS = 1000
MODELS = {"z3fold": "z3fold", "zsmalloc": "zsmalloc:6.1", "ztree": "ztree"}
"""zsmalloc of 6.1 has the size classes of 2021: chains of up to 4 pages."""

JOB = (
    *("--bs=4k", "--randrepeat=1", "--randseed=100", "--refill_buffers", "--scramble_buffers=1"),
    *("--direct=1", f"--loops={LOOPS}", f"--numjobs={JOBS}"),
)
PHASES = (("write", "write"), ("read", "read"), ("readwrite", "rw"), ("rand", "randrw"))


class Posted(NamedTuple):
    """A row of the mail: which percentages it is the average of, and the ratios."""

    platform: str
    percentages: tuple[int, ...]
    ratios: dict[str, float]


MAIL = "linux-mm msg270616, 16 September 2021"
POSTED = (
    Posted("qemu cortex-a53", (30, 50), {"z3fold": 1.5, "zsmalloc": 2.4, "ztree": 2.0}),
    Posted("Raspberry Pi 3B", (50,), {"z3fold": 2.0, "zsmalloc": 2.5, "ztree": 2.05}),
    Posted("Raspberry Pi 4B", (50, 70), {"z3fold": 1.4, "zsmalloc": 2.2, "ztree": 1.8}),
)
KIM_DISK_BYTES = 100 * MIB
KIM = {
    75: {"zsmalloc": 29_986_816, "z3fold": 61_239_296},
    66: {"zsmalloc": 38_158_336, "z3fold": 76_779_520},
    50: {"zsmalloc": 59_932_672, "z3fold": 104_873_984},
    33: {"zsmalloc": 78_667_776, "z3fold": 104_873_984},
    25: {"zsmalloc": 83_902_464, "z3fold": 104_873_984},
}
"""Minchan Kim, October 2019: bytes that zram used for the same job, percentage by percentage."""


class Rebuilt(NamedTuple):
    """Bytes of a compressed page; a model's density after the first phase and at the end."""

    least_bytes: int
    median_bytes: int
    most_bytes: int
    written: dict[str, float]
    end: dict[str, float]


def run_fio(fio: str, percentage: int, disk_bytes: int) -> tuple[list[int], list[int]]:
    """Run the posted job; the page number and compressed size of each write, in order."""
    codec = pa.Codec("lz4_raw")  # a block without a frame, as the kernel's
    pages: list[int] = []
    sizes: list[int] = []

    def take(offset: int, data: bytes) -> None:
        if offset % PAGE or len(data) != PAGE:
            raise AssertionError("the job writes whole pages")
        pages.append(offset // PAGE)
        # What does not become smaller is kept as it is.
        sizes.append(min(PAGE, len(codec.compress(data, asbytes=True))))

    with tempfile.TemporaryDirectory() as folder, serve(Path(folder), disk_bytes, take) as uri:
        phases = [
            word
            for name, kind in PHASES
            for word in (f"--name=seq-{name}", f"--rw={kind}", "--stonewall")
        ]
        done = subprocess.run(
            [
                *(fio, *JOB, f"--buffer_compress_percentage={percentage}"),
                *("--ioengine=nbd", f"--uri={uri}", *phases),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
    if done.returncode:
        raise SystemExit(f"ratios_2021: {fio}: {done.stderr.strip() or 'failed'}")
    return pages, sizes


def rows(pages: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """What zram asks of its allocator: op, handle, size (0 for a free)."""
    held: dict[int, int] = {}
    for handle, (page, size) in enumerate(zip(pages, sizes, strict=True), 1):
        yield OP_CODE["malloc"], handle, size
        old = held.pop(page, None)
        if old is not None:
            yield OP_CODE["free"], old, 0
        held[page] = handle


def write_trace(path: Path, pages: Sequence[int], sizes: Sequence[int], percentage: int) -> int:
    """The history as a trace; returns when the first phase had ended, in ns."""
    metadata = Metadata(
        source="zram",
        kernel=Kernel(release="none"),
        machine=Machine(cpus=1, page_bytes=PAGE),
        pools=[PoolInfo("none", "lz4", True, True)],
        clock="calls",
        notes=[f"fio's writes with buffer_compress_percentage={percentage}, compressed with lz4"],
    )
    op, handle, size = np.array(list(rows(pages, sizes)), np.int64).T
    first_phase = JOBS * LOOPS * (max(pages) + 1)
    ends_with = int(np.flatnonzero(op == OP_CODE["malloc"])[first_phase - 1]) + 1
    with TraceWriter(path, metadata, force=True) as writer:
        writer.write(
            {
                "ts_ns": np.arange(len(op)) * STEP_NS,
                "dur_ns": np.zeros(len(op), np.uint32),
                "op": op.astype(np.int8),
                "handle": handle.astype(np.uint64),
                "size": np.ma.masked_array(size.astype(np.uint32), op != OP_CODE["malloc"]),
            }
        )
    return ends_with * STEP_NS


def rebuild(fio: str, percentage: int, disk_bytes: int, folder: Path) -> Rebuilt:
    """Run the job and replay what it wrote."""
    pages, sizes = run_fio(fio, percentage, disk_bytes)
    path = folder / f"fio-{percentage}.parquet"
    ends_ns = write_trace(path, pages, sizes, percentage)
    written, end = {}, {}
    with TraceReader(path) as reader:
        for name, backend in MODELS.items():
            result = replay_fastest(reader, backend, every=Every(ns=ends_ns))
            written[name] = result.series[0].density or 0.0
            end[name] = result.at_end.density or 0.0
    return Rebuilt(min(sizes), int(np.median(sizes)), max(sizes), written, end)


def show(found: dict[int, Rebuilt]) -> None:
    """Print Markdown."""
    print("| fio % | lz4 bytes a page | z3fold | zsmalloc | ztree |")
    print("|--:|--:|--:|--:|--:|")
    for percentage, one in sorted(found.items()):
        cells = [f"{one.written[name]:.2f} / {one.end[name]:.2f}" for name in MODELS]
        span = f"{one.least_bytes} to {one.most_bytes}"
        print(f"| {percentage} | {span} | {' | '.join(cells)} |")
    print("\nPages stored / pages held, after seq-write / at the end of the job.\n")
    print("| platform, fio % | allocator | posted | rebuilt | rebuilt / posted |")
    print("|---|---|--:|--:|--:|")
    for platform, percentages, ratios in POSTED:
        label = f"{platform}, {'/'.join(map(str, percentages))}"
        for name, posted in ratios.items():
            ours = sum(found[p].end[name] for p in percentages) / len(percentages)
            print(f"| {label} | {name} | {posted:g} | {ours:.2f} | {ours / posted:.2f} |")
    print("\n| fio % | allocator | Kim 2019 | rebuilt | rebuilt / Kim |")
    print("|--:|---|--:|--:|--:|")
    for percentage, used in KIM.items():
        for name, used_bytes in used.items():
            kim, ours = KIM_DISK_BYTES / used_bytes, found[percentage].end[name]
            print(f"| {percentage} | {name} | {kim:.2f} | {ours:.2f} | {ours / kim:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the ratios posted in 2021.")
    parser.add_argument("--disk-mib", type=int, default=16, help="of the block device")
    parser.add_argument("--fio", default="fio", help="the program; needs the nbd engine")
    parser.add_argument("--percentage", type=int, nargs="*", default=[], help="more of them")
    parser.add_argument("--folder", type=Path, default=Path("build/ratios-2021"), help="for traces")
    arguments = parser.parse_args()
    if shutil.which(arguments.fio) is None:
        raise SystemExit(f"ratios_2021: no {arguments.fio}; on Debian: apt install fio")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = {p for one in POSTED for p in one.percentages} | KIM.keys() | set(arguments.percentage)
    found = {}
    for percentage in sorted(wanted):
        print(f"fio, {percentage} %", file=sys.stderr)
        disk_bytes = arguments.disk_mib * MIB
        found[percentage] = rebuild(arguments.fio, percentage, disk_bytes, arguments.folder)
    show(found)


if __name__ == "__main__":
    main()
