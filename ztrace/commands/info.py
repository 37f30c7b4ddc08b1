# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace info``: what a trace says about itself."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace.console import (
    about,
    console,
    print_json,
)
from ztrace.outputs import Command
from ztrace.present.info import show_info
from ztrace.traces.reader import TraceReader


@click.command("info", cls=Command, epilog="Example: ztrace info trace.parquet")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the metadata complete.")
def command(trace: Path, as_json: bool) -> None:
    """Show the metadata of TRACE, its size and how many events were lost."""
    with TraceReader(trace) as reader:
        rows, size, metadata = reader.num_rows, reader.bytes, reader.metadata
    per_row = size / rows if rows else None
    if as_json:
        print_json(
            {
                **about(trace, rows, metadata),
                "bytes": size,
                "bytes_per_row": per_row,
                "metadata": metadata.to_dict(),
            }
        )
        return
    show_info(console(), str(trace), rows, size, metadata)
