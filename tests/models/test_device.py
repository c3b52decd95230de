"""Devices by name, and threads."""

import os

import pytest
import torch
from dense_histories import one_thread as _one_thread  # noqa: F401

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.device import resolve_device, use_threads


def test_auto_is_cuda_where_there_is_one_and_the_cpu_elsewhere(monkeypatch):
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert resolve_device("auto").type == expected


def test_a_named_device_is_taken():
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "banana", "cuda:999", "mps:7", "xla", "hpu", "privateuseone", "meta"])
def test_a_device_that_cannot_compute_here_is_refused_by_name(name):
    with pytest.raises(ConfigurationError, match=f"got {name!r}"):
        resolve_device(name)


def test_threads_are_as_many_as_said_and_zero_is_all():
    use_threads(1)
    assert torch.get_num_threads() == 1
    use_threads(2)
    assert torch.get_num_threads() == 2
    use_threads(0)
    assert torch.get_num_threads() == (os.cpu_count() or 1)
