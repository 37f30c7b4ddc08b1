# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of zblock: its model in Python (model.py) and in C (zblock.c)."""
