# SPDX-License-Identifier: GPL-2.0-only
"""Which objects of a pool are live, told by the calls in a trace. Whoever follows them asks here.

An object lives from the malloc that gave its handle to the free of that handle. What else occurs:

*   A handle is given out again before its free was seen to return. That is in order while the
    malloc and the free overlap: the free let go of the object and was delayed on its way out. The
    older object is then *leaving*: a free of the handle that began before the malloc returned
    is the older one's. Any other free shows that the older one's was never recorded, and
    so does a wait of :data:`FREE_WAITS_ROWS` rows, or the trace's end: then the object is *lost*,
    and counted in ``reissued``.

*   A call names a handle that nobody was given: it is *unknown*, unless the model had refused the
    object that the kernel took.

*   A malloc fails (``ret`` below 0). Only :data:`ANSWERS` tell of the allocator; the others, above
    all ENOMEM, are the page allocator's.

In a trace that is whole (:func:`is_whole`) nothing can be missing: there a lost object and an
unknown handle are errors.

The core has the same rules in replay/native/rows.c and plain.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ztrace.replay.errors import ReplayError
from ztrace.replay.read.checked import check
from ztrace.replay.read.rows import FREE, MALLOC, UNMAP
from ztrace.replay.read.source import Source
from ztrace.traces.columns import values
from ztrace.traces.metadata import Metadata
from ztrace.traces.schema import OPS

T = TypeVar("T")

FREE_WAITS_ROWS = 65536
"""Rows after which a handle given out twice is no longer taken for a free that is late."""

ANSWERS = (-errno.EINVAL, -errno.ENOSPC)
"""``ret`` of failed mallocs that an allocator's rules decide, from the size alone."""


def is_whole(metadata: Metadata) -> bool:
    """A trace that says it is not whole may lack mallocs and frees; any other may not."""
    return (
        metadata.starts_empty()
        and not metadata.lost_total()
        and not (metadata.filters or metadata.sampling)
    )


class UnknownHandle(ReplayError):
    """A call with a handle that is not live, in a whole trace."""

    def __init__(self, where: str, row: int, op: str, handle: int) -> None:
        self.what = (
            f"{where}: row {row}: {op} of handle {handle:#x}, which is not allocated there, yet "
            "the trace says that it is whole; "
        )
        super().__init__(self.what + "correct it, or record it again")
        self.row = row
        self.handle = handle

    def explained(self, source: Source) -> ReplayError:
        """The error with the cause that the rows before show. ReplayError if those are in disorder.

        A trace that began late has objects of which it never had a malloc. One that frees an
        object twice did not begin late, and to call it so would hide what is wrong.
        """
        check(source)
        before: list[tuple[int, int, int]] = []  # row, op, pool
        pool = first = 0
        for batch in source.batches(("op", "pool", "handle", "ret")):
            op, pools = batch.column("op").indices.to_numpy(), batch.column("pool").to_numpy()
            handles = values(batch.column("handle"))
            given = (op == FREE) | ((op == MALLOC) & (batch.column("ret").to_numpy() >= 0))
            at = np.flatnonzero(given & (handles == np.uint64(self.handle)))
            before += zip((first + at).tolist(), op[at].tolist(), pools[at].tolist(), strict=True)
            if self.row < first + batch.num_rows:
                pool = int(pools[self.row - first])
                break
            first += batch.num_rows
        mine = [(row, op) for row, op, its in before if row < self.row and its == pool]
        if not mine:
            return ReplayError(
                self.what + "no row before gave it: if pools were in use when recording began, "
                "the trace must say so (ztrace import without --starts-empty)"
            )
        row, op = mine[-1]
        return ReplayError(
            f"{self.what}row {row} freed it: it is freed twice, or a malloc between is missing; "
            "correct the trace, or record it again"
            if op == FREE
            else f"{self.what}row {row} gave it; correct the trace, or record it again"
        )


@contextmanager
def explaining(source: Source) -> Iterator[None]:
    """What an unknown handle in a whole trace means is said by the rows of ``source``."""
    try:
        yield
    except UnknownHandle as error:
        raise error.explained(source) from None


