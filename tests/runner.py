# SPDX-License-Identifier: GPL-2.0-only
"""The command line as a user runs it: in this process, or as a process with its own streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from ztrace.cli import COMMANDS, cli, main

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "traces" / "samples").glob("*.parquet"))


@dataclass
class Result:
    code: int
    out: str
    err: str


class Runner:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._patch = monkeypatch
        self._capture = capfd

    def __call__(self, *args: str | Path) -> Result:
        self._patch.setattr(sys, "argv", ["ztrace", *map(str, args)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = self._capture.readouterr()
        assert isinstance(caught.value.code, int)
        return Result(caught.value.code, out, err)


def shell(line: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which ``ztrace`` is this checkout's; a pipe fails with its first."""
    program = f'ztrace() {{ "{sys.executable}" -m ztrace "$@"; }}; set -o pipefail\n{line}'
    return subprocess.run(
        ["bash", "-c", program],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        check=False,
    )


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command
