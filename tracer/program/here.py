# SPDX-License-Identifier: GPL-2.0-only
"""The same replay in the running kernel: a module that plays as it is loaded, and never stays."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ztrace.tracer.children import Word, run, uninterrupted
from ztrace.tracer.errors import TracerError
from ztrace.tracer.kmod import running_headers
from ztrace.tracer.program.allocators import Allocator, put_module
from ztrace.tracer.program.files import Answers, Plan, read_answers, write_plan
from ztrace.tracer.program.guest import Listener

_DISABLED = Path("/proc/sys/kernel/modules_disabled")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_SIGNED_ONLY = Path("/sys/module/module/parameters/sig_enforce")
_LOG = Path("/dev/kmsg")
# A compiler that is not there is said by the shell.
_ERROR = re.compile(r"error:|undefined!|: not found|version .* not found")
PAGE_BYTES = 4096


def refuse_locked() -> None:
    """TracerError where a module cannot be loaded, with the reason."""
    if os.geteuid() != 0:
        raise TracerError("--here loads a module into the running kernel; run it as root")
    if _text(_DISABLED) == "1":
        raise TracerError(f"this kernel takes no more modules ({_DISABLED} is 1)")
    if re.search(r"\[(integrity|confidentiality)\]", _text(_LOCKDOWN)):
        raise TracerError(f"this kernel is locked down ({_LOCKDOWN}): it takes no module of ours")
    if _text(_SIGNED_ONLY) == "Y":
        raise TracerError(f"this kernel takes signed modules only ({_SIGNED_ONLY} is Y)")
    if shutil.which("insmod") is None:
        raise TracerError("insmod not found; as root: apt install kmod")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def include_folder(headers: Path) -> Path:
    """Where a build folder's <linux/…> is: in it, or in the one that its Makefile includes."""
    if not (headers / "Makefile").is_file():
        raise TracerError(
            f"{headers}: no kernel headers; as root: apt install linux-headers-$(uname -r)"
        )
    folder = headers
    if not (folder / "include" / "linux" / "module.h").is_file():
        included = re.search(r"^include (\S+)/Makefile", (headers / "Makefile").read_text(), re.M)
        if included:
            folder = headers.resolve() / included[1]
    return folder / "include"


def build_here(
    allocator: Allocator, headers: Path, folder: Path, *, within: Sequence[Word] = ()
) -> Path:
    """Compile the module against ``headers`` in an empty ``folder``; TracerError with the
    compiler's first error if it does not build. ``within``: words before make's own, by which it
    runs in another root."""
    for tool in ("make", "gcc"):
        if shutil.which(tool) is None:
            raise TracerError(f"{tool} not found; as root: apt install make gcc")
    module = put_module(folder, allocator, include_folder(headers))
    done = run(
        # Type information of the module itself, which needs pahole, is of use to nobody.
        [*within, "make", "-C", headers, f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    )
    path = folder / f"{module}.ko"
    if done.returncode or not path.exists():
        said = (done.stderr + done.stdout).splitlines()
        wrong = [line for line in said if _ERROR.search(line)]
        first = next(
            iter([*wrong, *(line for line in said if "***" in line), *said]), "make failed"
        )
        what = allocator.given or allocator.name
        raise TracerError(
            f"{what}: does not build against {headers}: {first.removeprefix(f'{folder}/')}"
        )
    return path


def play_here(
    allocator: Allocator,
    plan: Plan,
    rounds: int,
    *,
    advance: Callable[[int], object] = lambda calls: None,
) -> Answers:
    """Play a plan in the running kernel, on the first CPUs that this process may use.

    ``held_pages`` of the answers are the pool's own figure: of a running machine's free pages
    nothing can be told. TracerError as of :func:`ztrace.tracer.program.guest.play`.
    """
    refuse_locked()
    release = os.uname().release
    with tempfile.TemporaryDirectory(prefix="ztrace-") as name:
        scratch = Path(name)
        (scratch / "module").mkdir()
        module = build_here(allocator, running_headers(), scratch / "module")
        plan_path, answers = scratch / "plan", scratch / "answers"
        write_plan(plan, rounds, plan_path)
        listener = Listener(f"{allocator.name} in the running kernel {release}", advance)
        if allocator.is_own and allocator.name == "zsmalloc":
            # Where it is built in there is no such module.
            subprocess.run(["modprobe", "-q", "zsmalloc"], check=False)
        with _log() as lines:
            status, said = _load(module, allocator.name, plan_path, answers)
            for line in lines():
                listener.hear(line)
        if not listener.finished or not answers.exists():
            if status < 0:
                raise listener.failure("killed as the kernel said")
            if not listener.error and not listener.dying:
                raise TracerError(f"{module.name}: cannot be loaded: {said}")
            raise listener.failure()
        found = read_answers(answers, plan)
    pages = (found.total_bytes // np.uint64(PAGE_BYTES)).astype(np.uint32)
    return replace(found, held_pages=pages)


def _load(module: Path, allocator: str, plan: Path, answers: Path) -> tuple[int, str]:
    """Load the module, which plays meanwhile; insmod's status and what it said.

    Its last word is ECANCELED: it has done what it was loaded for. An interrupt makes it stop.
    """
    cpu = min(os.sched_getaffinity(0))
    insmod: subprocess.Popen[str] | None = None
    try:
        with uninterrupted():
            insmod = subprocess.Popen(
                ["insmod", module, f"allocator={allocator}", f"plan={plan}", f"answers={answers}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        _, said = insmod.communicate()
    except BaseException:
        if insmod is not None:
            insmod.terminate()
            insmod.wait()
        raise
    done = os.strerror(errno.ECANCELED)
    return insmod.returncode, "" if done in said else said.strip()


@contextlib.contextmanager
def _log() -> Iterator[Callable[[], list[str]]]:
    """What the kernel logs within the block, as lines without their marks."""
    fd = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)

    def lines() -> list[str]:
        found: list[str] = []
        while True:
            try:
                record = os.read(fd, 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # overwritten before it was read
            found.append(record.decode(errors="replace").partition(";")[2].partition("\n")[0])

    try:
        yield lines
    finally:
        os.close(fd)
