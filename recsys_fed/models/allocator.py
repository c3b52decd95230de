"""Memory that large arrays leave behind goes back to the system at once.

The GNU C library keeps freed memory of up to 32 MiB an array for later ones, by a threshold that rises with what was
freed. Arrays of a training step differ in length with the sample, so that they leave holes which the next step's do
not fit: a round of local steps on 100,000 items held 370 to 430 MB, and holds 222 MB with a threshold that stays.
"""

import contextlib
import ctypes
import os
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks of users take up to 8 MiB, and serve again without new pages; some stays free at the end.
_LARGE, _FREE = 9 << 20, 16 << 20
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def return_large_arrays() -> None:
    """Fix the threshold for this process; other C libraries, and who has set one already, are left alone."""
    if any(name in os.environ for name in _VARIABLES):
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _FREE)
