# SPDX-License-Identifier: GPL-2.0-only
"""The native core against the models it is written after: every answer of random histories."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.allocator import BackendError, HazardError, Place, Pool, create, native
from ztrace.allocator.native import NativeMissing, library
from ztrace.allocator.z3fold.model import Z3fold
from ztrace.allocator.zblock.model import zblock, ztree
from ztrace.allocator.zbud.model import Zbud
from ztrace.allocator.zsmalloc.model import Zsmalloc
from ztrace.allocator.ztree.model import Ztree

if native.reason_missing():
    pytest.skip("no native core to compare", allow_module_level=True)

MODELS: dict[str, Callable[..., Pool]] = {
    "ztree": ztree,
    "zblock": zblock,
    "zbud": Zbud,
    "z3fold": Z3fold,
    "zsmalloc": Zsmalloc,
}
SMALL_TABLE = [(0, 16), (0, 8), (1, 3), (1, 2)]
SUCCESSORS_TABLE = [(0, 16), (0, 2), (0, 1), (1, 1)]

# Backend and its constructor's arguments.
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("ztree", {}),
    ("ztree", {"table": SMALL_TABLE}),
    ("ztree", {"page_bytes": 16384}),
    ("ztree", {"max_index": 3, "table": SMALL_TABLE}),
    ("ztree", {"long_bytes": 4, "max_index": 40}),
    ("ztree", {"variant": "late"}),
    ("ztree", {"variant": "late", "page_bytes": 65536}),
    ("ztree", {"variant": "late", "table": SUCCESSORS_TABLE}),
    ("zblock", {"variant": "2022"}),
    ("zblock", {"variant": "2022", "page_bytes": 16384}),
    ("zblock", {"variant": "2022", "table": SUCCESSORS_TABLE}),
    ("zblock", {"variant": "2025"}),
    ("zblock", {"variant": "2025", "page_bytes": 16384}),
    ("zblock", {"variant": "2025", "table": SUCCESSORS_TABLE}),
    ("zbud", {}),
    ("zbud", {"page_bytes": 65536}),
    ("z3fold", {}),
    ("z3fold", {"work": "deferred"}),
    ("z3fold", {"cpus": 3, "work": "deferred"}),
    ("z3fold", {"page_bytes": 262144, "cpus": 2}),
    ("zsmalloc", {"variant": "6.1"}),
    ("zsmalloc", {"variant": "6.12"}),
    ("zsmalloc", {"variant": "7.2", "chain_size": 5}),
    ("zsmalloc", {"variant": "6.12", "page_bytes": 16384, "chain_size": 16}),
    ("zsmalloc", {"variant": "7.2", "chain_rule": "used", "chain_size": 16, "class_step": 8}),
    ("zsmalloc", {"variant": "6.12", "chain_saving": 2, "class_step": 64}),
    ("zsmalloc", {"variant": "6.1", "page_bytes": 65536, "chain_rule": "waste", "class_step": 128}),
]

SIZES = st.one_of(
    st.integers(1, 4096),
    st.sampled_from([100, 1000, 1365, 2000, 3000, 4000, 4096]),
    st.sampled_from([-1, 0, 4097, 10**12]),
)
WHICH = st.integers(0, 63)  # one of the handles there are, by position from the latest
HOSTILE = st.one_of(
    st.integers(0, 300),
    st.integers(0, 15).map(lambda kind: kind << 60),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
)
OPERATIONS = st.one_of(
    *(st.tuples(st.just("malloc"), SIZES),) * 4,
    *(st.tuples(st.just("free"), WHICH),) * 2,
    *(st.tuples(st.just("use"), WHICH),) * 2,
    st.tuples(st.just("map"), WHICH),
    st.tuples(st.just("unmap"), WHICH),
    st.tuples(st.just("shrink"), st.integers(1, 4), st.integers(0, 9)),
    st.tuples(st.just("fill"), st.sampled_from([64, 700, 1300, 2600, 4000]), st.integers(1, 40)),
    st.tuples(st.just("thin"), st.integers(2, 5)),
    st.tuples(st.just("own"), st.integers(0, 9)),  # what only this backend can do
    st.tuples(st.just("wild"), st.sampled_from(["free", "map", "unmap"]), HOSTILE),
    st.tuples(st.just("stale"), st.sampled_from(["free", "map", "unmap"]), WHICH),
)


class Run:
    """One pool, driven by operations; ``told`` is all that it answered."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.live: list[int] = []
        self.dead: list[int] = []
        self.told: list[Any] = []
        self.ended = False

    def call(self, name: str, *arguments: int) -> Any:
        """One call of the pool; its answer, or the error it gave."""
        answer: Any
        try:
            answer = getattr(self.pool, name)(*arguments)
        except OSError as refusal:
            answer = ("refused", refusal.errno)
        except HazardError as hazard:
            answer = (hazard.name, hazard.what)
            self.ended = True
        self.told.append((name, arguments, answer, self.pool.total_bytes, self.pool.held_bytes))
        return answer

    def malloc(self, size: int) -> None:
        if self.ended:
            return
        given = self.call("malloc", size)
        if isinstance(given, int):
            self.live.append(given)

    def free(self, at: int) -> None:
        handle = self.live.pop(at)
        self.dead.append(handle)
        self.call("free", handle)

    def shrink(self, pages: int, manner: int) -> None:
        """``manner`` says how evictions go: refused, unfinished, with other calls meanwhile."""
        count = 0

        def evict(handle: int) -> int:
            answer = evicted(handle)
            if self.ended:  # nothing may follow on a fatal fault, as in a replay
                raise HazardError("ended", "in an eviction")
            return answer

        def evicted(handle: int) -> int:
            nonlocal count
            count += 1
            self.told.append(("evict", handle))
            if manner == 1 or count % 7 == 6:
                return -errno.EEXIST
            if manner == 2 and count % 3 == 2:
                return 0  # though the object is still there
            if manner in (3, 4):
                self.call("map", handle)
                if manner == 3 and not self.ended:
                    self.call("unmap", handle)
                if count % 4 == 3:
                    return -errno.EEXIST
            if manner == 5:
                self.malloc(1000)
                if self.live:
                    self.free(0)
            if handle in self.live and not self.ended:
                self.free(self.live.index(handle))
            return -errno.EIO if manner == 6 else 0

        try:
            answer: Any = tuple(self.pool.shrink(pages, evict))
        except HazardError as hazard:
            answer = (hazard.name, hazard.what)
            self.ended = True
        self.told.append(("shrink", answer, self.pool.total_bytes, self.pool.held_bytes))

    def own(self, manner: int) -> None:
        pool = self.pool
        if hasattr(pool, "compact"):
            self.call("compact")
        if hasattr(pool, "cpu"):
            pool.cpu = manner % pool.cpus
            if manner > 6:
                self.told.append(("page", pool.compact_page(manner - 7)))
            elif manner > 3:
                self.told.append(("deferred", pool.run_deferred(manner - 5)))
            self.told.append(("queue", pool.deferred))

    def do(self, kind: str, *arguments: Any) -> None:
        if self.ended:
            return
        handles = self.dead if kind == "stale" else self.live
        if kind == "malloc":
            self.malloc(*arguments)
        elif kind == "fill":
            for _ in range(arguments[1]):
                self.malloc(arguments[0])
        elif kind == "thin":
            for handle in self.live[:: arguments[0]]:
                if not self.ended:
                    self.free(self.live.index(handle))
        elif kind == "shrink":
            self.shrink(*arguments)
        elif kind == "own":
            self.own(*arguments)
        elif kind == "wild":
            self.call(*arguments)
        elif handles:
            at = -1 - arguments[-1] % len(handles)
            if kind == "free":
                self.free(at)
            elif kind == "use":
                self.call("map", handles[at])
                if not self.ended:
                    self.call("unmap", handles[at])
            else:
                self.call(arguments[0] if kind == "stale" else kind, handles[at])

    def summary(self) -> dict[str, Any]:
        """What is left to compare at the end."""
        pool = self.pool
        places: list[Place | None] = []
        if hasattr(pool, "place"):
            for handle in [*self.live, *self.dead, 1, 2**63]:
                try:
                    places.append(pool.place(handle))
                except KeyError:
                    places.append(None)
        return {
            "stats": pool.stats(),
            "counts": dict(pool.hazards.counts),
            "first": dict(pool.hazards.first),
            "objects": pool.objects,
            "places": places,
        }


