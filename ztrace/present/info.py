# SPDX-License-Identifier: GPL-2.0-only
"""What a trace says about itself, for the console."""

from __future__ import annotations

import shlex

from rich.console import Console

from ztrace.console import (
    bytes_text,
    count_text,
    lost_lines,
    ns_text,
    pairs,
    table,
)
from ztrace.text import counted
from ztrace.traces.metadata import Metadata


def show_info(out: Console, trace: str, rows: int, size: int, metadata: Metadata) -> None:
    """Print a trace's metadata, its size in bytes and how many events it lost."""
    density = f", {size / rows:.2f} bytes/row" if rows else ""
    held = f"{count_text(rows)} in {bytes_text(size)}{density}"
    out.print(pairs([("file", trace), ("rows", held), *_facts(metadata)]))
    _tables(out, metadata)
    for note in metadata.notes:
        if note not in metadata.unprobed():
            out.print(pairs([("note", note)]))
    for line in lost_lines(metadata):
        out.print(line)


def _facts(metadata: Metadata) -> list[tuple[str, str]]:
    """Name and value of what is one line; what was never recorded is left out."""
    kernel, machine = metadata.kernel, metadata.machine
    cpus = counted(machine.cpus, "CPU") if machine.cpus else "unknown CPUs"
    memory = bytes_text(machine.memory_bytes) if machine.memory_bytes else "unknown"
    facts = [
        ("written by", f"{metadata.tool}, schema {metadata.schema}"),
        ("source", metadata.source),
        ("kernel", kernel.release),
        ("build", kernel.version),
        ("config", kernel.config_sha256 or "unknown"),
        ("cpu", f"{machine.cpu_model}, {cpus}, {machine.arch}"),
        ("memory", f"{memory}, pages of {bytes_text(machine.page_bytes)}"),
        ("started", metadata.started_utc or "unknown"),
        ("duration", ns_text(metadata.duration_ns)),
        ("clock", metadata.clock),
        ("row order", metadata.order),
    ]
    if metadata.command:
        facts.append(("command", shlex.join(metadata.command)))
    facts += [("filter", f"{name} {value}") for name, value in metadata.filters.items()]
    facts += [("sampling", f"{name} {value:g}") for name, value in metadata.sampling.items()]
    pieces = metadata.pieces
    if not pieces.is_all:
        held = str(pieces.first) if pieces.first == pieces.last else f"{pieces.first}-{pieces.last}"
        begins = "; begins with what was stored before" if pieces.first else ""
        end = "; more follow" if pieces.more else "; the last"
        facts.append(("piece", f"{held} of a recording that rotated{begins}{end}"))
    return facts


def _tables(out: Console, metadata: Metadata) -> None:
    """Print pools, probes, parameters and counters, those that there are."""
    if metadata.pools:
        rows = [
            [
                str(i),
                p.allocator,
                p.compressor,
                _yes(p.empty_at_start),
                _yes(p.created_in_recording),
            ]
            for i, p in enumerate(metadata.pools)
        ]
        headers = ["pool", "allocator", "compressor", "starts empty", "created while recording"]
        out.print()
        out.print(table(headers, rows, texts=5))
    if metadata.probes:
        cost = metadata.probe_cost_ns or {}
        rows = [
            [op, p.kind, p.symbol, ns_text(cost[op]) if op in cost else "-"]
            for op, p in metadata.probes.items()
        ]
        out.print()
        out.print(table(["op", "probe", "symbol", "cost"], rows, texts=3))
    if metadata.parameters:
        rows = [list(item) for item in metadata.parameters.items()]
        out.print()
        out.print(table(["parameter", "value"], rows, texts=2))
    start, end = metadata.counters.start, metadata.counters.end
    if start or end:
        rows = [
            [name, *(count_text(c[name]) if name in c else "-" for c in (start, end))]
            for name in {**start, **end}
        ]
        out.print()
        out.print(table(["counter", "at start", "at end"], rows))
    if metadata.counters.check:
        rows = [
            [
                one.counter,
                count_text(one.recorded),
                count_text(one.left_out),
                count_text(one.lost) + (f"+{one.perhaps_lost:,}?" if one.perhaps_lost else ""),
                _range(one.kernel_least, one.kernel_most),
                _yes(one.agrees),
            ]
            for one in metadata.counters.check
        ]
        out.print()
        out.print(
            table(["check", "recorded", "left out", "lost", "kernel counted", "agrees"], rows)
        )
    out.print()


def _range(least: int, most: int) -> str:
    return count_text(most) if least == most else f"{count_text(least)}-{count_text(most)}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
