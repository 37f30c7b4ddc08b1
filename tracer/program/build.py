# SPDX-License-Identifier: GPL-2.0-only
"""A kernel as a program (ARCH=um) with the player and some allocators in it, from the cache if it
is there.

It is configured down to what the allocators need: no block devices, no network, no file system
of its own, no user's processes. What concerns the code that is timed is as distributions have it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ztrace.tracer.children import session_of
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.cache import build_once, cache_dir, remember, remembered
from ztrace.tracer.program.allocators import (
    WATCHED_FLAGS,
    Allocator,
    player_digest,
    put_player,
    write_if_new,
)
from ztrace.tracer.program.source import PLAYER_FOLDER, Source, find_source

TOOLS = ("make", "gcc", "ld", "flex", "bison", "bc")
PACKAGES = "make gcc libc6-dev binutils flex bison bc xz-utils"

# On top of tinyconfig. -O2, a slab allocator of the usual kind with its hardening, allocation
# classes that keep movable pages apart: as distributions have them. tinyconfig would take SLOB
# (until 6.3) or SLUB_TINY (from 6.2), under which each allocation of an object is slow.
CONFIG = """\
CONFIG_64BIT=y
CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y
# CONFIG_CC_OPTIMIZE_FOR_SIZE is not set
CONFIG_SLUB=y
# CONFIG_SLOB is not set
# CONFIG_SLOB_DEPRECATED is not set
# CONFIG_SLUB_TINY is not set
CONFIG_SLAB_FREELIST_RANDOM=y
CONFIG_SLAB_FREELIST_HARDENED=y
CONFIG_COMPACTION=y
CONFIG_PRINTK=y
CONFIG_BUG=y
CONFIG_KALLSYMS=y
CONFIG_STDERR_CONSOLE=y
"""
SMP_CONFIG = """\
CONFIG_SMP=y
CONFIG_NR_CPUS=16
"""
# Without these the program would be another one than was asked for.
_ESSENTIAL = ("64BIT", "SLUB", "COMPACTION", "ZSMALLOC", "ZTRACE", "CC_OPTIMIZE_FOR_PERFORMANCE")


@dataclass(frozen=True)
class Program:
    """``binary`` is the kernel, ``release`` what it calls itself, ``kernel`` what the user does."""

    binary: Path
    release: str
    kernel: str


FROM_NOTHING = 480
"""About how many steps of make a kernel is where nobody has counted them yet."""


def steps(kernel: str, *, smp: bool = False) -> int | None:
    """How often :func:`build_program` will ``say`` something, by the last time.

    None where a part of it has been built, so that only make knows how much is left.
    """
    name = _folder_name(kernel, smp)
    if (cache_dir() / "program" / "trees" / name / "build" / "vmlinux.o").exists():
        return None
    return int(remembered(f"steps-{name}") or FROM_NOTHING)


def build_program(
    kernel: str,
    allocators: Sequence[Allocator],
    *,
    smp: bool = False,
    watched: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Program:
    """The kernel with all of ``allocators`` in it. ``say`` gets what is being done, line by line.
    ``watched``: it notes which blocks of the allocators are run (reached.py), can refuse them
    pages, and is slower.

    TracerError if something needed is missing, the kernel cannot be fetched, does not have what is
    asked for, or does not build; then with the compiler's first error.
    """
    if platform.machine() != "x86_64":
        raise TracerError("a kernel as a program needs an x86-64 machine; use --here")
    work = cache_dir() / "program" / "trees" / _folder_name(kernel, smp)
    work.mkdir(parents=True, exist_ok=True)
    # With one CPU and with several, Debian's source is the same folder.
    with _locked(cache_dir() / "program" / f"{_folder_name(kernel, False)}.lock"):
        source = find_source(kernel, work, say)
        config = CONFIG + (SMP_CONFIG if smp else "")
        state = [source.digest, config, player_digest(), _compiler()]
        state += [allocator.digest() for allocator in allocators]
        state += [WATCHED_FLAGS] * watched
        digest = hashlib.sha256("\0".join(state).encode()).hexdigest()[:32]

        def build(folder: Path) -> None:
            for tool in TOOLS:
                if shutil.which(tool) is None:
                    raise TracerError(f"{tool} not found; as root: apt install {PACKAGES}")
            _build(source, work / "build", config, allocators, watched, say)
            for name in ("linux", "include/config/kernel.release"):
                shutil.copy(work / "build" / name, folder / Path(name).name)

        folder = build_once(cache_dir() / "program" / "images" / digest, build)
    release = (folder / "kernel.release").read_text().strip()
    return Program(folder / "linux", release, kernel)


def _folder_name(kernel: str, smp: bool) -> str:
    """A user's tree is known by its path."""
    name = (
        kernel if "/" not in kernel and not Path(kernel).is_dir() else str(Path(kernel).resolve())
    )
    if "/" in name:
        name = f"{Path(name).name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return f"{name}-smp" if smp else name


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One build of a tree at a time, by whichever process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compiler() -> str:
    if shutil.which("gcc") is None:
        raise TracerError(f"gcc not found; as root: apt install {PACKAGES}")
    done = subprocess.run(["gcc", "--version"], capture_output=True, text=True)
    return done.stdout.partition("\n")[0]


