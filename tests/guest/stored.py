# SPDX-License-Identifier: GPL-2.0-only
"""stored.py SPOOL COUNT: wait until so many stores, and a word on their pools, are in a spool."""

import sys
import time
from pathlib import Path

from ztrace.tracer.ring import OP_STORE
from ztrace.tracer.spool import SpoolReader

spool, count = Path(sys.argv[1]), int(sys.argv[2])


def there() -> bool:
    reader = SpoolReader(spool)
    stores = sum(int((part["op"] == OP_STORE).sum()) for part in reader.records())
    return stores >= count and bool(reader.documents()[1].get("pools"))


end = time.monotonic() + 600
while not there():
    if time.monotonic() > end:
        sys.exit(f"{spool}: not {count} stores within ten minutes")
    time.sleep(0.2)
