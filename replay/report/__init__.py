# SPDX-License-Identifier: GPL-2.0-only
"""Reports: recordings -> one plain document (gather) -> a page, text, and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ztrace.replay.report.checks import Thresholds, check
from ztrace.replay.report.gather import (
    VERSION,
    Recording,
    default_backends,
    gather_one,
    labels,
    passes,
)
from ztrace.replay.report.render import FORMATS
from ztrace.replay.report.sweep import is_sweep, sweep_document, sweep_tables
from ztrace.replay.report.tables import tables
from ztrace.text import counted

__all__ = [
    "FORMATS",
    "Recording",
    "Thresholds",
    "assemble",
    "default_backends",
    "gather_one",
    "labels",
    "passes",
    "render",
    "sweep_document",
]


def assemble(
    recordings: Sequence[Recording],
    limits: Thresholds,
    claims: Sequence[dict[str, Any]],
    measured: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The document of a report: its recordings, what they say of ``claims``, and the checks.

    ``claims``: as :func:`replay.research.claims.judge` has judged them on these recordings, none
    if they are not asked for; ``measured``: groups of :mod:`replay.report.measured`.
    """
    parts = [one.document for one in recordings]
    return {
        "ztrace_report": VERSION,
        "recordings": parts,
        "measured": list(measured),
        "claims": list(claims),
        "checks": check(parts, limits),
    }


def render(document: dict[str, Any], form: str) -> str:
    """The document in one of FORMATS. ReplayError if a page would be too large."""
    if is_sweep(document):
        title = f"ztrace sweep: {counted(len(document['runs']), 'run')}"
        return FORMATS[form](document, list(sweep_tables(document)), title)
    names = ", ".join(one["label"] for one in document["recordings"])
    return FORMATS[form](document, list(tables(document)), f"ztrace report: {names}")
