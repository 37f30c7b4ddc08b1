# SPDX-License-Identifier: GPL-2.0-only
"""Proof that the model is the allocator that ran: an order that explains every recorded call."""

from replay.validate.stream import Order
from replay.validate.validator import validate
from replay.validate.verdict import Verdict

__all__ = ["Order", "Verdict", "validate"]
