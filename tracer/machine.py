# SPDX-License-Identifier: GPL-2.0-only
"""What a trace says of the machine it was recorded on, read from /proc and /sys.

Values are plain JSON in the form of the trace's metadata document (traces/metadata.py).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
from pathlib import Path
from typing import Any

ZSWAP_PARAMETERS = Path("/sys/module/zswap/parameters")
ZSWAP_COUNTERS = Path("/sys/kernel/debug/zswap")
PREEMPTION = Path("/sys/kernel/debug/sched/preempt")
BLOCK = Path("/sys/block")
# The figures of mm_stat (Documentation/admin-guide/blockdev/zram.rst), bytes and pages.
ZRAM_STATISTICS = (
    *("orig_data_size", "compr_data_size", "mem_used_total", "mem_limit", "mem_used_max"),
    *("same_pages", "pages_compacted", "huge_pages", "huge_pages_since"),
)
SECTOR_BYTES = 512
VMSTAT = Path("/proc/vmstat")
VMSTAT_NAMES = ("zswpin", "zswpout", "zswpwb", "pswpin", "pswpout", "nr_zspages")


def kernel() -> dict[str, Any]:
    """The running kernel; its configuration's digest where the configuration can be found."""
    uname = platform.uname()
    return {
        "release": uname.release,
        "version": uname.version,
        "config_sha256": _config_digest(uname.release),
    }


def _config_digest(release: str) -> str | None:
    for path in (
        Path("/proc/config.gz"),
        Path("/boot") / f"config-{release}",
        Path("/lib/modules") / release / "build" / ".config",
    ):
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            continue
    return None


def machine() -> dict[str, Any]:
    """CPU model, CPUs, memory in bytes, page size, architecture."""
    model = _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or "unknown"
    memory = _field(Path("/proc/meminfo"), "MemTotal") or "0 kB"
    return {
        "cpu_model": model,
        "cpus": os.cpu_count() or 0,
        "memory_bytes": int(memory.split()[0]) * 1024,
        "page_bytes": mmap.PAGESIZE,
        "arch": platform.machine(),
    }


def possible_cpus() -> int:
    """One more than the highest number that a CPU of this machine can get."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(ranges.replace(",", "-").split("-")[-1]) + 1


def kernel_preempts() -> bool:
    """Whether a task can be preempted inside the kernel (PREEMPT full or lazy, or RT)."""
    try:
        modes = PREEMPTION.read_text()
    except OSError:  # a kernel of one mode says it in its version
        words = platform.uname().version.split()
        return any(word in ("PREEMPT", "PREEMPT_RT", "PREEMPT_LAZY") for word in words)
    return "(full)" in modes or "(lazy)" in modes


def _field(path: Path, name: str) -> str | None:
    """The value of the first line ``name: value`` of a /proc file."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def zswap_parameters() -> dict[str, str]:
    """Every parameter of the zswap module; empty where this kernel has no zswap."""
    if not ZSWAP_PARAMETERS.is_dir():
        return {}
    return {path.name: path.read_text().strip() for path in sorted(ZSWAP_PARAMETERS.iterdir())}


def zram_parameters() -> dict[str, str]:
    """What each zram device was set to, as ``zram0.disksize``; of choices the one taken."""
    found = {}
    for device in sorted(BLOCK.glob("zram*")):
        for name in ("disksize", "comp_algorithm", "mem_limit"):
            try:
                text = (device / name).read_text().strip()
            except OSError:
                continue  # mem_limit can only be written
            chosen = [word.strip("[]") for word in text.split() if word.startswith("[")]
            found[f"{device.name}.{name}"] = chosen[0] if chosen else text
    return found


def counters() -> dict[str, int]:
    """What the kernel counts: zswap's debugfs files (``zswap.NAME``), vmstat's swap counters
    (``vmstat.NAME``), and each zram device's (``zram0.NAME``).
    """
    found: dict[str, int] = {}
    for device in sorted(BLOCK.glob("zram*")):
        found |= {f"{device.name}.{name}": n for name, n in _zram_counters(device).items()}
    if ZSWAP_COUNTERS.is_dir():
        for path in sorted(ZSWAP_COUNTERS.iterdir()):
            try:
                found[f"zswap.{path.name}"] = int(path.read_text())
            except (OSError, ValueError):
                continue
    for line in VMSTAT.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in VMSTAT_NAMES:
            found[f"vmstat.{name}"] = int(value)
    return found


def _zram_counters(device: Path) -> dict[str, int]:
    """mm_stat of a zram device, and how often its slots were read, written and freed.

    ``notify_free`` counts frees asked for by the swap code and by discards, ``miss_free`` those
    of them not done (Documentation/admin-guide/blockdev/zram.rst).
    """
    found = dict(zip(ZRAM_STATISTICS, _numbers(device / "mm_stat"), strict=False))
    sectors = _numbers(device / "stat")
    if len(sectors) > 6:
        for name, at in {"pages_read": 2, "pages_written": 6}.items():
            found[name] = sectors[at] * SECTOR_BYTES // mmap.PAGESIZE
    for name, file in {"notify_free": "io_stat", "miss_free": "debug_stat"}.items():
        for last in _numbers(device / file)[-1:]:
            found[name] = last
    return found


def _numbers(path: Path) -> list[int]:
    """The numbers in a file of /sys; none where it is not there."""
    try:
        return [int(word) for word in path.read_text().split() if word.isdigit()]
    except OSError:
        return []
