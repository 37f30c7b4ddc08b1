# SPDX-License-Identifier: GPL-2.0-only
"""Research on the posted ztree, apart from the tool: the race explorer."""
