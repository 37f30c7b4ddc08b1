# SPDX-License-Identifier: GPL-2.0-only
"""Every command on every bundled recording, plain and as JSON: ``python -m bench.commands``.

Prints a table of commands x recordings with their exit statuses, plain and as JSON, and below it
whatever is not as documented: another status, a traceback, messages, another shape of the JSON,
figures that do not agree with the kernel's, plain output that does not have the JSON's figures.
Commands that write a trace have no ``--json``: there it is ``validate --json`` of what they wrote,
and of a CSV of the trace that it is imported as. Exit status 1 if anything is not as documented.

The quick share of it is in the suite (tests/test_json.py), with the rules that are here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow.compute as pc

from ztrace.traces import TraceReader
from ztrace.traces.metadata import Metadata

ROOT = Path(__file__).parents[1]
RECORDINGS = sorted((ROOT / "traces" / "samples").rglob("*.parquet"))

NO_STORES = "no stores in it; this needs zswap's own calls"

UNDETERMINED = {"z3fold-6.1-small-2cpu": (14, 73), "compile-z3fold": (0, 14)}
"""Of z3fold on two CPUs: places and sizes that the order of overlapping calls decides."""


@dataclass(frozen=True)
class Case:
    """A line of the table: IN is a recording, OUT a file. ``then`` is run after it with --json."""

    plain: str
    json: str | None = None
    then: str | None = None

    @property
    def as_json(self) -> str:
        """What is run for the JSON."""
        return self.then or self.json or f"{self.plain} --json"


CASES = (
    Case("info IN"),
    Case("stat IN"),
    Case("replay IN"),
    Case("replay IN --backend zbud --backend ztree"),
    Case("replay IN --backend all"),
    Case("validate IN"),
    Case("replay IN --anomalies"),
    Case("replay IN --limit 20%"),
    Case("report IN --no-time", "report IN --no-time --format json"),
    Case("tune IN --against ztree:late"),
    Case("compare IN IN"),
    Case("slice IN --to HALF -o OUT", then="validate OUT --json"),
    Case("anonymise IN -o OUT", then="validate OUT --json"),
    Case("export IN -o OUT.csv", then="import OUT.csv -o OUT"),
)


@dataclass(frozen=True)
class Facts:
    """What a recording is, as far as the documentation makes a difference."""

    path: Path
    rows: int
    metadata: Metadata
    has_stores: bool
    half_ns: int

    @property
    def one_cpu(self) -> bool:
        """Whether recorded order is the order of the calls."""
        return self.metadata.machine.cpus == 1


@cache
def facts(path: Path) -> Facts:
    """Look at a recording."""
    stores, first, last = False, [], []
    with TraceReader(path) as reader:
        for batch in reader.batches(["op", "ts_ns"]):
            stores |= bool(pc.any(pc.equal(batch["op"], "store")).as_py())
            limits = pc.min_max(batch["ts_ns"]).as_py()
            first.append(limits["min"])
            last.append(limits["max"])
        half_ns = (max(last) - min(first)) // 2
        return Facts(path, reader.num_rows, reader.metadata, stores, half_ns)


def words_of(line: str, recording: Facts, out: Path) -> list[str]:
    """The arguments of a line."""
    names = {
        "IN": str(recording.path),
        "OUT": str(out),
        "OUT.csv": f"{out}.csv",
        "HALF": f"{recording.half_ns / 1e9:.9f}s",
    }
    return [names.get(word, word) for word in line.split()]


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str


def wrong_end(line: str, recording: Facts, ended: Ended) -> Iterator[str]:
    """What is not as documented of a command's status and messages."""
    refused = "--limit" in line and not recording.has_stores
    if ended.code != (2 if refused else 0):
        yield f"exit status {ended.code}: {ended.err.strip()[-200:]}"
    elif "Traceback" in ended.err:
        yield f"a traceback: {ended.err.strip()[-200:]}"
    elif refused and (NO_STORES not in ended.err or ended.err.count("\n") != 1):
        yield f"not the one line that says why: {ended.err.strip()[-200:]}"
    elif not refused and ended.err:
        yield f"messages: {ended.err.strip()[-200:]}"
    if re.search(r"[ \t]$", ended.out, re.MULTILINE):
        yield "blanks at the ends of lines"


