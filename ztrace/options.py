# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands have, and how what people type for them is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ztrace.allocator.registry import OURS, names
from ztrace.units import duration, percent, size

if TYPE_CHECKING:
    from ztrace.replay.figures.result import Every
    from ztrace.replay.limit import AskedLimit, Rules, Worker
    from ztrace.tracer.outputs import Trigger

    _TextType = click.ParamType[str]
else:
    _TextType = click.ParamType  # not generic in click 8.1

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

WORKER = "300us,300us"
"""How late zswap's worker is taken to begin, and how long a page to take, if nothing is said."""

PATH = click.Path(path_type=Path)


class TraceOrUrl(_TextType):
    """A trace here, or one at a URL; whether it is the output is for the command to look at."""

    name = "trace"


TRACE_OR_URL = TraceOrUrl()

trace_argument = click.argument("trace", type=PATH)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")
engine_option = click.option(
    "--engine",
    type=click.Choice(["python", "native"]),
    help="Run the readable models or the same in C; native where it was built.",
)


def complete_backend(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """What a shell offers for the name of a backend."""
    return [name for name in (*names(), "all") if name.startswith(incomplete)]


def backends_option(text: str, *, required: bool = False) -> Callable[[Decorated], Decorated]:
    """``--backend NAME``, which may be given again; its help names the models that come with us."""
    known = f"{', '.join(sorted(OURS)[:-1])} or {sorted(OURS)[-1]}, also with rules and items, as "
    return click.option(
        "--backend",
        "backends",
        required=required,
        multiple=True,
        metavar="NAME",
        shell_complete=complete_backend,
        help=f"{known}zsmalloc:6.12 or ztree:table=FILE. {text}",
    )


def limit(text: str) -> AskedLimit:
    """``20%``, ``512M`` or ``recorded``."""
    from ztrace.replay.limit import AskedLimit

    if text.strip() == "recorded":
        return AskedLimit()
    return AskedLimit(percent=percent(text)) if "%" in text else AskedLimit(bytes=size(text))


def ages(text: str) -> tuple[int, ...]:
    """``10s,1m``: durations; none for ``auto``."""
    return () if text.strip() == "auto" else tuple(duration(one) for one in text.split(","))


def worker(text: str) -> Worker:
    """``1ms,300us``: how late zswap's worker begins, and how long it takes a page."""
    from ztrace.replay.limit import Worker

    delay, comma, page = text.partition(",")
    if not comma:
        raise click.BadParameter(f"{text!r} is not two durations; write for instance 1ms,300us")
    return Worker(duration(delay), duration(page))


def rules(text: str) -> Rules:
    """The release whose rules of the pool limit are meant."""
    from ztrace.replay.limit import Rules

    try:
        return Rules(text)
    except ValueError:
        known = ", ".join(one.value for one in Rules)
        raise click.BadParameter(f"{text!r} is none of {known}") from None


def every(text: str) -> Every:
    """``100ms`` or ``5%``: how far apart the rows of a time series are."""
    from ztrace.replay.figures.result import Every

    if not text.strip().endswith("%"):
        return Every(ns=duration(text))
    try:
        share = float(text.strip()[:-1])
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no percentage; write for instance 5%") from error
    if not 0 < share <= 100:
        raise click.BadParameter(f"{text!r} is not above 0% and up to 100%")
    return Every(percent=share)


def values(text: str) -> tuple[str, list[str]]:
    """``name=value,value…``: a parameter and all of its values, each once.

    A limit or a threshold is read as the option of that name is.
    """
    name, equals, rest = text.partition("=")
    listed = rest.split(",")
    if not name or not equals or not all(listed):
        raise click.BadParameter(f"{text!r}: write NAME=VALUE,VALUE…, for instance scale=0.8,1")
    if name == "limit":
        listed = [str(limit(one)) for one in listed]
    elif name == "accept":
        listed = [str(percent(one)) for one in listed]
    return name, list(dict.fromkeys(listed))


def address(text: str) -> tuple[str, int]:
    """``9464`` or ``0.0.0.0:9464``: where to listen; on this machine alone if no host is named."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is no port; write for instance 9464 or 0.0.0.0:9464")
    return host or "127.0.0.1", int(port)


def trigger(text: str) -> Trigger:
    """``malloc>5ms``."""
    from ztrace.tracer.outputs import Trigger
    from ztrace.tracer.ring import OP_NAMES

    op, _, limit = text.partition(">")
    if op.strip() not in OP_NAMES or not limit:
        raise click.BadParameter(f"{text!r} is no trigger; write for instance 'malloc>5ms'")
    return Trigger(op.strip(), duration(limit))
