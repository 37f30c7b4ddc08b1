# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace measure``: a trace through real allocators, in a kernel, at native speed."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from ztrace.api import measure
from ztrace.console import console, print_json, progress
from ztrace.measuring import ROUNDS, Wish, contrast
from ztrace.outputs import OUTPUT, Command
from ztrace.present.measured import show_contrast, show_measured
from ztrace.streams import say
from ztrace.tracer.program.allocators import parse

EXAMPLE = "Example: ztrace measure trace.parquet --allocator zsmalloc --allocator ztree=ztree.mbox"


@click.command("measure", cls=Command, epilog=EXAMPLE)
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "--allocator",
    "allocators",
    multiple=True,
    required=True,
    metavar="NAME[=FILE]",
    help="The kernel's own, or a .c file, mail, diff or folder of yours; may be given again.",
)
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    default=("6.1",),
    metavar="RELEASE|TREE",
    help="Debian's source of that release, or the folder of a kernel tree; given twice, one "
    "allocator is compared in both.  [default: 6.1]",
)
@click.option("--here", is_flag=True, help="In the running kernel, by a module (root).")
@click.option("--cpus", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option(
    "--repeat",
    type=click.IntRange(1, 100),
    default=ROUNDS,
    show_default=True,
    help="Rounds in fresh pools; a call's time is its least.",
)
@click.option(
    "--pairs",
    type=click.IntRange(2, 100),
    default=5,
    show_default=True,
    help="Guests of each of two kernels.",
)
@click.option("--by-size", type=click.IntRange(1, 64), metavar="N", help="Times by N ranges, too.")
@click.option("--cycles", is_flag=True, help="Show cycles of the clock instead of ns.")
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    help="Keep what was measured as a trace; of several allocators, NAME is added to the file's.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option(
    "--compare/--no-compare",
    default=True,
    help="Whether ztrace's models are driven with what was answered.  [default: compare]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context,
    trace: Path,
    allocators: tuple[str, ...],
    kernels: tuple[str, ...],
    here: bool,
    cpus: int,
    repeat: int,
    pairs: int,
    by_size: int | None,
    cycles: bool,
    output: Path | None,
    force: bool,
    compare: bool,
    as_json: bool,
) -> int:
    """Play TRACE into real allocators inside a kernel and time each call.

    The kernel is built as a program and runs as you, without root; the first build takes some
    minutes, later ones are cached. Exit status 1: a model answered otherwise.
    """
    chosen = [parse(one) for one in allocators]
    names = [one.name for one in chosen]
    if len(set(names)) < len(names):
        raise click.UsageError("an allocator is given twice")
    kept = _outputs(output, names)
    if here and context.get_parameter_source("kernels") != ParameterSource.DEFAULT:
        raise click.UsageError("--here is the running kernel; leave --kernel out")
    if len(kernels) > 1:
        if len(kernels) > 2 or len(chosen) > 1 or output is not None:
            raise click.UsageError("two kernels are compared with one allocator, and no output")
        wish = Wish(trace, chosen, kernels[0], rounds=repeat, threads=cpus)
        contrasted = contrast(wish, (kernels[0], kernels[1]), pairs, progress)
        if as_json:
            print_json(contrasted.to_dict())
        else:
            show_contrast(console(), str(trace), contrasted)
        return 0
    for path in kept.values():
        if path.exists() and not force:
            raise click.ClickException(f"{path} exists; --force replaces it")
    found = measure(
        trace,
        chosen,
        kernel=kernels[0],
        here=here,
        cpus=cpus,
        repeat=repeat,
        by_size=by_size or 0,
        outputs=kept,
        force=force,
        compare=compare,
        progress=progress,
    )
    if as_json:
        print_json([{"trace": str(trace), **one.to_dict()} for one in found])
    else:
        show_measured(console(), str(trace), found, cycles=cycles)
    for one in found:
        if one.error is not None:
            say(str(one.error))
    if any(one.error is not None for one in found):
        return 2
    return 0 if all(one.compared and one.compared.agrees for one in found) else 1


def _outputs(output: Path | None, names: list[str]) -> dict[str, Path]:
    if output is None:
        return {}
    if len(names) == 1:
        return {names[0]: output}
    return {name: output.with_name(f"{output.stem}-{name}{output.suffix}") for name in names}
