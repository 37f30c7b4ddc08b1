# SPDX-License-Identifier: GPL-2.0-only
"""Sweeps: many traces through many models with many parameters, one row of figures a run.

job.py       a whole sweep
plan.py      what is to run: the cross product
run.py       one run -> one row; never raises
workers.py   runs on this machine's cores, or on a Dask cluster
journal.py   finished rows, safe against whatever ends the sweep
results.py   the Parquet file of all rows
"""

from ztrace.replay.sweep.job import Swept, sweep, traces_of
from ztrace.replay.sweep.journal import Journal
from ztrace.replay.sweep.plan import Run, plan_runs
from ztrace.replay.sweep.results import is_results, read_results, write_results
from ztrace.replay.sweep.run import is_url, run_one
from ztrace.replay.sweep.workers import on_cluster, on_cores

__all__ = [
    "Journal",
    "Run",
    "Swept",
    "is_results",
    "is_url",
    "on_cluster",
    "on_cores",
    "plan_runs",
    "read_results",
    "run_one",
    "sweep",
    "traces_of",
    "write_results",
]
