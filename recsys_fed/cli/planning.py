"""`recsys-fed privacy plan` and `simulate-budget`: what runs would cost, before anything is asked of any silo."""

from pathlib import Path
from typing import Annotated

import typer

from recsys_fed.cli import options
from recsys_fed.cli.options import catalogue_of, emit, federation_of, one_of_two


def plan(  # noqa: PLR0913  (one argument a flag)
    *,
    epsilon: options.Epsilon = None,
    noise_multiplier: options.NoiseMultiplier = None,
    delta: options.Delta = None,
    trainer: options.TrainerName = None,
    rounds: options.Rounds = None,
    embedding_dim: options.EmbeddingDim = None,
    silos: options.Silos = None,
    declared_users: options.DeclaredUsers = None,
    n_items: options.Items = options.DEFAULT_ITEMS,
    catalogue: options.CatalogueFile = None,
    max_silos_per_user: options.MaxSilosPerUser = None,
    metrics_epsilon: options.MetricsEpsilon = None,
    noise: options.Noise = None,
    secure_aggregation: options.SecureAggregation = None,
    secure_aggregation_threshold: options.Threshold = None,
    secure_aggregation_colluders: options.Colluders = None,
    runs: Annotated[int, typer.Option(min=1, help="Equal runs that share epsilon, such as trials of a sweep.")] = 1,
    ledger: Annotated[str | None, typer.Option(help="Would it fit into this ledger, and how often?")] = None,
    settings: options.Setting = None,
    as_json: options.AsJson = False,
) -> None:
    """The noise that a budget needs and the error to expect, or (--noise-multiplier) the epsilon of a noise.

    It is the plan that the server makes. Exit code 1 if it does not fit into the ledger.
    """
    one_of_two(epsilon=epsilon, noise_multiplier=noise_multiplier)
    flags = {
        "epsilon": epsilon, "delta": delta, "trainer": trainer, "rounds": rounds, "embedding_dim": embedding_dim,
        "silos": silos, "declared_users": declared_users, "max_silos_per_user": max_silos_per_user,
        "metrics_epsilon": metrics_epsilon, "noise": noise, "secure_aggregation": secure_aggregation,
        "secure_aggregation_threshold": secure_aggregation_threshold,
        "secure_aggregation_colluders": secure_aggregation_colluders,
    }  # fmt: skip
    from recsys_fed.federation.planning import schedule_of_equal_runs, schedule_with_noise  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.report.planning import plan_record, print_plan  # noqa: PLC0415

    opened = Ledger.open(ledger) if ledger is not None else None
    config = federation_of(flags, settings, terms=opened.terms() if opened is not None else None)
    public = catalogue_of(catalogue, n_items)
    if noise_multiplier is not None:
        schedule = schedule_with_noise(config, public, noise_multiplier=noise_multiplier)
    else:
        schedule = schedule_of_equal_runs(config, public, runs=runs)
    record = plan_record(schedule, runs=runs, ledger=opened)
    emit(record) if as_json else print_plan(record)
    raise typer.Exit(0 if opened is None or record["ledger"]["fits"] else 1)


def simulate_budget(  # noqa: PLR0913  (one argument a flag)
    ledger: Annotated[str | None, typer.Argument(metavar="[LEDGER]", help="Start from what it has spent.")] = None,
    *,
    epsilon_per_run: Annotated[float | None, typer.Option(help="Of every run, as `simulate --epsilon`.")] = None,
    noise_multiplier: options.NoiseMultiplier = None,
    until: Annotated[float | None, typer.Option(help="Limit; by default that of the ledger, or epsilon 8.")] = None,
    runs: Annotated[int | None, typer.Option(min=1, help="How many; by default until one does not fit.")] = None,
    every: Annotated[str | None, typer.Option(help='Time between two runs: "30 days", "2 weeks".')] = None,
    start: Annotated[str | None, typer.Option(help="Date of the first run, 2026-01-31; by default today.")] = None,
    delta: options.Delta = None,
    trainer: options.TrainerName = None,
    rounds: options.Rounds = None,
    silos: options.Silos = None,
    declared_users: options.DeclaredUsers = None,
    n_items: options.Items = options.DEFAULT_ITEMS,
    max_silos_per_user: options.MaxSilosPerUser = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw it: a PNG (needs recsys-fed[plots]).")] = None,
    settings: options.Setting = None,
    as_json: options.AsJson = False,
) -> None:
    """What is left of a budget after each retraining. Exit code 1 if a run that is asked for does not fit."""
    one_of_two(epsilon_per_run=epsilon_per_run, noise_multiplier=noise_multiplier)
    flags = {
        "epsilon": epsilon_per_run or 1.0, "delta": delta, "trainer": trainer, "rounds": rounds, "silos": silos,
        "declared_users": declared_users, "max_silos_per_user": max_silos_per_user,
    }  # fmt: skip
    from recsys_fed.federation.planning import planned_schedule, schedule_with_noise  # noqa: PLC0415
    from recsys_fed.ledger.ledger import Ledger  # noqa: PLC0415
    from recsys_fed.report.planning import (  # noqa: PLC0415
        Calendar,
        budget_record,
        day_of,
        draw_budget,
        period_of,
        print_budget,
    )

    calendar = Calendar(first=day_of(start), every=period_of(every))
    opened = Ledger.open(ledger) if ledger is not None else None
    config = federation_of(flags, settings, terms=opened.terms() if opened is not None else None)
    public = catalogue_of(None, n_items)
    if noise_multiplier is not None:
        schedule = schedule_with_noise(config, public, noise_multiplier=noise_multiplier)
    else:
        schedule = planned_schedule(config, public)
    record = budget_record(schedule, ledger=opened, limit=until, runs=runs, calendar=calendar)
    if plot is not None:
        draw_budget(record, plot)
    emit(record) if as_json else print_budget(record)
    raise typer.Exit(0 if record["runs_that_fit"] >= (runs or 1) else 1)
