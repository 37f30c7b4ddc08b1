# SPDX-License-Identifier: GPL-2.0-only
"""Files made as root belong to the user who called sudo."""

from __future__ import annotations

import os
from pathlib import Path


def hand_over(path: Path) -> None:
    """Give ``path`` to the user behind sudo; does nothing when nobody is."""
    try:
        user, group = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return
    if os.geteuid() == 0:
        os.chown(path, user, group, follow_symlinks=False)
