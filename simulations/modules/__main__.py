"""The table of docs/torch-modules.md: modules on the UltraGCN split, 10 silos, noise once on the sum, one colluder.

    python -m simulations.modules --data PATH [--modules mf,attention] [--epsilons 8,inf] [--rounds 11] [--silos 3]

A line for each module and budget, see `measure`. What is done is kept below runs/modules, so that it goes on after a
stop; what other code measured does not count. No setting is chosen here.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recsys_fed.files import write_whole
from recsys_fed.models.torch_modules import MODULES
from simulations.modules.measure import ALONE, FEDERATED, IN_SILOS, Federated, alone, federate, in_silos
from simulations.quality.running import ROOT, kept_folder

_COLUMNS = ("module", "epsilon", FEDERATED, *IN_SILOS, *ALONE, "taken", "CPU seconds")
Json = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print the table."""
    given = _options(arguments)
    folder = kept_folder(given.kept) / f"{given.rounds}-rounds-{given.silos}-silos-{given.held_out}"
    folder.mkdir(exist_ok=True)
    lines = [
        Federated(data=given.data, module=name, epsilon=epsilon, rounds=given.rounds, held_out=given.held_out)
        for epsilon in given.epsilons
        for name in given.modules
    ]
    _say(_COLUMNS)
    _say(["--"] * len(_COLUMNS))
    with _progress() as progress:
        task = progress.add_task("", total=3 * len(lines))
        for line in lines:
            model = folder / f"{line.name}.safetensors"
            found: Json = {"seconds": 0.0}
            for name, work in (
                (f"federation-{line.name}", partial(federate, line, model=model)),
                (f"silos-{line.name}", partial(in_silos, line, model=model, n_silos=given.silos)),
                (f"alone-{line.module}", partial(alone, line, model=model, n_silos=given.silos)),
            ):
                progress.update(task, description=name)
                piece = _kept(folder / f"{name}.json", work)
                found |= piece | {"seconds": found["seconds"] + piece["seconds"]}
                progress.advance(task)
            _say(_cells(line, found))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulations.modules", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the UltraGCN split of MovieLens-1M")
    parser.add_argument("--held-out", default="test", choices=("test", "validation"))
    parser.add_argument("--modules", type=lambda text: text.split(","), default=list(MODULES))
    parser.add_argument(
        "--epsilons", type=lambda text: [float(one) for one in text.split(",")], default=[8.0, float("inf")]
    )
    parser.add_argument("--rounds", type=int, default=11, help="of modules that are no dot products")
    parser.add_argument("--silos", type=int, default=3, help="the first ones, in which own models are fitted")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "modules")
    return parser.parse_args(arguments)


def _kept(path: Path, work: Callable[[], Json]) -> Json:
    """What a piece of work gave before, or gives now."""
    if not path.is_file():
        write_whole(path, json.dumps(work()))
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def _cells(line: Federated, found: Json) -> list[str]:
    pairs = [_pair(found[what]) for what in (FEDERATED, *IN_SILOS, *ALONE)]
    return [line.module, f"{line.epsilon:g}", *pairs, ", ".join(found["taken"]), f"{found['seconds']:.0f}"]


def _pair(metrics: list[float]) -> str:
    return " / ".join(f"{value:.3f}".removeprefix("0") for value in metrics)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def _say(cells: Sequence[str]) -> None:
    sys.stdout.write("| " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    main()
