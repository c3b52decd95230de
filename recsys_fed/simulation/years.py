"""Several trainings of one federation on data that grows, within one budget: simulate, go on after a kill, record.

Each training is a whole run in a folder of its own, with its certificates; the next one pools what it has released.
Silos keep one ledger over all of them. A training is written into a folder that is not there under its name until it
is finished, together with a copy of the ledgers as they were before: what was killed is done again from there, draws
the same noise, and is charged once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks
from recsys_fed.catalogue.features import public_features
from recsys_fed.catalogue.items import Catalogue, drop_items
from recsys_fed.config import FederationConfig, flat
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.metrics import HEADLINE_CUTOFF
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.federation.planning import PublicCatalogue, schedules_of_trainings
from recsys_fed.federation.run_files import EMBEDDINGS, EVENTS
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.models.new_items import with_new_items
from recsys_fed.privacy.guarantee import guarantee_of
from recsys_fed.simulation.record import METRICS, finite, spent_by_silo, write_run
from recsys_fed.simulation.runner import LEDGERS, Progress, Simulation, fold_in_scorer, prepare, simulate_whole

# Share of the users who change their tastes where `drift` says so.
_CHANGED_TASTES = 0.5
# The first training that knows the new items, from 1.
_NEW_ITEMS_FROM = 3
_NEW_ITEMS = 34
_KNOWN_ITEMS = "known_items.parquet"
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Years:
    """Trainings of one federation.

    Attributes:
        trainings: how many, within the epsilon of the simulation.
        growth: share of the train interactions that the first one has; it grows evenly until the last has all.
        cold: every training starts from nothing, in place of building on those before it.
        drift: number of the training from which on half of the users have other tastes, in all they do; 0: never.
        new_items: share of the items that are not in the catalogue before the third training.
    """

    trainings: int
    growth: float = 0.58
    cold: bool = False
    drift: int = 0
    new_items: float = 0.0

    def __post_init__(self) -> None:
        checks.at_least(1, trainings=self.trainings)
        checks.at_least(0, drift=self.drift)
        checks.probability(growth=self.growth)
        if not 0 <= self.new_items < 1:
            raise ConfigurationError(f"Expected 0 <= new_items < 1, got {self.new_items}.")

    @property
    def shares(self) -> list[float]:
        """Of the train interactions, for each training."""
        return [*np.linspace(self.growth, 1.0, self.trainings).tolist()[:-1], 1.0]


def simulate_years(
    simulation: Simulation, years: Years, *, output: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Run all trainings, or those that are not finished yet, and return the record: the last one's, and `trainings`.

    Raises:
        ConfigurationError: ledgers that others write too, or a folder with trainings of other settings.
        LedgerIntegrityError: what an earlier training has released was changed.
        RecsysFedError: see `simulate`.
    """
    if simulation.data.ledgers:
        raise ConfigurationError("Expected no --ledgers with --schedule: the trainings keep ledgers of their own.")
    progress = progress or Progress()
    settled, federation = prepare(simulation)
    output = output.expanduser().resolve()
    output.mkdir(parents=True, exist_ok=True)
    known = _known_items(federation, years, output, seed=settled.federation.seed)
    catalogue = PublicCatalogue(n_items=federation.catalogue.n_items, items=federation.catalogue)
    schedules = schedules_of_trainings(settled.federation, catalogue, trainings=years.trainings, cold=years.cold)
    settings = _settings_of(settled, years)
    _check_settings(output, settings)
    records: list[dict[str, Any]] = []
    for number, (schedule, share) in enumerate(zip(schedules, years.shares, strict=True), start=1):
        folder = _folder(output, number)
        if not folder.is_dir():
            data = replace(
                settled.data,
                train_share=share,
                changed_tastes=_CHANGED_TASTES if 0 < years.drift <= number else 0.0,
                item_catalogue=known if known and number < _NEW_ITEMS_FROM else settled.data.item_catalogue,
                epsilon_limit=settled.federation.epsilon,
            )
            config = replace(schedule.config, training=f"training-{number}")
            progress.say(f"training {number} of {years.trainings}: {share:.0%} of the interactions")
            _train(replace(settled, federation=config, data=data, declare_users=False), output, number, progress)
        records.append(json.loads((folder / METRICS).read_text(encoding="utf-8")))
    record = _record(records, settled.federation, years, output)
    if years.new_items and years.trainings >= _NEW_ITEMS_FROM:
        record["new_items"] = _new_items_record(federation, settled.federation, years, output)
    write_run(output, {key: value for key, value in settings.items() if not key.startswith("years.")}, record)
    return record


def _folder(output: Path, number: int) -> Path:
    return output / f"training-{number}"


