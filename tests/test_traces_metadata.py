# SPDX-License-Identifier: GPL-2.0-only
"""The JSON document in the footer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ztrace.traces import Counters, Kernel, Machine, Metadata, PoolInfo, Probe, TraceError

FULL = Metadata(
    tool="ztrace 0.1.0",
    kernel=Kernel("6.1.0-56-amd64", "#1 SMP", "ab" * 32),
    machine=Machine("Model", 2, 2 << 30, 4096, "x86_64"),
    pools=[PoolInfo("zbud", "lzo", True, True, 16), PoolInfo("zsmalloc", "zstd")],
    parameters={"enabled": "Y"},
    probes={"malloc": Probe("fentry", "zpool_malloc")},
    probe_cost_ns={"malloc": 81.5},
    filters={"cgroup": "/test"},
    sampling={"counters_ns": 100_000_000},
    command=["stress", "--vm", "1"],
    started_utc="2025-01-02T03:04:05Z",
    duration_ns=12_000_000_000,
    lost={"ring full": {"0": 3, "1": 4}, "depth": {"1": 5}},
    counters=Counters({"stored_pages": 1}, {"stored_pages": 24}),
    order="found",
    notes=["a note"],
)


def test_full_document_survives() -> None:
    assert Metadata.from_json(FULL.to_json()) == FULL


def test_keys_of_the_document() -> None:
    document = json.loads(FULL.to_json())
    assert document["schema"] == 1
    assert document["pools"][0] == {
        "allocator": "zbud",
        "compressor": "lzo",
        "created_in_recording": True,
        "empty_at_start": True,
        "header_bytes": 16,
    }
    assert document["probes"] == {"malloc": {"kind": "fentry", "symbol": "zpool_malloc"}}
    assert document["lost"]["ring full"] == {"0": 3, "1": 4}
    assert document["counters"] == {
        "start": {"stored_pages": 1},
        "end": {"stored_pages": 24},
        "check": [],
    }
    assert "extra" not in FULL.to_json()


def test_helpers() -> None:
    assert FULL.lost_total() == 12
    assert Metadata().lost_total() == 0
    assert not FULL.starts_empty()
    assert not Metadata().starts_empty(), "no pool is known"
    assert Metadata(pools=[PoolInfo(empty_at_start=True)] * 2).starts_empty()


def test_empty_document_takes_defaults() -> None:
    metadata = Metadata.from_json("{}")
    assert metadata == Metadata(tool="unknown", clock="unknown")
    assert metadata.kernel.release == "unknown" and metadata.kernel.config_sha256 is None


def test_unknown_keys_survive_at_every_level() -> None:
    document = json.loads(FULL.to_json())
    document["weather"] = {"rain": [1, None]}
    document["kernel"]["taint"] = 1
    document["pools"][1]["zone"] = "x"
    document["probes"]["malloc"]["offset"] = 4
    document["machine"]["numa"] = 2
    document["counters"]["middle"] = {}
    again = json.loads(Metadata.from_json(json.dumps(document)).to_json())
    assert again == document


def test_newer_version_is_refused_by_name() -> None:
    with pytest.raises(TraceError) as caught:
        Metadata.from_json('{"schema": 2, "tool": [], "pools": 5}', "t.parquet")
    assert str(caught.value) == (
        "t.parquet: trace of schema version 2, this ztrace reads up to 1; use a newer ztrace"
    )


WRONG: list[tuple[str, Any]] = [
    ("schema", "1"),
    ("schema", True),
    ("schema", -1),
    ("tool", 1),
    ("kernel", []),
    ("kernel", {"release": None}),
    ("kernel", {"config_sha256": 5}),
    ("machine", {"cpus": 2.5}),
    ("machine", {"cpus": True}),
    ("machine", {"memory_bytes": -1}),
    ("pools", {}),
    ("pools", [1]),
    ("pools", [{"empty_at_start": 1}]),
    ("parameters", {"a": 1}),
    ("probes", {"malloc": "kprobe"}),
    ("probe_cost_ns", {"malloc": "8"}),
    ("probe_cost_ns", 5),
    ("filters", []),
    ("sampling", {"a": None}),
    ("command", "ls"),
    ("command", [1]),
    ("duration_ns", 2**70),
    ("lost", {"ring": 5}),
    ("lost", {"ring": {"0": -5}}),
    ("counters", {"start": {"a": "b"}}),
    ("order", "random"),
    ("order", []),
    ("notes", [None]),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=str)
def test_wrong_types_are_trace_errors(key: str, value: Any) -> None:
    with pytest.raises(TraceError, match=rf"^w: metadata {key}"):
        Metadata.from_json(json.dumps({key: value}), "w")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nul",
        b"\xff\xfe{",
        '{"duration_ns": NaN}',
        '{"duration_ns": Infinity}',
        '{"duration_ns": 1e999}',
        '{"probe_cost_ns": {"a": 1e999}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        "[]",
        "null",
        '"x"',
    ],
    ids=lambda text: repr(text[:20]),
)
def test_no_document_at_all(text: str | bytes) -> None:
    with pytest.raises(TraceError, match="metadata"):
        Metadata.from_json(text)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(), PLAIN, max_size=3)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FULL.to_dict())), JSON))
def test_any_json_parses_or_is_refused(document: dict[str, Any]) -> None:
    try:
        metadata = Metadata.from_json(json.dumps(document))
    except TraceError:
        return
    assert Metadata.from_json(metadata.to_json()) == metadata


@settings(deadline=None)
@given(
    st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers(0, 2**64 - 1))),
    st.lists(st.text()),
)
def test_losses_and_notes_survive(lost: dict[str, dict[str, int]], notes: list[str]) -> None:
    metadata = Metadata(lost=lost, notes=notes)
    assert Metadata.from_json(metadata.to_json()) == metadata


@pytest.mark.parametrize(
    ("document", "lost"),
    [
        ({"notes": ["imported from CSV"], "clock": "unknown"}, None),
        ({"clock": "relative to the first call"}, None),  # the same, anonymised
        ({"clock": "relative to the first call", "probes": {"malloc": {}}}, 0),
        ({"clock": "calls"}, 0),  # synthetic
        ({"clock": "CLOCK_MONOTONIC", "probes": {"malloc": {}}}, 0),
        ({"notes": ["imported from CSV"], "lost": {"ring": {"0": 3}}}, 3),
        ({"notes": ["imported from CSV"], "losses_counted": True}, 0),
    ],
)
def test_nobody_counted_what_an_import_of_0_1_lost(
    document: dict[str, Any], lost: int | None
) -> None:
    """Version 0.1 did not write whether anybody had."""
    assert Metadata.from_json(json.dumps({"schema": 1, **document})).lost_events() == lost
