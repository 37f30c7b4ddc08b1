# SPDX-License-Identifier: GPL-2.0-only
"""``ztrace corpus``: the bundled recordings, and whether they are what their cards say."""

from __future__ import annotations

from typing import Any

import click

from ztrace.console import bytes_text, console, count_text, pairs, print_json, table
from ztrace.options import json_option
from ztrace.outputs import Command
from ztrace.streams import say
from ztrace.traces.corpus import Card, cards, differences


@click.command("corpus", cls=Command, epilog="Example: ztrace corpus zsmalloc-6.1-small")
@click.argument("name", required=False)
@click.option("--verify", is_flag=True, help="Compare each file with its card and SHA-256.")
@json_option
def command(name: str | None, verify: bool, as_json: bool) -> int:
    """List the recordings that come with ztrace, or show the card of NAME: what ran, on which
    kernel, what was lost, the licence and the checksum.

    An installed wheel has the smallest ones; all are in the source archive. Exit status 1 if a
    file is not what its card says.
    """
    known = cards()
    chosen = [one for one in known if name in (None, one.name)]
    if not chosen:
        raise click.UsageError(f"no recording {name!r}; ztrace corpus lists them")
    wrong = {one.name: list(differences(one)) for one in chosen if verify and one.path().exists()}
    if as_json:
        print_json({"recordings": [_plain(one, wrong) for one in chosen]})
    elif name is not None:
        _show_card(chosen[0])
    else:
        rows = [
            [
                one.name,
                one.allocator,
                count_text(one.rows),
                count_text(one.lost),
                bytes_text(one.bytes),
                _state(one, wrong),
            ]
            for one in chosen
        ]
        headers = ("recording", "allocator", "rows", "lost", "size", "file")
        console().print(table(headers, rows, texts=2))
    for one, found in wrong.items():
        for difference in found:
            say(f"{one}: {difference}")
    return 1 if any(wrong.values()) else 0


def _state(card: Card, wrong: dict[str, list[str]]) -> str:
    if not card.path().exists():
        return "not here"
    if card.name not in wrong:
        return "here"
    return "differs" if wrong[card.name] else "verified"


def _plain(card: Card, wrong: dict[str, list[str]]) -> dict[str, Any]:
    path = card.path()
    return {
        **card.to_dict(),
        "path": str(path) if path.exists() else None,
        "differences": wrong.get(card.name),
    }


def _show_card(card: Card) -> None:
    path = card.path()
    lines = [(name, str(value)) for name, value in card.to_dict().items()]
    console().print(pairs([*lines, ("file", str(path) if path.exists() else "not here")]))
