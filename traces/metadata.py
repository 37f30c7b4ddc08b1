# SPDX-License-Identifier: GPL-2.0-only
"""What a trace says about itself: one JSON document in the Parquet footer, key ``ztrace``.

Keys that this version does not know survive a round trip, at every level: a newer writer of
the same schema version may add some. Absent keys take defaults; a wrong type is an error.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from ztrace.text import UNPROBED
from ztrace.traces.errors import TraceError
from ztrace.traces.schema import SCHEMA_VERSION
from ztrace.version import __version__

FOOTER_KEY = b"ztrace"
"""Key of the document in the Parquet file's key-value metadata."""

IMPORTED = "imported from CSV"
"""The note of a trace that was CSV."""

RELATIVE = "relative to the first call"
"""What ``clock`` says in an anonymised trace."""

ORDERS = ("ring", "found")
"""ring: rows are as the recorder saw them finish. found: in an order that explains the handles."""

_INT_RANGE = (-(2**63), 2**64 - 1)

T = TypeVar("T")


@dataclass
class Kernel:
    """The kernel that was recorded. ``config_sha256`` is hexadecimal, None if unknown."""

    release: str = "unknown"
    version: str = "unknown"
    config_sha256: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Machine:
    """The machine that was recorded; 0 means unknown."""

    cpu_model: str = "unknown"
    cpus: int = 0
    memory_bytes: int = 0
    page_bytes: int = 4096
    arch: str = "unknown"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class PoolInfo:
    """One allocator pool; column ``pool`` is an index into the list of these.

    ``header_bytes`` is what zswap adds to an object's size before it asks this pool for it:
    the size of a malloc is that much larger than the size of its store.
    """

    allocator: str = "unknown"
    compressor: str = "unknown"
    created_in_recording: bool = False
    empty_at_start: bool = False
    header_bytes: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Probe:
    """How the calls of one op were seen: probe kind (fentry, kprobe, …) and kernel symbol."""

    kind: str = "unknown"
    symbol: str = "unknown"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class CounterCheck:
    """A counter of the kernel's own beside what was recorded of it.

    ``recorded`` calls are in the trace, ``left_out`` ones by choice are not, ``lost`` ones were
    counted as they were lost, ``perhaps_lost`` are of a kind unknown. The kernel counted between
    ``kernel_least`` and ``kernel_most``: read on both sides of the moments at which recording
    began and ended.
    """

    counter: str = "unknown"
    recorded: int = 0
    left_out: int = 0
    lost: int = 0
    perhaps_lost: int = 0
    kernel_least: int = 0
    kernel_most: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether all calls, recorded or not, are those that the kernel counted."""
        seen = self.recorded + self.left_out + self.lost
        return seen <= self.kernel_most and seen + self.perhaps_lost >= self.kernel_least


@dataclass
class Counters:
    """Kernel counters (name -> value) before the first and after the last event."""

    start: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    check: list[CounterCheck] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pieces:
    """Which files of a rotated recording a trace holds, from 0; ``more``: another one follows."""

    first: int = 0
    last: int = 0
    more: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_all(self) -> bool:
        """Whether there is nothing before and nothing after."""
        return self.first == 0 and not self.more


PARTIAL = ("cgroup", "pid", "min_size", "slice_cgroup", "slice_tid", "rows")
"""Filters that leave out some objects of a pool, whole lives of them."""

SAMPLED = "objects"
"""Name in ``sampling`` of the recorder's: one object of so many was recorded."""


