# SPDX-License-Identifier: GPL-2.0-only
"""Histories made to reach all that an allocator can do, for the comparison with the real one.

A history tells what is wanted: objects to be allocated and freed, maps, shrinks, compactions. What
a shrink evicts is up to the allocator, so :func:`as_calls` asks a model while it makes the calls
that are played; there, what makes no sense any more is left out. Thus any part of a history is a
history again, and a difference can be cut down to a small one. Its text is words, one a call:

    m3:100   allocate object 3 with 100 bytes     w3 r3   map it to write or read, and unmap it
    n3:100   the same without a page to be had    s2      shrink by 2 pages
    f3       free it
    c        compact: zsmalloc the pool, z3fold the page that has waited longest
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ztrace.allocator import HazardError, Pool
from ztrace.allocator.registry import recorded_traits
from ztrace.allocator.traits import Compacts, Tells
from ztrace.replay.measured.calls import (
    COMPACT,
    FREE,
    MALLOC,
    MAP,
    SHRINK,
    UNMAP,
    WRITEBACK,
    Calls,
)
from ztrace.traces.synth import (
    Lifetimes,
    Plan,
    Sizes,
    equal_lifetimes,
    exponential_lifetimes,
    gauss_sizes,
    pieces,
    uniform_lifetimes,
    uniform_sizes,
)

Ints = NDArray[np.int64]
Random = np.random.Generator

PAGE_BYTES = 4096
REFUSED = (0, PAGE_BYTES + 1, 5000, (1 << 24) - 1)
"""Sizes that no allocator takes. Of those below them some take not all; that is compared, too."""

_LETTERS = {"m": MALLOC, "n": MALLOC, "f": FREE, "r": MAP, "w": MAP, "s": SHRINK, "c": COMPACT}
_WORD = re.compile(r"([mnfrwsc])(\d*)(?::(\d+))?")

# Of a pool with fewer objects a shrink may find nothing to evict, where ztree leaves its tables.
_FEW_OBJECTS = 300
_CORRUPTS = "list-out-of-range"  # a fault by which the kernel writes where it should not
_ODD_BYTES = 3000  # what has a page of its own goes with it whatever an eviction does


@dataclass(frozen=True)
class History:
    """Arrays of one length: ``op`` (codes of traces.schema), ``object``, ``size_bytes`` of a malloc
    or the pages of a shrink, ``is_write`` of a map; of a malloc it is that there is no page to be
    had, which no history with shrinks has. ``deferred``: queued compactions run where the history
    has one, else at once. ``about`` says what kind it is."""

    op: NDArray[np.int8]
    object: Ints
    size_bytes: Ints
    is_write: NDArray[np.bool_]
    deferred: bool = False
    about: str = ""

    def __len__(self) -> int:
        return len(self.op)

    def part(self, chosen: NDArray[np.bool_] | slice) -> History:
        """Some of its calls."""
        return replace(
            self,
            op=self.op[chosen],
            object=self.object[chosen],
            size_bytes=self.size_bytes[chosen],
            is_write=self.is_write[chosen],
        )

    def text(self) -> str:
        """See the head of this module; objects are numbered anew."""
        numbers: dict[int, int] = {}
        words = []
        columns = (self.op, self.object, self.size_bytes, self.is_write)
        for op, object_, size, write in zip(*(c.tolist() for c in columns), strict=True):
            number = numbers.setdefault(object_, len(numbers)) if op in (MALLOC, FREE, MAP) else 0
            if op == MALLOC:
                words.append(f"{'n' if write else 'm'}{number}:{size}")
            elif op == FREE:
                words.append(f"f{number}")
            elif op == MAP:
                words.append(f"{'w' if write else 'r'}{number}")
            else:
                words.append(f"s{size}" if op == SHRINK else "c")
        return " ".join(words)


def from_text(text: str, *, deferred: bool = False) -> History:
    """The history that a text tells; ValueError for a word that is none."""
    rows = []
    for word in text.split():
        found = _WORD.fullmatch(word)
        if found is None or (found[3] is None) != (found[1] not in "mn"):
            raise ValueError(f"no call: {word!r}")
        letter, number = found[1], int(found[2] or 0)
        size = number if letter == "s" else int(found[3] or 0)
        rows.append((_LETTERS[letter], 0 if letter in "sc" else number, size, letter in "nw"))
    op, object_, size_bytes, is_write = zip(*rows, strict=True)
    return History(
        np.array(op, np.int8),
        np.array(object_, np.int64),
        np.array(size_bytes, np.int64),
        np.array(is_write),
        deferred,
        "from its text",
    )


# -- making them -------------------------------------------------------------------------------


def border_sizes() -> Sizes:
    """Sizes at the border of every class: classes of all allocators are whole multiples of 8."""
    at = np.arange(1, PAGE_BYTES + 1) % 8
    return _weighted("borders", np.isin(at, (7, 0, 1)).astype(float))


def half_sizes() -> Sizes:
    """Sizes near a page, its half and its third, and very small ones: of which no two fit well."""
    sizes = np.arange(1, PAGE_BYTES + 1)
    weights = np.zeros(PAGE_BYTES)
    for middle in (32, PAGE_BYTES // 3, PAGE_BYTES // 2, PAGE_BYTES - 80):
        weights += np.abs(sizes - middle) < 80
    return _weighted("halves", weights)


def few_sizes(random: Random) -> Sizes:
    """Six sizes, each half as often as the one before."""
    weights = np.zeros(PAGE_BYTES)
    weights[random.integers(0, PAGE_BYTES, 6)] = 0.5 ** np.arange(6)
    return _weighted("few", weights)


def _weighted(text: str, weights: NDArray[np.float64]) -> Sizes:
    return Sizes(text, np.cumsum(weights) / weights.sum())


def make(allocator: str, seed: int, calls: int, *, no_page: float = 0.0) -> History:
    """A history of about ``calls`` calls that an allocator can do, the same for the same seed.

    ``no_page``: of so many of the mallocs there is no page to be had, if it has no shrinks.
    """
    random = np.random.default_rng(seed)
    kinds = (
        *(border_sizes(), half_sizes(), few_sizes(random)),
        *(uniform_sizes(1, PAGE_BYTES), gauss_sizes(1400, 500)),
    )
    sizes = kinds[int(random.integers(len(kinds)))]
    traits = recorded_traits(allocator)
    every = bool(random.random() < 0.5) and traits.tells is not Tells.MAP
    # A malloc, its map and unmap, its free; some maps besides.
    events = calls * 10 // (22 if every or traits.tells is Tells.MAP else 14)
    if random.random() < 0.4:
        is_malloc, objects, size_bytes = _waves(random, events, sizes)
        pattern = "fills and drains"
    else:
        ways = (exponential_lifetimes(), uniform_lifetimes(), equal_lifetimes())
        lifetimes = ways[int(random.integers(len(ways)))]
        live = int(min(random.choice([200, 3000, 40_000, 200_000]), max(1, events // 4)))
        is_malloc, objects, size_bytes = _churn(events, live, sizes, lifetimes, seed)
        pattern = f"{lifetimes.text}, {live} live"
    shrinks = traits.keeps_header("") and random.random() < 0.6
    deferred = traits.compacts is Compacts.PAGES and random.random() < 0.5
    compacted = {Compacts.POOL: 20, Compacts.PAGES: events // 4 if deferred else 0}
    extras = {
        "maps": 1.0 if every else 0.0 if traits.tells is Tells.MAP else 0.3,
        "remaps": events // 10,
        "refused": max(4, events // 500),
        "shrinks": int(events * random.choice([0.001, 0.01, 0.05])) if shrinks else 0,
        "compactions": compacted.get(traits.compacts, 0),
    }
    history = _with_extras(random, (is_malloc, objects, size_bytes), extras)
    if not shrinks and no_page:
        dry = (history.op == MALLOC) & (random.random(len(history)) < no_page)
        history = replace(history, is_write=history.is_write | dry)
    about = [sizes.text, pattern, "shrinks"] if shrinks else [sizes.text, pattern]
    if traits.compacts is Compacts.PAGES:
        about.append("work later" if deferred else "work at once")
    return replace(history, deferred=deferred, about=", ".join(about))


Events = tuple[NDArray[np.bool_], Ints, Ints]
"""Whether each is a malloc, else a free; its object; the object's size."""


