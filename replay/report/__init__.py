# SPDX-License-Identifier: GPL-2.0-only
"""Reports: recordings -> one plain document (gather) -> html, text, markdown, json, csv."""
