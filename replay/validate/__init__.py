# SPDX-License-Identifier: GPL-2.0-only
"""Proof that the model is the allocator that ran: an order that explains every recorded call."""

from ztrace.replay.validate.stream import FoundOrder
from ztrace.replay.validate.verdict import Verdict
from ztrace.replay.validate.ztree_run import validate

__all__ = ["FoundOrder", "Verdict", "validate"]
