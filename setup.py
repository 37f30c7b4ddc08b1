# SPDX-License-Identifier: GPL-2.0-only
"""The native core and the archives, which pyproject.toml cannot say.

A model in C lies in its allocator's folder (allocator/ztree/ztree.c), what all models share in
allocator/native/, and what plays and validates traces in replay/native/: found, not listed. The
core is loaded with ctypes and is no Python module, so one wheel serves all versions of Python; how
old a C library it can live with is read from what was built. Both archives are the same bytes
each time they are made with one SOURCE_DATE_EPOCH.
"""

import gzip
import io
import os
import platform
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

FLAGS = ["-std=c11", "-O3", "-fno-tree-slp-vectorize", "-fvisibility=hidden", "-Wall", "-Wextra"]
LINK = ["-Wl,--strip-debug"] if platform.system() == "Linux" else []
FOLDERS = ("allocator", "allocator/native", "replay/native")
OLDEST_GLIBC = 17
"""Of 2.17: what pip takes for the oldest that a manylinux wheel may name."""
LEFT_OUT = ("build", "dist", "ztrace.egg-info")


def found(pattern: str) -> list[str]:
    """Files of the checkout, in an order that does not depend on the file system."""
    return sorted(map(str, Path().glob(pattern)))


def epoch() -> int:
    """The moment that archives say they were made."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


class BuildCore(build_ext):
    """Names the core for no version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


class Wheel(bdist_wheel):
    """One wheel for all versions of Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        tag: tuple[str, str, str] = super().get_tag()
        built = sorted(Path(self.bdist_dir).rglob("_core.so"))
        if not built:  # without a compiler: the models in Python, anywhere
            return "py3", "none", "any"
        needs = [int(one) for one in re.findall(rb"GLIBC_2\.(\d+)", built[0].read_bytes())]
        if not needs or not tag[2].startswith("linux_"):
            return "py3", "none", tag[2]
        arch = tag[2].removeprefix("linux_")
        return "py3", "none", f"manylinux_2_{max([OLDEST_GLIBC, *needs])}_{arch}"


class Source(sdist):
    """The whole checkout with its links, so that tests, benches and documents are there."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        base = Path(base_dir)
        base.mkdir(parents=True)
        for path in _checkout():
            target = base / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
        self.distribution.metadata.write_pkg_info(base_dir)

    def make_archive(self, base_name: str, format: str, root_dir=None, base_dir=None, **owner):
        path = Path(f"{base_name}.tar.gz")
        base = Path(base_dir)
        with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=epoch()) as packed:
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for one in sorted([base, *base.rglob("*")]):
                    archive.add(one, recursive=False, filter=_nobodys)
            packed.write(content.getvalue())
        return str(path)


def _checkout() -> list[Path]:
    """The files of the checkout, those of git where it is one; of an unpacked archive, all."""
    if Path(".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True)
        if listed.returncode == 0:
            names = listed.stdout.decode().split("\0")
            return [path for name in names if name and _there(path := Path(name))]
    return [
        path
        for path in sorted(Path().rglob("*"))
        if (path.is_file() or path.is_symlink())
        and path.parts[0] not in LEFT_OUT
        and not any(part == "__pycache__" or part.startswith(".venv") for part in path.parts)
        and path.suffix not in (".so", ".pyc")
        and path.name != "PKG-INFO"
    ]


def _there(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = epoch()
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


setup(
    cmdclass={"build_ext": BuildCore, "bdist_wheel": Wheel, "sdist": Source},
    ext_modules=[
        Extension(
            "ztrace.allocator.native._core",
            sources=[*found("allocator/*/*.c"), *found("replay/native/*.c")],
            depends=[*found("allocator/*/*.h"), *found("replay/native/*.h")],
            include_dirs=[*FOLDERS],
            extra_compile_args=FLAGS,
            extra_link_args=LINK,
            optional=True,
        )
    ],
)
