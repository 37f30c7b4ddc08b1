# SPDX-License-Identifier: GPL-2.0-only
"""What all commands have in common: slips, completion, pipes, closed streams, strange names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from tests.runner import ROOT, SAMPLES, Runner, leaves, shell
from ztrace import outputs
from ztrace.console import console, table
from ztrace.text import counted
from ztrace.traces import Kernel, Machine, PoolInfo, Probe, TraceReader, TraceWriter

SMALL = next(path for path in SAMPLES if path.stem == "zbud-6.1-small")
EVIL = "e\x1b[31mvil\r\n\x07"


# Slips and completion


@pytest.mark.parametrize(
    ("words", "meant"), [("repaly", "replay"), ("stta", "stat"), ("lab lsit", "list")]
)
def test_an_unknown_command_is_taken_for_a_slip(ztrace: Runner, words: str, meant: str) -> None:
    result = ztrace(*words.split())
    assert (result.code, result.out) == (2, "")
    assert result.err.endswith(f"No such command {words.split()[-1]!r}; did you mean {meant}?\n")


def test_a_command_like_no_other_suggests_nothing(ztrace: Runner) -> None:
    assert ztrace("qqqq").err.endswith("No such command 'qqqq'.\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ztrace re", ["record", "recover", "resize", "replay", "report"]),
        ("ztrace replay --recorded", ["--recorded-order"]),
        ("ztrace lab c", ["case-study"]),
        ("ztrace replay --backend z3", ["z3fold"]),
    ],
)
def test_the_shell_completes(tmp_path: Path, typed: str, offered: list[str]) -> None:
    result = shell(
        "ztrace",
        tmp_path,
        _ZTRACE_COMPLETE="bash_complete",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split()) - 1),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.removeprefix("plain,") for line in result.stdout.splitlines()] == offered


def test_the_shell_gets_a_script_to_complete_with(tmp_path: Path) -> None:
    result = shell("ztrace", tmp_path, _ZTRACE_COMPLETE="bash_source")
    assert result.returncode == 0
    assert "complete -o nosort -F _ztrace_completion ztrace" in result.stdout


# Pipes and closed streams


SHOWING = (
    "stat",
    "info",
    "export",
    "validate",
    "replay --backend zbud",
    "replay --backend zbud --json",
    "replay --backend zbud --backend z3fold",
    "report --no-time",
)


@pytest.mark.parametrize("words", SHOWING)
def test_a_pipe_closed_by_its_reader_is_no_error(tmp_path: Path, words: str) -> None:
    result = shell(f'ztrace {words} "{SMALL}" | true', tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("words", [*SHOWING, "export -o -"])
def test_output_that_nobody_sees_is_an_error_of_one_line(tmp_path: Path, words: str) -> None:
    result = shell(f'ztrace {words} "{SMALL}" >&-', tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("ztrace: standard output is closed;")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["--help", "--version", "lab list", "doctor", "stat --help"])
def test_nor_is_help_seen(tmp_path: Path, words: str) -> None:
    result = shell(f"ztrace {words} >&-", tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "export",
        "slice --pool 0",
        "anonymise",
        "resize --scale 0.9",
        "tune --backend ztree --types 4",
        "report --no-time --backend zbud --format text",
        "replay --backend zbud --every 10%",
        "sweep --backend zbud --workers 1",
    ],
)
def test_a_command_that_writes_a_file_needs_no_standard_streams(tmp_path: Path, words: str) -> None:
    result = shell(f'ztrace {words} "{SMALL}" -o out <&- >&-', tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "out").stat().st_size > 20
    result = shell(f'ztrace {words} "{SMALL}" -o again >/dev/null 2>&-', tmp_path)
    assert result.returncode == 0
    assert (tmp_path / "again").exists()


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    result = shell(f'ztrace info "{SMALL}" >/dev/full', tmp_path)
    assert result.returncode == 2
    assert result.stderr == "ztrace: No space left on device\n"


# An output that is an input


def test_every_command_checks_its_output() -> None:
    for words, command in leaves():
        assert isinstance(command, outputs.Command), words
        for option in command.params:
            if "-o" in option.opts:
                assert isinstance(option.type, outputs.OutputPath), words


def same_names(folder: Path, name: str) -> list[str]:
    """Ways to name a file, all of which a command has to know for the same."""
    (folder / "symbolic").symlink_to(name)
    (folder / "hard").hardlink_to(folder / name)
    (folder / "below").mkdir()
    return [name, f"below/../{name}", str(folder / name), "hard", "symbolic"]


@pytest.mark.parametrize(
    "words",
    [
        "anonymise IN -o OUT --force",
        "export IN -o OUT --force",
        "import IN -o OUT --force",
        "import other --like IN -o OUT --force",
        "measure IN --allocator zbud -o OUT --force",
        "merge other IN -o OUT --force",
        "recover IN -o OUT --force",
        "replay IN --backend zbud --every 5% -o OUT --force",
        "replay other --backend ztree --order IN --every 5% -o OUT --force",
        "replay other --backend zbud --backend ztree:table=IN --every 5% -o OUT --force",
        "report IN -o OUT --force",
        "report other IN -o OUT --force --format md",
        "resize IN --scale 2 -o OUT --force",
        "slice IN --pool 0 -o OUT --force",
        "sweep IN other --backend zbud -o OUT --force",
        "synth --events 9 --live 2 --sizes fit:IN -o OUT --force",
        "synth --events 9 --live 2 --churn fit:IN -o OUT --force",
        "tune other IN -o OUT --force",
        "validate IN --order OUT --force",
        "lab run --workload known23 --patch IN -o OUT --force",
        "lab run --workload known23 --table IN -o OUT --force",
        "lab case-study --keep below --patch IN -o OUT --force",
    ],
)
def test_an_output_that_is_an_input_is_refused(ztrace: Runner, tmp_path: Path, words: str) -> None:
    content = SMALL.read_bytes()
    for name in ("in.parquet", "other"):
        Path(name).write_bytes(content)
    for output in same_names(tmp_path, "in.parquet"):
        called = words.replace("IN", "in.parquet").replace("OUT", output).split()
        result = ztrace(*called)
        assert (result.code, result.out) == (2, ""), called
        assert result.err == f"ztrace: {output}: is an input too; name another output\n"
    assert Path("in.parquet").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "below",
        "hard",
        "in.parquet",
        "other",
        "symbolic",
    ]


def test_the_cases_of_outputs_are_all_commands_that_have_one() -> None:
    writing = {
        words
        for words, command in leaves()
        if any(isinstance(one.type, outputs.OutputPath) for one in command.params)
    }
    marks = test_an_output_that_is_an_input_is_refused.pytestmark  # type: ignore[attr-defined]
    tested = {case.split(" IN")[0] for case in marks[0].args[1]}
    # These two read no file that they could write.
    assert {words for words in writing if not any(t.startswith(words) for t in tested)} == {
        *("record", "kmod build")
    }


# Control characters


def strange(folder: Path) -> Path:
    """A trace whose name and recorded text hold what a terminal would obey."""
    with TraceReader(SMALL) as reader:
        metadata = reader.metadata
        metadata.kernel = Kernel(f"6.1.0{EVIL}", EVIL, EVIL)
        metadata.machine = Machine(cpu_model=EVIL, arch=EVIL)
        metadata.pools = [PoolInfo("zbud", EVIL, True, True)]
        metadata.probes = {"malloc": Probe("fentry", EVIL)}
        metadata.parameters = {EVIL: EVIL}
        metadata.lost = {EVIL: {EVIL: 3}}
        metadata.left_out = {EVIL: {"malloc": 3}}
        metadata.notes = [EVIL]
        metadata.command = [EVIL]
        path = folder / f"{EVIL}.parquet"
        with TraceWriter(path, metadata) as writer:
            for batch in reader.batches():
                writer.write(batch)
    return path


@pytest.mark.parametrize(
    "words",
    [
        "info IN",
        "stat IN",
        "validate IN",
        "replay IN --backend zbud",
        "replay IN --backend zbud --backend z3fold",
        "replay IN --backend zbud --anomalies",
        "replay IN --backend zbud --backend ztree --limit 20%",
        "report --no-time IN",
        "report --no-time IN --format md",
        "compare IN IN",
        "tune IN",
        "sweep IN --backend zbud --workers 1 -o OUT",
        "slice IN --pool 0 -o OUT",
        "anonymise IN -o OUT",
        "resize --scale 0.9 IN -o OUT",
        "merge IN IN -o OUT",
        "export IN -o OUT",
        "synth --events 9 --live 2 --sizes fit:IN -o OUT",
        "info IN.none",
        "replay IN --backend NAME",
        "NAME",
        "stat IN NAME",
        "replay --NAME",
    ],
)
def test_nothing_that_a_terminal_would_obey_is_printed(
    ztrace: Runner, tmp_path: Path, words: str
) -> None:
    path = strange(tmp_path)
    named = {"IN": str(path), "IN.none": f"{path}x", "OUT": f"out{EVIL}", "fit:IN": f"fit:{path}"}
    arguments = [named.get(word, word).replace("NAME", EVIL) for word in words.split()]
    result = ztrace(*arguments)
    assert result.code in (0, 1, 2) and result.out + result.err
    for text in (result.out, result.err):
        assert not set("\x1b\r\x07") & set(text)
        assert all(c.isprintable() or c in "\n\t" for c in text)


# Tables


def test_no_line_ends_in_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(table(["a", "b"], [["one", ""], ["two", "2"]], texts=2))
    assert capsys.readouterr().out == "a    b\none\ntwo  2\n"


def test_names_are_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    console().print(table(["backend", "held"], [["zsmalloc:6.1", "1,234,567,890"]]))
    # How far apart columns stand then is rich's, and not the same in its versions 13 and 14.
    assert re.search(r"^zsmalloc:6\.1 +1,234,567,890$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("room", range(6))
def test_a_number_and_its_unit_stand_on_one_line(
    room: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for unit in ("%", "B", "KiB", "ns", "us", "s"):
        console().print(f"{'x' * (72 + room)} 99 {unit} of it")
        assert f"99 {unit}" in capsys.readouterr().out
    console().print(f"{'x' * 77} 99 buckets")  # a noun may stand on the next line
    assert "99\n  buckets" in capsys.readouterr().out


def test_a_comparison_names_its_confidence_whole(ztrace: Runner) -> None:
    asked = ("compare", SMALL, "--replay", "zbud", "z3fold", "--confidence")
    for given, shown in (("99%", "99"), ("0.95", "95"), ("99.9%", "99.9")):
        out = ztrace(*asked, given).out
        assert f"{shown} %" in out
        assert f"interval of {shown} % confidence" in " ".join(out.split())
        assert "0.99" not in out


def test_help_names_what_it_may(ztrace: Runner) -> None:
    for words, command in leaves():
        shown = ztrace(*words.split(), "--help")
        assert (shown.code, shown.err) == (0, ""), words
        assert command.epilog and command.epilog.startswith("Example: "), words
        assert isinstance(command, click.Command)


# Slips in the use of one command


def test_a_report_is_refused_by_its_ending(ztrace: Runner) -> None:
    result = ztrace("report", SMALL, "-o", "r.pdf")
    assert result.code == 2
    assert "r.pdf: its ending names no format; give .html, .txt, .md, .json, .csv" in result.err
    assert not Path("r.pdf").exists()
    assert ztrace("report", SMALL, "--no-time", "-o", "r.pdf", "--format", "text").code == 0


def test_a_block_has_at_most_the_pages_that_the_kernel_gives(ztrace: Runner) -> None:
    result = ztrace("tune", SMALL, "--most-order", "9")
    assert result.code == 2 and "9 is not in the range 0<=x<=3" in result.err


def test_a_limit_without_a_unit_says_what_to_write(ztrace: Runner) -> None:
    result = ztrace("replay", SMALL, "--limit", "20")
    assert result.code == 2
    assert result.err == "ztrace: --limit: less than a page; write a share, 20%, or a size, 20M\n"


def test_a_replay_is_through_the_recorded_model_if_none_is_named(ztrace: Runner) -> None:
    own = json.loads(ztrace("replay", SMALL, "--json").out)["replays"]
    assert [one["backend"] for one in own] == ["zbud"]
    for words, command in leaves():
        named = [option for option in command.params if "--backend" in option.opts]
        if named and words not in ("lab run", "lab case-study", "validate"):
            shown = " ".join(ztrace(*words.split(), "--help").out.split())
            assert "z3fold, zblock, zbud, zsmalloc or ztree" in shown, words


def test_a_sweep_leaves_out_its_own_results(ztrace: Runner) -> None:
    Path("a.parquet").write_bytes(SMALL.read_bytes())
    words = ("--backend", "zbud", "--workers", "1", "-o", "results.parquet")
    assert ztrace("sweep", "a.parquet", *words).code == 0
    again = ztrace("sweep", "a.parquet", "results.parquet", *words, "--force")
    assert again.code == 0
    assert again.err == "ztrace: results.parquet: the results of the last sweep; left out\n"
    other = ztrace("sweep", "a.parquet", "results.parquet", *words[:-1], "more.parquet")
    assert other.code == 2
    assert other.err == (
        "ztrace: results.parquet: the results of a sweep, not a trace; leave it out\n"
    )


def test_the_sweep_of_the_readme_can_be_typed_twice(tmp_path: Path) -> None:
    [line] = re.findall(r"^    (ztrace sweep .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    (tmp_path / "a.parquet").write_bytes(SMALL.read_bytes())
    for said in ("", "ztrace: results.parquet: the results of the last sweep; left out\n"):
        done = shell(line, tmp_path)
        assert (done.returncode, done.stderr) == (0, said)
        assert re.search(r"^failed +0$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["none.parquet", "words.parquet"])
def test_a_sweep_finds_what_is_no_trace_before_it_runs(ztrace: Runner, name: str) -> None:
    Path("words.parquet").write_text("no trace")
    result = ztrace("sweep", SMALL, name, "--backend", "zbud", "--workers", "1", "-o", "out")
    assert result.code == 2 and result.err.startswith(f"ztrace: {name}")
    assert not Path("out").exists() and not Path("out.runs").exists()


def test_counts_of_one_have_no_s(ztrace: Runner) -> None:
    one = next(path for path in SAMPLES if path.stem == "ztree-6.1-bursts")
    assert "calls on 1 CPU;" in ztrace("validate", one).out
    assert "1 CPUs" not in ztrace("info", one).out
    assert counted(1, "page") == "1 page" and counted(2000, "page") == "2,000 pages"
    limited = " ".join(ztrace("replay", SMALL, "--limit", "1M").out.split())
    assert "zbud: refused 1 page for its size" in limited
    assert "over 1 trace, without" in ztrace("tune", SMALL, "--against", "ztree:late").out


def test_the_lab_lists_in_columns(ztrace: Runner) -> None:
    lines = [line for line in ztrace("lab", "list").out.splitlines() if line.startswith("  ")]
    assert len({len(re.match(r" +\S+ +", line)[0]) for line in lines}) == 1  # type: ignore[index]
