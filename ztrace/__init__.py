# SPDX-License-Identifier: GPL-2.0-only
"""Record what Linux's compressed swap asks of its allocator, replay it through exact models.

The command line is here; what it works with are the parts linked into this folder: tracer, traces,
allocator and replay.
"""

__version__ = "0.2.0"
