# SPDX-License-Identifier: GPL-2.0-only
"""Results as text for a terminal: a module for each kind of result. No logic, no options."""
