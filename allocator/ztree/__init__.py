# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of ztree: its traits (here), its model in Python (model.py) and C (ztree.c).

The author's later tree, variant ``late``, is modelled with its successors (zblock/model.py).
"""

from ztrace.allocator.table import read_table
from ztrace.allocator.traits import Check, Handle, Traits, page_size

TRAITS = Traits(
    name="ztree",
    model="ztrace.allocator.zblock.model:ztree",
    items={"page_bytes": page_size, "table": read_table},
    variants=("", "late"),
    departures=frozenset({"late", "table"}),  # other rules, other block types
    keeps_header=lambda variant: True,
    handle=Handle.PLACE,
    check=Check.TREES,
    native={"": "ztree", "late": "zblock"},
    colour=1,
    kernels={"6.1": False},
    out_of_tree=True,
    blocks="tree_desc",
)
