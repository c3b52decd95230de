"""Where a process computes, with how many threads, and how it gives memory back."""

import contextlib
import ctypes
import os
from functools import cache

import torch

from recsys_fed.errors import ConfigurationError


def resolve_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is the first CUDA device, or the CPU where there is none.

    Raises:
        ConfigurationError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        # A tensor must hold numbers there: "meta" has shapes only.
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ConfigurationError(
            f"Expected device to be auto or a torch device of this machine, got {name!r}."
        ) from error
    return device


def use_threads(threads: int) -> None:
    """Let torch use so many threads, 0 for all processors.

    Sums may differ in the last bit with the number of threads, so every engine sets it.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)


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
