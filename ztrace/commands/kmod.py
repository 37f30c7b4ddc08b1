# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace kmod``: the posted allocator as a module."""

from __future__ import annotations

from pathlib import Path

import click

from tracer.kmod import build_module, running_headers


@click.group(epilog="Example: ztrace kmod build --patch ztree.mbox")
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
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder for the .ko; the current one if not given.",
)
def build(patch: Path, headers: Path | None, output: Path) -> None:
    """Compile PATCH against a kernel's headers and say where the module is."""
    module = build_module(patch, headers or running_headers(), output)
    click.echo(f"{module}: built; load it with: insmod {module}")
