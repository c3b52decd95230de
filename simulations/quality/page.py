"""The tables of docs/quality.md, rendered from the record; Markdown."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from simulations.quality.points import BASELINES, DEFAULT_KINDS, EPSILONS, ML_100K_DELTA, Point
from simulations.results.page import NOISE_WORDS, spread

START = "<!-- measured: begin, written by `make quality` -->"
TITLES = {
    "random90": "MovieLens-1M, random90 split, public item features",
    "ultragcn": "MovieLens-1M, UltraGCN split, no item features",
    "ncf": "MovieLens-1M, NCF split, one item among 99 sampled ones",
    "ml-100k": "MovieLens-100K, chronological leave-two-out",
}
# As published, on exactly these splits or (marked ~) on such a split; sources in docs/quality.md.
PUBLISHED = {
    ("ultragcn", "popularity"): "R@20 .1161, N@20 .1176", ("ultragcn", "ease"): "R@20 .2759, N@20 .2660",
    ("ultragcn", "implicit-als"): "R@20 .2716, N@20 .2569", ("ultragcn", "pure-svd"): "R@20 .2535, N@20 .2460",
    ("random90", "popularity"): "R@20 .1196, N@20 .1332", ("random90", "ease"): "R@20 .3128, N@20 .3326",
    ("ncf", "popularity"): "HR@10 .453, N@10 .254", ("ncf", "ease"): "HR@10 .719, N@10 .449",
    ("ncf", "implicit-als"): "HR@10 .722, N@10 .445",
}  # fmt: skip
_PACKAGES = ("recsys-fed", "python", "torch", "flwr", "opacus", "dp-accounting", "numpy")
_SHORT = {"recall@20": "R@20", "ndcg@20": "N@20", "ndcg@10": "N@10", "hr@10": "HR@10",
          "sampled_hr@10": "HR@10", "sampled_ndcg@10": "N@10"}  # fmt: skip
Record = Mapping[str, Any]


def tables(record: Record) -> list[str]:
    """All of the page that is measured."""
    packages = ", ".join(f"{name} {record['versions'][name]}" for name in _PACKAGES)
    left = record["runs_left"]
    return [
        f"Measured on {record['measured']} by `make quality` with {packages}; raw figures in quality.json.",
        *([f"**In part: {left:,} runs are left out**; some figures have fewer seeds, or none."] if left else []),
        *_silos(record), *_kinds(record), *_small(record), *_ceilings(record),
    ]  # fmt: skip


def means_of(record: Record, metric: str = "recall@20", **wanted: Any) -> dict[Any, list[float]]:
    """Values over seeds by epsilon, of the points that have the wanted fields."""
    return {
        line["epsilon"]: line["metrics"][metric]
        for line in record["points"]
        if all(line[name] == value for name, value in wanted.items())
    }


def _silos(record: Record) -> Iterator[str]:
    for protocol in ("random90", "ultragcn"):
        for metric, title in (("recall@20", "Recall@20"), ("ndcg@20", "NDCG@20")):
            yield from ("", f"### {title}: {TITLES[protocol]}", "")
            yield (
                "| silos | noise | "
                + " | ".join(f"epsilon {epsilon:g}" for epsilon in EPSILONS)
                + " | runs | command |"
            )
            yield "|--:|---|" + "--:|" * len(EPSILONS) + "--:|---|"
            for silos, noise in ((1, "own"), (10, "masked"), (10, "own"), (100, "masked"), (100, "own")):
                point = Point(table="silos", protocol=protocol, silos=silos, noise=noise)
                found = means_of(record, metric, table="silos", protocol=protocol, silos=silos, noise=noise)
                runs = max(map(len, found.values()), default=0)
                yield f"| {silos} | {NOISE_WORDS[noise]} | {_cells(found)} | {runs} | `{point.command()}` |"
            (without,) = means_of(record, metric, table="silos", protocol=protocol, noise="none").values()
            best = record["baselines"][protocol]
            yield ""
            yield (
                f"Without privacy: {spread(without)} the same trainer (`--epsilon inf`), "
                f"{best['ease'][metric]:.3f} EASE and {best['implicit-als'][metric]:.3f} implicit ALS on all users "
                f"in one place, {best['popularity'][metric]:.3f} popularity."
            )


def _kinds(record: Record) -> Iterator[str]:
    yield from ("", "### Kinds of public item features: random90, 10 silos, noise distributed", "")
    yield (
        "| features | "
        + " | ".join(f"epsilon {epsilon:g}" for epsilon in EPSILONS)
        + " | validation, mean of epsilon 1 and 8 |"
    )
    yield "|---|" + "--:|" * (len(EPSILONS) + 1)
    kinds = dict.fromkeys(line["kinds"] for line in record["points"] if line["table"] == "features")
    for name in kinds:
        table = "silos" if name == DEFAULT_KINDS else "features"
        found = means_of(record, table=table, protocol="random90", silos=10, noise="masked", kinds=name)
        chosen = means_of(record, table="features", held_out="validation", kinds=name)
        validation = f"{statistics.fmean(map(statistics.fmean, chosen.values())):.4f}" if len(chosen) == 2 else "-"
        shown = (name or "none").replace(",", ", ") + (" (default)" if name == DEFAULT_KINDS else "")
        yield f"| {shown} | {_cells(found)} | {validation} |"


def _small(record: Record) -> Iterator[str]:
    yield from ("", f"### NDCG@10: {TITLES['ml-100k']}, 10 silos, noise distributed, delta {ML_100K_DELTA:g}", "")
    yield "| model | " + " | ".join(f"epsilon {epsilon:g}" for epsilon in EPSILONS) + " |"
    yield "|---|" + "--:|" * len(EPSILONS)
    by_trainer = {name: means_of(record, "ndcg@10", table="ml-100k", trainer=name) for name in ("auto", "popularity")}
    for name, label in (("auto", "private global model"), ("popularity", "noisy popularity")):
        yield f"| {label} (`--trainer {name}`) | {_cells(by_trainer[name], digits=4)} |"
    ratios = [
        statistics.fmean(by_trainer["auto"][e]) / statistics.fmean(by_trainer["popularity"][e]) for e in EPSILONS
    ]
    yield "| ratio of the means | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |"
    yield "| DP-FedAvg as published, on such a split | | | | .0523 |"
    yield "| noisy popularity as published beside it | | | | .0495 |"
    best = record["baselines"]["ml-100k"]
    yield ""
    names = ", ".join(f"{best[name]['ndcg@10']:.4f} {name}" for name in best)
    yield f"Without privacy, all users in one place: {names}."


def _ceilings(record: Record) -> Iterator[str]:
    yield from ("", "### Baselines without privacy beside published figures", "")
    yield "| protocol | baseline | measured | published |"
    yield "|---|---|---|---|"
    for protocol in ("ultragcn", "random90", "ncf"):
        shown = ("sampled_hr@10", "sampled_ndcg@10") if protocol == "ncf" else ("recall@20", "ndcg@20")
        for name, metrics in record["baselines"][protocol].items():
            measured = ", ".join(f"{_SHORT[metric]} {metrics[metric]:.4f}".replace(" 0.", " .") for metric in shown)
            set_to = "".join(f", {key} {value:g}" for key, value in BASELINES[protocol][name].items())
            yield f"| {protocol} | {name}{set_to} | {measured} | {PUBLISHED.get((protocol, name), '')} |"


def _cells(by_epsilon: Mapping[Any, Sequence[float]], *, digits: int = 3) -> str:
    return " | ".join(_spread(by_epsilon[epsilon], digits) if epsilon in by_epsilon else "-" for epsilon in EPSILONS)


def _spread(values: Sequence[float], digits: int) -> str:
    if digits == 3 or len(values) < 2:
        return spread(values)
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
