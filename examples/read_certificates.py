"""Reading a run's certificates: what every silo signed, and whether it holds together."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from recsys_fed import Dataset, Federation, Run

with TemporaryDirectory() as folder:
    if len(sys.argv) > 1:
        run = Run.load(Path(sys.argv[1]))
    else:
        federation = Federation(Dataset.open("generated:users=200,items=60"), silos=3)
        run = Run.load(federation.train("spectral", epsilon=4.0).save(Path(folder) / "run"))
    verified = run.verify()
    print("everything holds" if verified.holds else "\n".join(verified.problems))
    for silo, spent in run.epsilon_spent.items():
        print(f"{silo}: epsilon {spent:.3f} of {run.guarantee.epsilon:g}")