def keys(document: Any) -> set[str]:
    """All names that a document has, at any depth."""
    if isinstance(document, list):
        return set().union(*map(keys, document))
    if not isinstance(document, dict):
        return set()
    return set(document).union(*map(keys, document.values()))


def wrong_document(line: str, recording: Facts, document: Any) -> Iterator[str]:
    """What of a command's JSON has another shape than docs/json.md says, or does not agree."""
    if old := keys(document) & {"path", "lost_total", "limited"}:
        yield f"names that are no more: {', '.join(sorted(old))}"
    if line.startswith("report"):
        [document] = document["recordings"]
    if line.startswith(("compare", "tune")):
        if document["lost_events"] not in (0, {"a": 0, "b": 0}):
            yield f"lost_events {document['lost_events']}"
        if document.get("regressions"):
            yield f"{document['regressions']} regressions of a recording against itself"
        return
    if "OUT" not in line.split() and document["trace"] != str(recording.path):
        yield f"trace {document['trace']}"
    if document["lost_events"] != 0:
        yield f"lost_events {document['lost_events']}"
    if line.startswith(("info", "stat", "replay")):
        about = (document["rows"], document["lost"], document["sample_period"])
        if about != (recording.rows, {}, 1.0):
            yield f"rows, lost and sample_period are {about}"
    if line.startswith("replay"):
        yield from _wrong_replays(line, recording, document["replays"])
    if line.startswith("validate"):
        yield from _wrong_validation(line, recording, document)


def _wrong_replays(line: str, recording: Facts, replays: list[dict[str, Any]]) -> Iterator[str]:
    asked = line.count("--backend")
    if "all" not in line.split() and len(replays) != (asked or (2 if "--limit" in line else 1)):
        yield f"{len(replays)} replays"
    for one in replays:
        for name in ("handles", "totals"):
            found = one.get(name)
            if found is None or found["equal"] == found["compared"]:
                continue
            if one["backend"] != recorded_model(recording):
                continue  # another release's rules
            # What need not agree is said beside the figure, and is of other CPUs' calls.
            if name == "handles" or recording.one_cpu:
                yield f"{one['backend']}: {name} {found['equal']} of {found['compared']}"
            elif not any("CPUs" in qualified for qualified in one["qualified"]):
                yield f"{one['backend']}: {name} differ, and nothing says why"


def recorded_model(recording: Facts) -> str:
    """The backend that is the recorded allocator."""
    [allocator] = {pool.allocator for pool in recording.metadata.pools}
    return "zsmalloc:6.1" if allocator == "zsmalloc" else allocator


def _wrong_validation(line: str, recording: Facts, document: dict[str, Any]) -> Iterator[str]:
    if not document["explained"]:
        yield "not explained"
    if line.split()[1] == "IN":
        places, sizes = UNDETERMINED.get(recording.path.stem, (0, 0))
    else:  # of a part of it, at most as many
        places, sizes = document.get("calls_undetermined", 0), None
    if document["calls"] != document["calls_explained"] + places:
        yield f"{document['calls_explained']} of {document['calls']} calls"
    for pool in document.get("pools", ()):
        found = pool["sizes"]
        if sizes is not None and pool["calls"] and found["equal"] + sizes != found["compared"]:
            yield f"sizes {found['equal']} of {found['compared']}"
        # 6.1's writeback unmaps an object after it has freed it, which only a whole trace excuses.
        if set(pool["unknown"]) - (set() if sizes is not None else {"use"}):
            yield f"unknown calls {pool['unknown']}"


