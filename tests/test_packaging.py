# SPDX-License-Identifier: GPL-2.0-only
"""Manual pages of all commands, and a Debian package that is of this version and this layout."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ztrace import __version__
from ztrace.cli import COMMANDS, cli

ROOT = Path(__file__).parents[1]
DEBIAN = ROOT / "debian"

pytestmark = pytest.mark.skipif(not DEBIAN.exists(), reason="packages are made from the checkout")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages."""
    folder = tmp_path_factory.mktemp("manual") / "man1"
    subprocess.run([sys.executable, ROOT / "tools" / "manual", folder], check=True)
    return folder


def test_every_command_has_a_page_with_its_options(pages: Path) -> None:
    names = {path.name for path in pages.iterdir()}
    assert {"ztrace.1", "ztrace-lab-run.1", *(f"ztrace-{name}.1" for name in COMMANDS)} <= names
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        page = (pages / f"ztrace-{name}.1").read_text().replace("\\-", "-")
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in page, (name, parameter.opts)
        assert ".SH EXIT STATUS" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_pages_are_read_without_complaint(pages: Path) -> None:
    for path in pages.iterdir():
        done = subprocess.run(
            ["groff", "-k", "-man", "-Tutf8", "-ww", "-rHY=0", path], capture_output=True, text=True
        )
        wrong = [
            line
            for line in done.stderr.splitlines()
            if not line.endswith(("adjust line", "break line"))
        ]
        assert (done.returncode, wrong) == (0, []), path.name
        plain = re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)  # bold is struck twice
        assert "DESCRIPTION" in plain


def test_the_debian_package_is_of_this_version() -> None:
    first = (DEBIAN / "changelog").read_text().split("\n")[0]
    assert first.startswith(f"ztrace ({__version__}) ")
    launcher = (DEBIAN / "launcher").read_text()
    assert '"/usr/lib/ztrace"' in launcher
    rules = (DEBIAN / "rules").read_text()
    assert "usr/lib/ztrace" in rules and "install -D -m 755 debian/launcher" in rules
