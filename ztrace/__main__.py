# SPDX-License-Identifier: GPL-2.0-only
"""``python -m ztrace``."""

from ztrace.cli import main

main()
