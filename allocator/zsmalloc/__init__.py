# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of zsmalloc: traits (here), model in Python (model.py) and C (zsmalloc.c)."""

from ztrace.allocator.traits import (
    Check,
    Compacts,
    Design,
    Setting,
    Tells,
    Traits,
    page_size,
    release_number,
    whole_number,
)


def variant_of(release: str) -> str:
    """The variant with a kernel's rules; those of 6.12 for a release that cannot be read.

    6.1, 6.12 and 7.2 were examined. A kernel between them gets the nearer rules by when these
    changed: chains are chosen by what they waste since 6.3, fullness groups are tenths since 6.4,
    and since 6.15 a zspage that is being read stops a compaction (zspage_write_trylock()) instead
    of being waited for. The last is all that tells 7.2 from 6.12: classes, lists, groups and the
    choice of a zspage are textually the same (mm/zsmalloc.c), so that both place alike as long as
    no compaction meets an object that is being read.
    """
    number = release_number(release) or (6, 12)
    if number < (6, 3):
        return "6.1"
    return "6.12" if number < (6, 15) else "7.2"


def settings(release: str) -> list[Setting]:
    """Chain sizes that a kernel can be built with; 6.1 has four pages and no choice."""
    if variant_of(release) == "6.1":
        return []
    return [
        Setting({"chain_size": f"{pages}"}, f"CONFIG_ZSMALLOC_CHAIN_SIZE={pages}, build the kernel")
        for pages in range(4, 17)
        if pages != 8  # as it comes
    ]


_SAVING = (
    "/* calculate_zspage_chain_size(), before a chain of i pages is taken: */\n"
    "if (i > 1 && 100UL * (min_waste * i - waste * chain_size) <\n"
    "\t     {percent}UL * PAGE_SIZE * i * chain_size)\n"
    "\tcontinue;"
)
"""What ``chain_saving`` is in mm/zsmalloc.c since 6.3."""


def designs(release: str, page_bytes: int) -> list[Design]:
    """What decides the classes: in 6.1 all of it is in the source, later the chains are built in.

    Steps of 8 to 256 bytes on pages of 4 KiB, and as much more on larger ones.
    """
    steps = [
        Setting({"class_step": f"{step}"}, f"#define ZS_SIZE_CLASS_DELTA {step}")
        for step in (page_bytes * share // 512 for share in (1, 3, 4, 6, 8, 16, 32))
    ]
    chains = settings(release)
    if not chains:
        orders = [
            Setting({"chain_size": f"{1 << order}"}, f"#define ZS_MAX_ZSPAGE_ORDER {order}")
            for order in (3, 4)
        ]
        return [Design(orders, True), Design(steps, True)]
    savings = [
        Setting({"chain_saving": f"{percent}"}, _SAVING.format(percent=percent))
        for percent in (1, 2, 4, 8)
    ]
    return [Design(chains, False), Design(savings, True), Design(steps, True)]


TRAITS = Traits(
    name="zsmalloc",
    model="ztrace.allocator.zsmalloc.model:Zsmalloc",
    items={
        "page_bytes": page_size,
        "chain_size": whole_number,
        "chain_rule": str,
        "chain_saving": whole_number,
        "class_step": whole_number,
    },
    departures=frozenset({"chain_rule", "chain_saving", "class_step"}),  # no kernel's
    variants=("6.1", "6.12", "7.2"),
    variant_of=variant_of,
    object_bytes=8,  # zs_malloc() adds the handle's, ZS_HANDLE_SIZE
    compacts=Compacts.POOL,
    tells=Tells.MALLOC,
    check=Check.LOCKED,
    members={
        "ZSMALLOC_PAGES": ("zs_pool", "pages_allocated"),
        "ZSPAGE_FREEOBJ": ("zspage", "freeobj"),
    },
    module="zsmalloc",
    native=dict.fromkeys(("", "6.1", "6.12", "7.2"), "zsmalloc"),
    colour=2,
    settings=settings,
    designs=designs,
    kernels={"6.1": True, "6.12": False, "7.2": False},
)
