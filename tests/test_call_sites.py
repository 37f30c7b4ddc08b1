# SPDX-License-Identifier: GPL-2.0-only
"""Calls within a kernel function, found in its code."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest

from ztrace.tracer.call_sites import CallSites
from ztrace.tracer.errors import TracerError

CALLER, NEXT, CALLEE, OTHER = 0xFFFFFFFFC0001000, 0xFFFFFFFFC0001040, 0xFFFFFFFF81234560, 0xFF00
SYMBOLS = f"""\
{CALLER:016x} t caller\t[module]
{NEXT:016x} t next\t[module]
{NEXT + 32:016x} t last\t[module]
{CALLEE:016x} T callee
{OTHER:016x} T other
"""


def call(at: int, target: int) -> bytes:
    """A call at an address, in code of x86-64."""
    return b"\xe8" + struct.pack("<i", (target - at - 5 + 2**31) % 2**32 - 2**31)


def kernel(folder: Path, code: bytes) -> CallSites:
    """Files like those of a kernel with ``code`` at CALLER, behind another piece of memory."""
    segments = [(0x1000, b"\xff" * 64), (CALLER - 16, b"\x90" * 16 + code.ljust(96, b"\x90"))]
    headers, data, at = b"", b"", 64 + 56 * len(segments)
    for address, piece in segments:
        headers += struct.pack("<IIQQQQQQ", 1, 7, at + len(data), address, 0, len(piece), 0, 0)
        data += piece
    start = struct.pack("<16s2H5I", b"\x7fELF", 4, 62, 1, 0, 0, 64, 0)
    start = start[:32] + struct.pack("<Q8x4xHHH", 64, 64, 56, len(segments))
    (folder / "kcore").write_bytes(start.ljust(64, b"\0") + headers + data)
    (folder / "kallsyms").write_text(SYMBOLS)
    return CallSites(folder / "kallsyms", folder / "kcore")


@pytest.fixture(autouse=True)
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_calls_are_found_where_they_are(tmp_path: Path) -> None:
    code = b"\x90" * 3 + call(CALLER + 3, CALLEE) + call(CALLER + 8, NEXT)
    code += call(CALLER + 13, CALLEE) + b"\x90" * (0x40 - 18) + call(NEXT, CALLEE)
    sites = kernel(tmp_path, code)
    assert sites.offsets("caller", "callee") == [3, 13]  # not that of the next function
    assert sites.offsets("next", "callee") == [0]


@pytest.mark.parametrize(
    ("caller", "callee"), [("caller", "other"), ("caller", "x"), ("x", "callee")]
)
def test_what_is_not_called_is_named(caller: str, callee: str, tmp_path: Path) -> None:
    sites = kernel(tmp_path, call(CALLER, CALLEE))
    with pytest.raises(TracerError, match=f"no call of {callee} in {caller} of this kernel"):
        sites.offsets(caller, callee)


def test_a_kernel_that_does_not_let_itself_be_read(tmp_path: Path) -> None:
    sites = kernel(tmp_path, b"")
    (tmp_path / "kcore").unlink()
    with pytest.raises(TracerError, match="kcore: cannot be read"):
        sites.offsets("caller", "callee")
    with pytest.raises(TracerError, match="kallsyms: cannot be read"):
        CallSites(tmp_path / "none" / "kallsyms")


def test_memory_that_is_in_no_segment(tmp_path: Path) -> None:
    sites = kernel(tmp_path, b"")
    (tmp_path / "kallsyms").write_text(SYMBOLS.replace("c0001", "c0002"))
    with pytest.raises(TracerError, match="has no memory at"):
        CallSites(tmp_path / "kallsyms", tmp_path / "kcore").offsets("caller", "callee")
    del sites


def test_other_machines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(TracerError, match="x86-64 only"):
        kernel(tmp_path, b"")
