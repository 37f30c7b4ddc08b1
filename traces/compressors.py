# SPDX-License-Identifier: GPL-2.0-only
"""Compressors as zswap uses them: one page at a time, no dictionary, the kernel's parameters.

The libraries' code is the one that the kernel took over at some time; sizes can differ by a few
bytes from those of a kernel whose copy is older.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable

import zstandard

from ztrace.traces.errors import TraceError

Compress = Callable[[bytes], int]
"""A page -> the bytes that it compresses to; may be more than a page."""

COMPRESSORS = ("lzo", "lz4", "lz4hc", "zstd", "deflate")
"""Names as in /sys/module/zswap/parameters/compressor. lzo-rle and 842 are the kernel's alone."""


def compressor(name: str) -> Compress:
    """The compressor of that name. TraceError for an unknown one, or if its library is missing."""
    makers: dict[str, Callable[[], Compress]] = {
        "lzo": _lzo,
        "lz4": _lz4,
        "lz4hc": lambda: _lz4(mode="high_compression", compression=9),
        "zstd": _zstd,
        "deflate": lambda: _deflate,
    }
    if name not in makers:
        raise TraceError(f"compressor {name}: not one of {', '.join(COMPRESSORS)}")
    return makers[name]()


def _deflate(page: bytes) -> int:
    # crypto/deflate.c: raw stream, window of 2 KiB, default level.
    squeeze = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -11, 8)
    return len(squeeze.compress(page)) + len(squeeze.flush())


def _zstd() -> Compress:
    # crypto/zstd.c: level 3, parameters of an unknown source size.
    parameters = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=1)
    squeeze = zstandard.ZstdCompressor(compression_params=parameters)
    return lambda page: len(squeeze.compress(page))


def _lz4(**options: object) -> Compress:
    try:
        from lz4.block import compress
    except ImportError as error:
        raise TraceError("compressor lz4: pip install lz4, into ztrace's environment") from error
    return lambda page: len(compress(page, store_size=False, **options))


def _lzo() -> Compress:
    # crypto/lzo.c: lzo1x_1_compress().
    try:
        library = ctypes.CDLL("liblzo2.so.2")
    except OSError as error:
        raise TraceError("compressor lzo: no liblzo2 (Debian: apt install liblzo2-2)") from error
    library.lzo1x_1_compress.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t),
        *(ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t), ctypes.c_void_p),
    ]
    work = ctypes.create_string_buffer(16384 * ctypes.sizeof(ctypes.c_void_p))  # LZO1X_1_MEM

    def compress(page: bytes) -> int:
        out = ctypes.create_string_buffer(len(page) + len(page) // 16 + 67)
        size = ctypes.c_size_t(len(out))
        if library.lzo1x_1_compress(page, len(page), out, ctypes.byref(size), work):
            raise TraceError("compressor lzo: liblzo2 failed")
        return size.value

    return compress
