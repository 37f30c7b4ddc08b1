# SPDX-License-Identifier: GPL-2.0-only
"""Boot a guest on this machine's own root, read-only, run one script in it, wait for its end."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.cache import build_once, cache_dir
from ztrace.tracer.lab.debian import Kernel, fetch_busybox
from ztrace.tracer.lab.initramfs import Modules, build_initramfs, unpack_kernel

# What a guest needs before it has a root; names that a kernel has built in are left out.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "9p", "9pnet_virtio", "overlay")

QEMU = "qemu-system-x86_64"

BOOTS = 3
"""How often a guest is booted that dies before its job began: an emulated CPU that gets no time
for seconds may make a kernel panic as it sets up its CPUs and timers, which tells nothing of it."""

CONSOLES_KEPT = 20
BEGAN, NOTES = "began", "notes"


@dataclass(frozen=True)
class GuestSize:
    """The guest's machine. Sizes in MiB.

    ``counted``: while its CPU, then its only one, is busy, its clock advances by 1 ns for each
    instruction, so that times in it are figures of work, the same on any machine under any load.
    """

    cpus: int = 1
    memory_mib: int = 700
    swap_mib: int = 1024
    counted: bool = False


def run_guest(
    kernel: Kernel,
    job: Path,
    size: GuestSize,
    modules: Iterable[str] = (),
    *,
    timeout_s: float = 1800,
    watch: Callable[[str], None] = lambda line: None,
    stage: Callable[[str], None] = lambda line: None,
) -> int:
    """Run ``job``/run as root in a guest of ``kernel``; returns its exit status.

    Folder ``job`` is /job in the guest, writable; the swap disk is /dev/vda. ``modules`` are
    loaded at boot. ``watch`` is called with each new line of job/log, ``stage`` with what is done
    meanwhile. A guest that ends before its job began is booted again, up to BOOTS times, which
    ``stage`` and :func:`notes` tell. TracerError if QEMU is missing or the guest ends without a
    status: with the panic's own line, and where the console is kept.
    """
    if shutil.which(QEMU) is None:
        raise TracerError(f"{QEMU} not found; as root: apt install qemu-system-x86")
    image = _kernel_image(kernel, stage)
    # The job's own: guests of one kernel that boot at the same time differ in their modules.
    archive = job / "initramfs"
    archive.write_bytes(_initramfs(kernel, modules, stage))
    try:
        boot = 0
        while True:
            boot += 1
            stage(f"booting {kernel.release}; CPUs: {size.cpus}, memory: {size.memory_mib} MiB")
            _boot(kernel, image, archive, job, size, timeout_s, watch)
            try:
                return int((job / "status").read_text())
            except (OSError, ValueError):
                died = last_words(job / "console")
            kept = _keep_console(job / "console", kernel.release)
            began = (job / BEGAN).exists()
            if began or boot == BOOTS:
                when = "without a result" if began else f"{BOOTS} times before the job began"
                raise TracerError(f"the guest ended {when}: {died}; its console is in {kept}")
            note = f"the guest ended before the job began: {died}"
            stage(f"{note}; booting again; its console is in {kept}")
            with (job / NOTES).open("a") as file:
                file.write(f"{note}; it was booted again\n")
    finally:
        archive.unlink()


def notes(job: Path) -> list[str]:
    """What a trace should tell of how its guest came up."""
    path = job / NOTES
    return path.read_text().splitlines() if path.exists() else []


def last_words(console: Path) -> str:
    """Why a kernel died, by its console: the panic's own line, else the last one."""
    lines = [line.strip() for line in console.read_text(errors="replace").splitlines()]
    lines = [re.sub(r"^\[[ \d.]+\] *", "", line) for line in lines if line]
    for telling in ("Kernel panic", "BUG: ", "Oops: "):
        found = next((line for line in lines if telling in line), None)
        if found:
            return found
    return lines[-1] if lines else "no output"


