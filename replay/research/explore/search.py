# SPDX-License-Identifier: GPL-2.0-only
"""Enumerate the interleavings of a scenario; replay one of them step by step.

States are visited breadth first and once per number of steps, so the first schedule that meets a
hazard is a shortest one. A schedule is the CPU of each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ztrace.allocator.ztree.model import BlockType
from ztrace.replay.errors import ReplayError
from ztrace.replay.research.explore.calls import Program, parse
from ztrace.replay.research.explore.machine import GAPS, POOL, Finding, Machine
from ztrace.replay.research.explore.steps import advance, enabled, gap_after

DEFAULT_SIZE = 4000
DEFAULT_MAX_STATES = 500_000
Schedule = tuple[int, ...]


@dataclass(frozen=True)
class Scenario:
    """What to explore: ``calls`` after ``setup`` (replay.explore.calls), objects of ``size`` bytes.

    ``closed`` names the gaps of ztree that this variant does not have. Raises ReplayError for
    text that is no program and for a size that no class takes.
    """

    calls: str
    setup: str = ""
    size: int = DEFAULT_SIZE
    closed: frozenset[str] = frozenset()
    setup_program: Program = field(init=False, repr=False)
    programs: tuple[Program, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= POOL.page_bytes:
            raise ReplayError(f"size {self.size}: ztree takes 1 to {POOL.page_bytes} bytes")
        if not self.closed <= set(GAPS):
            raise ReplayError(f"closed gaps: ztree has {', '.join(GAPS)}")
        setup, programs = parse(self.setup, self.calls)
        object.__setattr__(self, "setup_program", setup)
        object.__setattr__(self, "programs", programs)

    @property
    def type(self) -> BlockType:
        """The block type of the objects."""
        return POOL.types[POOL.type_of(self.size)]

    def machine(self) -> Machine:
        """A fresh model with the set-up done, at the first step of every CPU."""
        made = max((call.k for program in self._all() for call in program), default=0)
        machine = Machine(self.type.number, made, self.closed)
        machine.load((self.setup_program,))
        while enabled(machine, 0):
            for finding in advance(machine, 0):
                raise ReplayError(f"set-up: goes wrong by itself: {finding.text}")
        machine.load(self.programs)
        return machine

    def _all(self) -> tuple[Program, ...]:
        return (self.setup_program, *self.programs)


@dataclass
class Exploration:
    """What was found: ``found`` maps each hazard's name to a shortest schedule that meets it.

    ``states`` counts the states visited, ``interleavings`` the different orders of all steps from
    the set-up to an end, of which ``undefined`` end in the use of released memory and
    ``deadlocks`` with CPUs that wait for each other. All are lower bounds unless ``complete``.
    """

    scenario: Scenario
    found: dict[str, Schedule] = field(default_factory=dict)
    states: int = 1
    interleavings: int = 0
    undefined: int = 0
    deadlocks: int = 0
    complete: bool = True

    def to_dict(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the figures and, for each hazard, its schedule replayed on a fresh model.

        ``names`` selects hazards; those not found are left out.
        """
        scenario = self.scenario
        shown = [name for name in sorted_names(self.found) if names is None or name in names]
        return {
            "setup": scenario.setup,
            "calls": scenario.calls,
            "size": scenario.size,
            "type": scenario.type.number,
            "slots": scenario.type.slots,
            "closed": sorted(scenario.closed),
            "states": self.states,
            "interleavings": self.interleavings,
            "undefined": self.undefined,
            "deadlocks": self.deadlocks,
            "complete": self.complete,
            "hazards": [confirm(self, name).to_dict(name) for name in shown],
        }


def explore(
    scenario: Scenario,
    *,
    max_states: int = DEFAULT_MAX_STATES,
    advanced: Callable[[int], None] = lambda states: None,
) -> Exploration:
    """Visit every state that the CPUs of a scenario can reach, at most ``max_states`` of them.

    ``advanced`` is told the number of new states from time to time.
    """
    result = Exploration(scenario)
    start = scenario.machine()
    tree = _Paths()
    level: dict[object, tuple[Machine, int, int]] = {start.key(): (start, 0, 1)}
    while level:
        following: dict[object, tuple[Machine, int, int]] = {}
        met: dict[str, tuple[int, int]] = {}
        for machine, number, ways in level.values():
            ready = [cpu for cpu in range(len(machine.frames)) if enabled(machine, cpu)]
            if not ready:
                result.interleavings += ways
                if machine.dead:
                    result.undefined += ways
                elif any(machine.frames):
                    result.deadlocks += ways
            for cpu in ready:
                after = machine.clone()
                for finding in advance(after, cpu):
                    best = met.setdefault(finding.name, (number, cpu))
                    if tree.switches(number, cpu) < tree.switches(*best):
                        met[finding.name] = (number, cpu)
                key = after.key()
                known = following.get(key)
                if known is not None:
                    tree.prefer(known[1], number, cpu)
                    following[key] = (known[0], known[1], known[2] + ways)
                elif result.states < max_states:
                    result.states += 1
                    following[key] = (after, tree.add(number, cpu), ways)
                else:
                    result.complete = False
        for name, (number, cpu) in met.items():
            if name:
                result.found.setdefault(name, (*tree.path(number), cpu))
        advanced(len(following))
        level = following
    return result


