# SPDX-License-Identifier: GPL-2.0-only
"""Compile the probes, attach them, read their maps; detach them whatever happens."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.tracer import machine
from ztrace.tracer.abi import (
    LIST_CALLS,
    LISTS,
    ZSWAP_HEADER_BYTES,
    Abi,
    Lack,
    Probe,
    examine_kernel,
)
from ztrace.tracer.bpf_stats import ProgramRuns, collect_run_times, mean_cost_ns, program_runs
from ztrace.tracer.call_sites import CallSites
from ztrace.tracer.errors import TracerError
from ztrace.tracer.filters import Filters
from ztrace.tracer.histogram import BUCKETS, SIZE_BUCKETS, Counts
from ztrace.tracer.ring import FAILED, KINDS, Records, Ring
from ztrace.tracer.spool import CAUSES
from ztrace.tracer.symbols import running_symbols
from ztrace.tracer.system_bcc import load_bcc

REQUIRED = frozenset({"malloc", "free"})
"""Ops without which a recording of the allocator says nothing."""

_ON_LISTS = tuple(f"__{probe.symbol}".encode() for probe in LISTS)

# struct pool of probes/zswap.c.
POOL = np.dtype([("type", "S16"), ("created", "<u4"), ("evictable", "<u4"), ("count_at", "<u8")])


@dataclass(frozen=True)
class SeenPool:
    """A zpool that the probes met. ``header_bytes``: what zswap adds to each object's size."""

    allocator: str
    created: bool
    header_bytes: int


@dataclass(frozen=True)
class Attached:
    """A probed function and how: ``fentry`` (with fexit) or ``kprobe`` (with kretprobe).

    ``name``: the kernel's own of the function.
    """

    probe: Probe
    kind: str
    name: str


def best_kinds() -> tuple[str, ...]:
    """Kinds of probes that lose nothing here, the cheapest first.

    The kernel does not run a trampoline's program while it already runs on that CPU. Where a
    task can be preempted in it, calls of the next task are then missed; a kprobe's program
    cannot be preempted.
    """
    return ("kprobe",) if machine.kernel_preempts() else ("fentry", "kprobe")


def with_kinds(
    probes: Iterable[Probe],
    typed: frozenset[str],
    kinds: Sequence[str],
    names: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Attached]:
    """Give each probe the first of ``kinds`` that its function allows.

    ``names``: the kernel's own of functions, where they are not those of the source.
    """
    for probe in probes:
        possible = ("kprobe", "fentry") if probe.symbol in typed else ("kprobe",)
        kind = next((kind for kind in kinds if kind in possible), None)
        if kind is None:
            raise TracerError(
                f"{probe.symbol}: no type information here, so no fentry; use --probe kprobe"
            )
        yield Attached(probe, kind, names.get(probe.symbol, probe.symbol))


def program_lines(attached: Iterable[Attached], handlers: Iterable[str] = ()) -> Iterator[str]:
    """The lines of C that make programs of the handlers, each once; ``handlers``: of kprobes."""
    made = set(handlers)
    yield from (f"KPROBE({handler})" for handler in sorted(made))
    for one in attached:
        # The return first: trampolines are attached in this order.
        for handler, trampoline in ((one.probe.exit, "FEXIT"), (one.probe.enter, "FENTRY")):
            if handler is None:
                continue
            if one.kind == "fentry":
                yield f"{trampoline}({one.probe.symbol}, {handler})"
            elif handler not in made:
                made.add(handler)
                yield f"KPROBE({handler})"


def _no_allocator(source: str, missing: Iterable[Lack]) -> str:
    """Why an allocator's calls cannot be recorded."""
    there = [str(lack) for lack in missing if lack.exists and lack.probe.op in REQUIRED]
    why = "; ".join(there) or "a module that is not loaded?"
    return (
        f"this kernel has no functions of {source}'s allocator to probe ({why}); "
        "ztrace doctor says more"
    )


@dataclass(frozen=True)
class Site:
    """A call in a kernel function, so many bytes from its beginning, and the handler put on it."""

    function: str
    offset: int
    handler: str


