# SPDX-License-Identifier: GPL-2.0-only
"""Every command on every bundled recording, plain and as JSON: one shape, no traceback.

The rules are those of bench/commands.py, which tries all of it and takes longer.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.commands import (
    CASES,
    RECORDINGS,
    ROOT,
    Ended,
    facts,
    keys,
    words_of,
    wrong_document,
    wrong_end,
    wrong_text,
)
from tests.runner import Runner

PAGE = (ROOT / "docs" / "json.md").read_text()
SLOW = ("report", "compare", "replay IN --backend all")
LARGE_ROWS = 100_000
"""The three large recordings are taken once, as JSON, and not compared."""


def is_slow(line: str) -> bool:
    return line.startswith(SLOW)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_command_on_every_recording(ztrace: Runner, path: Path) -> None:
    recording, out = facts(path), Path("out")
    for case in CASES:
        if is_slow(case.plain):
            continue
        text = ""
        if case.then is not None or recording.rows <= LARGE_ROWS:
            plain = ztrace(*words_of(case.plain, recording, out))
            text = plain.out
            assert not list(wrong_end(case.plain, recording, Ended(**vars(plain)))), case.plain
        if case.then is not None:
            assert any(one.stat().st_size for one in Path().glob("out*"))
            for one in Path().glob("out*"):
                one.unlink()
            continue
        told = ztrace(*words_of(case.as_json, recording, out))
        assert not list(wrong_end(case.as_json, recording, Ended(**vars(told)))), case.as_json
        if told.code == 0:
            document = json.loads(told.out)
            assert not list(wrong_document(case.as_json, recording, document)), case.as_json
            assert not text or not list(wrong_text(case.plain, text, document)), case.plain


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_reports_and_comparisons_of_every_recording(ztrace: Runner, path: Path) -> None:
    recording, out = facts(path), Path("out")
    compared = path.stem.startswith("redis") or path.stem.endswith("small")
    for case in CASES:
        if not is_slow(case.plain) or not (compared or case.plain.startswith("report")):
            continue
        told = ztrace(*words_of(case.as_json, recording, out))
        assert not list(wrong_end(case.as_json, recording, Ended(**vars(told))))
        assert not list(wrong_document(case.as_json, recording, json.loads(told.out)))
        if path.stem.startswith("redis"):
            plain = ztrace(*words_of(case.plain, recording, out))
            assert not list(wrong_end(case.plain, recording, Ended(**vars(plain))))


def test_the_rules_find_what_is_wrong(ztrace: Runner) -> None:
    recording = facts(next(path for path in RECORDINGS if path.stem == "zbud-6.1-small"))
    lines = ("replay IN", "validate IN", "stat IN")
    for line in lines:
        found = ztrace(*words_of(f"{line} --json", recording, Path("out")))
        document = json.loads(found.out)
        assert not list(wrong_document(line, recording, document))
        if line.startswith("replay"):
            document["replays"][0]["totals"]["equal"] -= 1
        elif line.startswith("validate"):
            document["calls_explained"] -= 1
        else:
            document["rows"] -= 1
        assert list(wrong_document(line, recording, document))
        assert list(wrong_document(line, recording, {**document, "path": ""}))
    assert list(wrong_text("stat IN", "rows 12,281", {"rows": 12_282}))
    assert list(wrong_end("stat IN", recording, Ended(1, "", "")))
    assert list(wrong_end("stat IN", recording, Ended(0, "", "Traceback (most recent call last)")))
    assert list(wrong_end("stat IN", recording, Ended(0, "blank \n", "")))
    redis = facts(next(path for path in RECORDINGS if path.stem == "redis-ztree"))
    assert list(wrong_end("replay IN --limit 20%", redis, Ended(2, "", "no such file\n")))


def test_what_the_page_shows_is_there(ztrace: Runner) -> None:
    """The keys that docs/json.md names, by command, are those of the documents."""
    recording = next(path for path in RECORDINGS if path.stem == "zbud-6.1-small")
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 8
    for command, names in rows:
        words = command.replace("TRACE", "IN")
        if "IN" not in words.split():
            continue
        shown = ztrace(*words_of(words, facts(recording), Path("out")))
        assert (shown.code, shown.err) == (0, ""), words
        document = json.loads(shown.out)
        assert set(re.findall(r"`(\w+)`", names)) <= keys(document), command