def _keep_console(console: Path, release: str) -> Path:
    """Copy a console to where it outlives its job; the oldest go."""
    folder = cache_dir() / "consoles"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{release}"
    shutil.copyfile(console, kept)
    for old in sorted(folder.iterdir())[:-CONSOLES_KEPT]:
        old.unlink(missing_ok=True)
    return kept


def _boot(
    kernel: Kernel,
    image: Path,
    archive: Path,
    job: Path,
    size: GuestSize,
    timeout_s: float,
    watch: Callable[[str], None],
) -> None:
    """Run one guest until it powers off."""
    swap, log = job / "swap.img", job / "log"
    with swap.open("wb") as disk:
        disk.truncate(size.swap_mib << 20)
    for left in ("status", BEGAN):
        (job / left).unlink(missing_ok=True)
    log.touch()
    command = _command(kernel, image, archive, job, swap, size)
    with (job / "console").open("wb") as console:
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )
        try:
            _wait(guest, log, watch, timeout_s)
        finally:
            if guest.poll() is None:
                guest.kill()
                guest.wait()
            swap.unlink()


def _kernel_image(kernel: Kernel, stage: Callable[[str], None]) -> Path:
    def build(folder: Path) -> None:
        stage(f"unpacking {kernel.image.name} of {kernel.release}")
        (folder / "vmlinux").write_bytes(unpack_kernel(kernel.image))

    return build_once(cache_dir() / "boot" / kernel.release, build) / "vmlinux"


def _initramfs(kernel: Kernel, modules: Iterable[str], stage: Callable[[str], None]) -> bytes:
    busybox = fetch_busybox(stage)
    stage("making the initramfs")
    init = files("ztrace.tracer.lab").joinpath("guest/init.sh").read_text()
    wanted = [*BOOT_MODULES, *modules]
    return build_initramfs(busybox, init, Modules(kernel.modules), wanted)


def _command(
    kernel: Kernel, image: Path, archive: Path, job: Path, swap: Path, size: GuestSize
) -> list[str]:
    # THP off: on 6.1 and 6.12 a large folio swapped out whole passes zswap by. No timer check: on
    # a busy machine emulated time passes the 10 ticks that the kernel waits for, and it panics.
    arguments = "console=ttyS0 panic=-1 quiet loglevel=3 transparent_hugepage=never no_timer_check"
    shares = {"host": Path("/"), "kernel": kernel.root, "job": job}
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-M", "q35", "-cpu", "max"),
        *("-accel", "tcg,thread=single" if size.counted else "tcg,thread=multi"),
        *(("-icount", "shift=0") if size.counted else ()),
        *("-smp", str(size.cpus), "-m", f"{size.memory_mib}M"),
        *("-kernel", str(image), "-initrd", str(archive)),
        *("-append", arguments),
        *("-serial", "stdio", "-monitor", "none"),
        *(word for tag, path in shares.items() for word in _share(tag, path)),
        *("-drive", f"if=none,id=swap,file={swap},format=raw,cache=unsafe,aio=threads"),
        *("-device", "virtio-blk-pci,drive=swap"),
    ]


def _share(tag: str, path: Path) -> list[str]:
    """Arguments for one 9p share; only the job's can be written by the guest."""
    access = "" if tag == "job" else ",readonly=on"
    options = f"security_model=none,multidevs=remap{access}"
    return [
        *("-fsdev", f"local,id={tag},path={path},{options}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _wait(
    guest: subprocess.Popen[bytes], log: Path, watch: Callable[[str], None], timeout_s: float
) -> None:
    """Follow job/log until the guest powers off; TracerError after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    with log.open(errors="replace") as lines:
        while True:
            over = guest.poll() is not None
            for line in lines:
                watch(line.rstrip("\n"))
            if over:
                return
            if time.monotonic() > end:
                raise TracerError(f"the guest did not finish within {timeout_s:.0f} s")
            time.sleep(0.2)