def _list_sites() -> Iterator[Site]:
    """Where the allocator puts pages on its lists, or takes them off. TracerError if not found."""
    places = CallSites()
    for caller, callee, handler in LIST_CALLS:
        for offset in places.offsets(caller, callee):
            yield Site(caller, offset, handler)


def _refuse_unseen_lists(abi: Abi, kinds: Sequence[str]) -> None:
    """TracerError where what is done to the allocator's lists cannot be seen."""
    if "Z3FOLD_LISTS" not in abi.defines:
        raise TracerError("--lists: there is no z3fold here; load it, or record without --lists")
    if "fentry" not in kinds or not {probe.symbol for probe in LISTS} <= abi.typed:
        raise TracerError("--lists needs fentry, which cannot be had here; record without --lists")


def _load(
    bcc: Any, chosen: Sequence[Attached], defines: Mapping[str, int], sites: Iterable[Site]
) -> Any:
    """Compile the probes' programs, and attach those of trampolines. Nothing stays if it fails."""
    text = files("ztrace.tracer").joinpath("probes/zswap.c").read_text()
    bpf = bcc.BPF.__new__(bcc.BPF)  # by its name before it is made: what it attached can be undone
    try:
        bpf.__init__(
            text=text + "\n".join(program_lines(chosen, (site.handler for site in sites))),
            # -w: the kernel's own headers warn under a clang that is not theirs.
            cflags=["-w", *(f"-D{name}={value}" for name, value in defines.items())],
        )
    except BaseException:
        with suppress(Exception):
            bpf.cleanup()
        raise
    return bpf


