# SPDX-License-Identifier: GPL-2.0-only
"""Build the posted ztree as a module: the .c file out of the mail, then the kernel's own kbuild.

ztrace ships no kernel code; the patch is the user's file.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ztrace.tracer.errors import TracerError

NEW_FILE = re.compile(r"^\+\+\+ b/(?P<path>\S+\.c)\s*$")
TABLE = re.compile(r"^(?P<name>[^\n]*\btree_desc\[\])\s*=\s*\{.*?^\};", re.MULTILINE | re.DOTALL)
HUNK = re.compile(r"^@@ -0,0 \+1(?:,(?P<lines>\d+))? @@")
LIMIT_BYTES = 16 << 20


def read_text(path: Path) -> str:
    """A mail, a diff or a .c file. TracerError if it cannot be read, or is something else."""
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise TracerError(f"{path}: too large for a patch")
        return path.read_text()
    except OSError as error:
        raise TracerError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TracerError(f"{path}: not a text file") from error


def read_source(path: Path) -> tuple[str, str]:
    """The module's (name, C source) from a mail or diff that adds one .c file, or from a .c file.

    The mail may be as a list archive shows it. TracerError if there is no such file in it.
    """
    text = read_text(path)
    if path.suffix == ".c":
        return path.stem, text
    lines = iter(text.splitlines())
    for line in lines:
        new_file = NEW_FILE.match(line)
        if not new_file:
            continue
        hunk = HUNK.match(next(lines, ""))
        if not hunk:
            continue  # a change to a file that exists already, not a new one
        name = Path(new_file["path"]).stem
        count = int(hunk["lines"] or 1)
        added = [line for _, line in zip(range(count), lines, strict=False)]
        if len(added) < count or not all(line.startswith("+") for line in added):
            raise TracerError(f"{path}: cut short inside {new_file['path']}")
        return name, "".join(f"{line[1:]}\n" for line in added)
    raise TracerError(f"{path}: adds no .c file; give the mail, its diff, or the .c file itself")


def with_table(source: str, initialiser: str, where: Path) -> str:
    """The module's source with another initialiser, in C, of its block table ``tree_desc[]``.

    TracerError if there is not exactly one such table in it; ``where`` is for its message.
    """
    changed, found = TABLE.subn(lambda match: f"{match['name']} = {initialiser};", source)
    if found != 1:
        raise TracerError(f"{where}: {found or 'no'} block table tree_desc[] in it, not one")
    return changed


def running_headers() -> Path:
    """The running kernel's build folder."""
    return Path("/lib/modules") / platform.release() / "build"


def build_module(patch: Path, headers: Path, output: Path, *, table: str | None = None) -> Path:
    """Compile the module against ``headers`` into folder ``output``; returns the .ko's path.

    ``table``: C initialiser of another block table than the source has. TracerError with the
    compiler's first complaint if it does not build.
    """
    name, source = read_source(patch)
    if table is not None:
        source = with_table(source, table, patch)
    if shutil.which("make") is None or shutil.which("gcc") is None:
        raise TracerError("gcc or make not found; as root: apt install gcc make")
    if not (headers / "Makefile").exists():
        raise TracerError(
            f"{headers}: no kernel headers; as root: apt install linux-headers-$(uname -r)"
        )
    with tempfile.TemporaryDirectory(prefix="ztrace-kmod-") as scratch:
        work = Path(scratch)
        (work / f"{name}.c").write_text(source)
        (work / "Makefile").write_text(f"obj-m := {name}.o\n")
        done = subprocess.run(
            ["make", "-C", headers, f"M={work}", "modules"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        module = work / f"{name}.ko"
        if done.returncode or not module.exists():
            why = _why_not(done.stderr + done.stdout, source, headers)
            raise TracerError(f"{patch}: does not build against {headers}: {why}")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(module, output / module.name))


def _why_not(said: str, source: str, headers: Path) -> str:
    """Why a module does not build, from what make and the compiler said."""
    if "linux/zpool.h" in source and not _has_header(headers, "linux/zpool.h"):
        return "zpool is gone from that kernel (Linux 6.18 removed it)"
    # struct zpool_ops and zpool_driver.shrink, by which a pool evicted its own objects.
    if re.search(r"error: .*(struct zpool_ops|no member named .shrink)", said):
        return "its zpool is another one: since Linux 6.5 allocators do not evict by themselves"
    telling = re.compile(r"error:|\*\*\* \S|: not found")
    errors = [line for line in said.splitlines() if telling.search(line)]
    return " / ".join(errors[:2]) or "make failed"


def _has_header(headers: Path, name: str) -> bool:
    """Whether a kernel's build folder, or the one that its Makefile goes on in, has a header."""
    text = (headers / "Makefile").read_text(errors="replace")
    more = re.findall(r"^include (\S+)/Makefile$", text, re.MULTILINE)
    folders = [headers, headers / "source", *(headers / folder for folder in more)]
    return any((folder / "include" / name).exists() for folder in folders)
