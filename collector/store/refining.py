"""
Refining: what the refiner's process runs (refiner.py starts it and speaks with it).

    python -m collector.store.refining        with one socket as standard input

A task is the limits and some records of the journal; the answer is a portion, or nothing when a
record of it needs a closer look. The process knows no more than that: it opens no file, and holds
nothing that anybody would miss. It ends with its parent, however that ends.

Shapes   each way: a length of 8 bytes in little endian, and so much msgpack; an answer of length 0
         is none.
Errors   none: what goes wrong with a task is an answer of length 0, all else ends the process.
"""

import contextlib
import gc
import resource
import signal
import socket
import struct

import msgspec

from collector.refine import Limits
from collector.store.portions import Portion, fill

# Of addresses: one body may become ten times its size, and 10 MB is what a body may have.
MEMORY_BYTES_MAX = 2 << 30
PR_SET_PDEATHSIG = 1

Task = tuple[Limits, list[tuple[int, int, str, int, bytes]]]

length = struct.Struct("<Q")
encode_task = msgspec.msgpack.Encoder().encode
decode_task = msgspec.msgpack.Decoder(Task).decode
encode_portion = msgspec.msgpack.Encoder().encode
decode_portion = msgspec.msgpack.Decoder(Portion).decode


def receive(connection: socket.socket) -> bytearray | None:
    """The next message, or None if the other end closed; OSError when it takes too long."""
    head = bytearray(length.size)
    if not _fill(connection, memoryview(head)):
        return None
    (size,) = length.unpack(head)
    if size > MEMORY_BYTES_MAX:
        raise EOFError("this is no message")
    data = bytearray(size)
    return data if _fill(connection, memoryview(data)) else None


def _fill(connection: socket.socket, view: memoryview) -> bool:
    while view:
        # One call, and so one turn at the interpreter's lock, for as much as there is.
        count = connection.recv_into(view, 0, socket.MSG_WAITALL)
        if not count:
            return False
        view = view[count:]
    return True


def send(connection: socket.socket, data: bytes) -> None:
    """Send one message."""
    connection.sendall(length.pack(len(data)))
    connection.sendall(data)


def answer(task: bytes | bytearray) -> bytes:
    """The portion that *task* comes to, encoded; nothing if it cannot be made here."""
    try:
        limits, records = decode_task(task)
        portion = Portion()
        for record in records:
            for _ in fill(portion, limits, *record):
                pass
        return encode_portion(portion)
    except Exception:  # noqa: BLE001  the parent looks into it, record by record
        return b""


def _end_with_parent() -> None:
    # The socket's end tells as well, but not a process that is stopped or hangs.
    import ctypes  # noqa: PLC0415  not for who imports the names above

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answer tasks until there are no more."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    with contextlib.suppress(OSError, ValueError):  # it may be less already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    gc.freeze()
    with socket.socket(fileno=0) as connection, contextlib.suppress(OSError):
        send(connection, b"")  # it is up
        while (task := receive(connection)) is not None:
            send(connection, answer(task))


if __name__ == "__main__":
    main()
