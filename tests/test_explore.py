# SPDX-License-Identifier: GPL-2.0-only
"""The race explorer: hazards found and confirmed, none where there is none, all orders counted."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
from collections.abc import Callable

import pytest

from ztrace.allocator.ztree.model import Ztree
from ztrace.cli import main
from ztrace.replay.errors import ReplayError
from ztrace.replay.research.explore import (
    BUILTIN,
    Scenario,
    confirm,
    explore,
    run_schedule,
    schedule_lines,
)
from ztrace.replay.research.explore.machine import Machine
from ztrace.replay.research.explore.steps import advance, enabled

Cli = Callable[..., tuple[int, str, str]]
TOP = 0xF << 60
TWO_IN_BLOCK_0 = "store; malloc*12; free #3-9"  # block 0 is neither current nor last


@pytest.fixture
def ztrace(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ztrace", *args])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return run


def reached(calls: str, setup: str = "", closed: str = "") -> set[str]:
    """Hazards that a complete exploration reaches; each must be confirmed by its replay."""
    result = explore(Scenario(calls, setup, closed=frozenset(closed)))
    assert result.complete
    assert result.deadlocks == 0
    assert all(confirm(result, name).confirms(name) for name in result.found)
    return set(result.found)


# -- the hazards ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_scenario_reaches_its_hazard(name: str) -> None:
    assert name in reached(BUILTIN[name].calls, BUILTIN[name].setup)


def test_h1_and_the_same_handle_twice() -> None:
    scenario = Scenario("malloc | malloc*9")
    found = explore(scenario).found
    # look, insert, all 8 slots in 3 steps each, adopt, take
    assert found["H1"] == (0, 0, *[1] * 24, 0, 0)
    run = run_schedule(scenario, found["H1"], to_end=True)
    assert run.confirms("H1")
    assert run.rows[-1].step == "take"
    assert run.rows[-1].text == "free_slots 0 -> 65535"
    assert run.handles[1] == run.handles[10] == TOP + 8
    assert sorted(run.handles[k] for k in range(2, 10)) == list(range(TOP, TOP + 8))
    assert not run.undefined


def test_h1_in_class_0_gives_the_next_blocks_object() -> None:
    scenario = Scenario("malloc | malloc*16", size=1)
    run = confirm(explore(scenario), "H1")
    assert run.handles[1] == 16


@pytest.mark.parametrize(
    ("name", "calls", "setup", "steps"),
    [
        ("H3", "malloc | malloc; free #2", "", 8),
        ("H5", "malloc | malloc", "", 7),
        ("H7", "free #1 | free #2", "malloc*2", 4),
        ("H9", "free #9 | free #3", "malloc*11; free #1-2", 3),
        ("H19", "free #1 | reclaim", TWO_IN_BLOCK_0, 9),
    ],
)
def test_schedule_is_shortest(name: str, calls: str, setup: str, steps: int) -> None:
    """Against every shorter sequence of CPUs, tried one by one."""
    scenario = Scenario(calls, setup)
    schedule = explore(scenario).found[name]
    assert len(schedule) == steps
    assert run_schedule(scenario, schedule).confirms(name)
    for shorter in itertools.product((0, 1), repeat=steps - 1):
        try:
            rows = run_schedule(scenario, shorter).rows
        except ReplayError:
            continue
        assert name not in {one.name for row in rows for one in row.findings}


def test_h3_and_h7_end_in_released_memory() -> None:
    for name in ("H3", "H7"):
        run = confirm(explore(Scenario(BUILTIN[name].calls, BUILTIN[name].setup)), name)
        assert run.undefined
        assert run.rest == []
        assert "which free has released" in run.rows[-1].findings[0].text


def test_h5_loses_seven_slots() -> None:
    run = confirm(explore(Scenario("malloc | malloc")), "H5")
    assert "its 7 free slots are lost" in run.rows[-1].findings[0].text
    assert run.handles == {1: TOP + 16, 2: TOP} or run.handles == {1: TOP, 2: TOP + 16}


def test_h19_releases_a_block_with_a_live_object() -> None:
    run = confirm(explore(Scenario("free #1 | reclaim", TWO_IN_BLOCK_0)), "H19")
    notes = [one.text for row in run.rest for one in row.findings if not one.name]
    assert notes == ["block 0 is released although object #2 is in it"]


def test_h20_needs_a_second_reclaimer() -> None:
    """A free in gap F holds the block lock, which reclaim needs for every slot it evicts."""
    assert "H20" in reached("reclaim | reclaim; free #2", TWO_IN_BLOCK_0)
    assert reached("free #1 | free #2 | reclaim; reclaim", "store*2; malloc*11; free #3-9") == {
        "H7",
        "H19",
    }


# -- nothing where there is nothing ------------------------------------------------------------


@pytest.mark.parametrize(
    "calls",
    [
        "malloc*30; free #1-30",
        "store*17; reclaim*3; free #9-17",
        "malloc*12; free #2-9; reclaim; malloc*9; free #1",
        "store; map #1; unmap #1; free #1",
    ],
)
def test_one_cpu_meets_nothing(calls: str) -> None:
    result = explore(Scenario(calls))
    assert result.found == {}
    assert result.interleavings == 1
    assert (result.undefined, result.complete) == (0, True)


@pytest.mark.parametrize("name", ["H1", "H2", "H3", "H4", "H5", "H6"])
def test_without_gap_g(name: str) -> None:
    assert not reached(BUILTIN[name].calls, BUILTIN[name].setup, closed="G") & {
        *("H1", "H2", "H3", "H4", "H5", "H6"),
    }


@pytest.mark.parametrize("name", ["H7", "H19"])
def test_without_gap_f(name: str) -> None:
    assert reached(BUILTIN[name].calls, BUILTIN[name].setup, closed="F") == set()


def test_gap_f_is_not_what_h5_needs() -> None:
    assert reached("malloc | malloc", closed="F") == {"H5"}


# -- completeness ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "steps"), [("", 2), ("; unmap #{k}", 4), ("; unmap #{k}" * 2, 6)]
)
def test_independent_programs_have_all_orders(calls: str, steps: int) -> None:
    programs = " | ".join("map #{k}".replace("{k}", k) + calls.replace("{k}", k) for k in "12")
    result = explore(Scenario(programs, "malloc*2"))
    assert result.interleavings == math.comb(2 * steps, steps)
    assert result.states == (steps + 1) ** 2
    assert result.found == {}


def count(machine: Machine) -> int:
    """Complete interleavings, without recognising states that were seen before."""
    ready = [cpu for cpu in range(len(machine.frames)) if enabled(machine, cpu)]
    total = 0 if ready else 1
    for cpu in ready:
        after = machine.clone()
        advance(after, cpu)
        total += count(after)
    return total


@pytest.mark.parametrize("name", ["H1", "H3", "H4", "H5", "H7", "H9", "H15", "H19", "H24"])
def test_interleavings_against_plain_recursion(name: str) -> None:
    scenario = Scenario(BUILTIN[name].calls, BUILTIN[name].setup)
    assert explore(scenario).interleavings == count(scenario.machine())


def test_states_that_differ_in_a_slot_only_are_told_apart() -> None:
    """Whether #1 ends mapped or unmapped decides how many steps reclaim has."""
    scenario = Scenario("map #1; unmap #2 | unmap #1; reclaim", TWO_IN_BLOCK_0)
    assert explore(scenario).interleavings == count(scenario.machine())


