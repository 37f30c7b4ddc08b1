# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace doctor``: what works here."""

from __future__ import annotations

from dataclasses import asdict

import click

from ztrace.outputs import Command
from ztrace.streams import show
from ztrace.tracer.doctor import Finding, examine, examine_probes


@click.command(cls=Command, epilog="Example: sudo ztrace doctor --probes")
@click.option("--probes", is_flag=True, help="Attach each probe, and say what a trace will lack.")
@click.option(
    "--source",
    type=click.Choice(["zswap", "zram"]),
    default="zswap",
    show_default=True,
    help="Whose probes.",
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(probes: bool, source: str, as_json: bool) -> int:
    """Say what of ztrace works on this machine and, for what does not, what mends it.

    Replay, info, stat, import and export work everywhere. Exit 0 if recording works, 1 if not.
    """
    if probes:
        _show_probes(source, as_json)
        return 0
    findings = list(examine())
    can_record = all(one.works for one in findings if one.serves == "record")
    if as_json:
        from ztrace.console import print_json

        print_json({"record": can_record, "findings": [asdict(one) for one in findings]})
        return 0 if can_record else 1
    for need, title in (("record", "ztrace record"), ("lab", "ztrace lab")):
        chosen = [one for one in findings if one.serves == need]
        works = all(one.works for one in chosen)
        show(f"{title}: {'works' if works else 'does not work here'}")
        for one in chosen:
            _show(one)
    return 0 if can_record else 1


def _show(finding: Finding) -> None:
    show(f"  {'ok' if finding.works else 'NO':3}{finding.name:20}{finding.found}", wrap=True)
    if not finding.works:
        show(f"     -> {finding.remedy}", wrap=True)


def _show_probes(source: str, as_json: bool) -> None:
    from ztrace.console import console, print_json, table

    found = examine_probes(source)
    if as_json:
        print_json({"source": source, "probes": [asdict(one) for one in found]})
        return
    rows = [(one.symbol, one.op or "-", one.kind or "NO", one.reason) for one in found]
    console().print(table(["function", "call", "probe", "why not"], rows, texts=4))
    lacking = sorted({one.lacks for one in found if one.lacks})
    show(f"a trace will lack: {', '.join(lacking) or 'nothing'}", wrap=True)
