# SPDX-License-Identifier: GPL-2.0-only
"""zswap under a small limit in a real kernel, and the model of it on what was recorded there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztrace.replay.limit import AT_ONCE, Play, play, recorded_limit, recorded_rules
from ztrace.tracer.lab.session import Setup, record_in_guest
from ztrace.traces import TraceReader

pytestmark = pytest.mark.kernel


def test_the_kernel_writes_back_what_the_model_does(lab: None, tmp_path: Path) -> None:
    """6.1's zbud fills and drains in 12 rounds; recorded shrinks are withheld from the model."""
    path = tmp_path / "trace.parquet"
    record_in_guest(Setup("6.1", "zbud", "tides", max_pool_percent=1), path, watch=print)
    with TraceReader(path) as trace:
        metadata = trace.metadata
        assert metadata.lost_total() == 0
        limit, rules = recorded_limit(metadata), recorded_rules(metadata)
        [outcome] = play(trace, [Play("zbud", AT_ONCE, limit, rules)])
    kernel, model = outcome.kernel, outcome.counts
    assert kernel is not None
    print(f"written back: kernel {kernel.written_back}, model {model.written_back}")
    print(f"limit hits: kernel {kernel.limit_hits}, model {model.limit_hits}")
    print(f"rejected: kernel {outcome.not_told.sizes}, model {model.rejected}")
    assert outcome.as_recorded
    assert kernel.written_back >= 12
    # The worker ran before the next store each time that this was tried, but it need not.
    assert model.rejected == pytest.approx(outcome.not_told.sizes, rel=0.01)
    assert model.written_back == pytest.approx(kernel.written_back, rel=0.1)
    assert model.limit_hits <= kernel.limit_hits
