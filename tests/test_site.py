# SPDX-License-Identifier: GPL-2.0-only
"""The documentation as a site: built strictly, no link on it dead, nothing fetched elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ztrace
from ztrace.cli import COMMANDS

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "mkdocs.yml").exists(), reason="the site is the checkout's"
)


class _Page(HTMLParser):
    """What a page refers to: ``links`` to follow, ``fetched`` by a browser that shows it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name in ("src", "href"):
            if tag in ("img", "script", "link") and name in given:
                self.fetched.append(given[name])


def dead_links(folder: Path) -> Iterator[str]:
    """What pages in a folder refer to and is not in it, and what they would fetch elsewhere."""
    pages = {path: _Page(path.read_text()) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.fetched:
                    yield f"{path.name}: fetches {link}"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if link.startswith("/"):
                target = folder / unquote(parts.path).lstrip("/")
            known = {"", *pages[target].ids} if target in pages else {unquote(parts.fragment)}
            if not target.is_file() or unquote(parts.fragment) not in known:
                yield f"{path.name}: {link}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from the checkout."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_document_is_a_page_and_no_link_is_dead(site: Path) -> None:
    pages = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} < pages
    assert "first-look" in pages  # the notebook
    # 404.html is asked for at any address, so its links are those of a server's root.
    (site / "404.html").unlink()
    assert list(dead_links(site)) == []


def test_the_commands_and_names_are_on_it(site: Path) -> None:
    commands = (site / "cli.html").read_text()
    for name in COMMANDS:
        assert f'id="ztrace-{name}"' in commands
    assert "rank what could be changed" in commands.lower()
    names = (site / "python.html").read_text()
    for name in ztrace.__all__:
        assert re.search(rf'id="ztrace\.[\w.]*\b{name}"', names), name
    assert "held_bytes" in names
    assert ":func:" not in names


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="one"></h1><a href="b.html#two">x</a>')
    (tmp_path / "b.html").write_text(
        '<a href="a.html#one"></a><a href="#three"></a><a href="c.html"></a>'
        '<img src="gone.png"><script src="https://x.org/a.js"></script><a href="https://x.org/"></a>'
    )
    assert sorted(dead_links(tmp_path)) == [
        "a.html: b.html#two",
        "b.html: #three",
        "b.html: c.html",
        "b.html: fetches https://x.org/a.js",
        "b.html: gone.png",
    ]