@pytest.mark.parametrize(("name", "arguments"), KINDS)
@settings(max_examples=60, deadline=None)
@given(st.lists(OPERATIONS, max_size=60))
def test_every_answer_is_the_models(
    name: str, arguments: dict[str, Any], operations: list[tuple[Any, ...]]
) -> None:
    model, core = Run(MODELS[name](**arguments)), Run(native.make(name, **arguments))
    for operation in operations:
        model.do(*operation)
        core.do(*operation)
        assert core.told == model.told
        model.told.clear()
        core.told.clear()
    assert core.summary() == model.summary()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4096), WHICH), max_size=80))
def test_mallocs_in_two_parts(steps: list[tuple[int, int, int]]) -> None:
    """What other calls do between the parts, also giving back the block that waits."""
    model, core = Run(Ztree(table=SMALL_TABLE)), Run(native.make("ztree", table=SMALL_TABLE))
    begun: list[tuple[Any, Any]] = []
    for kind, size, which in steps:
        if kind == 0:
            begun.append((model.pool.begin_malloc(size), core.pool.begin_malloc(size)))
        elif kind == 1 and begun:
            for run, ticket in zip((model, core), begun.pop(which % len(begun)), strict=True):
                run.live.append(run.call("end_malloc", ticket))
            assert core.live == model.live
        else:
            operation = (
                *(("malloc", size), ("use", which), ("free", which), ("shrink", 1, which % 4)),
                ("wild", "unmap", which),
            )[(kind + which) % 5]
            model.do(*operation)
            core.do(*operation)
        assert [t for t in core.told if t[0] != "end_malloc"] == [
            t for t in model.told if t[0] != "end_malloc"
        ]
        if model.ended:
            return
    assert core.summary() == model.summary()


