# SPDX-License-Identifier: GPL-2.0-only
"""By which name a kernel function can be probed: compilers rename some, and names are not unique.

Clang's link-time optimisation appends ``.llvm.N`` to a static function that another unit uses;
its arguments stay. GCC's clones (``.isra.N``, ``.constprop.N``, ``.part.N``) take others, or are
a part of the function only: a probe on one would read the wrong registers.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ztrace.tracer.errors import TracerError

TRACEABLE = Path("/sys/kernel/tracing/available_filter_functions")
TRACEABLE_OLD = Path("/sys/kernel/debug/tracing/available_filter_functions")
KALLSYMS = Path("/proc/kallsyms")
LOCKDOWN = Path("/sys/kernel/security/lockdown")

KEEPS_ARGUMENTS = re.compile(r"\.llvm\.\d+")

# What a compiler appends -> what became of the function.
CHANGES = {
    "isra": "an argument is gone or passed in parts",
    "constprop": "an argument that is always the same is gone",
    "part": "only a part of the function",
    "cold": "only its unlikely part",
}


class UnreadableError(TracerError):
    """The list of traceable functions cannot be read. ``remedy``: what mends that."""

    def __init__(self, where: Path, found: str, remedy: str) -> None:
        super().__init__(f"{where}: {found}; {remedy}")
        self.found, self.remedy = found, remedy


@dataclass(frozen=True)
class Resolved:
    """How a function is found. ``name``: to attach a probe by, empty if none can be.

    ``reason`` then says why; ``exists``: the kernel has it all the same, in some form.
    ``unseen``: clones beside it, calls of which a probe on ``name`` does not see.
    """

    name: str = ""
    reason: str = ""
    exists: bool = False
    unseen: str = ""


class Symbols:
    """The functions of a kernel: those a kprobe can be put on, and all that it has by name."""

    def __init__(self, traceable: Iterable[str], kallsyms: str = "") -> None:
        """``kallsyms``: text of /proc/kallsyms; without it, only traceable functions are known."""
        self.traceable = frozenset(traceable)
        self._kallsyms = kallsyms

    @cached_property
    def plain(self) -> frozenset[str]:
        """Names of functions as in the source that are traceable with their own arguments."""
        stems = (KEEPS_ARGUMENTS.sub("", name) for name in self.traceable)
        return frozenset(stem for stem in stems if "." not in stem)

    def resolve(self, symbol: str) -> Resolved:
        """Find the function that is called ``symbol`` in the source."""
        listed = self._listed(symbol)
        clones = sorted({name for name in listed if not _same_function(name, symbol)})
        same = [name for name in listed if _same_function(name, symbol)]
        if len(same) > 1:
            return Resolved(reason=f"{len(same)} functions of that name", exists=True)
        if same and same[0] in self.traceable:
            changed = [name for name in clones if _changed(name) in ("isra", "constprop")]
            return Resolved(same[0], exists=True, unseen=", ".join(changed))
        if same:
            return Resolved(reason="in this kernel, but not traceable", exists=True)
        if clones:
            # The part that is not cold tells more.
            told = min(clones, key=lambda name: ("cold" in name.split("."), name))
            why = CHANGES.get(_changed(told), "perhaps with other arguments")
            return Resolved(reason=f"compiled as {told}: {why}", exists=True)
        return Resolved(
            reason="not in this kernel: of another release, inlined, or a module not loaded"
        )

    def _listed(self, symbol: str) -> list[str]:
        """Names that are ``symbol`` or made of it by a compiler, once for each function."""
        pattern = re.compile(rf" {re.escape(symbol)}((?:\.\S+)?)(?=\s|$)", re.MULTILINE)
        found = [
            symbol + match[1]
            for match in pattern.finditer(self._kallsyms)
            if self._kallsyms[match.start() - 1] in "tTwW"
        ]
        names = {symbol, *(name for name in self._renamed if name.startswith(f"{symbol}."))}
        return found + sorted((names & self.traceable) - set(found))

    @cached_property
    def _renamed(self) -> list[str]:
        return [name for name in self.traceable if "." in name]


def _same_function(name: str, symbol: str) -> bool:
    return KEEPS_ARGUMENTS.sub("", name) == symbol


def _changed(name: str) -> str:
    """The first thing that a compiler appended, but for what keeps arguments."""
    return KEEPS_ARGUMENTS.sub("", name).split(".")[1]


def running_symbols() -> Symbols:
    """Those of the running kernel. UnreadableError where its traceable functions are not told."""
    try:
        kallsyms = KALLSYMS.read_text(errors="replace")
    except OSError:
        kallsyms = ""
    return Symbols(_traceable_functions(), kallsyms)


def _traceable_functions() -> frozenset[str]:
    failures = []
    for path in (TRACEABLE, TRACEABLE_OLD):
        try:
            text = path.read_text()
        except OSError as error:
            failures.append((path, error))
            continue
        return frozenset(line.partition(" ")[0] for line in text.splitlines())
    refused = [one for one in failures if one[1].errno in (errno.EACCES, errno.EPERM)]
    path, failure = (refused or failures)[0]
    raise UnreadableError(path, *_why_unreadable(path, failure))


def _why_unreadable(path: Path, error: OSError) -> tuple[str, str]:
    """What is wrong with the list of traceable functions, and what to do."""
    said = os.strerror(error.errno) if error.errno else str(error)
    if error.errno not in (errno.EACCES, errno.EPERM):
        if error.errno == errno.ENOENT and _is_mounted(path.parent):
            return (
                "tracefs is mounted, but does not list functions",
                "boot a kernel with CONFIG_DYNAMIC_FTRACE",
            )
        return f"cannot be read ({said})", f"as root: mount -t tracefs tracefs {path.parent}"
    if os.geteuid() != 0:
        return f"only root may read it ({said})", "run it as root: sudo ztrace …"
    if locked_down():
        return (
            f"the kernel is locked down ({said})",
            "boot without lockdown=confidentiality, or without secure boot",
        )
    return (
        f"forbidden even to root ({said})",
        "run it outside of the container or security policy that forbids it",
    )


def _is_mounted(folder: Path) -> bool:
    return (folder / "trace").exists()


def locked_down() -> bool:
    """Whether the kernel's lockdown hides kernel memory, from tracing and from BPF, too."""
    try:
        return "[confidentiality]" in LOCKDOWN.read_text()
    except OSError:
        return False
