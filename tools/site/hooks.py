# SPDX-License-Identifier: GPL-2.0-only
"""What mkdocs does beside its own work as it builds the documentation (mkdocs.yml)."""

from __future__ import annotations

import html
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from ztrace.cli import NAME, cli

TOOLS = Path(__file__).parents[1]
DOCS = TOOLS.parent / "docs"
NOTEBOOK = "first-look"
COMMANDS = "<!-- the commands -->"
"""Where a page wants them: whoever reads it without a site has --help."""

_OUTSIDE = re.compile(r"\[(?P<text>[^]]*)\]\((?:\.\./)+[^)\s]*\)")
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):(?=<code>)")
_NOTEBOOK = re.compile(rf"\({NOTEBOOK}\.ipynb\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the notebook as a page of its cells and their outputs."""
    cells = json.loads((DOCS / f"{NOTEBOOK}.ipynb").read_text())["cells"]
    text = "\n\n".join(_cell(cell) for cell in cells)
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands in; what lies outside of docs/ is in the source and not on the site."""
    if COMMANDS in markdown:
        markdown = markdown.replace(
            COMMANDS, "\n".join(commands(click.Context(cli, info_name=NAME)))
        )
    return _NOTEBOOK.sub(f"({NOTEBOOK}.md)", _OUTSIDE.sub(r"\g<text>", markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings say :func: and the like of a name; the name is enough here."""
    return _ROLE.sub("", html)


_SUBCOMMANDS = runpy.run_path(str(TOOLS / "manual"))["subcommands"]


def commands(context: click.Context) -> Iterator[str]:
    """A section for a command, and for each command that it has."""
    command = context.command
    yield f"\n## {context.command_path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    for part in re.split(r"\n\s*\n", (command.help or "").strip()):
        kept = part.startswith("\b")
        text = re.sub(r"\n +", "\n", part.removeprefix("\b\n"))
        yield f"```text\n{text}\n```\n" if kept else f"{_plain(text)}\n"
    for one in command.get_params(context):
        record = one.get_help_record(context)
        if record and record[1] and "--help" not in record[0]:
            yield f"- `{record[0]}`: {_plain(record[1])}"
    if command.epilog:
        yield f"\n```sh\n{command.epilog.removeprefix('Example: ')}\n```\n"
    if isinstance(command, click.Group):
        for _, sub in _SUBCOMMANDS(command, context):
            yield from commands(sub)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    shown = f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("text") or output.get("data", {}).get("text/plain", "")
        shown += f"\n\n```text\n{''.join(data).rstrip()}\n```"
    return shown
