# SPDX-License-Identifier: GPL-2.0-only
"""Compactions that a trace recorded (rows of op ``compact``), played in the allocator's own model.

A zsmalloc row compacts the whole pool. A z3fold row compacts one page, named by its address; the
addresses at which objects were mapped (``place`` of a map) tell which page of the model it is.
"""

from __future__ import annotations

from ztrace.allocator import Pool
from ztrace.allocator.z3fold.model import Z3fold
from ztrace.allocator.zsmalloc.model import Zsmalloc


class Compaction:
    """One pool's compactions. ``done`` were played; ``unmatched`` name a page the model has not
    queued, or one that no map has told the model's page of."""

    __slots__ = ("_model", "_pages", "cpus", "done", "unmatched")

    def __init__(self, model: Z3fold | Zsmalloc) -> None:
        self._model = model
        self._pages: dict[int, int] = {}  # address of the kernel's page / PAGE_SIZE -> model's
        self.cpus = model.cpus if isinstance(model, Z3fold) else 0  # whose lists are apart
        self.done = 0
        self.unmatched = 0

    def on_cpu(self, cpu: int) -> None:
        """The CPU of the calls that follow; one that the model has not is left out."""
        if cpu < self.cpus:
            assert isinstance(self._model, Z3fold)
            self._model.cpu = cpu

    def mapped(self, handle: int, place: int) -> None:
        """The model's object ``handle`` is at address ``place`` in the kernel (0: not known)."""
        if place and isinstance(self._model, Z3fold):
            self._pages[place // self._model.page_bytes] = self._model.place(handle).page

    def play(self, place: int, at_once: bool) -> None:
        """One row; ``at_once``: z3fold did it within a free, and so does the model."""
        if isinstance(self._model, Zsmalloc):
            self._model.compact()
            self.done += 1
        elif not at_once and self._model.work == "deferred":
            page = self._pages.get(place // self._model.page_bytes)
            known = page is not None and self._model.compact_page(page)
            self.done += known
            self.unmatched += not known


def compaction(model: Pool) -> Compaction | None:
    """For a model of an allocator that compacts; None for any other."""
    return Compaction(model) if isinstance(model, Z3fold | Zsmalloc) else None
