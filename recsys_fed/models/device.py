"""Where tensors live, and how many threads work on them."""

import os

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
