# SPDX-License-Identifier: GPL-2.0-only
"""Where runs are done: processes on this machine's cores, or workers of a Dask cluster.

Both yield each run with its row as it is finished, in no order, and survive the death of a
worker: its runs are done again by another, at most :data:`ATTEMPTS` times. Whoever stops
iterating ends the rest.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

from ztrace.replay.errors import ReplayError
from ztrace.replay.sweep.plan import Run
from ztrace.replay.sweep.run import Row, failed, run_one

ATTEMPTS = 3
"""Workers that may die over a run before it is given up; one that needs too much memory kills
whoever takes it."""

ANSWER_S = 5

_DIED = f"{ATTEMPTS} workers died over it (out of memory?)"


def on_cores(runs: Sequence[Run], workers: int | None = None) -> Iterator[tuple[Run, Row]]:
    """Do runs in processes of this machine; ``workers``: how many, else one for each core."""
    count = workers or len(os.sched_getaffinity(0))
    waiting = deque(runs)
    deaths: dict[Run, int] = {}
    while waiting:
        pool = _pool(min(count, len(waiting)))
        running: dict[Future[Row], Run] = {}
        try:
            while waiting or running:
                # No more than are worked on: what runs when a worker dies is known, then.
                while waiting and len(running) < count:
                    run = waiting.popleft()
                    running[pool.submit(run_one, run)] = run
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running[future], future.result()
                    del running[future]
        except BrokenProcessPool:
            for future, run in running.items():
                if future.done() and future.exception() is None:
                    yield run, future.result()
                    continue
                deaths[run] = deaths.get(run, 0) + 1
                if deaths[run] < ATTEMPTS:
                    waiting.appendleft(run)
                else:
                    yield run, failed(run, _DIED)
        finally:
            _end(pool)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not forked: the parent may have threads of pyarrow, which a fork would lose.
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=signal.signal, initargs=_NO_CTRL_C
    )


_NO_CTRL_C = (signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent ends them


def _end(pool: ProcessPoolExecutor) -> None:
    """Do not wait for what is running."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def on_cluster(runs: Sequence[Run], scheduler: str) -> Iterator[tuple[Run, Row]]:
    """Do runs on a Dask cluster; its workers need ztrace and must be able to open the traces.

    ReplayError if dask is not installed or no scheduler answers at that address.
    """
    try:
        from distributed import Client, as_completed
        from distributed.comm.core import connect
    except ImportError as error:
        raise ReplayError(
            "--scheduler needs dask: pip install distributed, into ztrace's environment"
        ) from error

    async def ring() -> None:
        (await connect(scheduler, timeout=ANSWER_S)).abort()

    try:
        asyncio.run(ring())  # a Client that finds nobody complains on stderr at length
    except (OSError, ValueError) as error:
        raise ReplayError(f"--scheduler {scheduler}: nothing answers there") from error
    with Client(scheduler) as client:
        # Dask keeps what it has seen under a key; another sweep may run the same ones anew.
        futures = client.map(run_one, runs, pure=False, retries=ATTEMPTS - 1)
        names = {f.key: run for f, run in zip(futures, runs, strict=True)}
        try:
            for future in as_completed(futures):
                run = names[future.key]
                yield run, _cluster_row(run, future)
        finally:
            with suppress(Exception):  # the scheduler may be what went away
                client.cancel(futures)


def _cluster_row(run: Run, future: Any) -> Row:
    if future.status == "finished":
        row: Row = future.result()
        return row
    error = future.exception()
    return failed(run, f"{type(error).__name__}: {error}" if error else future.status)
