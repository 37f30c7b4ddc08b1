# SPDX-License-Identifier: GPL-2.0-only
"""Where one function of the running kernel calls another, read from its code.

A probe can be put on such a call where the function that is called cannot be probed itself, as
all of the kernel's lib/ (it is built without what tracing needs).
"""

from __future__ import annotations

import platform
import re
import struct
from bisect import bisect_right
from pathlib import Path

from ztrace.tracer.errors import TracerError
from ztrace.tracer.symbols import KALLSYMS

KCORE = Path("/proc/kcore")

_CALL = 0xE8  # x86: a call to a place so many bytes, signed and of 32 bits, behind its own end
_CALL_BYTES = 5
_HEADER = struct.Struct("<32xQ14xHH")  # of ELF: where its program headers are, their size, how many
_SEGMENT = struct.Struct("<I4xQQ8xQ16x")  # type, place in the file, address, size there
_LOADED = 1


class CallSites:
    """``kallsyms`` and ``kcore``: the kernel's own files of these names, or others like them.

    TracerError for a machine other than x86, and where the kernel does not let itself be read.
    """

    def __init__(self, kallsyms: Path = KALLSYMS, kcore: Path = KCORE) -> None:
        if platform.machine() != "x86_64":
            raise TracerError("calls within functions are found in code of x86-64 only")
        self._kcore = kcore
        try:
            listed = re.findall(r"^([0-9a-f]+) \w (\S+)", kallsyms.read_text(), re.MULTILINE)
        except OSError as error:
            raise TracerError(f"{kallsyms}: cannot be read ({error.strerror})") from error
        self._addresses: dict[str, int] = {name: int(address, 16) for address, name in listed}
        self._sorted = sorted(set(self._addresses.values()))

    def offsets(self, caller: str, callee: str) -> list[int]:
        """How far behind the beginning of ``caller`` its calls of ``callee`` lie, in bytes.

        TracerError if there is none: the compiler made something else of it.
        """
        start, target = self._addresses.get(caller, 0), self._addresses.get(callee, 0)
        after = bisect_right(self._sorted, start)
        size = self._sorted[after] - start if after < len(self._sorted) else 0
        code = self._read(start, size) if start and target else b""
        found = [
            at
            for at in range(len(code) - _CALL_BYTES + 1)
            if code[at] == _CALL
            and start + at + _CALL_BYTES + struct.unpack_from("<i", code, at + 1)[0] == target
        ]
        if not found:
            raise TracerError(f"no call of {callee} in {caller} of this kernel")
        return found

    def _read(self, address: int, size: int) -> bytes:
        """Bytes of the kernel's memory; TracerError where it does not give them."""
        try:
            with self._kcore.open("rb") as file:
                place, each, count = _HEADER.unpack(file.read(_HEADER.size))
                file.seek(place)
                for header in struct.iter_unpack(f"{each}s", file.read(each * count)):
                    kind, offset, first, held = _SEGMENT.unpack(header[0][: _SEGMENT.size])
                    if kind == _LOADED and first <= address and address + size <= first + held:
                        file.seek(offset + address - first)
                        return file.read(size)
        except OSError as error:
            raise TracerError(f"{self._kcore}: cannot be read ({error.strerror})") from error
        raise TracerError(f"{self._kcore}: has no memory at {address:#x}")
