# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of zblock: its traits (here), its model in Python (model.py) and C (zblock.c).

No kernel has it: its variants are two postings, and the bare name is the later one.
"""

from ztrace.allocator.table import read_table
from ztrace.allocator.traits import Traits, page_size

TRAITS = Traits(
    name="zblock",
    model="ztrace.allocator.zblock.model:zblock",
    items={"page_bytes": page_size, "table": read_table},
    variants=("2022", "2025"),
    keeps_header=lambda variant: variant == "2022",  # the later one cannot shrink
    blocks="block_desc",
    native=dict.fromkeys(("", "2022", "2025"), "zblock"),
)
