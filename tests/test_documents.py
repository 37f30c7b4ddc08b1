# SPDX-License-Identifier: GPL-2.0-only
"""What documents and outputs name is there: files, links, modules, commands and their options."""

from __future__ import annotations

import importlib
import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from tests.examples import examples
from ztrace.cli import cli as ztrace

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="what documents name is the checkout's"
)

FOLDERS = ("allocator", "bench", "docs", "replay", "tests", "tools", "traces", "tracer", "ztrace")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.md")
        if not path.is_symlink()
    ),
]
SOURCES = [
    path
    for folder in ("allocator", "replay", "traces", "tracer", "ztrace", "bench", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".c", ".h", ".sh") and path.name != Path(__file__).name
]

LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
# A path from the top of the repository, or from the file that names it.
CITED = re.compile(
    rf"(?<![\w/.{{<$-])(?P<path>(?:\.\./)*(?:{'|'.join(FOLDERS)}|reference)/[\w./+-]+"
    r"\.(?:md|py|c|h|sh|txt|parquet))(?![\w/])"
)
MODULE = re.compile(r"\bztrace(?:\.(?!parquet\b)[A-Za-z_]\w*)+")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


def dangling_links(path: Path, text: str) -> list[str]:
    """Relative links of a document that lead nowhere, also inside the document they lead to."""
    found = []
    for link in LINK.finditer(text):
        if "://" in link["path"]:
            continue
        target = path.parent / link["path"] if link["path"] else path
        if (target != path and not target.exists()) or (
            link["anchor"]
            and link["anchor"][1:] not in anchors(text if target == path else target.read_text())
        ):
            found.append(link[0])
    return found


def anchors(text: str) -> set[str]:
    """Names of a document's headings, as its readers make them."""
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def missing_paths(path: Path, text: str) -> list[str]:
    """Paths of the repository that a file names and that are not there."""
    cited = {match["path"] for match in CITED.finditer(text)}
    return sorted(
        name
        for name in cited
        if not PLACEHOLDER.search(name)
        and not any((base / name).exists() for base in (ROOT, path.parent))
    )


def missing_modules(text: str) -> list[str]:
    """Modules of ztrace, and names in them, that a document names and that are not there."""
    return sorted(
        name
        for name in set(MODULE.findall(text))
        if not PLACEHOLDER.search(name) and name not in ENTRY_POINTS and not _is_there(name)
    )


ENTRY_POINTS = ("ztrace.backends",)


def _is_there(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def unknown_in_command(line: str) -> str:
    """What of a command line ztrace does not know, empty if nothing."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    # Up to what is done with the output.
    words = list(takewhile(lambda word: not set(word) <= set("|>&;"), lexer))
    group: click.Command = ztrace
    context = click.Context(group)
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        found = group.get_command(context, words[0])
        if found is None:
            return words[0]
        group, words = found, words[1:]
    if "--" in words:
        words = words[: words.index("--")]
    known = {name for one in group.params for name in (*one.opts, *one.secondary_opts)}
    known |= {"--help", "-h", "--version"}
    given = [word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)]
    return " ".join(word for word in given if word not in known)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_names_what_is_there(path: Path) -> None:
    text = path.read_text()
    assert dangling_links(path, text) == []
    assert missing_paths(path, text) == []
    assert missing_modules(text) == []
    assert [one.line for one in examples(text) if unknown_in_command(one.line)] == []


def test_sources_and_what_they_print_name_what_is_there() -> None:
    found = {path: missing_paths(path, path.read_text()) for path in SOURCES}
    assert {str(path): names for path, names in found.items() if names} == {}


def test_outputs_say_of_documents_that_they_are_in_the_source() -> None:
    """An install has no docs folder: a bare docs/x.md would be looked for in vain."""
    printed = [
        path
        for folder in ("commands", "present")
        for path in (ROOT / "ztrace" / folder).glob("*.py")
    ]
    bare = [
        f"{path.name}: {match[0]}"
        for path in printed
        for match in re.finditer(r"docs/[\w-]+\.md(?! in the\s+source)", path.read_text())
    ]
    assert bare == []


def test_the_first_page_names_every_document() -> None:
    linked = {match["path"] for match in LINK.finditer((ROOT / "docs" / "index.md").read_text())}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= linked
    assert "](docs/index.md)" in (ROOT / "README.md").read_text()


def test_the_checks_find_what_is_not_there() -> None:
    path = ROOT / "docs" / "x.md"
    text = (
        "# One head\n[a](replay.md) [b](gone.md) [c](#one-head) [d](#other) [e](https://x.org/y.md)\n"
        "see docs/gone.md, docs/replay.md, ../reference/ztree.md, allocator/NAME/model.py\n"
        "`ztrace.replay.validate.gone` `ztrace.traces.TraceReader` `ztrace.gone`\n"
        "    sudo ztrace record -o x.parquet --gone -- ./a --b   # --c\n"
        "    ztrace repaly x\n"
        "    ztrace lab run --kernel 6.1 \\\n        --workload churn | head -n 1\n"
    )
    assert dangling_links(path, text) == ["](gone.md)", "](#other)"]
    assert missing_paths(path, text) == ["../reference/ztree.md", "docs/gone.md"]
    assert missing_modules(text) == ["ztrace.gone", "ztrace.replay.validate.gone"]
    assert [unknown_in_command(one.line) for one in examples(text)] == ["--gone", "repaly", ""]
