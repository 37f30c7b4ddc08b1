# SPDX-License-Identifier: GPL-2.0-only
"""Third stage: rows drive a model, in Python or in the native core."""
