"""Integer noise from AES against torch.randn (float32, Mersenne Twister): ratios of times of alternating calls."""

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from recsys_fed.privacy.integer_mechanism import IntegerMechanism, add_noise, grid_step
from recsys_fed.privacy.noise import SystemNoise
from simulations.benchmarks.line import Line

# A table of 27,000 items and 32 columns.
SHAPE = (27_000, 32)
REPETITIONS = 15
# Secure noise is to reach a fifth of torch.randn's rate.
BAR = 5.0
# In grid steps: one table, two (what releases use), and three.
SCALES = (500.0, 41_000.0, 1e6)
THREADS = 2
_NOISE = "integer noise"


def noise_lines() -> list[Line]:
    """Ratios on one core, of the release path, and with two threads that draw side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_one_thread(), *_two_threads()]
    finally:
        torch.set_num_threads(threads)


def _one_thread() -> list[Line]:
    source = SystemNoise()
    step = grid_step(noise_multiplier=5.0, l2_clip_norm=1.0, declared_users=13_800, entries=SHAPE[0] * SHAPE[1])
    mechanism = IntegerMechanism(noise_multiplier=5.0, l2_clip_norm=1.0, grid_step=step, entries=SHAPE[0] * SHAPE[1])
    total = np.random.default_rng(0).standard_normal(SHAPE) * 20
    ways: dict[str, Callable[[], object]] = {"torch.randn": lambda: torch.randn(SHAPE)}
    for scale in SCALES:
        ways[_named(scale)] = lambda scale=scale: source.integers(SHAPE, standard_deviation=scale)  # type: ignore[misc]
    table = np.zeros(SHAPE, dtype=np.int32)
    ways[f"{_NOISE} of local steps, scale {SCALES[1]:,.0f}"] = lambda: source.add_to(
        table, standard_deviation=SCALES[1]
    )
    ways["rounding a sum to the grid, with its noise"] = lambda: add_noise(total, mechanism=mechanism, noise=source)
    ways["adding torch.randn to a float64 sum"] = lambda: torch.from_numpy(total) + torch.randn(SHAPE)
    seconds = alternating(ways)
    plain = seconds.pop("torch.randn")
    entries = SHAPE[0] * SHAPE[1]
    lines = [Line(name="torch.randn, float32, one thread", value=1e9 * plain / entries, unit="ns an entry")]
    for name, taken in seconds.items():
        bar = BAR if name.startswith(_NOISE) else None
        lines.append(Line(name=f"{name}, over torch.randn", value=taken / plain, unit="times", bar=bar))
    return lines


def _two_threads() -> list[Line]:
    sources = [SystemNoise() for _ in range(THREADS)]
    generators = [torch.Generator() for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        ways: dict[str, Callable[[], object]] = {
            "noise": lambda: list(pool.map(lambda s: s.integers(SHAPE, standard_deviation=SCALES[1]), sources)),
            "randn": lambda: list(pool.map(lambda g: torch.randn(SHAPE, generator=g), generators)),
        }
        seconds = alternating(ways)
    name = f"the same at scale {SCALES[1]:,.0f}, {THREADS} threads side by side"
    return [Line(name=name, value=seconds["noise"] / seconds["randn"], unit="times")]


def _named(scale: float) -> str:
    return f"{_NOISE} of scale {scale:,.0f}"


def alternating(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way, all of them in turn, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(REPETITIONS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
