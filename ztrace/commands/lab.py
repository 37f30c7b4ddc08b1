# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace lab``: real kernels in QEMU, recorded."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tracer.lab.debian import KERNELS
from tracer.lab.qemu import GuestSize
from tracer.lab.session import BACKENDS, Setup, record_in_guest
from tracer.lab.workloads import WORKLOADS
from ztrace.commands.lab_matrix import matrix

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
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The trace.")
@click.option("--cpus", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--memory", type=click.IntRange(512), default=700, show_default=True, help="MiB.")
@click.option("--compressor", default="lzo", show_default=True)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def run(
    kernel: str,
    backend: str,
    workload: str,
    patch: Path | None,
    output: Path,
    cpus: int,
    memory: int,
    compressor: str,
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

    setup = Setup(kernel, backend, workload, patch, compressor, GuestSize(cpus, memory))
    record_in_guest(setup, output, watch=watch)
    click.echo(f"{output}: recorded. Next: ztrace replay {output} --backend {backend}")


command.add_command(matrix)
