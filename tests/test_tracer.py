# SPDX-License-Identifier: GPL-2.0-only
"""The recorder's parts that need no kernel: ring decoding, spool, joining of pool sizes."""

from __future__ import annotations

import mmap
import os
import re
import resource
import struct
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrace.tracer import TracerError, btf, machine, probing
from ztrace.tracer.abi import (
    FRONTSWAP,
    INNER,
    LIST_CALLS,
    LISTS,
    ZPOOL,
    ZRAM,
    ZSMALLOC,
    ZSWAP,
    Probe,
    choose_probes,
    wanted_probes,
)
from ztrace.tracer.bpf_stats import ProgramRuns, mean_cost_ns
from ztrace.tracer.convert import NO_TOTAL, convert, with_totals
from ztrace.tracer.kmod import read_source, with_table
from ztrace.tracer.lab.initramfs import Cpio
from ztrace.tracer.ring import OP_TOTAL, RECORD, SLOT, Records, Ring
from ztrace.tracer.spool import CAUSES, SpoolReader, SpoolWriter
from ztrace.tracer.symbols import Symbols
from ztrace.traces import OP_CODE, OPS, TraceReader

PROBES = files("ztrace.tracer").joinpath("probes/zswap.c").read_text()

MALLOC, FREE, STORE = OP_CODE["malloc"], OP_CODE["free"], OP_CODE["store"]
INVALIDATE = OP_CODE["invalidate"]


def records(*rows: dict[str, Any]) -> Records:
    made = np.zeros(len(rows), RECORD)
    for i, row in enumerate(rows):
        for name, value in row.items():
            made[i][name] = value
    return made


# -- the C side and the Python side say the same ---------------------------------------------


def test_ops_have_the_numbers_that_the_probes_use() -> None:
    listed = re.search(r"enum op \{(.*?)\};", PROBES, re.S)
    assert listed
    names = re.findall(r"[A-Z]+\b(?=,| =)", listed[1])
    assert tuple(name.lower() for name in names[: len(OPS)]) == OPS
    assert f"TOTAL = {OP_TOTAL}" in listed[1]


def test_causes_of_loss_have_the_numbers_that_the_probes_use() -> None:
    listed = re.search(r"enum cause \{(.*?),\s+CAUSES\s*\};", PROBES, re.S)
    assert listed
    assert tuple(name.strip().lower() for name in listed[1].split(",")) == CAUSES


def test_every_probe_is_in_the_c_file() -> None:
    for probe in (*FRONTSWAP, *ZSWAP, *ZPOOL, *ZSMALLOC, *ZRAM, *INNER, *LISTS):
        for function in (probe.enter, probe.exit):
            assert function is None or f"int {function}(struct call call)" in PROBES
    for _, _, handler in LIST_CALLS:
        assert f"int {handler}(struct call call)" in PROBES


@pytest.mark.parametrize(
    ("functions", "groups"),
    [
        ({"zswap_frontswap_store", "zpool_malloc"}, (FRONTSWAP, ZPOOL)),  # as 6.1
        ({"zswap_store", "zpool_malloc"}, (ZSWAP, ZPOOL)),  # as 6.12
        ({"zswap_store", "zs_malloc"}, (ZSWAP, ZSMALLOC)),  # as 7.2
    ],
)
def test_probes_are_chosen_by_what_the_kernel_has(
    functions: set[str], groups: tuple[tuple[Probe, ...], ...]
) -> None:
    zswap, allocator = groups
    assert wanted_probes(frozenset(functions)) == (*zswap, *allocator, *INNER, *LISTS)
    present, missing = choose_probes(Symbols(functions))
    assert {probe.symbol for probe in present} == functions
    assert len(present) + len(missing) == len(zswap) + len(allocator) + len(INNER) + len(LISTS)


def test_zram_needs_no_zswap() -> None:
    present, _ = choose_probes(Symbols({"zswap_store", "zs_malloc", "slot_free"}), "zram")
    assert [probe.symbol for probe in present] == ["zs_malloc", "slot_free"]


