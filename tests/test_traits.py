# SPDX-License-Identifier: GPL-2.0-only
"""What is known of each allocator is found by its name; what a specification means for a trace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ztrace.allocator import BackendError, create, names
from ztrace.allocator.registry import OURS, recorded_traits, resolve, traits, with_pages
from ztrace.allocator.specification import Specification, family
from ztrace.allocator.traits import Compacts, Handle, Tells, release_number


@pytest.mark.parametrize("name", OURS)
def test_traits_and_model_agree(name: str) -> None:
    one = traits(name)
    assert one.name == name
    for variant in one.variants:
        pool = create(str(Specification(name, variant)))
        assert hasattr(pool, "place") or one.tells is Tells.NOTHING
        assert hasattr(pool, "compact") == (one.compacts is Compacts.POOL)
        assert hasattr(pool, "compact_page") == (one.compacts is Compacts.PAGES)
        assert variant in one.native
    assert one.items is not None and "page_bytes" in one.items


def test_looking_at_traits_imports_no_model() -> None:
    code = (
        "import sys; from ztrace.allocator.registry import our_traits, recorded_traits; "
        "our_traits(); recorded_traits('other'); "
        "print([name for name in sys.modules if name.endswith('.model')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_allocator_that_nobody_models_has_the_usual_traits() -> None:
    unknown = recorded_traits("nosuch")
    assert unknown.name == "nosuch"
    assert unknown.handle is Handle.ADDRESS and unknown.tells is Tells.NOTHING
    with pytest.raises(BackendError, match="no backend 'nosuch'"):
        traits("nosuch")


@pytest.mark.parametrize(
    ("release", "spec"),
    [
        ("6.1.0-56-amd64", "zsmalloc:6.1"),
        ("6.2.16", "zsmalloc:6.1"),
        ("6.3.0", "zsmalloc:6.12"),
        ("6.12.117+deb12-amd64", "zsmalloc:6.12"),
        ("6.14.1", "zsmalloc:6.12"),
        ("6.15.0", "zsmalloc:7.2"),
        ("7.2.13+deb14-amd64", "zsmalloc:7.2"),
        ("unknown", "zsmalloc:6.12"),
        ("", "zsmalloc:6.12"),
    ],
)
def test_a_bare_name_has_the_recorded_kernels_rules(release: str, spec: str) -> None:
    assert resolve("zsmalloc", release, 4096) == spec
    assert resolve("zsmalloc:chain_size=4", release, 0) == f"{spec},chain_size=4"
    assert resolve("zsmalloc:6.12", release, 4096) == "zsmalloc:6.12"  # what is said stands
    assert resolve("zbud", release, 4096) == "zbud"


def test_a_bare_name_has_the_recorded_pages() -> None:
    assert resolve("zsmalloc", "7.2", 16384) == "zsmalloc:7.2,page_bytes=16384"
    assert resolve("zbud", "6.1", 65536) == "zbud:page_bytes=65536"
    assert resolve("zbud:page_bytes=4096", "6.1", 65536) == "zbud:page_bytes=4096"
    assert resolve("zblock", "", 16384) == "zblock:2025,page_bytes=16384"
    assert resolve("zblock:2025", "", 65536) == "zblock:2025"  # has none; replay says so
    assert with_pages("zblock:2025", 65536) is None
    with pytest.raises(BackendError, match="nosuch"):
        resolve("nosuch", "6.1", 4096)


@pytest.mark.parametrize("spec", [*names(), "z3fold:cpus=2,work=deferred", "zblock:2022,table=x"])
def test_a_specification_is_put_together_as_it_was(spec: str) -> None:
    assert str(Specification.parse(spec)) == spec
    assert family(spec) == Specification.parse(spec).name


def test_releases_are_read() -> None:
    assert release_number("6.1.0-56-amd64") == (6, 1)
    assert release_number("6.12+") == (6, 12)
    assert release_number("unknown") is None
