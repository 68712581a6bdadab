#!/usr/bin/env python3
"""libexclave_malloc.so that a thread loads, uses and closes: when the thread ends, it must still be there.

  loaded_late.py LIBRARY
"""
import _ctypes
import ctypes
import sys
import threading


def use():
    library = ctypes.CDLL(sys.argv[1])
    library.malloc.restype = ctypes.c_void_p
    block = library.malloc(ctypes.c_size_t(100))
    assert block is not None
    library.free(ctypes.c_void_p(block))
    _ctypes.dlclose(library._handle)


for _ in range(10):
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
