# SPDX-License-Identifier: GPL-2.0-only
"""Real allocators in kernels that are programs: their answers are the models', and what goes wrong
is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

from tests.shrinking import write_shrinking
from ztrace.replay.validate import validate_trace
from ztrace.replay.validate.placement_verdict import Way
from ztrace.tracer.lab.cache import cache_dir
from ztrace.traces import TraceReader, TraceWriter

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("compiler")]

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
SMALL = SAMPLES / "z3fold-6.1-small.parquet"
ONEPAGE = Path(__file__).parent / "measure" / "onepage.c"


def command(*arguments: str | Path) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "ztrace", "measure", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end, however that is."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done


def measured(*arguments: str | Path, status: int = 0) -> dict[str, dict[str, Any]]:
    """What --json says, by allocator."""
    done = run(*arguments, "--json")
    assert done.returncode == status
    return {one["allocator"]: one for one in json.loads(done.stdout)}


def broken(folder: Path, name: str, instead: str) -> str:
    """The one-page allocator with something else where it counts its 100th page."""
    source = ONEPAGE.read_text().replace("own->pages++;", f"own->pages++;\n\t{instead}")
    assert instead in source
    (folder / f"{name}.c").write_text(source)
    return f"{name}={folder / name}.c"


def test_every_answer_of_the_kernels_allocators_is_the_models() -> None:
    found = measured(
        SMALL, *(f"--allocator={name}" for name in ("zbud", "z3fold", "zsmalloc")), "--by-size=4"
    )
    for name, least in {"zbud": 2012, "z3fold": 2083, "zsmalloc": 2012}.items():
        one = found[name]
        assert one["compared"] == one["equal"] >= least, name
        assert one["sizes_compared"] == one["sizes_equal"] > 8000, name
        assert one["release"].startswith("6.1.")
        assert one["malloc_ns"]["calls"] == one["free_ns"]["calls"] + one["refused"] == 2012
        shares = [one["malloc_ns"][share] for share in ("p50", "p99", "p999", "p9999", "max")]
        assert shares == sorted(shares)
        assert shares[-1] <= min(one["malloc_ns"]["single_max"])
        assert one["pages_peak"] >= one["pages_mean"] > 0
        assert 0 < one["density"] < 1
        assert one["by_size"]


def test_a_report_measures_for_itself(tmp_path: Path) -> None:
    """All allocators of the trace's kernel are timed, with the calls that the trace has."""
    output = tmp_path / "report.json"
    line = [sys.executable, "-m", "ztrace", "report", "--measure", "-o"]
    subprocess.run([*line, str(output), str(SMALL)], check=True, capture_output=True)
    document = json.loads(output.read_text())
    found = {one["allocator"]: one for one in document["measured"]}
    assert set(found) == {"zbud", "z3fold", "zsmalloc"}
    for one in found.values():
        assert one["ops"]["malloc"]["calls"] >= 2011 and one["kernel"] == "6.1"
    [recording] = document["recordings"]
    for choice in recording["advice"]["choices"]:
        assert choice["timed"]["malloc_ns"] > 0

    # A kernel that cannot be had: one line, and no report.
    with TraceReader(SMALL) as reader, TraceWriter(tmp_path / "old.parquet", reader.metadata) as to:
        reader.metadata.kernel.release = "5.4.0"
        for batch in reader.batches():
            to.write(batch)
    done = subprocess.run(
        [*line, str(tmp_path / "none.html"), str(tmp_path / "old.parquet")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "recorded in kernel 5.4.0, of which there is no source here" in done.stderr
    assert not (tmp_path / "none.html").exists()


def test_a_change_in_a_tree_is_told_from_none(tmp_path: Path) -> None:
    """A copy of the kernel whose zs_free works in vain: only its frees are slower."""
    measured(SMALL, "--allocator=zsmalloc")  # so that the source is there
    tree = tmp_path / "linux"
    shutil.copytree(cache_dir() / "program" / "source" / "6.1", tree, symlinks=True)
    file = tree / "mm" / "zsmalloc.c"
    begin = "void zs_free(struct zs_pool *pool, unsigned long handle)\n{\n"
    assert begin in file.read_text()
    idle = "\tint idle = 0;\n\n\twhile (idle++ < 1000)\n\t\tbarrier();\n"
    # The declarations of the function come after, which the kernel's compiler only warns of.
    file.write_text(file.read_text().replace(begin, begin + idle))
    trees = cache_dir() / "program" / "trees"
    before = set(trees.iterdir())
    done = run(SMALL, "--allocator=zsmalloc", "--kernel=6.1", f"--kernel={tree}", "--json")
    for path in set(trees.iterdir()) - before:
        shutil.rmtree(path)  # nobody will build this tree again
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found["calls"] == found["equal"] > 8000
    by_call = {(one["op"], one["figure"]): one for one in found["differences"]}
    assert by_call["free", "mean"]["is_told"]
    assert by_call["free", "mean"]["low_ns"] > 50


def test_the_posted_ztree_gives_the_models_handles(patch: Path, tmp_path: Path) -> None:
    """The mail itself is compiled; what comes out is a trace that the other commands take."""
    output = tmp_path / "measured.parquet"
    sample = SAMPLES / "ztree-6.1-bursts.parquet"
    found = measured(sample, f"--allocator=ztree={patch}", "-o", output)["ztree"]
    assert found["compared"] == found["equal"] == 2 * 5569
    with TraceReader(output) as reader:
        assert reader.metadata.source == "measure"
        assert reader.metadata.extra["measure"]["rounds"] == 3
        assert reader.num_rows == 2 * 5569 + 2 * 5759
    for other in ("validate", "stat", "info"):
        subprocess.run(
            [sys.executable, "-m", "ztrace", other, output], check=True, capture_output=True
        )
    again = run(sample, f"--allocator=ztree={patch}", "-o", output)
    assert (again.returncode, again.stderr) == (
        2,
        f"ztrace: {output} exists; --force replaces it\n",
    )


def test_shrinks_evict_what_they_evicted_when_they_were_recorded() -> None:
    """The limit of the pool was met: 25 shrinks, of 108 evictions 69 were given up."""
    found = measured(SAMPLES / "zbud-6.1-limit.parquet", "--allocator=zbud")["zbud"]
    assert found["shrink_ns"]["calls"] == 25
    assert found["compared"] == found["equal"] == 36_681 + 25
    assert found["sizes_compared"] == found["sizes_equal"] > 168_000
    assert (found["no_shrink"], found["left_out"]) == (0, {})


def test_random_shrinks_are_the_models(patch: Path, tmp_path: Path) -> None:
    """One eviction in seven is refused. z3fold asks for evictions by handles made for them; ztree
    returns slots instead of 0."""
    for name, given in {"zbud": "zbud", "z3fold": "z3fold", "ztree": f"ztree={patch}"}.items():
        path = tmp_path / f"{name}.parquet"
        shrinks = write_shrinking(path, name, calls=4000)
        found = measured(path, f"--allocator={given}", "-o", tmp_path / f"{name}-measured.parquet")
        assert found[name]["shrink_ns"]["calls"] == shrinks > 30
        assert found[name]["compared"] == found[name]["equal"] > 2300
        assert found[name]["sizes_compared"] == found[name]["sizes_equal"]
        assert found[name]["no_shrink"] == 0
    with TraceReader(tmp_path / "zbud-measured.parquet") as reader:
        [pool] = validate_trace(reader).pools
    assert pool.shrinks.compared == pool.shrinks.equal > 30


def test_a_shrink_of_other_objects_is_seen(tmp_path: Path) -> None:
    """zbud that evicts the page used last: what it asks for is refused, the rest is freed after."""
    measured(SMALL, "--allocator=zbud")  # so that the source is there
    source = (cache_dir() / "program" / "source" / "6.1" / "mm" / "zbud.c").read_text()
    rule = "list_last_entry(&pool->lru, struct zbud_header, lru);"
    assert rule in source
    (tmp_path / "zbud.c").write_text(source.replace(rule, rule.replace("last", "first")))
    write_shrinking(path := tmp_path / "t.parquet", "zbud", calls=4000)
    found = measured(path, f"--allocator=zbud={tmp_path / 'zbud.c'}", status=1)["zbud"]
    assert found["equal"] < found["compared"]
    assert "asks for other objects" in found["first_difference"]


def test_an_allocator_without_shrink_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    shrinks = write_shrinking(path, "zbud", calls=3000, allocator="onepage")
    found = measured(path, f"--allocator=onepage={ONEPAGE}")["onepage"]
    assert found["no_shrink"] == shrinks > 0
    said = run(path, f"--allocator=onepage={ONEPAGE}").stdout
    assert f"onepage: {shrinks} shrinks not played: it has none in kernel 6.1." in said


def test_another_rule_in_the_kernels_file_is_seen(tmp_path: Path) -> None:
    """zbud that takes pages from its lists' other end: its places are no more the model's."""
    measured(SMALL, "--allocator=zbud")  # so that the source is there
    source = (cache_dir() / "program" / "source" / "6.1" / "mm" / "zbud.c").read_text()
    rule = "list_add(&zhdr->buddy, &pool->unbuddied[freechunks]);"
    assert rule in source
    (tmp_path / "zbud.c").write_text(
        source.replace(rule, rule.replace("list_add", "list_add_tail"))
    )
    found = measured(SMALL, f"--allocator=zbud={tmp_path / 'zbud.c'}", status=1)["zbud"]
    assert found["equal"] < found["compared"]
    assert found["first_difference"].startswith("row ")


def test_what_dies_says_why_and_takes_no_others_with_it(tmp_path: Path) -> None:
    """A guest that oopses and one that hits a BUG, between two that do not."""
    oops = broken(tmp_path, "oops", "if (own->pages == 100)\n\t\t*(volatile int *)8 = 1;")
    bug = broken(tmp_path, "bug", "BUG_ON(own->pages == 100);")
    given = (oops, "zbud", bug, f"onepage={ONEPAGE}")
    done = run(SMALL, *(f"--allocator={one}" for one in given), "--json")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "Segfault" in first and "(in onepage_malloc" in first
    assert "BUG: failure at mm/ztrace/bug/bug.c" in second
    found = {one["allocator"]: one for one in json.loads(done.stdout)}
    assert found["zbud"]["equal"] == 2012
    assert found["onepage"]["malloc_ns"]["calls"] == 2012
    assert set(found["oops"]) == {"trace", "allocator", "kernel", "release", "where", "error"}


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        ("typo", "own->pagez++;", "has no member named"),
        ("unlinked", "{ void nowhere(void); nowhere(); }", "undefined reference to `nowhere'"),
    ],
)
def test_what_does_not_build_shows_the_compilers_first_error(
    tmp_path: Path, name: str, instead: str, said: str
) -> None:
    given = broken(tmp_path, name, instead)
    done = run(SMALL, f"--allocator={given}")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"ztrace: {tmp_path / name}.c: does not build in kernel 6.1: ")
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--allocator=zbud", "--kernel=5.10"), "no kernel '5.10'"),
        (("--allocator=zbud", "--kernel=/"), "not a kernel's source"),
        (("--allocator=nowhere",), "no mm/nowhere.c in this kernel"),
        (("--allocator=zbud=/nonexistent.c",), "No such file"),
        (("--allocator=zbud", "--cpus=2"), "CONFIG_SMP=y"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = run(SMALL, *arguments)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert said in line


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    (tmp_path / "gcc").symlink_to("/usr/bin/gcc")
    environment = {**os.environ, "PATH": str(tmp_path), "ZTRACE_CACHE": str(tmp_path / "cache")}
    tree = tmp_path / "tree"
    for name in ("Kconfig", "mm/Makefile", "arch/um/Makefile"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    done = subprocess.run(
        command(SMALL, "--allocator=zbud", f"--kernel={tree}"),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ztrace: make not found; as root: apt install make gcc ")


def test_a_diff_is_applied_to_the_kernels_file(tmp_path: Path) -> None:
    """zsmalloc that takes nothing above 2,000 bytes."""
    measured(SMALL, "--allocator=zsmalloc")  # so that the source is there
    rule = "if (unlikely(!size || size > ZS_MAX_ALLOC_SIZE))"
    source = (cache_dir() / "program" / "source" / "6.1" / "mm" / "zsmalloc.c").read_text()
    assert source.count(rule) == 1
    changed = source.replace(rule, rule.replace("ZS_MAX_ALLOC_SIZE", "2000"))
    names = ("a/mm/zsmalloc.c", "b/mm/zsmalloc.c")
    lines = unified_diff(source.splitlines(True), changed.splitlines(True), *names)
    (diff := tmp_path / "fix.diff").write_text("".join(lines))
    found = measured(SMALL, f"--allocator=zsmalloc={diff}", status=1)["zsmalloc"]
    assert found["refused"] == found["compared"] - found["equal"] > 0


@dataclass
class Interrupted:
    """A command that got SIGINT alone, as a shell's ``kill`` gives it, when a program of a name
    was seen at work for it; ``folders``: where those programs were."""

    status: int
    said: str
    folders: set[Path]


def interrupt(arguments: list[str], program: str, mark: Path, cache: Path) -> Interrupted:
    """Run measure until ``program`` is at work for it, and interrupt it. ``mark`` is an empty
    folder, in which it has its temporary files and by which its programs are known."""
    environment = {**os.environ, "TMPDIR": str(mark), "ZTRACE_CACHE": str(cache)}
    environment["ZTRACE_MARK"] = str(mark)
    with subprocess.Popen(
        # In a shell's background Ctrl-C is ignored, by all that is started there.
        ["env", "--default-signal=INT", *command(*arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as running:
        while program not in (found := _programs(mark)):
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert _programs(mark) == {}
    assert list(mark.iterdir()) == []
    return Interrupted(running.returncode, said, found[program])


def _programs(mark: Path) -> dict[str, set[Path]]:
    """Programs that were started for a test, by its folder: name -> where they are."""
    found: dict[str, set[Path]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"ZTRACE_MARK={mark}" in (process / "environ").read_text(errors="replace"):
                name = (process / "comm").read_text().strip()
                found.setdefault(name, set()).add((process / "cwd").readlink())
        except OSError:
            continue  # it has ended, or is a kernel's thread
    found.pop(Path(sys.executable).name, None)
    return found


@pytest.mark.parametrize("program", ["apt-get", "tar"])
def test_interrupted_as_it_fetches(tmp_path: Path, program: str) -> None:
    """A cache of its own: nothing of a half source is taken for a source."""
    (mark := tmp_path / "mark").mkdir()
    cache = tmp_path / "cache"
    ended = interrupt([str(SMALL), "--allocator=zbud"], program, mark, cache)
    assert (ended.status, ended.said) == (130, "ztrace: interrupted\n")
    assert list((cache / "program" / "source").iterdir()) == []


@pytest.mark.parametrize("program", ["make", "cc1"])
def test_interrupted_as_it_builds(tmp_path: Path, program: str) -> None:
    """What was half compiled is compiled again."""
    measured(SMALL, f"--allocator=onepage={ONEPAGE}")  # so that the rest is built
    (mark := tmp_path / "mark").mkdir()
    images = cache_dir() / "program" / "images"
    before = set(images.iterdir())
    given = broken(tmp_path, "onepage", f"/* {program} in {tmp_path} */ own->pages++;")
    arguments = [str(SMALL), f"--allocator={given}"]
    ended = interrupt(arguments, program, mark, cache_dir())
    assert (ended.status, ended.said) == (130, "ztrace: interrupted\n")
    assert set(images.iterdir()) == before
    assert measured(*arguments)["onepage"]["malloc_ns"]["calls"] == 2012


def test_interrupted_as_it_plays(tmp_path: Path) -> None:
    """While an allocator hangs in a guest."""
    (mark := tmp_path / "mark").mkdir()
    given = broken(tmp_path, "hang", "while (own->pages == 100)\n\t\tbarrier();")
    ended = interrupt([str(SMALL), f"--allocator={given}"], "linux", mark, cache_dir())
    assert (ended.status, ended.said) == (130, "ztrace: interrupted\n")
    assert not any(folder.exists() for folder in ended.folders)


def test_a_kernel_without_zpool_on_two_cpus(patch: Path, tmp_path: Path) -> None:
    """7.2: drivers of two APIs by the shim, threads that contend; an order explains the handles."""
    output = tmp_path / "measured.parquet"
    found = measured(
        *(SAMPLES / "ztree-6.1-bursts.parquet", "--kernel=7.2", "--cpus=2", "-o", output),
        *("--allocator=zsmalloc", f"--allocator=ztree={patch}", f"--allocator=onepage={ONEPAGE}"),
    )
    assert found["ztree"]["compared"] == found["ztree"]["equal"] == 2 * 5569
    # By the moments at which they let go of the class's lock, seen under it.
    assert found["zsmalloc"]["compared"] == found["zsmalloc"]["equal"] == 5569
    with TraceReader(output.with_name("measured-zsmalloc.parquet")) as reader:
        [pool] = validate_trace(reader).pools
    assert (pool.order, pool.agrees, pool.undetermined) == (Way.LOCK, True, 0)
    assert 0 <= found["zsmalloc"]["malloc_ns"]["waited_share"] < 0.5
    assert found["onepage"]["map_ns"]["calls"] == 5759
    assert all(one["threads"] == 2 for one in found.values())
    with TraceReader(output.with_name("measured-ztree.parquet")) as reader:
        assert reader.metadata.machine.cpus == 2
        cpus = {cpu for batch in reader.batches(["cpu"]) for cpu in batch.column("cpu").to_pylist()}
    assert cpus == {0, 1}


@pytest.mark.parametrize("where", [("--kernel=6.1",), ("--kernel=7.2", "--cpus=2")])
@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        (
            "twice",
            "*handle = last;",
            r"malloc returned 0x[0-9a-f]+, which object \d+ has, in call",
        ),
        (
            "error",
            'pr_err("lost page %d\\n", 300);',
            "lost page 300, in call",
        ),
        ("bug", "BUG();", r"BUG: failure at mm/.*bug\.c.*, in call"),
    ],
)
def test_what_breaks_leaves_its_calls_until_then(
    tmp_path: Path, name: str, instead: str, said: str, where: tuple[str, ...]
) -> None:
    """The message, the call and the CPU in one line; the rows are a trace like any other."""
    later = "static unsigned long last;\n\tstatic int made;\n\n\tif (made++ >= 300)\n\t\t"
    given = broken(tmp_path, name, f"{later}{instead}\n\tlast = *handle;")
    output = tmp_path / "until.parquet"
    done = run(SMALL, f"--allocator={given}", *where, "-o", output)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    told = re.search(rf"{said} ([\d,]+) of CPU (\d) \(malloc of object ([\d,]+)\); (.*)", line)
    assert told is not None
    with TraceReader(output) as reader:
        rows = reader.num_rows
        kept = reader.metadata.extra["measure"]["broken"]
        [cpus] = [batch.column("cpu") for batch in reader.batches(["cpu"])]
    assert told[4] == f"{output} has the {rows:,} calls until then"
    assert (kept["round"], kept["thread"]) == (0, int(told[2]))
    # The call in which the kernel died has not returned.
    call = int(told[1].replace(",", ""))
    assert cpus.to_pylist().count(kept["thread"]) == call - (name == "bug")
    checked = [sys.executable, "-m", "ztrace", "info", str(output)]
    subprocess.run(checked, check=True, capture_output=True)


def test_drivers_of_6_1_on_two_cpus_of_7_2() -> None:
    """zbud in the order of its lock; z3fold builds and plays: what it answers on several CPUs no
    trace determines, so that it is not compared."""
    measured(SMALL, "--allocator=zbud")  # so that the source is there
    folder = cache_dir() / "program" / "source" / "6.1" / "mm"
    on_two = (SAMPLES / "ztree-6.1-bursts.parquet", "--kernel=7.2", "--cpus=2")
    found = measured(*on_two, f"--allocator=zbud={folder / 'zbud'}.c")
    assert found["zbud"]["compared"] == found["zbud"]["equal"] > 11_000
    assert found["zbud"]["determined"]
    found = measured(*on_two, f"--allocator=z3fold={folder / 'z3fold'}.c", "--no-compare")
    assert found["z3fold"]["malloc_ns"]["calls"] == 5569
