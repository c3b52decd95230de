"""Ledgers, audits and certified runs as people see them in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from recsys_fed.certificates.certificate import epsilon_that_counts
from recsys_fed.certificates.run import VerifiedRun
from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.report.console import new_console, new_table, print_table

SIMULATED = "simulated: its noise follows from a seed, so it protects nobody"
ONLY_THE_SUM = "each silo added a share of the noise: this holds only against those who see no more than the sum"
MASKED = (
    "secure aggregation: the server saw sums of at least {threshold} silos. This holds against the server together "
    "with up to {colluding} silos; what a silo sent by itself is hidden by masks, not by its noise"
)
_ACCOUNTANTS = ("pld", "prv", "rdp")


def print_created(record: Mapping[str, Any]) -> None:
    """A new ledger, and the key that others should know."""
    console = new_console()
    _say(console, f"created {record['ledger']}")
    _say(console, f"public key: {record['terms']['public_key']}")
    _say(console, record["guarantee"])


def print_status(record: Mapping[str, Any]) -> None:
    """Terms, budget and the last runs."""
    console = new_console()
    terms = record["terms"]
    console.print(record["ledger"], style="bold", markup=False, highlight=False)
    _say(
        console,
        f"silo {terms['silo']}, key {terms['public_key'][:16]}..., {terms['declared_users']:,} declared users",
    )
    if terms["simulated"]:
        console.print(f"[bold red]{SIMULATED}[/]")
    last = record["last_entry"]
    _say(
        console,
        f"{record['entries']:,} entries, {record['releases']:,} of them releases; the last one is {last['kind']} "
        f"{last['number']} of {last['time']}",
    )
    table = new_table("delta", "epsilon spent", "limit", "left", *(name.upper() for name in _ACCOUNTANTS))
    for spent in record["spending"]:
        figures = (spent["epsilon"], spent["epsilon_limit"], spent["epsilon_left"])
        by_accountant = (spent[f"epsilon_{name}"] for name in _ACCOUNTANTS)
        table.add_row(f"{spent['delta']:g}", *map(_number, figures), *map(_number, by_accountant))
    print_table(console, table)
    if record["runs"]:
        runs = new_table("run", "releases", "epsilon of the run alone")
        for run in record["runs"]:
            runs.add_row(Text(run["run"]), f"{run['releases']:,}", _number(run["epsilon"]))
        print_table(console, runs)
    _say(console, f"{record['over_silos']}.")
    _say(console, record["guarantee"])
    console.print("[yellow]nothing was verified here: recsys-fed privacy verify[/]")


def print_entries(records: Sequence[Mapping[str, Any]]) -> None:
    """Entries as a table."""
    with_epsilon = any("epsilon_until_then" in record for record in records)
    until = ["epsilon until then"] if with_epsilon else []
    table = new_table("number", "time (UTC)", "run", "round", "what", "noise multiplier", *until, right=until)
    for record in records:
        if record["kind"] == "release":
            cells = [record["run"], str(record["round"]), record["released"], _noise(record)]
        else:
            said = record["reason"] if "reason" in record else f"terms of {record['silo']}"
            cells = ["", "", f"epsilon limit {_number(record['epsilon_limit'])}: {said}", ""]
        if with_epsilon:
            cells.append(_number(record["epsilon_until_then"]))
        table.add_row(str(record["number"]), record["time"][:19].replace("T", " "), *map(Text, cells))
    print_table(new_console(), table)


def print_audit(record: Mapping[str, Any]) -> None:
    """What was checked, or the first thing that does not hold."""
    console = new_console()
    if not record["holds"]:
        console.print("[bold red]it does not hold[/]")
        _say(console, record["problem"])
        return
    terms, spent = record["terms"], record["spending"]
    console.print("[bold green]it holds[/]")
    _say(
        console,
        f"{record['entries']:,} entries ({record['releases']:,} releases) from {record['first']} to {record['last']}:"
        " the spelling of each, the chain, every signature, the times, every limit",
    )
    _say(console, f"silo {terms['silo']}, public key {terms['public_key']}")
    _say(console, f"last entry {record['head']['number']}, {record['head']['hash']}")
    named = ", ".join(f"{name.upper()} {_number(spent[f'epsilon_{name}'])}" for name in _ACCOUNTANTS)
    _say(
        console,
        f"epsilon {_number(spent['epsilon'])} of {_number(spent['epsilon_limit'])} at delta {spent['delta']:g}, "
        f"recomputed from the events ({named})",
    )
    for name in record["certificates_checked"]:
        _say(console, f"certificate {name} agrees")
    if not record["certificates_checked"]:
        console.print(
            "[yellow]without certificates nobody can tell whether later entries were cut off: --certificates[/]",
        )
    if terms["simulated"]:
        console.print(f"[bold red]{SIMULATED}[/]")


def run_record(run: VerifiedRun) -> dict[str, Any]:
    """A checked run as JSON values."""
    silos = [
        {
            "silo": name,
            "public_key": certificate.terms.public_key,
            "releases": len(certificate.releases),
            "epsilon_of_run": epsilon_to_record(epsilon_that_counts(certificate.epsilon_of_run)),
            "epsilon_in_all": epsilon_to_record(epsilon_that_counts(certificate.epsilon_in_all)),
            "epsilon_limit": epsilon_to_record(certificate.terms.guarantee.epsilon),
        }
        for name, certificate in sorted(run.certificates.items(), key=lambda pair: (len(pair[0]), pair[0]))
    ]
    return {
        "holds": run.holds,
        "problems": list(run.problems),
        "epsilon_of_run": epsilon_to_record(run.epsilon_of_run),
        "epsilon_in_all": epsilon_to_record(run.epsilon_in_all),
        "delta": run.terms.delta if run.terms else None,
        "max_silos_per_user": run.terms.max_silos_per_user if run.terms else None,
        "guarantee_of_run": run.sentence_of_run(),
        "guarantee_in_all": run.sentence_in_all(),
        "simulated": run.simulated,
        "only_the_sum": run.only_the_sum,
        "masked": None if run.masked is None else dict(zip(("threshold", "colluding"), run.masked, strict=True)),
        "silos": silos,
    }


def print_run(record: Mapping[str, Any]) -> None:
    """A table of silos, everything that does not hold, and the federation's guarantee."""
    console = new_console()
    table = new_table("silo", "key", "releases", "epsilon of this run", "in all", "limit")
    for silo in record["silos"]:
        figures = (silo["epsilon_of_run"], silo["epsilon_in_all"], silo["epsilon_limit"])
        table.add_row(Text(silo["silo"]), silo["public_key"][:16], str(silo["releases"]), *map(_number, figures))
    print_table(console, table)
    for problem in record["problems"]:
        _say(console, problem)
    if not record["holds"]:
        console.print("[bold red]it does not hold[/]; no guarantee follows from these certificates")
        return
    console.print("[bold green]it holds[/]")
    k = record["max_silos_per_user"]
    rule = "the worst silo counts" if k == 1 else f"the {k} most expensive silos count together"
    _say(console, f"this run ({rule}): {record['guarantee_of_run']}")
    _say(console, f"all that the silos ever released, as they state it: {record['guarantee_in_all']}")
    if record["masked"]:
        _say(console, MASKED.format(**record["masked"]))
    if record["only_the_sum"]:
        console.print(f"[bold red]{ONLY_THE_SUM}[/]")
    if record["simulated"]:
        console.print(f"[bold red]{SIMULATED}[/]")


def _noise(record: Mapping[str, Any]) -> str:
    steps = "" if record["steps"] == 1 else f" x {record['steps']}"
    sampled = "" if record["sampling_probability"] == 1 else f", q {record['sampling_probability']:g}"
    return f"{record['noise_multiplier']:.4f}{steps}{sampled}"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
