# SPDX-License-Identifier: GPL-2.0-only
"""Where the lab keeps what it fetched and built; everything in it can be deleted at any time."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """The cache folder: $ZTRACE_CACHE, else ztrace below $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("ZTRACE_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ztrace"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return folder ``target``, made by ``build(empty folder)`` if it is not there yet.

    It appears whole or not at all, also when two builds race or one is interrupted.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def remember(what: str, amount: float) -> None:
    """Keep how much some work took, so that whoever waits for it again can be told."""
    path = _remembered(what)
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{amount:g}\n")


def remembered(what: str) -> float | None:
    """What :func:`remember` kept of this work last, None if nothing."""
    try:
        return float(_remembered(what).read_text())
    except (OSError, ValueError):
        return None


def _remembered(what: str) -> Path:
    return cache_dir() / "took" / re.sub(r"[^\w.-]+", "-", what)
