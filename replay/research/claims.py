# SPDX-License-Identifier: GPL-2.0-only
"""The ten claims made for ztree in 2021, each judged by a stated rule on the recordings at hand.

A verdict is *supported*, *refuted*, *depends* (on the workload) or *not decided*. Times are those
of the real allocators at native speed where some were measured, else of recordings. Nothing is
decided by data that cannot: not durations by a machine under software emulation, not density by a
recording that lacks objects, not two allocators by recordings of different machines, kernels or
workloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from ztrace.allocator.specification import family
from ztrace.replay.report.ageing import LEAST_TURNOVERS, TOLERATED
from ztrace.replay.report.comparable import incomparable
from ztrace.replay.report.gather import Recording
from ztrace.replay.report.measured import ALIKE, FIGURES
from ztrace.replay.report.measured import ratio as measured_ratio
from ztrace.replay.report.recorded import QUANTILES
from ztrace.replay.report.statistics import Floats, Interval, interval, ratio_draws, stream_of
from ztrace.text import counted

OURS = "ztree"
COMPARABLE_DENSITY = 0.10
"""Density this much below another's is still comparable."""
TAIL_CALLS = 10
"""A tail quantile is used where at least so many calls of each recording lie above it."""
LEAST_SCENARIOS = 3

_TOLD = 4  # how many votes a verdict's line names


class Verdict(StrEnum):
    """What the data say about a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    DEPENDS = "depends"
    OPEN = "not decided"


@dataclass(frozen=True)
class Evidence:
    """One figure. ``low`` and ``high`` bound it with 95 % confidence, None where not known."""

    kind: str  # measured (in the kernel) or modelled (by replay)
    what: str
    recording: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


class Vote(NamedTuple):
    """What one recording, one pair, or what was measured with one trace says, and ``where``."""

    verdict: Verdict
    where: str
    why: str


@dataclass
class Finding:
    """A claim's evidence, the votes, and the verdict that the rule makes of them."""

    evidence: list[Evidence] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)
    verdict: Verdict = Verdict.OPEN
    why: str = ""


class Claim(NamedTuple):
    """A claim in our words, the rule, what would decide it, and the function that judges."""

    number: str
    claim: str
    rule: str
    decides: str
    judge: Callable[[Data], Finding]


class Data(NamedTuple):
    """What claims are judged on: recordings, and groups of ``replay.report.measured``."""

    recordings: Sequence[Recording]
    measured: Sequence[dict[str, Any]] = ()


def concerned(recordings: Sequence[Recording], measured: Sequence[dict[str, Any]] = ()) -> bool:
    """Whether ztree is among what was recorded, replayed or measured."""
    names = {one.allocator for one in recordings} | {one["allocator"] for one in measured}
    return OURS in names.union(family(name) for one in recordings for name in one.memory)


