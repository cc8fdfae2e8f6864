"""Keeps freed memory in the process while a method trains, instead of giving it back and asking for it again.

Every step allocates and frees the same hundreds of megabytes of activations. The C library returns blocks of that
size to the kernel at once, which then clears each page anew; where page faults are dear, as on a virtual machine,
that can take as long as the training itself. Only glibc is told; elsewhere nothing changes.
"""

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}


@contextmanager
def retained_heap() -> Generator[None]:
    """Freed blocks stay on the heap inside the context and go back to the system at its end."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)
