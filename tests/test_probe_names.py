# SPDX-License-Identifier: GPL-2.0-only
"""By which names functions are probed, and what happens when one cannot be."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from ztrace.tracer import TracerError, abi, btf, doctor, machine, probing, recorder, symbols
from ztrace.tracer.outputs import Nowhere
from ztrace.tracer.symbols import Symbols, UnreadableError

ZSWAP_7_2 = [
    *("zswap_store", "zswap_load", "zswap_invalidate", "zs_malloc", "zs_free"),
    *("zs_obj_read_sg_begin", "zs_obj_read_sg_end", "zs_create_pool"),
]


def kallsyms(*names: str) -> str:
    return "".join(f"0000000000000000 {name}\n" for name in names)


# -- names ------------------------------------------------------------------------------------


def test_a_function_is_found_by_its_own_name() -> None:
    found = Symbols({"zs_malloc"}, kallsyms("T zs_malloc\t[zsmalloc]")).resolve("zs_malloc")
    assert found.name == "zs_malloc"
    assert not found.reason and not found.unseen


def test_a_name_that_link_time_optimisation_made_keeps_its_arguments() -> None:
    name = "zs_malloc.llvm.8012345"
    there = Symbols({name, "zs_free"}, kallsyms(f"t {name}", "T zs_free"))
    assert there.resolve("zs_malloc").name == name
    assert there.plain == {"zs_malloc", "zs_free"}
    present, _ = abi.choose_probes(there)
    assert [probe.symbol for probe in present] == ["zs_malloc", "zs_free"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("zs_malloc.isra.0", "an argument is gone or passed in parts"),
        ("zs_malloc.constprop.0", "an argument that is always the same is gone"),
        ("zs_malloc.isra.0.llvm.77", "an argument is gone or passed in parts"),
        ("zs_malloc.part.0", "only a part of the function"),
        ("zs_malloc.new.0", "perhaps with other arguments"),
    ],
)
def test_a_clone_with_other_arguments_is_refused_by_its_name(name: str, why: str) -> None:
    text = kallsyms(f"t {name}", "t zs_malloc.isra.0.cold")
    found = Symbols({name, "zs_mallocs.isra.0"}, text).resolve("zs_malloc")
    assert found == symbols.Resolved(reason=f"compiled as {name}: {why}", exists=True)


def test_two_functions_of_one_name_are_not_told_apart() -> None:
    text = kallsyms("t slot_free", "t slot_free\t[zram]", "d obj_free", "t obj_free")
    there = Symbols({"slot_free", "obj_free"}, text)
    assert there.resolve("slot_free").reason == "2 functions of that name"
    assert there.resolve("obj_free").name == "obj_free"  # one of them is data


def test_what_cannot_be_traced_or_is_not_there() -> None:
    there = Symbols({"zs_free"}, kallsyms("T zs_free", "T zs_malloc"))
    assert there.resolve("zs_malloc").reason == "in this kernel, but not traceable"
    assert there.resolve("zs_create_pool").reason.startswith("not in this kernel")
    assert not there.resolve("zs_create_pool").exists


def test_calls_of_a_clone_beside_the_function_are_told_as_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(btf, "FOLDER", tmp_path)
    text = kallsyms("T zs_free", "t zs_free.constprop.0", "t zs_free.cold", "T zs_malloc")
    found = abi.examine_kernel(Symbols({"zs_free", "zs_malloc", "zswap_store"}, text))
    assert found.notes == (
        "calls of zs_free that were compiled as zs_free.constprop.0 are not seen",
    )


@pytest.mark.skipif(not symbols.KALLSYMS.exists(), reason="no /proc/kallsyms here")
def test_the_names_of_the_running_kernel() -> None:
    """Against the rules by hand, for every function of which a compiler made something else."""
    text = symbols.KALLSYMS.read_text(errors="replace")
    functions = [line.split()[2] for line in text.splitlines() if line.split()[1] in "tTwW"]
    by_stem: dict[str, list[str]] = {}
    for name in functions:
        by_stem.setdefault(name.partition(".")[0], []).append(name)
    changed = {
        stem: names
        for stem, names in by_stem.items()
        if stem and any("." in name for name in names)
    }
    # One of each kind that the kernel has, of each number of functions by that name.
    kinds = {
        (min(len([name for name in names if name == stem]), 2), *sorted(map(_kind, names))): stem
        for stem, names in changed.items()
    }
    there = Symbols(functions, text)
    for stem in [*kinds.values(), "no_such_function"]:
        found, names = there.resolve(stem), by_stem.get(stem, [])
        same = [name for name in names if name == stem or _kind(name) == "llvm"]
        assert found.exists == bool(names), stem
        assert found.name == (same[0] if len(same) == 1 else ""), stem
        if len(same) > 1:
            assert found.reason == f"{len(same)} functions of that name"
        elif not same and names:
            assert found.reason.startswith(f"compiled as {stem}."), stem
            assert found.reason.split()[2].rstrip(":") in names
        elif not names:
            assert found.reason.startswith("not in this kernel")


def _kind(name: str) -> str:
    """What a compiler appended, without numbers."""
    kinds = [part for part in name.split(".")[1:] if not part.isdigit()]
    return ".".join(kinds)


# -- attaching --------------------------------------------------------------------------------


class FakeBpf:
    """What of bcc's BPF the probes use; functions of ``refused`` cannot be attached to."""

    refused: frozenset[str] = frozenset()
    refuses_trampolines = False
    made: ClassVar[list[FakeBpf]] = []

    def __init__(self, text: str, cflags: list[str]) -> None:
        self.made.append(self)
        self.probes: set[tuple[str, str]] = set()
        self.cleaned = False
        self.programs = text
        if self.refuses_trampolines and "\nFENTRY(" in text:
            raise Exception("Failed to load BPF program")
        self.funcs: dict[bytes, Any] = {}
        self.tables: dict[str, Any] = {}

    @staticmethod
    def support_kfunc() -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        if name not in self.tables:
            fd = os.memfd_create(name)
            os.ftruncate(fd, 1 << 22)
            self.tables[name] = SimpleNamespace(map_fd=fd, max_entries=64, values=list)
        return self.tables[name]

    def attach_kprobe(self, event: str, fn_name: str) -> None:
        if event in self.refused:
            raise Exception(f"Failed to attach {fn_name}")
        self.probes.add((event, "entry"))

    def attach_kretprobe(self, event: str, fn_name: str) -> None:
        self.probes.add((event, "return"))

    def detach_kretprobe(self, event: str) -> None:
        self.probes.remove((event, "return"))

    def cleanup(self) -> None:
        self.probes.clear()
        self.cleaned = True


