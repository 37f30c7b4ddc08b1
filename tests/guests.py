# SPDX-License-Identifier: GPL-2.0-only
"""Guests that in-kernel tests look into: booted in the background, while other tests run.

A module of such tests has GUESTS, name -> function that boots and leaves its results in a folder.
They are called one after another, as guests of one session would otherwise be waited for in turn;
a second core, where there is one, has nothing else to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

Watch = Callable[[str], None]
Boot = Callable[[Path, Path | None, Watch], None]
"""``boot(empty folder, the posted mail or None, called with each line of the guest)``."""


class Stopped(Exception):
    """The session is over; nobody looks into the guest any more."""


class Guests:
    """The guests of one session."""

    def __init__(self, folder: Path, patch: Path | None) -> None:
        """``folder`` gets a folder for each; ``patch`` is given to each."""
        self._folder, self._patch = folder, patch
        self._worker = ThreadPoolExecutor(1, "guests")
        self._booted: dict[str, Future[Path]] = {}
        self._stopped = False

    def start(self, wanted: Iterable[tuple[str, Boot]]) -> None:
        """Boot these in the background, each once."""
        for name, boot in wanted:
            if name not in self._booted:
                self._booted[name] = self._worker.submit(self._boot, name, boot)

    def _boot(self, name: str, boot: Boot) -> Path:
        folder = self._folder / name
        folder.mkdir()
        with (self._folder / f"{name}.said").open("w", buffering=1) as said:

            def watch(line: str) -> None:
                if self._stopped:
                    raise Stopped
                said.write(f"{line}\n")

            boot(folder, self._patch, watch)
        return folder

    def folder(self, name: str) -> Path:
        """What a guest left, as soon as it has; raises what its boot raised."""
        folder = self._booted[name].result()
        print((self._folder / f"{name}.said").read_text())  # pytest shows it if the test fails
        return folder

    def stop(self) -> None:
        """Boot no more; the one that is running ends when it says something."""
        self._stopped = True
        self._worker.shutdown(wait=True, cancel_futures=True)
