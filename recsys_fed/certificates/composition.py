"""What a user who may be in several silos has lost at most, whichever silos these are."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from heapq import nlargest

from recsys_fed.privacy.accounting.composition import Kinds, kinds_of
from recsys_fed.privacy.events import PrivacyEvent


def worst_composition(histories: Iterable[Iterable[PrivacyEvent]], silos_per_user: int) -> Kinds:
    """Return events that cost at least as much as any `silos_per_user` of the histories together.

    Guarantees: an upper bound. Of every sampled kind it takes the steps of the histories that have most of it,
    without sampling those with the largest sum of steps / noise^2, and the largest slacks. It is exact where the
    same histories have most of every kind, above all where all are alike.
    """
    precisions: list[float] = []
    slacks: list[float] = []
    sampled: defaultdict[tuple[float, float], list[int]] = defaultdict(list)
    for history in histories:
        kinds = kinds_of(history)
        if any(kind.noise_multiplier == 0 for kind in kinds):
            return (PrivacyEvent(noise_multiplier=0.0),)
        precisions.append(sum(k.steps / k.noise_multiplier**2 for k in kinds if k.sampling_probability == 1))
        slacks.append(sum(kind.slack for kind in kinds))
        for kind in kinds:
            if kind.sampling_probability < 1:
                sampled[(kind.noise_multiplier, kind.sampling_probability)].append(kind.steps)
    worst = [
        PrivacyEvent(noise_multiplier=noise, sampling_probability=q, steps=sum(nlargest(silos_per_user, steps)))
        for (noise, q), steps in sampled.items()
    ]
    most = sum(nlargest(silos_per_user, precisions))
    kinds = kinds_of([*worst, PrivacyEvent(noise_multiplier=most**-0.5)] if most else worst)
    if not kinds:
        return ()
    return (replace(kinds[0], slack=sum(nlargest(silos_per_user, slacks))), *kinds[1:])
