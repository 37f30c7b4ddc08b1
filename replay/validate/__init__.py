# SPDX-License-Identifier: GPL-2.0-only
"""Proof that the model is the allocator that ran: it explains every recorded call."""

from ztrace.replay.validate.door import validate_trace
from ztrace.replay.validate.found_order import FoundOrder
from ztrace.replay.validate.verdict import Verdict

__all__ = ["FoundOrder", "Verdict", "validate_trace"]
