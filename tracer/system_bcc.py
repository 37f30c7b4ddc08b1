# SPDX-License-Identifier: GPL-2.0-only
"""The distribution's bcc, also from inside a virtual environment.

bcc comes with the system (Debian: python3-bpfcc), never from PyPI, where the name belongs to
another project. Its folder is loaded by path, so that nothing else of dist-packages gets in.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from ztrace.tracer.errors import TracerError

PLACES = (
    "/usr/lib/python3/dist-packages/bcc",  # Debian, Ubuntu
    "/usr/lib/python3/site-packages/bcc",
    *(f"/usr/lib/python3.{minor}/site-packages/bcc" for minor in range(9, 20)),  # Fedora, Arch
)

INSTALL_HINT = "as root: apt install python3-bpfcc (Fedora: dnf install python3-bcc)"


def find_bcc() -> Path | None:
    """The folder of the system's bcc package, None if it is not installed."""
    return next((Path(place) for place in PLACES if (Path(place) / "table.py").exists()), None)


def load_bcc() -> Any:
    """Import the system's bcc. TracerError if it is missing or does not load."""
    if "bcc" in sys.modules and hasattr(sys.modules["bcc"], "BPF"):
        return sys.modules["bcc"]
    folder = find_bcc()
    if folder is None:
        raise TracerError(f"bcc is not installed; {INSTALL_HINT}")
    spec = importlib.util.spec_from_file_location(
        "bcc", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise TracerError(f"{folder}: not a Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules["bcc"]
        raise TracerError(f"{folder}: bcc does not load ({error}); {INSTALL_HINT}") from error
    return module
