# SPDX-License-Identifier: GPL-2.0-only
"""Block tables of ztree and its successors as files and as C.

They are (order, slots) of each block type, slots ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ztrace.allocator.protocol import BackendError

Table = Sequence[tuple[int, int]]


def read_table(path: str | Path) -> list[tuple[int, int]]:
    """Read a file with a line ``order slots`` for each block type; ``#`` begins a comment.

    BackendError for one that cannot be read or has other lines. What a driver takes is not
    checked here.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "not a text file"
        raise BackendError(f"cannot be read: {reason}") from failure
    table = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words):
            raise BackendError(f"line {number}: not 'order slots', two whole numbers")
        table.append((int(words[0]), int(words[1])))
    return table


def table_text(table: Table, comments: Sequence[str] = ()) -> str:
    """What :func:`read_table` reads back, after ``comments``, a line each."""
    lines = [*(f"# {comment}" for comment in comments), "# order slots"]
    return "\n".join([*lines, *(f"{order} {slots}" for order, slots in table)]) + "\n"


def c_initialiser(table: Table, header_bytes: int = 0) -> str:
    """The braces after ``tree_desc[] =`` of ztree.c: slot size, slots, order of each type.

    The slot size is left to the compiler, so that it is right for any page and any long.
    ``header_bytes``: what a block's metadata takes of it.
    """
    block = f"((PAGE_SIZE << {{}}) - {header_bytes})" if header_bytes else "(PAGE_SIZE << {})"
    slot = f"{block} / ({{}} * sizeof(long)) * sizeof(long)"
    types = [f"\t{{ {slot.format(order, slots)}, {slots}, {order} }}" for order, slots in table]
    return "\n".join(["{", ",\n".join(types), "}"])
