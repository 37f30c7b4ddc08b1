# SPDX-License-Identifier: GPL-2.0-only
"""The native core, which pyproject.toml cannot say: its sources are found, not listed.

A model in C lies in its allocator's folder (allocator/ztree/ztree.c), what all models share in
allocator/native/, and what plays and validates traces in replay/native/.
"""

from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-O3", "-fno-tree-slp-vectorize", "-fvisibility=hidden", "-Wall", "-Wextra"]
FOLDERS = ("allocator", "allocator/native", "replay/native")


def found(pattern: str) -> list[str]:
    """Files of the checkout, in an order that does not depend on the file system."""
    return sorted(map(str, Path().glob(pattern)))


setup(
    ext_modules=[
        # Loaded with ctypes, so it is no Python module; without a compiler it is not there.
        Extension(
            "ztrace.allocator.native._core",
            sources=[*found("allocator/*/*.c"), *found("replay/native/*.c")],
            depends=[*found("allocator/*/*.h"), *found("replay/native/*.h")],
            include_dirs=[*FOLDERS],
            extra_compile_args=FLAGS,
            optional=True,
        )
    ]
)
