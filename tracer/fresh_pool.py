# SPDX-License-Identifier: GPL-2.0-only
"""Make zswap start a new pool, so that a recording sees an allocator's very first call.

zswap makes a pool when its compressor is given a value that no pool has (mm/zswap.c,
__zswap_param_set); pools that still hold pages live on until these are gone. If zswap is empty,
the compressor is changed and changed back. If not, going back would give the old pool again: so
another compressor is used while recording, and the old one is put back afterwards, by a process
that outlives the recorder if need be.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ztrace.tracer import machine
from ztrace.tracer.errors import TracerError

COMPRESSOR = machine.ZSWAP_PARAMETERS / "compressor"
CRYPTO = Path("/proc/crypto")

# The same format, so sizes are nearly or wholly the same.
RELATIVES = {"lzo": "lzo-rle", "lzo-rle": "lzo", "lz4": "lz4hc", "lz4hc": "lz4"}
COMPRESSORS = ("lzo-rle", "lzo", "lz4", "lz4hc", "zstd", "deflate", "842")

WAIT_S = 2.0


def other_compressors(now: str) -> list[str]:
    """Compressors to use instead of ``now``: its relative first, then those that are loaded."""
    lines = CRYPTO.read_text().splitlines()
    loaded = {
        value.strip()
        for key, _, value in (line.partition(":") for line in lines)
        if key.strip() == "name"
    }
    found = [RELATIVES[now]] if now in RELATIVES else []
    return [*found, *(name for name in COMPRESSORS if name in loaded and name not in (*found, now))]


@contextlib.contextmanager
def fresh_pool(pools_created: Callable[[], int]) -> Iterator[str]:
    """A new pool while the block runs; gives a sentence for the trace's notes.

    ``pools_created`` counts the pools that the probes saw being made. TracerError if zswap makes
    none; its parameters are then as before.
    """
    if not COMPRESSOR.exists():
        raise TracerError("--fresh-pool: this kernel has no zswap")
    now = COMPRESSOR.read_text().strip()
    stored = machine.counters().get("zswap.stored_pages")
    before = pools_created()
    for other in other_compressors(now):
        if not _set(other):
            continue
        guard = _guard(now)
        try:
            if stored == 0:
                _set(now)
                before += 1
            if _wait(partial(_more_than, before, pools_created)):
                if stored == 0:
                    yield "zswap was empty and made a new pool for this recording"
                else:
                    yield (
                        f"zswap made a new pool for this recording, of compressor {other}; "
                        f"pages from before stayed in one of {now}, which is used again now"
                    )
                return
        finally:
            _set(now)
            _release(guard)
    raise TracerError(
        "--fresh-pool: zswap made no new pool; stop what is swapping, or load "
        "another compressor (modprobe lz4)"
    )


def _more_than(before: int, count: Callable[[], int]) -> bool:
    return count() > before


def _set(compressor: str) -> bool:
    try:
        COMPRESSOR.write_text(compressor)
    except OSError:
        return False
    return True


def _wait(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _guard(compressor: str) -> subprocess.Popen[bytes]:
    """A process that puts the compressor back if its input ends without a line."""
    script = 'read line || echo "$1" >"$2"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", compressor, str(COMPRESSOR)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _release(guard: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        guard.communicate(b"done\n")
