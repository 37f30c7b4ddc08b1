# SPDX-License-Identifier: GPL-2.0-only
"""Numbers with units as people type them on a command line; for click's ``type=``."""

from __future__ import annotations

import re

import click

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_TIMES_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def duration(text: str) -> int:
    """``90``, ``1.5s``, ``250ms``, ``2m`` in ns; a bare number is seconds."""
    match = _NUMBER.fullmatch(text.strip())
    unit = _TIMES_NS.get(match[2] or "s") if match else None
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is no duration; write for instance 30s, 250ms, 2m")
    return round(float(match[1]) * unit)


def size_or_duration(text: str) -> tuple[int | None, int | None]:
    """``100M`` as bytes and None, ``10m`` as None and ns: ``m`` is minutes, ``M`` MiB."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or not match[2] or float(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is no size or time; write for instance 100M or 10m")
    return (None, duration(text)) if match[2] in _TIMES_NS else (size(text), None)


def size(text: str) -> int:
    """``16M``, ``64k``, ``4096`` in bytes; units are binary."""
    match = _NUMBER.fullmatch(text.strip())
    unit = _SIZES.get(match[2].lower().removesuffix("ib")) if match else None
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is no size; write for instance 16M, 64k, 4096")
    return round(float(match[1]) * unit)


def whole(text: str) -> int:
    """A whole number from 1: ``10000000``, ``10_000_000`` or ``1e7``."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1e12 or number != int(number):
        raise click.BadParameter(f"{text!r} is no whole number from 1; write for instance 1e6")
    return int(number)


def percent(text: str) -> int:
    """``90%`` or ``90``: a whole percentage, as zswap's parameters are."""
    digits = text.strip().removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and int(digits) <= 100):
        raise click.BadParameter(f"{text!r} is not a whole percentage; write for instance 20%")
    return int(digits)


def count_text(number: int) -> str:
    """1234567 -> ``1,234,567``."""
    return f"{number:,}"


def ns_text(duration_ns: int | float) -> str:
    """Nanoseconds with the unit that fits: ``850 ns``, ``1.2 us``, ``3.5 s``."""
    if duration_ns < 999.5:
        return f"{duration_ns:.0f} ns"
    value, unit = duration_ns / 1000, "us"
    for larger in ("ms", "s"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{value:,.1f} {unit}"


def short(number: float) -> str:
    """1234567 -> ``1.23M``: three digits, for where there is little room."""
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def share(text: str) -> float:
    """``99.5%`` or ``0.995`` as a share."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise click.BadParameter(f"{text!r} is no share; write for instance 1% or 0.01")
    return value