def judge(
    recordings: Sequence[Recording], measured: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """All claims on these recordings, and on what was measured, as plain JSON types."""
    judged = []
    for number, claim, rule, decides, by in CLAIMS:
        found = by(Data(recordings, measured))
        judged.append(
            {
                "claim": number,
                "text": claim,
                "verdict": found.verdict.value,
                "why": found.why,
                "rule": rule,
                "would_decide": decides,
                "evidence": [asdict(one) for one in found.evidence],
            }
        )
    return judged


# -- durations ------------------------------------------------------------------------------


def _tail(one: Recording, other: Recording, op: str) -> str | None:
    """The farthest tail quantile that both recordings resolve."""
    calls = min(r.recorded.durations[op].calls for r in (one, other))
    kept = [q for q in ("p99", "p99_9", "p99_99") if calls * (1 - QUANTILES[q]) >= TAIL_CALLS]
    return kept[-1] if kept else None


def _ratio(ours: Recording, theirs: Recording, op: str, quantile: str) -> Interval | None:
    """Our quantile over theirs, probe cost taken off where it is known."""
    fraction = QUANTILES[quantile]
    values, draws = [], []
    for one in (ours, theirs):
        durations = one.recorded.durations[op]
        cost = (one.metadata.probe_cost_ns or {}).get(op, 0.0)
        value, drawn = durations.quantile(quantile), durations.draws(fraction, f"{one.label}/{op}")
        if value is None or drawn is None:
            return None
        values.append(max(1.0, value - cost))
        draws.append(np.maximum(1.0, drawn - cost))
    return interval(values[0] / values[1], draws[0] / draws[1])


def _with(recordings: Sequence[Recording], allocator: str, op: str) -> list[Recording]:
    return [r for r in recordings if r.allocator == allocator and op in r.recorded.durations]


def _worst_case(op: str, other: str) -> Callable[[Data], Finding]:
    def judge_op(data: Data) -> Finding:
        found = Finding()
        for pair in _pairs(data.measured, other):
            found.votes.append(_native(*pair, op, found))
        if found.votes:
            return _unanimous(found)
        ours, theirs = (_with(data.recordings, name, op) for name in (OURS, other))
        for one in (*ours, *theirs):
            found.evidence += _durations(one, op)
        found.evidence += _modelled(data.recordings, op, other)
        for allocator, some in ((OURS, ours), (other, theirs)):
            if not some:
                return _open(found, f"no recording of {allocator} with {op} calls")
        for one in ours:
            for their in theirs:
                found.votes.append(_faster(one, their, op, found))
        return _unanimous(found)

    return judge_op


def _pairs(
    measured: Sequence[dict[str, Any]], other: str | None = None
) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """Groups of ours, each with those of another allocator that were measured alike."""
    for ours in measured:
        for theirs in measured:
            if (
                ours["allocator"] == OURS != theirs["allocator"]
                and other in (None, theirs["allocator"])
                and all(ours[name] == theirs[name] for name in ALIKE)
            ):
                yield ours, theirs


def _native(ours: dict[str, Any], theirs: dict[str, Any], op: str, found: Finding) -> Vote:
    """Both figures of a worst case; of several CPUs the host has a part in the greatest of all."""
    figures = ("p9999", "max") if ours["cpus"] == 1 else ("p999", "p9999")
    told, where = [], _history(ours)
    for figure in figures:
        ratio = measured_ratio(ours, theirs, (op,), figure)
        if ratio is None:
            return Vote(Verdict.OPEN, where, f"fewer than three guests measured {op}")
        what = f"{op} {FIGURES[figure]}, {OURS} / {theirs['allocator']}"
        found.evidence.append(Evidence("native", what, where, *_of(ratio, "ratio")))
        told.append((FIGURES[figure], ratio))
    verdicts = {_below(ratio, 1.0) for _, ratio in told}
    text = ", ".join(f"{name} {ratio.value:.2g}" for name, ratio in told)
    decided = verdicts - {Verdict.OPEN}
    verdict = Verdict.OPEN
    if verdicts == {Verdict.SUPPORTED}:
        verdict = Verdict.SUPPORTED
    elif decided == {Verdict.REFUTED}:
        verdict = Verdict.REFUTED
    return Vote(verdict, where, text)


def _history(group: dict[str, Any]) -> str:
    cpus = "" if group["cpus"] == 1 else f", {group['kernel']}, {group['cpus']} CPUs"
    return f"{group['label']}{cpus}"


def _durations(one: Recording, op: str) -> Iterable[Evidence]:
    figures = one.document["latency"][op]
    where = f"{one.allocator} {op}"
    for key, name in (("p99_9", "p99.9"), ("p99_99", "p99.99")):
        value, bounds = figures[f"{key}_ns"], figures["intervals"].get(key)
        if value is not None:
            low, high = (bounds["low"], bounds["high"]) if bounds else (None, None)
            yield Evidence("measured", f"{where} {name}", one.label, value, "ns", low, high)
    yield Evidence("measured", f"{where} max", one.label, figures["max_ns"], "ns")


def _modelled(recordings: Sequence[Recording], op: str, other: str) -> Iterable[Evidence]:
    """Tails of the two models in the native core. They decide nothing: no kernel ran."""
    for one in recordings:
        models = (one.document["native"] or {"models": {}})["models"]
        for backend, timed in models.items():
            if family(backend) in (OURS, other) and op in timed:
                for key, name in (("p99_9", "p99.9"), ("p99_99", "p99.99"), ("max", "max")):
                    value = timed[op][f"{key}_ns"]
                    if value is not None:
                        what = f"{backend} {op} {name}, C core"
                        yield Evidence("modelled", what, one.label, value, "ns")


def _faster(one: Recording, other: Recording, op: str, found: Finding) -> Vote:
    pair = f"{one.label} and {other.label}"
    reason = incomparable(one, other)
    if reason is not None:
        return Vote(Verdict.OPEN, pair, f"recordings {reason}")
    quantile = _tail(one, other, op)
    ratio = None if quantile is None else _ratio(one, other, op, quantile)
    if quantile is None or ratio is None:
        return Vote(Verdict.OPEN, pair, f"too few {op} calls for a tail")
    name = quantile.replace("_", ".")
    what = f"{op} {name}, {one.allocator} / {other.allocator}"
    found.evidence.append(Evidence("measured", what, pair, *_of(ratio, "ratio")))
    text = f"{name} {ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"
    return Vote(_below(ratio, 1.0), pair, text)


def _of(found: Interval, unit: str) -> tuple[float, str, float, float]:
    return found.value, unit, found.low, found.high


def _below(found: Interval, limit: float) -> Verdict:
    """Supported if the whole interval lies below the limit, refuted if it lies above."""
    if found.high < limit:
        return Verdict.SUPPORTED
    return Verdict.REFUTED if found.low > limit else Verdict.OPEN


# -- memory ---------------------------------------------------------------------------------


def _unfit(one: Recording) -> str | None:
    """Why a recording's memory decides nothing; None if it does."""
    if one.document["lost_events"]:
        return "lost events, so objects are missing or kept for ever"
    if one.document["lost_events"] is None:
        return "does not tell how many events were lost, so objects may be missing"
    if not one.document["all_objects"]:
        return "holds some objects of its pools only, by a filter or a sample"
    if not one.document["starts_empty"]:
        return "began when pools were in use, so objects are missing"
    validation = one.document["validation"]
    if validation is not None and not validation["agrees"]:
        return "has calls that the model does not explain"
    return None


def _density_draws(one: Recording, backend: str) -> tuple[float, Floats | None]:
    memory = one.memory[backend]
    value = float(memory.objects.sum() / memory.held.sum()) if memory.held.any() else 0.0
    return value, ratio_draws(memory.objects, memory.held, stream_of(one.label, "density"))


def _relative_density(one: Recording, other: str) -> Interval | None:
    """Density of ztree's model over another's on the same objects, both drawn alike."""
    ours, theirs = one.model(OURS), one.model(other)
    if ours is None or theirs is None:
        return None
    (a, draws_a), (b, draws_b) = _density_draws(one, ours), _density_draws(one, theirs)
    if draws_a is None or draws_b is None or not b:
        return None
    return interval(a / b, draws_a / draws_b)


def _denser(other: str, limit: float) -> Callable[[Data], Finding]:
    def judge_density(data: Data) -> Finding:
        found = Finding()
        for one in data.recordings:
            kernel = one.document["memory"]["kernel"]
            if kernel is not None and one.allocator in (OURS, other):
                bounds = kernel["density"] or {"low": None, "high": None}
                value = kernel["mean_density"] or 0.0
                what = f"{one.allocator} density"
                bound = bounds["low"], bounds["high"]
                found.evidence.append(Evidence("measured", what, one.label, value, "ratio", *bound))
            ratio = _relative_density(one, other)
            if ratio is None:
                found.votes.append(Vote(Verdict.OPEN, one.label, "no two models to compare"))
                continue
            what = f"density, {OURS} / {other}"
            found.evidence.append(Evidence("modelled", what, one.label, *_of(ratio, "ratio")))
            reason = _unfit(one)
            if reason is not None:
                found.votes.append(Vote(Verdict.OPEN, one.label, reason))
                continue
            opposite = {Verdict.SUPPORTED: Verdict.REFUTED, Verdict.REFUTED: Verdict.SUPPORTED}
            verdict = _below(ratio, limit)
            text = f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
            found.votes.append(Vote(opposite.get(verdict, Verdict.OPEN), one.label, text))
        return _unanimous(found)

    return judge_density


def _ages(data: Data) -> Finding:
    found = Finding()
    # What the kernel itself held speaks first.
    for one in sorted(data.recordings, key=lambda one: one.allocator != OURS):
        trends = []
        if one.allocator == OURS:
            trends.append(("measured", one.document["kernel_ageing"]))
        if backend := one.model(OURS):
            trends.append(("modelled", one.document["ageing"][backend]))
        known = [(kind, trend) for kind, trend in trends if trend and trend["growth"]]
        for kind, trend in known:
            slope, growth = (Interval(**trend[key]) for key in ("slope", "growth"))
            found.evidence += [
                Evidence(kind, "growth per turnover", one.label, *_of(slope, "1/turnover")),
                Evidence(kind, "growth over all turnovers", one.label, *_of(growth, "ratio")),
                Evidence(kind, "turnovers", one.label, trend["turnovers"], "turnovers"),
            ]
        if known:
            found.votes.append(_aged(one, *known[0]))
        else:
            found.votes.append(Vote(Verdict.OPEN, one.label, "too few moments with objects"))
    refuted = [vote for vote in found.votes if vote.verdict == Verdict.REFUTED]
    if refuted:  # of a claim about always, one counterexample is enough
        found.verdict, found.why = Verdict.REFUTED, f"{refuted[0].where}: {refuted[0].why}"
        return found
    return _unanimous(found)


def _aged(one: Recording, kind: str, trend: dict[str, Any]) -> Vote:
    turnovers, growth = trend["turnovers"], Interval(**trend["growth"])
    text = (
        f"memory {kind} for the same live objects grows {growth.value:.1%} "
        f"({growth.low:.1%} to {growth.high:.1%}) over {turnovers:.1f} turnovers"
    )
    reason = _unfit(one)
    if reason is not None:
        return Vote(Verdict.OPEN, one.label, reason)
    if turnovers < LEAST_TURNOVERS:
        return Vote(Verdict.OPEN, one.label, f"{text}; at least {LEAST_TURNOVERS:g} are needed")
    if growth.low > 0 and growth.value > TOLERATED:
        return Vote(Verdict.REFUTED, one.label, text)
    verdict = Verdict.SUPPORTED if growth.high < TOLERATED else Verdict.OPEN
    return Vote(verdict, one.label, text)


# -- function -------------------------------------------------------------------------------


def _reclaims(data: Data) -> Finding:
    found, recordings = Finding(), data.recordings
    ours = [r for r in recordings if r.allocator == OURS]
    shrinks = sum(r.document["shrinks"] for r in ours)
    for one in recordings:
        if one.allocator in (OURS, "zsmalloc"):
            for key, what, unit in (
                ("shrinks", "shrinks", "calls"),
                ("written_back", "write-backs done", "objects"),
            ):
                text, value = f"{one.allocator} {what}", one.document[key]
                found.evidence.append(Evidence("measured", text, one.label, value, unit))
    done = sum(r.document["written_back"] for r in ours)
    theirs = sum(r.document["written_back"] for r in recordings if r.allocator == "zsmalloc")
    if not shrinks:
        return _open(found, "ztree was asked to shrink in none of the recordings")
    if not done:
        found.verdict = Verdict.REFUTED
        found.why = f"{counted(shrinks, 'shrink')} of ztree evicted nothing"
    elif theirs:
        found.verdict = Verdict.REFUTED
        found.why = f"objects of zsmalloc were written back too ({theirs:,})"
    else:
        found.verdict = Verdict.SUPPORTED
        found.why = f"{counted(shrinks, 'shrink')} of ztree wrote back {counted(done, 'object')}"
        if not any(r.allocator == "zsmalloc" for r in recordings):
            return _open(found, f"{found.why}; there is no recording of zsmalloc beside it")
    return found


def _versatile(data: Data) -> Finding:
    found = Finding()
    ours = [r for r in data.recordings if r.allocator == OURS]
    users = {user for r in ours for user in r.document["user"].split(" and ")}
    for one in ours:
        zero = one.document["zero_handles"]
        text = f"handles 0 given out under {one.document['user']}"
        found.evidence.append(Evidence("measured", text, one.label, zero, "calls"))
    if not ours:
        return _open(found, "no recording of ztree")
    if any(one.document["zero_handles"] for one in ours):
        found.verdict = Verdict.REFUTED
        found.why = "ztree gave out handle 0, which zram reads as an empty slot (hazard H27)"
        return found
    if users >= {"zswap", "zram"}:
        found.verdict = Verdict.SUPPORTED
        found.why = "ztree ran under zswap and zram and gave out no handle 0"
        return found
    return _open(found, f"ztree was recorded under {', '.join(sorted(users))} only")


def _fast_and_dense(data: Data) -> Finding:
    found = Finding()
    fast = _fast(data.recordings, found)
    if data.measured:
        fast = _fast_natively(data.measured, found)
    dense = _dense(data.recordings, found)
    for vote in (fast, dense):
        if vote.verdict == Verdict.REFUTED:
            found.verdict, found.why = vote.verdict, vote.why
            return found
    if fast.verdict == dense.verdict == Verdict.SUPPORTED:
        found.verdict = Verdict.SUPPORTED
    found.why = f"{fast.why}; {dense.why}"
    return found


def _fast_natively(measured: Sequence[dict[str, Any]], found: Finding) -> Vote:
    """What an object that is stored, read and dropped costs, beside each other allocator."""
    slower: dict[str, list[str]] = {}
    for ours, theirs in _pairs(measured):
        ratio = measured_ratio(ours, theirs, ("malloc", "map", "free"), "p50")
        if ratio is not None:
            where, name = _history(ours), theirs["allocator"]
            what = f"malloc, map and free, medians, {OURS} / {name}"
            found.evidence.append(Evidence("native", what, where, *_of(ratio, "ratio")))
            slower.setdefault(where, []).extend([name] if ratio.low > 1 else [])
    if not slower:
        return Vote(Verdict.OPEN, "", "no two allocators measured in three guests")
    quick = sum(not names for names in slower.values())
    histories = "1 history" if len(slower) == 1 else f"{len(slower):,} histories"
    text = f"medians not above any other's in {quick} of {histories}"
    return Vote(Verdict.SUPPORTED if quick * 2 > len(slower) else Verdict.REFUTED, "", text)


def _fast(recordings: Sequence[Recording], found: Finding) -> Vote:
    slower = compared = 0
    reasons: dict[str, int] = {}
    for op in ("store", "load"):
        for one in _with(recordings, OURS, op):
            for other in recordings:
                if other.allocator == OURS or op not in other.recorded.durations:
                    continue
                reason = incomparable(one, other)
                ratio = _ratio(one, other, op, "p50") if reason is None else None
                if ratio is None:
                    why = f"recordings {reason}" if reason else f"too few {op} calls"
                    reasons[why] = reasons.get(why, 0) + 1
                    continue
                pair = f"{one.label} and {other.label}"
                what = f"{op} p50, {OURS} / {other.allocator}"
                found.evidence.append(Evidence("measured", what, pair, *_of(ratio, "ratio")))
                compared += 1
                slower += ratio.low > 1.0
    if not compared:
        return Vote(Verdict.OPEN, "", next(iter(reasons), "no two allocators timed alike"))
    text = f"slower than another allocator in {slower} of {compared} comparisons of medians"
    if slower == compared:
        return Vote(Verdict.REFUTED, "", text)
    return Vote(Verdict.OPEN if slower else Verdict.SUPPORTED, "", text)


def _dense(recordings: Sequence[Recording], found: Finding) -> Vote:
    good = scenarios = 0
    for one in recordings:
        ours = one.model(OURS)
        others = [name for name in one.memory if family(name) != OURS]
        if ours is None or not others or _unfit(one) is not None:
            continue
        best = max(_density_draws(one, name)[0] for name in others)
        if not best:
            continue
        ratio = _density_draws(one, ours)[0] / best
        what = f"density, {OURS} / best other"
        found.evidence.append(Evidence("modelled", what, one.label, ratio, "ratio"))
        scenarios += 1
        good += ratio >= 1 - COMPARABLE_DENSITY
    text = f"density comparable with the best in {good} of {scenarios} recordings"
    if scenarios < LEAST_SCENARIOS:
        return Vote(Verdict.OPEN, "", f"{text}, fewer than {LEAST_SCENARIOS}")
    return Vote(Verdict.SUPPORTED if good * 2 > scenarios else Verdict.REFUTED, "", text)


def _unanimous(found: Finding) -> Finding:
    """The verdict of all votes that decide; where they differ it depends on the workload."""
    decided = {vote.verdict for vote in found.votes if vote.verdict != Verdict.OPEN}
    if len(decided) == 1:
        found.verdict = decided.pop()
        found.why = _listed(vote for vote in found.votes if vote.verdict == found.verdict)
        return found
    if decided:
        parts = [
            f"{verdict.value} by {_listed(v for v in found.votes if v.verdict == verdict)}"
            for verdict in (Verdict.SUPPORTED, Verdict.REFUTED)
        ]
        found.verdict, found.why = Verdict.DEPENDS, "; ".join(parts)
        return found
    reasons: dict[str, list[str]] = {}
    for vote in found.votes:
        reasons.setdefault(vote.why, []).append(vote.where)
    told = [
        f"{where[0]}{f' and {len(where) - 1} more' if where[1:] else ''}: {why}"
        for why, where in reasons.items()
    ]
    return _open(found, "; ".join(told[:_TOLD]) or "no recording")


def _listed(votes: Iterable[Vote]) -> str:
    """Where and why, in a line; many are counted."""
    told = [f"{vote.where}: {vote.why}" for vote in votes]
    more = len(told) - _TOLD
    return "; ".join(told[:_TOLD]) + (f"; and {more} more" if more > 0 else "")


def _open(found: Finding, why: str) -> Finding:
    found.verdict, found.why = Verdict.OPEN, why
    return found


# -- the claims -----------------------------------------------------------------------------

_TAIL_RULE = (
    "of times measured in real allocators at native speed, one CPU: ratio of the worst call (the "
    "greatest of all calls' least times over the rounds) and of p99.99, ztree over the other, by "
    "pairs of guests that played the same trace; supported by a trace if both 95 % intervals lie "
    "below 1, refuted if one lies above and none below; of several CPUs p99.9 and p99.99 instead; "
    "where nothing was measured, recordings of one machine, kernel, workload and user decide by "
    "the farthest of p99, p99.9 and p99.99 that 10 calls of each exceed; what they say apart "
    "depends on the workload"
)
_TAIL_DATA = (
    "ztrace measure with the mail and the other allocator in at least three guests each, or "
    "recordings of both on real hardware with at least 100,000 {op} calls each"
)
_LIMIT = f"{1 - COMPARABLE_DENSITY:.2f}"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        *("C1", "better worst-case malloc time than zsmalloc (zram)", _TAIL_RULE),
        _TAIL_DATA.format(op="malloc"),
        _worst_case("malloc", "zsmalloc"),
    ),
    Claim(
        *("C2", "better worst-case free time than zsmalloc (zram)", _TAIL_RULE),
        _TAIL_DATA.format(op="free"),
        _worst_case("free", "zsmalloc"),
    ),
    Claim(
        "C3",
        "does not deteriorate over time",
        "slope over turnovers of memory held / memory a fresh pool takes for the same live "
        "objects: refuted if one recording's 95 % interval lies above 0 and it grew more than "
        f"{TOLERATED:.0%} over at least {LEAST_TURNOVERS:g} turnovers; supported if every "
        f"recording that decides has its interval below {TOLERATED:.0%}",
        f"a whole recording of at least {LEAST_TURNOVERS:g} turnovers of a steady live set",
        _ages,
    ),
    Claim(
        "C4",
        "compression ratio slightly worse than zsmalloc's but comparable",
        "mean density of the two models on the same objects: supported if the 95 % interval of "
        f"ztree / zsmalloc lies above {_LIMIT}, refuted if below, by workload",
        "whole recordings of the workloads in question; longer ones narrow the interval",
        _denser("zsmalloc", 1 - COMPARABLE_DENSITY),
    ),
    Claim(
        *("C5", "better worst-case malloc time than z3fold (zswap)", _TAIL_RULE),
        _TAIL_DATA.format(op="malloc"),
        _worst_case("malloc", "z3fold"),
    ),
    Claim(
        *("C6", "better worst-case free time than z3fold (zswap)", _TAIL_RULE),
        _TAIL_DATA.format(op="free"),
        _worst_case("free", "z3fold"),
    ),
    Claim(
        "C7",
        "better compression ratio than z3fold (zswap)",
        "mean density of the two models on the same objects: supported if the 95 % interval of "
        "ztree / z3fold lies above 1, refuted if below, by workload",
        "whole recordings of the workloads in question; longer ones narrow the interval",
        _denser("z3fold", 1.0),
    ),
    Claim(
        "C8",
        "supports reclaim, unlike zsmalloc",
        "supported if recorded shrinks of ztree wrote objects back and no object of zsmalloc was; "
        "refuted if no shrink of ztree evicted anything, or zsmalloc's objects were written back",
        "a recording of each whose pool reaches its limit",
        _reclaims,
    ),
    Claim(
        "C9",
        "serves zswap and, potentially, zram",
        "supported if ztree was recorded under both and gave out no handle 0; refuted if it gave "
        "one out, since zram reads that as an empty slot",
        "a recording of ztree under zram",
        _versatile,
    ),
    Claim(
        "C10",
        "fast random access and a good ratio in most scenarios",
        "fast: medians of malloc, map and free together, as measured, not above any other's (95 % "
        "interval of the ratio by pairs of guests) in most traces, or, where nothing was measured, "
        f"median store and load not slower in recordings; good: density at least {_LIMIT} of the "
        f"best other model in most of at least {LEAST_SCENARIOS} recordings; supported if both, "
        "refuted if one fails",
        "ztrace measure of all allocators with several workloads, and recordings of these",
        _fast_and_dense,
    ),
)