class _Paths:
    """How each state, by number from 0, was reached; of equally short ways a calm one.

    Calm means that the CPU changes seldom, so that the schedule is easy to read.
    """

    def __init__(self) -> None:
        self._came: list[tuple[int, int, int]] = [(-1, -1, 0)]  # state before, CPU, switches

    def switches(self, before: int, cpu: int) -> int:
        """How often the CPU changes on the way to what a step of ``cpu`` leads to."""
        _, last, switches = self._came[before]
        return switches + (cpu != last)

    def add(self, before: int, cpu: int) -> int:
        """Number a new state."""
        self._came.append((before, cpu, self.switches(before, cpu)))
        return len(self._came) - 1

    def prefer(self, number: int, before: int, cpu: int) -> None:
        """Take another way to a state, of the same length, if it is calmer."""
        switches = self.switches(before, cpu)
        if switches < self._came[number][2]:
            self._came[number] = (before, cpu, switches)

    def path(self, number: int) -> Schedule:
        """The CPUs of the steps that lead to a state."""
        path: list[int] = []
        while number:
            number, cpu, _ = self._came[number]
            path.append(cpu)
        return tuple(reversed(path))


# -- one schedule ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One step of a run: of which call (its number in the CPU's program), what it did and met."""

    cpu: int
    call: str
    number: int
    step: str
    text: str
    gap: str
    findings: tuple[Finding, ...]
    ends_call: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "cpu": self.cpu,
            "call": self.call,
            "step": self.step,
            "did": self.text,
            "gap": self.gap or None,
            "met": [one._asdict() for one in self.findings],
        }


@dataclass(frozen=True)
class Run:
    """A schedule replayed on a fresh model: ``rows`` of the schedule, then ``rest`` to the end."""

    rows: list[Row]
    rest: list[Row]
    handles: dict[int, int]
    undefined: bool

    def confirms(self, name: str) -> bool:
        """Whether the last step of the schedule, and no earlier one, met the hazard."""
        met = [any(one.name == name for one in row.findings) for row in self.rows]
        return bool(met) and met[-1] and not any(met[:-1])

    def to_dict(self, name: str) -> dict[str, Any]:
        """Return it, as the confirmation of hazard ``name``, as plain values."""
        return {
            "name": name,
            "steps": len(self.rows),
            "confirmed": self.confirms(name),
            "schedule": [row.to_dict() for row in self.rows],
            "rest": [row.to_dict() for row in self.rest],
            "handles": {f"#{k}": f"{handle:#x}" for k, handle in self.handles.items()},
            "undefined": self.undefined,
        }


def run_schedule(scenario: Scenario, schedule: Sequence[int], *, to_end: bool = False) -> Run:
    """Replay a schedule on a fresh model; ReplayError if a CPU cannot take its step.

    ``to_end`` lets the calls then run to their ends: first those of the CPU that went last,
    another CPU only when it has to wait or is through.
    """
    machine = scenario.machine()
    rows: list[Row] = []
    for number, cpu in enumerate(schedule, 1):
        if not 0 <= cpu < len(machine.frames) or not enabled(machine, cpu):
            raise ReplayError(f"schedule: CPU {cpu} cannot take step {number}")
        rows.append(_row(machine, cpu))
    rest: list[Row] = []
    last = schedule[-1] if schedule else 0
    order = sorted(range(len(machine.frames)), key=lambda cpu: cpu != last)
    while to_end:
        ready = [cpu for cpu in order if enabled(machine, cpu)]
        if not ready:
            break
        rest.append(_row(machine, ready[0]))
    handles = {k: one.handle for k, one in enumerate(machine.objects) if one.handle >= 0}
    return Run(rows, rest, handles, machine.dead)


def _row(machine: Machine, cpu: int) -> Row:
    frame = machine.frames[cpu]
    assert frame is not None
    findings = tuple(advance(machine, cpu))
    now = machine.frames[cpu]
    return Row(
        cpu=cpu,
        call=str(frame.call),
        number=frame.number,
        step=frame.step if frame.outer is None else f"evict: {frame.step}",
        text="; ".join(machine.said),
        gap="" if machine.dead else gap_after(machine, frame.step),
        findings=findings,
        ends_call=now is None or now.number != frame.number,
    )


def confirm(exploration: Exploration, name: str) -> Run:
    """Replay the schedule found for a hazard on a fresh model, and the calls to their ends."""
    return run_schedule(exploration.scenario, exploration.found[name], to_end=True)


def sorted_names(names: Iterable[str]) -> list[str]:
    """Hazard names by number."""
    return sorted(names, key=lambda name: int(name[1:]))
