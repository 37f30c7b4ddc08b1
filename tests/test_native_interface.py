# SPDX-License-Identifier: GPL-2.0-only
"""The core's headers decide: bindings that take them for something else are refused."""

import ctypes
import os
import re
import subprocess
import sys
from ctypes import Structure, c_uint32, c_uint64
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import ztrace.replay.limit.native as limit
import ztrace.replay.play.interface as player
import ztrace.replay.validate.native as checker
import ztrace.replay.validate.zbud_native as pages
from ztrace.allocator import native
from ztrace.allocator.native.library import POOLS, Interface, NativeMissing, library, shape

if native.reason_missing():
    pytest.skip("no native core to compare", allow_module_level=True)

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="the headers are the checkout's"
)
SAMPLE = ROOT / "traces/samples/zbud-6.1-small.parquet"
INTERFACES = [POOLS, player.PLAYER, checker.CHECKER, pages.PAGES, limit.LOOP]


class Point(Structure):
    """struct zp_point with two fields changed over."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("end_ns", "stored", "objects", "held", "model", "kernel")
    )


class Grown(Structure):
    """struct zc_place with a field that the core has not."""

    _fields_ = (("page", c_uint64), ("position", c_uint64), ("more", c_uint64))


class Narrow(Structure):
    """struct zc_block_type with a narrower field in the same room."""

    _fields_ = (("order", ctypes.c_uint16), ("slots", c_uint32))


def with_structure(interface: Interface, name: str, structure: type[Structure]) -> Interface:
    return replace(interface, structures={**interface.structures, name: shape(structure)})


def refusal(interface: Interface) -> str:
    with pytest.raises(NativeMissing) as caught:
        library(interface)
    assert native.reason_missing(interface) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda one: one.layout)
def test_the_bindings_are_what_was_built(interface: Interface) -> None:
    assert native.reason_missing(interface) is None


@pytest.mark.parametrize(
    ("interface", "wrong", "said"),
    [
        (
            player.PLAYER,
            ("zp_point", Point),
            "zp_point.stored is 8 bytes at 16 there, 8 bytes at 8",
        ),
        (POOLS, ("zc_place", Grown), "zc_place is 16 bytes at 0 there, 24 bytes at 0"),
        (POOLS, ("zc_block_type", Narrow), "zc_block_type.order is 4 bytes at 0 there, 2 "),
        (POOLS, ("zc_gone", Narrow), "zc_gone is missing there, 8 bytes at 0 here"),
    ],
)
def test_wrong_structures_are_refused(
    interface: Interface, wrong: tuple[str, type[Structure]], said: str
) -> None:
    assert said in refusal(with_structure(interface, *wrong))


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda one: one.layout)
def test_wrong_codes_are_refused(interface: Interface) -> None:
    for name, value in interface.codes.items():
        wrong = {**interface.codes, name: value + 1}
        assert f"{name} is {value} there, {value + 1} here" in refusal(
            replace(interface, codes=wrong)
        )
        fewer = {other: code for other, code in interface.codes.items() if other != name}
        assert f"{name} is {value} there, missing here" in refusal(replace(interface, codes=fewer))


def test_a_forgotten_structure_is_refused() -> None:
    structures = dict(player.PLAYER.structures)
    del structures["zp_timing"]
    wrong = refusal(replace(player.PLAYER, structures=structures))
    size = player.PLAYER.structures["zp_timing"][""][1]
    assert f"zp_timing is {size} bytes at 0 there, missing here" in wrong


def test_a_missing_layout_is_refused() -> None:
    assert "the native core has no zc_gone" in refusal(replace(POOLS, layout="zc_gone"))


@pytest.mark.parametrize("module", [sys.modules[library.__module__], player, checker, pages, limit])
def test_every_structure_is_compared(module: ModuleType) -> None:
    """Whatever ctypes lays out in a module is in its interface."""
    [interface] = [one for one in vars(module).values() if isinstance(one, Interface)]
    own = [
        one
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Structure)
        and one.__module__ == module.__name__
        and one is not getattr(module, "_Layout", None)
    ]
    assert own
    for one in own:
        assert shape(one) in interface.structures.values(), one


STRUCTURE = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def fields_in(header: str) -> dict[str, set[str]]:
    """Structure -> names of its fields, as a header's text has them."""
    found = {}
    for name, body in STRUCTURE.findall(COMMENT.sub("", header)):
        names = re.findall(r"\**(\w+)(?:\[[^]]+\])*(?=[,;])", body)
        found[name] = set(names)
    return found


