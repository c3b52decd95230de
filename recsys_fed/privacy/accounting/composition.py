"""A history as its kinds: what a composition costs depends on how often each kind of event occurred, not on order.

Releases without sampling are one kind whatever their noise: k Gaussians are exactly one, with
1 / noise^2 = sum of steps / noise^2. Sampled ones are kept by noise and sampling probability; a history
with very many of those is rounded to fewer kinds, towards more epsilon.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from recsys_fed.privacy.events import PrivacyEvent

MOST_SAMPLED_KINDS = 32
# More kinds than this first go onto a grid, from this relative width on, as wide as it takes.
_MOST_PAIRED = 512
_FIRST_GRID = 1e-3
_SLACK_UNIT = 2**64
# Of delta, that all negligible kinds together may cost outright.
_NEGLIGIBLE = 1e-4
Kinds = tuple[PrivacyEvent, ...]


def kinds_of(events: Iterable[PrivacyEvent]) -> Kinds:
    """Return the same history with equal events merged, in an order of its own.

    Guarantees: the same kinds for any order of the events; accountants give the same figure bit for bit.
    """
    steps: Counter[tuple[float, float]] = Counter()
    slack: Counter[tuple[float, float]] = Counter()
    for event in events:
        kind = (event.sampling_probability, event.noise_multiplier)
        steps[kind] += event.steps
        slack[kind] += slack_units(event.slack)
    return tuple(
        PrivacyEvent(
            noise_multiplier=noise,
            sampling_probability=probability,
            steps=count,
            slack=slack_of(slack[probability, noise]),
        )
        for (probability, noise), count in sorted(steps.items())
    )


def slack_units(slack: float) -> int:
    """A slack in units of 2^-64, rounded up: integers add up alike in any order."""
    return math.ceil(slack * _SLACK_UNIT)


def slack_of(units: int) -> float:
    """The slack of so many units."""
    return units / _SLACK_UNIT


def repeat(events: Iterable[PrivacyEvent], times: int) -> Kinds:
    """The kinds of a history that happens so many times over."""
    kinds = kinds_of(events) if times else ()
    return tuple(replace(kind, steps=kind.steps * times, slack=kind.slack * times) for kind in kinds)


def few_kinds(events: Iterable[PrivacyEvent], *, most: int = MOST_SAMPLED_KINDS) -> Kinds:
    """Return kinds whose epsilon is at least that of `events`, with at most `most` sampled ones.

    Up to `most` sampled kinds nothing is lost. Of more, pairs become one with the smaller noise and the
    larger sampling probability of the two, the cheapest pair first. Releases without sampling become one.
    The slack of all of them is that of the first kind.
    """
    kinds = kinds_of(events)
    if not kinds or any(event.noise_multiplier == 0 for event in kinds):
        return kinds
    precision = math.fsum(e.steps / e.noise_multiplier**2 for e in kinds if e.sampling_probability == 1)
    sampled = tuple(replace(event, slack=0.0) for event in kinds if event.sampling_probability < 1)
    width = _FIRST_GRID
    while len(sampled) > max(most, _MOST_PAIRED):
        sampled = kinds_of(_round_outwards(event, math.log1p(width)) for event in sampled)
        width *= 2
    if len(sampled) > most:
        sampled = _merge_pairs(sampled, most)
    first, *others = sampled + ((PrivacyEvent(noise_multiplier=precision**-0.5),) if precision else ())
    return (replace(first, slack=math.fsum(event.slack for event in kinds)), *others)


def drop_negligible(kinds: Kinds, *, delta: float) -> Kinds:
    """Return kinds whose epsilon is at least that of `kinds`, without those that cost nearly nothing.

    Their total variation is paid for out of delta, as slack: at most 1e-4 of delta; kinds of a size that
    accountants are made for are not touched. At least one kind is left.
    """
    room, kept, slack = _NEGLIGIBLE * delta, list(kinds), []
    for cost, kind in sorted(zip(map(total_variation, kinds), kinds, strict=True), key=lambda pair: pair[0]):
        if cost > room or len(kept) == 1:
            break
        room -= cost
        kept.remove(kind)
        slack += [cost, kind.slack]
    if not slack:
        return kinds
    first, *others = kept
    return (replace(first, slack=math.fsum([first.slack, *slack])), *others)


def total_variation(kind: PrivacyEvent) -> float:
    """Return an upper bound on the total variation between all steps with a user and without.

    At this delta epsilon is 0.

    Of one step of a sampled Gaussian it is at most q / (noise sqrt(2 pi)), and never above q.
    """
    chance = min(1.0, 1 / (kind.noise_multiplier * math.sqrt(2 * math.pi)))
    return kind.steps * kind.sampling_probability * chance


def _merge_pairs(kinds: Kinds, most: int) -> Kinds:
    """Merge the pair that adds least to the variance of the privacy loss, until `most` are left."""
    noise = np.array([e.noise_multiplier for e in kinds])
    probability = np.array([e.sampling_probability for e in kinds])
    steps = np.array([e.steps for e in kinds], dtype=np.float64)
    while len(steps) > most:
        worse = _loss_variance(np.minimum.outer(noise, noise), np.maximum.outer(probability, probability))
        own = steps * _loss_variance(noise, probability)
        added = np.add.outer(steps, steps) * worse - np.add.outer(own, own)
        np.fill_diagonal(added, np.inf)
        kept, gone = sorted(np.unravel_index(int(np.argmin(added)), added.shape))
        noise[kept], probability[kept] = min(noise[[kept, gone]]), max(probability[[kept, gone]])
        steps[kept] += steps[gone]
        noise, probability, steps = (np.delete(values, gone) for values in (noise, probability, steps))
    merged = zip(noise.tolist(), probability.tolist(), steps.tolist(), strict=True)
    return kinds_of(PrivacyEvent(noise_multiplier=n, sampling_probability=q, steps=int(k)) for n, q, k in merged)


def _loss_variance(noise: npt.NDArray[np.float64], probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of one step, roughly: q^2 (exp(1 / noise^2) - 1), see `pld.loss_deviation`."""
    return np.minimum(noise**-2.0, probability**2 * np.expm1(np.minimum(noise**-2.0, 700.0)))


def _round_outwards(event: PrivacyEvent, width: float) -> PrivacyEvent:
    noise = math.exp(math.floor(math.log(event.noise_multiplier) / width) * width)
    probability = math.exp(math.ceil(math.log(event.sampling_probability) / width) * width)
    return PrivacyEvent(
        noise_multiplier=min(noise, event.noise_multiplier),
        sampling_probability=min(max(probability, event.sampling_probability), 1.0),
        steps=event.steps,
    )
