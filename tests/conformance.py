# SPDX-License-Identifier: GPL-2.0-only
"""Run vector files (what the real allocators answered) through a backend.

    python tests/conformance.py ztree tests/vectors/ztree_*.txt

Prints each file's count and the first answers that differ; the last line is
``N passed, M failed``, counting answers. Exit 0 if none failed, 1 if one did, 2 for bad usage.
The format of the files is described in tests/vectors/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from allocator import BackendError, Pool, create

EEXIST = 17
SHOWN_PER_FILE = 3


class Driver:
    """Answers one vector file's operations from a pool, in the file's own form."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.handles: dict[int, int] = {}
        self.ids: dict[int, int] = {}

    def answer(self, op: str) -> str:
        """The result line for an operation line; ValueError for an unknown operation."""
        kind, *words = op.split()
        numbers = [int(word) for word in words]
        if kind == "A":
            return self._alloc(*numbers)
        if kind == "F":
            return self._free(*numbers)
        if kind == "S":
            return self._shrink()
        raise ValueError(f"unknown operation {op!r}")

    def _totals(self) -> str:
        return f"{self.pool.total_bytes} {self.pool.held_bytes // self.pool.page_bytes}"

    def _alloc(self, name: int, size: int) -> str:
        try:
            handle = self.pool.malloc(size)
        except OSError as refused:
            return f"A {name} {-(refused.errno or 0)} {self._totals()}"
        self.handles[name] = handle
        self.ids[handle] = name
        self.pool.map(handle)
        self.pool.unmap(handle)
        return f"A {name} 0 {self._totals()} {handle}"

    def _free(self, name: int) -> str:
        handle = self.handles.pop(name)
        del self.ids[handle]
        self.pool.free(handle)
        return f"F {name} {self._totals()}"

    def _shrink(self) -> str:
        evicted: list[str] = []

        def evict(handle: int) -> int:
            name = self.ids[handle]
            self.pool.map(handle)
            self.pool.unmap(handle)
            if name % 7 == 0:
                evicted.append(f"x{name}")
                return -EEXIST
            evicted.append(str(name))
            del self.handles[name], self.ids[handle]
            self.pool.free(handle)
            return 0

        ret = self.pool.shrink(1, evict).ret
        return " ".join([f"S {ret} {self._totals()}", *evicted])


def run(lines: Iterable[str], driver: Driver) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, operation, expected, answered) for every vector line."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        op, arrow, expected = line.partition("=>")
        if not arrow:
            raise ValueError(f"line {number}: no '=>'")
        yield number, op.strip(), " ".join(expected.split()), driver.answer(op)


def check_file(path: Path, make_driver: Callable[[], Driver]) -> tuple[int, int]:
    """Run one file; print its verdict; return (passed, failed)."""
    passed = failed = 0
    with path.open() as lines:
        for number, op, expected, answered in run(lines, make_driver()):
            if answered == expected:
                passed += 1
                continue
            failed += 1
            if failed <= SHOWN_PER_FILE:
                print(f"{path.name}:{number}: {op}: expected {expected!r}, got {answered!r}")
    print(f"{path.name}: {passed} of {passed + failed} answers agree")
    return passed, failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Run vector files through a backend.")
    parser.add_argument("backend")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--engine", choices=["python"], default="python")
    arguments = parser.parse_args()
    passed = failed = 0
    try:
        for path in arguments.files:
            counts = check_file(path, lambda: Driver(create(arguments.backend)))
            passed, failed = passed + counts[0], failed + counts[1]
    except (BackendError, OSError, ValueError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
