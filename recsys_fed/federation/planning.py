"""What a run would cost and how large its noise would be, from the very plan that the server makes.

Nothing is asked of any silo: everything here follows from public settings.
"""

import math
from dataclasses import dataclass, replace
from itertools import groupby

from recsys_fed import checks
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.errors import CalibrationError
from recsys_fed.federation.aggregation import noise_on_total
from recsys_fed.federation.messages import Greeting, Request
from recsys_fed.federation.noise_split import resolve_masking
from recsys_fed.federation.release import release_event
from recsys_fed.federation.schedule import Schedule, begin, planned_request
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.accounting.composition import repeat
from recsys_fed.privacy.calibration import SMALLEST_EPSILON
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import guarantee_of

# Of noise and epsilon that are searched for.
PRECISION = 1e-3
_ATTEMPTS = 12


@dataclass(frozen=True, kw_only=True)
class PublicCatalogue:
    """What the plan needs of the catalogue: its size, and its items where features follow from them."""

    n_items: int
    items: Catalogue | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """Equal rounds that follow each other.

    Attributes:
        asked: what a silo would be asked for in the first of them, without its tables.
        rounds: how many there are.
        noise_of_silo: standard deviation of the noise of one silo's release, on each entry; of local steps, of
            their sum.
        noise_on_sum: the same on each entry of the sum over all silos, as the plan has it.
        noise_if_per_silo, noise_if_distributed: the same on each entry of the sum over silos, if every silo adds
            the whole noise and if it is added once; the latter is None for local steps, whose noise cannot be split.
        signal: most that the declared users can add to the sum, as its length; None for local steps.
    """

    asked: Request
    rounds: int
    noise_of_silo: float
    noise_on_sum: float
    noise_if_per_silo: float
    noise_if_distributed: float | None
    signal: float | None


def planned_schedule(config: FederationConfig, catalogue: PublicCatalogue) -> Schedule:
    """The schedule that the server would begin with; raises what it would raise."""
    checks.at_least(1, n_items=catalogue.n_items, silos=config.silos)
    hashed = catalogue.items.content_hash if catalogue.items is not None else ""
    greeting = Greeting(silo="plan", catalogue_hash=hashed, n_items=catalogue.n_items)
    return begin(resolve_masking(config, simulated=True), greeting, catalogue.items)


def planned_events(schedule: Schedule) -> tuple[PrivacyEvent, ...]:
    """What one silo would be charged for the run."""
    return tuple(
        release_event(stage.asked, noise_source="operating-system")
        for stage in stages_of(schedule)
        for _ in range(stage.rounds)
    )


def schedule_with_noise(config: FederationConfig, catalogue: PublicCatalogue, *, noise_multiplier: float) -> Schedule:
    """The reverse: the schedule whose base noise multiplier is the given one; its epsilon is in its config.

    Raises:
        CalibrationError: no epsilon that can be calibrated has this noise.
    """
    checks.non_negative(noise_multiplier=noise_multiplier)
    if noise_multiplier == 0:
        return planned_schedule(replace(config, epsilon=math.inf), catalogue)
    guarantee = guarantee_of(config)
    single = guarantee.over_silos_kinds([PrivacyEvent(noise_multiplier=noise_multiplier)])
    goal = math.log(noise_multiplier)
    # Noise that costs nothing at this delta has no epsilon to begin with; the smallest one then says so.
    at, slope = math.log(max(epsilon_of_history(single, delta=config.delta), SMALLEST_EPSILON / 2)), -1.0
    known: tuple[float, float] | None = None
    for _ in range(_ATTEMPTS):
        schedule = planned_schedule(replace(config, epsilon=math.exp(at)), catalogue)
        found = math.log(schedule.noise_multiplier)
        if abs(found - goal) <= PRECISION:
            break
        if known is not None and at != known[0]:
            # Noise falls with epsilon; the secant of the logarithms, kept from running away.
            slope = min(-0.2, (found - known[1]) / (at - known[0]))
        known, at = (at, found), at + (goal - found) / slope
    else:
        raise CalibrationError(
            f"No epsilon has a plan with the noise multiplier {noise_multiplier:g}. Say the rounds."
        )
    exact = replace(schedule, noise_multiplier=noise_multiplier)
    spent = epsilon_of_history(guarantee.over_silos_kinds(planned_events(exact)), delta=config.delta)
    return replace(exact, config=replace(config, epsilon=spent))


