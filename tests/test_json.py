# SPDX-License-Identifier: GPL-2.0-only
"""Every command on every bundled recording, plain and as JSON: one shape, no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from tests.runner import ROOT, Result, Runner
from ztrace.traces import TraceReader

RECORDINGS = sorted((ROOT / "traces" / "samples").rglob("*.parquet"))
PAGE = (ROOT / "docs" / "json.md").read_text()

WRITING = ("slice IN --pool 0 -o OUT", "anonymise IN -o OUT", "export IN -o OUT")
READING = (
    "info IN",
    "stat IN",
    "replay IN",
    "replay IN --backend zbud --backend ztree",
    "replay IN --anomalies",
    "replay IN --limit 20%",
    "validate IN",
    "tune IN --against ztree:late",
)
SLOW = ("report IN --no-time", "compare IN IN")
LARGE_ROWS = 100_000
"""The three large recordings are taken once, as JSON, and not compared."""

NO_STORES = "no stores in it; a pool limit needs zswap's own calls"


def called(ztrace: Runner, words: str, recording: Path, *more: str) -> Result:
    """Run a command; its exit status and stderr are what the documentation says."""
    names = {"IN": str(recording), "OUT": "out"}
    result = ztrace(*(names.get(word, word) for word in words.split()), *more)
    refused = "--limit" in words and not has_stores(recording)
    assert result.code == (2 if refused else 0), (words, result.err)
    assert NO_STORES in result.err if refused else result.err == "", words
    return result


def is_large(recording: Path) -> bool:
    with TraceReader(recording) as reader:
        return reader.num_rows > LARGE_ROWS


def has_stores(recording: Path) -> bool:
    with TraceReader(recording) as reader:
        return any(pc.any(pc.equal(one["op"], "store")).as_py() for one in reader.batches(["op"]))


def keys(document: Any) -> set[str]:
    """All names that a document has, at any depth."""
    if isinstance(document, list):
        return set().union(*map(keys, document))
    if not isinstance(document, dict):
        return set()
    return set(document).union(*map(keys, document.values()))


def check_shape(document: Any, recording: Path, words: str) -> None:
    """What is common to all documents (docs/json.md)."""
    assert isinstance(document, dict)
    assert not keys(document) & {"path", "lost_total", "limited"}
    if words.startswith("report"):
        [document] = document["recordings"]
    if words.startswith(("compare", "tune")):
        assert document["lost_events"] in (0, {"a": 0, "b": 0})
        return
    assert document["trace"] == str(recording)
    assert document["lost_events"] == 0
    if words.startswith("replay"):
        backends = [one["backend"] for one in document["replays"]]
        expected = words.count("--backend") or (2 if "--limit" in words else 1)
        assert len(backends) == expected
    if words.startswith(("info", "stat", "replay")):
        with TraceReader(recording) as reader:
            assert document["rows"] == reader.num_rows
        assert (document["lost"], document["sample_period"]) == ({}, 1.0)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_every_command_on_every_recording(ztrace: Runner, recording: Path) -> None:
    for words in READING:
        shown = called(ztrace, words, recording, "--json")
        if shown.code == 0:
            check_shape(json.loads(shown.out), recording, words)
        if not is_large(recording):
            plain = called(ztrace, words, recording)
            assert plain.code == shown.code
            assert not re.search(r"[ \t]$", plain.out, re.MULTILINE), words
    for words in WRITING:
        called(ztrace, words, recording, "--force")
        assert Path("out").stat().st_size > 0


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_reports_and_comparisons_of_every_recording(ztrace: Runner, recording: Path) -> None:
    compared = recording.stem.startswith("redis") or recording.stem.endswith("small")
    for words in SLOW if compared else SLOW[:1]:
        more = ("--format", "json") if words.startswith("report") else ("--json",)
        check_shape(json.loads(called(ztrace, words, recording, *more).out), recording, words)
        if recording.stem.startswith("redis"):
            assert called(ztrace, words, recording).out


def test_what_the_page_shows_is_there(ztrace: Runner) -> None:
    """The keys that docs/json.md names, by command, are those of the documents."""
    recording = next(path for path in RECORDINGS if path.stem == "zbud-6.1-small")
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 8
    for command, names in rows:
        words = command.replace("TRACE", "IN")
        if "IN" not in words.split():
            continue
        document = json.loads(called(ztrace, words, recording).out)
        assert set(re.findall(r"`(\w+)`", names)) <= keys(document), command
