"""Simulate with silos of several processes: `torchrun --nproc-per-node 2 -m recsys_fed.simulation.ranked SCENARIO`.

Rank 0 runs the simulation as `recsys-fed simulate` does, on the in-process engine; the other ranks hold their share
of each silo's users. With CUDA, rank r takes device r of its machine.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.data.simulated import silo_histories, simulated_federation
from recsys_fed.federation.distributed import join_ranks, share_of
from recsys_fed.models.device import resolve_device, return_large_arrays, use_threads
from recsys_fed.models.histories import UserHistories
from recsys_fed.simulation.flower_engine import scenario_path
from recsys_fed.simulation.runner import Simulation, simulate
from recsys_fed.trainers.registry import configured_trainer, signals_read
from recsys_fed.trainers.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the ranks; rank 0 simulates and prints the metrics record as JSON."""
    parser = argparse.ArgumentParser(prog="python -m recsys_fed.simulation.ranked", description=__doc__)
    parser.add_argument("scenario", help="scenario file, or the name of one")
    parser.add_argument("--output", type=Path, help="folder for the model, metrics and events")
    given = parser.parse_args(arguments)
    keys = read_toml(scenario_path(given.scenario))
    federation, data = parse(FederationConfig, keys), parse(SimulationConfig, keys)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    use_threads(federation.threads)
    return_large_arrays()

    @lru_cache(maxsize=1024)
    def open_share(silo: str) -> tuple[Trainer, UserHistories]:
        known = simulated_federation(data, silos=federation.silos, seed=federation.seed)
        trainer, index = configured_trainer(federation), int(silo.rpartition("-")[2])
        histories = silo_histories(
            known, index, device=resolve_device(federation.device), reads=signals_read(federation)
        )
        return trainer, share_of(histories)

    with join_ranks(open_share) as leads:
        if leads:
            simulation = Simulation(federation=federation, data=data, declare_users="declared-users" not in keys)
            record = simulate(simulation, output=given.output)
            sys.stdout.write(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