def test_each_probe_is_of_the_best_kind_that_its_function_allows() -> None:
    probes = (ZSMALLOC[0], INNER[0])
    typed = frozenset({"zs_malloc"})
    made = list(probing.with_kinds(probes, typed, ("fentry", "kprobe")))
    assert [one.kind for one in made] == ["fentry", "kprobe"]
    assert list(probing.program_lines(made)) == [
        "FEXIT(zs_malloc, exit_malloc_direct)",
        "FENTRY(zs_malloc, enter_malloc_direct)",
        "KPROBE(enter_obj_malloc)",
    ]
    assert {one.kind for one in probing.with_kinds(probes, typed, ("kprobe",))} == {"kprobe"}
    with pytest.raises(TracerError, match="obj_malloc"):
        list(probing.with_kinds(probes, typed, ("fentry",)))


def test_a_handler_for_several_functions_is_compiled_once() -> None:
    made = list(probing.with_kinds(FRONTSWAP, frozenset(), ("kprobe",)))
    lines = list(probing.program_lines(made))
    assert lines.count("KPROBE(exit_invalidate)") == 1


@pytest.mark.parametrize(
    ("modes", "preempts"),
    [("none (voluntary) full ", False), ("full (lazy) ", True), ("none voluntary (full)", True)],
)
def test_preemption_is_read(
    modes: str, preempts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preempt").write_text(modes)
    monkeypatch.setattr(machine, "PREEMPTION", tmp_path / "preempt")
    assert machine.kernel_preempts() == preempts


def test_zram_mallocs_get_the_slot_that_is_freed_next_in_their_task(tmp_path: Path) -> None:
    rows = records(
        {"op": MALLOC, "has": 2 | 4, "tid": 1, "handle": 5, "ts": 1},
        {"op": MALLOC, "has": 2 | 4, "tid": 2, "handle": 6, "ts": 2},
        {"op": FREE, "has": 1 | 4, "tid": 1, "handle": 4, "key": 70, "ts": 3},
        {"op": INVALIDATE, "has": 1, "tid": 1, "key": 70, "ts": 3},
        {"op": INVALIDATE, "has": 1, "tid": 1, "key": 71, "ts": 4},
        {"op": INVALIDATE, "has": 1, "tid": 2, "key": 0, "ts": 5},
        {"op": MALLOC, "has": 2 | 4, "tid": 2, "handle": 7, "ts": 6},
    )
    for cut in range(len(rows) + 1):
        batches = [part.copy() for part in (rows[:cut], rows[cut:]) if len(part)]
        path = tmp_path / f"s{cut}"
        convert(spool_of(path, *batches, source="zram"), tmp_path / f"o{cut}")
        made = pq.read_table(tmp_path / f"o{cut}").to_pylist()
        keys = [row["key"] for row in made if row["op"] == "malloc"]
        assert keys == [70, 0, None]


def test_offsets_come_out_of_type_information(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hand-made BTF: struct outer { int a; union { struct inner { long b; }; }; } and int f()."""
    strings = b"\0int\0outer\0a\0b\0f\0"
    at = {
        name: strings.index(b"\0" + name.encode() + b"\0") + 1
        for name in ("int", "outer", "a", "b", "f")
    }

    def kind(number: int, entries: int = 0) -> int:
        return number << 24 | entries

    words = [
        *(at["int"], kind(1), 4, 32),  # 1: int
        *(0, kind(4, 1), 8, at["b"], 1, 0),  # 2: struct { int b; }
        *(0, kind(5, 1), 8, 0, 2, 0),  # 3: union { 2; }
        *(at["outer"], kind(4, 2), 16, at["a"], 1, 0, 0, 3, 64),  # 4: struct outer
        *(0, kind(13), 1),  # 5: int (void)
        *(at["f"], kind(12), 5),  # 6: f
    ]
    types = struct.pack(f"<{len(words)}I", *words)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    (tmp_path / "vmlinux").write_bytes(header + types + strings)
    monkeypatch.setattr(btf, "FOLDER", tmp_path)
    kernel = btf.Btf(["absent"])
    found = kernel.members({"outer": ["a", "b", "c"], "missing": ["a"]})
    assert found == {("outer", "a"): 0, ("outer", "b"): 8}
    assert kernel.returns("f") == "int"
    assert kernel.returns("g") is None
    assert kernel.functions(["f", "g", "outer"]) == {"f"}
    (tmp_path / "vmlinux").write_bytes(b"no type information" * 10)
    assert btf.Btf().members({"outer": ["a"]}) == {}
    assert btf.Btf().functions(["f"]) == frozenset()


def test_cost_of_an_op_is_the_mean_of_its_entries_plus_that_of_its_returns() -> None:
    def runs(count: int, time_ns: int) -> ProgramRuns:
        return ProgramRuns(count + 5, time_ns + 1000, 3).since(ProgramRuns(5, 1000, 1))

    assert runs(4, 7) == ProgramRuns(4, 7, 2)
    cost = mean_cost_ns(
        [
            ("malloc", "entry", runs(10, 1000)),
            ("malloc", "return", runs(5, 250)),
            ("compact", "entry", runs(1, 100)),  # two functions of one op
            ("compact", "entry", runs(3, 500)),
            ("shrink", "entry", runs(0, 0)),
        ]
    )
    assert cost == {"malloc": 150.0, "compact": 150.0}


# -- ring ------------------------------------------------------------------------------------


class FakeRing:
    """A file laid out as the kernel maps a ring buffer, written to as the kernel would."""

    def __init__(self, path: Path, ring_bytes: int) -> None:
        self.bytes = ring_bytes
        page = mmap.PAGESIZE
        with path.open("wb") as file:
            file.truncate(2 * page + 2 * ring_bytes)
        self.fd = os.open(path, os.O_RDWR)
        self.memory = mmap.mmap(self.fd, 0)

    def position(self, page: int) -> int:
        return int(struct.unpack_from("<Q", self.memory, page * mmap.PAGESIZE)[0])

    def put(self, record: Records, *, busy: bool = False, length: int = RECORD.itemsize) -> None:
        at = self.position(1)
        head = struct.pack("<II", length | (1 << 31 if busy else 0), 0)
        data = head + record.tobytes()
        for i, byte in enumerate(data):
            where = (at + i) % self.bytes
            for copy in (0, self.bytes):
                self.memory[2 * mmap.PAGESIZE + copy + where] = byte
        struct.pack_into("<Q", self.memory, mmap.PAGESIZE, at + SLOT.itemsize)


@pytest.fixture
def ring(tmp_path: Path) -> FakeRing:
    return FakeRing(tmp_path / "ring", mmap.PAGESIZE)


def test_ring_gives_records_once_and_in_order_across_the_wrap(ring: FakeRing) -> None:
    consumer = Ring(ring.fd, ring.bytes)
    expected = 0
    for _ in range(10):  # 10 times 23 records of 80 bytes pass the 4096 bytes several times
        for i in range(23):
            ring.put(records({"ts": expected + i}))
        taken = consumer.take()
        assert taken["ts"].tolist() == list(range(expected, expected + 23))
        expected += 23
        assert ring.position(0) == ring.position(1)
    assert not len(consumer.take())


def test_ring_stops_before_a_record_that_is_not_finished(ring: FakeRing) -> None:
    consumer = Ring(ring.fd, ring.bytes)
    ring.put(records({"ts": 1}))
    ring.put(records({"ts": 2}), busy=True)
    ring.put(records({"ts": 3}))
    assert consumer.take()["ts"].tolist() == [1]
    assert not len(consumer.take())


def test_ring_refuses_a_record_of_another_length(ring: FakeRing) -> None:
    consumer = Ring(ring.fd, ring.bytes)
    ring.put(records({"ts": 1}), length=40)
    with pytest.raises(TracerError, match="unexpected length"):
        consumer.take()


# -- spool -----------------------------------------------------------------------------------


def spool_of(path: Path, *batches: Records, state: bool = True, source: str = "zswap") -> Path:
    writer = SpoolWriter(path)
    pools = [{"allocator": "ztree", "header_bytes": 8}]
    writer.start({"tool": "test", "source": source, "pools": pools})
    for batch in batches:
        writer.records(batch)
    if state:
        writer.state({"lost": {"ring_full": {"0": 3}}, "final": True})
    writer.close()
    return path


def test_spool_round_trip(tmp_path: Path) -> None:
    batches = [records({"ts": 1}, {"ts": 2}), records({"ts": 3})]
    reader = SpoolReader(spool_of(tmp_path / "s", *batches))
    assert [batch["ts"].tolist() for batch in reader.records()] == [[1, 2], [3]]
    assert reader.torn_bytes == 0
    assert reader.documents()[1]["lost"] == {"ring_full": {"0": 3}}


def test_spool_cut_anywhere_gives_the_whole_frames_before_the_cut(tmp_path: Path) -> None:
    path = spool_of(tmp_path / "s", *(records({"ts": i}) for i in range(5)))
    whole = path.read_bytes()
    seen = set()
    for cut in range(8, len(whole)):
        path.write_bytes(whole[:cut])
        reader = SpoolReader(path)
        found = [int(batch["ts"][0]) for batch in reader.records()]
        assert found == list(range(len(found)))
        seen.add(len(found))
    assert seen == {0, 1, 2, 3, 4, 5}


def test_spool_with_a_flipped_bit_stops_there(tmp_path: Path) -> None:
    path = spool_of(tmp_path / "s", *(records({"ts": i}) for i in range(5)))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    reader = SpoolReader(path)
    assert len(list(reader.records())) < 5
    assert reader.torn_bytes > 0


def test_a_batch_too_large_for_the_disk_is_kept_as_far_as_there_is_room(tmp_path: Path) -> None:
    batch = np.zeros(4096, RECORD)
    batch["key"] = np.random.default_rng(1).integers(0, 2**63, len(batch))  # does not compress
    room = len(batch) * 4  # bytes; half of what the keys take
    writer = SpoolWriter(tmp_path / "spool")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError):
            writer.records(batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.close()
    reader = SpoolReader(tmp_path / "spool")
    kept = np.concatenate(list(reader.records()))
    assert 1000 < len(kept) < len(batch)
    assert (kept["key"] == batch["key"][: len(kept)]).all()
    assert not reader.torn_bytes


def test_what_is_no_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"PAR1 or something else")
    with pytest.raises(TracerError, match="not a ztrace spool"):
        SpoolReader(tmp_path / "s")
    with pytest.raises(TracerError, match="No such file"):
        SpoolReader(tmp_path / "absent")


def test_a_dead_recorders_spool_becomes_a_trace_that_says_so(tmp_path: Path) -> None:
    path = spool_of(tmp_path / "s", records({"ts": 1, "op": STORE}), state=False)
    path.write_bytes(path.read_bytes()[:-3] + b"")
    convert(spool_of(tmp_path / "t", records({"ts": 1, "op": STORE}), state=False), tmp_path / "o")
    with TraceReader(tmp_path / "o") as trace:
        assert trace.num_rows == 1
        assert "cut off" in trace.metadata.notes[0]


def test_store_sizes_are_without_zswaps_header(tmp_path: Path) -> None:
    rows = records(
        {"op": MALLOC, "has": 2 | 4, "size": 108, "handle": 5},
        {"op": STORE, "has": 2, "size": 108},
        {"op": MALLOC, "has": 2 | 4, "size": 5000, "ret": -28},
    )
    convert(spool_of(tmp_path / "s", rows), tmp_path / "o")
    made = pq.read_table(tmp_path / "o").to_pylist()
    assert [row["size"] for row in made] == [108, 100, 5000]
    assert [row["handle"] for row in made] == [5, None, None]
    with TraceReader(tmp_path / "o") as trace:
        assert trace.metadata.lost_total() == 3


# -- pool sizes ------------------------------------------------------------------------------


def naive_totals(stream: Records) -> list[int]:
    """The rule told directly: a size belongs to the last call of its task and pool, if open."""
    totals = [int(NO_TOTAL)] * len(stream)
    waiting: dict[tuple[int, int], int] = {}
    for i, record in enumerate(stream):
        who = (int(record["tid"]), int(record["pool"]))
        if record["op"] == OP_TOTAL:
            if who in waiting:
                totals[waiting.pop(who)] = int(record["aux"])
        elif record["op"] == FREE or (record["op"] == MALLOC and record["ret"] == 0):
            waiting[who] = i
    return totals


step = st.tuples(
    st.sampled_from([MALLOC, FREE, STORE, OP_TOTAL]),
    st.integers(1, 3),  # task
    st.integers(0, 1),  # pool
    st.sampled_from([0, 0, 0, -12]),
)


@given(st.lists(step, max_size=60), st.lists(st.integers(1, 20), max_size=10))
def test_totals_join_the_call_they_follow_whatever_the_batches(
    steps: list[tuple[int, int, int, int]], cuts: list[int]
) -> None:
    rows = [
        {"op": op, "tid": tid, "pool": pool, "ret": ret, "aux": 4096 * i}
        for i, (op, tid, pool, ret) in enumerate(steps)
    ]
    stream = records(*rows)
    batches, at = [], 0
    for cut in cuts:
        batches.append(stream[at : at + cut])
        at += cut
    batches.append(stream[at:])
    pieces = list(with_totals(iter(batches)))
    joined = np.concatenate([piece for piece, _ in pieces] or [stream])
    assert joined.tobytes() == stream.tobytes()
    totals = np.concatenate([total for _, total in pieces] or [np.empty(0, np.uint64)])
    assert totals.tolist() == naive_totals(stream)


# -- module sources and the guest's archive --------------------------------------------------

MAIL = """Subject: mm: add x

--- a/mm/Makefile
+++ b/mm/Makefile
@@ -1,2 +1,3 @@
+obj-y += x.o
diff --git a/mm/x.c b/mm/x.c
--- /dev/null
+++ b/mm/x.c
@@ -0,0 +1,3 @@
+int x;
+
+\tint y;
--
2.1
"""


TABLED = """int a[] = { 1 };
static struct tree_desc {
\tint order;
} tree_desc[] = {
\t[0] = { 1 },
\t[1] = { 2 }
};

int b[] = {
\t3
};
"""


def test_another_block_table_takes_the_place_of_the_posted_one() -> None:
    changed = with_table(TABLED, "{\n\t{ 7 }\n}", Path("x"))
    assert changed == TABLED.replace("{\n\t[0] = { 1 },\n\t[1] = { 2 }\n}", "{\n\t{ 7 }\n}")


@pytest.mark.parametrize("source", ["int x;\n", 2 * TABLED])
def test_a_source_without_one_block_table_is_refused(source: str) -> None:
    with pytest.raises(TracerError, match=r"x: (no|2) block table tree_desc\[\] in it, not one"):
        with_table(source, "{ 7 }", Path("x"))


def test_source_comes_out_of_a_mail(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text(MAIL)
    assert read_source(tmp_path / "mail") == ("x", "int x;\n\n\tint y;\n")
    (tmp_path / "y.c").write_text("int z;\n")
    assert read_source(tmp_path / "y.c") == ("y", "int z;\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"just words", "adds no .c file"),
        (MAIL.partition("+\tint y")[0].encode(), "cut short"),
        (b"\xff\xfe\x00binary", "not a text file"),
    ],
)
def test_a_mail_without_a_source_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "mail").write_bytes(content)
    with pytest.raises(TracerError, match=complaint):
        read_source(tmp_path / "mail")


def test_archive_has_names_and_contents_where_the_kernel_looks_for_them() -> None:
    archive = Cpio()
    archive.folder("bin")
    archive.file("bin/x", b"12345", executable=True)
    data = archive.finish()
    at, found = 0, {}
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += (110 + fields[11] + 3) & ~3
        content = data[at : at + fields[6]]
        at += (fields[6] + 3) & ~3
        if name == "TRAILER!!!":
            break
        found[name] = (fields[1], content)
    assert found == {"bin": (0o40755, b""), "bin/x": (0o100755, b"12345")}
    assert at == len(data)
