"""The tables of docs/results.md and README.md: Markdown between two markers, rendered from the record."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys_fed.errors import DataFormatError
from simulations.results.measure import SHOWN
from simulations.results.points import DATA

START = "<!-- measured: begin, written by `make docs` -->"
END = "<!-- measured: end -->"
# The data set of the short table.
HEADLINE = "ml-1m#random90"
_PACKAGES = ("recsys-fed", "python", "torch", "flwr", "opacus", "dp-accounting", "numpy")
# What a record says, and what a run's settings say now.
NOISE_WORDS = {"own": "per-silo", "masked": "distributed"}


def replace_between_markers(path: Path, lines: Sequence[str], *, start_marker: str = START) -> None:
    """Put `lines` between the markers of a file, everything else stays.

    Raises:
        DataFormatError: the file does not have both markers once, in order.
    """
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(start_marker)
    inside, end, after = rest.partition(END)
    if not start or not end or start_marker in inside + after:
        raise DataFormatError(f"Expected the markers {start_marker} and {END} once in {path}. Put them back.")
    body = "\n".join(["", "", *lines, "", ""])
    path.write_text(before + start_marker + body + END + after, encoding="utf-8")


def full_tables(record: Mapping[str, Any]) -> list[str]:
    """How it was measured, and one table a data set."""
    lines = [*_provenance(record)]
    for spec, facts in record["data"].items():
        sizes = f"{facts['n_users']:,} users, {facts['n_items']:,} items, {facts['n_interactions']:,} interactions"
        lines += ["", f"### {DATA[spec]}", "", f"{sizes}; declared users {facts['declared_users']:,}.", ""]
        lines += ["| model | noise | epsilon | Recall@20 | NDCG@20 | rounds | dimensions | runs |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
        lines += [f"| popularity (not private) | - | - | {_reference(facts['popularity'])} | - | - | 1 |"]
        lines += [_row(point) for point in record["points"] if point["data"] == spec]
        lines += [f"| EASE, all users in one place (not private) | - | - | {_reference(facts['ease'])} | - | - | 1 |"]
    return lines


def short_table(record: Mapping[str, Any]) -> list[str]:
    """Recall@20 of the spectral trainer against epsilon, between its references."""
    facts = record["data"][HEADLINE]
    title = f"{DATA[HEADLINE]}, {record['silos']} silos, delta {record['delta']:g}"
    lines = [f"{title}; Recall@20, mean and standard deviation over seeds:", ""]
    lines += ["| epsilon of every user | each silo adds all of the noise | noise once on the sum |", "|---|--:|--:|"]
    lines += [_in_both_columns("popularity, not private", facts["popularity"])]
    lines += [*_short_rows(record)]
    lines += [_in_both_columns("EASE, all users in one place, not private", facts["ease"])]
    return lines


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several values.

    >>> spread([0.2, 0.3]), spread([0.25])
    ('0.250 ± 0.071', '0.250')
    """
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def _provenance(record: Mapping[str, Any]) -> Iterator[str]:
    packages = ", ".join(f"{name} {record['versions'][name]}" for name in _PACKAGES)
    yield f"Measured on {record['measured']} by `make docs` (`python -m simulations.results`) with {packages}."
    yield f"{record['silos']} silos of equal size, delta {record['delta']:g}; the raw figures are in results.json."


def _row(point: Mapping[str, Any]) -> str:
    name = f"{point['trainer']} ({point['schedule']})" if point["schedule"] else point["trainer"]
    noise = NOISE_WORDS[point["noise"]] if point["epsilon"] != "inf" else "none"
    metrics = " | ".join(spread(point["metrics"][metric]) for metric in SHOWN)
    epsilon = point["epsilon"] if point["epsilon"] == "inf" else f"{point['epsilon']:g}"
    return (
        f"| {name} | {noise} | {epsilon} | {metrics} | {point['rounds']} | {point['embedding_dim']} "
        f"| {len(point['seeds'])} |"
    )


def _reference(metrics: Mapping[str, float]) -> str:
    return " | ".join(f"{metrics[name]:.3f}" for name in SHOWN)


def _in_both_columns(name: str, metrics: Mapping[str, float]) -> str:
    return f"| {name} | {metrics[SHOWN[0]]:.3f} | {metrics[SHOWN[0]]:.3f} |"


def _short_rows(record: Mapping[str, Any]) -> Iterator[str]:
    points = [p for p in record["points"] if p["data"] == HEADLINE and p["trainer"] == "spectral"]
    by_key = {(p["noise"], p["epsilon"]): spread(p["metrics"][SHOWN[0]]) for p in points}
    for epsilon in sorted({p["epsilon"] for p in points if p["epsilon"] != "inf"}):
        yield f"| {epsilon:g} | {by_key['own', epsilon]} | {by_key['masked', epsilon]} |"
    yield f"| no noise, not private | {by_key['own', 'inf']} | {by_key['own', 'inf']} |"
