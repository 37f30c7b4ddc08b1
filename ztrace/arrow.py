# SPDX-License-Identifier: GPL-2.0-only
"""Spares the command line the import of pandas, which most commands have no use for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas:
    """Finds no pandas; everything else is left to the finders after it."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("not needed yet", name=fullname)
        return None


def load_arrow_without_pandas() -> None:
    """Import pyarrow and have it ask for pandas now, while there seems to be none.

    The first scalar or array that pyarrow makes imports pandas to see whether it was given
    something of pandas, which takes as long as all else that a small command does. Once it was
    not found that is not tried again, unless something is asked for that is pandas' (to_pandas):
    then it is imported after all.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        import pyarrow as pa

        pa.scalar(0)
    finally:
        sys.meta_path.remove(_NoPandas)
