# SPDX-License-Identifier: GPL-2.0-only
"""Real allocators driven with a trace's calls: what to play, and what their answers mean.

Playing itself is not done here but in a kernel (``ztrace.tracer.program``); what goes there and
comes back are arrays.
"""
