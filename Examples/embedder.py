#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The plain level from Python, by ctypes: a source, and a delivery loop on a thread.

    python3 embedder.py [libcdedupe.so.0]
"""

import ctypes
import sys
import threading

OK, EMPTY, STOPPED = 0, 1, 2
CLAIM_LOOP = 1
FINISH_WHEN_DELIVERED = 0
KINDS = ("new", "updated", "deleted", "status")


class Item(ctypes.Structure):
    """cdedupe_bytes_item_t."""

    _fields_ = [
        ("key", ctypes.c_void_p),
        ("key_length", ctypes.c_size_t),
        ("value", ctypes.c_void_p),
        ("value_length", ctypes.c_size_t),
        ("revision", ctypes.c_uint64),
        ("kind", ctypes.c_uint8),
        ("status", ctypes.c_uint8),
        ("reserved", ctypes.c_uint64 * 2),
    ]


def load(path):
    library = ctypes.CDLL(path)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.cdedupe_bytes_create.argtypes = [pointer, ctypes.POINTER(pointer)]
    library.cdedupe_bytes_destroy.argtypes = [pointer]
    library.cdedupe_bytes_claim.argtypes = [pointer, ctypes.c_int]
    library.cdedupe_bytes_release.argtypes = [pointer]
    library.cdedupe_bytes_put.argtypes = [pointer, pointer, size, pointer, size, ctypes.c_uint64, pointer]
    library.cdedupe_bytes_finish.argtypes = [pointer, ctypes.c_int]
    library.cdedupe_bytes_take_wait.argtypes = [
        pointer, ctypes.POINTER(Item), size, ctypes.POINTER(size), ctypes.c_int64]
    library.cdedupe_result_text.restype = ctypes.c_char_p
    return library


class Buffer:
    def __init__(self, library):
        self.library = library
        self.buffer = ctypes.c_void_p()
        self.check(library.cdedupe_bytes_create(None, ctypes.byref(self.buffer)))
        self.check(library.cdedupe_bytes_claim(self.buffer, CLAIM_LOOP))

    def check(self, result):
        if result != OK:
            raise RuntimeError(self.library.cdedupe_result_text(result).decode())

    def put(self, key, value):
        """Any thread. Both are bytes, and are copied."""
        self.check(self.library.cdedupe_bytes_put(self.buffer, key, len(key), value, len(value), 0, None))

    def finish(self):
        self.library.cdedupe_bytes_finish(self.buffer, FINISH_WHEN_DELIVERED)

    def deliver(self, sink):
        """The delivery loop's thread. Returns when the buffer has finished."""
        items, count = (Item * 100)(), ctypes.c_size_t()
        # ctypes releases the interpreter's lock during the call.
        while self.library.cdedupe_bytes_take_wait(self.buffer, items, 100, ctypes.byref(count), -1) == OK:
            for item in items[: count.value]:
                key = ctypes.string_at(item.key, item.key_length)
                value = ctypes.string_at(item.value, item.value_length) if item.value else b""
                sink(KINDS[item.kind], key, value)
        self.library.cdedupe_bytes_release(self.buffer)

    def destroy(self):
        self.library.cdedupe_bytes_destroy(self.buffer)


def main():
    buffer = Buffer(load(sys.argv[1] if len(sys.argv) > 1 else "libcdedupe.so.0"))
    loop = threading.Thread(
        target=buffer.deliver, args=(lambda kind, key, value: print(kind, key.decode(), "=", value.decode()),))
    loop.start()
    for n in range(1001):
        buffer.put(b"sensor/%d" % (n % 3), b"%d" % n)
    buffer.finish()
    loop.join()
    buffer.destroy()


main()
