"""`make test-gpu`: figures of a machine with a GPU, as one page, in under ten minutes.

    python -m simulations.benchmarks.on_gpu [--device cuda] [--size full|small] [--output bench-results/gpu.md]

    equal   every stage of spectral, ordered and each module of torch, the same tables and users on CPU and device:
            the relative difference of the sums, whose bar is 1e-4
    step    a clipped sum of a module: the trainer's way, Opacus' ghost clipping, Opacus' hooks
    large   whole runs at MovieLens-20M's size, without and with order

The page is written after each part. The exit code is 1 where a bar does not hold. Without a GPU, `--device cpu --size
small` goes the same ways; its figures say nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.simulated import silo_histories, simulated_federation
from recsys_fed.models.device import resolve_device, use_threads
from recsys_fed.models.histories import Histories
from recsys_fed.models.torch_modules import MODULES
from recsys_fed.simulation.runner import Simulation, one_digit, simulate
from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.torch_trainer import TorchTrainer
from recsys_fed.trainers.trainer import PublicFacts, Trainer
from simulations.benchmarks.__main__ import LATEST, circumstances
from simulations.benchmarks.federation_run import MOVIELENS_20M
from simulations.benchmarks.line import Line
from simulations.benchmarks.module_step import N_ITEMS, N_USERS, STEPS, problem_of

EQUAL, TURNS = 1e-4, 5
_EVALUATED = 10_000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is.

    Attributes:
        users, items: of equality.
        modules: of equality.
        step_users, step_items: of a step.
        large: users, items and interactions of a user of whole runs. silos: of these.
    """

    users: int
    items: int
    modules: tuple[str, ...]
    step_users: int
    step_items: int
    large: tuple[int, int, int]
    silos: int


