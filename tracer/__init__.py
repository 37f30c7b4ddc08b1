# SPDX-License-Identifier: GPL-2.0-only
"""A running kernel becomes events: probes, ring, spool; the lab that boots kernels to record."""

from ztrace.tracer.errors import TracerError

__all__ = ["TracerError"]
