# SPDX-License-Identifier: GPL-2.0-only
"""Allocators to be compiled with the player: the kernel's own files and a user's.

Each gets a small C file that includes its source between the shim of <linux/zpool.h> and the loop
that plays calls; so the source is compiled as it is, and its static functions can be called.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from ztrace.tracer.errors import TracerError
from ztrace.tracer.kmod import LIMIT_BYTES, read_source, read_text
from ztrace.tracer.program.patching import changed_files, patched

NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")

ZSMALLOC = "zsmalloc"
Z3FOLD = "z3fold"

# What <linux/zsmalloc.h> of a kernel may declare; which of them it does decides how objects are
# read and written. map_object went in 6.15; reading through a scatter list came in 7.0.
_ZSMALLOC_FUNCTIONS = ("zs_map_object", "zs_obj_read_sg_begin")


@dataclass(frozen=True)
class Allocator:
    """``name``, and where its source is if it is the user's: ``files`` by name, ``main`` the
    one that registers the driver; ``given`` is the path for messages. None of them: the kernel's.
    ``diff``: a change of the kernel's own, to be applied to that; see :meth:`in_tree`.
    """

    name: str
    given: str | None = None
    main: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    diff: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is the kernel's own."""
        return self.main is None

    def digest(self) -> str:
        """Of all that the user gave."""
        state = hashlib.sha256(f"{self.name}\0{self.main}\0{self.diff}\0".encode())
        for name, content in sorted(self.files.items()):
            state.update(f"{name}\0{len(content)}\0".encode())
            state.update(content)
        return state.hexdigest()

    def in_tree(self, tree: Path) -> Allocator:
        """Itself, with its diff applied to the file of a kernel's source. TracerError if that is
        not there, or does not fit."""
        if self.diff is None:
            return self
        assert self.given is not None and self.main is not None
        path = tree / "mm" / self.main
        if not path.is_file():
            raise TracerError(f"{self.given}: changes mm/{self.main}, which this kernel has not")
        source = patched(self.diff, f"mm/{self.main}", path.read_text(), self.given)
        return replace(self, files={self.main: source.encode()})


def parse(text: str) -> Allocator:
    """``NAME`` or ``NAME=FILE_OR_FOLDER``; TracerError if there is nothing to compile in it.

    A file is a .c file, or a mail or diff that adds one or changes the kernel's mm/NAME.c; a folder
    has NAME.c, or one .c file, and its headers.
    """
    name, equals, given = text.partition("=")
    if not NAME.fullmatch(name) or (equals and not given):
        raise TracerError(
            f"no allocator {text!r}; write NAME for the kernel's own, NAME=FILE for a file of yours"
        )
    if not equals:
        return Allocator(name)
    path = Path(given).expanduser()
    if path.is_dir():
        return _from_folder(name, path)
    if path.suffix != ".c" and (diff := _change(path, name)) is not None:
        return Allocator(name, given, f"{name}.c", diff=diff)
    _, source = read_source(path)
    return Allocator(name, given, f"{name}.c", {f"{name}.c": source.encode()})


def _change(path: Path, name: str) -> str | None:
    """The diff in a file if it changes mm/NAME.c; TracerError if it changes other code, too."""
    text = read_text(path)
    changed = changed_files(text)
    if f"mm/{name}.c" not in changed:
        return None
    others = [one for one in changed if one.endswith((".c", ".h")) and one != f"mm/{name}.c"]
    if others:
        raise TracerError(
            f"{path}: changes {others[0]}, too; apply it to a tree and give that: --kernel TREE"
        )
    return text


def _from_folder(name: str, folder: Path) -> Allocator:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".c", ".h")]
    sources = [path.name for path in paths if path.suffix == ".c"]
    main = f"{name}.c" if f"{name}.c" in sources else sources[0] if len(sources) == 1 else None
    if main is None:
        raise TracerError(
            f"{folder}: {len(sources)} .c files, none is called {name}.c; which one is {name}?"
        )
    if sum(path.stat().st_size for path in paths) > LIMIT_BYTES:
        raise TracerError(f"{folder}: too large for one allocator")
    return Allocator(name, str(folder), main, {path.name: path.read_bytes() for path in paths})


def player_digest() -> str:
    """Of the player's own files: they are part of what is built."""
    state = hashlib.sha256()
    for name in PLAYER:
        state.update(_file(name))
    return state.hexdigest()