@dataclass
class Metadata:
    """The whole document.

    ``source`` is whose calls were recorded, zswap's or zram's.
    ``probe_cost_ns`` maps an op to the ns that its probe costs, None if not measured.
    ``filters`` says which calls were kept (name -> value), ``sampling`` the periods of what
    was sampled (name -> number); both are empty when every call was recorded.
    ``left_out`` counts calls that were seen and left out by choice: filters or a limit -> op ->
    count. ``command`` is what was running. ``started_utc`` is ISO 8601. ``lost`` counts events that
    never reached the file: cause -> CPU (as decimal string) -> count; where not
    ``losses_counted``, nobody knows how many did not.
    """

    schema: int = SCHEMA_VERSION
    tool: str = f"ztrace {__version__}"
    source: str = "zswap"
    kernel: Kernel = field(default_factory=Kernel)
    machine: Machine = field(default_factory=Machine)
    pools: list[PoolInfo] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)
    probe_cost_ns: dict[str, float] | None = None
    clock: str = "CLOCK_MONOTONIC"
    filters: dict[str, str] = field(default_factory=dict)
    sampling: dict[str, float] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    started_utc: str = ""
    duration_ns: int = 0
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    losses_counted: bool = True
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    pieces: Pieces = field(default_factory=Pieces)
    counters: Counters = field(default_factory=Counters)
    order: str = "ring"
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def lost_total(self) -> int:
        """Return how many events are missing from the file, over all causes and CPUs."""
        return sum(sum(by_cpu.values()) for by_cpu in self.lost.values())

    def lost_events(self) -> int | None:
        """Return the same for whoever shows it: None if nobody counted."""
        return self.lost_total() if self.losses_counted else None

    def unprobed(self) -> list[str]:
        """Return what the recorder noted of functions whose calls it could not see."""
        return [note for note in self.notes if UNPROBED in note]

    def sample_period(self) -> float:
        """One object of how many was recorded; 1 if all were."""
        return self.sampling.get(SAMPLED, 1.0)

    def selection(self) -> dict[str, str]:
        """What chose the objects recorded, empty if they are all: filter or sample -> value."""
        period = self.sample_period()
        sampled = {} if period == 1 else {f"1 of {period:g}": ""}
        return sampled | {name: self.filters[name] for name in PARTIAL if name in self.filters}

    def has_all_objects(self) -> bool:
        """Say whether no object of a pool was left out, by a filter or by sampling.

        Where one was, nothing that depends on where objects lie can be told from the others.
        """
        return not self.selection()

    def starts_empty(self) -> bool:
        """Say whether all pools are known and were empty when recording began."""
        return bool(self.pools) and all(pool.empty_at_start for pool in self.pools)

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain JSON types, unknown keys included."""
        plain: dict[str, Any] = _to_plain(self)
        return plain

    def to_json(self) -> str:
        """Return the document as one line of ASCII JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "metadata") -> Metadata:
        """Parse a document; ``where`` (a path) is for the message of the TraceError.

        Raises TraceError for anything but JSON of the right types, and for a schema version
        above :data:`SCHEMA_VERSION`.
        """
        try:
            document = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise TraceError(
                f"{where}: metadata is not JSON ({error}); the file is damaged"
            ) from error
        return _metadata(document, where)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _to_plain(value: Any) -> Any:
    """Dataclasses to dictionaries, with what was in ``extra`` put back beside the rest."""
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value) if f.name != "extra"]
        known = {name: _to_plain(getattr(value, name)) for name in names}
        return {**known, **getattr(value, "extra", {})}
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_plain(item) for item in value]
    return value


class _Fields:
    """Takes typed values out of one JSON object; what nobody takes is ``rest``."""

    def __init__(self, document: Any, path: str, where: str) -> None:
        self.path = path
        self.where = where
        self.rest: dict[str, Any] = dict(_check(document, dict, "an object", path, where))

    def take(self, key: str, parse: Callable[[Any, str, str], T], default: T) -> T:
        """Remove ``key`` and parse it, or return the default when it is absent."""
        if key not in self.rest:
            return default
        path = f"{self.path}.{key}" if self.path else key
        return parse(self.rest.pop(key), path, self.where)


def _refuse(what: str, path: str, where: str) -> NoReturn:
    name = f"metadata {path}" if path else "metadata"
    raise TraceError(f"{where}: {name} is not {what}; the file was not written by ztrace")


def _check(value: Any, kind: type[T], what: str, path: str, where: str) -> T:
    if not isinstance(value, kind):
        _refuse(what, path, where)
    return value


def _text(value: Any, path: str, where: str) -> str:
    return _check(value, str, "a string", path, where)


def _text_or_none(value: Any, path: str, where: str) -> str | None:
    return None if value is None else _text(value, path, where)


def _flag(value: Any, path: str, where: str) -> bool:
    return _check(value, bool, "true or false", path, where)


def _int(value: Any, path: str, where: str) -> int:
    low, high = _INT_RANGE
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse("a 64-bit integer", path, where)
    return value


def _count(value: Any, path: str, where: str) -> int:
    number = _int(value, path, where)
    if number < 0:
        _refuse("a count", path, where)
    return number


def _number(value: Any, path: str, where: str) -> float:
    if isinstance(value, float) and value - value == 0:  # neither infinite nor NaN
        return value
    return _int(value, path, where)


def _list(parse: Callable[[Any, str, str], T]) -> Callable[[Any, str, str], list[T]]:
    def parse_list(value: Any, path: str, where: str) -> list[T]:
        items: list[Any] = _check(value, list, "a list", path, where)
        return [parse(item, f"{path}[{i}]", where) for i, item in enumerate(items)]

    return parse_list


def _map(parse: Callable[[Any, str, str], T]) -> Callable[[Any, str, str], dict[str, T]]:
    def parse_map(value: Any, path: str, where: str) -> dict[str, T]:
        items: dict[str, Any] = _check(value, dict, "an object", path, where)
        return {key: parse(item, f"{path}.{key}", where) for key, item in items.items()}

    return parse_map


def _map_or_none(value: Any, path: str, where: str) -> dict[str, float] | None:
    return None if value is None else _map(_number)(value, path, where)


