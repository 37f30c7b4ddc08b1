# SPDX-License-Identifier: GPL-2.0-only
"""Debian kernels and tools, fetched by apt into the cache and unpacked there, never installed.

apt runs with sources, lists and state of its own, so that the machine's are neither needed nor
touched; signatures are checked against Debian's archive keyring.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ztrace.tracer.children import run
from ztrace.tracer.errors import TracerError
from ztrace.tracer.lab.cache import build_once, cache_dir

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org"


@dataclass(frozen=True)
class Release:
    """Where a kernel is: the suites to read and the pattern of its image package's name."""

    sources: tuple[str, ...]
    image: str


_BOOKWORM = (
    "{mirror}/debian bookworm main",
    "{mirror}/debian bookworm-updates main",
    "{mirror}/debian-security bookworm-security main",
)

_SID = ("{mirror}/debian sid main",)

KERNELS = {
    "6.1": Release(_BOOKWORM, r"linux-image-6\.1\.0-\d+-amd64"),
    "6.12": Release(_BOOKWORM, r"linux-image-6\.12\.\d+\+deb12-amd64"),
    "7.2": Release(_SID, r"linux-image-7\.2\.\d+\+deb14-amd64"),
}


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: ``root`` holds boot/, usr/lib/modules/ and usr/src/ of its packages."""

    release: str
    root: Path

    @property
    def image(self) -> Path:
        """The compressed boot image; Debian moved it beside the modules in 2026."""
        old = self.root / "boot" / f"vmlinuz-{self.release}"
        return old if old.exists() else self.modules / "vmlinuz"

    @property
    def modules(self) -> Path:
        """The folder of modules."""
        return self.root / "usr" / "lib" / "modules" / self.release

    @property
    def headers(self) -> Path:
        """The folder that out-of-tree modules are built against."""
        return self.root / "usr" / "src" / f"linux-headers-{self.release}"


class Apt:
    """apt with its own configuration below ``state``."""

    def __init__(self, state: Path, sources: Sequence[str]) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise TracerError(f"{tool} not found: the lab needs a Debian-like machine")
        if not KEYRING.exists():
            raise TracerError(f"{KEYRING} not found; as root: apt install debian-archive-keyring")
        lists = state / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        mirror = os.environ.get("ZTRACE_DEBIAN_MIRROR", MIRROR)
        lines = [f"deb [signed-by={KEYRING}] {s.format(mirror=mirror)}\n" for s in sources]
        (state / "sources.list").write_text("".join(lines))
        self._options = [
            f"-oDir::Etc::sourcelist={state / 'sources.list'}",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::Lists={lists}",
            "-oDir::Cache::pkgcache=",
            "-oDir::Cache::srcpkgcache=",
            "-oAPT::Sandbox::User=",
            "-oAPT::Architecture=amd64",
            "-oDebug::NoLocking=1",
        ]
        self._run("apt-get", "-q", "update")

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        # Interrupted, what it calls to check signatures would leave its files.
        with tempfile.TemporaryDirectory(prefix="ztrace-apt-") as scratch:
            environment = {**os.environ, "TMPDIR": scratch}
            done = run([tool, *self._options, *arguments], cwd=cwd, env=environment)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise TracerError(f"{tool} {' '.join(arguments)}: {said[-1] if said else 'failed'}")
        return done.stdout

    def newest(self, pattern: str) -> str:
        """The package whose name matches ``pattern`` whole and whose version is the newest."""
        names = self._run("apt-cache", "pkgnames", "linux-image").split()
        found = [name for name in names if re.fullmatch(pattern, name)]
        if not found:
            raise TracerError(f"no Debian package is named like {pattern}")
        return max(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])

    def depends(self, package: str, pattern: str) -> list[str]:
        """Direct dependencies of ``package`` whose names match ``pattern`` whole."""
        text = self._run("apt-cache", "depends", package)
        names = re.findall(r"Depends: (\S+)", text)
        return [name for name in names if re.fullmatch(pattern, name)]

    def unpack(self, packages: Sequence[str], target: Path) -> None:
        """Fetch packages and unpack them into ``target``, running none of their scripts."""
        debs = target / ".debs"
        debs.mkdir()
        self._run("apt-get", "-q", "download", *packages, cwd=debs)
        self._unpack(debs, target)

    def unpack_with_needed(self, packages: Sequence[str], target: Path) -> None:
        """The same with all that they depend on, as if nothing were installed yet."""
        debs = target / ".debs"
        (debs / "partial").mkdir(parents=True)
        (installed := debs / "status").touch()
        self._run(
            *("apt-get", "-q", "-y", "--download-only", "--no-install-recommends"),
            *(f"-oDir::State::status={installed}", f"-oDir::Cache::archives={debs}"),
            *("install", *packages),
        )
        self._unpack(debs, target)

    def _unpack(self, debs: Path, target: Path) -> None:
        for deb in sorted(debs.glob("*.deb")):
            done = run(["dpkg-deb", "-x", deb, target])
            if done.returncode:
                said = done.stderr.strip() or "dpkg-deb failed"
                raise TracerError(f"{deb.name}: cannot unpack: {said.splitlines()[-1]}")
        shutil.rmtree(debs)


def fetch_kernel(version: str, stage: Callable[[str], None] = lambda line: None) -> Kernel:
    """Kernel ``version`` (a key of KERNELS) with modules and headers, from the cache if there.

    ``stage`` is called with what is done where it is not.
    """
    if version not in KERNELS:
        raise TracerError(f"no kernel {version!r} in the lab; there are: {', '.join(KERNELS)}")

    def build(folder: Path) -> None:
        release = KERNELS[version]
        stage(f"looking for the newest kernel {version} of Debian")
        apt = Apt(cache_dir() / "apt" / version, release.sources)
        image = apt.newest(release.image)
        headers = image.replace("linux-image-", "linux-headers-")
        parts = [
            *apt.depends(image, r"linux-(binary|modules|base)-\d.*"),
            *apt.depends(headers, r"linux-(headers|kbuild|compiler)-.*"),
        ]
        stage(f"fetching {image} and its headers, once")
        apt.unpack([image, headers, *parts], folder)
        _merge_usr(folder)
        _relocate_headers(folder / "usr" / "src")

    root = build_once(cache_dir() / "kernels" / version, build)
    releases = [path.name for path in (root / "usr" / "lib" / "modules").iterdir()]
    return Kernel(releases[0], root)


def _merge_usr(folder: Path) -> None:
    """Move lib/ into usr/lib/, where it is on every machine that will be laid under it."""
    if (folder / "lib").is_dir():
        shutil.copytree(folder / "lib", folder / "usr" / "lib", symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(folder / "lib")


def _relocate_headers(sources: Path) -> None:
    """Make the headers' Makefile, which names /usr/src/…, work wherever it lies."""
    here = "$(dir $(realpath $(lastword $(MAKEFILE_LIST))))"
    for makefile in sources.glob("linux-headers-*/Makefile"):
        text = makefile.read_text()
        text = re.sub(r"^include /usr/src/", "include ../", text, flags=re.MULTILINE)
        # In newer packages it names its own folder, too.
        own = rf"^KBUILD_OUTPUT=/usr/src/{re.escape(makefile.parent.name)}$"
        makefile.write_text(re.sub(own, f"KBUILD_OUTPUT := {here}", text, flags=re.MULTILINE))


