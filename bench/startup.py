# SPDX-License-Identifier: GPL-2.0-only
"""How long small commands take beside the imports that they cannot do without.

    python -m bench.startup [--rounds N] [TRACE]

Each round runs every command once, one after the other, so that what else the machine does hits
all of them alike. Printed are medians of the processor's seconds and of the wall clock's, and
their ratios to ``import numpy, pyarrow.parquet, click``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

IMPORTS = ("-c", "import numpy, pyarrow.parquet, click")
COMMANDS = ("info", "stat", "replay", "validate")
SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "zbud-6.1-small.parquet"


def spend(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Run Python with these arguments; seconds of the processor and of the wall clock."""
    before, start = os.times(), perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    wall, after = perf_counter() - start, os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system,
        wall,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Start-up of small commands.")
    parser.add_argument("trace", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--rounds", type=int, default=11)
    chosen = parser.parse_args()
    ways = {"imports": IMPORTS}
    for name in COMMANDS:
        more = ("--backend", "zbud") if name == "replay" else ()
        ways[name] = ("-m", "ztrace", name, str(chosen.trace), *more)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name, arguments in ways.items():
            spent[name].append(spend(arguments))
    figures = {
        name: [median(one) for one in zip(*rounds, strict=True)] for name, rounds in spent.items()
    }
    base = figures["imports"]
    print(f"{'':10} {'cpu ms':>8} {'ratio':>6} {'wall ms':>8} {'ratio':>6}")
    for name, (cpu, wall) in figures.items():
        print(
            f"{name:10} {1e3 * cpu:8.0f} {cpu / base[0]:6.2f} "
            f"{1e3 * wall:8.0f} {wall / base[1]:6.2f}"
        )


if __name__ == "__main__":
    main()
