# SPDX-License-Identifier: GPL-2.0-only
"""Measurements; nothing here is a test, and no test asserts a time."""
