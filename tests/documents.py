# SPDX-License-Identifier: GPL-2.0-only
"""The document of a report, claims included, as the commands put it together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ztrace.replay import report
from ztrace.replay.report import Recording, Thresholds
from ztrace.replay.research.claims import judge


def assemble(recordings: Sequence[Recording], limits: Thresholds) -> dict[str, Any]:
    """Recordings with the claims judged on them."""
    return report.assemble(recordings, limits, judge(recordings))
