# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of z3fold: traits (here), its model in Python (model.py) and C (z3fold.c)."""

from collections.abc import Mapping

from ztrace.allocator.traits import Check, Compacts, Tells, Traits, page_size, whole_number


def _recorded_items(cpus: int, compactions: bool) -> Mapping[str, str]:
    """The lists of all CPUs, and a worker that waits for the recorded compactions.

    Where those are not recorded, it compacts at once.
    """
    return {"cpus": f"{cpus}", **({"work": "deferred"} if compactions else {})}


TRAITS = Traits(
    name="z3fold",
    model="ztrace.allocator.z3fold.model:Z3fold",
    items={"page_bytes": page_size, "cpus": whole_number, "work": str},
    recorded_items=_recorded_items,
    keeps_header=lambda variant: True,
    compacts=Compacts.PAGES,
    tells=Tells.MAP,  # objects move: their handle is the address of a word that points to them
    check=Check.CORRECTED,
    members={
        "Z3FOLD_PAGES": ("z3fold_pool", "pages_nr"),
        "Z3FOLD_HEADER_POOL": ("z3fold_header", "pool"),
        "Z3FOLD_HEADER_START": ("z3fold_header", "start_middle"),  # 16 bits, first_num behind it
        "Z3FOLD_HEADER_LOCK": ("z3fold_header", "page_lock"),
        "Z3FOLD_LISTS": ("z3fold_pool", "unbuddied"),  # of each CPU, by free chunks
    },
    module="z3fold",
    native={"": "z3fold"},
    colour=3,
    kernels={"6.1": True},
)
