"""Mutation scores of the privacy core: mutants by mutmut, tried against that core's own tests.

    python tests/mutation_score.py [--share 0.25] [--seed 0] [PACKAGE...]      # `make mutants`

A sample of each file's mutants, drawn with the seed; all of them at a share of 1. Verdicts are kept in mutants/, so
that what was interrupted goes on where it stopped; a function that has changed is tried again. Printed are the
scores and those survivors that docs/mutants.md does not list. The exit code is 1 if there are any, or if a package
scores below the floor.
"""

import argparse
import math
import random
import re
import subprocess
import sys
from pathlib import Path

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mutants.md"
PACKAGES = ("privacy", "ledger")
FLOOR = 0.85
# A mutant that no test reaches survives, too.
_KILLED = {"killed", "timeout", "segfault"}


def draw_sample(path: Path, *, share: float, seed: int) -> list[str]:
    """Names of some of the mutants of a file, at least one if it has any."""
    names = [get_mutant_name(path, name) for name in mutate_file_contents(str(path), path.read_text()).mutant_names]
    return random.Random(f"{seed} {path}").sample(names, math.ceil(share * len(names)))


def verdicts(path: Path) -> dict[str, str]:
    """What became of the mutants of a file that were tried."""
    data = SourceFileMutationData(path=path)
    data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items() if code is not None}


def survivor_line(name: str, path: Path) -> str:
    """A mutant as docs/mutants.md lists it: its function, and what it changes."""
    changed = get_diff_for_mutant(name, path=path).splitlines()[2:]
    before, after = (" ".join(line[1:].strip() for line in changed if line[0] == sign) for sign in "-+")
    function = re.sub(r"x_|xǁ", "", name.partition("__mutmut_")[0]).replace("ǁ", ".")
    return f"{function.removeprefix('recsys_fed.')}: {before} --> {after}"


def try_mutants(samples: dict[Path, list[str]], *, jobs: int) -> None:
    """Try the mutants without a verdict; a file that has changed loses the verdicts of its changed functions."""
    names = [name for path, sample in samples.items() for name in set(sample) - set(verdicts(path))]
    if names:
        mutmut = Path(sys.executable).with_name("mutmut")
        subprocess.run([mutmut, "run", "--max-children", str(jobs), *names], cwd=ROOT, check=True)


def report(package: str, samples: dict[Path, list[str]], listed: set[str]) -> bool:
    """Print scores and new survivors of a package; whether it is above the floor and without any."""
    rows, news, lived = [], [], 0
    for path, sample in samples.items():
        found = verdicts(path)
        alive = [name for name in sample if found.get(name) not in _KILLED]
        news += [line for name in alive if (line := survivor_line(name, path)) not in listed]
        rows.append(f"| {path.relative_to('recsys_fed')} | {len(sample)} | {1 - len(alive) / len(sample):.0%} |")
        lived += len(alive)
    tried = sum(map(len, samples.values()))
    score = 1 - lived / tried
    rows.append(f"| {package} | {tried} | {score:.1%} ± {math.sqrt(score * (1 - score) / tried):.1%} |")
    sys.stdout.write("\n".join([*rows, *sorted(news), ""]))
    return score >= FLOOR and not news


def main() -> int:
    """Try a sample, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", default=PACKAGES, help="below recsys_fed")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    listed = set(PAGE.read_text().splitlines())
    good = True
    for package in given.packages:
        paths = sorted(Path("recsys_fed", package).rglob("*.py"))
        samples = {path: draw_sample(path, share=given.share, seed=given.seed) for path in paths}
        samples = {path: sample for path, sample in samples.items() if sample}
        try_mutants(samples, jobs=given.jobs)
        good = report(package, samples, listed) and good
    return not good


if __name__ == "__main__":
    sys.exit(main())
