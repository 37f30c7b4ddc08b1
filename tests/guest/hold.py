# SPDX-License-Identifier: GPL-2.0-only
"""Swap out 256 pages and keep them until killed."""

import mmap
import random
import time

COUNT = 256
PAGEOUT = 21  # MADV_PAGEOUT, which mmap has no name for

pages = mmap.mmap(-1, COUNT * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pages[:] = b"".join(random.randbytes(2048) + bytes(2048) for _ in range(COUNT))
pages.madvise(PAGEOUT)
time.sleep(100_000)
