# SPDX-License-Identifier: GPL-2.0-only
"""What ``ztrace tune`` says of every bundled recording, and whether any of it does harm.

    python -m bench.tune [--backend NAME ...]

A line a recording and choice: the gain in the first half, by which it was chosen, in the second
half with its 95 % interval, and of the whole replay, and what is recommended. Exit status 1 if
anything is recommended whose second half holds more than what there is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

from ztrace.present.tuned import trial_name
from ztrace.replay.tune import tunable, tune
from ztrace.traces import TraceReader

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
BACKENDS = ("zsmalloc", "zsmalloc:7.2", "zblock:2025", "ztree")


def main() -> None:
    """Tune each and print."""
    parser = argparse.ArgumentParser(description="Tuning of every bundled recording.")
    parser.add_argument("--backend", action="append")
    backends = parser.parse_args().backend or BACKENDS
    worse = kept = changed = 0
    head = f"{'recording':22} {'backend':13} {'first':>7} {'second':>7} {'95 %':>17} {'whole':>7}"
    print(f"{head}  recommended")
    for path in sorted(SAMPLES.rglob("*.parquet")):
        start = perf_counter()
        with TraceReader(path) as reader:
            tuned = tune([reader], tunable(backends, reader.metadata))
        for one in tuned.tunings:
            best = one.best
            for trial in one.trials or (None,):
                text = f"{path.stem:22} {one.now.backend:13} "
                if trial is not None:
                    gain = trial.second_half
                    whole = 1 - trial.held.mean_bytes / one.now.mean_bytes
                    between = f"{gain.low or 0:+7.2%} to {gain.high or 0:+7.2%}"
                    text += (
                        f"{trial.first_half:+7.2%} {gain.value:+7.2%} {between:>17} {whole:+7.2%}"
                    )
                    text += f"  {trial_name(one, trial)}" if trial is best else "  -"
                    worse += trial is best and gain.value <= 0
                print(text if best is not None and trial is not None else f"{text}  keep")
            kept, changed = kept + (best is None), changed + (best is not None)
        print(f"{path.stem:22} {perf_counter() - start:6.1f} s", file=sys.stderr)
    print(f"recommended {changed}, kept {kept}, recommended and worse on the second half {worse}")
    raise SystemExit(bool(worse))


if __name__ == "__main__":
    main()