@pytest.mark.parametrize(
    ("headers", "interface"),
    [
        (["allocator/native/core.h"], POOLS),
        (["replay/native/play.h"], player.PLAYER),
        (["replay/native/check.h"], checker.CHECKER),
        (["replay/native/page_check.h"], pages.PAGES),
        (["replay/native/demand.h", "replay/native/zswap.h"], limit.LOOP),
    ],
)
def test_the_layout_has_every_field_of_the_headers(
    headers: list[str], interface: Interface
) -> None:
    declared = fields_in("".join((ROOT / header).read_text() for header in headers))
    for name, fields in interface.structures.items():
        assert declared[name] == set(fields) - {""}, name
    shared = set(interface.structures)
    inner = {"zc_backend", "zc_pool", "zc_slot", "zc_map", "zc_spare", "zc_slab"}
    assert set(declared) - inner == shared


def run(*arguments: str, core: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZTRACE_NATIVE": str(core)}
    command = [sys.executable, "-m", "ztrace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_a_core_of_other_structures_costs_speed_only(tmp_path: Path) -> None:
    """A build with a narrower field: said in a line, and the result is the Python engine's."""
    header = tmp_path / "play.h"
    text = (ROOT / "replay/native/play.h").read_text()
    header.write_text(text.replace("int64_t held_near_peak;", "int32_t held_near_peak;"))
    assert header.read_text() != text
    for source in (ROOT / "replay/native").iterdir():
        if source.name != "play.h" and source.suffix in (".c", ".h"):
            (tmp_path / source.name).write_text(source.read_text())
    core = tmp_path / "core.so"
    include = ROOT / "allocator/native"
    sources = [*(ROOT / "allocator").glob("*/*.c"), *tmp_path.glob("*.c")]
    flags = [
        "-std=c11",
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        f"-I{tmp_path}",
        f"-I{include}",
        f"-I{include.parent}",
    ]
    try:
        subprocess.run(["cc", *flags, *sources, "-o", core], check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler")
    plain = run("replay", str(SAMPLE), "--backend", "zbud", "--engine", "python", core=core)
    theirs = run("replay", str(SAMPLE), "--backend", "zbud", core=core)
    assert theirs.returncode == plain.returncode == 0
    [line] = theirs.stderr.splitlines()
    assert "zp_result.held_near_peak is 4 bytes" in line and "install again" in line
    for done in (plain, theirs):
        assert "zbud" in done.stdout


CITED = re.compile(r"[\w./{,}]+\.(?:py|c|h)\b")


def test_sources_cite_files_that_exist() -> None:
    """A path in a comment is one of the repository, or a file beside the source or the header."""
    sources = [*ROOT.glob("allocator/*/*.[ch]"), *ROOT.glob("replay/native/*.[ch]")]
    files = {path.name for path in ROOT.glob("*/**/*.*") if path.suffix in (".py", ".c", ".h")}
    for source in sources:
        for comment in COMMENT.findall(source.read_text()):
            for cited in CITED.findall(comment):
                parts = re.split(r"\{(.*)\}", cited)
                for name in parts[1].split(",") if len(parts) > 1 else [""]:
                    path = f"{parts[0]}{name}{parts[-1] if len(parts) > 1 else ''}"
                    assert (ROOT / path).is_file() or ("/" not in path and path in files), (
                        f"{source}: {path}"
                    )
