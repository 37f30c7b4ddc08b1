# SPDX-License-Identifier: GPL-2.0-only
"""Does the search for an order of calls accuse wrongly, and what does it let pass?

``python -m bench.brute_force --histories 1e6`` makes up small histories of two or three CPUs for
each allocator whose calls are searched, plays them on rules stated once more and damages half of
them. Each is asked of brute force, which tries all interleavings of the calls' steps, and of
validation in the core; one in ``--python-every`` of the model in Python, too. Printed are how often
the two said what, by kind of history. The seed and the number of a history make it again:
``--seed 0 --only zbud:reclaim:damaged:1234``.

Which page 6.1's shrinker takes is told less exactly than brute force knows it (docs/validation.md),
so that zbud's histories with shrinks may be explained though they could not have been; elsewhere
the two must agree. Exit status 1: they do not. Ctrl-C ends it early, with what was found by then.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, cast
from unittest.mock import patch

from tests import test_validate_small as ztree
from tests import test_validate_zbud as zbud
from tests.dice import Dice, Thrown
from ztrace.allocator.zbud.model import Zbud
from ztrace.allocator.ztree.model import Ztree
from ztrace.console import progress
from ztrace.replay.validate import ztree_run
from ztrace.traces import TraceReader

CHUNK = 500
"""Histories that a process makes at a time."""


class Kind(NamedTuple):
    """How histories of one kind are made, damaged, tried and validated by an engine."""

    make: Callable[[Dice], list[Any] | None]
    damage: Callable[[Dice, list[Any]], list[Any] | None]
    possible: Callable[[list[Any]], bool]
    explained: Callable[[list[Any], str], bool]
    exact: bool


def _explains_ztree(rows: list[ztree.Row], engine: str) -> bool:
    with patch.object(ztree_run, "Ztree", partial(Ztree, table=ztree.TABLE)):
        reader = cast(TraceReader, ztree.Rows(rows))
        return ztree_run.explain_trees(reader, engine=engine).explained


def _explains_zbud(rows: list[zbud.Row], engine: str) -> bool:
    return zbud.explained(zbud.run_by(engine, rows, 1, Zbud))


def _zbud(reclaim: bool, locked: bool) -> Kind:
    make = partial(zbud.made, reclaim=reclaim, locked=locked)
    return Kind(make, zbud.damage, zbud.explainable, _explains_zbud, not reclaim)


def _ztree(reclaim: bool) -> Kind:
    make = partial(ztree.made, reclaim=reclaim)
    return Kind(make, ztree.damage, ztree.explainable, _explains_ztree, True)


KINDS = {
    "ztree:objects": _ztree(False),
    "ztree:reclaim": _ztree(True),
    "zbud:objects": _zbud(False, False),
    "zbud:reclaim": _zbud(True, False),
    "zbud:locked": _zbud(False, True),
    "zbud:locked-reclaim": _zbud(True, True),
}


def history(name: str, damaged: bool, seed: int, number: int) -> list[Any] | None:
    """A history by its name, or None if the dice made none."""
    kind, dice = KINDS[name], Thrown(f"{name} {damaged} {seed} {number}")
    rows = kind.make(dice)
    return kind.damage(dice, rows) if rows is not None and damaged else rows


def try_some(
    name: str, damaged: bool, seed: int, first: int, python_every: int
) -> tuple[Counter[tuple[bool, bool]], list[str]]:
    """(possible, explained) -> how many; and the names of those that must not be."""
    kind = KINDS[name]
    seen: Counter[tuple[bool, bool]] = Counter()
    wrong = []
    for number in range(first, first + CHUNK):
        rows = history(name, damaged, seed, number)
        if rows is None:
            continue
        possible, explained = kind.possible(rows), kind.explained(rows, "native")
        seen[possible, explained] += 1
        agree = possible == explained or (explained and not kind.exact)
        if number % python_every == 0:
            agree &= kind.explained(rows, "python") == explained
        if not agree:
            wrong.append(f"{name}:{'damaged' if damaged else 'whole'}:{number}")
    return seen, wrong


def parts(histories: int) -> Iterator[tuple[str, bool, int]]:
    """(kind, damaged, first number) of so many histories in all, kinds in turn."""
    for first in range(0, histories // (2 * len(KINDS)) + 1, CHUNK):
        for name in KINDS:
            for damaged in (False, True):
                yield name, damaged, first


def main() -> int:
    """Try and print."""
    parser = argparse.ArgumentParser(description="Validation against brute force.")
    parser.add_argument("--histories", type=float, default=1e5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python-every", type=int, default=50, metavar="N")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", metavar="KIND:damaged:NUMBER", help="print one history")
    chosen = parser.parse_args()
    if chosen.only:
        name, how, number = chosen.only.rsplit(":", 2)
        rows = history(name, how == "damaged", chosen.seed, int(number))
        print(*rows or ["none"], sep="\n")
        return 0
    began = perf_counter()
    found: dict[tuple[str, bool], Counter[tuple[bool, bool]]] = {}
    wrong: list[str] = []
    todo = list(parts(int(chosen.histories)))
    with (
        ProcessPoolExecutor(chosen.processes, initializer=_leave_interrupts) as pool,
        progress("histories", len(todo) * CHUNK) as advance,
    ):
        tried = pool.map(_try_part, ((*one, chosen.seed, chosen.python_every) for one in todo))
        try:
            for (name, damaged, _), (seen, bad) in zip(todo, tried, strict=True):
                found[name, damaged] = found.get((name, damaged), Counter()) + seen
                wrong += bad
                advance(CHUNK)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    show(found)
    total = sum(seen.total() for seen in found.values())
    print(f"{total:,} histories, {len(wrong)} wrong verdicts; {perf_counter() - began:,.0f} s")
    print(*wrong[:10], sep="\n")
    return bool(wrong)


def _leave_interrupts() -> None:
    """Ctrl-C is the parent's, which shows what there is by then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _try_part(
    part: tuple[str, bool, int, int, int],
) -> tuple[Counter[tuple[bool, bool]], list[str]]:
    name, damaged, first, seed, python_every = part
    return try_some(name, damaged, seed, first, python_every)


def show(found: dict[tuple[str, bool], Counter[tuple[bool, bool]]]) -> None:
    """A table: what was possible and explained, accused falsely, impossible and refused, passed."""
    head = ("history", "tried", "right", "accused", "refused", "passed")
    print("{:28}{:>10}{:>10}{:>9}{:>10}{:>8}".format(*head))
    for (name, damaged), seen in sorted(found.items()):
        label = f"{name}{', damaged' if damaged else ''}"
        cells = (seen[True, True], seen[True, False], seen[False, False], seen[False, True])
        print("{:28}{:>10,}{:>10,}{:>9,}{:>10,}{:>8,}".format(label, seen.total(), *cells))


if __name__ == "__main__":
    sys.exit(main())
