# SPDX-License-Identifier: GPL-2.0-only
"""A tiny initramfs (busybox, an init script, a few modules) and the kernel image unpacked.

Under software emulation a kernel that need not decompress itself, and that loads ten modules
instead of a distribution's initrd, is up in three seconds instead of twenty.
"""

from __future__ import annotations

import lzma
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

import zstandard

from ztrace.tracer.errors import TracerError

# Where a bzImage says its payload is (Documentation/x86/boot.rst: setup_sects, payload_offset
# and payload_length).
SETUP_SECTS = 0x1F1
PAYLOAD = 0x248

DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def unpack_kernel(image: Path) -> bytes:
    """The ELF vmlinux inside a bzImage. TracerError for a payload of unknown compression."""
    data = image.read_bytes()
    offset, length = struct.unpack_from("<II", data, PAYLOAD)
    start = (data[SETUP_SECTS] + 1) * 512 + offset
    payload = data[start : start + length]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    raise TracerError(f"{image}: compressed by an unknown method")


class Modules:
    """A kernel's loadable modules and what each needs."""

    def __init__(self, folder: Path) -> None:
        self._paths = {_module_name(path): path for path in (folder / "kernel").rglob("*.ko*")}

    def load_order(self, wanted: Iterable[str]) -> list[str]:
        """Names in insmod order: each wanted module that exists, after what it depends on.

        A name that is no module of this kernel is left out: it is built in.
        """
        order: list[str] = []
        for name in wanted:
            self._visit(name, order)
        return order

    def _visit(self, name: str, order: list[str]) -> None:
        if name in order or name not in self._paths:
            return
        found = DEPENDS.search(self.read(name))
        for needed in found[1].decode().split(",") if found and found[1] else ():
            self._visit(needed.replace("-", "_"), order)
        order.append(name)

    def read(self, name: str) -> bytes:
        """The module's ELF file."""
        path = self._paths[name]
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


class Cpio:
    """A cpio archive in the kernel's "newc" format (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def folder(self, name: str) -> None:
        """Add a folder."""
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file."""
        self._entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device node."""
        self._entry(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def _entry(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (
            *(self._inode, mode, 0, 0, 1, 0, len(data)),
            *(0, 0, major, minor, len(encoded), 0),
        )
        head = b"070701" + b"".join(b"%08X" % number for number in fields) + encoded
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def finish(self) -> bytes:
        """The archive's bytes."""
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self._parts)


def build_initramfs(busybox: Path, init: str, modules: Modules, wanted: Iterable[str]) -> bytes:
    """An archive whose /init is ``init``; /modules/order lists the files to insmod, in order."""
    archive = Cpio()
    for folder in ("bin", "dev", "proc", "sys", "modules", "host", "kernel", "rw", "root"):
        archive.folder(folder)
    archive.device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox.read_bytes(), executable=True)
    order = modules.load_order(wanted)
    for name in order:
        archive.file(f"modules/{name}.ko", modules.read(name))
    archive.file("modules/order", "".join(f"{name}.ko\n" for name in order).encode())
    archive.file("init", init.encode(), executable=True)
    return archive.finish()
