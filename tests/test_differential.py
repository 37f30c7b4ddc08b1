# SPDX-License-Identifier: GPL-2.0-only
"""Real allocators against their models on histories made to reach everything; the long form is
``python -m bench.differential``."""

from __future__ import annotations

import errno
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.differential import Differ, as_test, differs, never_reached, smallest
from bench.histories import as_calls, from_text, make
from ztrace.allocator import create
from ztrace.measuring import as_plan
from ztrace.replay.measured.calls import MALLOC, SHRINK
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.cache import cache_dir
from ztrace.tracer.program.allocators import parse
from ztrace.tracer.program.build import build_program
from ztrace.tracer.program.guest import play
from ztrace.tracer.program.reached import blocks

NAMES = ("zbud", "z3fold", "zsmalloc")

# (allocator, kernel, queued work runs later, calls): what differed once, or broke a kernel.
KEPT = [
    # A malloc that no map follows: where it lies is not told, nor which page is compacted.
    ("z3fold", "6.1", False, "m0:1082 m1:1082 f0 f1"),
    ("z3fold", "6.1", True, "m0:1457 m1:2135 m2:942 f0"),
    # A shrink of a page whose compaction waits; see test_a_shrink_breaks_z3fold.
    ("z3fold", "6.1", True, "m0:3552 m1:378 f1 s5"),
]


def differ_of(given: str, *, damaging: bool = False) -> Differ:
    """In 6.1; the kernel's own allocators share a program."""
    allocator = parse(given)
    own = [parse(name) for name in NAMES]
    program = build_program(
        "6.1", own if allocator.name in NAMES and allocator.is_own else [allocator]
    )
    return Differ(program, allocator.name, damaging=damaging)


def test_a_history_is_its_text() -> None:
    history = make("z3fold", 3, 3000)
    again = from_text(history.text(), deferred=history.deferred)
    assert again.text() == history.text()
    assert np.array_equal(again.op, history.op)
    assert np.array_equal(again.is_write, history.is_write)
    of = (history.op == MALLOC) | (history.op == SHRINK)
    assert of.any() and np.array_equal(again.size_bytes[of], history.size_bytes[of])
    for wrong in ("m3", "f1:20", "x2", "m:"):
        with pytest.raises(ValueError, match="no call"):
            from_text(wrong)


def test_the_smallest_is_what_it_takes() -> None:
    """One malloc of a page, and after it a free of anything."""

    def holds(history: object) -> bool:
        words = history.text().split()  # type: ignore[attr-defined]
        pages = [i for i, word in enumerate(words) if word.endswith(":4096")]
        return bool(pages) and any(word.startswith("f") for word in words[pages[0] :])

    history = from_text("m0:7 w0 m1:4096 s2 m2:9 f1 m3:4096 f3 f2 f0")
    assert holds(history)
    assert smallest(history, holds).text() == "m0:4096 f0"


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", [*NAMES, "ztree"])
def test_every_answer_is_the_models(name: str, request: pytest.FixtureRequest) -> None:
    given = f"ztree={request.getfixturevalue('patch')}" if name == "ztree" else name
    differ = differ_of(given)
    for seed in (1, 2, 3):
        done = differ.played(make(name, seed, 60_000))
        assert (done.different, done.first) == (0, None)
        assert done.calls > 60_000 and done.answers >= done.mallocs > 10_000
        assert done.sizes > 60_000
    done = differ.played(make(name, 2, 8000), "python")
    assert (done.different, done.first) == (0, None)
    assert done.sizes > 8000


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("name", "kernel", "later", "text"), KEPT)
def test_what_differed_once(name: str, kernel: str, later: bool, text: str) -> None:
    assert kernel == "6.1"
    done = differ_of(name).played(from_text(text, deferred=later))
    assert (done.different, done.first) == (0, None)
    assert done.sizes >= 4


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
def test_a_shrink_breaks_z3fold() -> None:
    """What is evicted from a page whose compaction waits leaves a page without objects, which 6.1
    puts on a list that there is none of: the model's hazard list-out-of-range."""
    history = from_text("m0:3552 m1:378 f1 s5", deferred=True)
    with pytest.raises(TracerError, match=r"Segfault.*z3fold_zpool_shrink"):
        differ_of("z3fold", damaging=True).played(history)


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
def test_another_rule_is_cut_down_to_few_calls(tmp_path: Path) -> None:
    """zbud that takes pages from its lists' other end; nine calls tell."""
    differ_of("zbud")  # so that the source is there
    source = (cache_dir() / "program" / "source" / "6.1" / "mm" / "zbud.c").read_text()
    rule = "list_add(&zhdr->buddy, &pool->unbuddied[freechunks]);"
    assert rule in source
    (tmp_path / "zbud.c").write_text(
        source.replace(rule, rule.replace("list_add", "list_add_tail"))
    )
    given = f"zbud={tmp_path / 'zbud.c'}"
    differ = differ_of(given)
    history = make("zbud", 1, 1000)
    assert differs(differ, "native", history)
    found = smallest(history, partial(differs, differ, "native"))
    assert differs(differ, "native", found)
    assert len(found) <= 12
    assert as_test("zbud", "6.1", found).startswith('    ("zbud", "6.1", False, "m0:')
    command = [sys.executable, "-m", "bench.differential", given, "--history", found.text()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "row" in done.stdout


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
def test_what_was_never_run_is_told_by_line() -> None:
    """Without a shrink those of shrinks are left; then those that nothing here can reach."""
    program = build_program("6.1", [parse("zbud")], watched=True)
    differ = Differ(program, "zbud")
    differ.reached = set()
    made = make("zbud", 1, 20_000)
    differ.played(made.part(made.op != SHRINK))
    first = "\n".join(never_reached(differ, "/zbud.c"))
    assert "never in zbud_zpool_shrink" in first and "zbud_free" not in first
    differ.played(made)
    second = "\n".join(never_reached(differ, "/zbud.c"))
    # The pool is never empty as it is shrunk; it is no module here.
    assert [one.split()[2] for one in second.splitlines()[1:]] == [
        "zbud_reclaim_page:",
        "exit_zbud:",
    ]
    with pytest.raises(TracerError, match="not built to note what is reached"):
        blocks(differ_of("zbud").program)


@pytest.mark.kernel
@pytest.mark.usefixtures("compiler")
def test_a_malloc_that_needs_a_page_fails_where_there_is_none() -> None:
    """It takes the room that there is; the model, which is told of the failure, agrees."""
    history = from_text("n0:100 m1:100 n2:60 n3:3000 f1 n4:10 f2 f4 n5:1")
    program = build_program("6.1", [parse("zbud")], watched=True)
    differ = Differ(program, "zbud")
    calls = as_calls("zbud", history, lambda: create("zbud"))
    ret = play(program, "zbud", as_plan(calls), 0).ret
    no_page = -errno.ENOMEM
    assert ret.tolist() == [no_page, 0, 0, no_page, 0, 0, 0, 0, no_page]
    done = differ.played(history)
    assert (done.different, done.answers) == (0, 3)
    made = make("zsmalloc", 2, 20_000, no_page=0.3)
    assert made.text().count(" n") > 1000
    differ = Differ(build_program("6.1", [parse("zsmalloc")], watched=True), "zsmalloc")
    done = differ.played(made)
    assert done.different == 0 and done.answers < 0.9 * done.mallocs
