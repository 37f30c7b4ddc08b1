# SPDX-License-Identifier: GPL-2.0-only
"""Second stage: rows in the order in which the calls took effect."""
