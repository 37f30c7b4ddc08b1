# SPDX-License-Identifier: GPL-2.0-only
"""Rows of a sweep as they are finished, one JSON line each, so that nothing is done twice.

Whatever ends a sweep leaves whole lines, at most followed by a torn one, which is cut off when
the sweep goes on. A run counts as done only with the trace it was done with: the line holds
that file's fingerprint. Runs that failed are tried again.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import BinaryIO, Self

from ztrace.replay.errors import ReplayError
from ztrace.replay.sweep.plan import Run
from ztrace.replay.sweep.run import Row

_HEADER = b'{"ztrace_sweep": 1}\n'


class Journal:
    """The rows finished so far, in ``path``, which is made if it is not there.

    A context manager; ``rows`` are those that need not be done again. Raises ReplayError for a
    file that is no journal or is in use, OSError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[Run, str], Row] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.fdopen(os.open(self.path, flags, 0o600), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load(file)
        except BlockingIOError as error:
            file.close()
            raise ReplayError(f"{self.path}: another sweep is writing it") from error
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._file is not None
        self._file.close()

    def _load(self, file: BinaryIO) -> None:
        first = file.readline()
        if not first:
            file.write(_HEADER)
            file.flush()
            return
        if first != _HEADER:
            raise ReplayError(f"{self.path}: not the journal of a sweep; move it away")
        whole = file.tell()
        while (line := file.readline()).endswith(b"\n"):
            try:
                entry = json.loads(line)
                run, state, row = Run.from_dict(entry["run"]), str(entry["state"]), entry["row"]
                if row["error"] is None:
                    self.rows[run, state] = row
            except (ValueError, KeyError, TypeError):
                break
            whole = file.tell()
        file.seek(whole)
        file.truncate()

    def add(self, run: Run, state: str, row: Row) -> None:
        """Append a finished row; ``state``: the fingerprint of its trace."""
        assert self._file is not None
        entry = {"run": run.to_dict(), "state": state, "row": row}
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        if row["error"] is None:
            self.rows[run, state] = row

    def remove(self) -> None:
        """Delete the file: its rows are elsewhere now."""
        self.path.unlink(missing_ok=True)
