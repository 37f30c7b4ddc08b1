# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace lab matrix``: what the lab has, recorded and validated."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ztrace.console import console, print_json, progress
from ztrace.matrix import record_matrix, wanted_cells
from ztrace.outputs import Command
from ztrace.present.matrix import show_cells
from ztrace.tracer.lab.debian import KERNELS
from ztrace.tracer.lab.workloads import WORKLOADS


@click.command(
    cls=Command, epilog="Example: ztrace lab matrix --kernel 6.12 --kernel 7.2 --workload bursts"
)
@click.option(
    "--kernel",
    "kernels",
    type=click.Choice(list(KERNELS)),
    multiple=True,
    help="Only this kernel; may be repeated.",
)
@click.option(
    "--workload", type=click.Choice(list(WORKLOADS)), default="known23", show_default=True
)
@click.option("--patch", type=click.Path(path_type=Path), help="The posted mail, for ztree, too.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the traces in this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def matrix(
    kernels: tuple[str, ...], workload: str, patch: Path | None, keep: Path | None, as_json: bool
) -> int:
    """Record every kernel with every allocator below zswap and with zram; validate all.

    Each kernel is booted once. Exit 1 if a cell fails: an event was lost, the kernel counted
    otherwise, a model does not agree, or there is no recording.
    """
    wanted = wanted_cells(kernels, with_out_of_tree=patch is not None)
    with progress("cells", sum(map(len, wanted))) as advance:
        done = record_matrix(wanted, workload, patch, keep, advance)
    good = all(one.good for one in done)
    if as_json:
        shown = [asdict(one) | {"agrees": one.good} for one in done]
        print_json({"workload": workload, "agrees": good, "cells": shown})
    else:
        show_cells(console(), done)
    return 0 if good else 1
