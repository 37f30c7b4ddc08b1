# SPDX-License-Identifier: GPL-2.0-only
"""How fast events leave the ring buffer: ztrace's bulk read against bcc's callback per event.

Both read one stored ring, a memory file laid out as the kernel maps a BPF ring buffer, full of
the calls of a bundled recording. bcc's side is bcc's own Python: ``open_ring_buffer`` makes the
ctypes callback, ``event`` casts the data to the class of the record; the user's function reads
all fields into a tuple, as one that keeps events must. The loop that calls it is C as in
libbpf, but ours, compiled here: libbpf's ring_buffer__consume() takes nothing but a BPF map, and
this is to run where no map can be made. The class's fields are given instead of asked of a
loaded BPF text, with the ctypes that bcc maps the C types to.

    python -m bench.consumer [--rounds N] [--trace FILE] [--json]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from ztrace.console import table
from ztrace.tracer.errors import TracerError
from ztrace.tracer.ring import RECORD, SLOT, Records, Ring
from ztrace.tracer.spool import SpoolWriter
from ztrace.tracer.system_bcc import load_bcc
from ztrace.traces import OPS

PAGE = mmap.PAGESIZE
RING_BYTES = 16 << 20  # the recorder's default

# What libbpf does for each record: wait for none, call, give the room back.
LOOP = r"""
#include <stdint.h>

typedef int (*callback)(void *context, void *data, int size);

long consume(char *ring, uint64_t mask, uint64_t page, callback call)
{
	uint64_t *consumed = (uint64_t *)ring, *produced = (uint64_t *)(ring + page);
	uint64_t at = __atomic_load_n(consumed, __ATOMIC_ACQUIRE);
	uint64_t end = __atomic_load_n(produced, __ATOMIC_ACQUIRE);
	long count = 0;

	while (at < end) {
		char *slot = ring + 2 * page + (at & mask);
		uint32_t length = __atomic_load_n((uint32_t *)slot, __ATOMIC_ACQUIRE);

		if (length >> 31)
			break;
		if (!(length >> 30)) {
			call(0, slot + 8, length);
			count++;
		}
		at += 8 + ((length & 0x3fffffff) + 7 & ~7u);
		__atomic_store_n(consumed, at, __ATOMIC_RELEASE);
	}
	return count;
}
"""


class StoredRing:
    """A full ring of ``count`` records in a memory file; :meth:`refill` makes it full again."""

    def __init__(self, calls: Records) -> None:
        self.fd = os.memfd_create("ring")
        os.truncate(self.fd, 2 * PAGE + 2 * RING_BYTES)
        self.memory = mmap.mmap(self.fd, 0)
        self.count = RING_BYTES // SLOT.itemsize
        slots = np.frombuffer(self.memory, SLOT, self.count, 2 * PAGE)
        slots["length"] = RECORD.itemsize
        slots["record"] = np.resize(calls, self.count)
        self._positions = np.frombuffer(self.memory, "<u8", PAGE // 8 + 1)
        self._positions[PAGE // 8] = self.count * SLOT.itemsize

    def refill(self) -> None:
        """Put the consumer's position back to the beginning."""
        self._positions[0] = 0


def recorded_calls(trace: Path) -> Records:
    """The calls of a trace as the probes' records, shape (n,)."""
    columns = pq.read_table(trace)
    calls = np.zeros(columns.num_rows, RECORD)
    for name, column in {"ts": "ts_ns", "dur": "dur_ns"}.items():
        calls[name] = columns[column].to_numpy()
    for name in ("key", "handle", "size", "ret", "tid", "cpu", "pool", "cgroup"):
        calls[name] = columns[name].fill_null(0).to_numpy()
    code = {op: number for number, op in enumerate(OPS)}
    calls["op"] = [code[op] for op in columns["op"].to_pylist()]
    calls["has"] = 7
    return calls


