# SPDX-License-Identifier: GPL-2.0-only
"""First stage: a trace's rows as arrays, checked, a piece at a time."""