class Probing:
    """Attached probes. Use as a context manager: they are gone when the block is left."""

    def __init__(
        self,
        ring_bytes: int,
        source: str = "zswap",
        kinds: Sequence[str] | None = None,
        filters: Filters | None = None,
        *,
        histogram: bool = False,
    ) -> None:
        """Compile and attach, with the gate shut: nothing is recorded before :meth:`open_gate`.

        ``ring_bytes`` is a power of two and a multiple of the page size, ``source`` one of
        ``abi.SOURCES``, ``kinds`` the kinds of probes to use, in order of preference; None is
        :func:`best_kinds`. With ``histogram`` there is no ring, only :meth:`histograms`.
        TracerError if the kernel has not what it takes.
        """
        filters = filters or Filters()
        self._ring: Ring | None = None
        self._timing: int | None = None
        abi = examine_kernel(running_symbols(), source)
        self.without = list(abi.missing)
        self.notes = abi.notes
        if not {probe.op for probe in abi.probes} >= REQUIRED:
            raise TracerError(_no_allocator(source, abi.missing))
        if filters.lists:
            _refuse_unseen_lists(abi, kinds or best_kinds())
        bcc = load_bcc()
        typed = abi.typed if bcc.BPF.support_kfunc() else frozenset()
        wanted = [probe for probe in abi.probes if filters.attaches(probe, histogram=histogram)]
        defines = {
            **abi.defines,
            "RING_PAGES": ring_bytes // mmap.PAGESIZE,
            "CPUS": machine.possible_cpus(),
            "PAGE_BYTES": mmap.PAGESIZE,
            **filters.defines(source, machine.machine()["memory_bytes"]),
            **({"HISTOGRAM": 1} if histogram else {}),
        }
        sites = list(_list_sites()) if filters.lists else []
        chosen = list(with_kinds(wanted, typed, kinds or best_kinds(), abi.names))
        # A kernel may refuse one function's trampoline; kprobes need less of it.
        simple = list(with_kinds(wanted, frozenset(), ("kprobe",), abi.names))
        try:
            try:
                self._bpf: Any = _load(bcc, chosen, defines, sites)
            except Exception:
                if kinds is not None or chosen == simple or filters.lists:
                    raise
                chosen = simple
                self._bpf = _load(bcc, chosen, defines, sites)
        except Exception as error:
            raise TracerError(
                f"the probes do not compile or load here ({error}); ztrace doctor says more"
            ) from error
        for number, group in enumerate(filters.cgroups):
            self._bpf["groups"][number] = str(group)
        self.attached: list[Attached] = []
        try:
            for one in chosen:
                self._attach_or_do_without(one)
            for site in sites:
                self._bpf.attach_kprobe(
                    event=site.function, event_off=site.offset, fn_name=f"kprobe_{site.handler}"
                )
        except BaseException:
            self.close()
            raise
        self.missing = [
            lack
            for lack in self.without
            if lack.matters and filters.attaches(lack.probe, histogram=histogram)
        ]
        if not histogram:
            self._ring = Ring(self._bpf["events"].map_fd, ring_bytes)
        self._skipped_before: dict[str, int] = {}
        self._timed_before: dict[int, ProgramRuns] = {}
        self._gate = self._mapped("gate", np.dtype("<u8"))
        self._lost = self._mapped("lost", np.dtype("<u8"))
        self._left_out = self._mapped("left_out", np.dtype("<u8")) if filters.by_object else None
        self._histograms = (
            [self._mapped(name, np.dtype("<u8")) for name in ("durations", "sizes")]
            if histogram
            else []
        )
        self._pools = self._mapped("pools", POOL)
        self._pool_count = self._mapped("pool_count", np.dtype("<u8"))

    def _mapped(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A map of the probes as an array; it stays valid as long as it is held."""
        table = self._bpf[name]
        memory = mmap.mmap(table.map_fd, table.max_entries * dtype.itemsize)
        return np.frombuffer(memory, dtype, table.max_entries)

    def _attach_or_do_without(self, one: Attached) -> None:
        """Put a probe on; where that fails, note what is missing. TracerError if it is needed."""
        probe = one.probe
        try:
            self._attach(one)
        except Exception as error:
            if probe.op in REQUIRED:
                raise TracerError(f"cannot probe {one.name}: {error}") from error
            # Returns alone would look like calls whose entry was missed.
            with suppress(Exception):
                self._bpf.detach_kretprobe(one.name)
            self.without.append(Lack(probe, f"the kernel refused it ({error})", exists=True))
        else:
            self.attached.append(one)

    def _attach(self, one: Attached) -> None:
        """Put kprobes on a function, the return first: a frame opened can be closed.

        Without a number of instances (maxactive): bcc would then go through tracefs, where
        probes outlive a recorder that is killed. Returns missed for want of one are counted.
        """
        if one.kind != "kprobe":
            return
        probe = one.probe
        if probe.exit:
            self._bpf.attach_kretprobe(event=one.name, fn_name=f"kprobe_{probe.exit}")
        if probe.enter:
            self._bpf.attach_kprobe(event=one.name, fn_name=f"kprobe_{probe.enter}")

    def open_gate(self, is_open: bool = True) -> None:
        """Start (or stop) all probes at one instant. Calls entered before are not recorded."""
        if is_open:
            self._skipped_before = self._skipped()
            self._timing = collect_run_times()
            self._timed_before = {fd: program_runs(fd) for _, _, fd in self._programs()}
        self._gate[0] = is_open

    def _programs(self) -> Iterator[tuple[str, str, int]]:
        """Op, side and descriptor of the programs on calls that make rows."""
        for one in self.attached:
            probe, op = one.probe, one.probe.op
            for side, handler, trampoline in (
                ("entry", probe.enter, "kfunc"),
                ("return", probe.exit, "kretfunc"),
            ):
                if op and handler:
                    traced = one.kind == "fentry"
                    name = f"{trampoline}__{probe.symbol}" if traced else f"kprobe_{handler}"
                    yield op, side, self._bpf.funcs[name.encode()].fd

    def stop_timing(self) -> None:
        """Stop the timing of programs, which itself costs a little. Once is enough."""
        if self._timing is not None:
            os.close(self._timing)
            self._timing = None

    def cost_ns(self) -> dict[str, float]:
        """Mean time in the programs on a call's entry and return while timed: op -> ns.

        Without what the kernel needs to reach them. Ops not called meanwhile are left out.
        """
        return mean_cost_ns(
            (op, side, program_runs(fd).since(self._timed_before[fd]))
            for op, side, fd in self._programs()
        )

    def lost(self) -> dict[str, dict[str, int]]:
        """Events lost so far: cause -> CPU -> count, zeros left out.

        What the kernel itself counts it does not count by CPU: that is under ``all``.
        """
        found: dict[str, dict[str, int]] = {}
        by_cpu = self._lost.reshape(len(CAUSES), KINDS, -1).sum(axis=1)
        for cause, per_cpu in zip(CAUSES, by_cpu, strict=True):
            counts = {str(cpu): int(count) for cpu, count in enumerate(per_cpu) if count}
            if counts:
                found[cause] = counts
        for cause, now in self._skipped().items():
            count = now - self._skipped_before.get(cause, 0)
            if count:
                found.setdefault(cause, {})["all"] = count
        return found

    def lost_by_op(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Events lost by op code, shape (FAILED,) each: known to have succeeded; unknown.

        Those known to have failed are in neither. What the kernel skipped is not known by op.
        """
        by_kind = self._lost.reshape(len(CAUSES), KINDS, -1).sum(axis=2).astype(np.int64)
        ring_full = by_kind[CAUSES.index("ring_full"), :FAILED]
        return ring_full, by_kind[:, :FAILED].sum(axis=0) - ring_full

    def left_out(self) -> Counts:
        """Calls that the filters left out so far, by kind; shape (KINDS,)."""
        if self._left_out is None:
            return np.zeros(KINDS, np.int64)
        counts: Counts = self._left_out.reshape(KINDS, -1).sum(axis=1).astype(np.int64)
        return counts

    def histograms(self) -> tuple[Counts, Counts]:
        """Counts of durations, shape (KINDS, BUCKETS), and of sizes, (SIZE_BUCKETS,), so far."""
        durations, sizes = self._histograms
        return (
            durations.reshape(KINDS, BUCKETS, -1).sum(axis=2).astype(np.int64),
            sizes.reshape(SIZE_BUCKETS, -1).sum(axis=1).astype(np.int64),
        )

    def take(self) -> Records:
        """What is in the ring (tracer/ring.py)."""
        assert self._ring is not None
        return self._ring.take()

    def _skipped(self) -> dict[str, int]:
        """Runs of programs that the kernel skipped, by cause, since they were attached.

        A trampoline's program is skipped while it already runs on that CPU: the task in it was
        preempted. A kprobe's is while any other kprobe's program runs there; of those the
        probes notice a missing return themselves.

        Not counted are those of LISTS: what they miss is an interrupt's lock, of whatever, that is
        tried while they run. z3fold tries its pages' locks where no other task can run.
        """
        found = {"missed_entry": 0, "missed_return": 0}
        for name, function in self._bpf.funcs.items():
            if name.endswith(_ON_LISTS):
                continue
            if name.startswith(b"kretfunc__"):
                found["missed_return"] += program_runs(function.fd).missed
            elif name.startswith((b"kfunc__", b"kprobe_enter_")):
                found["missed_entry"] += program_runs(function.fd).missed
        return found

    def unfinished(self) -> int:
        """Calls entered and not returned. Only with the gate shut."""
        return sum(int(stack.depth) for stack in self._bpf["stacks"].values())

    def pools(self) -> list[SeenPool]:
        """Pools in the order of the numbers that records carry."""
        count = min(int(self._pool_count[0]), len(self._pools))
        return [
            SeenPool(
                pool["type"].decode(errors="replace"),
                bool(pool["created"]),
                ZSWAP_HEADER_BYTES if pool["evictable"] else 0,
            )
            for pool in self._pools[:count].copy()
        ]

    def close(self) -> None:
        """Detach everything: entries first, so that no frame is opened that cannot be closed."""
        if self._ring is not None:
            self._ring.close()
        self.stop_timing()
        self._bpf.cleanup()

    def __enter__(self) -> Probing:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
