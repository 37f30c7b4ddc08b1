# SPDX-License-Identifier: GPL-2.0-only
"""A kernel's source, without most of what a kernel for one program never compiles.

Either Debian's package of a release, or a copy of a user's own tree that follows it: what the user
has built in the tree, and where, does not matter, and nothing is written there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ztrace.tracer.children import run
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.cache import build_once, cache_dir
from ztrace.tracer.lab.debian import KERNELS, Apt

# What is left out: shell patterns in which * goes over folders, as tar has them. What only says
# how to configure and build (Kconfig, Makefile) stays, since other files include it.
_CODE = ("*.[chS]", "*.rst", "*.txt", "*.json", "*.yaml", "*.dts", "*.dtsi", "*.rs", "*.svg")
_PLACES = (
    *("Documentation", "samples", "sound", "net", "LICENSES", "rust"),
    # Of drivers: base, char and tty are compiled.
    *("drivers/[!bct]*", "drivers/b[!a]*", "drivers/c[!h]*", "drivers/t[!t]*"),
    *("arch/[!ux]*", "tools/perf", "tools/testing", "tools/power"),
)
SPARED = tuple(f"{place}/{code}" for place in _PLACES for code in _CODE)

# What a build leaves in a user's tree, and what git keeps there.
_BUILT = (
    "*.o",
    "*.a",
    "*.ko",
    "*.cmd",
    "*.mod",
    "*.mod.c",
    "*.d",
    ".config*",
    ".tmp*",
    "vmlinux",
    "vmlinux.o",
)
_BUILT_FOLDERS = (
    *(".git", "include/config", "include/generated"),
    *("arch/*/include/generated", "arch/um/include/uapi/generated"),
)

PLAYER_FOLDER = "mm/ztrace"
"""Where the player is put in a source; nothing of a user's tree may be there."""


@dataclass(frozen=True)
class Source:
    """``folder``: the source. ``digest`` changes when a file of it does. ``name`` is the user's."""

    folder: Path
    digest: str
    name: str


def find_source(kernel: str, work: Path, say: Callable[[str], None]) -> Source:
    """The source that ``--kernel`` names: a release of the lab, or the folder of a tree.

    ``work``: an own folder for the copy of a user's tree, which is brought up to date. ``say``
    gets what is being done. TracerError if there is no such kernel or it cannot be fetched.
    """
    if kernel in KERNELS:
        return _debian(kernel, say)
    tree = Path(kernel).expanduser()
    if not tree.is_dir():
        raise TracerError(
            f"no kernel {kernel!r}; give {', '.join(KERNELS)}, or the folder of a kernel's source"
        )
    for needed in ("Kconfig", "mm/Makefile", "arch/um/Makefile"):
        if not (tree / needed).is_file():
            raise TracerError(f"{tree}: not a kernel's source: it has no {needed}")
    say(f"look at {tree}")
    return Source(work / "source", follow(tree, work / "source"), str(tree))


def _debian(release: str, say: Callable[[str], None]) -> Source:
    target = cache_dir() / "program" / "source" / release
    package = f"linux-source-{release}"

    def build(folder: Path) -> None:
        say(f"fetch {package}")
        apt = Apt(cache_dir() / "apt" / release, KERNELS[release].sources)
        fetched = folder / ".package"
        fetched.mkdir()
        apt.unpack([package], fetched)
        [archive] = (fetched / "usr" / "src").glob("*.tar.*")
        say(f"unpack {package}")
        done = run(
            [
                *("tar", "-x", "-f", str(archive), "-C", str(folder)),
                *("--wildcards", "--wildcards-match-slash", "--strip-components=1"),
                *(f"--exclude={package}/{pattern}" for pattern in SPARED),
            ]
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise TracerError(
                f"{archive.name}: cannot unpack: {said[-1] if said else 'tar failed'}"
            )
        shutil.rmtree(fetched)

    return Source(build_once(target, build), f"debian {release}", release)


def follow(tree: Path, copy: Path) -> str:
    """Make ``copy`` the same as ``tree`` in all that is kept; returns a digest of its state.

    A file that has not changed is not touched, so that make compiles what has.
    """
    digest = hashlib.sha256()
    there: set[str] = set()
    for name, stat in _files(tree):
        there.add(name)
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        target = copy / name
        try:
            old = target.lstat()
            if (old.st_size, old.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                continue
            target.unlink()
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / name, target, follow_symlinks=False)
    for name, _ in _files(copy):
        if name not in there and not name.startswith(f"{PLAYER_FOLDER}/"):
            (copy / name).unlink()
    return digest.hexdigest()


def _files(tree: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(path below the tree, its state) of each file that is kept, in order."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(tree / folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder or tree.is_dir():
                raise TracerError(f"{tree / folder}: {error.strerror}") from error
            return  # a copy that is not there yet
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not _IS_BUILT_FOLDER.fullmatch(name):
                    folders.append(name)
            elif not (_IS_BUILT.fullmatch(entry.name) or _IS_SPARED.fullmatch(name)):
                yield name, entry.stat(follow_symlinks=False)


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


_IS_SPARED, _IS_BUILT, _IS_BUILT_FOLDER = map(_any_of, (SPARED, _BUILT, _BUILT_FOLDERS))
