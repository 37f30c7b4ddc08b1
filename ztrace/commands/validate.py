# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace validate``: is the model the allocator that ran?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from ztrace.api import validate
from ztrace.console import console, print_json, progress
from ztrace.outputs import OUTPUT, Command
from ztrace.present.validation import show_verdict
from ztrace.replay.validate import Verdict
from ztrace.replay.validate.door import in_core, searches_trees
from ztrace.streams import say
from ztrace.traces import TraceReader

BEGINNINGS = {"trace": None, "empty": True, "late": False}


@click.command(
    "validate", cls=Command, epilog="Example: ztrace validate trace.parquet --order order.parquet"
)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--begins",
    type=click.Choice(list(BEGINNINGS)),
    default="trace",
    show_default=True,
    help="Whether the pools were empty when recording began: as the trace says, or as you do.",
)
@click.option(
    "--order",
    "order_path",
    type=OUTPUT,
    help="Write the order found, for ztrace replay --order.",
)
@click.option(
    "--picture",
    type=OUTPUT,
    metavar="FILE.svg",
    help="Draw the calls around the first one that is refused, if there is any.",
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option(
    "--engine",
    type=click.Choice(["python", "native"]),
    help="Play and search in Python or, the same, in C; native where it was built. What differs, "
    "if anything does, Python says.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--backend",
    metavar="NAME",
    help="Compare with this model instead of the recorded kernel's; of ztree, with the block table "
    "that its module was built with: ztree:table=FILE.",
)
def command(
    trace: Path,
    begins: str,
    order_path: Path | None,
    picture: Path | None,
    force: bool,
    engine: Literal["native", "python"] | None,
    as_json: bool,
    backend: str | None,
) -> int:
    """Search for an order of TRACE's calls in which the model gives the kernel's handles.

    For ztree: calls that overlap on several CPUs may have taken effect in either order, and a
    malloc that finds no free slot takes effect in three steps. TRACE is explained if there is
    an order of all steps, each inside the interval recorded for its call, that gives every
    handle the kernel gave.

    For zbud, z3fold and zsmalloc, whose handles are addresses: where each object lies and each
    pool's size are compared. Of several CPUs' calls on zbud an order is searched, on zsmalloc it
    is that of the lock, and on z3fold it is not known: there only a difference that no
    overlapping call can have made counts against the model.

    Exit status 0 if all agrees, 1 if a call cannot be explained, 2 for bad input.
    """
    with TraceReader(trace) as reader:
        metadata = reader.metadata
        if searches_trees(metadata):
            from ztrace.replay.validate.native import reason_missing

            if engine is None and (missing := reason_missing()):
                say(f"{missing}; the search in Python takes longer")
        elif order_path is not None:
            raise click.UsageError("--order is for traces of ztree")
        elif engine == "native" and not in_core(metadata):
            raise click.UsageError(
                "--engine native: none of the trace's pools is validated in the core; z3fold's of "
                "several CPUs, and those of third parties, are validated in Python"
            )
        with progress(trace.name, reader.num_rows) as advance:
            verdict = validate(
                reader,
                backend=backend,
                engine=engine,
                starts_empty=BEGINNINGS[begins],
                order=order_path,
                force=force,
                advance=advance,
            )
        if as_json:
            print_json(verdict.to_dict())
        else:
            show_verdict(console(), verdict, metadata)
        if picture is not None:
            _draw(reader, verdict, picture, force)
    return 0 if verdict.agrees else 1


def _draw(reader: TraceReader, verdict: Verdict, path: Path, force: bool) -> None:
    """Write a picture of what the verdict refuses first, or say that there is nothing to draw."""
    from ztrace.present.window import picture
    from ztrace.replay.validate.window import first_refused
    from ztrace.traces.writer import AtomicFile

    found = first_refused(reader, verdict)
    if found is None:
        say(f"no call is refused; {path} is not written")
        return
    with AtomicFile(path, force=force) as file:
        file.write(picture(found, reader.path.name).encode())
