"""The trainer of the example in a package of its own, as pip would leave it: a module and its entry point."""

import os
import shutil
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def install_own_trainer(folder: Path) -> None:
    """Lay the package into a folder, which the path of a process then has to hold."""
    shutil.copyfile(EXAMPLES / "own_trainer.py", folder / "own_trainer.py")
    info = folder / "own_trainer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-trainer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recsys_fed.trainers]\nbestsellers = own_trainer:Bestsellers\n")


def path_with(*folders: Path) -> str:
    """PYTHONPATH of this process with folders before it."""
    return os.pathsep.join(filter(None, [*map(str, folders), os.environ.get("PYTHONPATH", "")]))