def test_random_runs_meet_nothing_else() -> None:
    scenario = Scenario("malloc; free #2 | malloc; free #1 | reclaim", "store; malloc*6")
    known = reached(scenario.calls, scenario.setup)
    chance, met = random.Random(7), set()
    for _ in range(300):
        machine = scenario.machine()
        while ready := [cpu for cpu in range(3) if enabled(machine, cpu)]:
            met |= {one.name for one in advance(machine, chance.choice(ready)) if one.name}
    assert met <= known
    assert met


def test_limit_is_reported() -> None:
    result = explore(Scenario("malloc*3 | malloc*3"), max_states=20)
    assert not result.complete
    assert result.states == 20


@pytest.mark.parametrize("size", [200, 1500, 4000])
def test_steps_one_after_the_other_are_the_model(size: int) -> None:
    """One CPU's handles are those of allocator.ztree, the same rules without micro-steps."""
    chance, pool = random.Random(size), Ztree()
    text: list[str] = []
    handles: list[int] = []
    live: list[int] = []
    for _ in range(190):
        if not live or chance.random() < 0.6:
            text.append("malloc")
            handles.append(pool.malloc(size))
            live.append(len(handles))
        else:
            k = live.pop(chance.randrange(len(live)))
            text.append(f"free #{k}")
            pool.free(handles[k - 1])
    run = run_schedule(Scenario("; ".join(text), size=size), (), to_end=True)
    assert list(run.handles.values()) == handles


# -- schedules and input -----------------------------------------------------------------------


def test_impossible_schedules_are_refused() -> None:
    scenario = Scenario("free #1 | free #2", "malloc*2")
    with pytest.raises(ReplayError, match="CPU 1 cannot take step 2"):
        run_schedule(scenario, (0, 1))  # CPU 0 holds the tree lock
    with pytest.raises(ReplayError, match="CPU 2 cannot take step 1"):
        run_schedule(scenario, (2,))


def test_another_schedule_confirms_nothing() -> None:
    scenario = Scenario("free #1 | free #2", "malloc*2")
    assert not run_schedule(scenario, (0, 0, 0, 1)).confirms("H7")
    assert not run_schedule(scenario, ()).confirms("H7")


def test_free_waits_for_its_malloc() -> None:
    result = explore(Scenario("malloc | free #1"))
    assert (result.interleavings, result.found) == (1, {})


