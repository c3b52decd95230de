"""Whatever a peer sends, decoding gives a message or a ProtocolError, never another exception."""

import io
import math
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from sample_messages import GREETING, REQUEST, honest_update

from recsys_fed.errors import ProtocolError
from recsys_fed.federation import wire
from recsys_fed.federation.messages import MOST_STEPS, PROTOCOL

DECODE = {
    "request": wire.request_from_records,
    "update": wire.update_from_records,
    "greeting": wire.greeting_from_records,
}
TABLE = {"request": ("tables", "subspace"), "update": ("total", "total")}


ENCODED = {
    "request": lambda: wire.request_to_records(REQUEST),
    "update": lambda: wire.update_to_records(honest_update()),
    "greeting": lambda: wire.greeting_to_records(GREETING),
}


def with_array(records: RecordDict, kind: str, array: Array) -> RecordDict:
    record, name = TABLE[kind]
    arrays = OrderedDict(records.array_records[record].items())
    records[record] = ArrayRecord(OrderedDict(arrays | {name: array}))
    return records


def npy(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros((4, 1), np.int32))
    return buffer.getvalue()


def with_header(shape: str) -> bytes:
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


GOOD = npy(np.zeros((4, 1), np.int32))
BAD_BYTES = {
    "empty": b"",
    "text": b"hello",
    "archive": npz(),
    "looks like an archive": b"PK\x03\x04 and no more",
    "pickled objects": npy(np.array([[{}]], dtype=object), allow_pickle=True),
    "cut in the data": GOOD[:-1],
    "cut in the header": GOOD[:20],
    "larger than memory": with_header("(200000000000000, 1)"),
    "larger than a word": with_header("(20000000000000000000000, 1)"),
    "unbalanced header": with_header("(1, 1"),
    "negative": with_header("(-1, 1)"),
}


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("data", BAD_BYTES.values(), ids=BAD_BYTES)
def test_bytes_that_are_no_array_are_refused(kind, data):
    array = Array("int32", (4, 1), "numpy.ndarray", data)
    with pytest.raises(ProtocolError, match="table"):
        DECODE[kind](with_array(ENCODED[kind](), kind, array))


@pytest.mark.parametrize("kind", TABLE)
def test_other_serialisations_are_refused(kind):
    array = Array("int32", (4, 1), "pickle", GOOD)
    with pytest.raises(ProtocolError, match="pickle"):
        DECODE[kind](with_array(ENCODED[kind](), kind, array))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "bool", "complex64", "U3", "M8[s]"])
def test_a_requests_tables_are_float32_or_int64(dtype):
    array = Array(np.zeros((3, 2), dtype=dtype))
    with pytest.raises(ProtocolError, match="float32 or int64"):
        wire.request_from_records(with_array(ENCODED["request"](), "request", array))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_requests_tables_are_finite(bad):
    values = np.ones((3, 2), np.float32)
    values[1, 1] = bad
    with pytest.raises(ProtocolError, match="finite values in table subspace"):
        wire.request_from_records(with_array(ENCODED["request"](), "request", Array(values)))


@pytest.mark.parametrize(
    "values",
    [np.zeros((4, 1), np.float32), np.zeros((4, 1), np.int64), np.zeros(4, np.int32), np.zeros((), np.int32)],
)
def test_a_total_is_a_table_of_int32(values):
    with pytest.raises(ProtocolError, match="table of int32"):
        wire.update_from_records(with_array(ENCODED["update"](), "update", Array(values)))


@pytest.mark.parametrize("kind", DECODE)
@pytest.mark.parametrize("protocol", [0, PROTOCOL - 1, PROTOCOL + 1, "1", None])
def test_another_protocol_is_refused(kind, protocol):
    records = ENCODED[kind]()
    config = dict(records.config_records[kind])
    config.pop("protocol")
    records[kind] = ConfigRecord(config if protocol is None else config | {"protocol": protocol})
    with pytest.raises(ProtocolError, match=rf"Expected protocol {PROTOCOL}, got .* same version"):
        DECODE[kind](records)


@pytest.mark.parametrize("kind", DECODE)
def test_every_record_and_key_is_needed(kind):
    for name in list(ENCODED[kind]()):
        records = ENCODED[kind]()
        del records[name]
        with pytest.raises(ProtocolError):
            DECODE[kind](records)
    for key in ENCODED[kind]().config_records[kind]:
        if key.startswith("settings."):
            continue
        records = ENCODED[kind]()
        del records.config_records[kind][key]
        with pytest.raises(ProtocolError):
            DECODE[kind](records)


def test_a_message_of_another_kind_is_refused():
    for kind, decode in DECODE.items():
        for other in DECODE.keys() - {kind}:
            with pytest.raises(ProtocolError, match=f"Expected a message with a {kind}"):
                decode(ENCODED[other]())
        with pytest.raises(ProtocolError):
            decode(RecordDict({kind: MetricRecord({"protocol": 1})}))


@pytest.mark.parametrize("kind", DECODE)
@pytest.mark.parametrize("record", [ConfigRecord({"users": 600}), ArrayRecord({}), MetricRecord({"loss": 0.1})])
def test_a_further_record_is_refused(kind, record):
    records = ENCODED[kind]()
    records["more"] = record
    with pytest.raises(ProtocolError, match="more"):
        DECODE[kind](records)


def test_an_update_has_no_further_keys():
    records = ENCODED["update"]()
    records.config_records["update"]["n_users"] = 600
    with pytest.raises(ProtocolError, match="n_users"):
        wire.update_from_records(records)


_scalars = (
    st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.text(max_size=4) | st.binary(max_size=4)
)
_values = _scalars | st.lists(st.integers(-3, 3), max_size=2) | st.lists(st.floats(), max_size=2)


@given(kind=st.sampled_from(list(DECODE)), data=st.data(), value=_values)
def test_any_value_of_any_key_decodes_or_is_refused(kind, data, value):
    records = ENCODED[kind]()
    key = data.draw(st.sampled_from(sorted(records.config_records[kind])))
    records.config_records[kind][key] = value
    with suppress(ProtocolError):
        DECODE[kind](records)


@given(kind=st.sampled_from(list(TABLE)), position=st.integers(0, len(GOOD)), data=st.binary(max_size=24))
def test_any_bytes_in_an_array_decode_or_are_refused(kind, position, data):
    for content in (data, GOOD[:position] + data + GOOD[position + len(data) :]):
        records = with_array(ENCODED[kind](), kind, Array("int32", (4, 1), "numpy.ndarray", content))
        with suppress(ProtocolError):
            DECODE[kind](records)


def test_more_steps_than_a_round_may_have_are_refused():
    """A silo must not loop for ever because the server says so."""
    assert replace(REQUEST, steps=MOST_STEPS).steps == MOST_STEPS
    with pytest.raises(ProtocolError, match="at most"):
        replace(REQUEST, steps=MOST_STEPS + 1)
