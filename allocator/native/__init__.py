# SPDX-License-Identifier: GPL-2.0-only
"""The models in C: the same answers, about a hundred times as fast. See docs/native.md.

The core is a shared object that the package's build leaves beside this file. Where it could not
be built, :func:`library` raises :class:`NativeMissing` and everything works without it.
"""

from ztrace.allocator.native.library import NativeMissing, library, reason_missing
from ztrace.allocator.native.pool import NativePool, create, make

__all__ = ["NativeMissing", "NativePool", "create", "library", "make", "reason_missing"]
