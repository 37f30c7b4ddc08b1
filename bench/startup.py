# SPDX-License-Identifier: GPL-2.0-only
"""How long small commands take to start, beside the imports that they cannot do without.

    python -m bench.startup [--rounds N] [TRACE]

Each round runs every command once, one after the other, so that what else the machine does hits
all of them alike. Printed are medians of the wall clock's milliseconds: ``whole`` of the process,
``work`` of the same command when it is done a second time in one process, all modules loaded, and
``start``, the whole without the work, with its ratio to the process that does nothing but
``import numpy, pyarrow.parquet, click``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

IMPORTS = ("-c", "import numpy, pyarrow.parquet, click")
COMMANDS = ("info", "stat", "replay", "validate")
SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "zbud-6.1-small.parquet"

TWICE = """
import sys
from time import perf_counter
from ztrace.cli import NAME, cli
for _ in range(2):
    start = perf_counter()
    with cli.make_context(NAME, sys.argv[1:]) as context:
        cli.invoke(context)
    spent = perf_counter() - start
print(spent, file=sys.stderr)
"""


def whole(*arguments: str) -> float:
    """Seconds of a Python process with these arguments."""
    start = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def work(*arguments: str) -> float:
    """Seconds of a command done a second time in one process."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE, *arguments], check=True, capture_output=True, text=True
    )
    return float(done.stderr.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Start-up of small commands.")
    parser.add_argument("trace", nargs="?", type=Path, default=SAMPLE)
    parser.add_argument("--rounds", type=int, default=11)
    chosen = parser.parse_args()
    ways = {
        name: (name, str(chosen.trace), *(("--backend", "zbud") if name == "replay" else ()))
        for name in COMMANDS
    }
    imports: list[float] = []
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        imports.append(whole(*IMPORTS))
        for name, arguments in ways.items():
            spent[name].append((whole("-m", "ztrace", *arguments), work(*arguments)))
    base = median(imports)
    print(f"{'ms':10} {'whole':>7} {'work':>7} {'start':>7} {'ratio':>6}")
    print(f"{'imports':10} {1e3 * base:7.0f} {'':7} {1e3 * base:7.0f} {1:6.2f}")
    for name, rounds in spent.items():
        full, did = (median(one) for one in zip(*rounds, strict=True))
        start = full - did
        print(
            f"{name:10} {1e3 * full:7.0f} {1e3 * did:7.0f} {1e3 * start:7.0f} {start / base:6.2f}"
        )


if __name__ == "__main__":
    main()
