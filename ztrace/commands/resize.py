# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace resize``: a trace as another compressor would have made it."""

from __future__ import annotations

from pathlib import Path

import click

from ztrace.console import console, count_text, pairs, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.present.synthesized import pages_text
from ztrace.synthetic import take_pages
from ztrace.traces.compressors import COMPRESSORS
from ztrace.traces.reader import TraceReader
from ztrace.traces.resizing import learned, resize, scaled


@click.command(
    "resize",
    cls=Command,
    epilog="Example: ztrace resize trace.parquet --compressor zstd --from-files /usr/lib "
    "-o zstd.parquet",
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--scale", type=float, metavar="FACTOR", help="Multiply every compressed size.")
@click.option(
    "--compressor",
    type=click.Choice(COMPRESSORS),
    help="Sizes that this one gives, learned from the pages of --from-files.",
)
@click.option(
    "--from-files",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Files whose pages tell what one compressor makes of what another one made small.",
)
@click.option(
    "--recorded",
    type=click.Choice(COMPRESSORS),
    help="The recorded compressor, if the trace's is none of these (lzo for lzo-rle).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all draws.")
@click.option("-o", "--output", type=OUTPUT, required=True, help="The trace to write.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def command(
    trace: Path,
    scale: float | None,
    compressor: str | None,
    folder: Path | None,
    recorded: str | None,
    seed: int,
    output: Path,
    force: bool,
) -> int:
    """Write TRACE with the sizes of another compressor; all else stays.

    With --compressor each object gets what that one makes of a real page which the recorded
    compressor brings to about the object's size.
    """
    if (scale is None) == (compressor is None) or (compressor is None) != (folder is None):
        raise click.UsageError("give --scale, or --compressor with --from-files")
    shown = [("trace", str(output))]
    with TraceReader(trace) as reader:
        if compressor is None or folder is None:
            assert scale is not None
            new_sizes, note = scaled(scale), f"sizes times {scale:g}"
        else:
            known = recorded or _recorded(reader)
            if compressor == known:
                raise click.UsageError(f"--compressor {compressor}: the trace is of that one")
            page_bytes = reader.metadata.machine.page_bytes or 4096
            pages = take_pages(folder, [known, compressor], page_bytes, seed)
            new_sizes = learned(pages, seed)
            note = f"sizes as of {compressor}, learned from pages compressed by {known}"
            shown.append(("pages", pages_text(pages)))
        with progress(trace.name, reader.num_rows) as advance:
            changed = resize(
                *(reader, output, new_sizes),
                compressor=compressor,
                note=note,
                force=force,
                advance=advance,
            )
    console().print(pairs([*shown, ("objects", f"{count_text(changed)} of other sizes")]))
    return 0


def _recorded(reader: TraceReader) -> str:
    """The compressor of the trace's pools."""
    names = {pool.compressor for pool in reader.metadata.pools}
    if len(names) != 1 or not names <= set(COMPRESSORS):
        raise click.UsageError(
            f"recorded with {', '.join(sorted(names))}; name one that is known with --recorded"
        )
    return names.pop()
