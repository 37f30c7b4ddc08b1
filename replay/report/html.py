# SPDX-License-Identifier: GPL-2.0-only
"""A document as one page that needs nothing else: its data, tables, plots, script and style."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ztrace.replay.errors import ReplayError
from ztrace.replay.report.plots import plots
from ztrace.replay.report.sweep import is_sweep, sweep_plots
from ztrace.replay.report.tables import Cell, Table, names_shown
from ztrace.traces.errors import printable

MOST_BYTES = 4_000_000
"""What still opens quickly and can be attached to a mail: some twenty recordings."""

Json = dict[str, Any]


def html(document: Json, tables: Sequence[Table], title: str) -> str:
    """The page. ReplayError if there is too much for one."""
    assets = files("ztrace.replay.report") / "assets"
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((assets / "page.html.j2").read_text(encoding="utf-8"))
    drawn = list(sweep_plots(document) if is_sweep(document) else plots(document))
    shown = [table for table in tables if table.rows]
    sections = {table.name for table in shown}
    drawn = [plot for plot in drawn if plot["section"] in sections]
    page = template.render(
        title=printable(title),
        tables=shown,
        row_of=_row_of(document),
        names=names_shown(document),
        plots=drawn,
        printable=printable,
        document=_embedded(document),
        specifications=_embedded(drawn),
        style=Markup((assets / "report.css").read_text(encoding="utf-8")),
        script=Markup((assets / "report.js").read_text(encoding="utf-8")),
    )
    size = len(page.encode("utf-8", "backslashreplace"))
    if size > MOST_BYTES:
        raise ReplayError(
            f"the page would have {size:,} bytes, more than {MOST_BYTES:,}; "
            "report on fewer recordings or backends"
        )
    return page


def _row_of(document: Json) -> Callable[[Sequence[Cell]], int | None]:
    """What tells which recording a row is of: by its places, or by the trace that was measured."""
    names = names_shown(document)

    def row_of(row: Sequence[Cell]) -> int | None:
        part, *rest = row[0].path
        if part == "recordings":
            return int(rest[0])
        if part == "measured":
            return names.index(document[part][rest[0]]["label"])
        return None

    return row_of


def _embedded(value: Any) -> Markup:
    """JSON inside a script element: no character in it can end the element or open a comment."""
    data = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Markup(data)
