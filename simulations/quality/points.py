"""What the quality page measures: each point is one command line, run on several seeds."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.simulation.runner import Simulation

EPSILONS = (1.0, 2.0, 4.0, 8.0)
SEEDS = (0, 1, 2, 3, 4)
# Bars of Recall@20 at EPSILONS, ten silos, noise once on the sum.
BARS = {"random90": (0.220, 0.245, 0.263, 0.279), "ultragcn": (0.180, 0.206, 0.228, 0.244)}
DEFAULT_KINDS = "categories,decades,words"
# Feature kinds beside none and the default, whose points are there anyway.
KINDS = (
    "categories", "words", "vectors", "categories,decades", "words,vectors", "categories,decades,vectors",
    "categories,decades,words,vectors",
)  # fmt: skip
ML_100K_DELTA = 1e-5
# Baselines without privacy, with what is not their default; chosen on the validation part of the protocol.
BASELINES: dict[str, dict[str, dict[str, float]]] = {
    "ultragcn": {"popularity": {}, "pure-svd": {}, "implicit-als": {}, "ease": {}},
    "random90": {"popularity": {}, "implicit-als": {}, "ease": {}},
    "ncf": {"popularity": {}, "implicit-als": {}, "ease": {"regularization": 1000.0}},
    "ml-100k": {"popularity": {}, "ease": {}},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting. `noise` is "own", "masked" (secure aggregation) or "none"; `kinds` "" means no item features."""

    table: str
    protocol: str
    silos: int = 10
    noise: str = "masked"
    epsilon: float = math.inf
    delta: float = 1e-6
    trainer: str = "auto"
    kinds: str = DEFAULT_KINDS
    held_out: str = "test"
    seeds: tuple[int, ...] = SEEDS

    def command(self) -> str:
        """The command line that makes a run of it, but for --epsilon and --seed."""
        words = [f"--protocol {self.protocol}", f"--silos {self.silos}"]
        words += [f"--delta {self.delta:g}"] if self.delta != 1e-6 else []
        words += [f"--trainer {self.trainer}"] if self.trainer != FederationConfig().trainer else []
        words += ["--secure-aggregation"] if self.noise == "masked" else []
        words += ["--held-out validation"] if self.held_out == "validation" else []
        if not self.kinds:
            words.append("--no-item-features")
        elif self.kinds != DEFAULT_KINDS:
            words.append(f"--feature-kinds {self.kinds}")
        if "vectors" in self.kinds:
            words.append("--item-catalogue catalogue.parquet")
        return " ".join(["recsys-fed simulate", *words])

    def simulation(self, seed: int, *, catalogue: str = "") -> Simulation:
        """The same as a value, on one thread; `catalogue` is a file with text vectors."""
        return Simulation(
            federation=FederationConfig(
                trainer=self.trainer, epsilon=self.epsilon, delta=self.delta, silos=self.silos, seed=seed, threads=1,
                secure_aggregation="on" if self.noise == "masked" else "off",
                item_features=bool(self.kinds), feature_kinds=self.kinds or DEFAULT_KINDS,
            ),
            data=SimulationConfig(
                protocol=self.protocol, held_out=self.held_out,
                item_catalogue=catalogue if "vectors" in self.kinds else "",
            ),
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """What names it, as JSON can hold it."""
        return asdict(self) | {"epsilon": "inf" if math.isinf(self.epsilon) else self.epsilon}


def all_points() -> list[Point]:
    """Every point, table by table."""
    return [*_by_silos(), *_by_kinds(), *_small_data()]


def _by_silos() -> Iterator[Point]:
    for protocol in BARS:
        for silos, noise in ((1, "own"), (10, "masked"), (10, "own"), (100, "masked"), (100, "own")):
            for epsilon in EPSILONS:
                # A hundred silos take several times as long.
                seeds = SEEDS if silos < 100 else SEEDS[:2]
                yield Point(table="silos", protocol=protocol, silos=silos, noise=noise, epsilon=epsilon, seeds=seeds)
        yield Point(table="silos", protocol=protocol, silos=1, noise="none")


def _by_kinds() -> Iterator[Point]:
    for kinds in ("", *KINDS):
        for epsilon in EPSILONS:
            yield Point(table="features", protocol="random90", epsilon=epsilon, kinds=kinds)
    for kinds in ("", *KINDS, DEFAULT_KINDS):
        for epsilon in (EPSILONS[0], EPSILONS[-1]):
            yield Point(
                table="features", protocol="random90", silos=1, noise="own", epsilon=epsilon, kinds=kinds,
                held_out="validation", seeds=SEEDS[:2],
            )  # fmt: skip


def _small_data() -> Iterator[Point]:
    for trainer in ("auto", "popularity"):
        for epsilon in EPSILONS:
            yield Point(table="ml-100k", protocol="ml-100k", epsilon=epsilon, delta=ML_100K_DELTA, trainer=trainer)
