# SPDX-License-Identifier: GPL-2.0-only
"""Whatever qualifies a figure stands in every output that has the figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cross_replay import Command, ztrace

__all__ = ["ztrace"]  # a fixture

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "zbud-6.1-small.parquet"
BEGAN_LATE = "pools not known to be empty at the start"
UNKNOWN = "unknown handles: unmap 2, map 1, free 27"
TOTALS = "totals equal: 2,766 of 2,972"


@pytest.fixture
def late(tmp_path: Path, ztrace: Command) -> Path:
    """A recording begun when the machine was swapping already."""
    path = tmp_path / "late.parquet"
    assert ztrace("slice", SAMPLE, "--from", "0.5s", "-o", path)[0] == 0
    return path


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("replay {} --backend zbud", (BEGAN_LATE, UNKNOWN, TOTALS)),
        ("replay {} --backend zbud --backend z3fold", (BEGAN_LATE, UNKNOWN, f"zbud: {TOTALS}")),
        ("replay {} --backend all --limit 1M", (BEGAN_LATE,)),
        ("compare {} --replay zbud z3fold", (BEGAN_LATE, UNKNOWN, TOTALS)),
        ("tune {}", (BEGAN_LATE, UNKNOWN)),
        ("sweep {} --backend zbud -o {}.sweep", (BEGAN_LATE, UNKNOWN)),
        ("validate {}", ("not",)),
    ],
)
def test_said_beside_the_figures(
    command: str, lines: tuple[str, ...], late: Path, ztrace: Command
) -> None:
    _, out, _ = ztrace(*(word.format(late) for word in command.split()))
    text = " ".join(out.split())
    for line in lines:
        assert line in text


def test_a_report_says_so(late: Path, ztrace: Command) -> None:
    page = late.with_suffix(".md")
    assert ztrace("report", late, "-o", page)[0] == 0
    text = " ".join(page.read_text().split())
    for line in (BEGAN_LATE, UNKNOWN, TOTALS):
        assert line in text


def test_what_is_the_same_for_all_is_said_once(late: Path, ztrace: Command) -> None:
    _, out, _ = ztrace("replay", late, "--backend", "zbud", "--backend", "z3fold")
    assert out.count(BEGAN_LATE) == out.count("unknown handles") == 1
    _, out, _ = ztrace("replay", SAMPLE, "--backend", "zbud", "--backend", "z3fold")
    assert BEGAN_LATE not in out
    assert "unknown handles" not in out


def test_a_limit_that_is_never_reached(ztrace: Command) -> None:
    command = ("replay", SAMPLE, "--backend", "zbud", "--limit", "1G")
    _, out, _ = ztrace(*command, "--worker", "1ms,1ms")
    assert "the limit was never reached: it changed nothing" in out
    assert out.count("refaults  freed") == 1
    _, out, _ = ztrace(*command[:-1], "200K", "--worker", "1ms,1ms")
    assert "never reached" not in out
    _, text, _ = ztrace(*command, "--json")
    assert not any(one["reached"] for one in json.loads(text)["replays"])