Kernel = Callable[..., type[FakeBpf]]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Make this machine's kernel one with some names; gives the class of its BPF objects."""

    def make(*names: str, refused: str = "", typed: str = "", trampolines: bool = True) -> Any:
        (tmp_path / "traceable").write_text("".join(f"{name.split()[1]}\n" for name in names))
        (tmp_path / "kallsyms").write_text(kallsyms(*names))
        monkeypatch.setattr(symbols, "TRACEABLE", tmp_path / "traceable")
        monkeypatch.setattr(symbols, "KALLSYMS", tmp_path / "kallsyms")
        monkeypatch.setattr(btf, "FOLDER", tmp_path)
        monkeypatch.setattr(machine, "kernel_preempts", lambda: False)
        monkeypatch.setattr(btf.Btf, "functions", lambda self, wanted: frozenset(typed.split()))
        bpf = type(
            "Bpf",
            (FakeBpf,),
            {
                "refused": frozenset(refused.split()),
                "refuses_trampolines": not trampolines,
                "made": [],
            },
        )
        monkeypatch.setattr(probing, "load_bcc", lambda: SimpleNamespace(BPF=bpf))
        monkeypatch.setattr(probing.Probing, "_mapped", lambda self, name, dtype: [0])
        return bpf

    yield make


def test_a_renamed_function_is_probed_by_the_kernels_name(kernel: Kernel) -> None:
    names = [f"T {name}" for name in ZSWAP_7_2 if name != "zs_malloc"]
    bpf = kernel(*names, "t zs_malloc.llvm.12", typed="zs_free")
    with probing.Probing(mmap.PAGESIZE) as made:
        malloc = next(one for one in made.attached if one.probe.op == "malloc")
        assert (malloc.kind, malloc.name) == ("kprobe", "zs_malloc.llvm.12")
        assert {("zs_malloc.llvm.12", "entry"), ("zs_malloc.llvm.12", "return")} <= bpf.made[
            0
        ].probes
        assert "FENTRY(zs_free, enter_free)" in bpf.made[0].programs
        assert made.missing == []
    assert bpf.made[0].cleaned


