"""`python -m simulations.quality`: measure what is missing, and write docs/quality.json, its tables and its picture.

What was measured with the same code is kept below runs/quality, so that it can be made in pieces (`--minutes`).
"""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from recsys_fed.config import SimulationConfig
from recsys_fed.data.locate import open_dataset
from recsys_fed.data.protocols import PROTOCOLS, apply_protocol
from recsys_fed.errors import DataNotFoundError
from recsys_fed.versions import versions
from simulations.quality.page import START, tables
from simulations.quality.picture import draw
from simulations.quality.points import BASELINES, Point, all_points
from simulations.quality.running import ROOT, Job, kept_folder, results
from simulations.results.page import replace_between_markers

DOCS = ROOT / "docs"
RECORD, PICTURE, PAGE = "quality.json", "images/quality_by_silos.png", "quality.md"
Json = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 2 without the data, and 3 if there is more to measure."""
    console, options = Console(stderr=True), _options(arguments)
    if not options.redraw:
        if not _data_is_there(console):
            return 2
        record = _measure(options, console)
        if record is None:
            return 3
        (DOCS / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    publish(DOCS)
    return 0


def publish(docs: Path) -> None:
    """Write the tables and the picture that follow from the record."""
    record: Json = json.loads((docs / RECORD).read_text(encoding="utf-8"))
    draw(record, docs / PICTURE)
    replace_between_markers(docs / PAGE, tables(record), start_marker=START)


def _measure(options: argparse.Namespace, console: Console) -> Json | None:
    """The whole record, or None where some of it is still missing."""
    folder = kept_folder(options.kept)
    encoded = Job(work="catalogue", arguments={"protocol": "random90", "output": str(folder / "catalogue.parquet")})
    points = all_points()
    jobs = [encoded, *sorted([*_baseline_jobs(), *_point_jobs(points, encoded)], key=_turn)]

    def said(done: int, of: int, line: str) -> None:
        console.print(f"{done}/{of} {line}", markup=False, highlight=False)

    if importlib.util.find_spec("sentence_transformers") is None:
        console.print(
            "Text vectors are left out: pip install 'recsys-fed[text]' brings what encodes them.", markup=False
        )
        wanted = [job for job in jobs if job != encoded and not job.arguments.get("catalogue")]
    else:
        wanted = jobs
        results([encoded], folder, minutes=options.minutes, on_done=said)
    there = results(wanted, folder, minutes=options.minutes, on_done=said)
    left = sum(job.name not in there for job in jobs)
    if left:
        console.print(f"{left} of {len(jobs)} runs are left; start again.")
        if not options.partial:
            return None
        points = [_measured_part(point, there, encoded) for point in points]
        points = [point for point in points if point.seeds]
    return {
        "measured": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "runs_left": left,
        "points": [_line(point, there, encoded) for point in points],
        "baselines": _baselines(there),
    }


def _turn(job: Job) -> tuple[int, bool]:
    """References first, then seed by seed; a hundred silos two seeds after the others."""
    seed = job.arguments.get("seed", -1)
    late = job.work == "point" and job.arguments["fields"]["silos"] == 100
    return seed + 2 * late, job.work != "point"


def _measured_part(point: Point, there: Json, encoded: Job) -> Point:
    """The point on the seeds on which it was measured."""
    return replace(point, seeds=tuple(s for s in point.seeds if _point_job(point, s, encoded).name in there))


def _point_jobs(points: Sequence[Point], encoded: Job) -> list[Job]:
    """All runs; those on the same data and seed follow one another."""
    runs = [(point, seed) for point in points for seed in point.seeds]
    runs.sort(key=lambda run: (run[0].table != "silos", run[0].protocol, run[0].held_out, run[1]))
    return [_point_job(point, seed, encoded) for point, seed in runs]


def _point_job(point: Point, seed: int, encoded: Job) -> Job:
    catalogue = encoded.arguments["output"] if "vectors" in point.kinds else ""
    fields = replace(point, seeds=()).record()
    return Job(work="point", arguments={"fields": fields, "seed": seed, "catalogue": catalogue})


def _line(point: Point, there: Json, encoded: Job) -> Json:
    """A point with what its runs gave."""
    runs = [there[_point_job(point, seed, encoded).name] for seed in point.seeds]
    metrics = {name: [run["metrics"][name] for run in runs] for name in runs[0]["metrics"]}
    same = {name: runs[0][name] for name in ("rounds", "embedding_dim", "n_users", "n_items", "popularity")}
    spent = max(float(run["epsilon_spent"]) for run in runs)
    return point.record() | same | {
        "command": point.command(), "metrics": metrics, "epsilon_spent": spent if math.isfinite(spent) else "inf",
    }  # fmt: skip


def _baseline_jobs() -> list[Job]:
    return [
        Job(work="baseline", arguments={"protocol": protocol, "name": name, "settings": settings})
        for protocol, baselines in BASELINES.items()
        for name, settings in baselines.items()
    ]


def _baselines(there: Json) -> Json:
    found: Json = {protocol: {} for protocol in BASELINES}
    for job in _baseline_jobs():
        found[job.arguments["protocol"]][job.arguments["name"]] = there[job.name]["metrics"]
    return found


def _data_is_there(console: Console) -> bool:
    for name in PROTOCOLS:
        try:
            open_dataset(apply_protocol(SimulationConfig(protocol=name)).data)
        except DataNotFoundError as error:
            console.print("The page needs MovieLens in ../shared/data or $RECSYS_FED_DATA.", style="red")
            console.print(str(error), markup=False, highlight=False)
            return False
    return True


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulations.quality", description=__doc__)
    parser.add_argument("--redraw", action="store_true", help="measure nothing, use the last record")
    parser.add_argument("--minutes", type=float, default=120.0, help="begin no further run after so many")
    parser.add_argument("--partial", action="store_true", help="write the page from what there is")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "quality", help="folder of what is done")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
