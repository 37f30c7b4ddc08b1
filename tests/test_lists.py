# SPDX-License-Identifier: GPL-2.0-only
"""What a search through z3fold's lists can have found, against all moments at which it can have
looked."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from ztrace.replay.validate.lists import Key, Lists, Look

CPUS, SIZES = 2, 4

Operation = tuple[int, int, Key | None]
"""When, which page, and on which list it goes; None: off the one that it is on."""


def history(dice: random.Random, count: int) -> list[Operation]:
    """Pages go on lists and off them, one thing at a time."""
    on: dict[int, Key] = {}
    made: list[Operation] = []
    for at in range(1, count + 1):
        off = [page for page in range(6) if page not in on]
        if on and (not off or dice.random() < 0.5):
            page = dice.choice(sorted(on))
            del on[page]
            made.append((at, page, None))
        else:
            page = dice.choice(off)
            on[page] = dice.randrange(CPUS), dice.randrange(SIZES)
            made.append((at, page, on[page]))
    return made


def contents(made: list[Operation], at: float) -> dict[Key, list[int]]:
    """What is on the lists right after a moment, the oldest page first."""
    lists: dict[Key, list[int]] = {}
    for when, page, key in made:
        if when > at:
            break
        for pages in lists.values():
            if page in pages:
                pages.remove(page)
        if key is not None:
            lists.setdefault(key, []).append(page)
    return lists


def ends(
    made: list[Operation], since: int, until: int, cpu: int, chunks: int, locked: set[int]
) -> Iterator[tuple[Key, int] | None]:
    """All that a search can end with that begins at ``since`` and takes its page at ``until``: the
    list and the page; None: nothing. Between two operations is one moment to look; what the one
    before it put on a list may not be seen yet."""
    looks = [(cpu, number, False) for number in range(chunks, SIZES)]
    looks += [(other, chunks, True) for other in range(CPUS)]

    def go_on(at: int, number: int) -> Iterator[tuple[Key, int] | None]:
        if number == len(looks):
            yield None
            return
        owner, size, exact = looks[number]
        pages = contents(made, until - 1).get((owner, size), [])
        if pages:
            yield (owner, size), pages[-1]
        for moment in range(at, until):
            seen = [contents(made, when).get((owner, size), []) for when in (moment - 1, moment)]
            if not all(seen) or (exact and seen[1][-1] in locked):
                yield from go_on(moment, number + 1)

    yield from go_on(since, 0)


@pytest.mark.parametrize("seed", range(80))
def test_a_search_is_judged_as_by_all_its_moments(seed: int) -> None:
    dice = random.Random(seed)
    made = history(dice, 14)
    since, until = sorted(dice.sample(range(1, 15), 2))
    cpu, chunks = dice.randrange(CPUS), dice.randrange(SIZES)
    locked = set(dice.sample(range(6), dice.randrange(4)))
    possible = set(ends(made, since, until, cpu, chunks, locked))
    lists = Lists(CPUS, SIZES)
    for at, page, key in made:
        if at >= until:
            break
        lists.passed(at)
        if key is None:
            lists.unlink(page, at)
        else:
            lists.link(page, key, at)
    looks = [Look(since)]

    def busy(page: int, begin: int, end: int) -> bool:
        return page in locked

    assert lists.none(looks, cpu, until, chunks, busy) >= (None in possible)
    for key, pages in contents(made, until - 1).items():
        if not pages:
            continue
        found = bool(lists.taken(looks, pages[-1], cpu, until, chunks, busy))
        assert found >= ((key, pages[-1]) in possible)
        assert lists.is_newest(pages[-1])
        assert not any(lists.is_newest(page) for page in pages[:-1])
    # What no task on any CPU can have found is not taken for possible.
    anywhere = {one for own in range(CPUS) for one in ends(made, since, until, own, chunks, locked)}
    assert lists.none(looks, cpu, until, chunks, busy) <= (None in anywhere)
    for key, pages in contents(made, until - 1).items():
        if pages:
            found = bool(lists.taken(looks, pages[-1], cpu, until, chunks, busy))
            assert found <= ((key, pages[-1]) in anywhere)
