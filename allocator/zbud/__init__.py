# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of zbud: its model in Python (model.py) and in C (zbud.c)."""
