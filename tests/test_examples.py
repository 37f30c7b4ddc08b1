# SPDX-License-Identifier: GPL-2.0-only
"""Every command that the documents show is run, but for those that docs/examples.md names."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.examples import (
    PAGE,
    ROOT,
    as_pattern,
    elsewhere,
    examples,
    is_of,
    run_elsewhere,
    smaller,
    words,
)
from tests.runner import Runner
from tests.test_eventlines import BPFTRACE, trace_cmd
from ztrace.cli import cli

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documents are the checkout's")

SAMPLES = ROOT / "traces" / "samples"
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if any(run_elsewhere(path.name, one.line) is None for one in examples(path.read_text()))
]
FILES = {
    "trace.parquet": "zsmalloc-6.1-small",
    "t.parquet": "zbud-6.1-small",
    "zbud.parquet": "zbud-6.1-small",
    "z3fold.parquet": "z3fold-6.1-small",
}
"""What a reader's folder has, by the bundled recording that it is."""

PARTS = {
    "first.parquet": ("trace.parquet", "--to", "1s"),
    "second.parquet": ("trace.parquet", "--from", "1s"),
    "a.parquet": ("trace.parquet", "--to", "300ms"),
    "b.parquet": ("zbud.parquet", "--to", "300ms"),
    "before.parquet": ("zbud.parquet", "--to", "300ms"),
    "after.parquet": ("zbud.parquet", "--to", "300ms"),
    "ztree.parquet": ("traces/samples/ztree-6.1-bursts.parquet", "--to", "300ms"),
}
"""Parts of these, as ztrace slice takes them out."""


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents name."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "traces").mkdir()
    (folder / "traces" / "samples").symlink_to(SAMPLES)
    for name, sample in FILES.items():
        shutil.copy(SAMPLES / f"{sample}.parquet", folder / name)
    (folder / "calls.txt").write_text(trace_cmd())
    (folder / "calls-bpftrace.txt").write_text(BPFTRACE)
    (folder / "some-files").mkdir()
    for path in (ROOT / "docs").glob("*.md"):
        shutil.copy(path, folder / "some-files")
    page = (ROOT / "docs" / "add-an-allocator.md").read_text()
    (folder / "halves.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    with chdir(folder):
        for name, part in PARTS.items():
            done = CliRunner().invoke(cli, ["slice", *part, "-o", name])
            assert done.exit_code == 0, done.output
    return folder


def tried(line: str) -> str:
    """A line with what the page says is put in it."""
    for shown, put in smaller():
        line = line.replace(shown, put)
    return line


def output_of(arguments: list[str]) -> Path | None:
    """The file that a command writes."""
    at = next((i for i, word in enumerate(arguments) if word in ("-o", "--output")), None)
    return None if at is None else Path(arguments[at + 1])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_examples_run(
    path: Path,
    furnished: Path,
    ztrace: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(furnished, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    shown = list(examples(path.read_text()))
    run = 0
    for one in shown:
        if run_elsewhere(path.name, one.line) is not None:
            continue
        for pattern in (word for word in one.line.split() if word.endswith("/*.parquet")):
            Path(pattern).parent.mkdir(exist_ok=True)
            shutil.copy(furnished / "zbud.parquet", Path(pattern).parent)
        arguments = words(tried(one.line))
        output = output_of(arguments)
        if output is not None and "--force" not in arguments:
            output.unlink(missing_ok=True)
        for name in arguments:
            # Any other recording that a page names is a small one, too.
            if name.endswith(".parquet") and Path(name) != output and not Path(name).exists():
                shutil.copy(furnished / "zbud.parquet", name)
        done = ztrace(*arguments)
        allowed = (0, 1) if "status 1" in one.line or arguments[0] == "compare" else (0,)
        assert done.code in allowed, f"ztrace {one.line}: {done.err}"
        if one.output is not None:
            assert as_pattern(one.output).fullmatch(done.out + done.err), (
                f"ztrace {one.line} prints\n{done.out}{done.err}"
            )
        run += 1
    print(f"{path.name}: {run} of {len(shown)} run here")


def test_what_is_not_run_here_is_run_by_tests_that_there_are() -> None:
    shown = [
        (path.name, one.line)
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for one in examples(path.read_text())
    ]
    for row in elsewhere():
        assert row.needs
        assert all((ROOT / name).exists() for name in row.tests.split(", "))
        for begin in row.begins:
            assert any(is_of(begin, page, line) for page, line in shown), begin
    assert all(any(one in line for _, line in shown) for one, _ in smaller())


def test_examples_are_found_in_each_form() -> None:
    text = (
        "text\n\n    ztrace info a.parquet   # why\n    sudo ztrace record \\\n        -o x\n"
        "```sh\nztrace stat a.parquet\n```\n"
        "```console\n$ ztrace validate a.parquet\nyes …\n…\nlast\n\n$ true\nno\n```\n"
        "```text\nztrace gone\n```\nztrace is\n"
    )
    found = list(examples(text))
    assert [one.line.split(" ")[0] for one in found] == ["info", "record", "stat", "validate"]
    assert [one.output for one in found][:3] == [None, None, None]
    shown = found[3].output
    assert shown == "yes …\n…\nlast\n"
    pattern = as_pattern(shown)
    assert pattern.fullmatch("yes 1 of 1\na\nb\nlast\n")
    assert pattern.fullmatch("yes \nlast\n")
    assert not pattern.fullmatch("no\nlast\n")
    assert not pattern.fullmatch("yes 1\nlast\nmore\n")
    assert words("replay a --flag 'x y' | head") == ["replay", "a", "--flag", "x y"]
    assert words("corpus   # all of them") == ["corpus"]
