# SPDX-License-Identifier: GPL-2.0-only
"""Entry point: finds the subcommand's module, turns every expected error into one line.

Subcommands are imported when they are called, so that ``ztrace info`` does not pay for
the recorder and ``ztrace record`` does not pay for pandas.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING

import click

from ztrace.arrow import load_arrow_without_pandas
from ztrace.errors import ZtraceError
from ztrace.outputs import Group
from ztrace.streams import (
    UNSEEN,
    forget_output,
    nobody_sees_output,
    open_missing_streams,
    say,
    show,
)
from ztrace.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NAME = "ztrace"
COMPLETE = "_ZTRACE_COMPLETE"
"""The variable in which a shell asks for completions; click makes the script that sets it."""


# name -> (module, one-line help shown by `ztrace --help` without importing the module)
COMMANDS: dict[str, tuple[str, str]] = {
    "record": ("ztrace.commands.record", "Record zswap and its allocator on this kernel."),
    "top": ("ztrace.commands.top", "Show what zswap and its allocator do right now."),
    "recover": ("ztrace.commands.recover", "Turn the spool of a killed recorder into a trace."),
    "doctor": ("ztrace.commands.doctor", "Say what works on this machine and what mends the rest."),
    "info": ("ztrace.commands.info", "Show a trace's metadata and losses."),
    "stat": ("ztrace.commands.stat", "Count a trace's calls, sizes and durations."),
    "corpus": ("ztrace.commands.corpus", "List and verify the bundled recordings."),
    "import": ("ztrace.commands.import_", "Turn a CSV, or another tracer's text, into a trace."),
    "export": ("ztrace.commands.export", "Write a trace as CSV, for Perfetto or for libCacheSim."),
    "slice": ("ztrace.commands.slice", "Keep a part of a trace: times, tasks, pools, ops."),
    "merge": ("ztrace.commands.merge", "Put pieces of a recording, or several, together."),
    "anonymise": ("ztrace.commands.anonymise", "Drop what tells whose trace it is."),
    "resize": ("ztrace.commands.resize", "Give a trace the sizes of another compressor."),
    "synth": ("ztrace.commands.synth", "Write a synthetic trace of any length."),
    "replay": ("ztrace.commands.replay", "Drive an allocator model with a trace."),
    "validate": ("ztrace.commands.validate", "Prove that the model is what the kernel ran."),
    "advise": (
        "ztrace.commands.advise",
        "Say what else would hold a workload, and how well.",
    ),
    "tune": ("ztrace.commands.tune", "Fit zsmalloc, zblock or ztree to traces."),
    "report": ("ztrace.commands.report", "Say what recordings show of the claims for ztree."),
    "compare": ("ztrace.commands.compare", "Say what changed between two recordings."),
    "sweep": ("ztrace.commands.sweep", "Replay many traces through many models."),
    "explore": ("ztrace.commands.explore", "Enumerate the races of a few calls of the model."),
    "measure": ("ztrace.commands.measure", "Time real allocators in a kernel, with a trace."),
    "kmod": ("ztrace.commands.kmod", "Build the posted ztree as a kernel module."),
    "lab": ("ztrace.commands.lab", "Boot a real kernel in QEMU and record it."),
}


LOADING = 50_000
"""Objects made between two looks for garbage; Python's 700 are for what is soon dropped again."""

LEAN = ("record", "top")
"""Commands beside which a machine short of memory goes on swapping: they load no Arrow at all."""


class Lazy(Group):
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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands by name, none of them imported, and the group's own options."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        own = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=COMMANDS[name][1]) for name in names), *own]

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
    _look_for_garbage_seldom()
    open_missing_streams()
    if asked := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, NAME, COMPLETE, asked))
    try:
        status = _status(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away (`ztrace stat … | head`): not an error.
        forget_output()
        status = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status = _refused(f"{where}{error.strerror or error}")
    sys.exit(status)


def _look_for_garbage_seldom() -> None:
    """Spare a small command a tenth of its time: collections while modules load, and at the end.

    The last one would walk all that Arrow and numpy ever made, a moment before the process ends.
    """
    gc.set_threshold(LOADING, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


def _status(arguments: list[str]) -> int:
    """Run a command; what the process is to end with. OSError is left to the caller."""
    try:
        # Not cli.main(): it turns a closed pipe into exit status 1 before we see it.
        with cli.make_context(NAME, arguments) as context:
            status = cli.invoke(context)
    except click.exceptions.Exit as end:
        return _refused(UNSEEN) if nobody_sees_output() else end.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        say("interrupted")
        return 130
    except click.UsageError as error:
        shown = io.StringIO()
        error.show(shown)
        show(shown.getvalue(), err=True, nl=False)
        return 2
    except click.ClickException as error:
        return _refused(error.format_message())
    except ZtraceError as error:
        return _refused(str(error), error.exit_status)
    return status if isinstance(status, int) else 0


def _refused(why: str, status: int = 2) -> int:
    say(why)
    return status
