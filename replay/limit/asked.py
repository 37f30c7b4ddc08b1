# SPDX-License-Identifier: GPL-2.0-only
"""A pool limit as it is asked for, before the machine that it is a share of is known."""

from __future__ import annotations

from typing import NamedTuple

from ztrace.replay.errors import ReplayError
from ztrace.replay.limit.loop import recorded_limit
from ztrace.replay.limit.zswap import Limit
from ztrace.traces.metadata import Metadata

_RECORDED = "recorded"


class AskedLimit(NamedTuple):
    """``percent`` of the recorded memory, or ``bytes``, or neither: as recorded."""

    percent: int | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        """``20%``, bytes as a number, or ``recorded``; :meth:`parse` is the way back."""
        if self.percent is not None:
            return f"{self.percent}%"
        return _RECORDED if self.bytes is None else f"{self.bytes}"

    @classmethod
    def parse(cls, text: str) -> AskedLimit:
        """ReplayError for what ``str()`` did not make."""
        number = text.removesuffix("%")
        if text == _RECORDED:
            return cls()
        if not (number.isascii() and number.isdigit()):
            raise ReplayError(f"limit={text}: write a share, 20%, bytes, or recorded")
        return cls(percent=int(number)) if "%" in text else cls(bytes=int(number))

    def on(self, metadata: Metadata, accept: int | None) -> Limit:
        """The limit on the recorded machine; what is not asked for is as recorded.

        Of one in bytes ``accept`` is zswap's own unless it is given.
        """
        if self.bytes is None:
            return recorded_limit(metadata, self.percent, accept)
        pages = self.bytes // (metadata.machine.page_bytes or 4096)
        return Limit(pages) if accept is None else Limit(pages, accept_percent=accept)
