# SPDX-License-Identifier: GPL-2.0-only
"""Whatever qualifies a figure stands in every output that has the figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_cross_replay import Command, ztrace
from ztrace.traces import TraceReader, TraceWriter

__all__ = ["ztrace"]  # a fixture

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "zbud-6.1-small.parquet"
BEGAN_LATE = "pools not known to be empty at the start"
UNKNOWN = "unknown handles: unmap 2, map 1, free 27"
TOTALS = "totals equal: 2,766 of 2,972"
ANOMALIES = "totals equal to the kernel's: 2,766 of 2,972"
SLOTS = "unknown slots: invalidate 26"


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
        ("replay {} --backend zbud --anomalies", (BEGAN_LATE, UNKNOWN, ANOMALIES)),
        ("replay {} --backend all --limit 1M", (BEGAN_LATE, SLOTS)),
        ("replay {} --json", (BEGAN_LATE, UNKNOWN)),
        ("replay {} --backend zbud --backend z3fold --json", (BEGAN_LATE, UNKNOWN)),
        ("replay {} --anomalies --json", (BEGAN_LATE, UNKNOWN)),
        ("replay {} --limit 1M --json", (BEGAN_LATE, SLOTS)),
        ("compare {} --replay zbud z3fold", (BEGAN_LATE, UNKNOWN, TOTALS)),
        ("tune {}", (BEGAN_LATE, UNKNOWN)),
        ("sweep {} --backend zbud -o {}.sweep", (BEGAN_LATE, UNKNOWN, TOTALS)),
        ("synth --events 1e3 --churn fit:{} -o {}.synth", (BEGAN_LATE,)),
        ("synth --events 1e3 --sizes fit:{} -o {}.synth", (BEGAN_LATE,)),
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


@pytest.mark.parametrize(
    "command",
    [
        *("info {}", "stat {}", "validate {}", "replay {}", "replay {} --anomalies"),
        *("replay {} --backend all", "replay {} --limit 1M"),
        *("info {} --json", "stat {} --json", "replay {} --json", "replay {} --limit 1M --json"),
    ],
)
def test_what_could_not_be_probed_is_said(command: str, tmp_path: Path, ztrace: Command) -> None:
    path = tmp_path / "t.parquet"
    lack = "do_compact_page (compact) is not probed: compiled as do_compact_page.isra.0"
    with TraceReader(SAMPLE) as reader, TraceWriter(path, reader.metadata) as writer:
        for batch in reader.batches():
            writer.write(batch)
        writer.metadata = replace(reader.metadata, notes=[lack])
    status, out, _ = ztrace(*command.format(path).split())
    assert status == 0
    assert lack in " ".join(out.split())


def test_a_fit_says_how_far_its_model_is_the_kernel(tmp_path: Path, ztrace: Command) -> None:
    path, recording = tmp_path / "late.parquet", SAMPLE.with_name("ztree-6.1-bursts.parquet")
    assert ztrace("slice", recording, "--from", "0.5s", "-o", path)[0] == 0
    _, out, _ = ztrace("tune", path, "--against", "ztree:late")
    for line in ("handles equal: 0 of 4,655", "totals equal: 9,053 of 9,392", BEGAN_LATE):
        assert f"late.parquet: {line}" in " ".join(out.split())
    _, out, _ = ztrace("tune", recording, "--against", "ztree:late")
    assert "equal:" not in out


def test_a_report_says_so(late: Path, ztrace: Command) -> None:
    page = late.with_suffix(".md")
    assert ztrace("report", late, "-o", page)[0] == 0
    text = " ".join(page.read_text().split())
    for line in (BEGAN_LATE, UNKNOWN, TOTALS):
        assert line in text


def test_a_report_on_a_sweep_says_so(late: Path, ztrace: Command) -> None:
    results, page = late.with_suffix(".sweep"), late.with_suffix(".md")
    models = ("--backend", "zbud", "--backend", "z3fold")
    assert ztrace("sweep", late, *models, "-o", results)[0] == 0
    assert ztrace("report", results, "-o", page)[0] == 0
    text = " ".join(page.read_text().split())
    assert text.count(BEGAN_LATE) == text.count(UNKNOWN) == len(("zbud", "z3fold"))


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


@pytest.mark.parametrize(
    "command",
    [
        "info {}",
        "stat {}",
        "replay {} --backend zbud",
        "replay {} --backend zbud --backend z3fold",
        "replay {} --backend zbud --limit 1M --rules 6.1",
        "compare {} --replay zbud z3fold",
        "tune {}",
        "validate {}",
    ],
)
def test_unknown_is_not_zero(command: str, ztrace: Command, tmp_path: Path) -> None:
    """A CSV does not tell how many events were lost."""
    rows = "".join(f"{9 * n},5,malloc,{n % 900 + 1},{64 * (n + 1)}\n" for n in range(500))
    text = tmp_path / "t.csv"
    text.write_text(f"ts_ns,dur_ns,op,size,handle\n{rows}")
    path = tmp_path / "t.parquet"
    assert ztrace("import", text, "--allocator", "zbud", "--starts-empty", "-o", path)[0] == 0
    _, out, err = ztrace(*(word.format(path) for word in command.split()))
    if "--limit" in command:
        assert "no stores" in err or "not known" in err
        return
    assert "lost events: unknown" in out + err
    assert "lost events: 0" not in out + err
    assert "no event lost" not in out + err


def test_anonymised_and_sliced_are_as_unknown(ztrace: Command, tmp_path: Path) -> None:
    text, path = tmp_path / "t.csv", tmp_path / "t.parquet"
    text.write_text("ts_ns,dur_ns,op,size,handle\n0,5,malloc,900,64\n9000,5,malloc,9,128\n")
    assert ztrace("import", text, "--allocator", "zbud", "-o", path)[0] == 0
    for command in (("anonymise",), ("slice", "--from", "0s"), ("resize", "--scale", "0.5")):
        made = tmp_path / f"{command[0]}.parquet"
        assert ztrace(command[0], path, *command[1:], "-o", made)[0] == 0
        assert json.loads(ztrace("info", made, "--json")[1])["lost_events"] is None, command


def test_a_report_and_json_say_unknown(ztrace: Command, tmp_path: Path) -> None:
    text = tmp_path / "t.csv"
    text.write_text("ts_ns,dur_ns,op,size,handle\n0,5,malloc,900,64\n9000,5,malloc,9,128\n")
    path, page = tmp_path / "t.parquet", tmp_path / "r.md"
    assert ztrace("import", text, "--allocator", "zbud", "-o", path)[0] == 0
    for command in ("stat", "info"):
        assert json.loads(ztrace(command, path, "--json")[1])["lost_events"] is None
    assert ztrace("report", path, "-o", page)[0] == 0
    found = page.read_text()
    assert "lost events: t unknown" in found
    assert "; no event lost" not in found
