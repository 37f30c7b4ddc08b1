# SPDX-License-Identifier: GPL-2.0-only
"""Commands on a trace load only what they use: a small trace is answered at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "traces" / "samples" / "zbud-6.1-small.parquet"
HEAVY = (
    *("pandas", "jinja2", "rich.progress", "pyarrow.csv", "pyarrow.compute"),
    *("zstandard", "distributed"),
)

LOADED = """
import sys
from ztrace.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    """Which of the heavy modules a command leaves loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [("info",), ("stat",), ("validate",), ("replay", "--backend", "zbud")]
)
def test_a_command_on_a_trace_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded_by(*arguments, str(SAMPLE)) == set()


@pytest.mark.parametrize(("name", "loaded"), [("record", False), ("stat", True)])
def test_a_recorder_has_no_arrow_in_memory(name: str, loaded: bool) -> None:
    code = (
        "import sys; from ztrace.cli import cli\n"
        f"cli.get_command(None, {name!r}); sys.exit('pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == loaded


def test_what_is_loaded_is_seen() -> None:
    """The check itself: an export writes CSV, which the others do not."""
    assert "pyarrow.csv" in loaded_by("export", str(SAMPLE))


def test_frames_still_come_when_asked_for(tmp_path: Path) -> None:
    """pyarrow was told that there is no pandas, and finds it when a frame is wanted."""
    code = (
        "from ztrace.arrow import load_arrow_without_pandas; load_arrow_without_pandas()\n"
        "import sys, pyarrow as pa\n"
        "table = pa.table({'a': pa.array([1, None], pa.uint64())})\n"
        "assert 'pandas' not in sys.modules\n"
        "frame = table.to_pandas()\n"
        "import pandas as pd\n"
        "assert isinstance(frame, pd.DataFrame)\n"
        "assert pa.array(pd.Series([1, 2])).to_pylist() == [1, 2]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
