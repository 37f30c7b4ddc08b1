# SPDX-License-Identifier: GPL-2.0-only
"""Synthetic traces: as many rows and live objects as asked for, seeded, and as fitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ztrace.cli import main
from ztrace.replay import replay_trace
from ztrace.traces import TraceError, TraceReader
from ztrace.traces.synth import (
    Fit,
    Lifetimes,
    Plan,
    Sizes,
    distance,
    equal_lifetimes,
    exponential_lifetimes,
    fitted_lifetimes,
    fitted_sizes,
    gauss_sizes,
    observe,
    synthesize,
    uniform_lifetimes,
    uniform_sizes,
)

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "ztree-6.1-bursts.parquet"
SIZES = gauss_sizes(1500, 600)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ztrace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command line in this process: (exit status, stdout, stderr)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ztrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        done = capsys.readouterr()
        return int(left.value.code or 0), done.out, done.err

    return call


def live_after(path: Path) -> list[int]:
    """Live objects after each row; every free must be of a live object."""
    live: set[int] = set()
    counts = []
    table = pq.read_table(path, columns=["op", "handle", "size"])
    for op, handle, size in zip(
        *(table[name].to_pylist() for name in table.schema.names), strict=True
    ):
        if op == "malloc":
            assert handle not in live
            assert 1 <= size <= 4096
            live.add(handle)
        else:
            assert (op, size) == ("free", None)
            live.remove(handle)
        counts.append(len(live))
    return counts


@pytest.mark.parametrize(
    "lifetimes", [exponential_lifetimes(), uniform_lifetimes(), equal_lifetimes()], ids=str
)
def test_population_is_filled_and_held(lifetimes: Lifetimes, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    synthesize(Plan(30_000, 2000, SIZES, lifetimes), path)
    counts = live_after(path)
    assert len(counts) == 30_000
    assert max(counts[:2000]) > 1900  # filled at once
    assert min(counts[2000:]) > 1700
    assert max(counts) < 2300


def test_seed_decides(tmp_path: Path) -> None:
    made = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.parquet")]
    for path, seed in zip(made, (3, 3, 4), strict=True):
        synthesize(Plan(5000, 300, SIZES, uniform_lifetimes(), seed), path)
    first, again, other = (pq.read_table(path) for path in made)
    assert first == again
    assert first != other
    with pytest.raises(TraceError, match="exists"):
        synthesize(Plan(10, 1, SIZES, uniform_lifetimes()), made[0])


@pytest.mark.parametrize(
    ("sizes", "low", "high", "mean"),
    [(uniform_sizes(100, 200), 100, 200, 150), (gauss_sizes(2000, 100), 1500, 2500, 2000)],
    ids=["uniform", "gauss"],
)
def test_sizes(sizes: Sizes, low: int, high: int, mean: int) -> None:
    drawn = sizes.draw(np.random.default_rng(0), 20_000)
    assert low <= drawn.min() and drawn.max() <= high
    assert abs(drawn.mean() - mean) < 3


def test_lifetimes_have_the_mean_asked_for() -> None:
    for lifetimes in (exponential_lifetimes(), uniform_lifetimes(), equal_lifetimes()):
        assert lifetimes.draw(np.random.default_rng(0), 100_000).mean() == pytest.approx(
            1, abs=0.02
        )


def test_distance() -> None:
    assert distance(np.array([1, 2, 3]), np.array([3, 1, 2])) == 0
    assert distance(np.array([1, 2]), np.array([3, 4])) == 1
    assert distance(np.array([1, 2, 3, 4]), np.array([1, 2])) == 0.5


def test_fitted_to_a_recording(tmp_path: Path) -> None:
    observed = observe(SAMPLE)
    assert len(observed.sizes) == 5569  # as in the samples' README
    plan = Plan(100_000, 1000, fitted_sizes(observed, "x"), fitted_lifetimes(observed, "x"), seed=1)
    fit = synthesize(plan, tmp_path / "fit.parquet", sizes_of=observed, lifetimes_of=observed)
    assert fit.sizes is not None and fit.sizes < 0.02
    assert fit.lifetimes is not None and fit.lifetimes < 0.05
    other = Plan(100_000, 1000, uniform_sizes(1, 100), equal_lifetimes())
    bad = synthesize(other, tmp_path / "no.parquet", sizes_of=observed, lifetimes_of=observed)
    assert bad.sizes is not None and bad.sizes > 0.3
    assert bad.lifetimes is not None and bad.lifetimes > 0.3
    assert synthesize(other, tmp_path / "none.parquet") == Fit()


def test_replay_compares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    synthesize(Plan(4000, 100, SIZES, exponential_lifetimes()), path)
    result = replay_trace(path, "ztree")
    assert (result.driven, result.handles_compared) == (4000, 0)
    assert result.agreement("totals").compared == result.count("refused") == 0


def test_command(tmp_path: Path, ztrace: Command) -> None:
    path = tmp_path / "s.parquet"
    fit = f"fit:{SAMPLE}"
    arguments = ("synth", "--events", "2e4", "--live", "1_000", "--sizes", fit, "--churn", fit)
    status, out, err = ztrace(*arguments, "-o", path)
    assert (status, err) == (0, "")
    assert out.count("Kolmogorov-Smirnov distance 0.0") == 2
    with TraceReader(path) as reader:
        assert reader.num_rows == 20_000
        assert reader.metadata.parameters["live"] == "1000"
    assert ztrace(*arguments, "-o", path)[0] == 2
    assert ztrace("synth", "--help")[1].splitlines()[-1].strip().startswith("Example: ztrace synth")


@pytest.mark.parametrize(
    "wrong",
    [
        ("--sizes", "gauss:1"),
        ("--sizes", "uniform:9,3"),
        ("--sizes", "uniform:5000,6000"),
        ("--sizes", "gauss:nan,3"),
        ("--sizes", "fit:/nowhere"),
        ("--churn", "slow"),
        ("--live", "0"),
        ("--events", "1.5"),
        ("--events", "nan"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(wrong: tuple[str, str], tmp_path: Path, ztrace: Command) -> None:
    path = tmp_path / "s.parquet"
    status, out, err = ztrace("synth", "--events", "100", *wrong, "-o", path)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert not path.exists()
