"""One valid message of each kind, small enough to read."""

import numpy as np
import torch

from recsys_fed.federation.messages import Greeting, Request, Update
from recsys_fed.federation.release import release_event

REQUEST = Request(
    round=1,
    trainer="spectral",
    stage="item counts",
    released="item counts",
    tables={"head": torch.tensor([0, 2, 3]), "subspace": torch.ones(3, 2)},
    settings={"unobserved_weight": 0.3},
    shape=(4, 1),
    noise_multiplier=1.5,
    l2_clip_norm=1.0,
    sampling_probability=1.0,
    steps=1,
    noise_share=1.0,
    noise_inside=False,
    grid_step=2.0**-10,
    catalogue_hash="c0ffee",
)
GREETING = Greeting(silo="silo-0", catalogue_hash="c0ffee", n_items=4, public_key="ab" * 32)


def honest_update(request: Request = REQUEST, total=None, *, silo: str = "silo-0") -> Update:
    """An update that answers a request, with the integers given."""
    table = np.zeros(request.shape, dtype=np.int32) if total is None else np.asarray(total, dtype=np.int32)
    event = release_event(request, noise_source="seeded-simulation")
    return Update(silo=silo, total=table, event=event, catalogue_hash=request.catalogue_hash, nonce="a draw")