def test_an_exception_in_an_eviction_comes_out(tmp_path: Path) -> None:
    pool = native.create("zbud")
    pool.malloc(100)

    def evict(handle: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.shrink(1, evict)
    with pytest.raises(RuntimeError, match="left in an eviction"):
        pool.malloc(100)


@pytest.mark.parametrize("spec", ["nothing", "zbud:cpus=2", "zsmalloc:5.0", "ztree:table=/nowhere"])
def test_specifications_are_refused_as_by_the_models(spec: str) -> None:
    with pytest.raises(BackendError) as of_model:
        create(spec)
    with pytest.raises(BackendError) as of_core:
        native.create(spec)
    if spec != "nothing":
        assert str(of_core.value) == str(of_model.value)


def test_without_the_core_one_line(tmp_path: Path) -> None:
    """As after an install without a compiler: everything imports, the reason is one line."""
    code = (
        "from ztrace.allocator import create, native\n"
        "assert create('ztree').malloc(4000) == 0xF << 60\n"
        "try:\n    native.create('ztree')\nexcept native.NativeMissing as why: print(why)\n"
    )
    environment = {**os.environ, "ZTRACE_NATIVE": str(tmp_path / "missing.so")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "native core" in done.stdout


def test_a_core_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from ztrace.allocator.native import library as module_library  # the function

    assert module_library is library
    module = sys.modules["ztrace.allocator.native.library"]
    monkeypatch.setattr(module, "ABI", 10**6)
    library.cache_clear()
    try:
        with pytest.raises(NativeMissing, match="version"):
            library()
    finally:
        monkeypatch.undo()
        library.cache_clear()
    library()
