# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace explore``: all interleavings of a few calls of a model."""

from __future__ import annotations

import re

import click

from ztrace.console import console, print_json, progress
from ztrace.outputs import Command
from ztrace.present.explored import show_exploration, show_scenarios
from ztrace.replay.research.explore import (
    BUILTIN,
    GAPS,
    Scenario,
    explore,
)
from ztrace.replay.research.explore.search import DEFAULT_MAX_STATES, DEFAULT_SIZE
from ztrace.units import size as bytes_of


@click.command(
    "explore",
    cls=Command,
    epilog='Example: ztrace explore ztree --setup "malloc*2" --calls "free #1 | free #2"',
)
@click.argument("model", type=click.Choice(["ztree"]))
@click.option("--calls", metavar="CALLS", help="One program a CPU; see above.")
@click.option("--setup", metavar="CALLS", help="Calls that one CPU makes before.")
@click.option(
    "--size",
    type=bytes_of,
    metavar="BYTES",
    help=f"Size of every object; {DEFAULT_SIZE} (8 slots a block) if not given.",
)
@click.option("--cpus", type=int, metavar="N", help="Check that CALLS has N programs.")
@click.option("--hazard", metavar="NAME", help="Show only this hazard, for instance H1.")
@click.option(
    "--close",
    "closed",
    multiple=True,
    type=click.Choice(list(GAPS)),
    help="Explore a ztree without gap G: the tree lock is held from look to take; or without "
    "gap F: it is held to the end of free.",
)
@click.option(
    "--max-states",
    type=click.IntRange(min=1),
    default=DEFAULT_MAX_STATES,
    metavar="N",
    show_default=True,
    help="Give up after so many states.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str,
    calls: str | None,
    setup: str | None,
    size: int | None,
    cpus: int | None,
    hazard: str | None,
    closed: tuple[str, ...],
    max_states: int,
    as_json: bool,
) -> int:
    """Take a few calls of the posted ztree through all interleavings of their micro-steps.

    For each hazard that they reach, a shortest schedule is shown. Without --calls there is a
    built-in scenario for each race (docs/hazards.md in the source tells them). Exit status 1 if
    a hazard that was asked for is not reached; without --calls and --hazard, that is every one.

    CALLS are programs, one a CPU, separated by "|". A program is calls separated by ";":

    \b
      malloc   store   reclaim   (or malloc*9: nine times)
      free #K  map #K  unmap #K  (or free #3-9: each of them)

    #K is the object of the K-th malloc or store as written, counted from 1 through --setup and
    then through the programs from left to right. A store is malloc, map and unmap, after which
    its user knows the object. The evict callback frees an object that is known, and returns 0.
    """
    hazard = _hazard(hazard)
    if calls is None:
        for name, value in (("--setup", setup), ("--size", size), ("--cpus", cpus)):
            if value is not None:
                raise click.UsageError(f"{name} goes with --calls")
        if hazard is not None and hazard not in BUILTIN:
            raise click.UsageError(
                f"no scenario for {hazard!r}; there is one for {', '.join(BUILTIN)}"
            )
        names = list(BUILTIN) if hazard is None else [hazard]
        scenarios = [
            Scenario(BUILTIN[name].calls, BUILTIN[name].setup, closed=frozenset(closed))
            for name in names
        ]
    else:
        given = DEFAULT_SIZE if size is None else size
        scenarios = [Scenario(calls, setup or "", given, frozenset(closed))]
        names = [] if hazard is None else [hazard]
        found_cpus = len(scenarios[0].programs)
        if cpus is not None and cpus != found_cpus:
            raise click.UsageError(f"--cpus {cpus}, but --calls has programs for {found_cpus}")
    with progress("states", None) as advance:
        results = [explore(one, max_states=max_states, advanced=advance) for one in scenarios]
    if calls is None and hazard is None:
        if as_json:
            pairs = zip(names, results, strict=True)
            scenarios_found = [{"hazard": name, **one.to_dict([name])} for name, one in pairs]
            print_json({"model": model, "scenarios": scenarios_found})
        else:
            show_scenarios(console(), names, results)
        return 0 if all(name in one.found for name, one in zip(names, results, strict=True)) else 1
    result = results[0]
    if as_json:
        scenario = {"hazard": hazard, **result.to_dict(names or None)}
        print_json({"model": model, "scenarios": [scenario]})
    else:
        show_exploration(console(), result, names)
    return 0 if all(name in result.found for name in names) else 1


def _hazard(text: str | None) -> str | None:
    if text is None:
        return None
    if re.fullmatch(r"[hH]\d{1,2}", text) is None:
        raise click.UsageError(f"--hazard {text!r}: write a name such as H1")
    return text.upper()