def test_a_probe_that_cannot_be_put_on_is_done_without_and_told(kernel: Kernel) -> None:
    bpf = kernel(
        *(f"T {name}" for name in ZSWAP_7_2),
        *("t obj_malloc", "t obj_malloc"),
        refused="zswap_invalidate",
    )
    with probing.Probing(mmap.PAGESIZE) as made:
        assert [str(lack) for lack in made.missing] == [
            "obj_malloc is not probed: 2 functions of that name",
            "zswap_invalidate (invalidate) is not probed: the kernel refused it "
            "(Failed to attach kprobe_enter_invalidate_entry)",
        ]
        assert not {one.probe.op for one in made.attached} & {"invalidate"}
        assert not any(event == "zswap_invalidate" for event, _ in bpf.made[0].probes)
        assert ("zs_malloc", "entry") in bpf.made[0].probes
        session = recorder.Session(recorder.Plan(None), made, Nowhere())
        assert any("zswap_invalidate (invalidate) is not probed" in one for one in session.notes)
        assert any("2 functions of that name" in one for one in session.notes)


@pytest.mark.parametrize(
    ("names", "refused", "complaint"),
    [
        ([f"T {name}" for name in ZSWAP_7_2], "zs_free", "cannot probe zs_free: Failed"),
        (
            [*(f"T {name}" for name in ZSWAP_7_2 if name != "zs_malloc"), "t zs_malloc.isra.0"],
            "",
            "zs_malloc .malloc. is not probed: compiled as zs_malloc.isra.0: an argument is gone",
        ),
    ],
)
def test_without_malloc_and_free_there_is_nothing_to_record(
    kernel: Kernel, names: list[str], refused: str, complaint: str
) -> None:
    bpf = kernel(*names, refused=refused)
    with pytest.raises(TracerError, match=complaint):
        probing.Probing(mmap.PAGESIZE)
    assert all(one.cleaned for one in bpf.made)


def test_a_kernel_that_refuses_trampolines_is_probed_by_kprobes(kernel: Kernel) -> None:
    names = [f"T {name}" for name in ZSWAP_7_2]
    bpf = kernel(*names, typed="zs_free zs_malloc", trampolines=False)
    with probing.Probing(mmap.PAGESIZE) as made:
        assert {one.kind for one in made.attached} == {"kprobe"}
    assert [one.cleaned for one in bpf.made] == [True, True]
    with pytest.raises(TracerError, match="do not compile or load here"):
        probing.Probing(mmap.PAGESIZE, kinds=("fentry", "kprobe"))


# -- the list of traceable functions ----------------------------------------------------------


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., UnreadableError]:
    """Make reading the list fail with an error; returns what the program makes of it."""

    def fail(number: int, uid: int = 0, lockdown: str = "[none] integrity confidentiality") -> Any:
        path = tmp_path / "available_filter_functions"
        (tmp_path / "lockdown").write_text(lockdown)

        class Refusing(type(path)):  # type: ignore[misc]
            def read_text(self, *args: Any, **options: Any) -> str:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(symbols, "TRACEABLE", Refusing(path))
        monkeypatch.setattr(symbols, "TRACEABLE_OLD", tmp_path / "absent")
        monkeypatch.setattr(symbols, "LOCKDOWN", tmp_path / "lockdown")
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        with pytest.raises(UnreadableError) as caught:
            symbols.running_symbols()
        return caught.value

    return fail


LOCKED = "none integrity [confidentiality]"


@pytest.mark.parametrize(
    ("number", "uid", "lockdown", "found", "remedy"),
    [
        (errno.EACCES, 1000, "", "only root may read it (Permission denied)", "as root"),
        (errno.EPERM, 0, LOCKED, "the kernel is locked down", "boot without lockdown"),
        (errno.EPERM, 0, "", "forbidden even to root (Operation not permitted)", "container"),
        (errno.ENOENT, 0, "", "cannot be read (No such file", "mount -t tracefs tracefs /"),
    ],
)
def test_an_unreadable_list_is_told_for_what_it_is(
    unreadable: Callable[..., UnreadableError],
    *,
    number: int,
    uid: int,
    lockdown: str,
    found: str,
    remedy: str,
) -> None:
    error = unreadable(number, uid, lockdown)
    assert found in error.found
    assert remedy in error.remedy
    assert ("mount -t" in str(error)) == (number == errno.ENOENT)


def test_a_mounted_tracefs_without_the_list_is_not_to_be_mounted_again(
    unreadable: Callable[..., UnreadableError], tmp_path: Path
) -> None:
    (tmp_path / "trace").touch()
    error = unreadable(errno.ENOENT)
    assert "CONFIG_DYNAMIC_FTRACE" in error.remedy


def test_doctor_gives_the_reason(unreadable: Callable[..., UnreadableError]) -> None:
    unreadable(errno.EPERM, 0, LOCKED)
    found = {one.name: one for one in doctor.examine() if one.serves == "record"}
    assert not found["tracefs"].works and not found["lockdown"].works
    assert "locked down" in found["tracefs"].found
    for name in ("tracefs", "symbols"):
        assert "mount" not in found[name].remedy
        assert "lockdown" in found[name].remedy
