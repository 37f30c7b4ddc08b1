# SPDX-License-Identifier: GPL-2.0-only
"""Fourth stage: what a replay measured, as plain data; :mod:`replay.report` presents it."""