def schedule_of_equal_runs(config: FederationConfig, catalogue: PublicCatalogue, *, runs: int) -> Schedule:
    """One of `runs` equal runs that cost at most the configuration's epsilon together, within 1% of it.

    Its own epsilon is in its config, rounded down to four figures, so that the run can be asked for with it.

    Raises:
        CalibrationError: each would get less than can be calibrated.
    """
    checks.at_least(1, runs=runs)
    if runs == 1 or math.isinf(config.epsilon):
        return planned_schedule(config, catalogue)
    guarantee, epsilon = guarantee_of(config), config.epsilon / math.sqrt(runs)
    for _ in range(2 * _ATTEMPTS):
        epsilon = _four_figures(epsilon)
        if epsilon < SMALLEST_EPSILON:
            raise CalibrationError(
                f"Expected at least epsilon {SMALLEST_EPSILON:g} for each of {runs} runs, got {epsilon:g}. "
                "Plan fewer runs, or a larger epsilon."
            )
        schedule = planned_schedule(replace(config, epsilon=epsilon), catalogue)
        together = repeat(planned_events(schedule), runs)
        cost = epsilon_of_history(guarantee.over_silos_kinds(together), delta=config.delta)
        if 0.99 * config.epsilon <= cost <= config.epsilon:
            return schedule
        # Towards the middle of what is accepted: the cost grows a little faster than each run's epsilon.
        epsilon *= 0.996 * config.epsilon / cost
    raise CalibrationError(f"No plan fits {runs} equal runs into epsilon {config.epsilon:g}. Plan other rounds.")


def schedules_of_trainings(
    config: FederationConfig, catalogue: PublicCatalogue, *, trainings: int, cold: bool = False
) -> list[Schedule]:
    """Trainings of equal budgets, each built on those before it, that together cost at most epsilon.

    Their own epsilon is in their configs, rounded down to four figures. All events of all of them are composed by
    both accountants, and come within 1% of the configuration's epsilon.

    Args:
        config: with the epsilon of all of them; the first builds on its `earlier_trainings`.
        catalogue: of the last one.
        trainings: how many.
        cold: each starts from nothing.

    Raises:
        CalibrationError: each would get less than can be calibrated.
    """
    checks.at_least(1, trainings=trainings)
    guarantee, epsilon = guarantee_of(config), config.epsilon / math.sqrt(trainings)
    for _ in range(2 * _ATTEMPTS):
        if math.isfinite(epsilon):
            epsilon = _four_figures(epsilon)
        if epsilon < SMALLEST_EPSILON:
            raise CalibrationError(
                f"Expected at least epsilon {SMALLEST_EPSILON:g} for each of {trainings} trainings, got {epsilon:g}. "
                "Plan fewer, or a larger epsilon."
            )
        configs = [
            replace(config, epsilon=epsilon, earlier_trainings=0 if cold else config.earlier_trainings + number)
            for number in range(trainings)
        ]
        schedules = [planned_schedule(one, catalogue) for one in configs]
        if math.isinf(epsilon):
            return schedules
        events = [event for schedule in schedules for event in planned_events(schedule)]
        cost = epsilon_of_history(guarantee.over_silos_kinds(events), delta=config.delta)
        if 0.99 * config.epsilon <= cost <= config.epsilon:
            return schedules
        epsilon *= 0.998 * config.epsilon / cost
    raise CalibrationError(f"No plan fits {trainings} trainings into epsilon {config.epsilon:g}. Plan other rounds.")


def stages_of(schedule: Schedule) -> list[PlannedStage]:
    """The rounds with shapes and noise."""
    stages = []
    numbered = list(enumerate(schedule.stages))
    for _, group in groupby(numbered, key=lambda pair: (pair[1].name, pair[1].release, pair[1].l2_clip_norm)):
        rounds = list(group)
        asked = planned_request(schedule, rounds[0][0])
        stages.append(_plan(asked, schedule.config, rounds=len(rounds), declared=schedule.facts.declared_users))
    return stages


def _plan(asked: Request, config: FederationConfig, *, rounds: int, declared: int) -> PlannedStage:
    sums = asked.steps if asked.noise_inside else 1
    whole = replace(asked.mechanism, noise_share=1.0)
    once = whole.standard_deviation * asked.grid_step * math.sqrt(sums)
    return PlannedStage(
        asked=asked,
        rounds=rounds,
        noise_of_silo=noise_on_total(asked, 1),
        noise_on_sum=noise_on_total(asked, config.silos),
        noise_if_per_silo=once * math.sqrt(config.silos),
        noise_if_distributed=None if asked.noise_inside else once,
        signal=None if asked.noise_inside else declared * asked.sampling_probability * asked.l2_clip_norm,
    )


def _four_figures(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.floor(value / unit) * unit:.4g}")
