# SPDX-License-Identifier: GPL-2.0-only
"""The player as a module of running kernels: objects lie where they lie in a program, and where the
models put them; no module stays."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.guests import Boot, Watch
from ztrace.measuring import as_plan
from ztrace.replay.measured.calls import read_calls
from ztrace.replay.measured.compared import compare
from ztrace.replay.measured.figures import figures
from ztrace.replay.measured.recording import TEST_BOX, Where, metadata, rows
from ztrace.tracer.lab.debian import fetch_compiler, fetch_kernel
from ztrace.tracer.lab.qemu import GuestSize, run_guest
from ztrace.tracer.program.allocators import Allocator, parse
from ztrace.tracer.program.files import read_answers, write_plan
from ztrace.tracer.program.here import build_here
from ztrace.traces import TraceReader, TraceWriter

pytestmark = pytest.mark.kernel

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
SMALL, BURSTS = SAMPLES / "z3fold-6.1-small.parquet", SAMPLES / "ztree-6.1-bursts.parquet"
SCRIPT = Path(__file__).parent / "guest" / "here.sh"
ROUNDS = 2

OWN = {"6.1": ("zbud", "z3fold", "zsmalloc"), "6.12": ("zbud", "zsmalloc"), "7.2": ("zsmalloc",)}
MODULES = {"6.1": ("z3fold", "zsmalloc"), "6.12": (), "7.2": ()}
ONEPAGE = Path(__file__).parent / "measure" / "onepage.c"
"""A driver of the newer API, of which there is no model."""

AT_ONCE = "z3fold:cpus=1,work=immediate"


def allocators(kernel: str, patch: Path | None) -> list[Allocator]:
    """What is tried on a kernel."""
    given = [f"onepage={ONEPAGE}", *([f"ztree={patch}"] if patch is not None else [])]
    return [parse(one) for one in (*OWN[kernel], *given)]


def boot(kernel: str, folder: Path, patch: Path | None, watch: Watch) -> None:
    """One guest that loads one module after another; they are built outside, where it is quick."""
    lab, compiler = fetch_kernel(kernel), fetch_compiler(kernel)
    script = ["#!/bin/sh", "exec >/job/log 2>&1"]
    for one in allocators(kernel, patch):
        work = folder / f"build-{one.name}"
        work.mkdir()
        module = build_here(one, lab.headers, work, within=compiler)
        with TraceReader(SMALL) as reader:
            calls = read_calls(reader, one.name)
        # A worker that is not the player's runs compactions when it likes.
        write_plan(replace(as_plan(calls), deferred=False), ROUNDS, folder / f"plan-{one.name}")
        arguments = f"allocator={one.name} plan=/job/plan-{one.name} answers=/job/{one.name}"
        script.append(f"insmod /job/{work.name}/{module.name} {arguments}")
    script += ["lsmod | grep ztrace && exit 1", "exit 0"]
    (folder / "run").write_text("\n".join(script) + "\n")
    (folder / "run").chmod(0o755)
    status = run_guest(lab, folder, GuestSize(), MODULES[kernel], watch=watch)
    (folder / "stayed").write_text(str(status))


def boot_commands(folder: Path, patch: Path | None, watch: Watch) -> None:
    """One guest in which the command itself is typed."""
    shutil.copy(BURSTS, folder / "trace.parquet")
    shutil.copy(SCRIPT, folder)
    (folder / "run").write_text(f'ZTRACE="{sys.executable} -m ztrace"\n. /job/{SCRIPT.name}\n')
    run_guest(fetch_kernel("6.1"), folder, GuestSize(), watch=watch)


GUESTS: dict[str, Boot] = {f"here-{kernel}": partial(boot, kernel) for kernel in OWN}
GUESTS["here"] = boot_commands


@pytest.mark.parametrize(
    ("kernel", "name"), [(kernel, name) for kernel in OWN for name in (*OWN[kernel], "ztree")]
)
def test_a_module_answers_as_the_models(
    guest: Callable[[str], Path],
    kernel: str,
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    if name == "ztree":
        request.getfixturevalue("patch")
    folder = guest(f"here-{kernel}")
    with TraceReader(SMALL) as reader:
        calls = read_calls(reader, name)
        answers = read_answers(folder / name, as_plan(calls))
        release = fetch_kernel(kernel).release
        where = Where(TEST_BOX, "running", release, "emulated")
        about = metadata(reader.metadata, SMALL, name, calls, answers, where)
    path = tmp_path / "measured.parquet"
    with TraceWriter(path, about) as writer:
        for batch in rows(calls, answers, name):
            writer.write(batch)
    found = compare(path, name, backend=AT_ONCE if name == "z3fold" else None)
    print(found)
    assert found.compared >= 2012
    if name == "z3fold":
        # Its worker is the kernel's. It is waited for, yet in a guest that is emulated on a busy
        # machine the time may pass without it.
        assert found.equal >= 0.99 * found.compared
    else:
        assert found.equal == found.compared
        assert found.sizes_equal == found.sizes_compared
    assert figures(calls, answers).times["malloc"].count == 2012
    # What is not known of a running machine is not made up.
    assert not np.any(answers.held_pages)


@pytest.mark.parametrize("kernel", OWN)
def test_a_driver_of_the_newer_api_plays(guest: Callable[[str], Path], kernel: str) -> None:
    with TraceReader(SMALL) as reader:
        calls = read_calls(reader, "onepage")
    found = figures(calls, read_answers(guest(f"here-{kernel}") / "onepage", as_plan(calls)))
    assert found.times["malloc"].count == 2012
    assert found.times["map"].count == found.times["unmap"].count > 2012


@pytest.mark.parametrize("kernel", OWN)
def test_no_module_stays(guest: Callable[[str], Path], kernel: str) -> None:
    assert (guest(f"here-{kernel}") / "stayed").read_text() == "0"


@pytest.mark.parametrize("phase", ["compiling", "playing"])
def test_interrupted_it_leaves_nothing_behind(guest: Callable[[str], Path], phase: str) -> None:
    """Neither a process, nor a file, nor a module."""
    folder = guest("here")
    assert (folder / f"{phase}.status").read_text() == "130\n"
    assert (folder / f"{phase}.said").read_text() == "ztrace: interrupted\n"
    assert (folder / f"{phase}.left").read_text() == ""
    assert (folder / f"{phase}.out").read_text() == ""


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("signed", "this kernel takes signed modules only"),
        ("locked", "this kernel is locked down"),
        ("disabled", "this kernel takes no more modules"),
    ],
)
def test_where_modules_are_refused_it_says_why(
    guest: Callable[[str], Path], where: str, said: str
) -> None:
    folder = guest("here")
    assert (folder / f"{where}.status").read_text() == "2\n"
    [line] = (folder / f"{where}.said").read_text().splitlines()
    assert line.startswith(f"ztrace: {said} (/")
    assert (folder / f"{where}.left").read_text() == ""