def _train(simulation: Simulation, output: Path, number: int, progress: Progress) -> None:
    """One training, which builds on those before it."""
    earlier = (
        [str(_folder(output, one)) for one in range(1, number)] if simulation.federation.earlier_trainings else []
    )
    config = replace(simulation.federation, earlier=json.dumps(earlier) if earlier else "")
    ledgers = _folder(output, number - 1) / LEDGERS if number > 1 else None
    one = replace(simulation, federation=config)
    simulate_whole(one, _folder(output, number), ledgers=ledgers, progress=progress)


def _known_items(federation: SimulatedFederation, years: Years, output: Path, *, seed: int) -> str:
    """Path of the catalogue of the first trainings; "" where all items are there from the start."""
    if not years.new_items:
        return ""
    path = output / _KNOWN_ITEMS
    catalogue = drop_items(federation.catalogue, new_items(federation.catalogue, years.new_items, seed=seed))
    catalogue.save(path)
    return str(path)


def new_items(catalogue: Catalogue, share: float, *, seed: int) -> _Mask:
    """Which items of the catalogue are new at the third training, bool [n_items]."""
    new = np.zeros(catalogue.n_items, dtype=bool)
    drawn = np.random.default_rng([seed, _NEW_ITEMS]).choice(
        catalogue.n_items, max(1, round(share * catalogue.n_items)), replace=False
    )
    new[drawn] = True
    return new


def _new_items_record(
    federation: SimulatedFederation, config: FederationConfig, years: Years, output: Path
) -> dict[str, Any]:
    """Quality among the new items alone, and among the others: mapped from features at first, then as trained."""
    new = new_items(federation.catalogue, years.new_items, seed=config.seed)
    features = public_features(federation.catalogue, kinds=config.feature_kinds.split(","))
    found: dict[str, Any] = {"n_new": int(new.sum())}
    if features is not None:
        known = drop_items(federation.catalogue, new)
        model = load_item_embeddings(_folder(output, _NEW_ITEMS_FROM - 1) / EMBEDDINGS)
        rows = known.rows(federation.catalogue.item_ids)
        mapped = with_new_items(model, features, rows, catalogue_hash=federation.catalogue.content_hash)
        found["mapped from features"] = _quality_by_age(mapped, federation, new)
    for number in range(_NEW_ITEMS_FROM, years.trainings + 1):
        model = load_item_embeddings(_folder(output, number) / EMBEDDINGS)
        found[f"training {number}"] = _quality_by_age(model, federation, new)
    return found


def _quality_by_age(
    model: ItemEmbeddings, federation: SimulatedFederation, new: _Mask
) -> dict[str, dict[str, float]]:
    """Metrics of a ranking of the new items alone, and of one of the others, for histories of all items."""
    score = fold_in_scorer(model, federation, device="cpu")

    def quality(columns: npt.NDArray[np.int64]) -> dict[str, float]:
        chosen = torch.from_numpy(columns)
        return evaluate_ranking(
            lambda rows: score(rows)[:, chosen],
            train=federation.excluded.tocsc()[:, columns].tocsr(),
            test=federation.test.tocsc()[:, columns].tocsr(),
            cutoffs=(HEADLINE_CUTOFF,),
            whole_ranking=False,
        ).means()

    return {"new": quality(np.flatnonzero(new)), "others": quality(np.flatnonzero(~new))}


def _settings_of(simulation: Simulation, years: Years) -> dict[str, Any]:
    return (
        flat(simulation.federation)
        | flat(simulation.data)
        | {"engine": simulation.engine}
        | {f"years.{name}".replace("_", "-"): value for name, value in vars(years).items()}
    )


def _check_settings(output: Path, settings: Mapping[str, Any]) -> None:
    """Go on with trainings of the same settings only; the first call notes them."""
    path, text = output / "trainings.json", json.dumps(dict(settings), sort_keys=True, default=str)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigurationError(f"The folder {output} has trainings of other settings. Choose another --output.")
    path.write_text(text, encoding="utf-8")


def _record(
    records: Sequence[dict[str, Any]], config: FederationConfig, years: Years, output: Path
) -> dict[str, Any]:
    """The record of the last training with the promise and the cost of all, and a line for each."""
    guarantee = guarantee_of(config)
    events, trainings = "", []
    for number, (record, share) in enumerate(zip(records, years.shares, strict=True), start=1):
        events += (_folder(output, number) / EVENTS).read_text(encoding="utf-8")
        in_all = spent_by_silo(events, guarantee)
        trainings.append(
            {
                "training": number,
                "share": share,
                "metrics": record["metrics"],
                "epsilon": record["epsilon"],
                "epsilon_spent": record["epsilon_spent"],
                "epsilon_spent_in_all": {silo: finite(epsilon) for silo, epsilon in in_all.items()},
                "noise_multiplier": record["noise_multiplier"],
                "embedding_dim": record["embedding_dim"],
                "n_items": record["n_items"],
            }
        )
    return records[-1] | {
        "epsilon": finite(config.epsilon),
        "guarantee": guarantee.sentence(),
        "epsilon_spent": trainings[-1]["epsilon_spent_in_all"],
        "years": vars(years),
        "trainings": trainings,
    }
