# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace kmod``: the posted allocator as a module."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace.allocator import create
from ztrace.allocator.table import c_initialiser, read_table
from ztrace.outputs import OUTPUT, Group
from ztrace.streams import show
from ztrace.tracer.kmod import build_module, running_headers


def in_c(path: Path | None) -> str | None:
    """A file of a block table as a C initialiser; BackendError if it is none of ztree's."""
    if path is None:
        return None
    create(f"ztree:table={path}")  # knows what is impossible
    return c_initialiser(read_table(path))


@click.group(cls=Group, epilog="Example: ztrace kmod build --patch ztree.mbox")
def command() -> None:
    """Build the posted ztree as a kernel module."""


@command.command(epilog="Example: ztrace kmod build --patch ztree.mbox -o modules/")
@click.option(
    "--patch",
    type=click.Path(path_type=Path),
    required=True,
    help="The mail, its diff, or the .c file.",
)
@click.option(
    "--headers",
    type=click.Path(path_type=Path),
    help="The kernel's build folder; the running kernel's if not given.",
)
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    default=Path(),
    help="Folder for the .ko; the current one if not given.",
)
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    help="Build with this block table of ztrace tune instead of the posted one.",
)
def build(patch: Path, headers: Path | None, output: Path, table: Path | None) -> None:
    """Compile PATCH against a kernel's headers and say where the module is."""
    module = build_module(patch, headers or running_headers(), output, table=in_c(table))
    show(f"{module}: built; load it with: insmod {module}")