def wrong_text(line: str, text: str, document: Any) -> Iterator[str]:
    """Figures of the JSON that the plain output lacks."""
    said = " ".join(text.split())
    expected: list[str] = []
    if line.startswith("validate"):
        expected.append(f"{document['calls_explained']:,} of {document['calls']:,}")
    if line == "replay IN":
        [one] = document["replays"]
        expected += (
            f"{name} equal: {one[name]['equal']:,} of {one[name]['compared']:,}"
            for name in ("handles", "totals")
            if one[name]["compared"]
        )
    if line.startswith(("info", "stat")):
        expected.append(f"{document['rows']:,}")
    for one in expected:
        if one not in said:
            yield f"the text does not say {one!r}"


def run(words: list[str]) -> Ended:
    """Run the command line as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "ztrace", *words], capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Cell:
    """One command on one recording."""

    case: Case
    recording: Path
    plain: int
    json: int
    wrong: list[str]
    seconds: float


def try_recording(path: Path) -> list[Cell]:
    """All commands on one recording."""
    recording, cells = facts(path), []
    original: Any = None
    with tempfile.TemporaryDirectory(prefix="ztrace-commands-") as folder:
        for number, case in enumerate(CASES):
            began, out = perf_counter(), Path(folder) / f"{number}"
            plain = run(words_of(case.plain, recording, out))
            wrong = [f"plain: {one}" for one in wrong_end(case.plain, recording, plain)]
            told = run(words_of(case.as_json, recording, out))
            failed = list(wrong_end(case.as_json, recording, told))
            if not failed and told.code == 0 and case.as_json.startswith("import"):
                failed += _wrong_import(recording, out)
            elif not failed and told.code == 0:
                document = json.loads(told.out)
                failed += wrong_document(case.as_json, recording, document)
                failed += wrong_text(case.plain, plain.out, document)
                if case.plain.startswith("validate"):
                    original = document
                if case.plain.startswith("anonymise") and original is not None:
                    failed += _wrong_anonymised(original, document)
            wrong += [f"JSON: {one}" for one in failed]
            cells.append(Cell(case, path, plain.code, told.code, wrong, perf_counter() - began))
    return cells


def _wrong_import(recording: Facts, out: Path) -> Iterator[str]:
    """Rows that did not come back from CSV as they were."""
    with TraceReader(recording.path) as before, TraceReader(out) as after:
        if not all(a.equals(b) for a, b in zip(before.batches(), after.batches(), strict=True)):
            yield "rows differ"
        if after.metadata.lost_events() is not None:
            yield "says that events were counted"


def _wrong_anonymised(original: Any, document: Any) -> Iterator[str]:
    """Figures of validation that are not those of the original."""
    for name in ("explained", "calls", "calls_explained"):
        if document[name] != original[name]:
            yield f"{name} {document[name]}, of the original {original[name]}"


def show(cells: Iterable[Cell], recordings: list[Path]) -> int:
    """Print the table and what is wrong; the number of wrong things."""
    found = {(cell.case, cell.recording): cell for cell in cells}
    for number, path in enumerate(recordings, 1):
        print(f"{number:3} {path.stem}")
    width = max(len(case.plain) for case in CASES)
    print(f"\n{'':{width}}  {' '.join(f'{n:>3}' for n in range(1, len(recordings) + 1))}      s")
    for case in CASES:
        row = [found[case, path] for path in recordings]
        marks = (f"{one.plain}{one.json}{'!' if one.wrong else ' '}" for one in row)
        seconds = sum(one.seconds for one in row)
        print(f"{case.plain:{width}}  {' '.join(marks)} {seconds:6.1f}")
    print("\nexit status plain, then as JSON; !: not as documented")
    wrong = [(cell, one) for cell in found.values() for one in cell.wrong]
    for cell, one in wrong:
        print(f"{cell.case.plain} on {cell.recording.stem}: {one}")
    print(f"{2 * len(found)} commands, {len(wrong)} not as documented")
    return len(wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description="Try all commands; see the module.")
    parser.add_argument("recording", type=Path, nargs="*", default=RECORDINGS)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    recordings = sorted(arguments.recording)
    largest_first = sorted(recordings, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(arguments.processes) as pool:
        cells = [cell for part in pool.map(try_recording, largest_first) for cell in part]
    sys.exit(1 if show(cells, recordings) else 0)


if __name__ == "__main__":
    main()
