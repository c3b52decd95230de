"""A folder that takes long to make, made by the first worker that needs it and read by the others."""

import os

from recsys_fed.files import file_lock


def made_once(tmp_path_factory, name, make):
    """The folder of this name, in which `make` was called with it once for all workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.made"
    with file_lock(base / f"{name}.lock", wait=True):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
