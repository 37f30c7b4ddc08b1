# SPDX-License-Identifier: GPL-2.0-only
"""The bundled recordings as a set that can be cited: a card each, checked against the file.

``samples/corpus.json`` has the cards; docs/corpus.md says how one is contributed. An installed
wheel has the cards of all and the files of the smallest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from ztrace.traces.errors import TraceError
from ztrace.traces.reader import TraceReader

SAMPLES = Path(str(files("ztrace.traces"))) / "samples"
CARDS = "corpus.json"


@dataclass(frozen=True)
class Card:
    """What is known of a recording; ``lost`` are events, ``bytes`` and ``sha256`` of the file."""

    name: str
    ran: str
    machine: str
    kernel: str
    allocator: str
    cpus: int
    rows: int
    lost: int
    started_utc: str
    bytes: int
    sha256: str
    licence: str

    def path(self, folder: Path = SAMPLES) -> Path:
        """Where the file is, if it is here."""
        return folder / f"{self.name}.parquet"

    def to_dict(self) -> dict[str, str | int]:
        """As plain JSON types."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def cards(folder: Path = SAMPLES) -> list[Card]:
    """All cards, in the set's order. TraceError if the list of them is missing or damaged."""
    path = folder / CARDS
    try:
        return [Card(**one) for one in json.loads(path.read_text())["recordings"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TraceError(f"{path}: no list of recordings ({error}); install again") from error


def differences(card: Card, folder: Path = SAMPLES) -> Iterator[str]:
    """What a file is that its card does not say. TraceError for a file that is no trace."""
    path = card.path(folder)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != card.sha256:
        yield f"{len(content):,} bytes of another SHA-256"
    with TraceReader(path) as reader:
        for name, found in facts(reader).items():
            if found != getattr(card, name):
                yield f"{name} {found!r}, not {getattr(card, name)!r}"


def facts(reader: TraceReader) -> dict[str, str | int | None]:
    """What of a card the recording itself tells."""
    about = reader.metadata
    return {
        "kernel": about.kernel.release,
        "allocator": about.pools[-1].allocator if about.pools else "unknown",
        "cpus": about.machine.cpus,
        "rows": reader.num_rows,
        "lost": about.lost_events(),
        "started_utc": about.started_utc,
        "bytes": reader.bytes,
    }
