# SPDX-License-Identifier: GPL-2.0-only
"""From a recorder's spool to a trace: what ``ztrace record`` and ``ztrace recover`` share."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ztrace.present.recording import show_recorded


def spool_path(output: Path) -> Path:
    """The spool of a trace: beside it, its name with .spool."""
    return output.with_name(output.name + ".spool")


def numbered_output(output: Path | None, number: int) -> Path:
    """The trace of a recording's file of that number."""
    from ztrace.tracer.spool import numbered

    assert output is not None
    return numbered(output, number)


def free_spool(output: Path, rotates: bool, force: bool) -> Path:
    """The spool to write; ClickException if it, or the trace, is in the way or has no folder."""
    if not output.parent.is_dir():
        raise click.ClickException(f"{output.parent}: no such folder")
    numbers = {0}
    if rotates:
        name = rf"{re.escape(output.stem)}\.(\d+){re.escape(output.suffix)}(\.spool)?"
        found = (re.fullmatch(name, path.name) for path in output.parent.iterdir())
        numbers |= {int(match[1]) for match in found if match}
    for number in sorted(numbers):
        trace = numbered_output(output, number)
        if trace.exists() and not force:
            raise click.ClickException(f"{trace}: exists; --force replaces it")
        if spool_path(trace).exists():
            raise click.ClickException(
                f"{spool_path(trace)}: left by a recorder that died; ztrace recover turns it into "
                "a trace"
            )
    return spool_path(output)


def hand_over_spools(spool: Path) -> None:
    """Give all spools of a recording to the user, however it ended."""
    from ztrace.tracer.ownership import hand_over
    from ztrace.tracer.spool import numbered

    number = 0
    while numbered(spool, number).exists():
        hand_over(numbered(spool, number))
        number += 1


def finish(spool: Path, output: Path, force: bool) -> None:
    """Turn the spool into the trace, remove the spool, say what was recorded and lost."""
    rows = 0
    try:
        # These take a while, in which there may be another Ctrl-C, too.
        from ztrace.console import progress
        from ztrace.tracer.convert import convert
        from ztrace.tracer.ownership import hand_over

        with progress("writing", None) as advance:

            def count(written: int) -> None:
                nonlocal rows
                rows += written
                advance(written)

            metadata = convert(spool, output, force=force, advance=count)
    except KeyboardInterrupt:
        raise click.ClickException(
            f"{spool}: interrupted before the trace was written; all of it is here: ztrace recover"
        ) from None
    except OSError as error:
        raise click.ClickException(
            f"{output}: {error.strerror}; the recording is in {spool}: make room, then "
            "ztrace recover"
        ) from error
    spool.unlink()
    hand_over(output)
    show_recorded(output, rows, metadata)
