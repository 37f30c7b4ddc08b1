# SPDX-License-Identifier: GPL-2.0-only
"""Where members lie in kernel structures, from the kernel's own type information (BTF).

Format: Documentation/bpf/btf.rst. Modules have a part of their own, whose strings go on where
vmlinux's end.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

FOLDER = Path("/sys/kernel/btf")
MAGIC = 0xEB9F
HEADER = struct.Struct("<HBBIIIII")
TYPE = struct.Struct("<3I")

INT, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, FUNC, PROTO = 1, 3, 4, 5, 6, 8, 12, 13
VAR, DATASEC, DECL_TAG, ENUM64 = 14, 15, 17, 19

# Bytes that follow a type's three words: fixed, and for each of its vlen entries.
FIXED = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
EACH = {STRUCT: 12, UNION: 12, ENUM: 8, PROTO: 8, DATASEC: 12, ENUM64: 12}


class _Section:
    """One BTF file. ``first_string`` is the offset at which its strings begin."""

    def __init__(self, data: bytes, first_string: int) -> None:
        magic, _, _, header, type_at, type_bytes, string_at, string_bytes = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ValueError("not BTF")
        self.data = data
        self.types = header + type_at
        self.types_end = self.types + type_bytes
        self.strings = data[header + string_at : header + string_at + string_bytes]
        self.first_string = first_string

    def offset_of(self, text: str) -> int | None:
        """The offset by which types name ``text``."""
        at = self.strings.find(b"\0" + text.encode() + b"\0")
        return None if at < 0 else self.first_string + at + 1

    def text_at(self, offset: int) -> str:
        """The string at an offset of this section."""
        at = offset - self.first_string
        return self.strings[at : self.strings.index(b"\0", at)].decode(errors="replace")

    @cached_property
    def positions(self) -> array[int]:
        """Where each type begins, in order of their numbers."""
        at, data, found = self.types, self.data, array("I")
        unpack, size = TYPE.unpack_from, TYPE.size
        fixed, each = FIXED.get, EACH.get
        while at < self.types_end:
            found.append(at)
            _, info, _ = unpack(data, at)
            kind = info >> 24 & 31
            at += size + fixed(kind, 0) + each(kind, 0) * (info & 0xFFFF)
        return found

    def types_of(self, *kinds: int) -> Iterator[tuple[int, int, int]]:
        """(position, name, size or type) of all types of some kinds."""
        for at in self.positions:
            name, info, about = TYPE.unpack_from(self.data, at)
            if info >> 24 & 31 in kinds:
                yield at, name, about


class Btf:
    """The running kernel's types and those of the named modules, where they are loaded.

    A kernel without BTF has none; then nothing is found.
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self._sections: list[_Section] = []
        for name in ("vmlinux", *modules):
            strings = len(self._sections[0].strings) if self._sections else 0
            try:
                self._sections.append(_Section((FOLDER / name).read_bytes(), strings))
            except (OSError, ValueError):
                if name == "vmlinux":
                    return

    def members(self, wanted: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], int]:
        """Byte offsets by (struct, member), ``wanted`` as struct -> members.

        What is not there is left out. Members of structs and unions without a name count as
        those of the one they are in, as in C.
        """
        found: dict[tuple[str, str], int] = {}
        for section in self._sections:
            owners = {at: name for name in wanted for at in self._offsets(section, name)}
            members = {
                at: member
                for listed in wanted.values()
                for member in listed
                for at in self._offsets(section, member)
            }
            for at, name, _ in section.types_of(STRUCT):
                if name not in owners:
                    continue
                owner = owners[name]
                for member, offset in self._flat(section, at, 0):
                    if member in members and members[member] in wanted[owner]:
                        found.setdefault((owner, members[member]), offset)
        return found

    def _flat(self, section: _Section, at: int, base: int) -> Iterator[tuple[int, int]]:
        """(name, byte offset) of a struct's members, those of unnamed ones included."""
        _, info, _ = TYPE.unpack_from(section.data, at)
        for number in range(info & 0xFFFF):
            name, kind, position = TYPE.unpack_from(section.data, at + TYPE.size * (number + 1))
            # The upper byte is a bit field's width, in structs that have some.
            offset = base + (position & 0xFFFFFF) // 8
            if name:
                yield name, offset
                continue
            inner, inner_at = self._type(section, kind)
            _, inner_info, _ = TYPE.unpack_from(inner.data, inner_at)
            if inner_info >> 24 & 31 in (STRUCT, UNION):
                yield from self._flat(inner, inner_at, offset)

    def _type(self, section: _Section, number: int) -> tuple[_Section, int]:
        """Section and position of a type; a module's numbers go on where vmlinux's end."""
        base = self._sections[0]
        if number <= len(base.positions):
            return base, base.positions[number - 1]
        return section, section.positions[number - 1 - len(base.positions)]

    def _offsets(self, section: _Section, text: str) -> list[int]:
        """Offsets that name ``text`` in a section: its own strings, and vmlinux's."""
        base = self._sections[0]
        parts = [section] if section is base else [section, base]
        offsets = (part.offset_of(text) for part in parts)
        return [offset for offset in offsets if offset is not None]

    def functions(self, wanted: Iterable[str]) -> frozenset[str]:
        """Those of ``wanted`` that are functions of vmlinux with type information."""
        if not self._sections:
            return frozenset()
        base = self._sections[0]
        names = {base.offset_of(name): name for name in wanted}
        found = (names.get(name) for _, name, _ in base.types_of(FUNC))
        return frozenset(name for name in found if name is not None)

    def returns(self, function: str) -> str | None:
        """The name of the type that a function of vmlinux returns (``bool``, ``int``)."""
        if not self._sections:
            return None
        base = self._sections[0]
        wanted = base.offset_of(function)
        for _, name, prototype in base.types_of(FUNC):
            if name == wanted:
                _, _, result = TYPE.unpack_from(base.data, base.positions[prototype - 1])
                if not result:
                    return "void"
                named, _, _ = TYPE.unpack_from(base.data, base.positions[result - 1])
                return base.text_at(named)
        return None
