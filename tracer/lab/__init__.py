# SPDX-License-Identifier: GPL-2.0-only
"""A laboratory: boot a Debian kernel in QEMU, make it swap, bring the trace out."""