SHARED = (
    *("play.h", "loop.h", "locks.h", "pages.h", "queue.h", "zpool_backend.h"),
    *("z3fold_backend.h", "zsmalloc_backend.h", "play.c"),
)
SHIM = "linux/zpool.h"
# Marks are found by their calls: direct ones, as there are in the lowest 2 GiB, where this program
# is, and none that is a function's last jump.
WATCHED_FLAGS = (
    "-g -fsanitize-coverage=trace-pc -mcmodel=small -fno-optimize-sibling-calls "
    "-DZTRACE_REFUSES_PAGES"
)
PLAYER = (*SHARED, SHIM, "program.c", "reached.c", "zsmalloc_inside.h")
MODULE = (*SHARED, "box.c", "source_in_module.h", "zsmalloc_exported.h")


def put_player(
    folder: Path, allocators: Iterable[Allocator], tree: Path, *, watched: bool = False
) -> None:
    """Fill ``folder``, which is mm/ztrace of the kernel's source ``tree``, with all to compile.

    ``watched``: so that it notes which blocks of the allocators are run (reached.py), and can
    refuse them pages.
    A file that is as it was is not written, so that make leaves it alone. TracerError if an
    allocator's source is not there or has no driver in it.
    """
    wanted: dict[str, bytes] = {}
    for name in PLAYER:
        wanted[name] = _file(name)
    objects = ["play.o", "program.o", *(["reached.o"] if watched else [])]
    flags = []
    for allocator in (one.in_tree(tree) for one in allocators):
        for name, content in allocator.files.items():
            wanted[f"{allocator.name}/{name}"] = content
        wanted[f"backend-{allocator.name}.c"] = _backend(allocator, tree).encode()
        objects.append(f"backend-{allocator.name}.o")
        if watched:
            flags.append(f"CFLAGS_{objects[-1]} := {WATCHED_FLAGS}\n")
    wanted["Kconfig"] = b"config ZTRACE\n\tdef_bool y\n\tselect ZSMALLOC\n"
    wanted["Makefile"] = (
        "# The shim stands before the kernel's own zpool.h; files of mm/ are at hand as in mm/.\n"
        "LINUXINCLUDE := -I$(srctree)/mm/ztrace $(LINUXINCLUDE) -I$(srctree)/mm\n"
        f"obj-y := {' '.join(objects)}\n{''.join(flags)}"
    ).encode()
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_file() and str(path.relative_to(folder)) not in wanted:
            path.unlink()
    for name, content in wanted.items():
        write_if_new(folder / name, content)


def write_if_new(path: Path, content: bytes) -> None:
    """Write a file unless it has that content, so that its time says when it changed."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _backend(allocator: Allocator, tree: Path) -> str:
    """The C file that includes an allocator's source."""
    name = allocator.name
    if allocator.is_own:
        path = tree / "mm" / f"{name}.c"
        if not path.is_file():
            raise TracerError(
                f"no mm/{name}.c in this kernel; give the file: --allocator {name}=FILE"
            )
        source, include = path.read_text(errors="replace"), f"../{name}.c"
    else:
        assert allocator.main is not None
        source = allocator.files[allocator.main].decode(errors="replace")
        include = f"{name}/{allocator.main}"
    lines = ["/* SPDX-License-Identifier: GPL-2.0-only */"]
    if name == ZSMALLOC:
        lines += _zsmalloc_functions(tree / "include" / "linux" / "zsmalloc.h")
        lines += ["#define _ZPOOL_H_ /* it is called by its own functions */"]
        lines += ['#include "locks.h"', '#include "pages.h"', f'#include "{include}"']
        lines += ['#include "play.h"']
        lines += ['#include "zsmalloc_backend.h"', '#include "zsmalloc_inside.h"']
        return "\n".join(lines) + "\n"
    where = allocator.given or f"mm/{name}.c"
    return "\n".join([*lines, *_driver(name, source, include, where)]) + "\n"


def _driver(name: str, source: str, include: str, where: str) -> list[str]:
    """Lines around the source of a driver of the zpool API, of whichever year."""
    create, malloc = arguments(source, "create"), arguments(source, "malloc")
    if create not in (2, 4) or malloc not in (4, 5):
        raise TracerError(f"{where}: no struct zpool_driver with create and malloc in it")
    lines = [
        f'#define ZTRACE_NAME "{name}"',
        f"#define ZTRACE_CREATE_ARGUMENTS {create}",
        f"#define ZTRACE_MALLOC_ARGUMENTS {malloc}",
        '#include "queue.h"',
        '#include "locks.h"',
        '#include "pages.h"',
        "#include <linux/migrate.h>",
    ]
    if re.search(r"^#define\s+pr_fmt", source, re.MULTILINE):
        lines.append("#undef pr_fmt /* the source has its own */")
    if name == Z3FOLD:
        lines += [f'#define ZTRACE_SOURCE "{include}"', '#include "z3fold_backend.h"']
    else:
        lines.append(f'#include "{include}"')
    return [*lines, '#include "play.h"', '#include "zpool_backend.h"']


