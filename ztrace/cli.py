# SPDX-License-Identifier: GPL-2.0-only
"""Entry point: finds the subcommand's module, turns every expected error into one line.

Subcommands are imported when they are called, so that ``ztrace info`` does not pay for
the recorder and ``ztrace record`` does not pay for pandas.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from ztrace import __version__
from ztrace.arrow import load_arrow_without_pandas
from ztrace.errors import ZtraceError

# name -> (module, one-line help shown by `ztrace --help` without importing the module)
COMMANDS: dict[str, tuple[str, str]] = {
    "record": ("ztrace.commands.record", "Record zswap and its allocator on this kernel."),
    "top": ("ztrace.commands.top", "Show what zswap and its allocator do right now."),
    "recover": ("ztrace.commands.recover", "Turn the spool of a killed recorder into a trace."),
    "doctor": ("ztrace.commands.doctor", "Say what works on this machine and what mends the rest."),
    "info": ("ztrace.commands.info", "Show a trace's metadata and losses."),
    "stat": ("ztrace.commands.stat", "Count a trace's calls, sizes and durations."),
    "import": ("ztrace.commands.import_", "Turn a CSV file into a trace."),
    "export": ("ztrace.commands.export", "Write a trace as CSV."),
    "slice": ("ztrace.commands.slice", "Keep a part of a trace: times, tasks, pools, ops."),
    "merge": ("ztrace.commands.merge", "Put pieces of a recording, or several, together."),
    "anonymise": ("ztrace.commands.anonymise", "Drop what tells whose trace it is."),
    "resize": ("ztrace.commands.resize", "Give a trace the sizes of another compressor."),
    "synth": ("ztrace.commands.synth", "Write a synthetic trace of any length."),
    "replay": ("ztrace.commands.replay", "Drive an allocator model with a trace."),
    "validate": ("ztrace.commands.validate", "Prove that the model is what the kernel ran."),
    "tune": ("ztrace.commands.tune", "Fit ztree's block table to traces."),
    "report": ("ztrace.commands.report", "Say what recordings show of the claims for ztree."),
    "compare": ("ztrace.commands.compare", "Say what changed between two recordings."),
    "sweep": ("ztrace.commands.sweep", "Replay many traces through many models."),
    "explore": ("ztrace.commands.explore", "Enumerate the races of a few calls of the model."),
    "measure": ("ztrace.commands.measure", "Time real allocators in a kernel, with a trace."),
    "kmod": ("ztrace.commands.kmod", "Build the posted ztree as a kernel module."),
    "lab": ("ztrace.commands.lab", "Boot a real kernel in QEMU and record it."),
}


LEAN = ("record", "top")
"""Commands beside which a machine short of memory goes on swapping: they load no Arrow at all."""


class Lazy(click.Group):
    """A click group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in LEAN:
            load_arrow_without_pandas()
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: ztrace replay trace.parquet --backend ztree",
)
@click.version_option(__version__, prog_name="ztrace")
def cli() -> None:
    """Record what zswap asks of its allocator; replay it through exact allocator models."""


def main() -> None:
    """Run the command line; exit 0 done, 1 a check failed, 2 bad usage, input or machine."""
    try:
        # Not cli.main(): it turns a closed pipe into exit status 1 before we see it.
        with cli.make_context("ztrace", sys.argv[1:]) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("ztrace: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            error.show()
        else:
            click.echo(f"ztrace: {error.format_message()}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output went away (`ztrace stat … | head`): not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"ztrace: {where}{error.strerror or error}", err=True)
        sys.exit(2)
    except ZtraceError as error:
        click.echo(f"ztrace: {error}", err=True)
        sys.exit(error.exit_status)
    sys.exit(code if isinstance(code, int) else 0)
