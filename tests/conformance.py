# SPDX-License-Identifier: GPL-2.0-only
"""Run vector files (what the real allocators answered) through a backend.

    python tests/conformance.py ztree tests/vectors/ztree_*.txt
    python tests/conformance.py z3fold tests/vectors/z3fold_*.txt
    python tests/conformance.py zsmalloc:6.1 tests/vectors/zsmalloc_6.1.txt

Prints each file's count and the first answers that differ; the last line is
``N passed, M failed``, counting answers. Exit 0 if none failed, 1 if one did, 2 for bad usage.
The format of the files is described in tests/vectors/README.md.

What z3fold has to be told is taken from the file's operations, unless the backend's items say
it: as many CPUs as the C lines name, and queued compaction left to the W lines or, in a file
without any, done at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ztrace.allocator import BackendError, HazardError, Pool, create, native
from ztrace.allocator.protocol import HasPlace

EEXIST = 17
SHOWN_PER_FILE = 3


class Driver:
    """Answers one vector file's operations from a pool, in the form of ztree's files."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.handles: dict[int, int] = {}
        self.ids: dict[int, int] = {}
        # Operation letter -> how many numbers it takes, what answers it.
        self.operations: dict[str, tuple[int, Callable[..., str]]] = {
            "A": (2, self._alloc),
            "F": (1, self._free),
            "S": (0, self._shrink),
        }

    def answer(self, op: str) -> str:
        """The result line for an operation line; ValueError for an unknown operation.

        A model that went another way than the file gives an answer that no file has.
        """
        kind, *words = op.split() or [""]
        count, method = self.operations.get(kind, (-1, str))
        if count != len(words):
            raise ValueError(f"unknown operation {op!r}")
        try:
            return method(*map(int, words))
        except HazardError as hazard:
            return f"{kind} hazard {hazard}"
        except KeyError as missing:
            return f"{kind} has no object {missing}"

    def totals(self) -> str:
        return f"{self.pool.total_bytes} {self.pool.held_bytes // self.pool.page_bytes}"

    def given(self, handle: int) -> str:
        """What a file says about a new object."""
        return str(handle)

    def _alloc(self, name: int, size: int) -> str:
        try:
            handle = self.pool.malloc(size)
        except OSError as refused:
            return f"A {name} {-(refused.errno or 0)} {self.totals()}"
        self.handles[name] = handle
        self.ids[handle] = name
        self.pool.map(handle)
        self.pool.unmap(handle)
        return f"A {name} 0 {self.totals()} {self.given(handle)}"

    def _free(self, name: int) -> str:
        handle = self.handles.pop(name)
        del self.ids[handle]
        self.pool.free(handle)
        return f"F {name} {self.totals()}"

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
        return " ".join([f"S {ret} {self.totals()}", *evicted])


class PlaceDriver(Driver):
    """The same in the form of zbud's, z3fold's and zsmalloc's files: totals in pages, places.

    Where a model has no such thing as an operation asks for (a CPU, compaction), the file is
    another allocator's: ValueError.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.operations |= {
            "L": (1, self._locate),
            "C": (1, self._set_cpu),
            "W": (1, self._work),
            "Z": (0, self._compact),
        }

    def totals(self) -> str:
        return str(self.pool.total_bytes // self.pool.page_bytes)

    def given(self, handle: int) -> str:
        assert isinstance(self.pool, HasPlace)
        page, position = self.pool.place(handle)
        return f"{page} {position}"

    def _locate(self, name: int) -> str:
        return f"L {name} {self.given(self.handles[name])}"

    def _set_cpu(self, cpu: int) -> str:
        self._ability("cpu")
        self.pool.cpu = cpu  # type: ignore[attr-defined]
        return f"C {cpu}"

    def _work(self, limit: int) -> str:
        return f"W {self._ability('run_deferred')(limit)} {self.totals()}"

    def _compact(self) -> str:
        return f"Z {self._ability('compact')()} {self.totals()}"

    def _ability(self, name: str) -> Any:
        if not hasattr(self.pool, name):
            raise ValueError(f"{self.pool.name} has no {name}: not a file of this backend")
        return getattr(self.pool, name)


def make_driver(backend: str, path: Path, engine: str = "python") -> Driver:
    """A driver for one file, of the form of the backend's files and told what the file needs."""
    name, _, items = backend.partition(":")
    if name == "z3fold":
        found = _z3fold_items(path)
        given = {item.partition("=")[0] for item in items.split(",")}
        added = [f"{key}={value}" for key, value in found.items() if key not in given]
        backend = f"{name}:{','.join(filter(None, [items, *added]))}"
    pool: Pool = native.create(backend) if engine == "native" else create(backend)
    return PlaceDriver(pool) if isinstance(pool, HasPlace) else Driver(pool)


def _z3fold_items(path: Path) -> dict[str, str]:
    """What a file's operations ask of z3fold."""
    cpus, work = 1, "immediate"
    with path.open() as lines:
        for line in lines:
            kind, *words = line.partition("=>")[0].split() or [""]
            if kind == "W":
                work = "deferred"
            elif kind == "C" and words:
                cpus = max(cpus, int(words[0]) + 1)
    return {"cpus": str(cpus), "work": work}


def run(lines: Iterable[str], driver: Driver) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, operation, expected, answered) for every vector line."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        op, arrow, expected = line.partition("=>")
        if not arrow:
            raise ValueError(f"line {number}: no '=>'")
        yield number, op.strip(), " ".join(expected.split()), driver.answer(op)


def check_file(path: Path, make: Callable[[], Driver]) -> tuple[int, int]:
    """Run one file; print its verdict; return (passed, failed)."""
    passed = failed = 0
    with path.open() as lines:
        for number, op, expected, answered in run(lines, make()):
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
    parser.add_argument("--engine", choices=["python", "native"], default="python")
    arguments = parser.parse_args()
    passed = failed = 0
    try:
        for path in arguments.files:
            counts = check_file(
                path, partial(make_driver, arguments.backend, path, arguments.engine)
            )
            passed, failed = passed + counts[0], failed + counts[1]
    except (BackendError, OSError, ValueError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
