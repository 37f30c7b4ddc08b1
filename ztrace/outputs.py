# SPDX-License-Identifier: GPL-2.0-only
"""What every command makes sure of before it works: its output is none of its inputs, and seen."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ztrace.streams import UNSEEN, nobody_sees_output

_NAMED = re.compile(r"\bfit:(.+)|\btable=([^,]+)")
"""Files that are named inside of another value: fit:TRACE, ztree:table=FILE."""


class OutputPath(click.Path):
    """A file that a command writes; every other path that it takes is an input."""


OUTPUT = OutputPath(path_type=Path)


class Command(click.Command):
    """A command that refuses an output which is one of its inputs, or which nobody would see."""

    def invoke(self, ctx: click.Context) -> Any:
        """Check, then run the command."""
        outputs = [path for one in self.params if _writes(one) for path in _paths(one, ctx)]
        inputs = [path for one in self.params if not _writes(one) for path in _paths(one, ctx)]
        for output in outputs:
            refuse_same_file(output, inputs)
        if not outputs:
            refuse_unseen()
        return super().invoke(ctx)


class Group(click.Group):
    """A command of commands, which are checked; one that is not there is taken for a slip."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but name the command that was perhaps meant."""
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, names, n=1)
            ctx.fail(f"No such command {name!r}{f'; did you mean {near[0]}?' if near else '.'}")
        return super().resolve_command(ctx, args)


def refuse_same_file(output: Path, inputs: Iterable[Path]) -> None:
    """ClickException if the output is an input, also by another name or a link.

    Writing it would replace what was recorded by what was made of it.
    """
    for path in inputs:
        if output.is_file() and path.is_file() and path.samefile(output):
            raise click.ClickException(f"{output}: is an input too; name another output")


def refuse_unseen() -> None:
    """ClickException if what a command prints is all it does, and standard output is closed."""
    if nobody_sees_output():
        raise click.ClickException(UNSEEN)


def _writes(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, OutputPath)


def _paths(parameter: click.Parameter, ctx: click.Context) -> Iterator[Path]:
    """The files that a parameter's value names; - is a standard stream and no file."""
    value = ctx.params.get(parameter.name or "")
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, Path) and os.fspath(one) != "-":
            yield one
        elif isinstance(one, str):
            if isinstance(parameter, click.Argument) and parameter.type is click.STRING:
                yield Path(one)
            for found in _NAMED.finditer(one):
                yield Path(found[1] or found[2])
