# SPDX-License-Identifier: GPL-2.0-only
"""How every Parquet file is opened here."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq


def open_parquet(path: str | os.PathLike[str], *, checksums: bool = False) -> pq.ParquetFile:
    """Open a file by its path; ``checksums``: compare those of its pages. Arrow's own errors.

    Arrow gets the open file: it would take a name with a colon for an address, and knows no name
    that is not UTF-8. What is buffered in advance would be kept until the end. Whoever reads says
    ``use_threads=False``: a thread that reads a file of Python's as Python ends aborts the process.
    """
    return pq.ParquetFile(
        Path(path).open("rb"), pre_buffer=False, page_checksum_verification=checksums
    )