def _churn(events: int, live: int, sizes: Sizes, lifetimes: Lifetimes, seed: int) -> Events:
    plan = Plan(events, live, sizes, lifetimes, seed)
    parts, have = [], 0
    for piece in pieces(plan):
        parts.append(piece)
        have += len(piece.objects)
        if have >= events:
            break
    columns = ("is_malloc", "objects", "sizes")
    is_malloc, objects, size = (
        np.concatenate([getattr(one, name) for one in parts])[:events] for name in columns
    )
    return is_malloc, objects, size


def _waves(random: Random, events: int, sizes: Sizes) -> Events:
    """Pools that are filled and drained, in order, backwards, at random, or as a comb: every k-th
    object goes, others, a bit larger, take what room they find, and all go."""
    malloc: list[NDArray[np.bool_]] = []
    object_: list[Ints] = []
    size: list[Ints] = []
    made = done = 0

    def add(is_malloc: bool, objects: Ints, of: Ints) -> None:
        nonlocal done
        malloc.append(np.full(len(objects), is_malloc))
        object_.append(objects)
        size.append(of)
        done += len(objects)

    while done < events:
        count = min(int(10 ** random.uniform(1, 5)), max(10, events // 4))
        own, of = made + np.arange(count), sizes.draw(random, count)
        made += count
        add(True, own, of)
        way = random.integers(4)
        if way == 1:
            own = own[::-1]
        elif way == 2:
            own = random.permutation(own)
        elif way == 3:
            step = int(random.integers(2, 9))
            add(False, own[::step], of[::step])
            more = made + np.arange(len(own[::step]))
            made += len(more)
            add(True, more, np.minimum(of[::step] + random.integers(0, 65), PAGE_BYTES))
            own = random.permutation(np.concatenate([np.delete(own, np.s_[::step]), more]))
        add(False, own, np.zeros(len(own), np.int64))
    columns = (np.concatenate(malloc), np.concatenate(object_), np.concatenate(size))
    return columns[0][:events], columns[1][:events], columns[2][:events]


def _with_extras(random: Random, events: Events, wanted: dict[str, float]) -> History:
    """Events with what comes between: maps, shrinks, compactions, mallocs that are refused."""
    is_malloc, objects, sizes = events
    count = len(objects)
    parts: list[tuple[Ints, int, int | Ints, Ints, Ints, bool]] = []

    def add(
        at: Ints, within: int, op: int | Ints, of: Ints, size: Ints, write: bool = False
    ) -> None:
        parts.append((at, within, op, of, size, write))

    def none(at: Ints) -> Ints:
        return np.zeros(len(at), np.int64)

    def anywhere(name: str) -> Ints:
        return np.sort(random.integers(0, count, int(wanted[name])))

    add(np.arange(count), 0, np.where(is_malloc, MALLOC, FREE), objects, sizes)
    born = np.flatnonzero(is_malloc)
    mapped = born[random.random(len(born)) < wanted["maps"]]
    add(mapped, 1, MAP, objects[mapped], none(mapped), True)
    # Objects that live are mapped again, some time between their malloc and their free.
    ends = np.full(int(objects.max()) + 1, count)
    ends[objects[~is_malloc]] = np.flatnonzero(~is_malloc)
    again = np.sort(random.choice(born, int(wanted["remaps"])))
    at = again + (random.random(len(again)) * (ends[objects[again]] - again)).astype(np.int64)
    add(at, 2, MAP, objects[again], none(at))
    bad = anywhere("refused")
    add(bad, 3, MALLOC, objects.max() + 1 + np.arange(len(bad)), random.choice(REFUSED, len(bad)))
    shrinks = anywhere("shrinks")
    add(shrinks, 4, SHRINK, none(shrinks), random.choice([1, 1, 1, 2, 5], len(shrinks)))
    compactions = anywhere("compactions")
    add(compactions, 5, COMPACT, none(compactions), none(compactions))

    key = np.concatenate([6 * at + within for at, within, *_ in parts])
    order = np.argsort(key, kind="stable")
    op = np.concatenate([np.broadcast_to(np.asarray(one[2]), len(one[0])) for one in parts])
    write = np.concatenate([np.full(len(one[0]), one[5]) for one in parts])
    return History(
        op[order].astype(np.int8),
        np.concatenate([one[3] for one in parts])[order],
        np.concatenate([one[4] for one in parts])[order],
        write[order],
    )


# -- what is played ----------------------------------------------------------------------------


def as_calls(
    allocator: str,
    history: History,
    make_pool: Callable[[], Pool],
    *,
    damaging: bool = False,
) -> Calls:
    """The calls of a history, as the player takes them. Where it shrinks, the evictions are those
    that a pool of ``make_pool`` asks for; what each comes to is up to its object's number. Where
    a map alone tells where an object lies, each is mapped at once, as zswap does.

    ``damaging``: with shrinks, too, by which the kernel damages its own memory; else queued work is
    done before those.
    """
    if recorded_traits(allocator).tells is Tells.MAP:
        history = _with_maps(history)
    if not (history.op == SHRINK).any():
        return _calls(history, *_plain(history))
    odd, few, drained = True, 0, len(history)
    while True:
        made = _Shrinking(history, make_pool(), odd, few, drained)
        made.damaging = damaging
        try:
            made.play()
        except HazardError:  # a shrink after which there is no kernel any more
            if few:
                history = history.part(np.arange(len(history)) != made.at)
            few = _FEW_OBJECTS
            continue
        if made.lost:
            odd = False
            continue
        if made.corrupt and not damaging:
            drained = made.at
            continue
        return _calls(history, *map(np.array, zip(*made.rows, strict=True)))


def _with_maps(history: History) -> History:
    """Each malloc is followed by a map to write."""
    times = 1 + (history.op == MALLOC)
    added = (times.cumsum() - 1)[times == 2]
    op, size_bytes = np.repeat(history.op, times), np.repeat(history.size_bytes, times)
    is_write = np.repeat(history.is_write, times)
    op[added], size_bytes[added], is_write[added] = MAP, 0, True
    object_ = np.repeat(history.object, times)
    return replace(history, op=op, object=object_, size_bytes=size_bytes, is_write=is_write)


def _plain(history: History) -> tuple[Any, ...]:
    """Op, object, size, is_write; each map is ended at once."""
    times = 1 + (history.op == MAP)
    op = np.repeat(history.op, times)
    op[(times.cumsum() - 1)[times == 2]] = UNMAP
    columns = (history.object, history.size_bytes, history.is_write)
    return op, *(np.repeat(column, times) for column in columns)


class _Shrinking:
    """Plays a history on a model, and writes down what was called.

    ``odd``: some evictions say that they are done and are not, or free the object and say that they
    failed. ``lost``: this allocator took such a word for more than it was, so that there are
    objects that nobody may name any more. ``few``: it is not shrunk with fewer objects.
    ``corrupt``: a shrink made the kernel damage its memory, because work was queued; from the call
    ``drained`` on that is done before.
    """

    def __init__(self, history: History, pool: Pool, odd: bool, few: int, drained: int) -> None:
        self.history, self.pool = history, pool
        self.odd, self.few, self.drained = odd, few, drained
        self.rows: list[tuple[int, int, int, bool]] = []
        self.handle: dict[int, int] = {}  # by object
        self.object: dict[int, int] = {}  # by handle
        self.size: dict[int, int] = {}
        self.more = int(history.object.max(initial=0)) + 1  # number of the next one made here
        self.at = 0
        self.is_late = False  # an eviction of this shrink is
        self.lost = self.corrupt = self.damaging = False

    def play(self) -> None:
        """Play all of it; HazardError with the number of the call as ``at``."""
        columns = (self.history.op, self.history.object, self.history.size_bytes)
        rows = zip(*(c.tolist() for c in columns), self.history.is_write.tolist(), strict=True)
        for self.at, (op, object_, size, write) in enumerate(rows):
            if op == MALLOC:
                self._malloc(object_, size)
            elif op == FREE:
                if object_ in self.handle:
                    self._free(object_)
            elif op == MAP:
                if object_ in self.handle:
                    self._map(object_, write)
            elif op == COMPACT:
                self._compact()
            elif len(self.handle) > self.few:
                self._shrink(size)
            if self.lost or (self.corrupt and not self.damaging):
                return

    def _note(self, op: int, object_: int, size: int, write: bool = False) -> None:
        self.rows.append((op, object_, size, write))

    def _malloc(self, object_: int, size: int) -> None:
        self._note(MALLOC, object_, size)
        try:
            handle = self.pool.malloc(size)
        except OSError:
            return
        self.handle[object_], self.object[handle], self.size[object_] = handle, object_, size

    def _free(self, object_: int) -> None:
        self._note(FREE, object_, 0)
        handle = self.handle.pop(object_)
        del self.object[handle], self.size[object_]
        self.pool.free(handle)

    def _map(self, object_: int, write: bool) -> None:
        handle = self.handle[object_]
        self._note(MAP, object_, 0, write)
        self.pool.map(handle)
        self._note(UNMAP, object_, 0)
        self.pool.unmap(handle)

    def _compact(self) -> None:
        self._note(COMPACT, 0, 0)
        if hasattr(self.pool, "run_deferred"):
            self.pool.run_deferred(1)

    def _shrink(self, pages: int) -> None:
        if self.at >= self.drained and hasattr(self.pool, "run_deferred"):
            for _ in range(self.pool.run_deferred()):
                self._note(COMPACT, 0, 0)
        own = len(self.rows)
        self._note(SHRINK, 0, pages)
        met = set(self.pool.hazards.counts) if self.odd else set()
        self.is_late = False
        with contextlib.suppress(OSError):
            self.pool.shrink(pages, self._evict)
        self.corrupt = _CORRUPTS in self.pool.hazards.counts
        self.lost |= self.is_late and set(self.pool.hazards.counts) != met
        self.rows[own] = (SHRINK, len(self.rows) - own - 1, pages, False)

    def _evict(self, handle: int) -> int:
        """An eviction: nine in sixteen are done, others fail, early or late."""
        if handle not in self.object:
            self.lost = True
            return -errno.EEXIST
        object_ = self.object[handle]
        way = (object_ * 2654435761 >> 7) % 16
        odd = self.odd and self.size[object_] <= _ODD_BYTES
        ret = 0
        if way == 15:  # before anything was done
            self._note(WRITEBACK, object_, errno.ENOMEM)
            return -errno.ENOMEM
        self._map(object_, False)
        if way in (9, 10):
            ret = -errno.EAGAIN
        elif way == 11 and odd:
            self._free(object_)
            ret = -errno.EEXIST  # it was freed, but not by this eviction
        elif way == 12 and odd:
            self._note(WRITEBACK, object_, 0)  # whoever still uses it frees it later
            self.is_late = True
            return 0
        elif way == 13:
            self._malloc(self.more, 60 + object_ % 3000)
            self._map(self.more, True)
            self.more += 1
            self._free(object_)
        else:
            self._free(object_)
        self._note(WRITEBACK, object_, -ret)
        return ret


def _calls(history: History, op: Ints, object_: Ints, size: Ints, is_write: Ints) -> Calls:
    count = len(op)
    # Of a call on an object the player wants its size.
    about = np.isin(op, (MALLOC, FREE, MAP, UNMAP, WRITEBACK))
    objects = int(object_[about].max(initial=0)) + 1
    of = np.zeros(objects, np.int64)
    malloc = op == MALLOC
    of[object_[malloc]] = size[malloc]
    use = np.isin(op, (FREE, MAP, UNMAP))
    sizes = np.where(use, of[np.where(use, object_, 0)], size)
    return Calls(
        op=op.astype(np.int8),
        object=object_.astype(np.uint32),
        size_bytes=sizes.astype(np.uint32),
        is_write=is_write.astype(bool),
        row=np.arange(count),
        objects=objects,
        first=np.array([0, count], np.uint64),
        deferred=history.deferred,
        more_bytes=0,
        adds_maps=False,
    )
