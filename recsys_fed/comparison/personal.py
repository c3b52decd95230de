"""What each silo gets alone, from the released model, and from both."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from recsys_fed.comparison.lines import Line, line
from recsys_fed.comparison.measuring import Floats, Groups, measured
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.personalisation.choice import alone, choose_on
from recsys_fed.personalisation.folds import folds_of
from recsys_fed.personalisation.silo_model import Recipe, fit_silo_model, scorer_of

LOCAL, GLOBAL, BOTH = "local-only", "global, user-only", "global, silo-trusted"
_CHOICE = 31
_USER_ONLY = Recipe(own_weight=0.0)
Key = tuple[float, int]


def fold_in_lines(
    federation: SimulatedFederation, models: Mapping[Key, ItemEmbeddings], groups: Groups, *, method: str = GLOBAL
) -> Iterator[Line]:
    """Users folded in from the released model: the same in whichever silo they are."""
    train, excluded, test = federation.train, federation.excluded, federation.test
    for epsilon, _ in _by_budget(models):
        found = [
            measured(scorer_of(fit_silo_model(train, model, _USER_ONLY), train), excluded, test, groups)
            for (of, _), model in models.items()
            if of == epsilon
        ]
        yield line(method, found, epsilon=epsilon, note="" if math.isfinite(epsilon) else "no privacy")


def silo_lines(
    federation: SimulatedFederation,
    models: Mapping[Key, ItemEmbeddings],
    groups: Groups,
    *,
    seed: int,
    say: Callable[[str], None],
) -> Iterator[Line]:
    """Local-only first, then the released model with a model of the silo's own, for each budget.

    What a silo takes is chosen on its train histories alone, on the same folds for all released models.
    """
    found: dict[Key | None, dict[str, Floats]] = {}
    n_users = federation.train.shape[0]
    for silo, users in enumerate(federation.users_of_silo):
        say(f"silo-{silo}: choosing on its own users")
        of_silo = _of_silo(federation, users, models, groups, seed=[seed, _CHOICE, silo])
        for key, values in of_silo:
            for name, value in values.items():
                found.setdefault(key, {}).setdefault(name, np.full(n_users, np.nan))[users] = value
    yield line(LOCAL, [found[None]], note="nothing is released")
    for epsilon, keys in _by_budget(models):
        yield line(BOTH, [found[key] for key in keys], epsilon=epsilon)


def _of_silo(
    federation: SimulatedFederation,
    users: npt.NDArray[np.int64],
    models: Mapping[Key, ItemEmbeddings],
    groups: Groups,
    *,
    seed: list[int],
) -> Iterator[tuple[Key | None, dict[str, Floats]]]:
    """What the users of one silo get: under None alone, else with the model of that key."""
    train, excluded, test = federation.train[users], federation.excluded[users], federation.test[users]
    folds = folds_of(train, rng=np.random.default_rng(seed))
    own = alone(folds)
    for number, (key, model) in enumerate(models.items()):
        if not number:
            # A recipe without pull and with all weight on the silo reads nothing of the model: any will do.
            yield None, measured(scorer_of(fit_silo_model(train, model, own.recipe), train), excluded, test, groups)
        choice = choose_on(folds, own, model)
        yield key, measured(scorer_of(fit_silo_model(train, model, choice.recipe), train), excluded, test, groups)


def _by_budget(models: Mapping[Key, ItemEmbeddings]) -> list[tuple[float, list[Key]]]:
    budgets = sorted({epsilon for epsilon, _ in models})
    return [(epsilon, [key for key in models if key[0] == epsilon]) for epsilon in budgets]
