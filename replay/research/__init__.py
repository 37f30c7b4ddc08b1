# SPDX-License-Identifier: GPL-2.0-only
"""Research on the posted ztree, apart from the tool: the race explorer, the claims of 2021, and
the proof that a block table is the best one."""