def _order(value: Any, path: str, where: str) -> str:
    if value not in ORDERS:
        _refuse(" or ".join(ORDERS), path, where)
    return str(value)


def _kernel(value: Any, path: str, where: str) -> Kernel:
    f = _Fields(value, path, where)
    return Kernel(
        release=f.take("release", _text, "unknown"),
        version=f.take("version", _text, "unknown"),
        config_sha256=f.take("config_sha256", _text_or_none, None),
        extra=f.rest,
    )


def _machine(value: Any, path: str, where: str) -> Machine:
    f = _Fields(value, path, where)
    return Machine(
        cpu_model=f.take("cpu_model", _text, "unknown"),
        cpus=f.take("cpus", _count, 0),
        memory_bytes=f.take("memory_bytes", _count, 0),
        page_bytes=f.take("page_bytes", _count, 4096),
        arch=f.take("arch", _text, "unknown"),
        extra=f.rest,
    )


def _pool(value: Any, path: str, where: str) -> PoolInfo:
    f = _Fields(value, path, where)
    return PoolInfo(
        allocator=f.take("allocator", _text, "unknown"),
        compressor=f.take("compressor", _text, "unknown"),
        created_in_recording=f.take("created_in_recording", _flag, False),
        empty_at_start=f.take("empty_at_start", _flag, False),
        header_bytes=f.take("header_bytes", _count, 0),
        extra=f.rest,
    )


def _probe(value: Any, path: str, where: str) -> Probe:
    f = _Fields(value, path, where)
    return Probe(
        kind=f.take("kind", _text, "unknown"),
        symbol=f.take("symbol", _text, "unknown"),
        extra=f.rest,
    )


def _check_of(value: Any, path: str, where: str) -> CounterCheck:
    f = _Fields(value, path, where)
    return CounterCheck(
        counter=f.take("counter", _text, "unknown"),
        **{
            name: f.take(name, _int, 0)
            for name in (
                *("recorded", "left_out", "lost", "perhaps_lost"),
                *("kernel_least", "kernel_most"),
            )
        },
        extra=f.rest,
    )


def _pieces(value: Any, path: str, where: str) -> Pieces:
    f = _Fields(value, path, where)
    return Pieces(
        first=f.take("first", _count, 0),
        last=f.take("last", _count, 0),
        more=f.take("more", _flag, False),
        extra=f.rest,
    )


def _counters(value: Any, path: str, where: str) -> Counters:
    f = _Fields(value, path, where)
    return Counters(
        start=f.take("start", _map(_int), {}),
        end=f.take("end", _map(_int), {}),
        check=f.take("check", _list(_check_of), []),
        extra=f.rest,
    )


def _metadata(document: Any, where: str) -> Metadata:
    f = _Fields(document, "", where)
    # The version first: the types below are those of this version.
    schema = f.take("schema", _count, SCHEMA_VERSION)
    if schema > SCHEMA_VERSION:
        raise TraceError(
            f"{where}: trace of schema version {schema}, this ztrace reads up to "
            f"{SCHEMA_VERSION}; use a newer ztrace"
        )
    says_counted = "losses_counted" in f.rest
    made = Metadata(
        schema=schema,
        tool=f.take("tool", _text, "unknown"),
        source=f.take("source", _text, "zswap"),
        kernel=f.take("kernel", _kernel, Kernel()),
        machine=f.take("machine", _machine, Machine()),
        pools=f.take("pools", _list(_pool), []),
        parameters=f.take("parameters", _map(_text), {}),
        probes=f.take("probes", _map(_probe), {}),
        probe_cost_ns=f.take("probe_cost_ns", _map_or_none, None),
        clock=f.take("clock", _text, "unknown"),
        filters=f.take("filters", _map(_text), {}),
        sampling=f.take("sampling", _map(_number), {}),
        command=f.take("command", _list(_text), []),
        started_utc=f.take("started_utc", _text, ""),
        duration_ns=f.take("duration_ns", _count, 0),
        lost=f.take("lost", _map(_map(_count)), {}),
        losses_counted=f.take("losses_counted", _flag, True),
        left_out=f.take("left_out", _map(_map(_count)), {}),
        pieces=f.take("pieces", _pieces, Pieces()),
        counters=f.take("counters", _counters, Counters()),
        order=f.take("order", _order, "ring"),
        notes=f.take("notes", _list(_text), []),
        extra=f.rest,
    )
    if not says_counted:  # ztrace 0.1 wrote so of recordings and imports alike
        made.losses_counted = bool(made.lost) or not _is_import(made)
    return made


def _is_import(metadata: Metadata) -> bool:
    """Whether a trace was CSV, by what 0.1 wrote. Anonymised, it tells no more than that no probe
    made it, so that anonymised synthetic traces are taken for imports."""
    return IMPORTED in metadata.notes or (metadata.clock == RELATIVE and not metadata.probes)
