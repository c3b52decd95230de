"""The page of figures that a machine with a GPU writes: the same way in small here, so that it stays passable."""

from pathlib import Path

import pytest
import torch

from recsys_fed.models.histories import Histories
from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.trainer import PublicFacts
from simulations.benchmarks import on_gpu

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
def test_every_part_is_on_the_page_and_keeps_its_bar(device: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    threads = torch.get_num_threads()
    try:
        assert on_gpu.main(["--device", device, "--size", "small", "--output", str(page)]) == 0
    finally:
        torch.set_num_threads(threads)
    text = page.read_text(encoding="utf-8")
    for part in (
        "equal: spectral",
        "equal: ordered",
        "equal: torch",
        "ours over hooks",
        "ours over ghost",
        "large: ordered",
    ):
        assert part in text
    assert text.count("| yes |") == 5
    assert "**no**" not in text


class _Elsewhere(Spectral):
    """Every other sum, which is the device's, is a thousandth too long."""

    calls = 0

    def contribution(self, *arguments, **settings):  # type: ignore[no-untyped-def]
        type(self).calls += 1
        return super().contribution(*arguments, **settings) * (1.001 if type(self).calls % 2 == 0 else 1.0)


def test_a_device_that_adds_up_otherwise_is_noticed() -> None:
    histories = Histories(items=torch.arange(12, dtype=torch.int32) % 6, starts=torch.arange(7) * 2, n_items=6)
    facts = PublicFacts(n_items=6, catalogue_hash="0" * 64, declared_users=6, silos=1, noise_level=1.0)
    assert on_gpu.largest_difference(Spectral(), facts, histories, CPU) < on_gpu.EQUAL
    assert on_gpu.largest_difference(_Elsewhere(), facts, histories, CPU) == pytest.approx(1e-3, rel=1e-6)
