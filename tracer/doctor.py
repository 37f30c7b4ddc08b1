# SPDX-License-Identifier: GPL-2.0-only
"""What of ztrace works on this machine and, for what does not, the one command that mends it."""

from __future__ import annotations

import mmap
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ztrace.tracer.abi import LISTS, choose_probes
from ztrace.tracer.errors import TracerError
from ztrace.tracer.kmod import running_headers
from ztrace.tracer.lab.debian import KEYRING
from ztrace.tracer.lab.qemu import QEMU
from ztrace.tracer.probing import Probing
from ztrace.tracer.symbols import LOCKDOWN, UnreadableError, locked_down, running_symbols
from ztrace.tracer.system_bcc import INSTALL_HINT, find_bcc, load_bcc

ZSWAP = Path("/sys/module/zswap")


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``remedy`` is empty when it works; ``serves`` is what needs it."""

    serves: str
    name: str
    works: bool
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, in the order in which it matters."""
    for check in (*_RECORD, *_LAB):
        yield check()


@dataclass(frozen=True)
class ProbeFinding:
    """One kernel function that recording wants.

    ``op``: the call it stands for, empty for helpers. ``kind``: how it is probed, empty if it
    is not; ``reason`` then says why, and ``lacks`` what a trace will be without.
    """

    symbol: str
    op: str
    kind: str
    reason: str = ""
    lacks: str = ""


def examine_probes(source: str) -> list[ProbeFinding]:
    """Attach every probe for ``source`` (abi.SOURCES), with nothing recorded, and detach them.

    TracerError if the probes that recording cannot do without are not there.
    """
    with Probing(mmap.PAGESIZE, source) as probing:
        found = [
            ProbeFinding(one.probe.symbol, one.probe.op or "", one.kind) for one in probing.attached
        ]
        served = {one.op for one in found}
        for lack in probing.without:
            op = lack.probe.op or ""
            lacks = f"rows of {op}" if op and op not in served else ""
            found.append(ProbeFinding(lack.probe.symbol, op, "", lack.reason, lacks))
    return found


def _user() -> Finding:
    root = os.geteuid() == 0
    return Finding("record", "root", root, f"uid {os.geteuid()}", "sudo ztrace doctor")


def _lockdown() -> Finding:
    try:
        state = LOCKDOWN.read_text().strip()
    except OSError:
        mounted = LOCKDOWN.parent.is_mount()
        state = "not in this kernel" if mounted else "not told, securityfs is not mounted"
    remedy = "boot without lockdown=confidentiality (it forbids BPF to read kernel memory)"
    return Finding("record", "lockdown", not locked_down(), state, remedy)


def _bcc() -> Finding:
    folder = find_bcc()
    if folder is None:
        return Finding("record", "bcc", False, "not installed", INSTALL_HINT)
    try:
        version = load_bcc().__version__
    except TracerError as error:
        return Finding("record", "bcc", False, str(error), INSTALL_HINT)
    return Finding("record", "bcc", True, f"{version} in {folder}")


def _headers() -> Finding:
    folder = running_headers()
    there = (folder / "include").is_dir() or Path("/sys/kernel/kheaders.tar.xz").exists()
    found = str(folder) if there else f"no {folder}"
    return Finding(
        "record", "headers", there, found, f"apt install linux-headers-{platform.release()}"
    )


def _tracefs() -> Finding:
    try:
        count = len(running_symbols().traceable)
    except UnreadableError as error:
        return Finding("record", "tracefs", False, error.found, error.remedy)
    return Finding("record", "tracefs", True, f"{count:,} traceable functions")


def _zswap() -> Finding:
    if not ZSWAP.exists():
        return Finding(
            *("record", "zswap", False, "not in this kernel"),
            "boot a kernel with CONFIG_ZSWAP (Debian's cloud kernels have none)",
        )
    enabled = (ZSWAP / "parameters" / "enabled").read_text().strip()
    hint = "" if enabled == "Y" else f"; to use it: echo Y > {ZSWAP}/parameters/enabled"
    return Finding("record", "zswap", True, f"enabled={enabled}{hint}")


def _symbols() -> Finding:
    try:
        chosen, lacking = choose_probes(running_symbols())
    except UnreadableError as error:
        return Finding("record", "symbols", False, "unknown without tracefs", error.remedy)
    # What --lists takes besides is not needed to record.
    present = [probe for probe in chosen if probe not in LISTS]
    missing = [lack for lack in lacking if lack.matters and lack.probe not in LISTS]
    found = f"{len(present)} of {len(present) + len(missing)} probe points"
    ops = {probe.op for probe in present}
    return Finding(
        *("record", "symbols", {"malloc", "free"} <= ops, found),
        "; ".join(map(str, missing)),
    )


def _swap() -> Finding:
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    names = ", ".join(line.split()[0] for line in lines)
    found = names or "none; zswap sits before a swap device: swapon one"
    return Finding("record", "swap", True, found)


def _tool(tool: str, package: str) -> Callable[[], Finding]:
    def check() -> Finding:
        path = shutil.which(tool)
        return Finding("lab", tool, path is not None, path or "not found", f"apt install {package}")

    return check


def _archive_keyring() -> Finding:
    there = KEYRING.exists()
    return Finding(
        *("lab", "keyring", there, str(KEYRING) if there else "not found"),
        "apt install debian-archive-keyring",
    )


def _architecture() -> Finding:
    return Finding(
        *("lab", "x86-64", platform.machine() == "x86_64", platform.machine()),
        "the lab boots x86-64 guests only",
    )


_RECORD = (_user, _lockdown, _bcc, _headers, _tracefs, _zswap, _symbols, _swap)
_LAB = (
    _tool(QEMU, "qemu-system-x86"),
    _tool("gcc", "gcc libc6-dev"),
    _tool("make", "make"),
    _tool("mkswap", "util-linux"),
    _tool("apt-get", "apt"),
    _archive_keyring,
    _architecture,
)
