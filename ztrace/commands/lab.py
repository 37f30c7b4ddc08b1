# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace lab``: real kernels in QEMU, recorded."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace.commands.kmod import in_c
from ztrace.commands.lab_matrix import matrix
from ztrace.outputs import OUTPUT, Group
from ztrace.replay.play.backends import own_model
from ztrace.streams import show, watch_with_seconds
from ztrace.tracer.lab.debian import KERNELS
from ztrace.tracer.lab.qemu import GuestSize
from ztrace.tracer.lab.session import BACKENDS, Setup, is_out_of_tree, record_in_guest
from ztrace.tracer.lab.study import ALLOCATORS, PROGRAMS, missing, plan
from ztrace.tracer.lab.workloads import WORKLOADS
from ztrace.traces.reader import TraceReader
from ztrace.traces.writer import AtomicFile

NAMES = sorted({name for backends in BACKENDS.values() for name in backends})


@click.group(cls=Group, epilog="Example: ztrace lab list")
def command() -> None:
    """Boot a real kernel in QEMU and record it."""


@command.command("list", epilog="Example: ztrace lab list")
def list_() -> None:
    """Show the kernels, allocators and workloads of the lab."""
    show("kernels and their allocators:")
    width = 2 + max(map(len, (*BACKENDS, *WORKLOADS)))
    for name, backends in BACKENDS.items():
        show(f"  {name:{width}}{', '.join(backends)}")
    show("workloads:")
    for name, workload in WORKLOADS.items():
        show(f"  {name:{width}}{workload.about}")


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
@click.option("-o", "--output", type=OUTPUT, required=True, help="The trace.")
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
@click.option("--lists", is_flag=True, help="Record z3fold's lists, too (ztrace record --lists).")
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
    lists: bool,
    force: bool,
) -> None:
    """Boot a Debian kernel, record a workload in it, bring the trace out.

    The guest's root is this machine's, read-only; nothing is installed or changed on it.
    Kernels are fetched from Debian once and kept in $ZTRACE_CACHE or ~/.cache/ztrace.
    """
    if output.exists() and not force:
        raise click.ClickException(f"{output}: exists; --force replaces it")
    if table is not None and not is_out_of_tree(backend):
        raise click.UsageError("--table is ztree's; leave it out")
    setup = Setup(
        kernel,
        backend,
        workload,
        patch,
        compressor,
        GuestSize(cpus, memory),
        record_options=("--lists",) if lists else (),
        table=in_c(table),
        max_pool_percent=max_pool_percent,
    )
    record_in_guest(setup, output, watch=watch_with_seconds())
    with TraceReader(output) as reader:
        model = own_model(reader.metadata)
    if table is not None:
        model = f"{backend}:table={table}"
    show(f"{output}: recorded. Next: ztrace replay {output} --backend {model}")


command.add_command(matrix)


@command.command(
    "case-study",
    epilog="Example: ztrace lab case-study --patch ztree.mbox --keep recordings -o study.md",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The recordings' folder; those that are there are taken as they are.",
)
@click.option("--patch", type=click.Path(path_type=Path), help="The posted mail, for ztree.")
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    help="Write the study, as Markdown, to this file; else only record.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--program",
    "programs",
    type=click.Choice(PROGRAMS),
    multiple=True,
    help="Only this program; may be repeated.",
)
@click.option(
    "--backend",
    "allocators",
    type=click.Choice(ALLOCATORS),
    multiple=True,
    help="Only this allocator; may be repeated.",
)
def case_study(
    keep: Path,
    patch: Path | None,
    output: Path | None,
    force: bool,
    programs: tuple[str, ...],
    allocators: tuple[str, ...],
) -> None:
    """Record real programs short of memory under every allocator, and say what that shows.

    Redis under redis-benchmark, PostgreSQL under pgbench, a compilation and a JVM run in a small
    cgroup on Linux 6.1 with 2 CPUs, once under each of ztree, zbud, z3fold and zsmalloc; some
    minutes each, and an interrupted study goes on where it was. What the programs are and need
    is in docs/case-study.md in the source.
    """
    if output is not None and output.exists() and not force:
        raise click.ClickException(f"{output}: exists; --force replaces it")
    cases = plan(programs, allocators)
    keep.mkdir(parents=True, exist_ok=True)
    for case in missing(cases, keep):
        show(f"{case.name} ...", err=True)
        record_in_guest(case.setup(patch), case.path(keep), watch=watch_with_seconds())
    if output is not None:
        from ztrace.study import study_of

        with AtomicFile(output, force=force) as file:
            file.write(study_of(cases, keep).encode())