def reissued_handle(where: str, row: int, handle: int) -> ReplayError:
    """A handle that was given out while it was live, in a whole trace."""
    return ReplayError(
        f"{where}: row {row}: malloc gave handle {handle:#x}, which was still allocated, yet the "
        "trace says that it is whole; a free is missing before it, or the allocator gave one "
        "place twice"
    )


def errno_name(ret: int) -> str:
    """``ENOSPC`` of -28."""
    return errno.errorcode.get(-ret, str(ret))


class Leaving(NamedTuple, Generic[T]):
    """An object whose handle was given out again, by the malloc in ``row``, which then returned."""

    object: T
    given_ns: int
    row: int


class Lives(Generic[T]):
    """The live objects of one pool; T is what the caller knows of an object, never None.

    ``live``: handle -> object, to be read and, where an object moves, replaced by anyone.
    ``leaving``: handle -> the older of its two objects. ``refused``: handles of objects that the
    kernel took and the model did not. ``unknown``: op -> calls with a handle that nobody was
    given. ``reissued``: objects lost. ``failed``: name of errno -> mallocs.
    """

    def __init__(
        self,
        where: str,
        *,
        whole: bool,
        lost: Callable[[T], object] = lambda old: None,
        waits: bool = True,
    ) -> None:
        """``where`` is the trace's path, ``whole`` whether nothing can be missing in it.

        ``lost`` is called with each object whose free is missing, before it is counted.
        ``waits``: calls come as they returned, so frees may be late; without, they come in the
        order in which they took effect, and none is.
        """
        self._where = where
        self._whole = whole
        self._lost = lost
        self._waits = waits
        self.live: dict[int, T] = {}
        self.leaving: dict[int, Leaving[T]] = {}
        self.refused: set[int] = set()
        self.unknown: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.reissued = 0

    def give(self, handle: int, thing: T, end_ns: int, row: int) -> None:
        """A malloc that returned at ``end_ns`` gave ``handle``. ReplayError: see the module."""
        live = self.live
        if handle in live:
            before = Leaving(live[handle], end_ns, row)
            if handle in self.leaving:
                self.give_up(handle)
            if self._waits:
                self.leaving[handle] = before
            else:
                self._lose(handle, before)
        live[handle] = thing

    def take(self, handle: int, begun_ns: int) -> T | None:
        """The object that a free begun at ``begun_ns`` means, no longer live; None: unknown."""
        known = self.live.pop(handle, None)
        if self.leaving and handle in self.leaving:
            old = self.leaving[handle]
            if known is not None and begun_ns <= old.given_ns:
                del self.leaving[handle]
                self.live[handle] = known
                return old.object
            self.give_up(handle)
        return known

    def refuse(self, handle: int) -> None:
        """The model did not take the object to which the kernel gave ``handle``."""
        self.refused.add(handle)

    def miss(self, op: int, handle: int, row: int) -> None:
        """A call of code ``op`` on a handle that is not live. ReplayError: see the module."""
        if handle in self.refused:
            if op == FREE:
                self.refused.remove(handle)
            return
        name = OPS[op]
        # 6.1's zswap_writeback_entry() unmaps an object after it has freed it.
        if self._whole and op != UNMAP:
            raise UnknownHandle(self._where, row, name, handle)
        self.unknown[name] = self.unknown.get(name, 0) + 1

    def fail(self, ret: int) -> bool:
        """Count a malloc that failed with ``ret``; whether the allocator's rules decided that."""
        name = errno_name(ret)
        self.failed[name] = self.failed.get(name, 0) + 1
        return ret in ANSWERS

    def overdue(self, before: int | None) -> list[int]:
        """Handles given out again in rows under ``before`` (None: in any) and not freed since."""
        return [
            handle for handle, old in self.leaving.items() if before is None or old.row < before
        ]

    def give_up(self, handle: int) -> Leaving[T]:
        """Take a leaving object for lost. ReplayError: see the module."""
        old = self.leaving.pop(handle)
        self._lose(handle, old)
        return old

    def _lose(self, handle: int, old: Leaving[T]) -> None:
        if self._whole:
            raise reissued_handle(self._where, old.row, handle)
        self._lost(old.object)
        self.reissued += 1