def fetch_compiler(version: str, stage: Callable[[str], None] = lambda line: None) -> list[str]:
    """Words before a command that builds modules for kernel ``version``, a key of KERNELS: none
    if this machine has the compiler that its headers name.

    Else that compiler, from the same Debian, lies over this machine's files while the command runs,
    which takes root. The libraries that it needs lie there, too, as this machine's programs can do
    with newer ones.
    """
    kernel = fetch_kernel(version, stage)
    named = re.search(
        r"^CC\s*[:?]?=.*\b(gcc-\d+)\s*$", (kernel.headers / ".kernelvariables").read_text(), re.M
    )
    if named is None or shutil.which(f"x86_64-linux-gnu-{named[1]}") is not None:
        return []

    def build(folder: Path) -> None:
        stage(f"fetching {named[1]} from Debian, once")
        apt = Apt(cache_dir() / "apt" / version, KERNELS[version].sources)
        apt.unpack_with_needed([named[1], "make"], folder)
        _merge_usr(folder)

    layer = build_once(cache_dir() / "compilers" / named[1], build) / "usr"
    lay = 'mount -t overlay -o "lowerdir=$0:/usr" usr /usr && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", lay, str(layer)]


def fetch_busybox(stage: Callable[[str], None] = lambda line: None) -> Path:
    """A static busybox, which is all the userland an initramfs needs.

    ``stage`` is called with what is done where it is not in the cache.
    """

    def build(folder: Path) -> None:
        stage("fetching busybox from Debian, once")
        Apt(cache_dir() / "apt" / "busybox", _BOOKWORM).unpack(["busybox-static"], folder)

    return build_once(cache_dir() / "busybox", build) / "bin" / "busybox"
