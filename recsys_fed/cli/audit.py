"""`recsys-fed audit`: attack a pipeline, and say what the attack is worth."""

from pathlib import Path
from typing import Annotated, Any

import typer

from recsys_fed.cli.options import AsJson, Setting, emit, run_options, settings_of
from recsys_fed.config import FederationConfig, SimulationConfig, parse, read_toml
from recsys_fed.report.console import new_console


@run_options(
    "data", "columns", "kinds", "format", "epsilon", "silos", "trainer", "threads", "seed",
    epsilon="Claimed epsilon of every user.", trainer="spectral or dp-sgd.", seed="Seed of the run.",
)  # fmt: skip
def audit(  # noqa: PLR0913  (one argument a flag)
    scenario: Annotated[str | None, typer.Argument(help="Scenario TOML, as of `simulate`.")] = None,
    *,
    output: Annotated[Path, typer.Option(help="Folder for audit.json and the run with canaries.")],
    given: dict[str, Any],
    secure_aggregation: Annotated[str | None, typer.Option(help="auto, on or off.")] = None,
    canaries: Annotated[int, typer.Option(min=10, help="Crafted users; a coin lets half of them in.")] = 1_000,
    audit_seed: Annotated[int, typer.Option(min=0, help="Seed of canaries, coins and the auditor's keys.")] = 0,
    power: Annotated[bool, typer.Option(help="Also audit a null and broken copies of the mechanism.")] = True,
    attacks: Annotated[bool, typer.Option(help="Also attack the model, updates and lists.")] = True,
    settings: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Attack a training pipeline as it is deployed: lower bounds of epsilon, conformance tests, attacks.

    Exit code 1 if something contradicts the claimed epsilon.
    """
    from recsys_fed.audit.audit import AuditSettings  # noqa: PLC0415
    from recsys_fed.audit.audit import audit as audited  # noqa: PLC0415
    from recsys_fed.report.audit import print_audit_of_run  # noqa: PLC0415
    from recsys_fed.report.console import told_progress  # noqa: PLC0415
    from recsys_fed.simulation.flower_engine import scenario_path  # noqa: PLC0415

    keys = read_toml(scenario_path(scenario)) if scenario else {}
    keys |= settings_of(settings or []) | given
    keys |= {} if secure_aggregation is None else {"secure-aggregation": secure_aggregation}
    wanted = AuditSettings(canaries=canaries, seed=audit_seed, power=power, attacks=attacks)
    config, where = parse(FederationConfig, keys), parse(SimulationConfig, keys)
    with told_progress(new_console(stderr=True)) as progress:
        record = audited(config, where, wanted, folder=output, progress=progress)
    emit(record) if as_json else print_audit_of_run(record, output=output)
    raise typer.Exit(1 if record["flagged"] else 0)
