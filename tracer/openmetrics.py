# SPDX-License-Identifier: GPL-2.0-only
"""What is recorded right now as OpenMetrics, for Prometheus and whatever else scrapes it.

The text is that of OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/):
counts since the recorder attached, of all calls, so that a scraper may come as seldom as it likes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from ztrace.tracer.errors import TracerError
from ztrace.tracer.recorder import Progress
from ztrace.tracer.ring import OP_NAMES

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PATH = "/metrics"

BOUNDS_NS = (*(step * 10**power for power in range(3, 9) for step in (1, 2, 5)), 10**9)
"""Upper bounds of the histogram's buckets: 1 us to 1 s, three to a power of ten."""


class Metrics:
    """Adds up what :class:`Progress` tells piece by piece. Safe to read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = Progress()
        self._counts = np.zeros((len(OP_NAMES), len(BOUNDS_NS) + 1), np.int64)
        self._sums_ns = [0] * len(OP_NAMES)

    def add(self, progress: Progress) -> None:
        """Take what came since the last call."""
        with self._lock:
            self._last = Progress(
                *(progress.events, progress.seconds, progress.lost, progress.stores),
                *(progress.loads, progress.pool_bytes),
            )
            for code, parts in progress.recent.items():
                if code < len(OP_NAMES):
                    durations = np.concatenate(parts)
                    at = np.searchsorted(BOUNDS_NS, durations)
                    self._counts[code] += np.bincount(at, minlength=len(BOUNDS_NS) + 1)
                    self._sums_ns[code] += int(durations.sum(dtype=np.uint64))

    def text(self) -> str:
        """The exposition, ended by ``# EOF``."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        name = "ztrace_call_duration_seconds"
        yield f"# TYPE {name} histogram"
        yield f"# UNIT {name} seconds"
        yield f"# HELP {name} Entry to return of the kernel's calls, by op of the trace."
        for code, op in enumerate(OP_NAMES):
            upto = np.cumsum(self._counts[code]).tolist()
            if not upto[-1]:
                continue
            bounds = [*(repr(bound / 1e9) for bound in BOUNDS_NS), "+Inf"]
            for bound, count in zip(bounds, upto, strict=True):
                yield f'{name}_bucket{{op="{op}",le="{bound}"}} {count}'
            yield f'{name}_count{{op="{op}"}} {upto[-1]}'
            yield f'{name}_sum{{op="{op}"}} {self._sums_ns[code] / 1e9!r}'
        last = self._last
        for name, value, about in (
            ("ztrace_events", last.events, "Calls seen since the probes were attached."),
            ("ztrace_lost_events", last.lost, "Calls that were lost on the way, by any cause."),
            ("ztrace_stores", last.stores, "Stores that succeeded."),
            ("ztrace_loads", last.loads, "Loads that succeeded."),
        ):
            yield f"# TYPE {name} counter"
            yield f"# HELP {name} {about}"
            yield f"{name}_total {value}"
        if last.pool_bytes is not None:
            yield "# TYPE ztrace_pool_size_bytes gauge"
            yield "# UNIT ztrace_pool_size_bytes bytes"
            yield "# HELP ztrace_pool_size_bytes Size of the pool as the kernel last computed it."
            yield f"ztrace_pool_size_bytes {last.pool_bytes}"
        yield "# EOF"


@contextmanager
def served(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Answer GET /metrics while the block runs; give the port, the kernel's choice for 0.

    TracerError if the address cannot be listened at.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(404, f"only {PATH} is here")
                return
            text = metrics.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: the terminal shows the table."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TracerError(
            f"{host}:{port}: cannot listen: {reason}; name another with --openmetrics"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
