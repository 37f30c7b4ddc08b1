# SPDX-License-Identifier: GPL-2.0-only
"""What is shown while recording."""

from __future__ import annotations

import io
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import click
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rich.console import Console

from ztrace.commands.top import summary, view
from ztrace.options import address
from ztrace.present.recording import status_line
from ztrace.tracer.errors import TracerError
from ztrace.tracer.openmetrics import Metrics, served
from ztrace.tracer.recorder import Progress
from ztrace.tracer.ring import OP_NAMES
from ztrace.traces import OPS
from ztrace.units import short


def progress(**changes: int) -> Progress:
    durations = np.arange(1, 101, dtype=np.uint32) * 1000
    made = Progress(events=123_456_789, seconds=3600.5, stores=9_999_999, loads=88, lost=3)
    made.recent = {OPS.index("malloc"): [durations[:50], durations[50:]], 16: [durations]}
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_ops_are_those_of_a_trace() -> None:
    assert OP_NAMES == OPS


def test_status_line_is_one_line_of_a_terminal() -> None:
    line = status_line(progress(pool_bytes=1 << 40))
    assert len(line) == 79
    for part in ("3600 s", "34.3k/s", "stores 10M", "loads 88", "p99 malloc 99.0 us", "lost 3"):
        assert part in line
    assert "pool 1.0 TiB" in line
    empty = status_line(Progress())
    assert "p99 malloc -" in empty
    assert "pool -" in empty


def test_top_shows_the_recent_durations() -> None:
    found = summary(progress(pool_bytes=4096))
    assert list(found["calls"]) == ["malloc"]
    malloc = found["calls"]["malloc"]
    assert (malloc["count"], malloc["p50_ns"], malloc["max_ns"]) == (100, 50_500.0, 100_000.0)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(progress(pool_bytes=4096)))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "50.5 us" in text


def test_short_numbers_have_three_digits() -> None:
    assert [short(n) for n in (0, 999, 999.6, 1234, 99_999, 1_234_567, 5e12)] == [
        *("0", "999", "1k", "1.23k", "100k", "1.23M", "5T")
    ]


def test_metrics_add_up_all_that_came() -> None:
    metrics = Metrics()
    for _ in range(2):
        metrics.add(progress(pool_bytes=4096))
    families = {one.name: one for one in text_string_to_metric_families(metrics.text())}
    samples = {
        (one.name, one.labels.get("le")): one.value
        for one in families["ztrace_call_duration_seconds"].samples
        if one.labels["op"] == "malloc"
    }
    # 1 us to 100 us in steps of 1 us, twice.
    assert samples["ztrace_call_duration_seconds_bucket", "1e-06"] == 2
    assert samples["ztrace_call_duration_seconds_bucket", "5e-05"] == 100
    assert samples["ztrace_call_duration_seconds_bucket", "+Inf"] == 200
    assert samples["ztrace_call_duration_seconds_count", None] == 200
    assert samples["ztrace_call_duration_seconds_sum", None] == pytest.approx(2 * 5050e-6)
    values = {name: one.samples[0].value for name, one in families.items() if len(one.samples) == 1}
    assert values["ztrace_lost_events"] == 3
    assert values["ztrace_stores"] == 9_999_999
    assert values["ztrace_pool_size_bytes"] == 4096


def test_metrics_of_nothing_are_valid() -> None:
    names = [one.name for one in text_string_to_metric_families(Metrics().text())]
    assert "ztrace_events" in names
    assert "ztrace_pool_size_bytes" not in names


def test_metrics_are_served() -> None:
    metrics = Metrics()
    with served(metrics, "127.0.0.1", 0) as port:
        metrics.add(progress())
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert b"ztrace_events_total 123456789\n" in answer.read()
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{port}/")
        with (
            pytest.raises(TracerError, match=f"127.0.0.1:{port}: cannot listen: "),
            served(metrics, "127.0.0.1", port),
        ):
            pass
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{port}/metrics")


@pytest.mark.parametrize("text", ["", "here", "host:", "70000", "1.2"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no port"):
        address(text)
    assert address("9464") == ("127.0.0.1", 9464)
    assert address("0.0.0.0:80") == ("0.0.0.0", 80)
