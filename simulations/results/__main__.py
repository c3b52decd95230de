"""`python -m simulations.results`: measure, and write the tables and the picture. `--quick` leaves docs/ alone."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recsys_fed.data.locate import open_dataset
from recsys_fed.errors import DataNotFoundError
from simulations.results.measure import Record, measure
from simulations.results.page import full_tables, replace_between_markers, short_table
from simulations.results.picture import draw
from simulations.results.points import DATA, Point, all_points, jobs, quick_points

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RECORD, PICTURE = "results.json", "images/quality_by_epsilon.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is 2 where the data is not there."""
    console = Console(stderr=True)
    options = _options(arguments)
    if not options.redraw:
        for spec in DATA:
            try:
                open_dataset(spec)
            except DataNotFoundError as error:
                console.print("The results need MovieLens-1M in ../shared/data or $RECSYS_FED_DATA.", style="red")
                console.print(str(error), markup=False, highlight=False)
                return 2
    folder = options.output or (ROOT / "runs" / "results-quick" if options.quick else DOCS)
    folder.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        record = measured(quick_points() if options.quick else all_points(), console)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    publish(folder)
    console.print(f"written to {folder}")
    return 0


def measured(points: Sequence[Point], console: Console) -> Record:
    """Measure behind a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task("runs", total=len(jobs(points)))
        return measure(points, on_run=lambda line: bars.update(task, advance=1, description=line))


def publish(folder: Path) -> None:
    """Draw and write everything that follows from the record in `folder`."""
    record: Record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    draw(record, folder / PICTURE)
    if folder == DOCS:
        replace_between_markers(DOCS / "results.md", full_tables(record))
        replace_between_markers(ROOT / "README.md", short_table(record))
    else:
        (folder / "results.md").write_text("\n".join(full_tables(record)) + "\n", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulations.results", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs, written below runs/")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, use the last record")
    parser.add_argument("--output", type=Path, help="folder to write to instead of docs/")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
