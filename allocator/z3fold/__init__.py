# SPDX-License-Identifier: GPL-2.0-only
"""All that is known of z3fold: its model in Python (model.py) and in C (z3fold.c)."""