SIZES = {
    "full": Sizes(
        users=3_000,
        items=2_000,
        modules=tuple(MODULES),
        step_users=N_USERS,
        step_items=N_ITEMS,
        large=(MOVIELENS_20M.n_users, MOVIELENS_20M.n_items, MOVIELENS_20M.mean_interactions),
        silos=MOVIELENS_20M.silos,
    ),
    "small": Sizes(
        users=60, items=40, modules=("autoencoder",), step_users=8, step_items=200, large=(60, 40, 8), silos=1
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the page and say whether all bars hold."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmarks.on_gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="full", choices=SIZES)
    parser.add_argument("--output", type=Path, default=LATEST.with_name("gpu.md"))
    given = parser.parse_args(arguments)
    device, sizes = resolve_device(given.device), SIZES[given.size]
    use_threads(0)
    before, console = circumstances(), Console(stderr=True)
    lines: list[Line] = []
    start = time.perf_counter()
    for part in (equal_lines, step_lines, large_lines):
        for line in part(device, sizes):
            lines.append(line)
            console.print(f"{time.perf_counter() - start:4.0f} s  {line.name}: {line.value:.4g} {line.unit}")
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(page_of(lines, before, device, given.size), encoding="utf-8")
    return int(any(line.holds is False for line in lines))


def page_of(lines: Sequence[Line], before: dict[str, Any], device: torch.device, size: str) -> str:
    """The page: where and with what it was measured, and a table."""
    machine: dict[str, Any] = before["machine"]
    marks = {None: "", True: "yes", False: "**no**"}
    rows = [
        f"| {line.name} | {line.value:.4g} | {line.unit} | {'' if line.bar is None else f'{line.bar:g}'} "
        f"| {marks[line.holds]} |"
        for line in lines
    ]
    return "\n".join(
        [
            f"# Figures on {device}, sizes: {size}",
            "",
            f"{before['date']}; GPU: {machine['gpu']}; {machine['processor']}, {machine['cores']} cores, load before "
            f"{machine['load_before']}; " + ", ".join(f"{k} {v}" for k, v in dict(before["versions"]).items()),
            "",
            "| what | value | unit | bar | holds |",
            "|---|--:|---|--:|---|",
            *rows,
            "",
        ]
    )


def equal_lines(device: torch.device, sizes: Sizes) -> Iterator[Line]:
    """The largest difference between CPU and device of any stage of each trainer."""
    spec = f"generated:users={sizes.users},items={sizes.items}"
    federation = simulated_federation(SimulationConfig(data=spec, split="leave-last-out"), silos=1, seed=0)
    histories = silo_histories(federation, 0, reads=frozenset({"order"}))
    if not isinstance(histories, Histories):
        raise TypeError(f"Expected histories in memory, got {type(histories).__name__}.")
    trainers: dict[str, tuple[Trainer, int, bool]] = {
        "spectral": (Spectral(), 0, False),
        "ordered": (Spectral(), 0, True),
    }
    trainers |= {f"torch, {name}": (TorchTrainer(module=name), 3, False) for name in sizes.modules}
    for name, (trainer, rounds, next_item) in trainers.items():
        facts = PublicFacts(
            n_items=histories.n_items,
            catalogue_hash=federation.catalogue.content_hash,
            declared_users=one_digit(histories.n_users),
            silos=1,
            noise_level=1.0,
            rounds=rounds,
            next_item=next_item,
        )
        difference = largest_difference(trainer, facts, histories, device)
        yield Line(name=f"equal: {name}, CPU and {device}", value=difference, unit="of the sum", bar=EQUAL)


def largest_difference(trainer: Trainer, facts: PublicFacts, histories: Histories, device: torch.device) -> float:
    """Over all stages of a training without noise: |on CPU - on device| over |on CPU|; the tables are the CPU's."""
    there, largest = histories.to(device), 0.0
    state = trainer.start(facts, np.random.default_rng(0))
    for stage in trainer.plan(facts):
        tables = trainer.tables(state, stage)
        settings = {**stage.settings, "l2_clip_norm": stage.l2_clip_norm}
        total = trainer.contribution(stage.name, tables, histories, settings=settings)
        moved = {name: table.to(device) for name, table in tables.items()}
        other = trainer.contribution(stage.name, moved, there, settings=settings).cpu()
        largest = max(largest, float((total - other).norm() / total.norm()))
        state = trainer.step(state, stage, total, noise_std=0.0, n_silos=1)
    return largest


def step_lines(device: torch.device, sizes: Sizes) -> Iterator[Line]:
    """Milliseconds of a clipped sum in three ways, the fastest of a few, and their differences in clip norms."""
    module, table, examples = problem_of(sizes.step_users, n_items=sizes.step_items, device=device)
    sums, seconds = {}, {}
    for name, step in STEPS.items():
        sums[name] = step(module, table, examples)
        seconds[name] = min(_seconds(lambda step=step: step(module, table, examples), device) for _ in range(TURNS))  # type: ignore[misc]
    what = f"step: {len(table):,} items, {sizes.step_users:,} users, d={table.shape[1]}"
    for name, took in seconds.items():
        yield Line(name=f"{what}, {name}", value=1e3 * took, unit="ms")
    for name in ("ghost", "hooks"):
        far = float((sums[name] - sums["ours"]).norm() / sums["ours"].norm())
        yield Line(name=f"{what}, {name} from ours", value=far, unit="of the sum", bar=EQUAL)
        yield Line(name=f"{what}, ours over {name}", value=seconds["ours"] / seconds[name], unit="times")


def large_lines(device: torch.device, sizes: Sizes) -> Iterator[Line]:
    """Seconds of whole runs at epsilon 8."""
    users, items, interactions = sizes.large
    spec = f"generated:users={users},items={items},interactions={interactions}"
    for name, split in (("spectral", "per-user-random"), ("ordered", "leave-last-out")):
        record: dict[str, Any] = simulate(
            Simulation(
                federation=FederationConfig(trainer="spectral", silos=sizes.silos, epsilon=8.0, device=str(device)),
                data=SimulationConfig(data=spec, split=split),
                evaluate_users=_EVALUATED,
            )
        )
        for phase, took in record["seconds"].items():
            yield Line(name=f"large: {name}, {users:,} users, {items:,} items: {phase}", value=took, unit="s")
        yield Line(name=f"large: {name}: ndcg@10", value=record["metrics"]["ndcg@10"], unit="")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long a piece of work takes, to the end of what it put on the device."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
