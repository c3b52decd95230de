"""The server takes an update only if it answers what was asked, field by field."""

from dataclasses import replace

import numpy as np
import pytest
from sample_messages import REQUEST, honest_update

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.messages import check_update

DIFFERENT_EVENT = {
    "round": 2,
    "stage": "subspace",
    "trainer": "dp-sgd",
    "released": "item embeddings",
    "noise_multiplier": 1.4,
    "l2_clip_norm": 2.0,
    "sampling_probability": 0.5,
    "steps": 2,
    "noise_share": 0.1,
}


def test_the_honest_answer_is_taken():
    check_update(honest_update(), REQUEST)


@pytest.mark.parametrize(("field", "value"), DIFFERENT_EVENT.items(), ids=DIFFERENT_EVENT)
def test_an_event_about_something_else_is_refused(field, value):
    update = honest_update()
    assert getattr(update.event, field) != value
    with pytest.raises(ProtocolError, match=r"Expected the .* in a silo's update, got"):
        check_update(replace(update, event=replace(update.event, **{field: value})), REQUEST)


def test_another_catalogue_is_refused():
    with pytest.raises(ProtocolError, match="catalogue c0ffee"):
        check_update(replace(honest_update(), catalogue_hash="decaf"), REQUEST)


@pytest.mark.parametrize(
    "total", [np.zeros((5, 1), np.int32), np.zeros((4, 2), np.int32), np.zeros((4, 1), np.int64)]
)
def test_another_shape_or_type_is_refused(total):
    with pytest.raises(ProtocolError, match=r"shape|type"):
        check_update(replace(honest_update(), total=total), REQUEST)


def test_the_source_of_the_noise_is_the_silos_own_business():
    update = honest_update()
    check_update(replace(update, event=replace(update.event, noise_source="operating-system")), REQUEST)