def event_class() -> type[ctypes.Structure]:
    """struct record of the probes as the class that bcc would make of it."""
    types: dict[str, type[Any]] = {
        "<u8": ctypes.c_ulonglong,
        "<u4": ctypes.c_uint,
        "<i4": ctypes.c_int,
        "<u2": ctypes.c_ushort,
        "|u1": ctypes.c_ubyte,
    }
    fields = []
    for name in RECORD.names or ():
        base, shape = (RECORD[name].subdtype or (RECORD[name], ()))[:2]
        kind = types[base.str]
        fields.append((name, kind * shape[0] if shape else kind))
    return type("Event", (ctypes.Structure,), {"_fields_": fields})


def bcc_callback(user: Callable[[Any], None]) -> Any:
    """The C-callable that bcc makes for a user's function of one event."""
    load_bcc()
    ring = import_module("bcc.table").RingBuf
    events = ring.__new__(ring)  # without a map
    events.map_fd, events._cbs, events._event_class = -1, {}, event_class()
    events.bpf = SimpleNamespace(_open_ring_buffer=lambda fd, callback, context: None)
    events.open_ring_buffer(lambda context, data, size: user(events.event(data)))
    return events._cbs[0]


def compile_loop(folder: Path) -> Callable[[int, Any], int]:
    """``consume(address of the ring, callback)``, which returns how many records it passed."""
    library = folder / "loop.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-w", "-xc", "-", "-o", str(library)]
    try:
        subprocess.run(command, input=LOOP, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise TracerError(f"gcc: {error}; as root: apt install gcc libc6-dev") from error
    consume = ctypes.CDLL(str(library)).consume
    consume.restype = ctypes.c_long
    consume.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p]
    return lambda address, callback: int(
        consume(address, RING_BYTES - 1, PAGE, ctypes.cast(callback, ctypes.c_void_p))
    )


def measure(trace: Path, rounds: int, folder: Path) -> dict[str, float]:
    """Events a second of each way, the median of ``rounds`` interleaved runs."""
    stored = StoredRing(recorded_calls(trace))
    ring = Ring(stored.fd, RING_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(stored.memory))
    consume = compile_loop(folder)
    kept: list[tuple[Any, ...]] = []

    def keep(event: Any) -> None:
        kept.append(
            (
                *(event.ts, event.key, event.handle, event.aux, event.place, event.cgroup),
                *(event.dur, event.lock, event.size, event.ret, event.tid, event.cpu),
                *(event.pool, event.op, event.has),
            )
        )

    def bulk() -> int:
        return len(ring.take())

    def bulk_and_spool() -> int:
        records = ring.take()
        writer = SpoolWriter(folder / "spool")
        writer.records(records)
        writer.close()
        (folder / "spool").unlink()
        return len(records)

    to_tuples, unread = bcc_callback(keep), bcc_callback(lambda event: None)
    ways: dict[str, Callable[[], int]] = {
        "ring to array": bulk,
        "ring to array to spool": bulk_and_spool,
        "bcc, fields to a tuple": lambda: consume(address, to_tuples),
        "bcc, fields not read": lambda: consume(address, unread),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            stored.refill()
            kept.clear()
            began = time.perf_counter()
            count = way()
            took[name].append(time.perf_counter() - began)
            if count != stored.count:
                raise TracerError(f"{name}: {count} of {stored.count} events came out")
    return {name: stored.count / statistics.median(times) for name, times in took.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Events a second out of a ring buffer, in bulk and one callback each."
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trace", type=Path, help="whose calls to use (a bundled recording)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sample = files("ztrace.traces").joinpath("samples/ztree-6.1-1cpu.parquet")
    try:
        with as_file(sample) as bundled, tempfile.TemporaryDirectory() as folder:
            rates = measure(options.trace or bundled, options.rounds, Path(folder))
    except (TracerError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    slow = rates["bcc, fields to a tuple"]
    if options.json:
        print(json.dumps({name: {"per_s": r, "ratio": r / slow} for name, r in rates.items()}))
        return
    rows = [[name, f"{rate:,.0f}", f"{rate / slow:.1f}"] for name, rate in rates.items()]
    Console(width=80).print(table(["way", "events/s", "ratio"], rows))


if __name__ == "__main__":
    main()