def _build(
    source: Source,
    build: Path,
    config: str,
    allocators: Sequence[Allocator],
    watched: bool,
    say: Callable[[str], None],
) -> None:
    tree, unfinished = source.folder, build / "unfinished"
    if unfinished.exists():
        _drop_unfinished(build, unfinished)
    put_player(tree / PLAYER_FOLDER, allocators, tree, watched=watched)
    _put_into(tree)
    # The configuration is made once; make itself sees when Kconfig files have changed.
    asked = build / "asked"
    if not asked.is_file() or asked.read_text() != config:
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        say("configure")
        _make(source, build, ["tinyconfig"], allocators, say)
        with (build / ".config").open("a") as file:
            file.write(config)
        _make(source, build, ["olddefconfig"], allocators, say)
        _check_config(source, (build / ".config").read_text(), config)
        asked.write_text(config)
    jobs = len(os.sched_getaffinity(0))
    anew, said = not (build / "vmlinux.o").exists(), 0

    def count(line: str) -> None:
        nonlocal said
        said += 1
        say(line)

    unfinished.touch()
    try:
        _make(source, build, [f"-j{jobs}", "linux"], allocators, count)
    except TracerError:
        unfinished.unlink()  # make has ended by itself and left no half file
        raise
    unfinished.unlink()
    if anew:
        remember(f"steps-{build.parent.name}", said)


def _drop_unfinished(build: Path, unfinished: Path) -> None:
    """Remove what a make that was ended had written: of a half file it cannot tell that it is."""
    since = unfinished.stat().st_mtime_ns
    for path in build.rglob("*"):
        kept = path.name in (".config", "asked") or path.is_symlink() or not path.is_file()
        if not kept and path.stat().st_mtime_ns >= since:
            path.unlink()


def _put_into(tree: Path) -> None:
    """Have the player configured and compiled, and the allocators only as parts of it."""
    makefile, kconfig = tree / "mm" / "Makefile", tree / "mm" / "Kconfig"
    lines = [
        line
        for line in makefile.read_text().splitlines()
        # The player includes their source; twice in one kernel their symbols would clash.
        if not re.search(r"\+=\s*(zsmalloc|zbud|z3fold)\.o\s*$", line) and "ztrace/" not in line
    ]
    write_if_new(makefile, "\n".join([*lines, "obj-y += ztrace/", ""]).encode())
    added = f'source "{PLAYER_FOLDER}/Kconfig"\n'
    text = kconfig.read_text()
    if added not in text:
        write_if_new(kconfig, f"{text}\n{added}".encode())


def _check_config(source: Source, made: str, asked: str) -> None:
    wanted = [f"CONFIG_{name}=y" for name in _ESSENTIAL]
    wanted += [line for line in asked.splitlines() if line == "CONFIG_SMP=y"]
    for line in wanted:
        if f"\n{line}\n" not in made:
            why = "; only newer kernels can have several CPUs" if "SMP" in line else ""
            raise TracerError(f"kernel {source.name}: cannot be configured with {line}{why}")


def _make(
    source: Source,
    build: Path,
    targets: Sequence[str],
    allocators: Sequence[Allocator],
    say: Callable[[str], None],
) -> None:
    """Run make; TracerError with the first error if it fails. Nothing of it outlives this call."""
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        session_of(
            ["make", "-C", source.folder, f"O={build}", "ARCH=um", "SUBARCH=x86_64", *targets],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={
                **{k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")},
                "LC_ALL": "C",
            },
        ) as make,
    ):
        assert make.stdout is not None
        for line in make.stdout:
            say(line.strip())
        if make.wait():
            errors.seek(0)
            raise _failed(source, [line.rstrip() for line in errors], allocators)


_ERROR = re.compile(r"error:|undefined reference|multiple definition")
_UNTELLING = re.compile(r"^make|\*\*\*|warning:|^In file included|NOTE:")


def _failed(source: Source, said: Sequence[str], allocators: Sequence[Allocator]) -> TracerError:
    """Who is to blame, and the first thing that was said of it."""
    telling = [line for line in said if line.strip() and not _UNTELLING.search(line)]
    wrong = [line for line in said if _ERROR.search(line)]
    first = next(iter([*wrong, *telling, *said]), "make failed")
    first = re.sub(rf"^.*?{PLAYER_FOLDER}/(\.\./)?", "", first)
    for allocator in allocators:
        its = (f"{allocator.name}/", f"backend-{allocator.name}.")
        if allocator.given and first.startswith(its):
            first = re.sub(r"^\S+?:\((\S+)\): ", r"\1: ", first.removeprefix(its[0]))
            return TracerError(
                f"{allocator.given}: does not build in kernel {source.name}: {first}"
            )
    return TracerError(f"kernel {source.name}: does not build: {first}")
