# SPDX-License-Identifier: GPL-2.0-only
"""Compactions that a trace recorded (rows of op ``compact``), played in the allocator's own model.

A row of an allocator that compacts pools (zsmalloc) compacts the whole pool. One of an allocator
that compacts pages (z3fold) names the page by its address; the addresses at which objects were
mapped (``place`` of a map) tell which page of the model it is.
"""

from __future__ import annotations

from ztrace.allocator import CompactsPages, CompactsPool, HasCpus, Pool


class Compaction:
    """One pool's compactions. ``done`` were played; ``unmatched`` name a page the model has not
    queued, or one that no map has told the model's page of."""

    __slots__ = (
        "_by_cpu",
        "_by_page",
        "_page_bytes",
        "_pages",
        "_pool",
        "cpus",
        "done",
        "unmatched",
    )

    def __init__(self, model: Pool) -> None:
        self._pool = model if isinstance(model, CompactsPool) else None
        self._by_page = model if isinstance(model, CompactsPages) else None
        self._by_cpu = model if isinstance(model, HasCpus) else None
        self._page_bytes = model.page_bytes
        self._pages: dict[int, int] = {}  # address of the kernel's page / PAGE_SIZE -> model's
        self.cpus = 0 if self._by_cpu is None else self._by_cpu.cpus  # whose lists are apart
        self.done = 0
        self.unmatched = 0

    def on_cpu(self, cpu: int) -> None:
        """The CPU of the calls that follow; one that the model has not is left out."""
        if cpu < self.cpus:
            assert self._by_cpu is not None
            self._by_cpu.cpu = cpu

    def mapped(self, handle: int, place: int) -> None:
        """The model's object ``handle`` is at address ``place`` in the kernel (0: not known)."""
        if place and self._by_page is not None:
            self._pages[place // self._page_bytes] = self._by_page.place(handle).page

    def play(self, place: int, at_once: bool) -> None:
        """One row; ``at_once``: it was done within a free, and so does the model."""
        if self._pool is not None:
            self._pool.compact()
            self.done += 1
        elif self._by_page is not None and not at_once and self._by_page.work == "deferred":
            page = self._pages.get(place // self._page_bytes)
            known = page is not None and self._by_page.compact_page(page)
            self.done += known
            self.unmatched += not known


def compaction(model: Pool) -> Compaction | None:
    """For a model of an allocator that compacts; None for any other."""
    return Compaction(model) if isinstance(model, CompactsPool | CompactsPages) else None
