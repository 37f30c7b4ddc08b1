# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace recover``: the trace from the spool of a recorder that died."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace.outputs import OUTPUT, Command
from ztrace.spooled import finish


@click.command(cls=Command, epilog="Example: ztrace recover trace.parquet.spool -o trace.parquet")
@click.argument("spool", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=OUTPUT, required=True, help="The trace.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(spool: Path, output: Path, force: bool) -> None:
    """Turn SPOOL, left by a recorder that was killed, into a trace; SPOOL is then removed."""
    finish(spool, output, force)