def put_module(folder: Path, allocator: Allocator, include: Path) -> str:
    """Fill ``folder`` with a module that plays into one allocator of a running kernel, whose header
    files are in ``include``; returns the module's name. TracerError as of put_player()."""
    name = allocator.name
    if allocator.diff is not None:
        raise TracerError(
            f"{allocator.given}: changes the kernel's source, which is not at hand here; give the "
            "whole file, or leave --here out"
        )
    module = f"ztrace_{name}"
    wanted = {one: _file(one) for one in MODULE}
    lines = ["/* SPDX-License-Identifier: GPL-2.0-only */"]
    if not allocator.is_own:
        assert allocator.main is not None and allocator.given is not None
        wanted[SHIM] = _file(SHIM)
        wanted |= {f"{name}/{one}": content for one, content in allocator.files.items()}
        source = allocator.files[allocator.main].decode(errors="replace")
        lines.append('#include "source_in_module.h"')
        lines += _driver(name, source, f"{name}/{allocator.main}", allocator.given)
        if "module_exit(" not in source:
            lines.append("void ztrace_source_end(void)\n{\n}")
    elif name == ZSMALLOC:
        lines += _zsmalloc_functions(include / "linux" / "zsmalloc.h")
        lines += ['#include "locks.h"', '#include "pages.h"', '#include "zsmalloc_backend.h"']
        lines.append('#include "zsmalloc_exported.h"')
    else:
        lines += _driver_of_running_kernel(name, include / "linux" / "zpool.h")
    wanted[f"backend-{name}.c"] = ("\n".join(lines) + "\n").encode()
    wanted["Kbuild"] = (
        f"LINUXINCLUDE := -I{folder} $(LINUXINCLUDE)\n"
        f"obj-m := {module}.o\n{module}-y := play.o box.o backend-{name}.o\n"
    ).encode()
    for one, content in wanted.items():
        write_if_new(folder / one, content)
    return module


def _file(name: str) -> bytes:
    return files("ztrace.tracer.program").joinpath(f"kernel/{name}").read_bytes()


def _zsmalloc_functions(header: Path) -> list[str]:
    text = header.read_text(errors="replace")
    return [f"#define ZTRACE_HAS_{name}" for name in _ZSMALLOC_FUNCTIONS if f"{name}(" in text]


def _driver_of_running_kernel(name: str, header: Path) -> list[str]:
    """Lines for a driver that the running kernel has registered."""
    if not header.is_file():
        raise TracerError(f"no {name} in the running kernel, which has no zpool; give a FILE")
    text = header.read_text(errors="replace")

    def taken(callback: str) -> int:
        declared = re.search(rf"\(\*{callback}\)\s*\(([^;]*)\);", text)
        return declared[1].count(",") + 1 if declared else 0

    has = [name for name in ("map", "shrink", "total_size") if f"(*{name})" in text]
    return [
        f'#define ZTRACE_NAME "{name}"',
        "#define ZTRACE_OF_RUNNING_KERNEL",
        f"#define ZTRACE_CREATE_ARGUMENTS {taken('create')}",
        f"#define ZTRACE_MALLOC_ARGUMENTS {taken('malloc')}",
        *(f"#define ZTRACE_HAS_{callback}" for callback in has),
        *(
            ["#define ZTRACE_QUEUES", "#define ZTRACE_EVICTS_BY_OTHER_HANDLES true"]
            if name == Z3FOLD
            else []
        ),
        *(f"#include <linux/{one}.h>" for one in ("delay", "module", "zpool")),
        *(
            '#include "queue.h"',
            '#include "locks.h"',
            '#include "pages.h"',
            '#include "zpool_backend.h"',
        ),
    ]


def arguments(source: str, callback: str) -> int:
    """How many arguments the function takes that a driver's table has as ``callback``; 0: none."""
    table = re.search(r"struct\s+zpool_driver\s+\w+\s*=\s*\{(.*?)\};", source, re.DOTALL)
    named = re.search(rf"\.{callback}\s*=\s*&?(\w+)", table[1]) if table else None
    if named is None:
        return 0
    # The definition, not a call: what follows the arguments is its body.
    defined = re.search(rf"\b{named[1]}\s*\(([^()]*)\)\s*\{{", source)
    return defined[1].count(",") + 1 if defined else 0
