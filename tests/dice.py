# SPDX-License-Identifier: GPL-2.0-only
"""Who decides what happens in a made-up history: hypothesis, which shrinks it, or chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Dice(Protocol):
    """What a history is made with."""

    def number(self, least: int, most: int) -> int:
        """One of these numbers, both ends included."""

    def one_of(self, choices: Sequence[T]) -> T:
        """One of these."""


class Drawn:
    """By hypothesis; ``draw`` is that of a composite strategy."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def number(self, least: int, most: int) -> int:
        """See Dice."""
        drawn: int = self._draw(st.integers(least, most))
        return drawn

    def one_of(self, choices: Sequence[T]) -> T:
        """See Dice."""
        drawn: T = self._draw(st.sampled_from(choices))
        return drawn


class Thrown:
    """By chance, the same for the same seed."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)

    def number(self, least: int, most: int) -> int:
        """See Dice."""
        return self._random.randint(least, most)

    def one_of(self, choices: Sequence[T]) -> T:
        """See Dice."""
        return self._random.choice(choices)
