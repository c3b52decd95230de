"""Hypothesis: any greeting, request and update that the types allow."""

import math

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys_fed.federation.messages import MOST_STEPS, Greeting, MaskedUpdate, Request, Update
from recsys_fed.privacy.events import NOISE_SOURCES, ReleaseEvent

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
positive = st.floats(1e-30, 1e30)
probabilities = st.floats(1e-9, 1.0)
counts = st.integers(0, 2**31)

greetings = st.builds(Greeting, silo=names, catalogue_hash=names, n_items=counts, public_key=names)

_shapes = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=4)
_floats = hnp.arrays(np.float32, _shapes, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
_integers = hnp.arrays(np.int64, _shapes)
tables = st.dictionaries(names, (_floats | _integers).map(lambda a: torch.from_numpy(a.copy())), max_size=3)


@st.composite
def requests(draw) -> Request:
    inside = draw(st.booleans())
    return Request(
        round=draw(counts),
        trainer=draw(names),
        stage=draw(names),
        released=draw(names),
        tables=draw(tables),
        settings=draw(st.dictionaries(names, st.floats(allow_nan=False), max_size=3)),
        shape=(draw(counts), draw(counts)),
        noise_multiplier=draw(st.just(0.0) | positive),
        l2_clip_norm=draw(positive),
        sampling_probability=draw(probabilities),
        steps=draw(st.integers(1, MOST_STEPS)),
        noise_share=1.0 if inside else draw(probabilities),
        noise_inside=inside,
        grid_step=draw(positive),
        catalogue_hash=draw(names),
        threshold=0 if inside else draw(counts),
        colluding=draw(counts),
        attempt=draw(counts),
        epsilon=draw(positive | st.just(math.inf)),
        plan=draw(names),
    )


_events = st.builds(
    ReleaseEvent,
    noise_multiplier=st.just(0.0) | positive,
    sampling_probability=probabilities,
    steps=st.integers(1, 2**31),
    released=names,
    l2_clip_norm=positive,
    round=counts,
    stage=names,
    noise_source=st.sampled_from(NOISE_SOURCES),
    trainer=names,
    noise_share=probabilities,
)
_totals = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5))
masked_updates = st.builds(
    MaskedUpdate, silo=names, content=st.binary(max_size=60), event=_events, catalogue_hash=names, nonce=names
)
updates = st.builds(Update, silo=names, total=_totals, event=_events, catalogue_hash=names, nonce=names)
