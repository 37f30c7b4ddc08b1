# SPDX-License-Identifier: GPL-2.0-only
"""Statistics of the core's pools as the models give them, from the figures that the core counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ztrace.allocator.z3fold.model import class_row as z3fold_row
from ztrace.allocator.zbud.model import CHUNKS, PAGE_CHUNKS

_ZTREE_TYPE = (
    *("class", "slot_bytes", "slots", "order"),
    *("blocks", "blocks_ever", "free_slots", "stranded_slots"),
)
_ZSMALLOC_CLASS = (
    *("class", "slot_bytes", "slots", "pages", "blocks", "blocks_ever", "used_slots"),
    *("moved", "relinks", "revived", "searched"),
)
_ZBUD = (
    *("pages_allocated", "pages_freed", "pages_reclaimed", "evictions", "searched"),
    "used_chunks",
)
_Z3FOLD = (
    *("pages_allocated", "pages_freed", "pages_reclaimed", "evictions", "searched"),
    *("compactions", "compactions_queued", "compactions_pending", "objects_moved"),
    *("middles_moved", "objects_foreign", "slots_made", "slots_held", "used_chunks"),
)
_Z3FOLD_MORE = (
    *("pages", "objects", "headless_pages", "headless_objects", "waiting", "waiting_used"),
    *("chunks", "chunk_bytes"),
)


def _rows(names: Sequence[str], figures: Sequence[int]) -> list[dict[str, int]]:
    """Cut figures into rows of named ones."""
    width = len(names)
    return [
        dict(zip(names, figures[at : at + width], strict=True))
        for at in range(0, len(figures), width)
    ]


def _ztree(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    inserted, deleted, searched, *rest = figures
    types = _rows(_ZTREE_TYPE, rest)
    return {
        "pages_allocated": sum(row["blocks_ever"] << row["order"] for row in types),
        "searched": searched,
        "objects_moved": 0,
        "blocks_inserted": inserted,
        "blocks_deleted": deleted,
        "stranded_slots": sum(row["stranded_slots"] for row in types),
        "stranded_bytes": sum(row["stranded_slots"] * row["slot_bytes"] for row in types),
        "classes": [
            {
                **{name: row[name] for name in _ZTREE_TYPE[:6]},
                "used_slots": row["blocks"] * row["slots"] - row["free_slots"],
                "free_slots": row["free_slots"],
                "stranded_slots": row["stranded_slots"],
            }
            for row in types
        ],
    }


def _zbud(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    named = dict(zip(_ZBUD, figures, strict=False))
    lists = figures[len(_ZBUD) :]
    free = sum(lists) * CHUNKS - named["used_chunks"]
    return {
        **{name: named[name] for name in _ZBUD[:-1]},
        "objects_moved": 0,
        "used_chunks": named["used_chunks"],
        "free_chunks": free,
        "lost_chunks": free - sum(number * pages for number, pages in enumerate(lists)),
        "classes": [
            {
                "class": number,
                "gap_bytes": number * (page_bytes // PAGE_CHUNKS),
                "blocks": pages,
                "used_slots": pages if number else 2 * pages,
                "free_slots": pages if number else 0,
            }
            for number, pages in enumerate(lists)
        ],
    }


def _z3fold(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    named = dict(zip(_Z3FOLD + _Z3FOLD_MORE, figures, strict=False))
    lists = figures[len(_Z3FOLD) + len(_Z3FOLD_MORE) :]
    blocks, used = lists[::2], lists[1::2]
    headless = named["headless_pages"]
    full = named["pages"] - sum(blocks) - named["waiting"] - headless
    full_used = named["objects"] - sum(used) - named["waiting_used"] - named["headless_objects"]
    return {
        **{name: named[name] for name in _Z3FOLD},
        "free_chunks": (named["pages"] - headless) * named["chunks"] - named["used_chunks"],
        "classes": [
            *(
                z3fold_row(number, number * named["chunk_bytes"], pages, used[number])
                for number, pages in enumerate(blocks)
                if number < named["chunks"] or pages
            ),
            z3fold_row("waiting", 0, named["waiting"], named["waiting_used"]),
            z3fold_row("headless", 0, headless, named["headless_objects"], places=1),
            z3fold_row("full", 0, full, full_used),
        ],
    }


def _zsmalloc(figures: Sequence[int], page_bytes: int) -> dict[str, Any]:
    next_page, objects, stored, compactions, *rest = figures
    classes = _rows(_ZSMALLOC_CLASS, rest)
    for row in classes:
        row["free_slots"] = row["blocks"] * row["slots"] - row["used_slots"]
        row["freed"] = row["blocks_ever"] - row["blocks"]
    held = sum(row["blocks"] * row["pages"] for row in classes) * page_bytes
    held_slot_bytes = sum(row["used_slots"] * row["slot_bytes"] for row in classes)

    def total(name: str) -> int:
        return sum(row[name] for row in classes)

    return {
        "pages_allocated": next_page,
        "pages_freed": sum(row["freed"] * row["pages"] for row in classes),
        "zspages": total("blocks"),
        "objects": objects,
        "huge_objects": sum(
            row["used_slots"] for row in classes if row["pages"] == row["slots"] == 1
        ),
        "stored_bytes": stored,
        "wasted_bytes": held - stored,
        "free_slot_bytes": sum(row["free_slots"] * row["slot_bytes"] for row in classes),
        "tail_bytes": sum(
            row["blocks"] * (row["pages"] * page_bytes - row["slots"] * row["slot_bytes"])
            for row in classes
        ),
        "padding_bytes": held_slot_bytes - stored,
        "compactable_pages": sum(
            row["free_slots"] // row["slots"] * row["pages"] for row in classes
        ),
        "compactions": compactions,
        "searched": total("searched"),
        "objects_moved": total("moved"),
        "zspages_made": total("blocks_ever"),
        "zspages_freed": total("freed"),
        "zspages_deferred": 0,
        "zspages_revived": total("revived"),
        "relinks": total("relinks"),
        "classes": [
            {name: row[name] for name in (*_ZSMALLOC_CLASS[:7], "free_slots")} for row in classes
        ],
    }


STATS: dict[str, Callable[[Sequence[int], int], dict[str, Any]]] = {
    "successors": _ztree,
    "z3fold": _z3fold,
    "zbud": _zbud,
    "zsmalloc": _zsmalloc,
    "ztree": _ztree,
}
"""The core's backend -> makes its statistics from the core's figures and the page size in bytes."""
