"""Small interactions by hand, and the folder of real data where there is one."""

from pathlib import Path

import numpy as np
import pytest

from recsys_fed.data.interactions import Interactions, id_array

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def real():
    """The path of a real data set, or a skip."""

    def path(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs ../shared/data/{name}")
        return SHARED / name

    return path


@pytest.fixture
def make_interactions():
    """Interactions from lists of codes."""

    def make(user, item, *, time=None, value=None, n_users=None, n_items=None) -> Interactions:
        return Interactions(
            user=np.array(user, dtype=np.int32),
            item=np.array(item, dtype=np.int32),
            user_ids=id_array(range(n_users or max(user, default=-1) + 1)),
            item_ids=id_array(range(n_items or max(item, default=-1) + 1)),
            time=None if time is None else np.array(time, dtype=np.int64),
            value=None if value is None else np.array(value, dtype=np.float32),
        )

    return make
