# SPDX-License-Identifier: GPL-2.0-only
"""A block device that keeps nothing: an NBD server that hands every write to a function.

Spoken is what a client must have: the fixed newstyle handshake with NBD_OPT_GO, simple replies.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MAGIC, _OPTION, _OPTION_REPLY = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES, _HAS_FLAGS, _MULTI_CONN = 1, 2, 1, 1 << 8
_GO, _ACK, _INFO, _UNSUPPORTED = 7, 1, 3, 2**31 + 1
_READ, _WRITE, _DISCONNECT = range(3)

Take = Callable[[int, bytes], object]
"""Gets the offset and the bytes of a write, one call at a time, in the order of their replies."""


@contextmanager
def serve(folder: Path, size_bytes: int, take: Take) -> Iterator[str]:
    """Serve a device of that size on a socket in ``folder`` as long as the context lasts.

    Gives its NBD URI. Reads give zeros.
    """
    path = folder / "device"
    lock = threading.Lock()

    def one_at_a_time(offset: int, data: bytes) -> None:
        with lock:
            take(offset, data)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def accept() -> None:
            with suppress(OSError):  # closed
                while True:
                    client, _ = listening.accept()
                    arguments = (client, size_bytes, one_at_a_time)
                    threading.Thread(target=_talk, args=arguments, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"nbd+unix:///?socket={path}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            path.unlink()


def _talk(client: socket.socket, size_bytes: int, take: Take) -> None:
    with client, client.makefile("rb") as stream:

        def read(form: str) -> tuple[int, ...]:
            data = stream.read(struct.calcsize(form))
            if len(data) < struct.calcsize(form):
                raise ConnectionError
            return struct.unpack(form, data)

        with suppress(ConnectionError):
            client.sendall(_MAGIC + _OPTION + struct.pack(">H", _FIXED_NEWSTYLE | _NO_ZEROES))
            read(">I")
            while True:
                _, option, length = read(">8sII")
                stream.read(length)
                if option == _GO:
                    break
                client.sendall(struct.pack(">QIII", _OPTION_REPLY, option, _UNSUPPORTED, 0))
            export = struct.pack(">HQH", 0, size_bytes, _HAS_FLAGS | _MULTI_CONN)
            info = struct.pack(">QIII", _OPTION_REPLY, _GO, _INFO, len(export)) + export
            client.sendall(info + struct.pack(">QIII", _OPTION_REPLY, _GO, _ACK, 0))
            while True:
                magic, _, kind, cookie, offset, length = read(">IHHQQI")
                if magic != _REQUEST or kind == _DISCONNECT:
                    return
                if kind == _WRITE:
                    take(offset, stream.read(length))
                zeros = bytes(length) if kind == _READ else b""
                client.sendall(struct.pack(">IIQ", _REPLY, 0, cookie) + zeros)
