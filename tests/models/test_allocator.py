"""Large arrays go back to the system when they are freed, in a process that asked for it and in no other."""

import ctypes
import os
import subprocess
import sys

import pytest

from recsys_fed.models import device as allocator

# What the C library has mapped for a block of 20 MB, after one of 31 MB was freed; and whether freed memory is kept.
MAPPED = """
import ctypes, sys
from recsys_fed.models.device import return_large_arrays
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
library = ctypes.CDLL(None)
library.mallinfo2.restype, library.malloc.restype = Info, ctypes.c_void_p
library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "asked":
    return_large_arrays()
library.free(library.malloc(31_000_000))
before = library.mallinfo2().hblkhd
library.malloc(20_000_000)
print(library.mallinfo2().hblkhd - before)
"""


def mapped(asked: str, **variables: str) -> int:
    command = [sys.executable, "-c", MAPPED, asked]
    around = {key: value for key, value in os.environ.items() if key not in allocator._VARIABLES} | variables
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=around, timeout=120).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs the GNU C library")
def test_large_blocks_are_mapped_anew_where_it_was_asked_for() -> None:
    assert mapped("asked") >= 20_000_000
    assert mapped("not asked") == 0
    # Whoever has set a threshold keeps it.
    assert mapped("asked", MALLOC_MMAP_THRESHOLD_="30000000") == 0


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    for name in allocator._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # An object without mallopt.
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or object())
    allocator.return_large_arrays.__wrapped__()
    assert asked == [None]
