# SPDX-License-Identifier: GPL-2.0-only
"""Compile the probes, attach them, read their maps; detach them whatever happens."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from importlib.resources import files
from types import TracebackType
from typing import Any

from tracer.abi import ZSWAP_HEADER_BYTES, Probe, examine_kernel, traceable_functions
from tracer.errors import TracerError
from tracer.ring import Ring
from tracer.spool import CAUSES
from tracer.system_bcc import load_bcc


@dataclass(frozen=True)
class SeenPool:
    """A zpool that the probes met. ``header_bytes``: what zswap adds to each object's size."""

    allocator: str
    created: bool
    header_bytes: int


class Probing:
    """Attached probes. Use as a context manager: they are gone when the block is left."""

    def __init__(self, ring_bytes: int) -> None:
        """Compile and attach, with the gate shut: nothing is recorded before :meth:`open_gate`.

        ``ring_bytes`` is a power of two and a multiple of the page size. TracerError if the
        kernel has not what it takes.
        """
        abi = examine_kernel(traceable_functions())
        self.missing = [probe for probe in abi.missing if probe.essential]
        if not {"malloc", "free"} <= {probe.op for probe in abi.probes}:
            raise TracerError(
                "this kernel has neither zpool nor zsmalloc functions to probe; "
                "ztrace doctor says more"
            )
        bcc = load_bcc()
        text = files("tracer").joinpath("probes/zswap.c").read_text()
        defines = {**abi.defines, "RING_PAGES": ring_bytes // mmap.PAGESIZE}
        if any(probe.symbol == "zpool_malloc" for probe in abi.probes):
            defines["HAVE_ZPOOL"] = 1
        try:
            self._bpf: Any = bcc.BPF(
                text=text,
                # -w: the kernel's own headers warn under a clang that is not theirs.
                cflags=["-w", *(f"-D{name}={value}" for name, value in defines.items())],
            )
        except Exception as error:
            raise TracerError(
                f"the probes do not compile or load here ({error}); ztrace doctor says more"
            ) from error
        self.probes: list[Probe] = []
        try:
            for probe in abi.probes:
                self._attach(probe)
        except Exception as error:
            self.close()
            raise TracerError(f"cannot probe {probe.symbol}: {error}") from error
        self.ring = Ring(self._bpf["events"].map_fd, ring_bytes)

    def _attach(self, probe: Probe) -> None:
        """Put both probes on a function, the return first: a frame opened can be closed.

        Without a number of instances (maxactive): bcc would then go through tracefs, where
        probes outlive a recorder that is killed. Returns missed for want of one are counted.
        """
        if probe.exit:
            self._bpf.attach_kretprobe(event=probe.symbol, fn_name=probe.exit)
        if probe.enter:
            self._bpf.attach_kprobe(event=probe.symbol, fn_name=probe.enter)
        self.probes.append(probe)

    def open_gate(self, is_open: bool = True) -> None:
        """Start (or stop) all probes at one instant. Calls entered before are not recorded."""
        self._bpf["gate"][ctypes.c_int(0)] = ctypes.c_uint(is_open)

    def lost(self) -> dict[str, dict[str, int]]:
        """Events lost so far: cause -> CPU -> count, zeros left out."""
        table = self._bpf["lost"]
        found: dict[str, dict[str, int]] = {}
        for number, cause in enumerate(CAUSES):
            per_cpu = table[ctypes.c_int(number)]
            counts = {str(cpu): int(count) for cpu, count in enumerate(per_cpu) if count}
            if counts:
                found[cause] = counts
        return found

    def pools(self) -> list[SeenPool]:
        """Pools in the order of the numbers that records carry."""
        count = int(self._bpf["pool_count"][ctypes.c_int(0)].value)
        table = self._bpf["pools"]
        return [
            SeenPool(
                pool.type.decode(errors="replace"),
                bool(pool.created),
                ZSWAP_HEADER_BYTES if pool.evictable else 0,
            )
            for pool in (table[ctypes.c_int(number)] for number in range(min(count, len(table))))
        ]

    def close(self) -> None:
        """Detach everything: entries first, so that no frame is opened that cannot be closed."""
        ring = getattr(self, "ring", None)
        if ring is not None:
            ring.close()
        self._bpf.cleanup()

    def __enter__(self) -> Probing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
