# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of zbud: its traits (here), its model in Python (model.py) and C (zbud.c)."""

from ztrace.allocator.traits import Check, Tells, Traits, page_size

TRAITS = Traits(
    name="zbud",
    model="ztrace.allocator.zbud.model:Zbud",
    items={"page_bytes": page_size},
    keeps_header=lambda variant: True,
    tells=Tells.HANDLE,
    check=Check.SEARCHED,
    members={"ZBUD_PAGES": ("zbud_pool", "pages_nr")},
    native={"": "zbud"},
    colour=4,
    kernels={"6.1": False, "6.12": False},
)
