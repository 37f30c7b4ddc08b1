# SPDX-License-Identifier: GPL-2.0-only
"""A file of every version of the format is read, also those that releases of long ago wrote."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ztrace.replay import replay_trace
from ztrace.replay.validate import validate_trace
from ztrace.traces import SCHEMA, SCHEMA_VERSION, TraceError, TraceReader
from ztrace.traces.metadata import FOOTER_KEY

DATA = Path(__file__).parent / "data"
VERSIONS = range(1, SCHEMA_VERSION + 1)
KNOWN = {1: (2_500, 14, "ztrace 0.1.0")}
"""By version: the file's rows, its columns, and what wrote it."""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_of_each_version_is_read(version: int) -> None:
    path = DATA / f"version-{version}.parquet"
    rows, columns, tool = KNOWN[version]
    assert len(pq.read_schema(path).names) == columns
    with TraceReader(path) as reader:
        assert (reader.metadata.schema, reader.metadata.tool) == (version, tool)
        table = pa.Table.from_batches(list(reader.batches()), SCHEMA)
        assert validate_trace(reader).agrees
    assert table.num_rows == rows
    assert replay_trace(path, "zbud").rows == rows


def test_a_later_version_is_refused_in_a_line(tmp_path: Path) -> None:
    table = pq.read_table(DATA / "version-1.parquet")
    told = pq.read_metadata(DATA / "version-1.parquet").metadata[FOOTER_KEY]
    later = f'"schema":{SCHEMA_VERSION + 1}'.encode()
    pairs = {FOOTER_KEY: told.replace(b'"schema":1', later)}
    path = tmp_path / "later.parquet"
    pq.write_table(table.replace_schema_metadata(pairs), path)
    with pytest.raises(TraceError, match=f"schema version {SCHEMA_VERSION + 1}, .* a newer ztrace"):
        TraceReader(path)
