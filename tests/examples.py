# SPDX-License-Identifier: GPL-2.0-only
"""The commands that documents show, with what they are shown to print, and how they are tried.

An example is a line of ztrace: indented by four, in a fence of ``sh``, or after ``$`` in a fence of
``console``, where the lines below it are its output; there ``…`` stands for anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "examples.md"

_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^(?P<prompt> {4}|\$ |)(?:sudo )?(?:\.venv/bin/)?ztrace (?P<rest>.*)$")


@dataclass(frozen=True)
class Example:
    """``line`` is a command without the program's name; ``output`` what is shown of it, if any."""

    line: str
    output: str | None = None


def examples(text: str) -> Iterator[Example]:
    """The examples of a document in its order."""
    text = re.sub(r"\\\n\s*", " ", text)
    at = 0
    for fence in _FENCE.finditer(text):
        yield from _lines(text[at : fence.start()], indented=True)
        if fence["kind"] in ("sh", "console"):
            yield from _lines(fence["text"], indented=False, prompts=fence["kind"] == "console")
        at = fence.end()
    yield from _lines(text[at:], indented=True)


def _lines(text: str, *, indented: bool, prompts: bool = False) -> Iterator[Example]:
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        wanted = match and match["prompt"] == ("    " if indented else "$ " if prompts else "")
        if match and wanted:
            found.append((match["rest"], []))
        elif prompts and line.startswith("$ "):
            found.append(("", []))  # of another program
        elif prompts and found:
            found[-1][1].append(line)
    for line, output in found:
        if line:
            yield Example(line, "\n".join(output) if prompts and any(output) else None)


def words(line: str) -> list[str]:
    """The arguments of a line, up to what is done with its output; files' patterns expanded."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("|>&;"):
            break
        found += sorted(map(str, Path().glob(word))) if word.endswith("*.parquet") else [word]
    return found


def as_pattern(output: str) -> re.Pattern[str]:
    """What matches an output that is shown with … in it."""
    lines = [re.escape(line.rstrip()).replace("…", ".*") for line in output.rstrip().splitlines()]
    return re.compile("".join("(?:.*\n)*?" if line == ".*" else f"{line}\n" for line in lines))


@dataclass(frozen=True)
class Elsewhere:
    """Commands that are not run with the others: why, and by which tests they are."""

    begins: tuple[str, ...]
    needs: str
    tests: str


def elsewhere() -> list[Elsewhere]:
    """The page's table of those."""
    return [
        Elsewhere(tuple(re.findall(r"`([^`]+)`", row[0])), row[1], row[2])
        for row in _table("## Not run with the others")
    ]


def smaller() -> list[tuple[str, str]]:
    """The page's table of what is put where: what is shown, what is tried."""
    return [(row[0].strip("`"), row[1].strip("`")) for row in _table("## Smaller")]


def _table(head: str) -> list[list[str]]:
    section = PAGE.read_text().partition(f"{head}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def run_elsewhere(page: str, line: str) -> Elsewhere | None:
    """The table's row for a command of a page, None if it is run with the others."""
    for row in elsewhere():
        if any(is_of(begin, page, line) for begin in row.begins):
            return row
    return None


def is_of(begin: str, page: str, line: str) -> bool:
    """Whether a line of a page begins so, or has anywhere what follows …, or it is the page."""
    if begin.startswith("…"):
        return begin[1:] in line
    return begin == page or line.startswith(begin)