@pytest.mark.parametrize(
    ("calls", "setup", "message"),
    [
        ("malloc 9 | malloc", "", "calls: 'malloc 9' is no call"),
        ("malloc | ", "", "a CPU has no call"),
        ("", "", "a CPU has no call"),
        ("malloc;", "", "'' is no call"),
        ("malloc*0", "", "0 is not between 1 and"),
        ("malloc*201", "", "more than 200 calls"),
        ("free #1", "", "there are only 0 mallocs"),
        ("free #1; malloc", "", "free #1 waits for ever"),
        ("free #2; malloc | free #1; malloc", "", "waits for ever"),
        ("free #1 | free #1", "malloc", "freed twice"),
        ("free #3-1", "malloc*3", "counts down"),
        ("malloc", "malloc | malloc", "set-up: runs on one CPU"),
        ("malloc", "free #1", "set-up: free #1 comes before its malloc"),
        ("malloc|" * 4 + "malloc", "", "at most 4 CPUs"),
    ],
)
def test_bad_calls_are_named(calls: str, setup: str, message: str, ztrace: Cli) -> None:
    with pytest.raises(ReplayError, match=re.escape(message)):
        Scenario(calls, setup)
    code, out, err = ztrace("explore", "ztree", "--calls", calls, "--setup", setup)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    "args",
    [
        ("--cpus", "3", "--calls", "malloc | malloc"),
        ("--cpus", "2"),
        ("--setup", "malloc"),
        ("--hazard", "H8"),
        ("--hazard", "everything"),
        ("--calls", "malloc", "--size", "4097"),
        ("--calls", "malloc", "--close", "H"),
        ("--calls", "malloc", "--max-states", "0"),
    ],
)
def test_bad_options(args: tuple[str, ...], ztrace: Cli) -> None:
    assert ztrace("explore", "ztree", *args)[0] == 2


# -- the command -------------------------------------------------------------------------------


def test_text_and_json_agree(ztrace: Cli) -> None:
    args = ("explore", "ztree", "--cpus", "2", "--calls", "malloc | malloc; free #2")
    code, text, _ = ztrace(*args)
    assert code == 0
    code, out, _ = ztrace(*args, "--json")
    assert code == 0
    [document] = json.loads(out)["scenarios"]
    assert re.search(r"^states +([\d,]+)", text, re.M)[1] == f"{document['states']:,}"  # type: ignore[index]
    shown = re.search(r"^interleavings +([\d,]+), ([\d,]+) of them", text, re.M)
    assert shown is not None
    assert shown.groups() == (f"{document['interleavings']:,}", f"{document['undefined']:,}")
    hazards = document["hazards"]
    assert re.search(r"^hazards +(.*?) *$", text, re.M)[1] == "H3, H5"  # type: ignore[index]
    assert [one["name"] for one in hazards] == ["H3", "H5"]
    for one in hazards:
        assert one["confirmed"]
        assert one["steps"] == len(one["schedule"])
        assert f"{one['steps']} steps, replayed on a fresh model" in text
        assert one["schedule"][-1]["met"][-1]["name"] == one["name"]


def test_hazard_that_is_not_reached_is_status_1(ztrace: Cli) -> None:
    assert ztrace("explore", "ztree", "--hazard", "H1")[0] == 0
    code, out, _ = ztrace("explore", "ztree", "--hazard", "H1", "--close", "G")
    assert code == 1
    assert "H1: not reached" in out


def test_unfinished_exploration_says_so(ztrace: Cli) -> None:
    args = ("--calls", "malloc*3 | malloc*3", "--hazard", "H1", "--max-states", "20")
    code, out, _ = ztrace("explore", "ztree", *args)
    assert code == 1
    assert "NOT COMPLETE: gave up after 20 states" in out
    assert "H1: not found so far" in out


def test_table_of_all_scenarios(ztrace: Cli) -> None:
    code, out, _ = ztrace("explore", "ztree")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if re.match(r"H\d", line)}
    assert list(rows) == list(BUILTIN)
    code, out, _ = ztrace("explore", "ztree", "--json")
    assert code == 0
    for one in json.loads(out)["scenarios"]:
        (found,) = one["hazards"]
        assert found["confirmed"]
        assert rows[one["hazard"]][-2:] == [str(found["steps"]), f"{one['states']:,}"]


def test_lines_fit_a_mail() -> None:
    for name, builtin in BUILTIN.items():
        result = explore(Scenario(builtin.calls, builtin.setup))
        lines = list(schedule_lines(confirm(result, name), 2))
        assert all(len(line) <= 78 and line.isascii() for line in lines)
        assert any(line.startswith(f"    => {name}: ") for line in lines)
        steps = [match[1] for line in lines if (match := re.match(r" {,6}(\d+(?:-\d+)?) ", line))]
        spans = [[int(part) for part in step.split("-")] for step in steps]
        ends = [span[-1] for span in spans]
        assert [span[0] for span in spans] == [1, *(end + 1 for end in ends[:-1])]
