"""Events refuse what no accountant could read, and ledger lines survive JSON unchanged."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.privacy.events import PlannedRelease, PrivacyEvent, ReleaseEvent, events_of

TEXTS = st.text(min_size=1, max_size=20)
RELEASES = st.builds(
    ReleaseEvent,
    noise_multiplier=st.floats(0, 1e6),
    sampling_probability=st.floats(1e-9, 1.0),
    steps=st.integers(1, 10**9),
    slack=st.floats(0, 1e-6),
    released=TEXTS,
    l2_clip_norm=st.floats(1e-9, 1e9),
    round=st.integers(0, 10**6),
    stage=TEXTS,
    noise_source=st.sampled_from(["seeded-simulation", "operating-system"]),
    trainer=TEXTS,
)
RECORD = ReleaseEvent(
    noise_multiplier=1.5,
    sampling_probability=0.5,
    steps=3,
    released="item embeddings",
    l2_clip_norm=2.0,
    round=4,
    stage="train",
    noise_source="operating-system",
    trainer="spectral",
).to_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": math.nan},
        {"sampling_probability": 0.0},
        {"sampling_probability": 1.01},
        {"sampling_probability": math.nan},
        {"slack": -1e-9},
        {"steps": 0},
        {"steps": 2.0},
    ],
)
def test_event_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        PrivacyEvent(**{"noise_multiplier": 1.0, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"relative_noise": 0.0}, {"sampling_probability": 2.0}, {"steps": -1}, {"slack": -1.0}]
)
def test_planned_release_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        PlannedRelease(released="item counts", **wrong)


def test_events_of_multiplies_relative_noise_and_keeps_order():
    plan = [
        PlannedRelease(released="item counts", relative_noise=4.0),
        PlannedRelease(released="item embeddings", sampling_probability=0.1, steps=7, slack=1e-9),
    ]
    assert events_of(plan, 2.0) == (
        PrivacyEvent(noise_multiplier=8.0, sampling_probability=1.0, steps=1),
        PrivacyEvent(noise_multiplier=2.0, sampling_probability=0.1, steps=7, slack=1e-9),
    )


@settings(max_examples=60, deadline=None)
@given(event=RELEASES)
def test_release_survives_json(event):
    line = json.dumps(event.to_dict(), allow_nan=False)
    assert "\n" not in line
    assert ReleaseEvent.from_dict(json.loads(line)) == event


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(RECORD)), data=st.data())
def test_mutated_record_is_refused_or_reads_as_written(name, data):
    value = data.draw(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.integers(), max_size=2)
    )
    record = {**RECORD, name: value}
    try:
        event = ReleaseEvent.from_dict(record)
    except DataFormatError as error:
        assert name in str(error)
    else:
        assert event.to_dict() == record
        assert type(getattr(event, name)) is type(RECORD[name])


@pytest.mark.parametrize("name", sorted(RECORD))
def test_missing_key_is_refused(name):
    with pytest.raises(DataFormatError, match=rf"missing \['{name}'\]"):
        ReleaseEvent.from_dict({key: value for key, value in RECORD.items() if key != name})


def test_unknown_key_is_refused():
    with pytest.raises(DataFormatError, match=r"unknown \['epsilon'\]"):
        ReleaseEvent.from_dict({**RECORD, "epsilon": 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", "1.5"),
        ("noise_multiplier", True),
        ("noise_multiplier", math.nan),
        ("l2_clip_norm", 0.0),
        ("steps", 3.0),
        ("round", -1),
        ("unit", "record"),
        ("mechanism", "gaussian"),
        ("noise_source", "torch"),
        ("neighbouring_relation", "replace-one-user"),
        ("trainer", ""),
    ],
)
def test_value_of_another_type_or_meaning_is_refused(name, value):
    with pytest.raises(DataFormatError, match=name):
        ReleaseEvent.from_dict({**RECORD, name: value})


def test_whole_number_is_read_as_float():
    event = ReleaseEvent.from_dict({**RECORD, "l2_clip_norm": 2})
    assert event.to_dict() == RECORD
    assert type(event.l2_clip_norm) is float


@pytest.mark.parametrize("record", [None, [], "{}", 1.0])
def test_anything_but_a_mapping_is_refused(record):
    with pytest.raises(DataFormatError, match="mapping"):
        ReleaseEvent.from_dict(record)


def test_integer_too_large_for_a_float_is_refused():
    with pytest.raises(DataFormatError, match="noise_multiplier"):
        ReleaseEvent.from_dict({**RECORD, "noise_multiplier": 10**400})
