# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace lab``: real kernels in QEMU, recorded."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tracer.lab.debian import KERNELS
from tracer.lab.matrix import cells
from tracer.lab.qemu import GuestSize
from tracer.lab.session import BACKENDS, Setup, record_in_guest
from tracer.lab.workloads import WORKLOADS
from ztrace.commands.kmod import in_c

NAMES = sorted({name for backends in BACKENDS.values() for name in backends})


@click.group(epilog="Example: ztrace lab list")
def command() -> None:
    """Boot a real kernel in QEMU and record it."""


@command.command("list", epilog="Example: ztrace lab list")
def list_() -> None:
    """Show the kernels, allocators and workloads of the lab."""
    click.echo("kernels and their allocators:")
    for name, backends in BACKENDS.items():
        click.echo(f"  {name:11}{', '.join(backends)}")
    click.echo("workloads:")
    for name, workload in WORKLOADS.items():
        click.echo(f"  {name:11}{workload.about}")


@command.command(
    epilog="Example: ztrace lab run --kernel 6.1 --backend ztree --patch ztree.mbox "
    "--workload churn -o trace.parquet"
)
@click.option("--kernel", type=click.Choice(list(KERNELS)), default="6.1", show_default=True)
@click.option("--backend", type=click.Choice(NAMES), default="ztree", show_default=True)
@click.option("--workload", type=click.Choice(list(WORKLOADS)), required=True)
@click.option("--patch", type=click.Path(path_type=Path), help="The posted mail, for ztree.")
@click.option(
    "--table", type=click.Path(path_type=Path), help="ztree's block table, of ztrace tune."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The trace.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--memory", type=click.IntRange(512), default=700, show_default=True, help="MiB.")
@click.option("--compressor", default="lzo", show_default=True)
@click.option(
    "--max-pool-percent",
    type=click.IntRange(1, 100),
    default=50,
    show_default=True,
    help="zswap's limit, of the guest's memory.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def run(
    kernel: str,
    backend: str,
    workload: str,
    patch: Path | None,
    table: Path | None,
    output: Path,
    cpus: int,
    memory: int,
    compressor: str,
    max_pool_percent: int,
    force: bool,
) -> None:
    """Boot a Debian kernel, record a workload in it, bring the trace out.

    The guest's root is this machine's, read-only; nothing is installed or changed on it.
    Kernels are fetched from Debian once and kept in $ZTRACE_CACHE or ~/.cache/ztrace.
    """
    if output.exists() and not force:
        raise click.ClickException(f"{output}: exists; --force replaces it")
    began = time.monotonic()

    def watch(line: str) -> None:
        click.echo(f"[{time.monotonic() - began:6.1f}] {line}", err=True)

    if table is not None and backend != "ztree":
        raise click.UsageError("--table is ztree's; leave it out")
    setup = Setup(
        kernel,
        backend,
        workload,
        patch,
        compressor,
        GuestSize(cpus, memory),
        table=in_c(table),
        max_pool_percent=max_pool_percent,
    )
    record_in_guest(setup, output, watch=watch)
    if table is not None:
        backend = f"ztree:table={table}"
    click.echo(f"{output}: recorded. Next: ztrace replay {output} --backend {backend}")


@command.command(epilog="Example: ztrace lab matrix --workload known23")
@click.option(
    "--workload", type=click.Choice(list(WORKLOADS)), default="known23", show_default=True
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the traces in this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def matrix(workload: str, keep: Path | None, as_json: bool) -> int:
    """Record every kernel with zswap and with zram, validate each recording.

    Exit 1 if an event was lost, the kernel counted otherwise, or a model does not agree.
    """
    from replay.validate.placement import compare_places
    from traces import TraceReader
    from ztrace.console import console, count_text, print_json, table

    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ztrace-matrix-") as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for cell in cells():
            path = folder / f"{cell.kernel}-{cell.source}.parquet"
            if keep is not None and path.exists():
                raise click.ClickException(f"{path}: exists; give another folder")
            click.echo(f"kernel {cell.kernel}, {cell.source} ...", err=True)
            record_in_guest(Setup(cell.kernel, cell.backend, workload), path)
            with TraceReader(path) as trace:
                metadata = trace.metadata
                placement = compare_places(trace)
            done.append(
                {
                    "kernel": metadata.kernel.release,
                    "source": cell.source,
                    "probes": sorted({probe.kind for probe in metadata.probes.values()}),
                    "rows": trace.num_rows,
                    "calls": sum(pool.calls for pool in placement.pools),
                    "compared": sum(pool.places.compared for pool in placement.pools),
                    "explained": sum(pool.places.equal for pool in placement.pools),
                    "lost": metadata.lost_total(),
                    "counters_agree": all(one.agrees for one in metadata.counters.check),
                    "agrees": placement.agrees,
                }
            )
    good = all(one["agrees"] and one["counters_agree"] and not one["lost"] for one in done)
    if as_json:
        print_json({"workload": workload, "agrees": good, "cells": done})
        return 0 if good else 1
    rows = [
        (
            one["kernel"],
            one["source"],
            "+".join(one["probes"]),
            count_text(one["calls"]),
            f"{count_text(one['explained'])} of {count_text(one['compared'])}",
            count_text(one["lost"]),
            "yes" if one["counters_agree"] else "NO",
        )
        for one in done
    ]
    headers = ("kernel", "source", "probes", "calls", "explained", "lost", "counters")
    console().print(table(headers, rows, texts=3))
    return 0 if good else 1
